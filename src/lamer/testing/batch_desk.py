"""A Batch API to test with: files and batches in memory, and a script of what goes wrong.

    desk = BatchDesk([BatchFault(status="expired", share=0.5)])
    with TeacherServer(reply, desk=desk) as server: ...

A batch moves on each time it is looked at, so nothing depends on the clock. The desk outlives its server: give it
to the next one and that is a server started again.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from lamer.testing.faults import Fault
from lamer.testing.local_server import RefusedError, Routed

Call = Literal["upload", "files", "download", "create", "poll", "list", "cancel"]
Complete = Callable[[int, Mapping[str, Any]], dict[str, Any]]
"""`complete(number, body) -> chat completion`."""
PAGE_SIZE = 20


@dataclass(frozen=True, slots=True)
class BatchFault:
    """What goes wrong with one batch."""

    status: Literal["completed", "failed", "expired", "cancelled"] = "completed"
    """How it ends."""
    share: float = 0.5
    """Of its requests, answered before the end of one that expires, is cancelled or fails with `is_late`."""
    num_looks: int = 1
    """How often it has to be looked at until it ends."""
    code: str | None = "server_error"
    """Why it failed."""
    line: int | None = None
    """Which line of the file it failed of."""
    is_late: bool = False
    """It fails after `share` of the requests were answered, not before the first."""
    errors: Callable[[int], int | None] = lambda position: None
    """HTTP status of requests that fail, by position."""
    error_message: str = "scripted fault"
    num_broken: int = 0
    """Lines of the output that are cut in half; their requests count as answered."""
    num_missing: int = 0
    """Lines of the output that are left out."""
    is_shuffled: bool = False
    is_doubled: bool = False
    """Every line of the output comes twice."""
    num_cut_downloads: int = 0
    """Downloads of the output that stop in the middle of it without an error."""


@dataclass(slots=True)
class _Batch:
    public: dict[str, Any]
    fault: BatchFault
    requests: list[dict[str, Any]]
    """Lines of the file of requests."""
    num_looks: int = 0
    num_done: int = 0
    num_downloads: int = 0
    output: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class BatchDesk:
    """The files and batches of one account.

    Args:
        batch_faults: Per batch, counted from 0, what goes wrong; a sequence or a function.
        call_faults: Per kind of call, what goes wrong with each of them in order: an HTTP fault, or None.
        max_requests: Requests a file may have.
        max_enqueued: Requests that may be in open batches; a batch above it fails with `token_limit_exceeded`.
        page_size: Most rows of a page, whatever the client asks for.
        on_call: Called with the kind of call and "before" or "after" it is carried out, before the answer is sent.
        keeps_metadata: False drops it, as poor copies of the service do.
        num_late_lists: Lists of batches that do not have a new batch yet.
    """

    def __init__(
        self,
        batch_faults: Sequence[BatchFault | None] | Callable[[int], BatchFault | None] = (),
        *,
        call_faults: Mapping[Call, Sequence[Fault | None]] | None = None,
        max_requests: int = 50_000,
        max_enqueued: int | None = None,
        page_size: int = PAGE_SIZE,
        on_call: Callable[[Call, str], None] | None = None,
        keeps_metadata: bool = True,
        num_late_lists: int = 0,
    ) -> None:
        self.batch_faults = batch_faults
        self.call_faults = {kind: list(faults) for kind, faults in (call_faults or {}).items()}
        self.max_requests = max_requests
        self.max_enqueued = max_enqueued
        self.page_size = page_size
        self.on_call = on_call
        self.keeps_metadata = keeps_metadata
        self.num_late_lists = num_late_lists
        self.calls: Counter[str] = Counter()
        """Calls by kind, failed ones included."""
        self.answered: Counter[str] = Counter()
        """How often each request, as canonical JSON of its body, was answered, and is to be paid."""
        self.num_batches_accepted = 0
        self.files: dict[str, dict[str, Any]] = {}
        self._contents: dict[str, bytes] = {}
        self._batches: dict[str, _Batch] = {}
        self._lock = threading.RLock()

    @property
    def batches(self) -> list[dict[str, Any]]:
        """All batches as the service tells them, oldest first."""
        return [batch.public for batch in self._batches.values()]

    def route(self, method: str, target: str, raw: bytes, content_type: str, complete: Complete) -> Routed | None:
        """Answer a call; None if it is not for this desk.

        Raises:
            RefusedError: To answer with an error status.
        """
        address = urlsplit(target)
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        path = address.path.rstrip("/").removeprefix("/v1/").split("/")
        kind = _kind(method, path)
        if kind is None:
            return None
        fault = self._start(kind)
        if fault.status is not None and not fault.is_late:
            return Routed(b"", fault)
        if fault.reset and not fault.is_late:
            return Routed(b"", fault)
        self._report(kind, "before")
        with self._lock:
            payload = self._carry_out(kind, path, query, raw, content_type, complete)
        self._report(kind, "after")
        return Routed(payload if isinstance(payload, bytes) else json.dumps(payload).encode(), fault)

    def _start(self, kind: Call) -> Fault:
        with self._lock:
            self.calls[kind] += 1
            faults = self.call_faults.get(kind)
            fault = faults.pop(0) if faults else None
        return fault or Fault()

    def _report(self, kind: Call, moment: str) -> None:
        if self.on_call is not None:
            self.on_call(kind, moment)

    def _carry_out(
        self,
        kind: Call,
        path: list[str],
        query: Mapping[str, str],
        raw: bytes,
        content_type: str,
        complete: Complete,
    ) -> dict[str, Any] | bytes:
        if kind == "upload":
            return self._upload(raw, content_type)
        if kind == "files":
            return self._page(list(self.files.values()), query)
        if kind == "download":
            return self._download(path[1])
        if kind == "create":
            return self._create(json.loads(raw))
        if kind == "list":
            self.num_late_lists -= 1
            return self._page([] if self.num_late_lists >= 0 else self.batches, query)
        batch = self._batches.get(path[1])
        if batch is None:
            raise RefusedError(404, f"no such batch: {path[1]}")
        if kind == "cancel":
            self._cancel(batch)
        else:
            self._advance(batch, complete)
        return batch.public

    def _upload(self, raw: bytes, content_type: str) -> dict[str, Any]:
        parts = _multipart(raw, content_type)
        name, content = parts["file"]
        if parts["purpose"][1] != b"batch":
            raise RefusedError(400, "purpose is not batch")
        return self._keep(name or "file", content, "batch")

    def _keep(self, name: str, content: bytes, purpose: str) -> dict[str, Any]:
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = {
            "id": file_id, "object": "file", "bytes": len(content), "created_at": int(time.time()),
            "filename": name, "purpose": purpose, "status": "processed",
        }  # fmt: skip
        self._contents[file_id] = content
        return self.files[file_id]

    def _download(self, file_id: str) -> bytes:
        if file_id not in self._contents:
            raise RefusedError(404, f"no such file: {file_id}")
        content = self._contents[file_id]
        for batch in self._batches.values():
            if batch.public["output_file_id"] == file_id:
                batch.num_downloads += 1
                if batch.num_downloads <= batch.fault.num_cut_downloads:
                    return content[: 2 * len(content) // 3]
        return content

    def forget_file(self, file_id: str) -> None:
        """Delete a file, as the service does with old ones."""
        with self._lock:
            del self._contents[file_id]

    def forget_batch(self, batch_id: str) -> None:
        """Make a batch unknown, as it is for the key of another account."""
        with self._lock:
            del self._batches[batch_id]

    def _create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if (body["endpoint"], body["completion_window"]) != ("/v1/chat/completions", "24h"):
            raise RefusedError(400, "no such endpoint or completion window")
        if body["input_file_id"] not in self._contents:
            raise RefusedError(404, f"no such file: {body['input_file_id']}")
        requests = [json.loads(line) for line in self._contents[body["input_file_id"]].splitlines() if line]
        number = len(self._batches)
        faults = self.batch_faults
        fault = faults(number) if callable(faults) else faults[number] if number < len(faults) else None
        now = int(time.time())
        batch_id = f"batch_{number}"
        public = {
            "id": batch_id, "object": "batch", "endpoint": body["endpoint"], "errors": None,
            "input_file_id": body["input_file_id"], "completion_window": "24h", "status": "validating",
            "output_file_id": None, "error_file_id": None, "created_at": now, "expires_at": now + 86400,
            "completed_at": None, "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": dict(body.get("metadata") or {}) if self.keeps_metadata else None,
        }  # fmt: skip
        self._batches[batch_id] = _Batch(public, fault or BatchFault(), requests)
        return public

    def _cancel(self, batch: _Batch) -> None:
        if batch.public["status"] in ("completed", "failed", "expired", "cancelled"):
            raise RefusedError(409, f"cannot cancel a batch that has {batch.public['status']}")
        batch.public["status"] = "cancelling"

    def _advance(self, batch: _Batch, complete: Complete) -> None:
        """What happens between two looks."""
        status, fault = batch.public["status"], batch.fault
        if status in ("completed", "failed", "expired", "cancelled"):
            return
        if status == "cancelling":
            self._end(batch, "cancelled", "batch_cancelled")
            return
        if status == "validating":
            problem = self._problem(batch)
            if problem is not None:
                self._fail(batch, *problem)
                return
            self.num_batches_accepted += 1
            batch.public["status"] = "in_progress"
            batch.public["request_counts"]["total"] = len(batch.requests)
        batch.num_looks += 1
        share = 1.0 if fault.status == "completed" else fault.share
        progress = min(batch.num_looks / fault.num_looks, 1.0)
        while batch.num_done < int(len(batch.requests) * share * progress):
            self._answer(batch, complete)
        if batch.num_looks >= fault.num_looks:
            self._end(batch, fault.status, "batch_expired")

    def _problem(self, batch: _Batch) -> tuple[str, str, int | None] | None:
        fault = batch.fault
        if fault.status == "failed" and not fault.is_late:
            return fault.code or "server_error", fault.error_message, fault.line
        if len(batch.requests) > self.max_requests:
            return "too_many_tasks", f"the file has more than {self.max_requests} requests", None
        keys = [request["custom_id"] for request in batch.requests]
        if len(set(keys)) < len(keys):
            return "duplicate_custom_id", "a custom_id comes twice", None
        if self.max_enqueued is not None:
            running = ("in_progress", "cancelling")
            num_open = sum(len(b.requests) for b in self._batches.values() if b.public["status"] in running)
            if num_open + len(keys) > self.max_enqueued:
                return "token_limit_exceeded", "Enqueued token limit reached", None
        return None

    def _fail(self, batch: _Batch, code: str, message: str, line: int | None) -> None:
        batch.public["status"] = "failed"
        error = {"code": code, "message": message, "line": line, "param": None}
        batch.public["errors"] = {"object": "list", "data": [error]}

    def _answer(self, batch: _Batch, complete: Complete) -> None:
        """Carry out the next request of a batch."""
        request = batch.requests[batch.num_done]
        status = batch.fault.errors(batch.num_done)
        batch.num_done += 1
        counts = batch.public["request_counts"]
        if status is None:
            try:
                body = complete(batch.num_done, request["body"])
            except Exception as error:  # the edge: whatever the reply function raises is the server's failure
                status, message = 500, f"{type(error).__name__}: {error}"
            else:
                self.answered[json.dumps(request["body"], sort_keys=True)] += 1
                counts["completed"] += 1
                batch.output.append(_line(request["custom_id"], 200, body))
                return
        else:
            message = batch.fault.error_message
        counts["failed"] += 1
        error_body = {"error": {"message": message, "type": "error", "param": None, "code": None}}
        batch.errors.append(_line(request["custom_id"], status, error_body))

    def _end(self, batch: _Batch, status: str, code: str) -> None:
        """Write the files."""
        fault, public = batch.fault, batch.public
        if status == "failed":
            self._fail(batch, fault.code or "server_error", fault.error_message, None)
        else:
            for request in batch.requests[batch.num_done :]:
                error = {"code": code, "message": f"This request could not be executed: {code}"}
                batch.errors.append(
                    json.dumps({"custom_id": request["custom_id"], "response": None, "error": error})
                )
        output = batch.output[fault.num_missing :]
        output = [
            line[: len(line) // 2] if number < fault.num_broken else line for number, line in enumerate(output)
        ]
        output = output * 2 if fault.is_doubled else output
        if fault.is_shuffled:
            random.Random(len(output)).shuffle(output)
        for name, lines in (("output_file_id", output), ("error_file_id", batch.errors)):
            if lines:
                content = "".join(f"{line}\n" for line in lines).encode()
                public[name] = self._keep(f"{public['id']}_{name}.jsonl", content, "batch_output")["id"]
        public["status"], public["completed_at"] = status, int(time.time())

    def _page(self, rows: Sequence[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
        """Newest first, after a cursor."""
        wanted = query.get("purpose")
        newest = [row for row in reversed(rows) if wanted is None or row.get("purpose") == wanted]
        ids = [row["id"] for row in newest]
        start = ids.index(query["after"]) + 1 if "after" in query else 0
        end = start + min(int(query.get("limit", self.page_size)), self.page_size)
        page = newest[start:end]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": end < len(newest),
        }


def _kind(method: str, path: Sequence[str]) -> Call | None:
    """Which call a path means."""
    kinds: dict[tuple[str, str, int, str], Call] = {
        ("POST", "files", 1, "files"): "upload",
        ("GET", "files", 1, "files"): "files",
        ("GET", "files", 3, "content"): "download",
        ("POST", "batches", 1, "batches"): "create",
        ("GET", "batches", 1, "batches"): "list",
        ("POST", "batches", 3, "cancel"): "cancel",
    }
    if method == "GET" and path[0] == "batches" and len(path) == 2:
        return "poll"
    return kinds.get((method, path[0], len(path), path[-1]))


def _line(key: str, status: int, body: Mapping[str, Any]) -> str:
    response = {"status_code": status, "request_id": f"req_{key[:8]}", "body": body}
    return json.dumps({"id": f"batch_req_{key[:8]}", "custom_id": key, "response": response, "error": None})


def _multipart(raw: bytes, content_type: str) -> dict[str, tuple[str | None, bytes]]:
    """Name to (file name, content) of a form."""
    match = re.search(r'boundary="?([^";]+)', content_type)
    if match is None:
        raise RefusedError(400, "not a multipart form")
    fields: dict[str, tuple[str | None, bytes]] = {}
    for part in raw.split(b"--" + match[1].encode())[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        names = dict(re.findall(r'(\bname|filename)="([^"]*)"', head.decode("utf-8", "replace")))
        fields[names["name"]] = (names.get("filename"), content.removesuffix(b"\r\n"))
    return fields
