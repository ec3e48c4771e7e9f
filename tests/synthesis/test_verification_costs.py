from __future__ import annotations

from lamer.config import Config, load_config
from lamer.synthesis.blind import BlindCheck, blind_template
from lamer.synthesis.checks import Kept
from lamer.synthesis.costs import Sizes, rough_tokens, verification_costs
from lamer.synthesis.judge import JudgeCheck, judge_template
from lamer.synthesis.verify import Case
from lamer.teacher.ledger import Ledger
from lamer.teacher.teacher import Teacher


def config_with(**verify) -> Config:
    return load_config({"synthesize": {"verify": verify, "teacher": {"model": "t"}}, "model": {"name": "m"}})


def test_nothing_costs_nothing():
    assert verification_costs(1000, config_with()) == []


def test_calls_of_a_case_done_by_hand():
    costs = verification_costs(100, config_with(self_answer=5, student=True, judge={"model": "j"}))
    assert [(cost.check, cost.model, cost.calls, cost.num_scored) for cost in costs] == [
        ("student", "m", 0, 200), ("self answer", "t", 500, 0), ("judge", "j", 100, 0),
    ]  # fmt: skip


def test_tokens_of_a_case_done_by_hand():
    sizes = Sizes(fact=1, question=10, options=100, answer=1000, explanation=10_000, blind_reply=7, verdict=3)
    blind, judge = verification_costs(2, config_with(self_answer=3, judge={}), sizes, lambda text: 500)
    assert (blind.prompt_tokens, blind.completion_tokens) == (6 * 610, 6 * 7)
    assert (judge.prompt_tokens, judge.completion_tokens) == (2 * 11_611, 2 * 3)
    (seeing,) = verification_costs(
        2, config_with(self_answer=3, self_answer_sees_fact=True), sizes, lambda text: 500
    )
    assert seeing.prompt_tokens == 6 * 611


def test_permuted_options_are_more_prompts_for_the_student():
    for kind, num_orders in (("none", 1), ("cyclic", 3), ("all", 6)):
        config = load_config({"synthesize": {"verify": {"student": True}}, "diagnose": {"permutations": kind}})
        assert verification_costs(10, config)[0].num_scored == 20 * num_orders


def test_the_calls_are_those_that_are_made_when_nothing_is_turned_down(tmp_path):
    cases = [Case("f", Kept(f"Which of {i}?", ("x", "y", "z"), 1, "e")) for i in range(4)]
    asked = []

    def reply(messages) -> str:
        asked.append(messages[-1]["content"])
        return "y"

    with Ledger(tmp_path / "teacher.sqlite") as ledger:
        teacher = Teacher.from_callable(reply, ledger)
        BlindCheck(teacher, 3, 0.6, 0).reasons(cases)
        JudgeCheck(teacher, 0).reasons(cases)
    costs = verification_costs(4, config_with(self_answer=3, judge={}))
    assert sum(cost.calls for cost in costs) == len(asked) == 16
    for template in (blind_template(), judge_template()):
        own = [text for text in asked if text.startswith(template.text[:30])]
        assert all(0.5 < rough_tokens(text) / rough_tokens(template.text) < 2 for text in own)
