from __future__ import annotations

import time

import pytest

from lamer.config import TeacherSettings
from lamer.teacher.ledger import Ledger
from lamer.teacher.requests import Reply, Request, user_message
from lamer.teacher.teacher import Teacher
from lamer.testing import Fault, TeacherServer, all_faults


def echo(messages, **sampling) -> str:
    return f"said {messages[-1]['content']} to the end"


def wrong_replies(replies: dict[str, Reply]) -> dict[str, Reply]:
    return {key: r for key, r in replies.items() if r.text != f"said say {key[1:]} to the end"}


@pytest.fixture
def ask(tmp_path):
    """Six requests, one at a time; the server meets the fault on the third."""

    def ask(fault: Fault, **changes) -> tuple[dict[str, Reply], TeacherServer]:
        given = {"concurrency": 1, "max_retries": 3, "timeout_s": 0.4, "max_retry_after_s": 0.1, **changes}
        with (
            Ledger(tmp_path / "teacher.sqlite") as ledger,
            TeacherServer(echo, faults=[None, None, fault]) as server,
        ):
            settings = TeacherSettings(model="m", base_url=server.base_url, format="text", **given)
            teacher = Teacher(settings, ledger, backoff_s=0.01)
            replies = teacher.ask([Request(f"r{i}", user_message(f"say {i}")) for i in range(6)])
        return replies, server

    return ask


SPOILT = {
    "400": (None, None),
    "no content": (None, "stop"),
    "no content ends by content_filter": (None, "content_filter"),
    "ends by length text cut": ("said say 2", "length"),
    "stale": ("said say 1 to the end", "stop"),
}
"""What the third request gets where it is not answered as if nothing had been."""


@pytest.mark.parametrize("fault", [f for f in all_faults(late_s=0.6) if not f.is_sent_twice], ids=lambda f: f.kind)
def test_a_fault_of_one_request_leaves_the_others_alone(ask, fault):
    replies, server = ask(fault)
    assert len(replies) == 6
    wrong = {key: (reply.text, reply.finish_reason) for key, reply in wrong_replies(replies).items()}
    expected = SPOILT.get(fault.kind)
    assert wrong == ({"r2": expected} if expected else {})
    assert server.num_answered_again == 0


def test_a_reply_sent_twice_reaches_one_other_request_at_most(ask):
    replies, server = ask(Fault(is_sent_twice=True))
    assert set(wrong_replies(replies)) <= {"r3"}
    assert server.num_answered_again == 0


def test_a_reply_that_trickles_in_for_too_long_is_given_up(ask):
    replies, server = ask(Fault(trickle_s=2.0), max_retries=0)
    assert "0.4 s" in (replies["r2"].error or "")
    assert set(wrong_replies(replies)) == {"r2"}
    assert server.num_requests == 6


def test_usage_that_is_no_number_is_unknown_not_wrong(ask):
    replies, _ = ask(Fault(body="usage as text"))
    assert replies["r2"].prompt_tokens == replies["r2"].completion_tokens == 0
    assert replies["r3"].prompt_tokens == 2


def test_one_request_that_always_times_out_stops_no_other(tmp_path):
    def stuck(messages, **sampling) -> str:
        if messages[-1]["content"] == "say 2":
            time.sleep(0.5)
        return echo(messages)

    with Ledger(tmp_path / "teacher.sqlite") as ledger, TeacherServer(stuck) as server:
        settings = TeacherSettings(
            model="m", base_url=server.base_url, format="text", concurrency=1, max_retries=3, timeout_s=0.3
        )
        teacher = Teacher(settings, ledger, backoff_s=0.01)
        replies = teacher.ask([Request(f"r{i}", user_message(f"say {i}")) for i in range(6)])
    assert set(wrong_replies(replies)) == {"r2"}
    assert "0.3 s (4 tries)" in (replies["r2"].error or "")
