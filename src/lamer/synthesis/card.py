"""The card of an exported data set: what it holds, how it was made and checked, what to be careful about."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lamer import __version__
from lamer.config import Config
from lamer.records import Example, Fact
from lamer.run import Run, StageEntry
from lamer.synthesis.export import TrainingText, trl_row
from lamer.terminal import visible

MARK = "<!-- written by lamer -->"
"""By this line an earlier export is known, which may be written over."""
TIERS = ("below", "easy", "normal", "hard", "unfair", "no tier")
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MAX_SOURCES = 10
MAX_TEXT = 120
"""Characters of a text from outside, such as a source's name."""

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&$#])")
_SECTIONS = ("select.", "synthesize.")
_PRIVATE = ("base_url", "api_key_env", "prices")
"""Settings that say where, not how, the examples were made."""


def dataset_card(
    run: Run,
    config: Config,
    examples: Sequence[Example],
    texts: Sequence[TrainingText],
    parts: Mapping[str, str],
    files: Sequence[str],
) -> str:
    """README.md of a data set, with the front matter that the Hub and `datasets` read.

    Args:
        run: The run that made the examples.
        config: Its settings.
        examples: All of them, rejected ones too.
        texts: The kept ones.
        parts: File of each configuration, by its name.
        files: The files that are there.
    """
    manifest = run.manifest()
    rejected = Counter(example.reason or "no reason" for example in examples if example.status == "rejected")
    sections = (
        _front(texts, {name: file for name, file in parts.items() if file in files}),
        f"{MARK}\n\n# Examples for what {plain(_base(config.model.name))} does not know",
        _what(config, texts),
        f"## Model diagnosed\n\n{_model(config, manifest)}",
        f"## Facts\n\n{_facts(run, texts)}",
        f"## Teacher\n\n{_teacher(config, examples)}",
        f"## Checks\n\n{_checks(config, examples, rejected, manifest.get('synthesize'))}",
        f"## Columns\n\n{_columns(texts)}",
        f"## Settings\n\n{_settings(manifest)}",
        f"## Licence\n\n{_LICENCE}",
        f"## Limits\n\n{_LIMITS}",
    )
    return "\n\n".join(sections) + "\n"


_LICENCE = """\
No licence is given with these examples. Whoever passes them on has to check two things first: the licence of the
facts' sources, from which the examples were written, and the terms of use of the teacher, which may restrict what
its replies are used for (training of competing models, for one)."""

_LIMITS = """\
- The examples were written by a language model. They were checked in form and for repetition, not for truth unless
  a verification is named above: its mistakes may be learnt.
- They were chosen for the model named above; another model lacks other knowledge.
- Facts were taken to be true as their sources state them."""


def plain(text: str, limit: int = MAX_TEXT) -> str:
    """A text from outside as one line of Markdown that means just its characters."""
    line = visible(" ".join(text.split()))
    return _MARKDOWN.sub(r"\\\1", line if len(line) <= limit else line[: limit - 1] + "…")


def _base(name: str) -> str:
    """A model's name; of a local folder only its last part."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def _front(texts: Sequence[TrainingText], parts: Mapping[str, str]) -> str:
    splits = {"default": "train", "rejected": "rejected"}
    front = {
        "pretty_name": "Examples written by a teacher for a model's knowledge deficiencies",
        "license": "unknown",
        "task_categories": ["text-generation", "multiple-choice"],
        "tags": ["lamer", "synthetic"],
        "size_categories": [next((name for size, name in SIZES if len(texts) < size), "n>1M")],
        "configs": [
            {"config_name": name, "data_files": [{"split": splits[name], "path": file}]}
            for name, file in parts.items()
        ],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False).strip()}\n---"


def _what(config: Config, texts: Sequence[TrainingText]) -> str:
    tiers = Counter(text.origin.tier if text.origin else "no tier" for text in texts)
    rows = "\n".join(f"| {tier} | {tiers[tier]} |" for tier in TIERS if tiers[tier])
    below = f"\n\n`below` are pairs under the threshold ({_threshold(config)}), written against forgetting."
    return f"""\
{len(texts)} multiple-choice questions with explanations, written by a teacher model in proportion to how severely
a model lacks a fact. Made by lamer {__version__}, which finds what a model does not know from unlabelled queries:
by the relative entropy (nats) of its answers before and after a fact. The higher the severity, the further the
fact moved the model.

| tier | examples |
| --- | --- |
{rows}{below if tiers["below"] else ""}"""


def _threshold(config: Config) -> str:
    rule = config.diagnose.threshold
    return f"{rule:g} nats" if isinstance(rule, float) else rule


def _model(config: Config, manifest: Mapping[str, StageEntry]) -> str:
    served = config.model.server.model if config.model.server else None
    name = plain(served or _base(config.model.name))
    revision = plain(config.model.revision or "not pinned")
    entry = manifest.get("diagnose")
    fingerprint = entry.depends.get("model.fingerprint") if entry else None
    known = f", fingerprint {plain(str(fingerprint))}" if fingerprint else ""
    return f"{name}, revision {revision}{known}."


def _facts(run: Run, texts: Sequence[TrainingText]) -> str:
    wanted = {text.origin.fact_id for text in texts if text.origin}
    sources = Counter(_source(fact.source) for fact in run.table("facts", Fact) if fact.id in wanted)
    listed = "\n".join(f"- {plain(source)}: {count}" for source, count in sources.most_common(MAX_SOURCES))
    more = f"\n- and {len(sources) - MAX_SOURCES} more sources" if len(sources) > MAX_SOURCES else ""
    return f"{len(wanted)} facts, by source as the corpus names it:\n\n{listed}{more}"


def _source(source: str) -> str:
    """Of a path only the last part; addresses as they are."""
    return source if "://" in source or not Path(source).is_absolute() else Path(source).name


def _teacher(config: Config, examples: Sequence[Example]) -> str:
    names = sorted({example.teacher for example in examples}) or [config.synthesize.teacher.model]
    entry = config.synthesize.teacher
    return (
        f"{', '.join(plain(_base(name)) for name in names)}, temperature {entry.temperature:g}, prompt "
        f"{plain(_base(config.synthesize.prompt))}. Its replies are the only source of the questions."
    )


def _checks(
    config: Config, examples: Sequence[Example], rejected: Mapping[str, int], entry: StageEntry | None
) -> str:
    kept = len(examples) - sum(rejected.values())
    counts = entry.counts if entry else {}
    short = f"; {counts['short']} fewer than asked for" if counts.get("short") else ""
    rows = "\n".join(f"| {plain(reason)} | {count} |" for reason, count in sorted(rejected.items()))
    table = f"\n\n| rejected because | items |\n| --- | --- |\n{rows}" if rejected else ""
    verify = config.synthesize.verify
    optional = [
        f"the teacher answered each question blind {verify.self_answer} times" if verify.self_answer else "",
        f"{plain(_base(verify.judge.model))} judged each example" if verify.judge else "",
        "the fact had to make each question easier for the model" if verify.student else "",
    ]
    verified = "; ".join(filter(None, optional)) or "none"
    held_out = "\nNo example repeats an item of the files that the run held out." if counts.get("held_out") else ""
    num_options = config.synthesize.num_options
    return f"""\
Every item had to hold a question, {num_options} distinct options, one of them the answer, and an explanation that
does not contradict it; not quote the fact; and repeat neither the query it was written for nor another example.
The letters of the right answers are balanced.{held_out}

{kept} of {len(examples)} items were kept{short}. Verification: {verified}.{table}"""


def _columns(texts: Sequence[TrainingText]) -> str:
    table = """| column | what it holds |
| --- | --- |
| prompt, completion | the texts to train on, as messages (TRL's conversational prompt-completion form) |
| id | of the example |
| severity | relative entropy in nats; empty for examples from random facts |
| tier | below, easy, normal, hard or unfair |
| fact, fact_id | what the example teaches |
| query_id | the query that showed the gap; its text is not part of the data |
| question, options, answer, explanation | the parts; `answer` counts the options from 0 |
| teacher | who wrote it |

For training in the order of severity: `dataset.sort("severity")`."""
    if not texts:
        return table
    sample = json.dumps(trl_row(texts[0]), ensure_ascii=False, indent=1)
    return f"{table}\n\n~~~~json\n{visible(sample)}\n~~~~"


def _settings(manifest: Mapping[str, StageEntry]) -> str:
    depends: dict[str, Any] = {}
    for stage in ("select", "synthesize"):
        if stage in manifest:
            depends |= manifest[stage].depends
    rows = [
        f"| {plain(name)} | {plain(_setting(value))} |"
        for name, value in depends.items()
        if name.startswith(_SECTIONS) and not name.endswith(_PRIVATE)
    ]
    listed = "\n".join(rows)
    return f"| setting | value |\n| --- | --- |\n{listed}"


def _setting(value: Any) -> str:
    """As JSON, paths by their last part."""
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return _base(value) if isinstance(value, str) else json.dumps(value)
