from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer.errors import DataError
from lamer.synthesis.contamination import (
    LONG,
    MAX_ITEMS,
    SHORT,
    HeldOut,
    HeldOutItem,
    held_out_words,
    read_held_out,
)

PASSAGE = (
    "Miners in the valley carried canaries underground because the small birds fainted long before any man "
    "noticed the gas that seeped out of the coal."
)


def held_out(*questions: str | tuple[str, tuple[str, ...]], prompt: str = "") -> HeldOut:
    rows = [question if isinstance(question, tuple) else (question, ()) for question in questions]
    return HeldOut((HeldOutItem(f"f, line {n}", text, options) for n, (text, options) in enumerate(rows)), prompt)


def numbered(first: int, count: int) -> str:
    return " ".join(f"w{n}" for n in range(first, first + count))


def test_words_are_those_of_gpt_3():
    assert held_out_words("Don't STOP, the A-team's (3.5) cats!") == [
        "dont",
        "stop",
        "the",
        "a",
        "teams",
        "3",
        "5",
        "cats",
    ]
    assert held_out_words("sol\u00adid \ufb01re 猫は好き ok") == ["solid", "fire", "猫", "は", "好", "き", "ok"]


def test_thirteen_words_in_a_row_are_contamination_and_twelve_are_not():
    index = held_out(numbered(0, 40))
    copied = "x y z " * 20 + numbered(5, 13) + " x y z" * 20
    assert str(index.find(copied)) == f'f, line 0: "{numbered(5, 13)}"'
    assert index.find("x y z " * 20 + numbered(5, 12) + " x y z" * 20) is None


def test_case_punctuation_and_apostrophes_hide_nothing():
    found = held_out(PASSAGE).find("So: " + PASSAGE.upper().replace(" ", ",  ").replace("BIRDS", "BI\u00adRDS"))
    assert found is not None


@pytest.mark.parametrize("where", ["question", "option", "explanation"])
def test_a_copy_is_found_wherever_it_stands(where):
    example = {
        "question": "Why did they take birds along, would you think?",
        "options": ("a", "b"),
        "explanation": "e",
    }
    key, value = ("options", ("a", PASSAGE)) if where == "option" else (where, PASSAGE)
    assert held_out("Of what use is it?", PASSAGE).find(**{**example, key: value}).place == "f, line 1"
    assert held_out(PASSAGE).find(**example) is None


def test_a_short_question_is_found_as_a_whole_only():
    question = "Which metal did the smith heat in autumn, iron or tin?"  # 11 words
    index = held_out((question, ("It was iron.", "It was tin.")))
    around = (
        "Tell us, friends of the forge and of the long dark evenings by the fire with nothing to do: {} Speak."
    )
    assert index.find(around.format(question)).words == " ".join(held_out_words(question))
    assert index.find(around.format(question.replace("autumn", "winter"))) is None
    assert index.find(around.format("Which metal did the smith heat in autumn, iron or")) is None


def test_a_short_copy_with_a_word_changed_at_its_edge_is_found_by_its_eight_grams():
    question = "Which metal did the old smith heat in autumn, iron or tin?"  # 12 words, 5 8-grams
    index = held_out((question, ("It was iron.", "It was tin.")))
    found = index.find(question.replace("tin", "lead"))
    assert (found.share, found.place) == (pytest.approx(0.8), "f, line 0")
    assert index.find(question.replace("iron or tin", "brass or lead")) is None  # 2 of 5


@pytest.mark.parametrize(("num_same", "is_found"), [(14, True), (13, False)])
def test_the_share_of_eight_grams_decides(num_same, is_found):
    """20 8-grams of 27 words; `num_same` of them are held out, no 13 words in a row: 14 / 20 is the threshold."""
    text = numbered(0, 27).split()
    held = [" ".join(text[start : start + SHORT]) for start in range(num_same)]
    items = [f"{gram} other{n}" for n, gram in enumerate(held)]
    found = held_out(*items).find(" ".join(text))
    assert (found is not None) is is_found
    if found is not None:
        assert found.share == pytest.approx(0.7)
        assert str(found).endswith(", 70% of its 8-word runs are held out")


def test_what_many_items_share_is_boilerplate():
    form = "Which of the following two events is the more plausible cause of what you have just read above"
    few = [(f"{numbered(100 * n, 20)} {form}", ()) for n in range(MAX_ITEMS)]
    example = f"Anna left her spoon in the soup. {form}?"
    assert held_out(*few).find(example) is not None
    more = [*few, (f"{numbered(5000, 20)} {form}", ())]
    assert held_out(*more).find(example) is None
    assert held_out(*more).find(numbered(100, 20)).place == "f, line 1"


def test_the_same_words_again_and_again_in_one_item_are_no_boilerplate():
    assert held_out(" ".join([PASSAGE] * 30)).find(PASSAGE) is not None


def test_the_runs_own_prompt_is_boilerplate():
    assert held_out(PASSAGE).find(PASSAGE) is not None
    assert held_out(PASSAGE, prompt=f"Write like this: {PASSAGE}").find(PASSAGE) is None


def test_a_fact_may_stand_in_the_explanation_although_it_is_held_out():
    index = held_out(PASSAGE)
    assert index.find("Why birds?", ("a", "b"), f"Because of this: {PASSAGE}", fact=PASSAGE) is None
    assert index.find("Why birds?", ("a", "b"), f"Because of this: {PASSAGE}", fact="Birds faint.") is not None


def test_a_question_that_says_little_is_compared_with_its_options():
    options = ("Sound travels faster through water than through air.", "Light bends when it enters glass.")
    index = held_out(("Which of these is true?", options))
    assert (
        index.find("Which of these is true?", ("Cats purr at night in the garden.", "Dogs fly over every house."))
        is None
    )
    assert index.find("Which of these is true?", options) is not None
    assert index.find("Which of these is true?", options[::-1]) is not None
    assert index.find("Which of these is true?", ("No.", options[0], "None of it.")) is not None


def test_n_grams_do_not_reach_from_the_question_into_an_option_or_the_next_item():
    index = held_out((numbered(0, 20), (numbered(20, 20), numbered(40, 20))), numbered(60, 20))
    for border in (20, 40, 60):
        assert index.find(numbered(border - 6, 13)) is None
        assert index.find(numbered(border, 13)) is not None


def test_what_cannot_be_checked_is_counted():
    index = held_out("What is two plus two?", PASSAGE, *["True and false or not true and so on is what?"] * 20)
    assert index.counts == {"items": 22, "ngrams": index.num_ngrams, "unprotected": 21}
    assert index.notes[0].startswith("21 of 22 held-out items have fewer than 8 words")
    assert held_out(PASSAGE).notes == []


def test_an_index_of_nothing_finds_nothing():
    assert held_out().find(PASSAGE, ("a", "b"), "e", "f") is None
    assert held_out("", "?!").find(PASSAGE) is None


WORDS = st.lists(st.sampled_from(["a", "bee", "sea", "dee"]), max_size=40)


@given(st.lists(WORDS, max_size=6), WORDS)
def test_the_index_agrees_with_comparing_the_words_themselves(items, example):
    """By both rules from their definitions; so few items that nothing is boilerplate."""

    def runs(words: list[str], n: int) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    long = set().union(*(runs(words, LONG) for words in items), set())
    whole = {tuple(words) for words in items if SHORT <= len(words) < LONG}
    short = set().union(*(runs(words, SHORT) for words in items), set())
    asked = [tuple(example[i : i + SHORT]) for i in range(len(example) - SHORT + 1)]
    expected = (
        bool(runs(example, LONG) & long)
        or any(runs(example, n) & whole for n in range(SHORT, LONG))
        or (bool(asked) and sum(gram in short for gram in asked) >= 0.7 * len(asked))
    )
    found = held_out(*map(" ".join, items)).find(" ".join(example))
    assert (found is not None) == expected


def test_planted_copies_are_all_found_in_batches(monkeypatch):
    monkeypatch.setattr("lamer.synthesis.contamination.WORDS_PER_BATCH", 100)
    rng = random.Random(0)
    items = [" ".join(f"v{rng.randrange(500)}" for _ in range(rng.randrange(14, 60))) for _ in range(300)]
    index = held_out(*items)
    for number, item in enumerate(items):
        words = item.split()
        start = rng.randrange(len(words) - LONG + 1)
        found = index.find("once upon a time " * 9 + " ".join(words[start : start + LONG]))
        assert found is not None
        assert found.place == f"f, line {number}"


def test_rows_and_paragraphs_of_files_are_items(tmp_path):
    labelled, text, other = tmp_path / "bench.jsonl", tmp_path / "notes.txt", tmp_path / "chat.jsonl"
    labelled.write_text(
        json.dumps({"id": "b-1", "question": PASSAGE, "options": ["x", "y"], "answer": "A"}) + "\n"
        + json.dumps({"question": "Why?", "answer": "because"}) + "\n"
    )  # fmt: skip
    text.write_text("one line\nand the next\n\n\nanother paragraph\n")
    other.write_text(json.dumps({"id": 7, "messages": [{"role": "user", "content": "hello"}], "label": 1}) + "\n")
    items = list(read_held_out([str(labelled), str(text), str(other)]))
    assert items == [
        HeldOutItem("bench.jsonl, line 1 (b-1)", PASSAGE, ("x", "y")),
        HeldOutItem("bench.jsonl, line 2", "Why?"),
        HeldOutItem("notes.txt, line 1", "one line\nand the next"),
        HeldOutItem("notes.txt, line 5", "another paragraph"),
        HeldOutItem("chat.jsonl, line 1 (7)", "user hello"),
    ]


def test_files_of_the_same_name_are_told_apart(tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(str(tmp_path / folder / "test.jsonl"))
        (tmp_path / folder / "test.jsonl").write_text('{"question": "q"}\n')
    assert [item.place for item in read_held_out(paths)] == [f"{path}, line 1" for path in paths]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'none.jsonl'}: no such file")):
        list(read_held_out([str(tmp_path / "none.jsonl")]))
