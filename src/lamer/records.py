"""The records that stages hand to each other, and their columns on disk.

Every table of a run directory holds exactly the fields of one record, in this order. Scripts of other
people read them: a field is never renamed or re-used silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    import pyarrow as pa

Tier = Literal["below", "easy", "normal", "hard", "unfair"]
Transition = Literal["confirmed", "weakened", "flipped"]
CandidateOrigin = Literal["options", "sampled"]
Status = Literal["kept", "rejected"]


@dataclass(frozen=True, slots=True)
class Query:
    """What a user asked."""

    id: str
    text: str
    options: tuple[str, ...] | None
    """Answer options in the order shown, or None for an open query."""
    answer: str | None
    """Label, where the source has one: the index of the right option as a string ("0", "1", ...) for a query
    with options, the answer's text for an open one. Read only by label-reliant probes, analyses and evaluation."""
    source: str
    """Where it comes from: a file or data set name."""

    @property
    def answer_index(self) -> int | None:
        """The label as an index into `options`, or None."""
        return int(self.answer) if self.answer is not None and self.options is not None else None


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence of the corpus."""

    id: str
    text: str
    score: float | None
    """Confidence given by the source, or None where it gives none."""
    source: str
    """Where it comes from: what its row says, else the file; the passage's id for one from a document."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document that facts were taken from; `Fact.source` is its id."""

    id: str
    """`document#passage-3`."""
    document: str
    """Name of the file, with its folder where a folder was given."""
    number: int
    """Within the document, from 1."""
    heading: str
    """Headings above it, outermost first, ` > ` between; `page 3` in a PDF; empty where there is none."""
    text: str
    """Paragraphs, a line break between two."""


@dataclass(frozen=True, slots=True)
class Match:
    """A fact retrieved for a query."""

    query_id: str
    fact_id: str
    rank: int
    """From 0, best first."""
    score: float
    """Similarity in the unit of the retriever (cosine, BM25, or reciprocal rank fusion)."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How one fact changes the model's answer to one query."""

    query_id: str
    fact_id: str
    candidates: tuple[str, ...]
    candidate_origin: CandidateOrigin
    log_prior: tuple[float, ...]
    """Log-probability of each candidate without the fact, in nats, normalised over the candidates."""
    log_posterior: tuple[float, ...]
    """The same with the fact in the context, same candidate order."""
    logprob_prior: tuple[float, ...]
    """Sum of the token log-probabilities of each candidate without the fact, in nats."""
    logprob_posterior: tuple[float, ...]
    num_tokens: tuple[int, ...]
    """Tokens of each candidate."""
    relative_entropy: float | None
    """KL(prior || posterior) in nats; None means it could not be computed (see `reason`)."""
    tier: Tier | None
    transition: Transition | None
    p_value: float | None
    """Of the relative entropy against placebo facts; None where there are none, and for placebos themselves."""
    reason: str | None = None
    """Why there is no relative entropy."""


@dataclass(frozen=True, slots=True)
class Deficiency:
    """A (fact, query) unit to write training examples for."""

    id: str
    query_id: str
    fact_id: str
    relative_entropy: float
    """Severity, in nats."""
    tier: Tier
    """`below`: a pair under the threshold, replayed against forgetting; the others are deficiencies."""
    quota: int
    """Examples to write."""


@dataclass(frozen=True, slots=True)
class Example:
    """A training example that a teacher wrote, or what is left of a rejected one."""

    id: str
    deficiency_id: str | None
    """None for examples from random facts (Naive, AugGPT)."""
    relative_entropy: float | None
    question: str
    options: tuple[str, ...]
    answer: int | None
    """Index into `options`; None when the reply did not give one (then rejected)."""
    explanation: str
    status: Status
    reason: str | None
    """Why it was rejected."""
    raw: str
    """The teacher's own words for this item."""
    teacher: str
    """The teacher model's name."""
    detail: str | None = None
    """More about the reason: the held-out item that it repeats, say."""
    template: str = ""
    """Hash of the prompt that the teacher was asked with; empty in tables of earlier versions."""
    completion: str | None = None
    """The reply to train on, word for word; None: written from explanation and answer by `prompt.completion`."""

    @property
    def reply_text(self) -> str:
        """What is learnt beside question and options: the completion, or without one the explanation."""
        return self.explanation if self.completion is None else self.completion


@dataclass(frozen=True, slots=True)
class Shortage:
    """A deficiency that got fewer examples than its quota."""

    deficiency_id: str
    query_id: str
    fact_id: str
    tier: Tier
    requested: int
    kept: int
    num_replies: int
    """Replies of the teacher that were read for it."""
    reasons: tuple[str, ...]
    """Why its other items were rejected, the most frequent first."""
    counts: tuple[int, ...]
    """How many items each of `reasons` rejected."""
    error: str | None = None
    """The last request that the teacher did not answer, and why."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One evaluated sample."""

    method: str
    benchmark: str
    task: str
    sample_id: str
    target: str
    """The right answer: a letter for samples with options, else text."""
    answer: str | None
    """The answer extracted from `text`, in the form of `target`; None when nothing could be extracted."""
    parsed: bool
    """Whether an answer was extracted."""
    correct: bool
    text: str
    """What the model wrote."""
    loglikelihood_answer: str | None = None
    """The option with the highest log-likelihood, as a letter; None for samples without options."""
    ended: str | None = None
    """Why the reply ended: `turn`, `stop`, `length` (cut off) or `no room` (the prompt filled the context); None
    where nothing was generated."""


AnyRecord = Query | Passage | Fact | Match | Diagnosis | Deficiency | Example | Shortage | Prediction
Record = TypeVar("Record")

TABLES: dict[str, type[AnyRecord]] = {
    "queries": Query,
    "passages": Passage,
    "facts": Fact,
    "matches": Match,
    "diagnoses": Diagnosis,
    "placebos": Diagnosis,
    "deficiencies": Deficiency,
    "examples": Example,
    "replay": Example,
    "shortages": Shortage,
    "predictions": Prediction,
}


def _arrow_type(hint: Any) -> pa.DataType:
    import pyarrow as pa

    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _arrow_type(next(arg for arg in get_args(hint) if arg is not type(None)))
    if origin is tuple:
        return pa.list_(_arrow_type(get_args(hint)[0]))
    if origin is Literal:
        return pa.string()
    return {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[hint]


def arrow_schema(record: type) -> pa.Schema:
    """The Arrow schema of a record type: one column a field, same names, same order."""
    import pyarrow as pa

    hints = get_type_hints(record)
    return pa.schema([(field.name, _arrow_type(hints[field.name])) for field in fields(record)])


def to_arrow(records: Sequence[Any], record: type) -> pa.Table:
    """A table with one row a record."""
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(item) for item in records], schema=arrow_schema(record))


def from_arrow(table: pa.Table, record: type[Record]) -> Iterable[Record]:
    """The records of a table, in order; lists come back as tuples, what is not there as the field's default."""
    defaults = {field.name: field.default for field in fields(record) if field.default is not MISSING}  # type: ignore[arg-type]
    for row in table.to_pylist():
        given = {name: value for name, value in row.items() if value is not None or name not in defaults}
        yield record(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
