"""The teacher within a server's limits: waits are lived through on a fast clock, over real HTTP."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from lamer.config import TeacherSettings
from lamer.errors import TeacherError
from lamer.teacher.clock import Clock
from lamer.teacher.ledger import Ledger
from lamer.teacher.requests import Request, user_message
from lamer.teacher.teacher import Teacher
from lamer.testing import Fault, TeacherServer
from lamer.testing.local_server import RefusedError


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "teacher.sqlite") as opened:
        yield opened


def settings(base_url: str | None = None, **changes) -> TeacherSettings:
    wanted = {"model": "m", "base_url": base_url, "concurrency": 4, "max_retries": 2, "timeout_s": 5.0, **changes}
    return TeacherSettings(**wanted)


def teacher_at(server: TeacherServer, ledger: Ledger, speed: float = 1.0, **changes) -> Teacher:
    return Teacher(settings(server.base_url, **changes), ledger, backoff_s=0.01 * speed, clock=Clock(speed))


def requests(count: int) -> list[Request]:
    return [Request(f"r{i}", user_message(f"say {i}")) for i in range(count)]


def echo(messages, **sampling) -> str:
    return f"said {messages[-1]['content']}"


class Refusing(TeacherServer):
    """Refuses the first `times` tries of every request with status 429 and a Retry-After."""

    def __init__(self, times: int, retry_after: float, status: int = 429) -> None:
        super().__init__(echo, faults=self.refuse)
        self.times = times
        self.refusal = Fault(status=status, retry_after=retry_after)
        self.tries: Counter[str] = Counter()

    def refuse(self, number: int) -> Fault | None:
        text = self.requests[number]["messages"][-1]["content"]
        self.tries[text] += 1
        return self.refusal if self.tries[text] <= self.times else None


@pytest.mark.parametrize("status", [429, 503])
def test_a_long_retry_after_on_every_request_loses_none(ledger, capfd, status):
    with Refusing(1, 150.0, status) as server:
        replies = teacher_at(server, ledger, 3000.0, max_retries=0, max_retry_after_s=9000.0).ask(requests(20))
    assert {key: reply.text for key, reply in replies.items()} == {f"r{i}": f"said say {i}" for i in range(20)}
    assert set(server.tries.values()) == {2}
    assert ledger.totals().failed == 0
    assert "teacher: the server asks to wait 150 s (Retry-After)\n" in capfd.readouterr().err


def test_more_retry_afters_than_max_retries_lose_none(ledger):
    with Refusing(5, 150.0) as server:
        teacher = teacher_at(server, ledger, 3000.0, max_retries=1, concurrency=2, max_retry_after_s=9000.0)
        replies = teacher.ask(requests(3))
    assert [reply.error for reply in replies.values()] == [None] * 3
    assert set(server.tries.values()) == {6}


def test_a_retry_after_beyond_the_cap_waits_the_cap_and_is_told_once(ledger, capfd):
    clock = Clock(1000.0)
    with Refusing(2, 3600.0) as server:
        started = clock.now()
        replies = teacher_at(server, ledger, 1000.0, max_retry_after_s=600.0, concurrency=1).ask(requests(1))
        waited = clock.now() - started
    assert replies["r0"].text == "said say 0"
    assert 1200.0 <= waited < 7200.0
    assert capfd.readouterr().err == (
        "teacher: the server asks to wait 3600 s (Retry-After); waiting 600 s each time "
        "(synthesize.teacher.max_retry_after_s)\n"
    )


def test_a_real_second_is_waited(ledger):
    arrivals = []

    def faults(number: int) -> Fault | None:
        arrivals.append(time.monotonic())
        return Fault(status=429, retry_after=1.0) if number == 0 else None

    with TeacherServer(echo, faults=faults) as server:
        replies = teacher_at(server, ledger, concurrency=1).ask(requests(3))
    assert [reply.error for reply in replies.values()] == [None] * 3
    assert arrivals[1] - arrivals[0] >= 1.0


def test_a_server_that_only_tells_to_wait_is_left_after_a_while(ledger):
    with (
        Refusing(10**6, 150.0) as server,
        pytest.raises(TeacherError, match=r"has only asked to wait for \d+ s; start again later .*are kept in"),
    ):
        teacher_at(server, ledger, 6000.0, max_retry_after_s=200.0).ask(requests(50))
    assert ledger.totals().failed == 0
    assert len(server.tries) <= 8


class Crowded(TeacherServer):
    """Refuses what exceeds its capacity, without saying for how long."""

    def __init__(self, capacity: int) -> None:
        super().__init__(self.serve)
        self.capacity = capacity
        self.now = 0
        self.refused = 0

    def serve(self, messages, **sampling) -> str:
        with self.lock:
            if self.now >= self.capacity:
                self.refused += 1
                raise RefusedError(429, "too many")
            self.now += 1
        try:
            threading.Event().wait(0.005)
            return echo(messages)
        finally:
            with self.lock:
                self.now -= 1


def test_a_crowded_server_is_asked_for_less_and_loses_none(ledger):
    with Crowded(2) as server:
        replies = teacher_at(server, ledger, concurrency=16, max_retries=3).ask(requests(60))
    assert [reply.error for reply in replies.values()] == [None] * 60
    assert 0 < server.refused < 120


@pytest.mark.parametrize("limit", [{"requests_per_minute": 60}, {"tokens_per_minute": 60 * 21}])
def test_requests_are_sent_at_the_pace_of_the_account(ledger, limit):
    clock, sent = Clock(400.0), []

    def reply(messages) -> str:
        sent.append(clock.now())
        return echo(messages)

    teacher = Teacher.from_callable(reply, ledger, settings(max_tokens=19, **limit))
    teacher.clock = clock
    replies = teacher.ask(requests(70))  # prompts of five or six characters: two tokens each, as guessed
    assert [reply.error for reply in replies.values()] == [None] * 70
    for first, start in enumerate(sent):
        assert sum(time < start + 55.0 for time in sent[first:]) <= 60
    assert sent[-1] - sent[0] >= 60.0


def test_a_server_that_never_answers_is_left_with_one_line(ledger):
    hung = threading.Event()

    def faults(number: int) -> Fault | None:
        return Fault(delay_s=0.6) if hung.is_set() else None

    with TeacherServer(echo, faults=faults) as server:
        teacher = teacher_at(server, ledger, concurrency=2, max_retries=3, timeout_s=0.15)
        teacher.ask(requests(5))
        hung.set()
        with pytest.raises(
            TeacherError, match=r"let 5 tries in a row wait for more than 0\.15 s.*kept in"
        ) as caught:
            teacher.ask(requests(50))
    assert "\n" not in str(caught.value)
    assert ledger.totals().answered == 5


def test_a_slowly_dripping_reply_is_timed_out_as_a_whole(ledger):
    import socketserver

    class Drip(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(20):
                try:
                    self.wfile.write(b" ")
                except OSError:
                    return
                time.sleep(0.05)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Drip) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        teacher = Teacher(settings(url, max_retries=0, timeout_s=0.2), ledger)
        replies = teacher.ask(requests(1))
        server.shutdown()
    assert replies["r0"].error == "no reply in 0.2 s (1 try)"


@pytest.mark.parametrize("fault", [Fault(reset=True), Fault(body="truncated")], ids=["reset", "mid-body"])
def test_a_lost_connection_is_told_as_such(ledger, fault):
    with TeacherServer(echo, faults=[fault]) as server:
        replies = teacher_at(server, ledger, max_retries=0, concurrency=1).ask(requests(3))
    assert (replies["r0"].error or "").startswith("connection failed: ")
    assert [replies[key].text for key in ("r1", "r2")] == ["said say 1", "said say 2"]


def test_a_server_that_dies_and_comes_back_costs_no_item(ledger):
    def faults(number: int) -> Fault | None:
        return Fault(reset=True) if 20 <= number < 32 else None

    with TeacherServer(echo, faults=faults) as server:
        replies = teacher_at(server, ledger, max_retries=6).ask(requests(60))
    assert [reply.error for reply in replies.values()] == [None] * 60
    assert server.num_replies == 60
