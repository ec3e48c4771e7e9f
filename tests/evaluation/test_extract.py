"""Replies and the answer each one gives, written by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer.evaluation.extract import extract_answer, is_correct

TWO = ("It became hot.", "It stayed cool.")
THREE = ("The stone became hot", "The stone stayed cool", "The stone became very hot")
FIVE = ("Paris", "London", "Rome", "New York", "York")
YES_NO = ("Yes", "No")
NUMBERS = ("3", "5", "15", "5.5", "-5")
MATH = (r"$\frac{1}{2}$", "2x + 3", "2x - 3", "$40")

WITH_OPTIONS = [
    # labels alone
    ("B", TWO, "B"),
    ("b", TWO, "B"),
    ("(B)", TWO, "B"),
    ("(b)", TWO, "B"),
    ("( b )", TWO, "B"),
    ("[B]", TWO, "B"),
    ("B.", TWO, "B"),
    ("B)", TWO, "B"),
    (" B\n", TWO, "B"),
    ("**B**", TWO, "B"),
    ("**(B)**", TWO, "B"),
    ("Option B", TWO, "B"),
    ("Option (B).", TWO, "B"),
    ("`B`", TWO, "B"),
    ("\\boxed{B}", TWO, "B"),
    ("$\\boxed{\\text{(B)}}$", TWO, "B"),
    # label and text
    ("(B) It stayed cool.", TWO, "B"),
    ("B. It stayed cool.", TWO, "B"),
    ("B) It stayed cool.", TWO, "B"),
    ("B: It stayed cool.", TWO, "B"),
    ("(B) because it is an insulator", TWO, "B"),
    ("B. Wood does not conduct heat.", TWO, "B"),
    ("(B)\n\nWood does not conduct heat, so (A) is wrong.", TWO, "B"),
    # stated
    ("The answer is B", TWO, "B"),
    ("The answer is B.", TWO, "B"),
    ("the answer is (b) it stayed cool .", TWO, "B"),
    ("The answer is (B) It stayed cool.", TWO, "B"),
    ("The answer is: B", TWO, "B"),
    ("The answer is **B**.", TWO, "B"),
    ("The correct answer is option B.", TWO, "B"),
    ("The correct option is (B).", TWO, "B"),
    ("The right choice is B, because it is wood.", TWO, "B"),
    ("The best answer to this question would be B.", TWO, "B"),
    ("Answer: B", TWO, "B"),
    ("Answer: (B)", TWO, "B"),
    ("**Answer:** B", TWO, "B"),
    ("Answer B", TWO, "B"),
    ("Final answer: B", TWO, "B"),
    ("My final choice is B", TWO, "B"),
    ("Answer:\nB", TWO, "B"),
    ("The answer is B because A contradicts the fact.", TWO, "B"),
    ("The answer is A because heat flows.", TWO, "A"),
    ("(B) is correct.", TWO, "B"),
    ("Option B is the correct answer.", TWO, "B"),
    ("I would choose B.", TWO, "B"),
    ("I'd go with (B).", TWO, "B"),
    ("Therefore, (B).", TWO, "B"),
    ("So, B.", TWO, "B"),
    ("Thus, it stayed cool.", TWO, "B"),
    # explanation first
    ("Wood is an insulator. The answer is (B) It stayed cool.", TWO, "B"),
    ("Metals conduct heat.\nA spoon is metal.\n\nAnswer: A", TWO, "A"),
    ("Let us look at each option.\n(A) fits.\n(B) does not fit.\nThe answer is (A).", TWO, "A"),
    ("(A) It became hot. (B) It stayed cool. The first contradicts the fact. So the answer is B.", TWO, "B"),
    ("Wood is an insulator.\n\nB", TWO, "B"),
    ("Wood is an insulator.\n\n(B) It stayed cool.", TWO, "B"),
    ("A stone is no wood. It became hot.", TWO, "A"),
    ("<think>The answer is A? No.</think>The answer is B", TWO, "B"),
    # several letters: the last stated answer
    ("The answer is A. Wait, the answer is B.", TWO, "B"),
    ("Answer: A\nOn reflection, the correct answer is (B).", TWO, "B"),
    ("The answer is not (A) but (B).", TWO, "B"),
    ("The answer isn't A. The answer is B.", TWO, "B"),
    ("The answer cannot be (A). The answer is (B).", TWO, "B"),
    ("Option A is wrong. The answer is B.", TWO, "B"),
    ("(A) is incorrect, (B) is correct.", TWO, "B"),
    ("\\boxed{A} ... no, \\boxed{B}", TWO, "B"),
    ("The answer is B, so it became hot was wrong.", TWO, "B"),
    ("The answer is (A) or (B).", TWO, None),
    # option text
    ("It stayed cool.", TWO, "B"),
    ("it stayed cool", TWO, "B"),
    ("It  stayed,   COOL!", TWO, "B"),
    ("I think that it stayed cool in the shade.", TWO, "B"),
    ("The answer is it stayed cool.", TWO, "B"),
    ("The answer is that it stayed cool.", TWO, "B"),
    ("It became hot? No: the answer is it stayed cool.", TWO, "B"),
    ("It became hot or it stayed cool. It stayed cool.", TWO, "B"),
    ("The stone became very hot.", THREE, "C"),
    ("The answer is the stone became very hot", THREE, "C"),
    ("The stone became hot.", THREE, "A"),
    ("the answer is (c) the stone became very hot .", THREE, "C"),
    ("The capital is London.", FIVE, "B"),
    ("New York", FIVE, "D"),
    ("York", FIVE, "E"),
    ("She lives in New York.", FIVE, "D"),
    ("The answer is Rome, not Paris.", FIVE, "C"),
    ("“Rome”", FIVE, "C"),
    # yes and no
    ("Yes", YES_NO, "A"),
    ("No, it does not.", YES_NO, "B"),
    ("Yes, because no fish can fly.", YES_NO, "A"),
    ("There is no fish that flies. So the answer is yes.", YES_NO, "A"),
    ("Fish cannot fly, so no.", YES_NO, "B"),
    ("There is no way to tell which fish flies.", YES_NO, None),
    # numbers among the options
    ("5", NUMBERS, "B"),
    ("The answer is 5.", NUMBERS, "B"),
    ("The answer is 15 apples.", NUMBERS, "C"),
    ("The answer is 5.5", NUMBERS, "D"),
    ("The answer is -5", NUMBERS, "E"),
    ("3 + 2 makes 5, so the answer is B", NUMBERS, "B"),
    ("The answer is $\\frac{1}{2}$", MATH, "A"),
    ("The answer is 2x - 3.", MATH, "C"),
    ("The answer is $40.", MATH, "D"),
    # other words, other languages, markup
    ("The answer is option (B).", TWO, "B"),
    ("The answer is choice B.", TWO, "B"),
    ("The answer would be B", TWO, "B"),
    ("The most plausible answer is (B).", TWO, "B"),
    ("ANSWER: B", TWO, "B"),
    ("Answer - B", TWO, "B"),
    ("Correct answer: B) It stayed cool.", TWO, "B"),
    ("The answer is <b>B</b>.", TWO, "B"),
    ("The correct answer is:\n\n**(B) It stayed cool.**", TWO, "B"),
    ("**Answer: (B)**\n\n**Explanation:** (A) would need metal.", TWO, "B"),
    ("### Answer\nB", TWO, "B"),
    ("Let's think step by step. Wood insulates, which rules out (A). Hence (B).", TWO, "B"),
    ("Both options look plausible, but (B) is the best answer.", TWO, "B"),
    ("It can't be A, so it must be B.", TWO, "B"),
    ("A is wrong because wood insulates. B is right.", TWO, "B"),
    ("Not A.\nB", TWO, "B"),
    ("The answer is A, no, B.", TWO, None),
    ("Neither (A) nor (B).", TWO, None),
    ("The answer is C.", FIVE, "C"),
    ("Answer: C. Rome", FIVE, "C"),
    ("Rome is the capital of Italy.", FIVE, "C"),
    ("Paris or Rome", FIVE, None),
    ('{"answer": "B"}', TWO, "B"),
    ("The answer is\nB", TWO, "B"),
    ("答案：B", TWO, "B"),
    ("答案是 (B)", TWO, "B"),
    ("Die Antwort ist B.", TWO, "B"),
    ("La réponse est (B).", TWO, "B"),
    ("Ｂ", TWO, "B"),
    ("（B）It stayed cool.", TWO, "B"),
    ("It is true that fish can't fly. The answer is no.", YES_NO, "B"),
    ("no.", YES_NO, "B"),
    ("As an AI, I cannot pick.", TWO, None),
    ("The answer is unknown.", TWO, None),
    ("The answer is (B) It stayed cool. The answer is (B) It stayed cool. The answer", TWO, "B"),
    ("B B B", TWO, None),
    ("Answer: A and B", TWO, None),
    ("<answer>B</answer>", TWO, "B"),
    # no answer
    ("", TWO, None),
    ("   \n", TWO, None),
    ("E", TWO, None),
    ("The answer is (E).", TWO, None),
    ("It became hot or it stayed cool.", TWO, None),
    ("(A) or (B)", TWO, None),
    ("A stone is heavy.", TWO, None),
    ("I cannot answer this question.", TWO, None),
    ("I'm sorry, I don't know whether it became hot.", TWO, None),
    ("None of the above.", TWO, None),
    ("Hot.", TWO, None),
    ("<think>The answer is A", TWO, None),
]

FREE = [
    ("42", "42"),
    ("The answer is 42.", "42"),
    ("The answer is 1,234 apples.", "1234"),
    ("The answer is $1,234.50.", "1234.5"),
    ("The answer is -7", "-7"),
    ("The answer is 4.330 inches", "4.33"),
    ("The answer is 50%.", "50"),
    ("The answer is 1/2", "1/2"),
    ("The answer is 3 1/2 hours", "7/2"),
    ("\\boxed{\\frac{3}{4}}", "3/4"),
    ("$\\boxed{12}$", "12"),
    ("\\boxed{\\text{12 km}}", "12"),
    ("So \\[ x = \\boxed{1{,}000} \\]", "1000"),
    ("#### 18", "18"),
    ("He has 3 boxes of 6, 3 * 6 = 18.\n#### 18", "18"),
    ("He has 3 boxes of 6 eggs, that makes 18 eggs.", "18"),
    ("The answer is 3 * 6 = 18 eggs.", "18"),
    ("The answer is 5. Wait, the answer is 6.", "6"),
    (".5", "0.5"),
    ("007", "7"),
    ("½", "1/2"),
    ("Yes", "Yes"),
    ("No, it did not.", "No"),
    ("The answer is no.", "no"),
    ("So the argument is invalid.", "invalid"),
    ("Answer: True", "True"),
    ("The answer is None", "None"),
    ("it became hot .", "it became hot"),
    ("The answer is (a) it became hot .", "it became hot"),
    ("The answer is syndrome therefrom", "syndrome therefrom"),
    ("] ] >", "] ] >"),
    ("The answer is ) ] }.", ") ] }"),
    ("The final answer is \\boxed{-\\frac{7}{2}}.", "-7/2"),
    ("The total cost is $12.50", "12.5"),
    ("Total: 1,250 dollars", "1250"),
    ("The answer is 7 1/4 cups.", "29/4"),
    ("x = 5", "5"),
    ("The answer is 12 km/h", "12"),
    ("Answer: 3:45", "3:45"),
    ("The answer is 25 %", "25"),
    ("So she needs 6 more eggs. The answer is 6 eggs.", "6"),
    ("The answer is approximately 3.14159", "3.14159"),
    ("The answer is $\\frac{22}{7}$", "22/7"),
    ("The answer is 2 1/2.", "5/2"),
    ("After 3 days he had 10, after 5 days he had 12 apples.", "12"),
    ("The answer is 1e3", "1e3"),
    ("\\[\\boxed{42}\\]", "42"),
    ("The answer is eight.", "eight"),
    ("Answer: (B) 15", "15"),
    ("The argument is deductively valid.", "valid"),
    ("I'm not sure.", None),
    ("Therefore, the answer is **120 minutes**.", "120"),
    ("The answer is +5", "5"),
    ("−3", "-3"),
    ("#### -1,000", "-1000"),
    ("", None),
    ("I cannot answer that.", None),
    ("It cannot be determined.", None),
    ("The answer cannot be determined from 5 apples.", None),
    ("word " * 40, None),
]


@pytest.mark.parametrize(("text", "options", "letter"), WITH_OPTIONS)
def test_the_letter_of_a_reply(text, options, letter):
    assert extract_answer(text, options) == letter


@pytest.mark.parametrize(("text", "answer"), FREE)
def test_the_free_answer_of_a_reply(text, answer):
    assert extract_answer(text) == answer


def test_the_table_is_large():
    assert len(WITH_OPTIONS) + len(FREE) >= 200


@pytest.mark.parametrize(
    ("answer", "target", "correct"),
    [
        ("1234", "1,234", True),
        ("4.333333", "4.33", True),
        ("13/3", "4.33", True),
        ("4.34", "4.33", False),
        ("4.4", "4", False),
        ("0.5", "1/2", True),
        ("18", "18.0", True),
        ("-7", "7", False),
        ("eight", "8", True),
        ("no", "No", True),
        ("yes", "No", False),
        ("It became hot", "it became hot.", True),
        ("] ] >", "]]>", True),
        ("] >", "] ] >", False),
        ("none", "None", True),
        (None, "None", False),
        ("1/0", "0", False),
    ],
)
def test_a_free_answer_is_compared_by_value(answer, target, correct):
    assert is_correct(answer, target) is correct


def test_letters_are_compared_as_they_are():
    assert is_correct("B", "B", TWO)
    assert not is_correct("A", "B", TWO)
    assert not is_correct(None, "B", TWO)


ODD = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(
            [
                "The answer is",
                "(A)",
                "B.",
                "\\boxed{",
                "}",
                "\\frac{1}{0}",
                "1/0",
                "It became hot",
                "####",
                "\n",
                "½",
                "not",
                "=",
            ]
        ),
    ),
    max_size=12,
).map(" ".join)


@given(text=ODD, options=st.lists(st.text(max_size=12), max_size=5))
@settings(max_examples=400, deadline=None)
def test_extraction_never_raises_and_names_an_option_that_exists(text, options):
    answer = extract_answer(text, options)
    if options and answer is not None:
        assert 0 <= ord(answer) - ord("A") < len(options)
    is_correct(answer, text, options)


@given(letter=st.sampled_from("AB"), before=st.text(alphabet="abcdefgh ,", max_size=60))
@settings(deadline=None)
def test_a_stated_letter_is_found_behind_any_explanation(letter, before):
    assert extract_answer(f"{before}. The answer is ({letter}).", TWO) == letter
