from __future__ import annotations

import http.client
import json
import socket
import time
from collections import Counter
from urllib.parse import urlsplit

import pytest

from lamer.testing import Fault, TeacherServer, all_faults, random_faults
from lamer.testing.faults import body_hash

BODY = {"model": "m", "messages": [{"role": "user", "content": "one two three four"}]}


def say(messages, **sampling) -> str:
    return messages[-1]["content"]


def post(server: TeacherServer, body: object = BODY) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a reply, without a client that knows better."""
    address = urlsplit(server.base_url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def test_the_mixture_is_the_same_for_the_same_seed_and_has_the_rate_asked_for():
    first, again, other = random_faults(0.3, 1), random_faults(0.3, 1), random_faults(0.3, 2)
    drawn = [first(number) for number in range(4000)]
    assert [again(number) for number in reversed(range(4000))] == drawn[::-1]
    assert [other(number) for number in range(4000)] != drawn
    assert 0.27 < sum(fault is not None for fault in drawn) / 4000 < 0.33  # 0.3 +- 4 standard errors
    assert {fault.kind for fault in drawn if fault} == {fault.kind for fault in all_faults()}
    assert all(random_faults(0.0)(number) is None for number in range(100))
    assert {random_faults(1.0, kinds=[Fault(status=500)])(number) for number in range(9)} == {Fault(status=500)}


def test_a_mixture_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"not 1\.5"):
        random_faults(1.5)
    with pytest.raises(ValueError, match="kinds is empty"):
        random_faults(0.5, kinds=[])


def test_every_kind_has_a_name_of_its_own():
    kinds = [fault.kind for fault in all_faults()]
    assert len(set(kinds)) == len(kinds) >= 25
    assert Fault().kind == ""
    assert Fault(status=429, retry_after=150).kind == "429 Retry-After 150"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(body="empty"), b""),
        (Fault(body="error object"), b'{"error": {"message": "upstream failed", "code": 502}}'),
    ],
)
def test_a_body_that_is_no_completion_is_sent_as_such(fault, expected):
    with TeacherServer(say, faults=[fault]) as server:
        status, _, body = post(server)
        assert (status, body) == (200, expected)
        assert not server.answered


def test_a_web_page_says_so():
    with TeacherServer(say, faults=[Fault(body="web page")]) as server:
        status, headers, body = post(server)
        assert (status, headers["Content-Type"], body[:6]) == (200, "text/html", b"<html>")


@pytest.mark.parametrize(
    ("fault", "path", "expected"),
    [
        (Fault(body="empty choices"), ["choices"], []),
        (Fault(body="choices as text"), ["choices"], "none"),
        (Fault(body="message as text"), ["choices", 0, "message"], "one two three four"),
        (
            Fault(body="content as list"),
            ["choices", 0, "message", "content"],
            [{"type": "text", "text": "one two three four"}],
        ),
        (Fault(body="no content"), ["choices", 0, "message", "content"], None),
        (Fault(body="usage as text"), ["usage", "prompt_tokens"], "about 4"),
        (Fault(is_cut=True, finish_reason="length"), ["choices", 0, "message", "content"], "one two t"),
        (Fault(is_cut=True, finish_reason="length"), ["choices", 0, "finish_reason"], "length"),
    ],
    ids=str,
)
def test_one_part_of_a_completion_is_wrong(fault, path, expected):
    with TeacherServer(say, faults=[fault]) as server:
        found = json.loads(post(server)[2])
        for key in path:
            found = found[key]
        assert found == expected


def test_parts_can_be_missing():
    with TeacherServer(say, faults=[Fault(body="no message"), Fault(body="no usage"), None]) as server:
        without_message, without_usage, whole = (json.loads(post(server)[2]) for _ in range(3))
    assert set(whole["choices"][0]) - set(without_message["choices"][0]) == {"message"}
    assert set(whole) - set(without_usage) == {"usage"}


def test_a_stale_reply_is_that_of_the_request_before():
    with TeacherServer(say, faults=[Fault(is_stale=True), Fault(is_stale=True), None]) as server:
        texts = []
        for text in ("first", "second", "third"):
            reply = json.loads(post(server, {"messages": [{"role": "user", "content": text}]})[2])
            texts.append(reply["choices"][0]["message"]["content"])
    assert texts == ["first", "first", "third"]


def test_a_reply_sent_twice_is_on_the_wire_twice_and_counts_once():
    with TeacherServer(say, faults=[Fault(is_sent_twice=True)]) as server:
        address = urlsplit(server.base_url)
        with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
            body = json.dumps(BODY).encode()
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            connection.sendall(head.encode() + body)
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        assert received.count(b"HTTP/1.1 200") == received.count(b'"one two three four"') == 2
        assert server.answered == Counter({body_hash(BODY): 1})


def test_a_trickled_body_takes_its_time_and_arrives_whole():
    with TeacherServer(say, faults=[Fault(trickle_s=0.2), None]) as server:
        started = time.monotonic()
        first = json.loads(post(server)[2])
        assert time.monotonic() - started >= 0.2  # no less than the server sleeps
        assert first["choices"] == json.loads(post(server)[2])["choices"]


def test_the_server_counts_usable_replies_per_request_and_faults_per_kind():
    faults = [Fault(status=500), Fault(body="empty choices"), None, Fault(body="no usage"), Fault(status=500)]
    other = BODY | {"seed": 1}
    with TeacherServer(say, faults=faults) as server:
        for body in (BODY, BODY, BODY, dict(reversed(BODY.items())), other, other):
            post(server, body)
        assert server.faults_served == {"500": 2, "empty choices": 1, "no usage": 1}
        assert server.answered == {body_hash(BODY): 2, body_hash(other): 1}
        assert server.num_answered_again == 1


def test_a_reply_to_a_client_that_has_gone_is_no_answer():
    with TeacherServer(say, faults=[Fault(delay_s=0.2)]) as server:
        address = urlsplit(server.base_url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
        connection.request("POST", "/v1/chat/completions", json.dumps(BODY))
        connection.close()
        deadline = time.monotonic() + 10
        while not server.num_abandoned and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (server.num_abandoned, server.num_requests) == (1, 1)
        assert not server.answered
