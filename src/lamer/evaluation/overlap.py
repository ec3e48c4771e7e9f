"""Which evaluation items the training data repeat.

A training example repeats evaluation items by the 13-gram and 8-gram rules of `lamer.synthesis.contamination`,
which read its question, its options and its reply: the completion where it has one, else the explanation. An item
overlaps when it holds one of the word runs because of which an example is one that repeats. What overlaps is
written as `RUN/overlap.json`: examples, how many of them repeat something, and the overlapping items by benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lamer.config import Config
from lamer.evaluation.benchmarks import Sample
from lamer.evaluation.statistics import Summary, summarize
from lamer.records import Deficiency, Example, Fact, Prediction
from lamer.run import Run
from lamer.synthesis.contamination import LONG, SHORT, HeldOut, HeldOutItem
from lamer.tables import write_atomically

if TYPE_CHECKING:
    from lamer.evaluation.harness_tasks import HarnessSample

FILE = "overlap.json"


@dataclass(frozen=True, slots=True)
class Overlaps:
    """What training data and evaluation items have in common."""

    num_examples: int
    num_repeating: int
    """Examples that repeat an item."""
    items: Mapping[str, frozenset[str]]
    """Ids of the overlapping items by benchmark; every benchmark is there."""

    @property
    def num_items(self) -> int:
        """Overlapping items of all benchmarks."""
        return sum(map(len, self.items.values()))

    def has(self, benchmark: str, sample_id: str) -> bool:
        """Whether an item overlaps."""
        return sample_id in self.items.get(benchmark, ())

    def sentence(self, num_samples: int) -> str:
        """What a report says of it."""
        rules = f"{LONG}-gram and {SHORT}-gram rules"
        if not self.num_items:
            return (
                f"none of the {num_samples:,} evaluation items overlaps with the {self.num_examples:,} training "
                f"examples ({rules})"
            )
        places = ", ".join(f"{name} {len(ids):,}" for name, ids in self.items.items() if ids)
        return (
            f"{self.num_items:,} of {num_samples:,} evaluation items overlap with the {self.num_examples:,} "
            f"training examples ({rules}): {places}; the accuracy without them stands beside every accuracy"
        )


def find_overlaps(
    samples: Sequence[Sample | HarnessSample], examples: Iterable[tuple[Example, str]], prompt: str = ""
) -> Overlaps:
    """The items that training examples repeat.

    Args:
        samples: The evaluation items.
        examples: Training examples, each with the text of the fact it was written for (empty: none); word runs
            of the fact do not count.
        prompt: Text of the teacher's prompt; its word runs do not count.
    """
    items = [HeldOutItem(sample.id, sample.question, sample.options) for sample in samples]
    index = HeldOut(items, prompt)
    num_examples = num_repeating = 0
    shared: set[int] = set()
    for example, fact in examples:
        num_examples += 1
        texts = (example.question, example.options, example.reply_text, fact)
        if index.find(*texts) is not None:
            num_repeating += 1
            shared |= index.shared(*texts)
    found: dict[str, set[str]] = {sample.benchmark: set() for sample in samples}
    for sample, item in zip(samples, items) if shared else ():
        if index.holds(item, shared):
            found[sample.benchmark].add(sample.id)
    return Overlaps(num_examples, num_repeating, {name: frozenset(ids) for name, ids in found.items()})


def training_examples(run: Run, config: Config) -> Iterator[tuple[Example, str]]:
    """Everything that methods of the run were trained on, with the fact of each.

    That are the files of `train.path` or else the kept examples of the run, what was replayed, and what
    experiments keep in `methods/NAME/examples`; an example is given once.

    Raises:
        DataError: If a file cannot be read.
    """
    facts = {fact.id: fact.text for fact in run.table("facts", Fact)}
    units = {unit.id: unit.fact_id for unit in run.table("deficiencies", Deficiency)}
    seen: set[tuple[str, str, str | None]] = set()
    for example in _examples(run, config):
        key = (example.id, example.question, example.completion)
        if example.status == "kept" and key not in seen:
            seen.add(key)
            unit = example.deficiency_id or ""
            yield example, facts.get(units.get(unit, unit.rpartition("|")[2]), "")


def _examples(run: Run, config: Config) -> Iterator[Example]:
    if config.train.path:
        from lamer.training.examples import load_examples

        yield from load_examples(config.train.path)
    else:
        yield from (row for one in run.rounds() for row in one.table("examples", Example))
    yield from _replayed(run, config)
    for folder in sorted((run.path / "methods").glob("*/examples")):
        yield from run.table(f"methods/{folder.parent.name}/examples", Example)


def _replayed(run: Run, config: Config) -> Iterator[Example]:
    """What was mixed in, of files and of the model's own answers: the rows that the order of a training names.

    Where no training of the run tells its order, every row that may have been drawn.
    """
    from lamer.training.checkpoints import OrderLog
    from lamer.training.replay import TABLE, given_examples

    folders = [*(one.path for one in run.rounds()), *(run.path / "methods").glob("*")]
    logs = [file for folder in folders if (file := folder / "training" / "order.jsonl").exists()]
    trained = {name for file in logs for row in OrderLog(file, ()).rows() for name in row["ids"]}
    for example in (*given_examples(config), *run.table(TABLE, Example)):
        if not logs or example.id in trained:
            yield example


def summarize_without(predictions: Iterable[Prediction], overlaps: Overlaps) -> Summary | None:
    """Accuracies over the items that do not overlap; None when all do."""
    rows = [item for item in predictions if not overlaps.has(item.benchmark, item.sample_id)]
    return summarize(rows) if rows else None


def write_overlaps(run: Run, overlaps: Overlaps) -> None:
    """Keep them with the run."""
    content = {
        "examples": overlaps.num_examples,
        "repeating": overlaps.num_repeating,
        "benchmarks": {name: sorted(ids) for name, ids in overlaps.items.items()},
    }
    write_atomically(run.path / FILE, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_overlaps(path: Path) -> Overlaps | None:
    """Those of the run at `path`; None where they were not looked for."""
    file = path / FILE
    if not file.exists():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    items = {name: frozenset(ids) for name, ids in content["benchmarks"].items()}
    return Overlaps(content["examples"], content["repeating"], items)
