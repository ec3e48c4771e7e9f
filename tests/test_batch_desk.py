from __future__ import annotations

import json

import openai
import pytest

from lamer.testing import BatchDesk, BatchFault, Fault, TeacherServer


def client_of(server: TeacherServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=0, timeout=10)


def line(key: str, text: str) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body})


def submit(client: openai.OpenAI, count: int, **metadata):
    content = "\n".join(line(f"k{n}", f"say {n}") for n in range(count)).encode()
    file = client.files.create(file=("requests.jsonl", content, "application/jsonl"), purpose="batch")
    assert (file.filename, file.bytes, file.purpose) == ("requests.jsonl", len(content), "batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata=metadata
    )


def rows(client: openai.OpenAI, file_id: str | None) -> list[dict]:
    return [json.loads(row) for row in client.files.content(file_id).text.splitlines()] if file_id else []


def upper(messages) -> str:
    return messages[-1]["content"].upper()


def test_a_batch_goes_through_its_states_and_leaves_its_files():
    desk = BatchDesk([BatchFault(num_looks=2, errors=lambda position: 400 if position == 2 else None)])
    with TeacherServer(upper, desk=desk) as server:
        client = client_of(server)
        made = submit(client, 4, note="mine")
        assert (made.status, made.metadata) == ("validating", {"note": "mine"})
        looked = client.batches.retrieve(made.id)
        assert (looked.status, looked.request_counts.total, looked.request_counts.completed) == (
            "in_progress",
            4,
            2,
        )
        looked = client.batches.retrieve(made.id)
        assert (looked.status, looked.request_counts.completed, looked.request_counts.failed) == (
            "completed",
            3,
            1,
        )
        output, errors = rows(client, looked.output_file_id), rows(client, looked.error_file_id)
        assert [row["custom_id"] for row in output] == ["k0", "k1", "k3"]
        assert output[2]["response"]["body"]["choices"][0]["message"]["content"] == "SAY 3"
        assert [(row["custom_id"], row["response"]["status_code"]) for row in errors] == [("k2", 400)]
        assert set(desk.answered.values()) == {1}
        assert len(desk.answered) == 3


def test_a_cancelled_batch_keeps_what_it_answered():
    desk = BatchDesk([BatchFault(num_looks=4)])
    with TeacherServer(upper, desk=desk) as server:
        client = client_of(server)
        batch_id = submit(client, 4).id
        client.batches.retrieve(batch_id)
        assert client.batches.cancel(batch_id).status == "cancelling"
        ended = client.batches.retrieve(batch_id)
        assert ended.status == "cancelled"
        assert [row["custom_id"] for row in rows(client, ended.output_file_id)] == ["k0"]
        assert {row["error"]["code"] for row in rows(client, ended.error_file_id)} == {"batch_cancelled"}
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch_id)


def test_lists_come_newest_first_in_pages():
    with TeacherServer(upper, desk=BatchDesk(page_size=2)) as server:
        client = client_of(server)
        made = [submit(client, 1).id for _ in range(5)]
        assert [batch.id for batch in client.batches.list(limit=100)] == made[::-1]
        assert len(client.batches.list(limit=100).data) == 2
        assert server.desk.calls["list"] == 4
        files = [file.id for file in client.files.list(purpose="batch")]
        assert len(files) == 5
        assert files == sorted(files, reverse=True)


def test_limits_of_requests_and_of_the_queue_fail_a_batch_by_name():
    desk = BatchDesk([BatchFault(num_looks=9)], max_requests=3, max_enqueued=5)
    with TeacherServer(upper, desk=desk) as server:
        client = client_of(server)
        first, large, full = submit(client, 3), submit(client, 4), submit(client, 3)
        assert client.batches.retrieve(first.id).status == "in_progress"
        for batch, code in ((large, "too_many_tasks"), (full, "token_limit_exceeded")):
            failed = client.batches.retrieve(batch.id)
            assert (failed.status, failed.errors.data[0].code) == ("failed", code)
        assert client.batches.retrieve(submit(client, 2).id).status == "completed"


def test_scripted_faults_hit_their_call_and_a_late_one_leaves_its_work():
    faults = {"create": [Fault(status=500, is_late=True), Fault(status=429, retry_after=2)], "upload": [None]}
    with TeacherServer(upper, desk=BatchDesk(call_faults=faults)) as server:
        client = client_of(server)
        with pytest.raises(openai.InternalServerError):
            submit(client, 1)
        with pytest.raises(openai.RateLimitError) as limited:
            submit(client, 1)
        assert limited.value.response.headers["retry-after"] == "2"
        assert len(client.batches.list().data) == 1
        for call in (client.batches.retrieve, client.batches.cancel, client.files.content):
            with pytest.raises(openai.NotFoundError):
                call("nothing")
