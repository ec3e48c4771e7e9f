from __future__ import annotations

import random

from lamer.config import load_config
from lamer.microworld import World
from lamer.microworld.exam import Sheet, read_sheet, recognise_scene, right_option
from lamer.microworld.teacher import MicroworldTeacher
from lamer.records import Deficiency, Fact
from lamer.run import Run
from lamer.synthesis.blind import DISAGREE
from lamer.synthesis.stage import open_verifier
from lamer.synthesis.synthesize import Synthesis, write_examples
from lamer.teacher.ledger import Ledger
from lamer.teacher.teacher import Teacher
from lamer.testing import TeacherServer

WORLD = World.build(3)
TEACHER = MicroworldTeacher(WORLD, error_rate=0.0)


def written(share: int = 9):
    for fact in WORLD.facts[::share]:
        for statement in fact.statements:
            for example in TEACHER.examples(statement, 2, random.Random(statement)):
                yield fact, statement, example


def test_the_teacher_finds_the_answers_of_its_own_scenarios():
    examples = list(written())
    assert len(examples) == 480
    for fact, statement, example in examples:
        assert recognise_scene(example.question)[1] == fact.kind
        for shown in ("", statement):
            assert right_option(Sheet(shown, example.question, example.options, None), TEACHER) == example.slot


def test_a_fact_that_is_shown_goes_before_what_is_known():
    fact, _, example = next(written())
    false = next(
        wording
        for attribute, wording, value in TEACHER._wordings_of(fact.kind)
        if attribute.name == fact.attribute and value != fact.value
    )
    assert right_option(Sheet(false, example.question, example.options, None), TEACHER) != example.slot


def test_it_cannot_tell_what_it_does_not_know():
    options = ("It fell.", "It rose.")
    assert right_option(Sheet("", "What happened to the moon?", options, None), TEACHER) is None
    assert read_sheet("Knowledge: Iron rusts.\nQuestion: why?") is None


def verified(folder, error_rate: float = 0.4, **verify) -> tuple[Synthesis, dict]:
    units = [Deficiency(f"u{i}", "", fact.id, 0.5, "easy", 1) for i, fact in enumerate(WORLD.facts[::18])]
    facts = {fact.id: Fact(fact.id, fact.statements[0], None, "w") for fact in WORLD.facts}
    teacher = MicroworldTeacher(WORLD, error_rate=error_rate)
    with TeacherServer(teacher.reply) as server, Run.open(folder / "run") as run:
        if "judge" in verify:
            verify["judge"] = {"model": "judge", "base_url": server.base_url}
        settings = {"teacher": {"base_url": server.base_url, "model": "t"}, "verify": verify}
        config = load_config({"synthesize": settings})
        with Ledger(folder / "teacher.sqlite") as ledger:
            asked = Teacher(config.synthesize.teacher, ledger)
            verifier = open_verifier(run, config, asked, "")
            result = write_examples(
                units, {}, facts, config, asked, progress="", verify=verifier.refusals if verifier else None
            )
    return result, verifier.counts() if verifier is not None else {}


def wrong(result: Synthesis) -> int:
    """Kept examples whose answer is not what is true."""
    kept = [row for row in result.examples if row.status == "kept"]
    return sum(right_option(Sheet("", row.question, row.options, None), TEACHER) != row.answer for row in kept)


def test_blind_answers_and_a_judge_find_the_wrong_letters_that_form_cannot_show(tmp_path):
    plain, _ = verified(tmp_path / "plain")
    assert wrong(plain) > 0
    blind, counts = verified(tmp_path / "blind", self_answer=3)
    assert wrong(blind) == 0
    assert blind.counts["short"] == 0
    assert counts["self answer"]["rejected"] == blind.counts["rejected"][DISAGREE] > 0
    judged, counts = verified(tmp_path / "judge", judge=True)
    assert wrong(judged) == 0
    assert counts["judge"]["rejected"] == judged.counts["rejected"]["judge: wrong answer"] > 0
