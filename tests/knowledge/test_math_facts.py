"""Replies in the format of prompt C.1 are read whole, with or without Markdown; no text breaks the parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer.knowledge.math_facts import (
    MathReply,
    answer_key,
    math_messages,
    math_prompt_hash,
    parse_math_reply,
    same_answer,
    teacher_facts,
    with_options,
)
from lamer.records import Query

PLAIN = """Background Knowledge:
1. Half of a number is the number divided by two.
2. A total is the sum of its parts.
Explanation: 48 / 2 = 24, and 48 + 24 = 72, so the answer: 72.
Answer: 72
Distractors: (A) 70 (B) 1,024 (C) 96"""
MARKDOWN = """## Background Knowledge
- "Half of a number is the number divided by two."
- **A total is the sum of its parts.**
- a total is the sum of its parts

**Explanation:** 48 / 2 = 24, and 48 + 24 = 72, so the answer: 72.
**Answer:** (A) \\boxed{72}.
**Distractors:**
* (A) 70
* (B) 1,024
* (C) 96
* (D) 72.0"""
ONE_LINE = (
    "Background Knowledge: Half of a number is the number divided by two. A total is the sum of its parts. "
    "Explanation: 48 / 2 = 24, and 48 + 24 = 72, so the answer: 72. Answer: 72 Distractors: 70, 1,024, 96"
)
BRACKETS = """Distractors: [70; 1,024; 96]
Answer: [72]
Explanation: [48 / 2 = 24, and 48 + 24 = 72, so the answer: 72.]
Background Knowledge: [Half of a number is the number divided by two.
A total is the sum of its parts.]"""
WHOLE = MathReply(
    ("Half of a number is the number divided by two.", "A total is the sum of its parts."),
    "48 / 2 = 24, and 48 + 24 = 72, so the answer: 72.",
    "72",
    ("70", "1,024", "96"),
)


@pytest.mark.parametrize("text", [PLAIN, MARKDOWN, ONE_LINE, BRACKETS, PLAIN.replace("\n", "\r\n")])
def test_a_reply_is_read_whole(text):
    assert parse_math_reply(text) == WHOLE
    assert WHOLE.problem is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "no background knowledge"), ("I cannot help.", "no background knowledge"),
     (PLAIN.replace("Answer: 72\n", ""), "no answer"), (PLAIN.split("Distractors")[0], "no distractor"),
     (PLAIN.replace("(A) 70 (B) 1,024 (C) 96", "72"), "no distractor"),
     ("Background Knowledge: None\nAnswer: 7\nDistractors: 8, 9", "no background knowledge")],
)  # fmt: skip
def test_what_is_missing_is_named(text, problem):
    assert parse_math_reply(text).problem == problem


@given(st.text())
def test_no_text_breaks_the_parser(text):
    check(parse_math_reply(text))


PARTS = st.sampled_from(["Background Knowledge:", "Answer:", "Distractors", "**", "(A)", "1.", "[", "]", "\n",
                         " ", "7", "\\boxed{", "}", "x", "####", "\ud800", "Explanation:"])  # fmt: skip


@given(st.lists(PARTS, max_size=40).map("".join))
def test_no_arrangement_of_the_format_breaks_the_parser(text):
    check(parse_math_reply(text))


def check(reply: MathReply) -> None:
    assert len({answer_key(text) for text in (reply.answer or "", *reply.distractors)}) == 1 + len(
        reply.distractors
    )
    assert all(fact.strip() == fact != "" for fact in reply.facts)
    repr(reply).encode()
    for fact in reply.facts:
        fact.encode()


def test_a_long_line_of_blanks_or_stars_is_read_quickly():
    for char in (" ", "*", "(", "1. ", "A. "):
        check(parse_math_reply(char * 20_000))


def test_the_prompt_asks_for_the_facts_and_holds_the_question_as_it_is():
    query = Query("q", "What is {num_facts} + {x}?", None, "7", "s")
    (message,) = math_messages(query, 4)
    assert message["role"] == "user"
    assert "Question: What is {num_facts} + {x}?" in message["content"]
    assert "List 4 pieces" in message["content"]
    assert 'I can give the knowledge "Acid is corrosive." Just list the knowledge.' in message["content"]
    assert len(math_prompt_hash()) == 16


def test_the_label_is_not_in_the_prompt_and_makes_no_option():
    query = Query("q", "How many?", None, "987654", "s")
    assert "987654" not in math_messages(query, 4)[0]["content"]
    made = with_options(query, WHOLE, 0)
    assert sorted(made.options or ()) == ["1,024", "70", "72", "96"]
    assert made.answer is None


def test_the_label_becomes_the_index_of_the_equal_option():
    for seed in range(5):
        made = with_options(Query("q", "How many?", None, "1024", "s"), WHOLE, seed)
        assert made.options is not None
        assert made.options[made.answer_index or 0] == "1,024"
    assert {with_options(Query("q", "?", None, None, "s"), WHOLE, seed).options for seed in range(9)} != {WHOLE}
    orders = {with_options(Query("q", "?", None, None, "s"), WHOLE, seed).options for seed in range(9)}
    assert len(orders) > 1
    assert with_options(Query("q", "?", None, "5", "s"), WHOLE, 0) == with_options(
        Query("q", "?", None, "5", "s"), WHOLE, 0
    )


def test_a_query_keeps_its_own_options_and_stays_open_without_usable_ones():
    own = Query("q", "?", ("a", "b"), "1", "s")
    assert with_options(own, WHOLE, 0) == own
    opened = Query("q", "?", None, "72", "s")
    assert with_options(opened, MathReply(WHOLE.facts, "", "72", ()), 0) == opened


@pytest.mark.parametrize(
    ("text", "label", "equal"),
    [("72", "72", True), ("$1,500.00", "1500", True), ("72 clips", "72", True), ("7 of 72", "72", False),
     ("72.5", "72", False), ("-72", "72", False), ("0.5", "1/2", False)],
)  # fmt: skip
def test_equal_answers(text, label, equal):
    assert same_answer(text, label) is equal


def test_facts_are_cut_to_the_number_wanted():
    assert [fact.text for fact in teacher_facts(WHOLE, 1)] == list(WHOLE.facts[:1])
    assert teacher_facts(WHOLE, 4)[0].source == "teacher"
