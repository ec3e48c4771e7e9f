"""The files of a batch, as text: requests in, results out (pure).

A request is one line of JSON, known by its `custom_id`, which is the request's hash. The service answers with two
files, results and errors, whose lines come in any order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

URL: Literal["/v1/chat/completions"] = "/v1/chat/completions"
MAX_REQUESTS = 50_000
"""Requests in one file, a limit of the service."""
MAX_BYTES = 190_000_000
"""Bytes of one file; the service takes 200 MB."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of a file of results or errors."""

    status: int | None
    """HTTP status of the request within the batch; None when it was never carried out."""
    body: Mapping[str, Any]
    """The chat completion, or the error's body; empty when there is none."""
    code: str | None = None
    """Why it was not carried out, such as `batch_expired`."""
    message: str | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the body is a chat completion."""
        return self.status == 200


@dataclass(slots=True)
class Results:
    """What could be read of a file."""

    by_key: dict[str, Result] = field(default_factory=dict)
    broken: list[int] = field(default_factory=list)
    """Numbers of lines, from 1, that say nothing."""

    def add(self, other: Results) -> None:
        """Take what `other` has and this has not; an answer goes before an error."""
        for key, result in other.by_key.items():
            if key not in self.by_key or (result.is_ok and not self.by_key[key].is_ok):
                self.by_key[key] = result
        self.broken = other.broken


def request_line(key: str, body: Mapping[str, Any]) -> bytes:
    """One request as a line, its end included; in ASCII, so that no text of a user can break the file."""
    line = {"custom_id": key, "method": "POST", "url": URL, "body": body}
    return json.dumps(line, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def split(sizes: Sequence[int], max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES) -> Iterator[range]:
    """Positions of the lines of each file: as many as fit, in order; every line is in one file.

    Args:
        sizes: Bytes of each line. One above `max_bytes` gets a file of its own, for the service to refuse.
        max_requests: Lines a file may have.
        max_bytes: Bytes a file may have.
    """
    start, num_bytes = 0, 0
    for position, size in enumerate(sizes):
        if position > start and (position - start >= max_requests or num_bytes + size > max_bytes):
            yield range(start, position)
            start, num_bytes = position, 0
        num_bytes += size
    if start < len(sizes):
        yield range(start, len(sizes))


def read_results(content: bytes) -> Results:
    """Every line that can be read; of several about one request, the first, an answer before an error."""
    results = Results()
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        found = _read(line)
        if found is None:
            results.broken.append(number)
            continue
        key, result = found
        known = results.by_key.get(key)
        if known is None or (result.is_ok and not known.is_ok):
            results.by_key[key] = result
    return results


def _read(line: bytes) -> tuple[str, Result] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    key = row.get("custom_id") if isinstance(row, dict) else None
    if not isinstance(key, str):
        return None
    response, error = row.get("response"), row.get("error")
    if isinstance(response, dict) and isinstance(response.get("status_code"), int):
        body = response.get("body")
        return key, Result(response["status_code"], body if isinstance(body, dict) else {})
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        return key, Result(None, {}, str(code) if code else None, str(message) if message else None)
    return None
