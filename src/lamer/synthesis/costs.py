"""What the checks of `lamer.synthesis.verify` cost for a number of examples (pure).

    self answer   examples x times calls of the teacher
    judge         examples calls of the judge
    student       examples x 2 x orders of the options prompts read by the model under diagnosis; no money

Upper bounds in calls: an example that one check turns down is not shown to the next. Tokens are those of typical
examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from lamer.config import Config
from lamer.diagnosis.readings import orders
from lamer.synthesis.blind import blind_template
from lamer.synthesis.judge import judge_template

CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Sizes:
    """A typical example, in tokens."""

    fact: int = 15
    question: int = 50
    options: int = 40
    answer: int = 12
    explanation: int = 50
    blind_reply: int = 60
    """A short reason and a letter."""
    verdict: int = 30
    """Four lines of yes or no."""


@dataclass(frozen=True, slots=True)
class CheckCost:
    """What one check costs."""

    check: str
    model: str
    """Who does the work."""
    calls: int
    """Paid calls at most."""
    prompt_tokens: int
    completion_tokens: int
    num_scored: int = 0
    """Prompts that the model under diagnosis reads."""


def rough_tokens(text: str) -> int:
    """A token for every four characters, as English texts have it."""
    return ceil(len(text) / CHARACTERS_PER_TOKEN)


def verification_costs(
    num_examples: int,
    config: Config,
    sizes: Sizes = Sizes(),
    count_tokens: Callable[[str], int] = rough_tokens,
) -> list[CheckCost]:
    """The cost of every check that `synthesize.verify` switches on, in the order they are made.

    Args:
        num_examples: Examples to be checked, those that will be turned down included.
        config: Settings `synthesize`, `diagnose` and `model`.
        sizes: Of a typical example.
        count_tokens: Of a text; the prompts' own words are counted with it.
    """
    settings, costs = config.synthesize.verify, list[CheckCost]()
    if settings.student:
        permuted = config.diagnose.target != "text"
        kind = config.diagnose.permutations if permuted else "none"
        num_orders = len(orders(config.synthesize.num_options, kind))
        costs.append(CheckCost("student", config.model.name, 0, 0, 0, 2 * num_examples * num_orders))
    if settings.self_answer:
        template = blind_template(sees_fact=settings.self_answer_sees_fact)
        shown = sizes.question + sizes.options + (sizes.fact if settings.self_answer_sees_fact else 0)
        costs.append(
            _paid(
                "self answer", config.synthesize.teacher.model, num_examples * settings.self_answer,
                count_tokens(template.text) + shown, sizes.blind_reply,
            )
        )  # fmt: skip
    if settings.judge is not None:
        shown = sizes.fact + sizes.question + sizes.options + sizes.answer + sizes.explanation
        prompt = count_tokens(judge_template().text) + shown
        costs.append(_paid("judge", settings.judge.model, num_examples, prompt, sizes.verdict))
    return costs


def _paid(check: str, model: str, calls: int, prompt_tokens: int, completion_tokens: int) -> CheckCost:
    return CheckCost(check, model, calls, calls * prompt_tokens, calls * completion_tokens)
