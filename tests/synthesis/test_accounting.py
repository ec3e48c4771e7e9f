"""Whatever a teacher writes, the numbers balance, and every short deficiency is listed with its reasons."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer.records import Deficiency, Example, Shortage
from lamer.run import Run
from lamer.synthesis.accounting import imbalances, told_shortage
from lamer.synthesis.advice import ADVICE, advice
from lamer.synthesis.checks import Refusal
from lamer.synthesis.parse import parse
from lamer.synthesis.stage import synthesize
from lamer.synthesis.synthesize import Synthesis, write_examples
from lamer.teacher.ledger import Ledger
from lamer.teacher.requests import Failure
from lamer.teacher.teacher import Teacher
from lamer.testing import Fault, TeacherServer
from writing_teacher import config_for, fill_run, good_item, units, write

FACT = "Objects of number 1 never fall down at all."
PIECES = (
    "good", "good", "good", "same", "fact", "reference", "no answer", "contradiction", "two the same",
    "four options", "above", "echo", "chatter", "empty", "half",
)  # fmt: skip


def written(piece: str, rng: random.Random) -> str:
    """One piece of a reply, sound or spoiled."""
    sound = good_item(rng, "A")
    spoiled = {
        "same": good_item(random.Random(0)),
        "fact": sound.replace("What came next?", FACT),
        "reference": sound.replace(sound.splitlines()[0], "Question: Someone put object 1 down. What happened?"),
        "no answer": sound.replace("Answer: (A)", ""),
        "contradiction": sound.replace("hence (A)", "hence B"),
        "two the same": sound.replace("(B)", "(B) " + sound.split("(A) ")[1].split(" (B)")[0] + " (X)"),
        "four options": sound.replace("\nAnswer", " (D) Nothing at all.\nAnswer"),
        "above": sound.replace(" (C) The", " (C) All of the above. (D) The").split(" (D)")[0] + "\nAnswer: (A)\n",
        "echo": "Question: [QUESTION]\nOptions: [CANDIDATE OPTIONS]\nAnswer: (A)\nExplanation: none",
        "chatter": "I hope this helps! Let me know.",
        "empty": "",
        "half": sound[: len(sound) // 2],
    }
    return spoiled.get(piece, sound)


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=5), min_size=1, max_size=12),
    st.integers(1, 7),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_numbers_balance_whatever_the_teacher_writes(replies, count, fails_every, verifies):
    num_asked = [0]

    def teacher(messages, **sampling) -> str:
        number = num_asked[0]
        num_asked[0] += 1
        if fails_every and number and number % (fails_every + 1) == 0:
            raise Failure("down", "request")
        rng = random.Random(number)
        return "\n\n".join(written(piece, rng) for piece in replies[number % len(replies)])

    def verify(candidates):
        return [Refusal("judge says no") if len(c.kept.question) % 3 == 0 else None for c in candidates]

    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "teacher.sqlite") as ledger:
        config = config_for(concurrency=1, max_retries=0)
        asked = Teacher.from_callable(teacher, ledger, config.synthesize.teacher)
        result = write_examples(*units(count), config, asked, verify=verify if verifies else None, progress="")
        answered = ledger.totals().answered
    assert_all_adds_up(result, units(count)[0])
    assert answered == result.counts["replies"]["total"]


def assert_all_adds_up(result: Synthesis, wanted: list[Deficiency]) -> None:
    """Recounted from the rows alone, not from the counts' own parts."""
    counts = result.counts
    assert imbalances(counts) == []
    kept = Counter(row.deficiency_id for row in result.examples if row.status == "kept")
    rejected = [row for row in result.examples if row.status == "rejected"]
    assert all(kept[unit.id] <= unit.quota for unit in wanted)
    assert counts["requested"] == sum(unit.quota for unit in wanted)
    assert counts["short"] == sum(unit.quota - kept[unit.id] for unit in wanted)
    assert counts["kept"] == kept.total()
    assert counts["rejected"] == Counter(row.reason for row in rejected)
    assert counts["items"]["total"] == len(result.examples)
    assert counts["replies"]["unparsed"] == sum(not parse(row.raw) for row in rejected)
    short = [(unit.id, unit.quota, kept[unit.id]) for unit in wanted if kept[unit.id] < unit.quota]
    assert [(row.deficiency_id, row.requested, row.kept) for row in result.shortages] == short
    for row in result.shortages:
        mine = Counter(other.reason for other in rejected if other.deficiency_id == row.deficiency_id)
        assert dict(zip(row.reasons, row.counts)) == mine
        assert list(row.counts) == sorted(row.counts, reverse=True)
        assert row.error or row.num_replies


def test_what_does_not_add_up_is_named():
    sound = {
        "requested": 3, "kept": 2, "short": 1, "kept_by_tier": {"easy": 2}, "letters": {"A": 1, "B": 1},
        "replies": {"total": 2, "parsed": 1, "unparsed": 1}, "items": {"total": 4, "kept": 2, "rejected": 2},
        "rejected": {"duplicate": 2},
    }  # fmt: skip
    assert imbalances(sound) == []
    assert imbalances({**sound, "short": 0}) == ["requested = kept + short: 3 and 2"]
    assert imbalances({**sound, "replies": {"total": 2, "parsed": 1, "unparsed": 0}}) == [
        "replies = parsed + unparsed: 2 and 1"
    ]
    assert imbalances({**sound, "rejected": {}}) == ["rejected = rejected by reason: 2 and 0"]


def test_every_short_deficiency_is_in_the_table_of_the_run(tmp_path):
    stubborn = good_item(random.Random(0))
    with Run.open(tmp_path / "run") as run, TeacherServer(lambda messages: stubborn) as server:
        fill_run(run, 12)
        result = synthesize(run, config_for(server.base_url))
        rows = list(run.table("shortages", Shortage))
        kept = result.counts["kept"]
    assert len(rows) == result.counts["short_deficiencies"] == 11
    assert sum(row.requested - row.kept for row in rows) == result.counts["short"] == 30 - kept
    assert rows[0] == Shortage("q1|f1", "q1", "f1", "normal", 2, 0, 4, ("duplicate",), (4,), None)
    assert result.notes[-1] == "... and 6 more, all in the table shortages"


def test_a_run_without_shortages_has_an_empty_table(tmp_path):
    with Run.open(tmp_path / "run") as run, TeacherServer(write) as server:
        fill_run(run, 4)
        synthesize(run, config_for(server.base_url))
        assert run.table("shortages", Shortage).has(0)
        assert list(run.table("shortages", Shortage)) == []


def test_a_shortage_in_one_line():
    row = Shortage("q|f", "q", "f", "hard", 3, 1, 4, ("duplicate", "fact quoted"), (3, 1), None)
    assert told_shortage(row) == "q|f: 1 of 3 kept (duplicate 3, fact quoted 1)"
    silent = Shortage("q|f", "q", "f", "hard", 3, 0, 0, (), (), "no reply in 5 s")
    assert told_shortage(silent) == "q|f: 0 of 3 kept (teacher failed: no reply in 5 s)"


def test_the_next_request_says_what_was_wrong(tmp_path):
    asked = []

    def teacher(messages, **sampling) -> str:
        asked.append(messages[-1]["content"])
        rng = random.Random(len(asked))
        if len(asked) == 1:
            return "\n\n".join(written(piece, rng) for piece in ("fact", "fact", "contradiction", "good"))
        return write(messages, **sampling)

    _, queries, facts = units(4)
    wanted = [Deficiency("q1|f1", "q1", "f1", 1.2, "unfair", 4)]
    with Ledger(tmp_path / "teacher.sqlite") as ledger:
        result = write_examples(
            wanted, queries, facts, config_for(), Teacher.from_callable(teacher, ledger), progress=""
        )
    assert result.counts["kept"] == 4
    assert len(asked) == 2
    assert "could not be used" not in asked[0]
    assert asked[1].endswith(
        "Some examples that you wrote before could not be used: 2 quoted the fact in the question or in an "
        "option, 1 had an explanation that contradicts the answer. The new examples MUST avoid this."
    )


def test_advice_is_short_and_says_nothing_that_a_writer_cannot_mend():
    assert advice([]) == advice(["surplus", "filtered", "surplus"]) == ""
    told = advice(list(ADVICE) * 2 + ["fact quoted"])
    assert told.count(" 2 ") + told.count("3 quoted the fact") == 4
    assert "contaminated" not in told


def test_verification_turns_candidates_down_and_the_quota_is_met_by_others(tmp_path):
    seen = []

    def verify(candidates):
        seen.append([(c.unit.deficiency.id, c.item.question) for c in candidates])
        return [Refusal("blind answers differ", "1 of 3") if len(seen) == 1 and n == 0 else None
                for n, _ in enumerate(candidates)]  # fmt: skip

    with Ledger(tmp_path / "teacher.sqlite") as ledger:
        teacher = Teacher.from_callable(write, ledger, config_for().synthesize.teacher)
        result = write_examples(*units(4), config_for(), teacher, verify=verify, progress="")
    assert [len(round_) for round_ in seen] == [10, 1]
    assert [unit for unit, _ in seen[0]] == [unit.id for unit in units(4)[0] for _ in range(unit.quota)]
    assert result.counts["kept"] == 10
    (row,) = (row for row in result.examples if row.status == "rejected")
    assert (row.deficiency_id, row.reason, row.detail) == ("q0|f0", "blind answers differ", "1 of 3")


@pytest.mark.parametrize("source", ["evaluate", "held_out"])
def test_examples_that_repeat_a_held_out_item_are_refused_and_named(tmp_path, source):
    """The teacher's first example for each deficiency stands in the evaluation file."""
    with TeacherServer(write) as server:
        with Run.open(tmp_path / "before") as run:
            fill_run(run, 4)
            config = config_for(server.base_url)
            synthesize(run, config)
            first = next(iter(run.table("examples", Example))).question
        bench = tmp_path / "bench.jsonl"
        bench.write_text(json.dumps({"id": "b1", "question": first, "options": ["x", "y"], "answer": "A"}) + "\n")
        files = {"evaluate": {"path": [str(bench)]}} if source == "evaluate" else {}
        settings_ = {"held_out": [str(bench)]} if source == "held_out" else {}
        config = config.model_copy(
            update={
                "synthesize": config.synthesize.model_copy(update=settings_),
                "evaluate": config.evaluate.model_copy(update=files.get("evaluate", {})),
            }
        )
        for is_on in (True, False):
            chosen = config.model_copy(
                update={"synthesize": config.synthesize.model_copy(update={"decontaminate": is_on})}
            )
            with Run.open(tmp_path / f"after {is_on}") as run:
                fill_run(run, 4)
                result = synthesize(run, chosen)
                rows = list(run.table("examples", Example))
            found = [row for row in rows if row.reason == "contaminated"]
            assert len(found) == result.counts["rejected"].get("contaminated", 0) == int(is_on)
            assert result.counts["kept"] == 10
            if is_on:
                assert found[0].question == first
                assert found[0].detail.startswith("bench.jsonl, line 1 (b1): ")
                assert result.counts["held_out"]["items"] == 1


def test_a_request_given_up_is_a_shortage_with_the_error(tmp_path):
    with Ledger(tmp_path / "teacher.sqlite") as ledger:
        faults = [None, *[Fault(status=400)] * 50]
        with TeacherServer(write, faults=faults) as server:
            config = config_for(server.base_url, concurrency=1, max_retries=0)
            result = write_examples(*units(2), config, Teacher(config.synthesize.teacher, ledger), progress="")
    assert [row.deficiency_id for row in result.shortages] == ["q1|f1"]
    assert all("scripted fault" in row.error and row.num_replies == 0 for row in result.shortages)
