from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lamer.teacher.retry import (
    MAX_BACKOFF_S,
    backoff_s,
    duration_s,
    fault_of,
    is_overload,
    retry_after_s,
    wait_asked_s,
)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again(status):
    assert fault_of(status) == "transient"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_concerns_every_request_is_fatal(status):
    assert fault_of(status) == "fatal"


def test_an_empty_purse_is_fatal_although_it_looks_like_a_rate_limit():
    assert fault_of(429, "insufficient_quota") == "fatal"
    assert fault_of(429, "rate_limit_exceeded") == "transient"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_concerns_one_request_is_its_own_fault(status):
    assert fault_of(status) == "request"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("0", 0.0), ("1.5", 1.5), ("-3", 0.0), ("150", 150.0), ("99999", 99999.0),
        ("soon", None), ("nan", None), ("inf", float("inf")), ("", None),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0), ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:30 -0000", 30.0),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(header, seconds):
    assert retry_after_s(header, datetime(2015, 10, 21, 7, 28, tzinfo=UTC)) == seconds


def test_the_wait_doubles_within_its_jitter_and_has_a_cap():
    assert backoff_s(1, 0.5) == pytest.approx(0.5)
    assert backoff_s(3, 0.5) == pytest.approx(2.0)
    assert backoff_s(2, 0.0) == pytest.approx(0.75)
    assert backoff_s(10_000, 0.5) == pytest.approx(MAX_BACKOFF_S)


@pytest.mark.parametrize(
    ("status", "expected"), [(429, True), (503, True), (529, True), (500, False), (408, False)]
)
def test_an_overloaded_server_is_told_from_a_broken_one(status, expected):
    assert is_overload(status) is expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0), ("6m0s", 360.0), ("120ms", 0.12), ("1h2m3s", 3723.0), ("1.5s", 1.5), ("2m", 120.0),
        ("1s500ms", 1.5), ("", None), ("soon", None), ("5", None), ("1..5s", None), ("-1s", None),
    ],
)  # fmt: skip
def test_durations_as_rate_limits_are_told_in(text, seconds):
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


def limits(requests: tuple[str, str], tokens: tuple[str, str]) -> dict[str, str]:
    return {
        "x-ratelimit-remaining-requests": requests[0],
        "x-ratelimit-reset-requests": requests[1],
        "x-ratelimit-remaining-tokens": tokens[0],
        "x-ratelimit-reset-tokens": tokens[1],
    }


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7", **limits(("0", "9s"), ("0", "9s"))}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon", **limits(("0", "2s"), ("50", "9s"))}, 2.0),
        (limits(("0", "2s"), ("0", "1m")), 60.0),
        (limits(("5", "2s"), ("50", "1m")), None),
        (limits(("0", "?"), ("50", "1m")), None),
    ],
)
def test_the_wait_is_what_the_headers_of_an_error_say(headers, seconds):
    assert wait_asked_s(headers) == seconds
