from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from lamer.config import TeacherSettings
from lamer.teacher.client import Client
from lamer.teacher.shortcut import Shortcut

BODY = {"model": "m", "messages": [{"role": "user", "content": "naïve 日本 \x00"}], "seed": 0, "temperature": 0.1}
REPLY = {"choices": [{"message": {"content": "the reply"}}], "usage": {"prompt_tokens": 1}}
ERROR = {"error": {"message": "no such thing", "param": "seed", "code": "odd_code", "type": "odd"}}
RESET = b"reset"


def answer(status: str, content: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(content) if length is None else length}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


JSON = "Content-Type: application/json"
GOOD = answer("200 OK", json.dumps(REPLY).encode(), JSON)
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Answers by path with the given bytes and notes every request as it came."""

    def __init__(self, answers: dict[str, bytes | None], context: ssl.SSLContext | None = None) -> None:
        self.answers = answers
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.num_left = 0
        """Connections that the client closed."""
        self.context = context

    async def __aenter__(self) -> Server:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.context)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    def url(self, path: str = "/good") -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((first, headers, body))
                given = self.answers[first.split()[1]]
                if given is None:
                    await reader.read()
                    break
                writer.write(given.removesuffix(RESET))
                await writer.drain()
                if given.endswith(RESET):
                    await asyncio.sleep(0.05)
                    writer.transport.abort()
                    return
        self.num_left += 1
        writer.close()


def client_of(**changes: Any) -> openai.AsyncOpenAI:
    wanted = {
        "api_key": "sk-key",
        "base_url": "http://127.0.0.1:1/v1",
        "max_retries": 0,
        "timeout": 5.0,
        **changes,
    }
    return openai.AsyncOpenAI(http_client=openai.DefaultAioHttpClient(), **wanted)


@contextlib.asynccontextmanager
async def both_ways(url: str, **changes: Any):
    """The client's own way, and the short one."""
    async with client_of(**changes) as plain, client_of(**changes) as client:
        shortcut = Shortcut(client, url)
        try:
            yield lambda body: plain.post(url, cast_to=object, body=body), shortcut.post
        finally:
            await shortcut.close()


async def outcome(post: Callable[[Any], Awaitable[object]], body: object = BODY) -> object:
    try:
        return await post(body)
    except openai.APIStatusError as error:
        told = (type(error), error.status_code, error.code, error.param, error.type, error.message, error.body)
        request = (error.request.method, str(error.request.url), error.request.content)
        return told, error.response.headers.raw, error.response.content, request
    except openai.APIConnectionError as error:
        failure = Client(TeacherSettings(model="m", timeout_s=5.0))._connection_failure(error)
        return str(failure), vars(failure)
    except Exception as error:  # whatever comes, it shall be the same
        return type(error), str(error)


def error(status: str, *headers: str) -> bytes:
    return answer(status, json.dumps(ERROR).encode(), JSON, *headers)


ANSWERS = {
    "good": GOOD,
    "chunked": CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(json.dumps(REPLY)), json.dumps(REPLY).encode()),
    "charset": answer("200 OK", json.dumps(REPLY).encode(), "Content-Type: application/json; charset=utf-8"),
    "other JSON": answer("200 OK", json.dumps(REPLY).encode(), "Content-Type: application/problem+json"),
    "called text": answer("200 OK", json.dumps(REPLY).encode(), "Content-Type: text/plain"),
    "called nothing": answer("200 OK", json.dumps(REPLY).encode()),
    "web page": answer("200 OK", b"<html>\xff</html>", "Content-Type: text/html"),
    "created": answer("201 Created", json.dumps(REPLY).encode(), JSON),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "nothing": answer("200 OK", b"", JSON),
    "gzip": answer("200 OK", gzip.compress(json.dumps(REPLY).encode()), JSON, "Content-Encoding: gzip"),
    "broken gzip": answer("200 OK", b"no gzip at all", JSON, "Content-Encoding: gzip"),
    "invalid JSON": answer("200 OK", b'{"choices": [', JSON),
    "bad UTF-8": answer("200 OK", b'{"choices": "\xff\xfe"}', JSON),
    "lone surrogates": answer("200 OK", rb'{"choices": "\ud800"}', JSON),
    "raw surrogates": answer("200 OK", b'{"choices": "\xed\xa0\x80"}', JSON),
    "UTF-16": answer("200 OK", json.dumps(REPLY).encode("utf-16"), JSON),
    "large": answer("200 OK", json.dumps({"choices": "x" * 5_000_000}).encode(), JSON),
    **{name: error(name) for name in ("400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found")},
    **{name: error(name) for name in ("408 Timeout", "409 Conflict", "413 Large", "422 Odd", "500 Error")},
    "429": error("429 Too Many", "Retry-After: 7", "retry-after-ms: 7000", "x-request-id: r1"),
    "503 page": answer("503 Down", b"<html>down</html>", "Content-Type: text/html"),
    "529": error("529 Overloaded"),
    "gzip error": answer("400 Bad", gzip.compress(json.dumps(ERROR).encode()), JSON, "Content-Encoding: gzip"),
    "error without a body": answer("500 Error", b""),
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "redirect to itself": answer("307 Temporary", b"", "Location: /x"),
    "no HTTP": b"garbage\r\n\r\n",
    "cut": answer("200 OK", b'{"choices": [', JSON, length=999) + RESET,
    "cut chunks": CHUNKED + b"5\r\n" + b'{"cho' + RESET,
    "cut error": answer("500 Error", b'{"error": ', JSON, length=999) + RESET,
    "reset": RESET,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_read_as_the_client_reads_it(name):
    async def compare() -> tuple[object, object]:
        async with Server({"/x": ANSWERS[name]}) as server, both_ways(server.url("/x")) as (plain, short):
            results = await outcome(plain), await outcome(short)
            if name not in ("not modified", "redirect to itself"):  # which are asked again
                assert len(server.requests) == 2
            return results

    plain, short = asyncio.run(compare())
    assert short == plain
    if name in ("good", "chunked", "charset", "other JSON", "gzip", "created"):
        assert short == REPLY


def test_the_server_gets_the_same_request():
    async def requests() -> list[tuple[str, dict[str, str], bytes]]:
        async with Server({"/good": GOOD}) as server, both_ways(server.url()) as ways:
            for post in ways:
                for body in (BODY, BODY | {"seed": 1}):
                    await post(body)
            return server.requests

    plain, plain_again, short, short_again = asyncio.run(requests())
    assert short == plain
    assert short_again == plain_again
    assert short[1]["authorization"] == "bearer sk-key"
    assert json.loads(short[2]) == BODY


@pytest.mark.parametrize("value", ["\ud800", float("nan"), object()], ids=repr)
def test_what_cannot_be_sent_fails_in_the_same_way(value):
    async def compare() -> tuple[object, object, int]:
        async with Server({"/good": GOOD}) as server, both_ways(server.url()) as (plain, short):
            return await outcome(plain, {"n": value}), await outcome(short, {"n": value}), len(server.requests)

    plain, short, num_requests = asyncio.run(compare())
    assert isinstance(short, tuple)
    assert isinstance(plain, tuple)
    assert short[0] is plain[0]
    assert num_requests == 0


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_followed_as_the_client_follows_it(status):
    async def compare() -> tuple[object, object, list[str]]:
        moved = answer(status, b"", "Location: /good")
        async with (
            Server({"/old": moved, "/good": GOOD}) as server,
            both_ways(server.url("/old")) as (plain, short),
        ):
            results = await outcome(plain), await outcome(short)
            before = len(server.requests)
            assert await outcome(short) == results[0]
            return *results, [first.split()[0] for first, _, _ in server.requests[before:]]

    plain, short, methods = asyncio.run(compare())
    assert short == plain == REPLY
    assert methods == (["POST", "GET"] if status[:3] in ("301", "302") else ["POST", "POST"])


def test_cookies_are_kept():
    async def cookies() -> list[str | None]:
        cookie = answer("200 OK", json.dumps(REPLY).encode(), JSON, "Set-Cookie: seat=12; Path=/")
        async with Server({"/good": cookie}) as server, both_ways(server.url()) as ways:
            for post in ways:
                await post(BODY)
                await post(BODY)
            return [headers.get("cookie") for _, headers, _ in server.requests]

    assert asyncio.run(cookies()) == [None, "seat=12"] * 2


def test_a_server_that_says_nothing_is_a_timeout():
    async def compare() -> tuple[object, object]:
        async with Server({"/x": None}) as server, both_ways(server.url("/x"), timeout=0.2) as (plain, short):
            return await outcome(plain), await outcome(short)

    plain, short = asyncio.run(compare())
    assert short == plain
    assert short[1]["is_timeout"]
    assert short[1]["may_be_paid"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/x", "http://host.invalid:1/x", "http://127.0.0.1:99999/x"]
)
def test_a_server_that_is_not_there_is_unreachable(url):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = url.format(port=probe.getsockname()[1])

    async def compare() -> tuple[object, object]:
        async with both_ways(url) as (plain, short):
            return await outcome(plain), await outcome(short)

    plain, short = asyncio.run(compare())
    assert short == plain


def test_a_request_that_is_given_up_frees_its_connection():
    async def left() -> int:
        async with Server({"/x": None}) as server, both_ways(server.url("/x")) as (_, short):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await short(BODY)
            await asyncio.sleep(0.1)
            return server.num_left

    assert asyncio.run(left()) == 1


def test_first_requests_at_once_share_one_session(monkeypatch):
    made = []
    new_session = Shortcut._new_session
    monkeypatch.setattr(Shortcut, "_new_session", lambda *given: made.append(new_session(*given)) or made[-1])

    async def ask() -> list[object]:
        async with Server({"/good": GOOD}) as server, both_ways(server.url()) as (_, short):
            return await asyncio.gather(*(short(BODY) for _ in range(8)))

    assert asyncio.run(ask()) == [REPLY] * 8
    assert len(made) == 1


@pytest.mark.parametrize(("no_proxy", "is_proxied"), [("", True), ("localhost, 127.0.0.1", False), ("*", False)])
def test_a_proxy_of_the_environment_is_used(monkeypatch, no_proxy, is_proxied):
    async def ask() -> tuple[int, int]:
        async with Server({"/good": GOOD}) as server, Server({}) as proxy:
            proxy.answers[server.url()] = GOOD  # a proxy is sent the whole address
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", no_proxy)
            async with both_ways(server.url()) as ways:
                assert [await post(BODY) for post in ways] == [REPLY] * 2
            return len(server.requests), len(proxy.requests)

    assert asyncio.run(ask()) == ((0, 2) if is_proxied else (2, 0))


def test_headers_that_change_are_left_to_the_client(monkeypatch):
    class Counting(openai.AsyncOpenAI):
        num_asked = 0

        @property
        def default_headers(self):
            Counting.num_asked += 1
            return {**super().default_headers, "Idempotency-Key": f"k{Counting.num_asked}"}

    monkeypatch.setattr(openai, "AsyncOpenAI", Counting)

    async def keys() -> set[str]:
        async with Server({"/good": GOOD}) as server, both_ways(server.url()) as (_, short):
            for _ in range(3):
                assert await short(BODY) == REPLY
            return {headers["idempotency-key"] for _, headers, _ in server.requests}

    assert len(asyncio.run(keys())) == 3


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_certificates_of_the_environment_are_trusted_and_no_others(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def compare() -> tuple[object, object]:
        async with Server({"/good": GOOD}, context) as server, both_ways(server.url()) as (plain, short):
            return await outcome(plain), await outcome(short)

    plain, short = asyncio.run(compare())
    assert short == plain
    assert short[1]["is_unreachable"]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert asyncio.run(compare()) == (REPLY, REPLY)
