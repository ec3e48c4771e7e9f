"""A small HTTP server of this process, to test clients with: what `lamer.testing`'s servers have in common.

It speaks HTTP/1.1 in threads, asks for a key, lists its model, and does what its script of faults says.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from lamer.testing.faults import Fault, Faults, body_hash, spoil

NUM_PARTS = 10
"""Of a body that is sent bit by bit."""


@dataclass(frozen=True, slots=True)
class Routed:
    """An answer to a call that is none to the server's main path."""

    payload: bytes
    fault: Fault
    """What goes wrong on the way."""


class RefusedError(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class LocalServer:
    """Serves POST requests to one path, and `/v1/models`.

    Subclasses give `path` and `answer`, and `route` if they serve other paths too.

    Args:
        faults: Per request, counted from 0, a `Fault` or None; a sequence, after whose end all is well, or a
            function of the number.
        model: The only model it offers; a request for another one is refused with status 404. None accepts any.
        api_key: The key it asks for; None accepts any.
        port: Where it listens; 0 takes a free one.
    """

    path: str
    """What it answers, such as `/v1/completions`."""
    fallback_name = "model"
    """What the model list says when any model is accepted."""

    def __init__(
        self,
        *,
        faults: Faults = (),
        model: str | None = None,
        api_key: str | None = None,
        port: int = 0,
    ) -> None:
        self.faults = faults
        self.model = model
        self.api_key = api_key
        self.requests: list[dict[str, Any]] = []
        """Bodies of all requests, failed ones included, in order of arrival."""
        self.num_replies = 0
        """Requests answered with status 200 and a whole body."""
        self.faults_served: Counter[str] = Counter()
        """Requests that met a fault, by its kind."""
        self.answered: Counter[str] = Counter()
        """Replies that a client could use and would pay for, by the `body_hash` of the request."""
        self.num_abandoned = 0
        """Requests whose client had gone before it had the whole reply."""
        self.lock = threading.Lock()
        self.last_choices: object = None
        """Of the last reply to any request."""
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.owner = self
        self._thread: threading.Thread | None = None

    def answer(self, number: int, body: Mapping[str, Any], fault: Fault) -> dict[str, Any]:
        """The reply to request `number`.

        Raises:
            RefusedError: To answer with an error status; any other exception becomes status 500.
        """
        raise NotImplementedError

    def route(self, method: str, target: str, raw: bytes, content_type: str) -> Routed | None:
        """The answer to a call of another path; None if there is none.

        Raises:
            RefusedError: As for `answer`.
        """
        return None

    def model_entry(self) -> dict[str, Any]:
        """The model's row in the list of models."""
        return {"id": self.model or self.fallback_name, "object": "model", "created": 0, "owned_by": "lamer"}

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def num_requests(self) -> int:
        """Requests so far."""
        return len(self.requests)

    @property
    def num_answered_again(self) -> int:
        """Usable replies beyond the first to the same request: money paid twice."""
        return self.answered.total() - len(self.answered)

    def start(self) -> Self:
        """Serve in a background thread."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and free the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def fault(self, number: int) -> Fault | None:
        """What goes wrong with request `number`."""
        if callable(self.faults):
            return self.faults(number)
        return self.faults[number] if number < len(self.faults) else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: LocalServer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        """List the models."""
        if self._refused() or self._routed(b""):
            return
        if self.path.rstrip("/") != "/v1/models":
            self._error(404, f"no such path: {self.path}")
            return
        self._send(200, json.dumps({"object": "list", "data": [self.server.owner.model_entry()]}))

    def do_POST(self) -> None:
        """Answer a request."""
        owner = self.server.owner
        raw = self._body()
        if self._refused() or self._routed(raw):
            return
        if self.path.rstrip("/") != owner.path:
            self._error(404, f"no such path: {self.path}")
            return
        try:
            body = dict(json.loads(raw))
        except (ValueError, TypeError) as error:
            self._error(400, f"not a JSON object: {error}")
            return
        with owner.lock:
            number = len(owner.requests)
            owner.requests.append(body)
        fault = owner.fault(number) or Fault()
        if fault != Fault():
            with owner.lock:
                owner.faults_served[fault.kind] += 1
        if fault.delay_s:
            time.sleep(fault.delay_s)
        if fault.reset:
            self._reset()
            return
        if fault.status is not None:
            headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            self._error(fault.status, f"scripted fault on request {number}", headers)
            return
        if owner.model is not None and body.get("model") != owner.model:
            self._error(404, f"no such model: {body.get('model')}; this server has {owner.model}")
            return
        self._answer(number, body, fault)

    def _answer(self, number: int, body: Mapping[str, Any], fault: Fault) -> None:
        owner = self.server.owner
        try:
            reply = owner.answer(number, body, fault)
        except RefusedError as error:
            self._error(error.status, str(error))
            return
        except Exception as error:  # the edge: whatever the reply function raises is the server's failure
            self._error(500, f"{type(error).__name__}: {error}")
            return
        with owner.lock:
            if fault.is_stale and owner.last_choices is not None:
                reply = reply | {"choices": owner.last_choices}
            owner.last_choices = reply.get("choices")
        payload = spoil(reply, fault)
        if fault.body == "truncated":
            self._send(200, payload, cut=len(payload) // 2)
            return
        if fault.trickle_s:
            with contextlib.suppress(OSError):
                self._send(200, payload, trickle_s=fault.trickle_s)
        if self._has_left():
            with owner.lock:
                owner.num_abandoned += 1
            self.close_connection = True
            return
        with owner.lock:
            owner.num_replies += fault.body not in ("invalid json", "empty")
            if fault.is_answer:
                owner.answered[body_hash(body)] += 1
        if not fault.trickle_s:
            self._send(200, payload)
        if fault.is_sent_twice:
            self._send(200, payload)

    def _has_left(self) -> bool:
        """Whether the client has closed the connection and waits for no reply."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        try:
            return bool(poll.poll(0)) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _body(self) -> bytes:
        """All of the request's body, also when it comes in chunks."""
        if "chunked" not in (self.headers.get("Transfer-Encoding") or "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _routed(self, raw: bytes) -> bool:
        """Answer a call of another path; False if there is no such path."""
        try:
            routed = self.server.owner.route(self.command, self.path, raw, self.headers.get("Content-Type") or "")
        except RefusedError as error:
            self._error(error.status, str(error))
            return True
        except Exception as error:  # the edge: whatever a call raises is the server's failure
            self._error(500, f"{type(error).__name__}: {error}")
            return True
        if routed is None:
            return False
        fault = routed.fault
        if fault.delay_s:
            time.sleep(fault.delay_s)
        if fault.reset:
            self._reset()
        elif fault.status is not None:
            headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            self._error(fault.status, f"scripted fault on {self.command} {self.path}", headers)
        elif fault.body == "invalid json":
            self._send(200, "{" + routed.payload.decode()[:20].replace('"', ""))
        else:
            cut = len(routed.payload) // 2 if fault.body == "truncated" else None
            self._send(200, routed.payload.decode(), cut=cut)
        return True

    def _refused(self) -> bool:
        owner = self.server.owner
        if owner.api_key is None or self.headers.get("Authorization") == f"Bearer {owner.api_key}":
            return False
        self._error(401, "wrong or missing API key")
        return True

    def _error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        error = {"message": message, "type": "error", "param": None, "code": str(status)}
        self._send(status, json.dumps({"error": error}), headers)

    def _send(
        self,
        status: int,
        text: str,
        headers: Mapping[str, str] | None = None,
        *,
        cut: int | None = None,
        trickle_s: float = 0.0,
    ) -> None:
        payload = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if text.startswith("<") else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if trickle_s:
            self._trickle(payload, trickle_s)
        else:
            self.wfile.write(payload if cut is None else payload[:cut])
        if cut is not None:
            self.wfile.flush()
            self._reset()

    def _trickle(self, payload: bytes, seconds: float) -> None:
        for part in range(NUM_PARTS):
            time.sleep(seconds / NUM_PARTS)
            self.wfile.write(payload[part * len(payload) // NUM_PARTS : (part + 1) * len(payload) // NUM_PARTS])
            self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
