"""The ledger: every request to the teacher and its reply, committed to disk before the reply is used.

SQLite in WAL mode with `synchronous=FULL`: after `record` returns, a power cut loses nothing. A request is known
by the SHA-256 of everything that decides its reply (model, messages, sampling, seed of the attempt, template).
Answered requests are never asked again; failures are written down apart and are no results.

    requests   answered: one row a request, for good; `status` is answered, truncated (length limit), filtered
               (content filter) or empty: all of them are paid for
    lost       tries that brought no reply but were, or may have been, paid for: no choices in the body, a lost
               connection, a time-out
    failures   requests that were given up, after all their tries; asked again at the next start
    sessions   one row a call of the teacher; one that never ended was killed, with calls in flight that nobody
               can count

Files of earlier versions are read as they are and get the columns they lack.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamer.errors import RunError

if TYPE_CHECKING:
    from lamer.teacher.budget import Budget

LEDGER = "teacher.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    hash TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    request TEXT NOT NULL,
    reply TEXT,
    finish_reason TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    seconds REAL NOT NULL,
    status TEXT NOT NULL,
    created TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS failures (
    hash TEXT NOT NULL,
    model TEXT NOT NULL,
    error TEXT NOT NULL,
    seconds REAL NOT NULL,
    created TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS lost (
    hash TEXT NOT NULL,
    model TEXT NOT NULL,
    error TEXT NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    seconds REAL NOT NULL,
    created TEXT NOT NULL
);
"""
_SESSIONS = """
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY,
    max_in_flight INTEGER NOT NULL,
    started TEXT NOT NULL,
    ended TEXT
);
"""
_MONEY = ("purpose TEXT", "cost REAL", "currency TEXT", "is_bound INTEGER")
_COUNTED = "model, prompt_tokens, completion_tokens, purpose, cost, currency, is_bound"
_ADDED = {"requests": _MONEY, "lost": _MONEY}
"""Columns that the first version of a table had not."""
_CALLS = f"""(SELECT 1 AS is_answer, {_COUNTED} FROM requests UNION ALL SELECT 0, {_COUNTED} FROM lost)"""
"""Every call that was paid for, or may have been."""
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
_STATUS = {"length": "truncated", "content_filter": "filtered"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the teacher sent back for one request."""

    text: str | None
    """None when the server answered without a text (a content filter)."""
    finish_reason: str | None = None
    """`stop`, `length`, `content_filter`, ... as the server says; None when it says nothing."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    """From sending to the last byte, the waits of earlier tries not included."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call cost."""

    amount: float
    currency: str
    is_bound: bool = False
    """Whether it is the most that the call can have cost: the server did not say how many tokens it counted."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An answered request, to be recorded."""

    hash: str
    model: str
    request: Mapping[str, Any]
    answer: Answer
    purpose: str = ""
    """What it was asked for: examples, facts, ..."""
    cost: Cost | None = None
    """None: the price is not known."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A try without a reply that was paid for, or may have been."""

    hash: str
    model: str
    error: str
    seconds: float
    prompt_tokens: int | None = None
    """As the server says; None when it says nothing."""
    completion_tokens: int | None = None
    purpose: str = ""
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What the ledger holds."""

    answered: int
    failed: int
    prompt_tokens: int
    """Of answered and lost calls, as far as the server said."""
    completion_tokens: int
    lost: int = 0
    """Tries without a reply that were paid for, or may have been."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Money for answered and lost calls by currency."""
    unpriced: int = 0
    """Answered and lost calls whose cost is not known: they are not in `costs`."""
    bounds: int = 0
    """Calls that stand in `costs` with the most they can have cost."""

    @property
    def cost(self) -> float | None:
        """Money so far; None where a call's cost is not known, or where there are several currencies."""
        return sum(self.costs.values()) if not self.unpriced and len(self.costs) <= 1 else None


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Calls of one model whose cost is not known."""

    model: str
    count: int
    without_usage: int
    """Of these, calls for which the server did not say how many tokens it counted."""
    prompt_tokens: int
    completion_tokens: int


def request_hash(request: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a request, whatever the order of its keys."""
    return hashlib.sha256(_json(request).encode()).hexdigest()


def _json(value: Mapping[str, Any]) -> str:
    """Canonical JSON, in ASCII so that no text of a user can break the encoding."""
    return _ENCODER.encode(value)


class Ledger:
    """The teacher's replies, on disk. Any thread may use it; one thread at a time writes.

    Raises:
        RunError: From every method, when the file cannot be read or written (not a database, disk full).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.budget: Budget | None = None
        """Ceilings on what is spent here, set by the first teacher (see `Budget.of`)."""
        self._lock = threading.Lock()
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=FULL")
                self._database.executescript(_SCHEMA + _SESSIONS)
                self._add_columns()
            except sqlite3.Error:
                self._database.close()
                raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing is pending."""
        with self._lock:
            self._database.close()

    def find(self, request: str) -> Answer | None:
        """The answer to the request with this hash, if it was ever answered."""
        return self.find_all([request]).get(request)

    def find_all(self, requests: Sequence[str]) -> dict[str, Answer]:
        """The answers to those of the requests with these hashes that were ever answered; at most 500 at once."""
        marks = ", ".join("?" * len(requests))
        rows = self._rows(
            "SELECT hash, reply, finish_reason, prompt_tokens, completion_tokens, seconds FROM requests "
            f"WHERE hash IN ({marks})",
            requests,
        )
        return {row[0]: Answer(*row[1:]) for row in rows}

    def record(self, entries: Sequence[Entry]) -> None:
        """Write answers in one transaction; they are safe on disk when this returns. Never replaces one."""
        self._insert("requests", [_row(entry) for entry in entries])

    def record_loss(self, loss: Loss) -> None:
        """Write down a try without a reply that was paid for, or may have been."""
        row = {
            "hash": loss.hash, "model": loss.model, "error": loss.error, "prompt_tokens": loss.prompt_tokens,
            "completion_tokens": loss.completion_tokens, "seconds": round(loss.seconds, 6), "created": _now(),
            "purpose": loss.purpose, **_money(loss.cost),
        }  # fmt: skip
        self._insert("lost", [row])

    def record_failure(self, request: str, model: str, error: str, seconds: float) -> None:
        """Write down that a request was given up, and why. It will be asked again."""
        row = {
            "hash": request, "model": model, "error": error, "seconds": round(seconds, 6), "created": _now(),
        }  # fmt: skip
        self._insert("failures", [row])

    @contextmanager
    def session(self, max_in_flight: int) -> Iterator[None]:
        """While requests are sent: what a kill leaves open tells the next start what may be paid and lost.

        Args:
            max_in_flight: Calls that are in flight at once, at most.
        """
        with self._transaction() as database:
            insert = "INSERT INTO sessions (max_in_flight, started) VALUES (?, ?)"
            number = database.execute(insert, (max_in_flight, _now())).lastrowid
        try:
            yield
        finally:
            with self._transaction() as database:
                database.execute("UPDATE sessions SET ended = ? WHERE id = ?", (_now(), number))

    def killed(self) -> tuple[int, int]:
        """Sessions that were killed, and calls that may have been paid for and lost in them, at most.

        A session that goes on counts as well: ask before or after it.
        """
        query = "SELECT COUNT(*), COALESCE(SUM(max_in_flight), 0) FROM sessions WHERE ended IS NULL"
        [(sessions, calls)] = self._rows(query)
        return sessions, calls

    def totals(self, purpose: str | None = None) -> Totals:
        """Counts over everything recorded, or over one purpose (failures have none and are left out then)."""
        where, values = ("WHERE COALESCE(purpose, '') = ?", (purpose,)) if purpose is not None else ("", ())
        [(answered, lost, failed, prompt, completion, unpriced, bounds)] = self._rows(
            f"""SELECT COALESCE(SUM(is_answer), 0), COALESCE(SUM(1 - is_answer), 0),
            (SELECT COUNT(*) FROM failures), COALESCE(SUM(prompt_tokens), 0),
            COALESCE(SUM(completion_tokens), 0), COALESCE(SUM(cost IS NULL), 0), COALESCE(SUM(is_bound), 0)
            FROM {_CALLS} {where}""",
            values,
        )
        money = self._rows(
            f"""SELECT currency, SUM(cost) FROM {_CALLS} {where or "WHERE true"} AND cost IS NOT NULL
            GROUP BY currency ORDER BY currency""",
            values,
        )
        num_failed = failed if purpose is None else 0
        return Totals(answered, num_failed, prompt, completion, lost, dict(money), unpriced, bounds)

    def purposes(self) -> list[str]:
        """What calls were made for; the empty text for those of earlier versions."""
        rows = self._rows(f"SELECT DISTINCT COALESCE(purpose, '') FROM {_CALLS} ORDER BY 1")
        return [purpose for (purpose,) in rows]

    def unpriced(self) -> list[Unpriced]:
        """Calls whose cost is not known, by model."""
        rows = self._rows(
            f"""SELECT model, COUNT(*), SUM(prompt_tokens IS NULL OR completion_tokens IS NULL),
            COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0)
            FROM {_CALLS} WHERE cost IS NULL GROUP BY model ORDER BY model"""
        )
        return [Unpriced(*row) for row in rows]

    def _add_columns(self) -> None:
        for table, columns in _ADDED.items():
            known = {row[1] for row in self._database.execute(f"PRAGMA table_info({table})")}
            for column in columns:
                if column.split()[0] not in known:
                    self._database.execute(f"ALTER TABLE {table} ADD COLUMN {column}")

    def _insert(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        names = tuple(rows[0])
        marks = ", ".join(f":{name}" for name in names)
        with self._transaction() as database:
            database.executemany(f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._errors(), closing(self._database.execute(query, values)) as rows:
            return rows.fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """For tables beside the ledger's own, in the same file."""
        with self._transaction() as database:
            yield database

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"{self.path}: cannot be used as the teacher's ledger ({error}); free some space, or choose "
                "another --out"
            ) from error


def _row(entry: Entry) -> dict[str, Any]:
    answer = entry.answer
    return {
        "hash": entry.hash, "model": entry.model, "request": _json(entry.request), "reply": answer.text,
        "finish_reason": answer.finish_reason, "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens, "seconds": round(answer.seconds, 6),
        "status": _status(answer), "created": _now(), "purpose": entry.purpose, **_money(entry.cost),
    }  # fmt: skip


def _status(answer: Answer) -> str:
    return _STATUS.get(answer.finish_reason or "", "answered" if answer.text else "empty")


def _money(cost: Cost | None) -> dict[str, Any]:
    if cost is None:
        return {"cost": None, "currency": None, "is_bound": 0}
    return {"cost": cost.amount, "currency": cost.currency, "is_bound": int(cost.is_bound)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
