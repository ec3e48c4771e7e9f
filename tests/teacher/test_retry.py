from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lamer.teacher.retry import MAX_BACKOFF_S, MAX_RETRY_AFTER_S, backoff_s, fault_of, retry_after_s


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
        (None, None), ("0", 0.0), ("1.5", 1.5), ("-3", 0.0), ("150", 150.0), ("99999", MAX_RETRY_AFTER_S),
        ("soon", None), ("nan", None), ("inf", MAX_RETRY_AFTER_S), ("", None),
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
