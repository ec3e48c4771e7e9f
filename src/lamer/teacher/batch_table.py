"""Batches in the ledger's file: what is about to be sent is written down before it is sent.

intended    the requests are chosen; nothing but their file may have been sent
creating    the service may or may not have made the batch: it is looked for before it is made again
submitted   the service's id for it is known
collected   over: every result is in the ledger
unsent      over: the service never made it
lost        over: the service does not know it any more
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lamer.teacher.ledger import Ledger

Status = Literal["intended", "creating", "submitted", "collected", "unsent", "lost"]

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY,
    address TEXT NOT NULL,
    status TEXT NOT NULL,
    file_id TEXT,
    remote_id TEXT,
    remote_status TEXT,
    num_requests INTEGER NOT NULL,
    note TEXT,
    created REAL NOT NULL,
    updated REAL NOT NULL
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS batch_requests (
    batch TEXT NOT NULL,
    position INTEGER NOT NULL,
    hash TEXT NOT NULL,
    request TEXT,
    PRIMARY KEY (batch, position)
) WITHOUT ROWID""",
)
_COLUMNS = "id, address, status, file_id, remote_id, remote_status, created, updated"


@dataclass(slots=True)
class Batch:
    """A batch that is not over."""

    id: str
    """Ours; the service carries it as metadata and in the name of the file."""
    address: str
    status: str
    file_id: str | None
    remote_id: str | None
    remote_status: str | None
    created: float
    """Unix time, in seconds."""
    updated: float
    requests: dict[str, dict[str, Any]]
    """Bodies by hash, in the order of the file's lines."""


class BatchTable:
    """The tables `batches` and `batch_requests` of a ledger.

    Raises:
        RunError: From every method, when the ledger cannot be written.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        with ledger.transaction() as database:
            for statement in _SCHEMA:
                database.execute(statement)

    def open_batches(self) -> list[Batch]:
        """All that are not over, oldest first."""
        query = f"SELECT {_COLUMNS} FROM batches WHERE status IN ('intended', 'creating', 'submitted')"
        bodies = "SELECT hash, request FROM batch_requests WHERE batch = ? ORDER BY position"
        with self._ledger.transaction() as database:
            rows = database.execute(f"{query} ORDER BY created, id").fetchall()
            batches: list[Batch] = []
            for row in rows:
                requests = {key: json.loads(body) for key, body in database.execute(bodies, (row[0],))}
                fields = dict(zip(_COLUMNS.split(", "), row))
                batches.append(Batch(**fields, requests=requests))
        return batches

    def intend(self, address: str, requests: Mapping[str, Mapping[str, Any]]) -> Batch:
        """Write down that these requests are about to be sent as a batch."""
        now = time.time()
        bodies = {key: dict(body) for key, body in requests.items()}
        batch = Batch(uuid.uuid4().hex, address, "intended", None, None, None, now, now, bodies)
        lines = [
            (batch.id, n, key, json.dumps(body, sort_keys=True)) for n, (key, body) in enumerate(bodies.items())
        ]
        with self._ledger.transaction() as database:
            database.execute(
                f"INSERT INTO batches ({_COLUMNS}, num_requests) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (batch.id, address, batch.status, None, None, None, now, now, len(bodies)),
            )
            database.executemany("INSERT INTO batch_requests VALUES (?, ?, ?, ?)", lines)
        return batch

    def update(self, batch: Batch, **changes: Any) -> None:
        """Change fields of a batch, on disk first: status, file_id, remote_id, remote_status."""
        now = time.time()
        names = ", ".join(f"{name} = ?" for name in changes)
        with self._ledger.transaction() as database:
            database.execute(
                f"UPDATE batches SET {names}, updated = ? WHERE id = ?", (*changes.values(), now, batch.id)
            )
        for name, value in changes.items():
            setattr(batch, name, value)
        batch.updated = now

    def finish(self, batch: Batch, status: Status, note: str = "") -> None:
        """A batch is over: nothing of it is in flight any more. Its hashes stay, their bodies are let go."""
        with self._ledger.transaction() as database:
            database.execute(
                "UPDATE batches SET status = ?, note = ?, updated = ? WHERE id = ?",
                (status, note, time.time(), batch.id),
            )
            database.execute("UPDATE batch_requests SET request = NULL WHERE batch = ?", (batch.id,))
        batch.status = status
