from __future__ import annotations

import json
import random
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer.synthesis.parse import ParsedItem, parse

ITEM = {
    "question": "Anna left her spoon in the soup. What happened?",
    "options": {"A": "It became hot.", "B": "It stayed cool.", "C": "It sank."},
    "explanation": "The spoon is of iron.",
    "answer": "A",
}
OPTIONS = ("It became hot.", "It stayed cool.", "It sank.")


def only(reply: str) -> ParsedItem:
    (item,) = parse(reply)
    return item


def with_(**changes: object) -> str:
    return json.dumps({"examples": [ITEM | changes]}, ensure_ascii=False)


def test_the_schema_that_is_asked_for():
    item = only(with_())
    assert item.question == ITEM["question"]
    assert item.options == OPTIONS
    assert (item.answer, item.answer_index) == ("A", 0)
    assert item.explanation == "The spoon is of iron."
    assert item.problem is None
    assert json.loads(item.raw) == ITEM


@pytest.mark.parametrize(
    "options",
    [
        list(OPTIONS),
        [f"({letter}) {text}" for letter, text in zip("ABC", OPTIONS)],
        [f"{letter}. {text}" for letter, text in zip("ABC", OPTIONS)],
        [{"label": letter, "text": text} for letter, text in zip("ABC", OPTIONS)],
        [{"text": text} for text in OPTIONS],
        [{letter: text} for letter, text in zip("ABC", OPTIONS)],
        {"C": OPTIONS[2], "A": OPTIONS[0], "B": OPTIONS[1]},
        {"(a)": OPTIONS[0], "(b)": OPTIONS[1], "(c)": OPTIONS[2]},
        "(A) It became hot. (B) It stayed cool. (C) It sank.",
        "A. It became hot.\nB. It stayed cool.\nC. It sank.",
    ],
)
def test_ways_to_write_options(options):
    item = only(with_(options=options, answer="B"))
    assert item.options == OPTIONS
    assert item.answer_index == 1


@pytest.mark.parametrize(
    "options",
    [
        {"A": "x", "C": "y"},
        {"hot": True},
        [["x"], ["y"]],
        [{"label": "B", "text": "x"}, {"label": "A", "text": "y"}],
        "x",
    ],
)
def test_options_that_cannot_be_told_apart_are_none(options):
    item = only(with_(options=options))
    assert item.options is None
    assert item.problem == "no options"


@pytest.mark.parametrize(
    ("answer", "index", "problem"),
    [
        ("B", 1, None), ("(B) It stayed cool.", 1, None), ("It sank.", 2, None), (["C"], 2, None),
        ({"letter": "B", "text": "It stayed cool."}, 1, None),
        ("D", None, "answer not an option"), (1, None, "answer not an option"), (None, None, "no answer"),
        (["A", "B"], None, "ambiguous answer"), ({"letter": "B", "text": "It sank."}, None, "ambiguous answer"),
    ],
)  # fmt: skip
def test_ways_to_write_the_answer(answer, index, problem):
    item = only(with_(answer=answer))
    assert (item.answer_index, item.problem) == (index, problem)


def test_a_number_that_is_an_option_is_an_answer():
    item = only(with_(options=[5, 6, 7], answer=6))
    assert (item.options, item.answer_index) == (("5", "6", "7"), 1)


@pytest.mark.parametrize(
    "frame",
    [
        "{}", "[{}]", '{{"data": {{"items": [{}]}}}}', "Sure!\n```json\n{}\n```\nDone.", "Here [1] it is: {} }} ]",
        "<think>Perhaps {{\"question\": \"no\"}}?</think>{}", "```\n[{},]\n```", "{}\n{{\"note\": \"the end\"}}",
    ],
)  # fmt: skip
def test_frames_around_an_object(frame):
    item = only(frame.format(json.dumps(ITEM)))
    assert (item.options, item.problem) == (OPTIONS, None)


def test_one_object_a_line():
    lines = [json.dumps(ITEM | {"question": f"Question {n}?"}) for n in range(3)]
    assert [item.question for item in parse("\n".join(lines))] == [f"Question {n}?" for n in range(3)]
    assert [item.raw for item in parse("\n".join(lines))] == lines


def test_names_of_other_schemas_and_languages():
    reply = json.dumps(
        {"题目": "为什么？", "选项": ["热", "冷", "沉"], "正确答案": "B", "解析": ["一。", "二。"]},
        ensure_ascii=False,
    )
    item = only(reply)
    assert (item.question, item.options, item.answer_index) == ("为什么？", ("热", "冷", "沉"), 1)
    assert item.explanation == "一。\n二。"
    assert (
        only(with_().replace('"options"', '"Answer_Options"').replace('"answer"', '"correct-answer"')).problem
        is None
    )


def test_json_inside_a_json_string():
    item = only(json.dumps(json.dumps({"examples": [ITEM]})))
    assert (item.question, item.options, item.answer_index) == (ITEM["question"], OPTIONS, 0)
    assert item.raw == json.dumps(json.dumps({"examples": [ITEM]}))


def test_escapes():
    item = only(
        r'{"question": "\u00e9\ud83d\ude00 \frac{1}{2} \(x\) a\\b \"c\"\/d?", "options": ["x\ty", "y\n2"]}'
    )
    assert item.question == 'é\U0001f600 \\frac{1}{2} \\(x\\) a\\b "c"/d?'
    assert item.options == ("x y", "y 2")
    assert only(r'{"question": "a\ud83d?"}').question == "a�?"


def test_a_cut_keeps_the_items_before_it():
    whole = json.dumps({"examples": [ITEM, ITEM | {"question": "Second?"}, ITEM | {"question": "Third?"}]})
    third = whole.index('"Third?"')
    seen = []
    for cut in range(len(whole)):
        items = parse(whole[:cut])
        sound = [item.question for item in items if item.problem is None]
        assert sound == [ITEM["question"], "Second?", "Third?"][: len(sound)]
        assert {item.problem for item in items[len(sound) :]} <= {"truncated"}
        assert len(items) - len(sound) <= 1
        seen.append(len(sound))
    assert seen[third] == 2
    assert seen[-1] == 3
    assert seen == sorted(seen)
    assert parse(whole[:third])[-1].problem == "truncated"


@pytest.mark.parametrize(
    "damage",
    [
        ('"The spoon is of iron."', '"The "spoon" is of iron."'),
        ('"explanation": ', '"explanation" '),
        ('"}, "explanation"', '"} "explanation"'),
        ('"A"}', '"A", "question": "Another?"}'),
        (', "answer": "A"', ', "answer":'),
        ('"C": "It sank."}', '"C": "It sank."'),
        ('"Anna left', '"{\\"question\\": \\"Anna left'),
    ],
)
def test_a_broken_object_is_malformed_and_never_half_read(damage):
    before, after = damage
    reply = json.dumps(ITEM).replace(before, after)
    assert reply != json.dumps(ITEM)
    assert {item.problem for item in parse(reply)} <= {"malformed", "truncated"}
    assert parse(reply)


def test_trailing_commas_and_raw_line_breaks_do_no_harm():
    reply = json.dumps(ITEM).replace('"A"}', '"A",}').replace("soup. What", "soup.\nWhat")
    assert only(reply).problem is None


def test_the_other_format_is_read_as_well():
    text = "Question: q?\nOptions: (A) x (B) y\nAnswer: B\nExplanation: e"
    assert only(text).answer_index == 1
    assert only(json.dumps({"reply": 3}) + "\n" + text).answer_index == 1
    assert only(text.replace("q?", 'What is {"question": 1}?')).question == 'What is {"question": 1}?'


def test_an_object_that_is_no_example_is_no_item():
    assert parse('{"colour": "blue"}') == []
    assert parse("[[1, 2], {}]") == []
    assert parse('{"examples": []}') == []


@pytest.mark.parametrize(
    "unit", ["[", '{"a":', '[{"question":', '{"question":{"options":[', '"', "\\", '\\"', "[[1],", "{ "]
)
def test_no_depth_of_nesting_breaks_it(unit):
    reply = unit * 20_000
    assert len(reply) > sys.getrecursionlimit()
    assert isinstance(parse(reply), list)


def readable(reply: str) -> str:
    """Letters and digits of a reply as written, and with its escapes resolved once and twice."""

    def resolved(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else {"n": "\n", "t": "\t", "r": "\r"}.get(match[2], match[2])

    texts = [reply]
    for _ in range(2):
        texts.append(re.sub(r"(?s)\\(?:u([0-9a-fA-F]{4})|(.))", resolved, texts[-1]))
    whole = (text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts)
    return "\n".join("".join(c for c in text if c.isalnum()) for text in whole)


def assert_nothing_is_invented(reply: str) -> None:
    written = readable(reply)
    for item in parse(reply):
        parts = [item.question, item.answer, *(item.explanation or "").split("\n"), *(item.options or ())]
        for part in parts:
            for word in (part or "").split():
                assert "".join(c for c in word if c.isalnum()) in written
        assert item.raw in reply.replace("\r\n", "\n").replace("\r", "\n")
        assert (item.answer_index is None) or item.answer_index < len(item.options or ())
        if item.problem is None:
            assert item.question
            assert item.options
            assert item.answer_index is not None


FRAGMENTS = st.sampled_from(
    [
        "{", "}", "[", "]", ":", ",", '"', "\\", '"question"', '"options"', '"answer"', '"explanation"',
        '"A"', '"B"', '"x y"', "null", "true", "-1.5e3", "1", " ", "\n", '{"A": "x", "B": "y"}', '["x", "y"]',
        json.dumps(ITEM), "\\u12", '\\"', "```json", "Question:", "<think>", "</think>", "\r\n", "\ufeff", "'",
        "\\ud83d", "é",
    ]
)  # fmt: skip


@given(st.lists(FRAGMENTS, max_size=30).map("".join))
@settings(max_examples=150)
def test_no_mixture_of_its_own_marks_makes_it_raise_or_invent(reply):
    assert_nothing_is_invented(reply)


@given(st.integers(0, 10**6), st.data())
@settings(max_examples=60)
def test_a_mutated_reply_never_raises_nor_invents(seed, data):
    rng = random.Random(seed)
    reply = json.dumps({"examples": [ITEM | {"question": f"Is it {rng.randrange(99)}?"} for _ in range(3)]})
    cut = data.draw(st.integers(0, len(reply)))
    assert_nothing_is_invented(
        reply[:cut] + data.draw(st.text(max_size=5)) + reply[cut + data.draw(st.integers(0, 20)) :]
    )


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="*")).map(
    lambda text: f"w{text}w"
)


@given(st.lists(TEXTS, min_size=3, max_size=3), st.booleans())
@settings(max_examples=60)
def test_what_json_says_is_what_is_read(texts, ascii_only):
    question, first, explanation = (" ".join(text.split()) for text in texts)
    written = {
        "question": question,
        "options": {"A": first, "B": "other"},
        "explanation": explanation,
        "answer": "A",
    }
    item = only(json.dumps({"examples": [written]}, ensure_ascii=ascii_only))
    assert item.question == question
    assert item.options == (first, "other")
    assert item.explanation == explanation
    assert (item.answer_index, item.problem) == (0, None)
