"""The model card of an adapter: what it is, what it was trained on, how it did, what not to trust it with.

It is written with the adapter; its section on the evaluation is filled in when there is one (`refresh_card`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lamer import __version__
from lamer.config import Config
from lamer.evaluation.paired import Comparison, compare
from lamer.evaluation.statistics import Accuracy, summarize
from lamer.records import Example, Prediction
from lamer.run import Run
from lamer.tables import write_atomically

if TYPE_CHECKING:
    from lamer.training.trainer import TrainResult

FILE = "README.md"
HEADING = "## Evaluation\n\n"
TIERS = ("below", "easy", "normal", "hard", "unfair", "no severity")


def model_card(
    config: Config,
    examples: Sequence[Example],
    tiers: Mapping[str, str | None],
    result: TrainResult,
) -> str:
    """README.md of the adapter, with the front matter of a Hub model card.

    Args:
        config: The settings.
        examples: What was trained on, without the replayed ones.
        tiers: Tier by example id, None without a severity.
        result: What the training did.
    """
    counted = Counter(tiers[example.id] or "no severity" for example in examples)
    rows = "\n".join(f"| {tier} | {counted[tier]} |" for tier in TIERS if counted[tier])
    rows += f"\n| general | {result.num_replayed} |" if result.num_replayed else ""
    teachers = ", ".join(sorted({example.teacher for example in examples})).replace(
        "unknown", "an unnamed teacher"
    )
    front = {
        "base_model": config.model.name, "library_name": "peft", "pipeline_tag": "text-generation",
        "tags": ["lora", "lamer"],
    }  # fmt: skip
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---

# LoRA adapter for {config.model.name}

Made by lamer {__version__}, which finds what a model does not know from unlabelled queries (relative entropy of
its answers before and after a fact) and trains it on examples that a teacher wrote for what was found.

## Base model

{config.model.name}, revision {config.model.revision or "not pinned"}. Prompts go through its chat template; the
question and its options are the user message, explanation and answer the reply.

## Data

{len(examples)} examples written by {teachers}, each planned {config.train.epochs} times; {len(result.left_out)}
more were left out because they are too long.

| tier | examples |
| --- | --- |
{rows}

`below` are pairs under the threshold ({_threshold(config)}), replayed against forgetting; `general` is what
`train.replay` mixed in.

## Training

{_settings(config, result)}

{HEADING}Not evaluated yet.

## Limits

- The examples were written by a language model and checked in form, not for truth: its mistakes may be learnt.
- Gaps were found without labels, by what a fact changes in the model's answers. Where a fact is wrong or has
  nothing to do with its question, the examples teach it all the same.
- The adapter is tested for what its evaluation covers, and may have made other knowledge worse; compare before and
  after on your own data.
- It fits the base model named above, and prompts of the form above.
"""


def refresh_card(run: Run, config: Config, *, method: str = "lamer", adapter: Path | None = None) -> bool:
    """Write what the evaluation of the run found into the adapter's card; whether there was something to write.

    Called again, it replaces what it wrote.

    Args:
        run: A run with the table `predictions`.
        config: The settings; `evaluate.bootstrap` and `seed` for the intervals.
        method: What the adapter is called in the predictions; it is compared with `base`.
        adapter: Its folder; None is the run's own.
    """
    file = (adapter or run.path / "adapter") / FILE
    rows: dict[str, list[Prediction]] = {"base": [], method: []}
    for row in run.table("predictions", Prediction):
        if row.method in rows:
            rows[row.method].append(row)
    if not file.is_file() or not all(rows.values()):
        return False
    card = file.read_text(encoding="utf-8")
    section = HEADING + evaluation_section(rows["base"], rows[method], config)
    pattern = re.compile(re.escape(HEADING) + r".*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if not pattern.search(card):
        return False
    write_atomically(file, pattern.sub(lambda _: section + "\n\n", card, count=1).encode())
    return True


def evaluation_section(before: Sequence[Prediction], after: Sequence[Prediction], config: Config) -> str:
    """Accuracy of free-form answers before and after training on the same samples, as Markdown."""
    base, adapted = summarize(before), summarize(after)
    lines = [
        "Accuracy of greedy free-form answers, zero-shot, without and with the adapter on the same samples. "
        "In brackets the 95 % interval (paired bootstrap); p is McNemar's exact test, not corrected for several "
        "rows.",
        "",
        "| benchmark | n | without | with | difference in points | remedied | broken | p |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in base.benchmarks:
        sides = [[row for row in side if row.benchmark == name] for side in (before, after)]
        lines.append(_row(name, compare(*sides, resamples=config.evaluate.bootstrap, seed=config.seed)))
    if len(base.benchmarks) > 1:
        overall = compare(before, after, resamples=config.evaluate.bootstrap, seed=config.seed)
        lines.append(_row("average", overall))
    lines += ["", f"{_other('Parse rate', base.average, adapted.average, 'parse_rate')}"]
    if base.average.loglikelihood_accuracy is not None and adapted.average.loglikelihood_accuracy is not None:
        name = "Accuracy of the likeliest option (the form of a reply has no part in it)"
        lines[-1] += f" {_other(name, base.average, adapted.average, 'loglikelihood_accuracy')}"
    return "\n".join(lines)


def _row(name: str, item: Comparison) -> str:
    change = f"{100 * item.difference:+.1f} [{100 * item.low:+.1f}, {100 * item.high:+.1f}]"
    cells = (
        name, item.num_samples, f"{item.accuracy_before:.3f}", f"{item.accuracy_after:.3f}", change, item.remedied,
        item.broken, f"{item.p_value:.2g}",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _other(name: str, before: Accuracy, after: Accuracy, field: str) -> str:
    return f"{name}: {getattr(before, field):.3f} without, {getattr(after, field):.3f} with."


def _threshold(config: Config) -> str:
    rule = config.diagnose.threshold
    return f"{rule} nats" if isinstance(rule, float) else rule


def _replay(config: Config, result: TrainResult) -> str:
    names = ", ".join(Path(path).name for path in config.train.replay.path)
    source = f"from {names}" if names else "the model's own replies to queries without a deficiency"
    share = result.num_replayed / max(result.num_examples, 1)
    return f"replay against forgetting: {result.num_replayed} general examples ({share:.1%} of all), {source}"


def _held_out(config: Config, result: TrainResult) -> str:
    settings = config.train.held_out
    often = "once an epoch" if settings.every_steps is None else f"every {settings.every_steps} steps"
    which = "lowest" if settings.keep == "best" else "last"
    end = f"stopped early after step {result.num_steps}" if result.stopped_early else "trained to the plan's end"
    return (
        f"{result.num_held_out} examples held out, measured {often}: this is the adapter of step "
        f"{result.kept_step}, with the {which} held-out loss ({result.held_out_loss:.4f} nats a token); {end}"
    )


def _settings(config: Config, result: TrainResult) -> str:
    train, lora = config.train, config.train.lora
    loss = f"{result.final_loss:.4f}" if result.final_loss is not None else "unknown"
    more = [_replay(config, result)] if result.num_replayed else []
    more += [_held_out(config, result)] if result.held_out_loss is not None else []
    return "\n".join(
        f"- {line}"
        for line in (
            f"order {train.order}, scope {train.scope}, {train.epochs} epochs, {result.num_steps} optimizer steps "
            f"of up to {train.batch_size} examples, seed {config.seed}",
            f"LoRA rank {lora.rank}, alpha {lora.alpha:g}, effective scaling {result.scaling:.4g}"
            f"{' (rank-stabilised)' if lora.rslora else ''}{', DoRA' if lora.dora else ''}, "
            f"dropout {lora.dropout:g}, modules {lora.target_modules}",
            f"Adam without weight decay, learning rate {train.learning_rate:g}, schedule {train.schedule}, "
            f"warm-up {train.warmup:g}, gradients clipped to norm 1",
            f"cross-entropy on completion tokens only, averaged over those of a step; last step {loss} nats",
            *more,
        )
    )
