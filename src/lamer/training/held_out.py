"""Held-out examples: measured now and then and never trained on, to choose a checkpoint and to stop early.

    loss = sum of -log p over the completion tokens of all held-out examples / their number, in nats

What was measured stands in `log.jsonl` (`held_out_loss`), and the choice follows from these rows alone, so a
training that was killed and goes on chooses the same. With `keep: best` the adapter of the lowest loss is kept
beside the checkpoints:

    OUT/best-STEP/     written before the row of its step; dropped when no checkpoint to go on from needs it
"""

from __future__ import annotations

import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamer.config import Config, HeldOutSettings
from lamer.diagnosis.selection import apportion
from lamer.errors import DataError, ModelError, RunError
from lamer.records import Example, Tier
from lamer.training.checkpoints import BEST, StepLog, checkpoints
from lamer.training.dataset import EncodedExample, PlannedSteps
from lamer.training.examples import example_rows, load_examples

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMN = "held_out_loss"
"""In log.jsonl and in what trackers get."""


@dataclass(frozen=True, slots=True)
class Split:
    """What is trained on, and what is measured."""

    training: list[Example]
    held_out: list[Example]


def hold_out(
    examples: Sequence[Example],
    config: Config,
    tiers: Mapping[str, Tier],
    facts: Mapping[str, str] | None = None,
) -> Split:
    """Put `train.held_out` aside: files, or the examples of a share of the deficiencies.

    All deficiencies of one fact are on the same side: a model that has seen one example of a fact knows the others
    in part. An example without a deficiency stands by itself. The share is of the deficiencies of each tier
    (largest remainder), and is met as nearly as whole facts allow: in an order drawn by the seed and the facts'
    ids, first those are taken that still fit, then those that bring the tiers nearer to their shares. At least one
    fact is held out, and one stays for the training.

    Args:
        examples: Kept examples.
        config: Its section `train.held_out`, the files of `train.replay`, and the seed.
        tiers: Of the deficiencies, by id.
        facts: The fact's id of each deficiency, by id; of others it is what stands behind the last `|` of the id.

    Raises:
        DataError: If a file cannot be read, or holds a row that is trained on.
    """
    settings = config.train.held_out
    if settings.path:
        general = load_examples(config.train.replay.path) if config.train.replay.share else []
        return Split(list(examples), _held_out_rows(settings.path, [*examples, *general]))
    units: dict[str, dict[str, Tier | None]] = defaultdict(dict)
    for example in examples:
        unit = example.deficiency_id
        units[_group(example, facts or {})][unit or ""] = tiers.get(unit or "")
    groups = {name: Counter(known.values()) for name, known in units.items()}
    chosen = _nearest(groups, settings.share, sorted(groups, key=lambda name: _place(config.seed, name)))
    is_held = [_group(example, facts or {}) in chosen for example in examples]
    return Split(
        [example for example, held in zip(examples, is_held) if not held],
        [example for example, held in zip(examples, is_held) if held],
    )


def _group(example: Example, facts: Mapping[str, str]) -> str:
    """What is held out as a whole: a fact, or an example without one."""
    unit = example.deficiency_id
    return f"example {example.id}" if unit is None else f"fact {facts.get(unit, unit.rpartition('|')[2])}"


def _nearest(groups: Mapping[str, Counter[Tier | None]], share: float, order: Sequence[str]) -> set[str]:
    """Groups with about `share` of the deficiencies of each tier.

    Args:
        groups: Deficiencies by tier, of each group.
        share: Of the deficiencies; 0: none.
        order: Names of the groups, as they are to be tried.
    """
    sizes: Counter[Tier | None] = sum(groups.values(), Counter())
    count = min(max(math.floor(share * sizes.total() + 0.5), 1), sizes.total() - 1) if share else 0
    if count <= 0 or len(groups) < 2:
        return set()
    seats = apportion(count, {tier or "": size for tier, size in sizes.items()})
    missing = Counter({tier: seats[tier or ""] for tier in sizes})
    chosen: set[str] = set()
    for must_fit in (True, False):
        for name in order:
            fits = all(missing[tier] >= size for tier, size in groups[name].items())
            gain = sum(abs(missing[tier]) - abs(missing[tier] - size) for tier, size in groups[name].items())
            if name not in chosen and (fits if must_fit else gain > 0) and len(chosen) < len(groups) - 1:
                chosen.add(name)
                missing.subtract(groups[name])
    return chosen or {min(order, key=lambda name: groups[name].total())}


def _held_out_rows(paths: Sequence[str], trained: Iterable[Example]) -> list[Example]:
    """The examples of held-out files, none of which may be among the trained ones.

    Raises:
        DataError: If a row has the id, or question and options, of a trained example.
    """
    by_id: dict[str, Example] = {}
    by_question: dict[tuple[str, ...], Example] = {}
    for example in trained:
        by_id[example.id] = by_question[_asked(example)] = example
    found = []
    for row in example_rows(paths):
        same_id = by_id.get(row.example.id) if row.has_id else None
        same = same_id or by_question.get(_asked(row.example))
        if same is not None:
            what = "id" if same_id else "question and options"
            raise DataError(
                f"{row.place}: has the {what} of the training example {same.id!r}; held-out examples must not be "
                "trained on: take it out of one of the two"
            )
        found.append(row.example)
    return found


def _asked(example: Example) -> tuple[str, ...]:
    """Question and options; case, white space and the options' order make no other example."""
    question, *options = (" ".join(text.casefold().split()) for text in (example.question, *example.options))
    return (question, *sorted(options))


def _place(seed: int, name: str) -> bytes:
    return sha256(f"held out {seed}|{name}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Measured:
    """The held-out loss after an optimizer step."""

    step: int
    loss: float
    """In nats a completion token."""


def best_of(measured: Sequence[Measured]) -> Measured | None:
    """The lowest loss, the earliest of equals."""
    return min(measured, key=lambda row: (row.loss, row.step), default=None)


def is_over(measured: Sequence[Measured], patience: int | None) -> bool:
    """Whether the last `patience` measurements brought no lower loss than one before them."""
    best = best_of(measured)
    return patience is not None and best is not None and sum(row.step > best.step for row in measured) >= patience


class HeldOut:
    """The held-out examples of a training that runs.

    Args:
        out: Working folder of the training.
        settings: When to measure, what to keep, when to stop.
        examples: By id; none: nothing is ever due.
        log: The training's log, rewound to where it goes on.
        num_steps: Optimizer steps of the plan.
        epochs: In how many equal parts `num_steps` falls, where no interval is set.
    """

    def __init__(
        self,
        out: Path,
        settings: HeldOutSettings,
        examples: Mapping[str, EncodedExample],
        log: StepLog,
        num_steps: int,
        epochs: int,
    ) -> None:
        self.out = out
        self.settings = settings
        self.examples = dict(examples)
        self.num_steps = num_steps
        self.every = settings.every_steps or max(num_steps // epochs, 1)
        self.measured = [Measured(row["step"], row[COLUMN]) for row in log.rows() if COLUMN in row]

    @property
    def best(self) -> Measured | None:
        """The lowest loss so far."""
        return best_of(self.measured)

    @property
    def is_over(self) -> bool:
        """Whether to stop before the plan ends."""
        return is_over(self.measured, self.settings.patience)

    @property
    def kept(self) -> Measured | None:
        """What the adapter of the training is; None where nothing was measured."""
        last = self.measured[-1] if self.measured else None
        return self.best if self.settings.keep == "best" else last

    def is_due(self, step: int) -> bool:
        """Whether to measure after `step`: at the interval, and at the end of the plan."""
        return bool(self.examples) and (step % self.every == 0 or step == self.num_steps)

    def measure(
        self,
        step: int,
        model: Any,
        loss_of: Callable[[dict[str, Any]], Any],
        micro_batch_size: int | None,
        max_tokens: int | None = None,
    ) -> float:
        """The loss after `step`, in nats a completion token; keeps the adapter where it is the best so far.

        Args:
            step: Optimizer steps done.
            model: With its adapter; in training mode afterwards as before.
            loss_of: Sum of -log p over the completion tokens of a micro-batch.
            micro_batch_size: Examples in memory at once; None: as many as
            max_tokens: allow, padding included.

        Raises:
            ModelError: If the loss is not finite.
        """
        import torch

        rows = PlannedSteps([list(self.examples)], self.examples, micro_batch_size, max_tokens)[0]
        with _evaluating(model), torch.no_grad():
            total = sum(loss_of(batch).item() for batch in rows["micro_batches"])
        loss: float = total / rows["num_items"]
        if not math.isfinite(loss):
            raise ModelError(
                f"the held-out loss became {loss} at step {step}; lower train.learning_rate, or use another "
                "model.dtype"
            )
        self.measured.append(Measured(step, loss))
        if self.settings.keep == "best" and self.best is not None and self.best.step == step:
            self._keep(step, model)
        return loss

    def _keep(self, step: int, model: Any) -> None:
        folder = self._folder(step)
        temporary = folder.with_name(f".{folder.name}.tmp")
        for old in (temporary, folder):
            shutil.rmtree(old, ignore_errors=True)
        model.save_pretrained(str(temporary), save_embedding_layers=False)
        temporary.replace(folder)

    def _folder(self, step: int) -> Path:
        return self.out / f"{BEST}-{step}"

    def forget(self) -> None:
        """Drop kept adapters that are the best of no checkpoint, and not of all; also half-written ones."""
        ends = [*(step for step, _ in checkpoints(self.out)), self.num_steps]
        best = [best_of([row for row in self.measured if row.step <= end]) for end in ends]
        needed = {self._folder(row.step) for row in best if row is not None}
        for folder in (*self.out.glob(f"{BEST}-*"), *self.out.glob(f".{BEST}-*.tmp")):
            if folder not in needed:
                shutil.rmtree(folder)

    def restore(self, model: Any) -> None:
        """Give the model the adapter that is to be kept, where it is another than the last.

        Raises:
            RunError: If it is not there any more.
        """
        if self.settings.keep != "best" or self.best is None:
            return
        from peft import set_peft_model_state_dict
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self._folder(self.best.step) / "adapter_model.safetensors"
        try:
            weights = load_file(file)
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"{file}: the best adapter cannot be read ({error}); use --restart-from train"
            ) from error
        set_peft_model_state_dict(model, weights)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout, which draws no random number then: the training goes on as if nothing was measured."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
