from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lamer.config import TeacherSettings
from lamer.errors import TeacherError
from lamer.synthesis.parse import parse
from lamer.synthesis.schema import TRIAL_MESSAGE, examples_schema
from lamer.teacher.formats import Choice, choose_format, mismatch
from lamer.teacher.ledger import Ledger
from lamer.teacher.requests import BUDGET_REACHED, Request, user_message
from lamer.teacher.teacher import Teacher
from lamer.testing import Fault, TeacherServer
from writing_teacher import good_item, write, write_json

SCHEMA = examples_schema(3)
EXAMPLE = {"question": "q?", "options": {"A": "x", "B": "y", "C": "z"}, "explanation": "e", "answer": "B"}


def choose(base_url: str, folder, **settings: object) -> Choice:
    given = TeacherSettings(base_url=base_url, model="tiny-teacher", **settings)
    with Ledger(folder / "teacher.sqlite") as ledger:
        return choose_format(Teacher(given, ledger, backoff_s=0.001), SCHEMA, TRIAL_MESSAGE.format(3))


def test_a_server_that_honours_the_schema_is_asked_for_json_and_tried_once(tmp_path):
    with TeacherServer(write_json) as server:
        choice = choose(server.base_url, tmp_path)
        assert (choice.format, choice.reason) == ("json", "the server honours a JSON schema")
        assert choice.num_asked == 1
        again = choose(server.base_url, tmp_path)
        assert (again.format, again.num_asked) == ("json", 0)
        assert server.num_requests == 1
        (request,) = server.requests
        assert request["response_format"] == SCHEMA.response_format
        assert "json" not in json.dumps(request["messages"]).lower()
        assert "template" not in request


def test_another_address_of_the_same_model_does_not_change_the_format_of_a_run(tmp_path):
    with TeacherServer(write_json) as first:
        assert choose(first.base_url, tmp_path).format == "json"
    with TeacherServer(write) as second:
        assert choose(second.base_url, tmp_path).format == "json"
        assert second.num_requests == 0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (good_item.__doc__ or "Red.", "the server ignores a JSON schema"),
        ('"red"', "the server does not keep to a JSON schema: reply is no object"),
        ('{"colour": "red"}', "the server does not keep to a JSON schema: reply has other keys"),
        (json.dumps({"examples": [EXAMPLE | {"answer": "D"}]}), "answer is another text"),
        (f"```json\n{json.dumps({'examples': [EXAMPLE]})}\n```", "the server ignores a JSON schema"),
        ("[" * 100_000, "the server ignores a JSON schema"),
    ],
)
def test_a_server_that_ignores_the_schema_is_asked_for_text(tmp_path, reply, reason):
    with TeacherServer(lambda messages: reply) as server:
        choice = choose(server.base_url, tmp_path)
        assert choice.format == "text"
        assert reason in choice.reason


@pytest.mark.parametrize("status", [400, 422, 501])
def test_a_server_that_refuses_the_schema_is_asked_for_text(tmp_path, status):
    faults = [Fault(status=status)] if status < 500 else [Fault(status=status)] * 7
    with TeacherServer(write_json, faults=faults) as server:
        if status == 501:
            with pytest.raises(TeacherError, match="trial request"):
                choose(server.base_url, tmp_path)
            return
        choice = choose(server.base_url, tmp_path)
    assert choice == Choice("text", f"the server refuses a JSON schema (status {status})")


@pytest.mark.parametrize(
    ("status", "body"),
    [(400, b"no such thing"), (500, b'{"error": {"message": "1 validation error: response_format"}}')],
)
def test_a_refusal_in_plain_text_or_with_a_wrong_status_is_one_as_well(tmp_path, status, body):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    choice = choose(f"http://127.0.0.1:{server.server_address[1]}/v1", tmp_path)
    server.shutdown()
    server.server_close()
    assert choice == Choice("text", f"the server refuses a JSON schema (status {status})")


def test_an_overloaded_server_is_tried_again_and_never_guessed_about(tmp_path):
    with TeacherServer(write_json, faults=[Fault(status=500), Fault(status=429, retry_after=0)]) as server:
        assert choose(server.base_url, tmp_path).format == "json"
    with (
        TeacherServer(write_json, faults=lambda number: Fault(status=503)) as server,
        pytest.raises(TeacherError, match=r"trial request for structured output failed: .*503.*format to text"),
    ):
        choose(server.base_url, tmp_path / "other", max_retries=1)


def test_a_reply_cut_off_shows_nothing(tmp_path):
    with TeacherServer(write_json, faults=[Fault(finish_reason="length")]) as server:
        assert choose(server.base_url, tmp_path) == Choice("text", "the reply to the trial request was cut off", 1)


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_format_that_is_set_is_not_tried(tmp_path, format):
    assert choose("http://127.0.0.1:9/v1", tmp_path, format=format) == Choice(format, "as set")


def test_a_function_of_this_process_writes_text_unless_it_says_otherwise(tmp_path):
    seen = []

    def reply(messages, **sampling):
        seen.append(sampling)
        return write_json(messages, **sampling)

    with Ledger(tmp_path / "teacher.sqlite") as ledger:
        teacher = Teacher.from_callable(reply, ledger)
        assert choose_format(teacher, SCHEMA, "x").format == "text"
        told = Teacher.from_callable(reply, ledger, TeacherSettings(format="json"))
        assert choose_format(told, SCHEMA, "x") == Choice("json", "as set")
        assert seen == []
        request = Request("k", user_message("generate 2 new"), response_format=SCHEMA.response_format)
        assert len(parse(told.ask([request])["k"].text or "")) == 2
        assert seen[0]["response_format"] == SCHEMA.response_format


def test_the_format_is_part_of_a_requests_identity(tmp_path):
    plain = Request("text", user_message("generate 1 new"))
    formed = Request("json", user_message("generate 1 new"), response_format=SCHEMA.response_format)
    with TeacherServer(write_json) as server, Ledger(tmp_path / "teacher.sqlite") as ledger:
        teacher = Teacher(TeacherSettings(base_url=server.base_url, model="tiny-teacher"), ledger)
        replies = teacher.ask([plain, formed])
        assert server.num_requests == 2
        assert replies["text"].text.startswith("Question:")
        assert json.loads(replies["json"].text).keys() == {"examples"}
        assert [list(body) for body in server.requests if "response_format" not in body] == [
            [name for name in server.requests[0] if name != "response_format"]
        ]
        assert all(reply.is_cached for reply in teacher.ask([plain, formed]).values())


def test_a_trial_that_the_budget_keeps_back_settles_nothing_dear():
    from lamer.teacher.formats import _judge
    from lamer.teacher.requests import Reply

    assert _judge(Reply("format", None, error=BUDGET_REACHED), SCHEMA, "m")[0] == "text"


@pytest.mark.parametrize("num_options", [2, 3, 10])
@pytest.mark.parametrize("has_explanation", [True, False])
def test_the_schema_keeps_to_what_strict_modes_take(num_options, has_explanation):
    definition = examples_schema(num_options, has_explanation=has_explanation).definition

    def check(part):
        assert part.keys() <= {"type", "properties", "required", "additionalProperties", "items", "enum"}
        if part["type"] == "object":
            assert part["required"] == list(part["properties"])
            assert part["additionalProperties"] is False
        for below in (*part.get("properties", {}).values(), *([part["items"]] if "items" in part else [])):
            check(below)

    check(definition)
    example = definition["properties"]["examples"]["items"]["properties"]
    assert list(example["options"]["properties"]) == list("ABCDEFGHIJ"[:num_options])
    assert example["answer"]["enum"] == list("ABCDEFGHIJ"[:num_options])
    order = ["question", "options", "explanation", "answer"]
    assert list(example) == (order if has_explanation else [name for name in order if name != "explanation"])


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"examples": [EXAMPLE]}, None),
        ({"examples": []}, None),
        ({"examples": [EXAMPLE, EXAMPLE | {"question": 3}]}, "question is no string"),
        ({"examples": [EXAMPLE | {"options": ["x"]}]}, "options is no object"),
        ({"examples": [EXAMPLE | {"note": "n"}]}, "examples[0] has other keys"),
        ({"examples": [{"question": "q?"}]}, "examples[0] has other keys"),
        ({"examples": {}}, "examples is no array"),
        ([], "reply is no object"),
        (None, "reply is no object"),
    ],
)
def test_what_does_not_follow_the_schema(value, wrong):
    assert mismatch(value, SCHEMA.definition) == wrong
