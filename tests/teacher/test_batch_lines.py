from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lamer.teacher.batch_lines import Result, read_results, request_line, split

BODY = {"choices": [], "ü": "東\ud800"}


def line(key: str, status: int = 200, **body) -> bytes:
    response = {"status_code": status, "body": body}
    return json.dumps({"custom_id": key, "response": response, "error": None}).encode()


def test_a_request_is_one_ascii_line_with_its_hash():
    text = request_line("abc", {"model": "m", "messages": [{"role": "user", "content": "東\n\ud800\u2028"}]})
    assert text.isascii()
    assert text.count(b"\n") == 1
    assert json.loads(text) == {
        "custom_id": "abc",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "東\n\ud800\u2028"}]},
    }


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 7), st.integers(1, 100))
def test_files_hold_every_line_once_in_order_and_keep_to_the_limits(sizes, max_requests, max_bytes):
    parts = list(split(sizes, max_requests, max_bytes))
    assert [n for part in parts for n in part] == list(range(len(sizes)))
    for part in parts:
        assert 1 <= len(part) <= max_requests
        assert len(part) == 1 or sum(sizes[n] for n in part) <= max_bytes
    for part, following in pairwise(parts):
        is_full = len(part) == max_requests
        assert is_full or sum(sizes[n] for n in part) + sizes[following[0]] > max_bytes


def test_files_are_split_by_hand():
    assert list(split([3, 3, 3, 9, 1], 2, 7)) == [range(2), range(2, 3), range(3, 4), range(4, 5)]
    assert list(split([])) == []


def test_results_are_read_whatever_stands_between_them():
    expired = {"custom_id": "c", "response": None, "error": {"code": "batch_expired", "message": "too late"}}
    content = b"\n".join(
        [
            line("a", text="first"),
            b"",
            line("a", text="second"),
            line("b", 429, error={"message": "slow down"}),
            line("d")[:-9],
            b"[1]",
            b"\xff",
            b'{"custom_id": 3}',
            b'{"custom_id": "e", "response": null, "error": null}',
            b'{"custom_id": "f", "response": {"status_code": 200}}',
            json.dumps(expired).encode(),
            line("b", 200, text="after all") + b"\r",
        ]
    )
    results = read_results(content)
    assert results.by_key == {
        "a": Result(200, {"text": "first"}),
        "b": Result(200, {"text": "after all"}),
        "c": Result(None, {}, "batch_expired", "too late"),
        "f": Result(200, {}),
    }
    assert results.broken == [5, 6, 7, 8, 9]


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode()))
def test_no_bytes_break_the_reader(content):
    results = read_results(content)
    assert len(results.by_key) + len(results.broken) <= content.count(b"\n") + 1


@given(st.recursive(st.none() | st.integers() | st.text(max_size=9), lambda inner: st.lists(inner), max_leaves=5))
def test_no_json_breaks_the_reader(value):
    keys = ("custom_id", "response", "error", "status_code", "body", "code")
    for key in keys:
        row = {"custom_id": "a", "response": {"status_code": 200, "body": {}}, key: value}
        read_results(json.dumps(row).encode())
        read_results(json.dumps({"custom_id": "a", "response": {key: value}, "error": {key: value}}).encode())
    assert read_results(b"[" * 100_000).broken == [1]
