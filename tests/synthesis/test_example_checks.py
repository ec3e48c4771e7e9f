from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer.synthesis import answers, checks, items
from lamer.synthesis.checks import (
    Kept,
    RunChecks,
    is_tied_to_order,
    move_answer,
    place_answer,
    structural_reason,
)
from lamer.synthesis.contamination import HeldOut, HeldOutItem
from lamer.synthesis.duplicates import subject_of
from lamer.synthesis.parse import LETTERS, parse
from lamer.synthesis.quotes import is_about_options, is_quoted, option_key
from lamer.synthesis.verdicts import contradicts

FACT = "Iron conducts heat very well."
SOUND = (
    "Question: Anna left her spoon in the boiling soup for an hour. What happened?\n"
    "Options: (A) It became hot. (B) It stayed cool. (C) It sank.\nAnswer: (A)\nExplanation: Metals pass heat on."
)


def item(text: str = SOUND):
    return parse(text)[0]


OPTIONS = ("It became hot.", "It stayed cool.", "It sank.")


def why(checks: RunChecks, *args) -> str | None:
    refusal = checks.refusal(*args)
    return refusal.reason if refusal is not None else None


def test_a_sound_item_passes():
    assert structural_reason(item(), 3) is None
    assert why(RunChecks(0.8), item(), FACT, None) is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "Question: Anna left her spoon in the boiling soup for an hour. What happened?",
            "Question:",
            "no question",
        ),
        ("Options: (A) It became hot. (B) It stayed cool. (C) It sank.", "Options:", "no options"),
        ("Answer: (A)", "Answer:", "no answer"),
        ("Answer: (A)", "Answer: (D)", "answer not an option"),
        ("Answer: (A)", "Answer: (A) It sank.", "ambiguous answer"),
        (" (C) It sank.", "", "wrong number of options"),
        (" (C) It sank.", " (C) It sank. (D) It rose.", "wrong number of options"),
        ("It sank.", "it stayed cool", "duplicate options"),
        ("(B) It stayed cool.", "(B)", "duplicate options"),
        ("(C) It sank.", "(C) It STAYED cool!", "duplicate options"),
        ("(C) It sank.", "(C) All of the above.", "option about options"),
        ("(C) It sank.", "(C) Both A and B", "option about options"),
        ("Metals pass heat on.", "It became hot.", "no explanation"),
        ("Metals pass heat on.", "Obviously.", "no explanation"),
        ("Metals pass heat on.", "Metals do so, hence b is right.", "explanation contradicts answer"),
        ("Explanation: Metals pass heat on.", "Explanation:", "no explanation"),
        ("Metals pass heat on.", "[A concise explanation for the answer]", "template echoed"),
        ("Metals pass heat on.", "So the answer is (B).", "explanation contradicts answer"),
        ("Metals pass heat on.", "heat " * 1000, "too long"),
    ],
)
def test_the_reason_of_a_malformed_item(old, new, reason):
    assert old in SOUND
    assert structural_reason(item(SOUND.replace(old, new)), 3) == reason


def test_a_reply_cut_off_inside_the_last_item():
    assert structural_reason(item(), 3, is_cut=True) == "truncated"
    first, last = parse(f"{SOUND}\n\n{SOUND[:60]}")
    assert structural_reason(first, 3, is_cut=True) is None
    assert structural_reason(last, 3, is_cut=True) == "truncated"


@pytest.mark.parametrize(
    "text",
    [
        "Iron conducts heat very well. What happened to the spoon?",
        "Since iron CONDUCTS heat, very well, what happened?",
        "The iron conducts heat very well, so what?",
    ],
)
def test_a_fact_in_the_question_is_quoted(text):
    assert is_quoted(FACT, text)


def test_most_of_the_wording_of_a_long_fact_is_a_quotation():
    fact = "The old lighthouse keepers of the north burned whale oil every night."
    assert is_quoted(fact, "Old lighthouse keepers of the north burned whale oil each evening. Why?")
    assert not is_quoted(fact, "Why did the keepers in the lighthouse need oil at night?")


def test_the_words_of_a_fact_apart_are_no_quotation():
    assert not is_quoted(FACT, "Anna heated an iron spoon. Does heat pass?")
    assert not is_quoted("Dogs bark.", "Why did the dog bark?")
    assert is_quoted("Dogs bark.", "Why is it that dogs bark?")
    assert not is_quoted("", "Anything?")


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        ("Spiders have eight legs.", "Since spiders have 8 legs, what?"),
        ("Spiders have 8 legs.", "As a spider has it: spiders have eight legs. So?"),
        ("The band has twenty-one members.", "The band has 21 members, why?"),
        ("Iron does not burn.", "Iron doesn't burn; why?"),
        ("Iron cannot burn.", "Iron can not burn; why?"),
        ("Iron conducts heat.", "Why is it that ir\u00adon con\u200bducts heat?"),
    ],
)
def test_other_spellings_hide_no_quotation(fact, text):
    assert is_quoted(fact, text)
    assert not is_quoted(fact, text.replace("8", "6").replace("eight", "six").replace("21", "22")[:12])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("A dog.", "the DOG", True), ("three legs", "3 legs!", True), ("well-known man", "well known man", True),
        ("It doesn't melt", "It does not melt", True), ("**hot**", "hot", True), ("The river", "river", True),
        ("-3", "3", False), ("[0, 1)", "[0, 1]", False), ("x - y", "x y", False), ("-x", "x", False),
        ("Vitamin A", "Vitamin", False), ("a", "", False), ("the dog", "the dog and the cat", False),
        ("0.5", "0,5", False), ("x^2", "x 2", False), ("BB Bb", "Bb bb", False),
        ("BBEe will do", "BbEe will do", False), ("**", "//", False), ("**", "", False), (" ?! ", "", True),
        ("IT WAS NO DOG", "it was no dog", True), ("He ran", "he ran", True),
    ],
)  # fmt: skip
def test_options_that_say_the_same(first, second, same):
    assert (option_key(first) == option_key(second)) is same


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("All of the above", True), ("none of these.", True), ("Both A and B", True), ("(A) or (C)", True),
        ("A and B only", True), ("None of the options", True), ("Neither A nor B", True),
        ("All dogs bark", False), ("A", False), ("Both of them ate the fish.", False), ("The others left", False),
        ("Vitamins A and E", False), ("None", False), ("Two options were open to him.", False),
    ],
)  # fmt: skip
def test_options_made_of_other_options(option, expected):
    assert is_about_options(option, "ABC") is expected


def test_a_fact_cut_in_two_by_the_options_is_quoted():
    cloze = item(SOUND.replace("What happened?", "Iron conducts ...").replace("It sank.", "... heat very well."))
    assert why(RunChecks(0.8), cloze, FACT, None) == "fact quoted"


def test_a_held_out_question_is_refused_and_named():
    held_out = HeldOut([HeldOutItem("bench.jsonl, line 3 (b-3)", item().question, ())])
    refusal = RunChecks(0.8, held_out).refusal(item(), FACT, None)
    assert refusal.reason == "contaminated"
    assert refusal.detail == (
        'bench.jsonl, line 3 (b-3): "anna left her spoon in the boiling soup for an hour what happened"'
    )


def test_a_fact_in_an_option_is_quoted():
    spoiled = item(SOUND.replace("It sank.", "Because iron conducts heat very well."))
    assert why(RunChecks(0.8), spoiled, FACT, None) == "fact quoted"


def test_the_reference_query_must_not_be_copied():
    question = "Anna left her spoon in boiling soup for an hour. What happened?"
    reference = subject_of(question, ("x", "y"), FACT)
    assert why(RunChecks(0.8), item(), FACT, reference) == "copies reference"


def test_a_second_copy_is_a_duplicate_whatever_its_fact():
    checks = RunChecks(0.8)
    checks.keep(item(), FACT)
    assert why(checks, item(), FACT, None) == "duplicate"
    assert why(checks, item(), "Birds sing.", None) == "duplicate"
    again = SOUND.replace("Anna left her", "Anna had left the")
    assert why(checks, item(again), FACT, None) == "duplicate"
    assert (
        why(checks, item(SOUND.replace("spoon in the boiling soup", "dog behind a tall fence")), FACT, None)
        is None
    )


def test_the_same_scene_for_another_things_fact_is_no_duplicate():
    checks = RunChecks(0.6)
    scene = SOUND.replace("her spoon", "a {} rod")
    checks.keep(item(scene.format("drestite")), "Drestite blocks heat.")
    other = item(scene.format("zorpium"))
    assert why(checks, other, "Zorpium passes heat on.", None) is None
    assert why(checks, other, "Drestite blocks heat.", None) == "duplicate"


CLAIMS = [
    ("The correct answer is (B).", 0, True), ("The correct answer is (B).", 1, False),
    ("Therefore the answer is C", 0, True), ("The answer is: B.", 1, False), ("the answer is b", 0, True),
    ("The answer is option b, as metals pass heat.", 0, True), ("The right answer is **B**.", 0, True),
    ("The answer is A because metals pass heat.", 1, True), ("The answer is B, C is wrong.", 1, False),
    ("The answer is not (A).", 0, True), ("The answer cannot be A.", 0, True), ("It is (B), not (A).", 0, True),
    ("Option B is incorrect because it is cold.", 1, True), ("Option B is wrong, (A) is correct.", 0, False),
    ("(A) is not correct.", 0, True), ("(C) is the right choice.", 0, True), ("b is correct", 0, True),
    ("B is correct.", 0, True), ("b is correct", 1, False), ("(b) is correct", 0, True),
    ("B isn't correct.", 1, True),
    ("B cannot be right.", 1, True), ("B is not wrong.", 1, False), ("Only (B) is correct.", 0, True),
    ("B is the best answer.", 0, True), ("A is the answer.", 1, True), ("(A) would be wrong", 0, True),
    ("A and B are both wrong.", 0, True), ("Options B and C are incorrect.", 0, False),
    ("Options A and C are incorrect.", 0, True), ("Neither A nor B is correct.", 0, True),
    ("Thus, C.", 0, True), ("So b.", 0, True), ("Metals pass heat, hence (b).", 0, True), ("hence (A).", 0, False),
    ("The correct answer is It stayed cool.", 0, True), ('The correct answer is "it became hot".', 0, False),
    ("The answer is that it sank, since iron is heavy.", 0, True),
    ("Metals pass heat on.", 0, False), ("The answer is a warm spoon.", 1, False), ("A is warm.", 1, False),
    ("The answer is A spoon.", 1, False), ("Vitamin C is right for you.", 0, False), ("Plan D is best.", 0, False),
    ("The answer is (Z).", 0, False), ("So a metal is warm.", 1, False), ("The answer is I think hot.", 0, False),
    ("In this case, the best option is to wait.", 1, False), ("Because the answer was C, he left.", 2, False),
    ("It is not right to say that it is cold.", 0, False),
]  # fmt: skip


@pytest.mark.parametrize(("explanation", "answer", "expected"), CLAIMS)
def test_an_explanation_that_contradicts_the_answer(explanation, answer, expected):
    assert contradicts(explanation, answer, OPTIONS) is expected


def test_a_calculation_that_begins_with_another_option_is_no_contradiction():
    numbers = ("4", "12", "-3")
    assert not contradicts("The answer is 4 * 3 = 12.", 1, numbers)
    assert not contradicts("So the answer is 12.0 or rather 12.", 1, numbers)
    assert contradicts("4 * 3 = 12, so the answer is 12.", 0, numbers)
    assert not contradicts("7 - 10 gives it: the answer is -3.", 2, numbers)


@given(st.text(st.sampled_from("ABCabc ().,:isnotrghwe\n*'’&"), max_size=80) | st.text(max_size=80))
def test_no_explanation_breaks_the_reader(explanation):
    assert contradicts(explanation, 0, OPTIONS) in (True, False)


def test_letters_of_the_explanation_follow_their_options():
    kept = Kept("q?", ("hot", "cool", "gone"), 0, "(B) and (C) fail; option A is right, so the answer is A.")
    moved = move_answer(kept, 2)
    assert moved.options == ("cool", "gone", "hot")
    assert moved.answer == 2
    assert moved.explanation == "(A) and (B) fail; option C is right, so the answer is C."
    assert not contradicts(moved.explanation, moved.answer, moved.options)


@pytest.mark.parametrize(
    ("kept", "tied"),
    [
        (Kept("q?", ("x", "y", "z"), 0, "Metals pass heat on. (B) does not."), False),
        (Kept("q?", ("x", "y", "z"), 0, "A spoon is of metal. A metal is warm."), False),
        (Kept("q?", ("x", "y", "z"), 0, "B is cold."), True),
        (Kept("q?", ("x", "y", "z"), 0, "A is warm, the others are not."), True),
        (Kept("q?", ("x", "y", "z"), 0, "It holds vitamin A in plenty."), True),
        (Kept("q?", ("x", "y", "z"), 0, "Choices B and C are cold."), True),
        (Kept("q?", ("x", "y", "All of the above"), 2, "All hold."), True),
        (Kept("q?", ("x", "y", "Both A and B"), 2, "All hold."), True),
        (Kept("q?", ("x", "y", "z"), 0, "Plan D fails."), False),
        (Kept("q?", ("x", "y", "z"), 0, "As (b) is cold, it is the other."), True),
        (Kept("q?", ("x", "y", "z"), 0, "Only option b is cold."), True),
        (Kept("q?", ("x", "y", "z"), 0, "Here c is cold; so c is wrong."), True),
        (Kept("q?", ("x", "y", "z"), 0, "The second option is cold."), True),
        (Kept("q?", ("x", "y", "z"), 0, "The latter is cold."), True),
        (Kept("q?", ("x", "y", "z"), 0, "The answer is A warm spoon."), True),
        (Kept("q?", ("x", "y", "z"), 0, "The answer is A because metals pass heat."), False),
        (Kept("q?", ("x", "y", "z"), 0, "Dog(s) bark; (s) is no letter here."), False),
        (Kept("q?", ("x", "y", "z"), 0, "First the metal warms, then the hand."), False),
    ],
)
def test_what_ties_an_example_to_its_order(kept, tied):
    assert is_tied_to_order(kept) is tied


def free(number: int, answer: int = 0) -> Kept:
    options = (f"x{number}", f"y{number}", f"z{number}")
    return Kept(f"q{number}?", options, answer, f"See ({LETTERS[answer]}).")


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(0, 5))
def test_letters_are_uniform_and_nothing_but_the_order_changes(answers, seed):
    examples = [free(number, answer) for number, answer in enumerate(answers)]
    placed = [place_answer(example, slot, 3, seed) for slot, example in enumerate(examples)]
    for start in range(0, len(placed) - 23, 24):
        assert Counter(example.answer for example in placed[start : start + 24]) == {0: 8, 1: 8, 2: 8}
    for before, after in zip(examples, placed, strict=True):
        assert before.question == after.question
        assert sorted(before.options) == sorted(after.options)
        assert before.options[before.answer] == after.options[after.answer]
        assert after.explanation == f"See ({LETTERS[after.answer]})."


def test_a_letter_depends_on_the_slot_and_on_no_other_example():
    assert place_answer(free(1, 0), 7, 3, 0).answer == place_answer(free(2, 2), 7, 3, 0).answer
    tied = Kept("t?", ("x", "y", "None of the above"), 2, "e")
    assert place_answer(tied, 7, 3, 0) == tied
    seeds = {tuple(place_answer(free(0), slot, 3, seed).answer for slot in range(24)) for seed in range(5)}
    assert len(seeds) == 5


def test_the_letter_does_not_follow_the_order_of_the_run():
    placed = [place_answer(free(number), number, 3, 0).answer for number in range(300)]
    first_half = Counter(placed[:150])
    assert all(40 <= first_half[i] <= 60 for i in range(3))
    assert placed[:9] != [0, 1, 2] * 3
    assert placed[:24] != placed[24:48]


def test_the_raw_words_stay_as_they_were():
    kept = replace(Kept("q?", ("x", "y", "z"), 0, "e"), raw="Question: ...")
    assert move_answer(kept, 1).raw == "Question: ..."


def test_every_reason_is_explained_to_the_user():
    page = (Path(__file__).parents[2] / "docs" / "synthesis.md").read_text(encoding="utf-8")
    reasons = {
        value
        for module in (answers, checks, items)
        for name, value in vars(module).items()
        if name.isupper() and name[0] != "_" and isinstance(value, str) and value.islower()
    }
    assert len(reasons) > 25
    assert [reason for reason in sorted(reasons) if reason not in page] == []
