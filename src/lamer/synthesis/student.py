"""The student test: an example is worth training on when its fact makes it easier for the model under diagnosis.

    gain = log P(answer | fact, question) - log P(answer | question)        over the options, in nats

P is that of the diagnosis: the same prompts, target, normalization and permutations (`lamer.diagnosis`), with the
example in place of the query. An example passes when its gain is above zero. The relative entropy of the same two
distributions is reported beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from math import fsum
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from lamer.config import Config, DiagnoseSettings
from lamer.errors import RunError
from lamer.progress import ProgressBar
from lamer.records import Fact, Match, Query
from lamer.run import Run, digest
from lamer.synthesis.checks import NOT_EASIER, NOT_READ
from lamer.synthesis.verify import Case
from lamer.tables import write_atomically

if TYPE_CHECKING:
    from lamer.scoring.remote import AnyScorer
    from lamer.scoring.render import Renderer

FILE = "_student.json"
"""Beside the shards of the table of examples, whose readers pass over such a name: what was measured, so that a
second start does not measure it a hair differently."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One example under the model, without and with its fact."""

    log_prior: tuple[float, ...]
    """Log-probability of each option, in nats, in the order written; empty where there is none."""
    log_posterior: tuple[float, ...]
    relative_entropy: float | None
    """KL(prior || posterior) in nats; None means that the model cannot read the example (too long, ...)."""

    def gain(self, answer: int) -> float | None:
        """How much more probable the fact makes option `answer`, in nats."""
        return None if self.relative_entropy is None else self.log_posterior[answer] - self.log_prior[answer]


class StudentCheck:
    """Scores examples with the model under diagnosis.

    Args:
        open_student: Gives the model's scorer and renderer; called when there is something to score.
        settings: Those of the diagnosis.
        file: Where measurements are kept for a second start; None keeps none.

    Raises:
        RunError: If the file cannot be read.
    """

    name = "student"

    def __init__(
        self,
        open_student: Callable[[], tuple[AnyScorer, Renderer]],
        settings: DiagnoseSettings,
        file: Path | None = None,
    ) -> None:
        self.settings = settings
        self._open = open_student
        self._tools: tuple[AnyScorer, Renderer] | None = None
        self._file = file
        self._measured = _read(file) if file is not None and file.exists() else {}
        self._gains: list[float] = []
        self._entropies: list[float] = []
        self._num_scored = 0

    def reasons(self, cases: Sequence[Case], progress: str = "") -> list[str | None]:
        """`NOT_EASIER`, `NOT_READ`, or None.

        Raises:
            ModelError: If the model cannot be loaded or its server fails.
        """
        measured = self.measure(cases, progress)
        gains = [one.gain(case.example.answer) for one, case in zip(measured, cases)]
        self._gains += [gain for gain in gains if gain is not None]
        self._entropies += [one.relative_entropy for one in measured if one.relative_entropy is not None]
        return [NOT_READ if gain is None else None if gain > 0 else NOT_EASIER for gain in gains]

    def measure(self, cases: Sequence[Case], progress: str = "") -> list[Measured]:
        """What the model makes of each case; those not measured before are scored, and kept shard by shard."""
        new = {key: case for case in cases if (key := _key(case)) not in self._measured}
        keys, size = list(new), self.settings.shard_size
        with ProgressBar(progress, len(keys), "examples") if progress and keys else nullcontext() as bar:
            for start in range(0, len(keys), size):
                shard = keys[start : start + size]
                self._measured.update(zip(shard, self._score([new[key] for key in shard])))
                self._num_scored += len(shard)
                self._save()
                if bar is not None:
                    bar.advance(len(shard))
        return [self._measured[_key(case)] for case in cases]

    def counts(self) -> dict[str, Any]:
        """How many were scored by this start, and the gains and relative entropies of all that were tested."""
        return {"scored": self._num_scored, "gain_nats": _summary(self._gains)} | {
            "relative_entropy_nats": _summary(self._entropies)
        }

    def _save(self) -> None:
        if self._file is not None:
            content = {key: asdict(one) for key, one in self._measured.items()}
            write_atomically(self._file, (json.dumps(content) + "\n").encode())

    def _score(self, cases: Sequence[Case]) -> list[Measured]:
        from lamer.diagnosis.diagnose import diagnose_queries

        if self._tools is None:
            self._tools = self._open()
        scorer, renderer = self._tools
        queries, facts, matches = [], {}, {}
        for place, case in enumerate(cases):
            key = str(place)
            queries.append(Query(key, case.example.question, case.example.options, None, "example"))
            facts[key] = Fact(key, case.fact, None, "example")
            matches[key] = [Match(key, key, 0, 0.0)]
        rows = diagnose_queries(queries, matches, facts, scorer, renderer, self.settings, seed=0)
        return [Measured(row.log_prior, row.log_posterior, row.relative_entropy) for row in rows]


def open_student(run: Run, config: Config) -> tuple[AnyScorer, Renderer]:
    """The model under diagnosis of a run.

    Raises:
        ModelError: If it cannot be loaded.
        RunError: If a server now has another model than the one that was diagnosed.
    """
    from lamer.diagnosis.served import compare
    from lamer.scoring.remote import RemoteScorer, open_scorer

    scorer, renderer = open_scorer(config)
    if isinstance(scorer, RemoteScorer):
        compare(run, scorer)
    return scorer, renderer


def _key(case: Case) -> str:
    return digest(case.fact, case.example.question, *case.example.options)


def _summary(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"mean": None, "median": None}
    return {"mean": round(fsum(values) / len(values), 6), "median": round(median(values), 6)}


def _read(file: Path) -> dict[str, Measured]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            key: Measured(tuple(one["log_prior"]), tuple(one["log_posterior"]), one["relative_entropy"])
            for key, one in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file}: cannot be read ({error}); delete it to score anew") from error
