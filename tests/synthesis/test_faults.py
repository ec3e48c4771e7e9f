from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from lamer.errors import RunError
from lamer.records import Deficiency, Example
from lamer.run import Run
from lamer.synthesis.stage import synthesize
from lamer.synthesis.synthesize import Synthesis, write_examples
from lamer.teacher.ledger import LEDGER, Ledger
from lamer.teacher.teacher import Teacher
from lamer.testing import Fault, TeacherServer, all_faults, random_faults
from lamer.testing.local_server import RefusedError
from lamer.testing.teacher_server import Reply
from writing_teacher import config_for, fill_run, sloppy, synthesize_in, units, write

PATIENCE_S = 1.5
KINDS = all_faults(late_s=1.4 * PATIENCE_S)
TRANSPORT = [
    fault for fault in KINDS if not fault.is_answer and fault.body != "no content" and fault.status != 400
]
"""After these the same request is asked again, and gets the reply it would have got."""


def synthesize_under(
    reply: Reply, faults: Callable[[int], Fault | None], folder: Path, count: int = 60, **teacher: object
) -> tuple[Synthesis, TeacherServer]:
    """`count` deficiencies of quotas 1 to 4, eight requests at a time."""
    with TeacherServer(reply, faults=faults) as server:
        config = config_for(
            server.base_url,
            **{
                "format": "text",
                "concurrency": 8,
                "timeout_s": PATIENCE_S,
                "max_retries": 8,
                "max_retry_after_s": 0.05,
                **teacher,
            },
        )
        with Ledger(folder / LEDGER) as ledger:
            teacher = Teacher(config.synthesize.teacher, ledger, backoff_s=0.01)
            return write_examples(*units(count), config, teacher, progress=""), server


def check_accounting(result: Synthesis, deficiencies: Sequence[Deficiency]) -> None:
    """The counts against the rows, each sum by itself."""
    counts, rows = result.counts, result.examples
    kept = Counter(row.deficiency_id for row in rows if row.status == "kept")
    rejected = Counter(row.reason for row in rows if row.status == "rejected")
    assert counts["requested"] == sum(unit.quota for unit in deficiencies) == counts["kept"] + counts["short"]
    assert counts["kept"] == kept.total()
    assert counts["short"] == sum(unit.quota - kept[unit.id] for unit in deficiencies)
    assert all(kept[unit.id] <= unit.quota for unit in deficiencies)
    assert counts["replies"]["total"] == counts["replies"]["parsed"] + counts["replies"]["unparsed"]
    assert counts["items"]["total"] == counts["items"]["kept"] + counts["items"]["rejected"] == len(rows)
    assert counts["rejected"] == rejected
    assert len({row.id for row in rows}) == len(rows)


def test_a_third_of_all_replies_failing_costs_no_quota_and_nothing_is_paid_twice(tmp_path):
    result, server = synthesize_under(sloppy, random_faults(0.3, 1, KINDS), tmp_path)
    check_accounting(result, units(60)[0])
    assert len(server.faults_served) >= 10
    assert server.num_answered_again == 0
    with Ledger(tmp_path / LEDGER) as ledger:
        assert ledger.totals().answered == result.counts["replies"]["total"]
        # a reply without a text, or one taken for that of the next request, is an answer to us alone
        unseen = server.faults_served["no content"] + server.faults_served["sent twice"]
        assert 0 <= ledger.totals().answered - len(server.answered) <= unseen
    explained = {row.deficiency_id for row in result.examples if row.status == "rejected"}
    kept = Counter(row.deficiency_id for row in result.examples if row.status == "kept")
    short = [unit for unit in units(60)[0] if kept[unit.id] < unit.quota]
    assert len(short) <= 6
    assert all(unit.id in explained or any(unit.id in note for note in result.notes) for unit in short)


def test_faults_on_the_way_leave_no_trace_in_the_examples(tmp_path):
    disturbed, server = synthesize_under(sloppy, random_faults(0.3, 2, TRANSPORT), tmp_path / "disturbed")
    calm, _ = synthesize_under(sloppy, lambda number: None, tmp_path / "calm")
    assert server.faults_served.total() > 20
    assert disturbed.examples == calm.examples
    assert disturbed.counts == calm.counts
    assert server.num_answered_again == 0


def test_requests_that_never_succeed_are_short_with_their_reason_and_stop_no_other(tmp_path):
    def moody(messages, **sampling) -> str:
        text = messages[-1]["content"]
        if "number 3 " in text:
            raise ValueError("the model fell over")
        if "number 5 " in text:
            return "Rubbish \ud800 {fact} (A) (A) (A) Answer: Z"
        if "number 6 " in text:
            return ""
        return write(messages, **sampling)

    result, server = synthesize_under(moody, lambda number: None, tmp_path, 12, max_retries=2)
    check_accounting(result, units(12)[0])
    kept = Counter(row.deficiency_id for row in result.examples if row.status == "kept")
    assert {unit.id for unit in units(12)[0] if kept[unit.id] < unit.quota} == {"q3|f3", "q5|f5", "q6|f6"}
    notes = {name: note for name in ("q3|f3", "q5|f5", "q6|f6") for note in result.notes if note.startswith(name)}
    assert "the model fell over" in notes["q3|f3"]
    assert "0 of 2 kept" in notes["q5|f5"]
    assert "unparsed" in notes["q6|f6"]
    assert server.num_answered_again == 0


def test_a_round_of_nothing_but_refused_requests_stops_no_run(tmp_path):
    def strict(messages, **sampling) -> str:
        if int(re.search(r"number (\d+) ", messages[-1]["content"])[1]) % 4 == 0:
            raise RefusedError(400, "the prompt triggered the content filter")
        return write(messages, **sampling)

    result, server = synthesize_under(strict, lambda number: None, tmp_path, 40, concurrency=2)
    check_accounting(result, units(40)[0])
    assert result.counts["short_deficiencies"] == 10
    assert result.counts["requests"] == {"asked": 30, "from ledger": 0, "failed": 40}
    assert "content filter" in result.notes[-1]
    assert server.num_answered_again == 0


# A process of its own, killed


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Starts processes that need not import everything anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["writing_teacher", "openai.resources.chat", "lamer.teacher.client"])
    return context


def slow(messages, **sampling) -> str:
    time.sleep(0.005)
    return sloppy(messages, **sampling)


def stop_at(
    goal: int, server: TeacherServer, process: BaseProcess, number: signal.Signals, rng: random.Random
) -> bool:
    """Send the signal soon after the server has seen `goal` requests; whether the process still ran."""
    while process.is_alive() and server.num_requests < goal:
        time.sleep(0.001)
    if not process.is_alive():
        return False
    time.sleep(0.02 * rng.random())
    os.kill(process.pid or 0, number)
    return True


def result_of(folder: Path) -> tuple[list[Example], bytes]:
    """What must be the same however often a run was stopped."""
    return list(Run(folder).table("examples", Example)), (folder / "examples.jsonl").read_bytes()


NUM_KILLS = 15
CONCURRENCY = 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, int]:
    """A run of 80 deficiencies, and how many different requests it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Run.open(folder) as run, TeacherServer(slow) as server:
        fill_run(run, 80)
        synthesize(run, config_for(server.base_url, format="text", concurrency=CONCURRENCY))
        assert server.num_answered_again == 0
        return folder, len(server.answered)


def test_kills_at_random_moments_change_nothing_and_cost_only_what_was_under_way(tmp_path, undisturbed, processes):
    expected, num_asked = undisturbed
    with Run.open(tmp_path) as run:
        fill_run(run, 80)
    rng, num_kills = random.Random(0), 0
    goals = sorted(rng.randrange(num_asked) for _ in range(NUM_KILLS))
    with TeacherServer(slow) as server:
        for goal in [*goals, None]:
            process = processes.Process(
                target=synthesize_in, args=(tmp_path, server.base_url), kwargs={"concurrency": CONCURRENCY}
            )
            process.start()
            if goal is not None:
                at_least = server.num_requests + rng.randrange(2)
                num_kills += stop_at(max(goal, at_least), server, process, signal.SIGKILL, rng)
            process.join()
        assert process.exitcode == 0
    assert num_kills >= NUM_KILLS * 2 // 3
    assert result_of(tmp_path) == result_of(expected)
    assert len(server.answered) == num_asked
    assert server.num_answered_again <= num_kills * CONCURRENCY
    assert server.num_requests - num_asked <= num_kills * CONCURRENCY
    with Ledger(tmp_path / LEDGER) as ledger:
        assert ledger.totals().answered == num_asked


def test_ctrl_c_keeps_what_was_answered_and_a_second_start_ends_as_an_undisturbed_one(
    tmp_path, undisturbed, processes
):
    expected, num_asked = undisturbed
    with Run.open(tmp_path) as run:
        fill_run(run, 80)
    with TeacherServer(slow) as server:
        for goal in (40, None):
            process = processes.Process(
                target=synthesize_in, args=(tmp_path, server.base_url), kwargs={"concurrency": CONCURRENCY}
            )
            process.start()
            if goal is not None:
                assert stop_at(goal, server, process, signal.SIGINT, random.Random(0))
            process.join()
            if goal is not None:
                assert process.exitcode != 0
                assert not (tmp_path / "examples").exists()
        assert process.exitcode == 0
    assert result_of(tmp_path) == result_of(expected)
    assert server.num_requests - num_asked <= CONCURRENCY


def test_a_second_process_on_a_run_is_refused_by_the_name_of_the_first(tmp_path, processes):
    with Run.open(tmp_path) as run:
        fill_run(run, 80)
    with TeacherServer(slow) as server:
        process = processes.Process(target=synthesize_in, args=(tmp_path, server.base_url))
        process.start()
        try:
            while server.num_requests == 0:
                time.sleep(0.001)
            with pytest.raises(RunError, match=f"process {process.pid} is working on this run"):
                synthesize_in(tmp_path, server.base_url)
        finally:
            process.kill()
            process.join()
