"""The ledger: every request to the teacher and its reply, committed to disk before the reply is used.

SQLite in WAL mode with `synchronous=FULL`: after `record` returns, a power cut loses nothing. A request is known
by the SHA-256 of everything that decides its reply (model, messages, sampling, seed of the attempt, template).
Answered requests are never asked again; failures are written down apart and are no results.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lamer.errors import RunError

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
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    hash TEXT NOT NULL,
    model TEXT NOT NULL,
    error TEXT NOT NULL,
    seconds REAL NOT NULL,
    created TEXT NOT NULL
);
"""


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
class Entry:
    """A row to record."""

    hash: str
    model: str
    request: Mapping[str, Any]
    answer: Answer


@dataclass(frozen=True, slots=True)
class Totals:
    """What the ledger holds."""

    answered: int
    failed: int
    prompt_tokens: int
    completion_tokens: int


def request_hash(request: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a request, whatever the order of its keys."""
    return hashlib.sha256(_json(request).encode()).hexdigest()


def _json(value: Mapping[str, Any]) -> str:
    """Canonical JSON, in ASCII so that no text of a user can break the encoding."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


class Ledger:
    """The teacher's replies, on disk. Any thread may use it; one thread at a time writes.

    Raises:
        RunError: From every method, when the file cannot be read or written (not a database, disk full).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=FULL")
                self._database.executescript(_SCHEMA)
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
        query = (
            "SELECT reply, finish_reason, prompt_tokens, completion_tokens, seconds FROM requests WHERE hash = ?"
        )
        with self._lock, self._errors(), closing(self._database.execute(query, (request,))) as rows:
            row = rows.fetchone()
        return Answer(*row) if row is not None else None

    def record(self, entries: Sequence[Entry]) -> None:
        """Write answers in one transaction; they are safe on disk when this returns. Never replaces one."""
        rows = [
            (
                entry.hash, entry.model, _json(entry.request), entry.answer.text, entry.answer.finish_reason,
                entry.answer.prompt_tokens, entry.answer.completion_tokens, round(entry.answer.seconds, 6),
                "answered" if entry.answer.text else "empty", _now(),
            )
            for entry in entries
        ]  # fmt: skip
        with self._transaction() as database:
            database.executemany(f"INSERT OR IGNORE INTO requests VALUES ({','.join('?' * 10)})", rows)

    def record_failure(self, request: str, model: str, error: str, seconds: float) -> None:
        """Write down that a request was given up, and why. It will be asked again."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO failures VALUES (?, ?, ?, ?, ?)", (request, model, error, round(seconds, 6), _now())
            )

    def totals(self) -> Totals:
        """Counts over everything recorded."""
        query = """SELECT (SELECT COUNT(*) FROM requests), (SELECT COUNT(*) FROM failures),
            (SELECT COALESCE(SUM(prompt_tokens), 0) FROM requests),
            (SELECT COALESCE(SUM(completion_tokens), 0) FROM requests)"""
        with self._lock, self._errors(), closing(self._database.execute(query)) as rows:
            return Totals(*rows.fetchone())

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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
