from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lamer.config import TeacherSettings
from lamer.errors import TeacherError
from lamer.teacher.key import check_teacher
from lamer.teacher.ledger import Ledger
from lamer.teacher.requests import Request, user_message
from lamer.teacher.teacher import Teacher
from lamer.testing import Fault, TeacherServer
from writing_teacher import content_of, write

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "teacher.sqlite") as opened:
        yield opened


def settings(base_url: str | None, **changes) -> TeacherSettings:
    wanted = {"model": "m", "base_url": base_url, "concurrency": 4, "max_retries": 3, "timeout_s": 5.0, **changes}
    return TeacherSettings(**wanted)


def teacher_at(base_url: str | None, ledger: Ledger, **changes) -> Teacher:
    return Teacher(settings(base_url, **changes), ledger, backoff_s=0.01)


def requests(count: int) -> list[Request]:
    return [Request(f"r{i}", user_message(f"say {i}")) for i in range(count)]


def echo(messages, **sampling) -> str:
    return f"said {messages[-1]['content']}"


def one_line(error: pytest.ExceptionInfo[TeacherError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


FAULTS = [
    Fault(status=429, retry_after=0.05),
    Fault(status=429),
    Fault(status=500),
    Fault(status=503),
    Fault(status=408),
    Fault(reset=True),
    Fault(body="invalid json"),
    Fault(body="truncated"),
    Fault(body="empty choices"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_passing_fault_is_tried_again(ledger, fault):
    with TeacherServer(echo, faults=[fault]) as server:
        replies = teacher_at(server.base_url, ledger).ask(requests(1))
    assert replies["r0"].text == "said say 0"
    assert server.num_requests == 2
    assert ledger.totals().answered == 1
    assert ledger.totals().failed == 0


def test_a_slow_server_times_out_and_is_tried_again(ledger):
    with TeacherServer(echo, faults=[Fault(delay_s=1.0)]) as server:
        replies = teacher_at(server.base_url, ledger, timeout_s=0.2).ask(requests(1))
        assert replies["r0"].text == "said say 0"


def test_retry_after_holds_back_the_other_requests_too(ledger):
    with TeacherServer(echo, faults=[Fault(status=429, retry_after=0.3)]) as server:
        replies = teacher_at(server.base_url, ledger, concurrency=1, max_retries=1).ask(requests(3))
    assert [reply.error for reply in replies.values()] == [None, None, None]
    assert server.num_requests == 4


def test_a_third_of_all_requests_failing_loses_none(ledger):
    kinds = [fault for fault in FAULTS if fault.retry_after is None]

    def faults(number: int) -> Fault | None:
        return kinds[number // 3 % len(kinds)] if number % 3 == 0 else None

    with TeacherServer(echo, faults=faults) as server:
        replies = teacher_at(server.base_url, ledger, max_retries=8, concurrency=8).ask(requests(120))
    assert {key: reply.text for key, reply in replies.items()} == {f"r{i}": f"said say {i}" for i in range(120)}
    assert server.num_replies >= 120
    assert ledger.totals().answered == 120


def test_one_failing_item_stops_no_other_and_is_asked_again_later(ledger):
    broken = threading.Event()
    broken.set()

    def reply(messages, **sampling) -> str:
        if messages[-1]["content"] == "say 2" and broken.is_set():
            raise ValueError("poison")
        return echo(messages)

    with TeacherServer(reply) as server:
        teacher = teacher_at(server.base_url, ledger)
        replies = teacher.ask(requests(6))
        assert [key for key, r in replies.items() if r.error] == ["r2"]
        assert "poison (4 tries)" in (replies["r2"].error or "")
        assert ledger.totals().failed == 1
        broken.clear()
        before = server.num_requests
        assert teacher.ask(requests(6))["r2"].text == "said say 2"
        assert server.num_requests == before + 1


def test_a_request_that_is_itself_wrong_is_tried_once(ledger):
    with TeacherServer(echo, faults=[Fault(status=400)]) as server:
        replies = teacher_at(server.base_url, ledger, concurrency=1).ask(requests(2))
        assert replies["r0"].error is not None
        assert replies["r1"].text == "said say 1"
        assert server.num_requests == 2


def test_a_wrong_key_stops_at_once(ledger, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with (
        TeacherServer(echo, api_key="another") as server,
        pytest.raises(TeacherError, match=r"status 401.*MY_KEY holds a key the server does not accept") as caught,
    ):
        teacher_at(server.base_url, ledger, api_key_env="MY_KEY").ask(requests(100))
    assert KEY not in one_line(caught)
    assert server.num_requests == 0


def test_a_key_that_a_server_wants_and_nobody_set_is_named(ledger):
    with (
        TeacherServer(echo, api_key="x") as server,
        pytest.raises(TeacherError, match="OPENAI_API_KEY is not set"),
    ):
        teacher_at(server.base_url, ledger).ask(requests(3))


def test_an_unknown_model_stops_at_once(ledger):
    with (
        TeacherServer(echo, model="the-one") as server,
        pytest.raises(TeacherError, match=r"no model 'm'.*check synthesize\.teacher\.model"),
    ):
        teacher_at(server.base_url, ledger).ask(requests(100))
    assert server.num_requests <= 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_teacher_that_is_not_there_is_one_line(ledger):
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(TeacherError, match="cannot be reached") as caught:
        teacher_at(url, ledger, max_retries=50).ask(requests(20))
    assert url in one_line(caught)
    assert "synthesize.teacher.base_url" in one_line(caught)


def test_a_server_that_dies_stops_the_call_and_every_paid_reply_is_kept(ledger):
    dead = threading.Event()
    server = TeacherServer(echo, faults=lambda number: Fault(reset=True) if dead.is_set() else None).start()
    seen = []

    def take(reply) -> None:
        seen.append(reply)
        if len(seen) == 10:
            dead.set()
            server.stop()

    teacher = teacher_at(server.base_url, ledger, max_retries=2)
    with pytest.raises(TeacherError, match="cannot be reached") as caught:
        teacher.ask(requests(500), take)
    assert "are kept in" in one_line(caught)
    assert ledger.totals().answered == len([reply for reply in seen if reply.text])
    assert 10 <= ledger.totals().answered <= server.num_replies < 500


def test_a_server_that_only_fails_is_given_up(ledger):
    with (
        TeacherServer(echo, faults=lambda number: Fault(status=503)) as server,
        pytest.raises(TeacherError, match="failed 8 requests in a row"),
    ):
        teacher_at(server.base_url, ledger, max_retries=1).ask(requests(200))
    assert server.num_requests < 50


def test_openai_without_a_key_names_the_variable(ledger):
    with pytest.raises(TeacherError, match=r"api\.openai\.com: no key .* OPENAI_API_KEY") as caught:
        teacher_at(None, ledger).ask(requests(3))
    one_line(caught)
    with pytest.raises(TeacherError, match="MY_KEY"):
        check_teacher(settings("https://eu.api.openai.com/v1", api_key_env="MY_KEY"))


def test_a_server_of_ones_own_needs_no_key(ledger):
    check_teacher(settings("http://localhost:8000/v1"))
    with TeacherServer(echo) as server:
        assert teacher_at(server.base_url, ledger).ask(requests(1))["r0"].text == "said say 0"


@pytest.mark.parametrize("url", ["localhost:8000", "nonsense", "ftp://x/v1", "http://"])
def test_an_address_that_is_none_is_told(ledger, url):
    with pytest.raises(TeacherError, match="no server address"):
        teacher_at(url, ledger).ask(requests(1))


def test_what_the_ledger_knows_needs_neither_key_nor_server(ledger):
    with TeacherServer(echo) as server:
        teacher_at(server.base_url, ledger).ask(requests(3))
    replies = teacher_at(None, ledger).ask(requests(3))
    assert [(reply.text, reply.is_cached) for reply in replies.values()] == [
        (f"said say {i}", True) for i in range(3)
    ]


def test_many_known_requests_are_found_among_many_new_ones(ledger):
    asked = []

    def reply(messages) -> str:
        asked.append(messages[0]["content"])
        return messages[0]["content"].upper()

    teacher = Teacher.from_callable(reply, ledger)
    known = requests(1100)[::2]
    teacher.ask(known)
    replies = teacher.ask(requests(1100))
    assert [key for key, r in replies.items() if r.is_cached] == [request.key for request in known]
    assert {key: r.text for key, r in replies.items()} == {f"r{i}": f"SAY {i}" for i in range(1100)}
    assert len(asked) == len(set(asked)) == 1100


def test_the_same_request_is_never_sent_twice(ledger, tmp_path):
    with TeacherServer(echo) as server:
        teacher = teacher_at(server.base_url, ledger)
        same = [Request(f"k{i}", user_message("the same")) for i in range(20)]
        replies = teacher.ask(same)
        assert len(replies) == 20
        assert server.num_requests == 1
        teacher.ask(same)
        ledger.close()
        with Ledger(tmp_path / "teacher.sqlite") as again:
            teacher_at(server.base_url, again).ask(same)
        assert server.num_requests == 1


@pytest.mark.parametrize("change", [{"model": "n"}, {"temperature": 0.3}, {"max_tokens": 7}])
def test_another_model_or_sampling_is_another_request(ledger, change):
    with TeacherServer(echo) as server:
        teacher_at(server.base_url, ledger).ask(requests(1))
        teacher_at(server.base_url, ledger, **change).ask(requests(1))
        assert server.num_requests == 2


def test_another_seed_or_template_is_another_request(ledger):
    with TeacherServer(echo) as server:
        teacher = teacher_at(server.base_url, ledger)
        message = user_message("x")
        teacher.ask([Request("a", message), Request("b", message, seed=1), Request("c", message, template="t")])
        assert server.num_requests == 3
        assert sorted(body["seed"] for body in server.requests) == [0, 0, 1]
        assert all("template" not in body for body in server.requests)


def test_sampling_settings_are_sent(ledger):
    with TeacherServer(echo) as server:
        teacher_at(server.base_url, ledger, temperature=0.25, max_tokens=77).ask(
            [Request("a", user_message("x"), 5)]
        )
        body = server.requests[0]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("m", 0.25, 77, 5)
    assert body["messages"] == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("fault", "text", "reason"),
    [
        (Fault(finish_reason="content_filter", body="no content"), None, "content_filter"),
        (Fault(finish_reason="length"), "said say 0", "length"),
    ],
)
def test_how_a_reply_ended_is_kept(ledger, fault, text, reason):
    with TeacherServer(echo, faults=[fault]) as server:
        teacher = teacher_at(server.base_url, ledger)
        first, second = (teacher.ask(requests(1))["r0"] for _ in range(2))
        assert (first.text, first.finish_reason, first.error) == (text, reason, None)
        assert (second.text, second.finish_reason, second.is_cached) == (text, reason, True)
        assert server.num_requests == 1


def test_usage_is_recorded(ledger):
    with TeacherServer(echo) as server:
        reply = teacher_at(server.base_url, ledger).ask(requests(1))["r0"]
    assert (reply.prompt_tokens, reply.completion_tokens) == (2, 3)
    assert ledger.totals().completion_tokens == 3


def test_nothing_of_this_machine_is_told_to_the_server(ledger):
    seen = []

    class Handler(_Picky):
        bodies: list[dict] = []  # noqa: RUF012 - shared on purpose

        def do_POST(self) -> None:
            seen.append(dict(self.headers))
            super().do_POST()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        teacher_at(f"http://127.0.0.1:{server.server_port}/v1", ledger).ask(requests(1))
    finally:
        server.shutdown()
        server.server_close()
    told = " ".join(f"{name}: {value}" for headers in seen for name, value in headers.items()).lower()
    assert "user-agent" in told
    assert not [word for word in ("linux", "x64", "arch", "runtime", "cpython") if word in told]


def test_no_more_than_the_set_number_is_in_flight(ledger):
    lock, now, most = threading.Lock(), [0], [0]

    def reply(messages, **sampling) -> str:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.01)
        with lock:
            now[0] -= 1
        return "x"

    with TeacherServer(reply) as server:
        teacher_at(server.base_url, ledger, concurrency=3).ask(requests(40))
    assert 1 < most[0] <= 3


def test_the_key_is_never_written_anywhere(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)

    def parrot(messages, **sampling) -> str:
        if messages[-1]["content"] == "say 1":
            raise ValueError(f"your key {KEY} is odd")
        return f"your key is {KEY}, thanks"

    with Ledger(tmp_path / "run" / "teacher.sqlite") as ledger, TeacherServer(parrot, api_key=KEY) as server:
        teacher = teacher_at(server.base_url, ledger, api_key_env="MY_KEY", max_retries=1)
        replies = teacher.ask(requests(3))
        assert replies["r0"].text == "your key is [key], thanks"
        assert "your key [key] is odd" in (replies["r1"].error or "")
        assert KEY not in content_of(tmp_path).decode("utf-8", "replace")
        assert KEY not in repr(vars(teacher)) + repr(vars(teacher._backend)) + repr(replies)
    assert KEY not in content_of(tmp_path).decode("utf-8", "replace")
    out, err = capfd.readouterr()
    assert KEY not in out + err + caplog.text


def test_the_key_is_not_in_the_traceback_of_a_refusal(ledger, monkeypatch):
    import traceback

    monkeypatch.setenv("MY_KEY", KEY)

    def raising(messages, **sampling) -> str:
        raise ValueError(f"refused {KEY}")

    with TeacherServer(raising) as server, pytest.raises(TeacherError) as caught:
        teacher_at(server.base_url, ledger, api_key_env="MY_KEY", max_retries=0, concurrency=1).ask(requests(9))
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("key", ["naïve-key-with-umlaut", "two\nlines-of-key"])
def test_a_key_that_cannot_be_one_is_refused_without_showing_it(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(TeacherError, match="MY_KEY: holds characters that no key has") as caught:
        check_teacher(settings("http://localhost:1/v1", api_key_env="MY_KEY"))
    assert key not in str(caught.value)


def test_text_that_is_no_unicode_is_made_storable(ledger):
    with TeacherServer(lambda messages: "a\ud800b\x00c") as server:
        assert teacher_at(server.base_url, ledger).ask(requests(1))["r0"].text == "a?b\x00c"
        assert teacher_at(server.base_url, ledger).ask(requests(1))["r0"].text == "a?b\x00c"


def test_a_function_is_a_teacher_like_any_other(ledger, tmp_path):
    prompts = [Request(f"r{i}", user_message(f"You MUST generate {i} new examples"), seed=i) for i in range(5)]
    local = Teacher.from_callable(write, ledger, settings(None), name="m")
    with Ledger(tmp_path / "other.sqlite") as other, TeacherServer(write) as server:
        remote = teacher_at(server.base_url, other).ask(prompts)
    replies = local.ask(prompts)
    assert {key: reply.text for key, reply in replies.items()} == {key: r.text for key, r in remote.items()}
    assert ledger.totals().answered == 5
    assert all(reply.is_cached for reply in local.ask(prompts).values())
    assert local.model == "m"


def test_a_function_of_the_messages_alone_will_do(ledger):
    teacher = Teacher.from_callable(lambda messages: messages[0]["content"].upper(), ledger)
    assert teacher.ask(requests(1))["r0"].text == "SAY 0"


def test_it_can_be_asked_from_within_an_event_loop(ledger):
    async def notebook() -> str | None:
        return Teacher.from_callable(echo, ledger).ask(requests(1))["r0"].text

    assert asyncio.run(notebook()) == "said say 0"


def test_the_garbage_of_the_program_is_left_alone_only_while_it_is_asked(ledger):
    counts = []

    def reply(messages) -> str:
        counts.append(gc.get_freeze_count())
        return "x"

    teacher = Teacher.from_callable(reply, ledger)
    teacher.ask(requests(1))
    assert counts[0] > 0
    assert gc.get_freeze_count() == 0
    gc.freeze()
    try:
        teacher.ask(requests(2))
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_an_interruption_keeps_every_reply_that_was_handed_on(ledger):
    seen = []

    def take(reply) -> None:
        seen.append(reply.key)
        if len(seen) == 7:
            raise KeyboardInterrupt

    with TeacherServer(echo) as server:
        teacher = teacher_at(server.base_url, ledger)
        with pytest.raises(KeyboardInterrupt):
            teacher.ask(requests(50), take)
        answered = ledger.totals().answered
        assert answered >= 7
        before = server.num_requests
        replies = teacher.ask(requests(50))
        assert len(replies) == 50
        assert server.num_requests - before == 50 - answered


class _Picky(BaseHTTPRequestHandler):
    """A server that wants `max_completion_tokens` and knows no `seed`."""

    bodies: list[dict] = []  # noqa: RUF012 - shared on purpose

    def log_message(self, format, *args) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        status, answer = 200, {
            "id": "x", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
        }  # fmt: skip
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            status, answer = 400, {"error": {"message": message, "param": "max_tokens"}}
        elif "seed" in body:
            status, answer = 422, {"error": {"message": "Extra inputs are not permitted: seed", "param": None}}
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def test_parameters_a_server_does_not_take_are_renamed_or_left_out(ledger):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Picky)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        teacher = teacher_at(f"http://127.0.0.1:{server.server_port}/v1", ledger, concurrency=1, max_tokens=9)
        replies = teacher.ask(requests(3))
        assert [reply.text for reply in replies.values()] == ["hi"] * 3
        assert len(_Picky.bodies) == 5
        assert _Picky.bodies[-1]["max_completion_tokens"] == 9
        assert "seed" not in _Picky.bodies[-1]
    finally:
        server.shutdown()
        server.server_close()
