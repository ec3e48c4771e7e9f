"""Replies and the answer each one gives, written by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer.evaluation.extraction import extract_answer, is_correct

TWO = ("It became hot.", "It stayed cool.")
THREE = ("The stone became hot", "The stone stayed cool", "The stone became very hot")
FIVE = ("Paris", "London", "Rome", "New York", "York")
YES_NO = ("Yes", "No")
NUMBERS = ("3", "5", "15", "5.5", "-5")
CITIES = ("Paris", "London", "Berlin", "Rome")
COUNTS = ("12", "15", "18", "20")
TRUE_FALSE = ("True", "False")
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
    ("The answer is 1e3", "1000"),
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


DENIED = [
    ("Not Paris", CITIES, None),
    ("London is not the answer.", CITIES, None),
    ("London is wrong.", CITIES, None),
    ("London, of course, is wrong.", CITIES, None),
    ("(A) is wrong.", CITIES, None),
    ("(B) is incorrect.", CITIES, None),
    ("It cannot be (B).", CITIES, None),
    ("not (A)", CITIES, None),
    ("All but (B)", CITIES, None),
    ("Is it Paris?", CITIES, None),
    ("I don't think the answer is B.", CITIES, None),
    ("I don't think it's (B).", CITIES, None),
    ("The answer is definitely not B.", CITIES, None),
    ("If the answer is B, the sun is cold.", CITIES, None),
    ("The wrong answer is A.", CITIES, None),
    ("The incorrect option is A.", CITIES, None),
    ("The least likely answer is A.", CITIES, None),
    ("答案不是A", CITIES, None),
    ("答えはAではない", CITIES, None),
    ("Die Antwort ist nicht B.", CITIES, None),
    ("Correct answer: B\nIncorrect answer: A", CITIES, "B"),
    ("The city is Rome, not Paris.", CITIES, "D"),
    ("The city is Rome rather than Paris.", CITIES, "D"),
    ("London, because Paris is not in England.", CITIES, "B"),
    ("The spoon is not of metal, so it stayed cool.", TWO, "B"),
    ("As wood isn't a conductor, it stayed cool.", TWO, "B"),
    ("It did not rain.", ("It rained.", "It did not rain."), "B"),
    ("I think that it did not rain there.", ("It rained.", "It did not rain."), "B"),
    ("(B) Not enough information", ("Yes, always", "Not enough information"), "B"),
    ("The answer is not true.", TRUE_FALSE, "B"),
    ("The answer is not true.", ("True", "False", "Unknown"), None),
    ("It is not clear whether that is true.", TRUE_FALSE, None),
    ("Yes and no.", YES_NO, None),
    ("Yes. No.", YES_NO, None),
    ("The answer is yes and no.", YES_NO, None),
]
REVISED = [
    ("The answer is A. Wait, no, actually it should be C.", CITIES, "C"),
    ("The answer is A. Wait, no.", CITIES, None),
    ("The answer is A. I would choose C.", CITIES, "C"),
    ("The answer is B. So A is out.", CITIES, "B"),
    ("A: wrong\nB: right", CITIES, "B"),
    ("A - incorrect\nB - correct\nC - incorrect", CITIES, "B"),
    ("Answer A is wrong. Answer B is right.", CITIES, "B"),
    ("Answer B is right. Answer A is wrong.", CITIES, "B"),
]
SEVERAL = [
    ("Answer: A, C", CITIES, None),
    ("Answer: A and C", CITIES, None),
    ("Answer: A C", CITIES, None),
    ("The answer is (A), (B) and (D).", CITIES, None),
    ("(B)(C)", CITIES, None),
    ("(B) (C)", CITIES, None),
    ("(A) Paris\n(B) London\n(C) Berlin\n(D) Rome", CITIES, None),
    ("A. Paris\nB. London\nC. Berlin\nD. Rome\n\nB. London", CITIES, "B"),
    ("Option A is Paris. Option B is London.", CITIES, None),
    ("Paris\nLondon\nBerlin\nRome", CITIES, None),
]
SUMS = [
    ("The answer is 12 + 3 = 15.", COUNTS, "B"),
    ("The answer is 12 + 3.", COUNTS, None),
    ("The answer is x = 15.", COUNTS, "B"),
    ("The answer is 15 since 12 + 3 = 15.", COUNTS, "B"),
    ("The answer is 20 = 5 * 4.", COUNTS, "D"),
    ("The answer is y = 2x", ("x = 2y", "y = 2x"), "B"),
]
PHRASED = [
    ("The answer is definitely B.", CITIES, "B"),
    ("The answer is clearly B.", CITIES, "B"),
    ("The answer is most likely B.", CITIES, "B"),
    ("The answer is indeed (B).", CITIES, "B"),
    ("The answer is, therefore, B.", CITIES, "B"),
    ("The answer is therefore B because A is in France.", CITIES, "B"),
    ("The answer is probably London.", CITIES, "B"),
    ("The answer is the letter B.", CITIES, "B"),
    ("B, because A is in France.", CITIES, "B"),
    ("B because it is in England.", CITIES, "B"),
    ("B, I think.", CITIES, "B"),
    ("B - it is in England.", CITIES, "B"),
    ("I choose B because it is in England.", CITIES, "B"),
    ("I'd go with B as it is in England.", CITIES, "B"),
    ("I believe it's B", CITIES, "B"),
    ("I think it is B.", CITIES, "B"),
    ("I think the answer is B", CITIES, "B"),
    ("Choose B", CITIES, "B"),
    ("Answer:\n- B", CITIES, "B"),
    ("- B", CITIES, "B"),
    ("Ans: B", CITIES, "B"),
    ("Die Antwort lautet B", CITIES, "B"),
    ("La respuesta correcta es la B", CITIES, "B"),
    ("La risposta corretta è la B", CITIES, "B"),
    ("La bonne réponse est la B", CITIES, "B"),
    ("A resposta correta é a B.", CITIES, "B"),
    ("答案是B", CITIES, "B"),
    ("A在法国,所以答案是B", CITIES, "B"),
    ("正确答案是 B。", CITIES, "B"),
    ("答えはBです", CITIES, "B"),
    ("정답은 B입니다", CITIES, "B"),
    ("The answer is B and I am sure.", CITIES, "B"),
    ("The answer is B and A is wrong.", TWO, "B"),
]
NO_LABEL = [
    ("The answer is that it sank because it was heavy.", ("It sank because it was heavy.", "It floated."), "A"),
    ("A man walked.", CITIES, None),
    ("The answer is A man walked.", CITIES, None),
    ("I choose A man.", CITIES, None),
    ("I think so.", tuple("abcdefghijk"), None),
    ("The answer is I think so.", tuple("jklmnopqrst"), None),
    ("I, too, am lost.", tuple("jklmnopqrst"), None),
    ("The answer is e.g. a river.", FIVE, None),
    ("The answer is D.C. or so.", FIVE, None),
    ("He is a Parisian.", CITIES, None),
    ("Parisian", CITIES, None),
    ("Paris is in France, London in England, Berlin in Germany, Rome in Italy.", CITIES, None),
    ("C++ is a language.", CITIES, None),
]

READ_FREE = [
    ("The argument is not valid.", "invalid"),
    ("The argument is not deductively valid.", "invalid"),
    ("The argument isn't valid.", "invalid"),
    ("The argument is not necessarily valid.", None),
    ("It is not clear whether the argument is valid.", None),
    ("If it is not raining, the argument is valid.", "valid"),
    ("Yes and no.", None),
    ("The answer is yes and no.", None),
    ("The answer is 2½ hours.", "5/2"),
    ("1½", "3/2"),
    ("10²", "100"),
    ("The answer is 10³", "1000"),
    ("The area is 12 m².", "12"),
    ("10 000 dollars", "10000"),
    ("The answer is 10\u202f000 dollars.", "10000"),
    ("1,23,456", "123456"),
    ("1.5e3", "1500"),
    ("The answer is 1.5e3.", "1500"),
    ("10^3", "1000"),
    ("The answer is 10^3.", "1000"),
    ("\\boxed{10^{3}}", "1000"),
    ("The answer is 1.5 \\times 10^{-2}", "0.015"),
    ("$3.5 million", "3500000"),
    ("The answer is $3.5 million.", "3500000"),
    ("10^900", "10^900"),
    ("The answer is 5 since 5 * 3 = 15", "5"),
    ("The answer is 20 (= 4 * 5)", "20"),
    ("The answer is 20 = 4 * 5", "20"),
    ("The answer is 3 boxes * 6 eggs = 18 eggs.", "18"),
    ("The answer is $3 + $4 = $7.", "7"),
    ("The answer is x = 5", "5"),
    ("The answer is that he has 3 * 6 = 18 eggs.", "18"),
    ("The answer is that he has 5 since 5 * 3 = 15.", "5"),
    ("The answer is total = 18 because 3 * 6 = 18", "18"),
    ("The answer is definitely 5", "5"),
    ("5. Wait, no, it is 6.", "6"),
    ("1. apple\n2. banana\n3. cherry", "apple banana cherry"),
    ("1. Add the eggs\n2. Eat them", None),
    ("1. He buys 3 eggs.\n2. He eats 1, so 2 are left.", "2"),
    ("Sorted words: a b c", "a b c"),
    ("Here are the words sorted in alphabetical order: a, b, c", "a, b, c"),
]

CUT = [
    ("After that 13 eggs are left. Then she bakes 4", (), None),
    ("The answer is 13. Then she bakes 4", (), "13"),
    ("The answer is 13", (), None),
    ("The answer is \\boxed{13}", (), "13"),
    ("No, because she has 4", (), "No"),
    ("So that is true", (), None),
    ("He went to London, which", CITIES, None),
    ("The label (B)", CITIES, None),
    ("Let us look at them.\nB", CITIES, None),
    ("B", CITIES, "B"),
    ("(B) London. It is the capital of", CITIES, "B"),
    ("(B) London\n(A) is in", CITIES, "B"),
    ("London. It is the capital of", CITIES, "B"),
    ("The answer is B. It is the capital of", CITIES, "B"),
    ("(A) Paris\n(B) London", CITIES, None),
]


@pytest.mark.parametrize(
    ("text", "options", "letter"), [*WITH_OPTIONS, *DENIED, *REVISED, *SEVERAL, *SUMS, *PHRASED, *NO_LABEL]
)
def test_the_letter_of_a_reply(text, options, letter):
    assert extract_answer(text, options) == letter


@pytest.mark.parametrize(("text", "answer"), [*FREE, *READ_FREE])
def test_the_free_answer_of_a_reply(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(("text", "options", "answer"), CUT)
def test_a_reply_that_was_cut_off_answers_by_what_is_stated_or_begun_only(text, options, answer):
    assert extract_answer(text, options, is_cut=True) == answer


def test_the_table_is_large():
    tables = (WITH_OPTIONS, DENIED, REVISED, SEVERAL, SUMS, PHRASED, NO_LABEL, FREE, READ_FREE, CUT)
    assert sum(map(len, tables)) >= 360


@pytest.mark.parametrize(
    ("answer", "target", "correct"),
    [
        ("1234", "1,234", True),
        ("4.333333", "4.33", True),
        ("13/3", "4.33", True),
        ("4.34", "4.33", False),
        ("33.333", "33.33", True),
        ("100/3", "33.33", True),
        ("0.45", "0.5", False),
        ("2.45", "2.5", False),
        ("2.46", "2.5", False),
        ("0.455", "0.46", False),
        ("0.456", "0.46", True),
        ("0.046", "0.05", False),
        ("33.3", "33.33", False),
        ("1000", "1e3", True),
        ("3500000", "3.5 million", True),
        ("5/2", "2½", True),
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


EXPLANATION = st.lists(
    st.sampled_from(
        [
            "Paris is in France.",
            "London and Rome are old.",
            "(A) is wrong.",
            "It is not Berlin!",
            "A man walked to Rome.",
            "I think that Rome is larger, but not by much.",
            "Is it (C)?",
            "The wrong answer is D.",
            "Let me see: 12 * 3 = 36;",
            "(A) Paris\n(B) London\n",
        ]
    ),
    max_size=6,
).map(" ".join)


FORMS = [
    "The answer is {}.",
    "Answer: ({})",
    "So the correct option is clearly {}, you see.",
    "\\boxed{{{}}}",
    "答案是{}",
]
DENIALS = [
    "Not {}.",
    "{} is wrong.",
    "It can't be {}.",
    "{} isn't it.",
    "The answer is not {}.",
    "All but {}",
    "Is it {}?",
]


@given(before=EXPLANATION, letter=st.sampled_from("ABCD"), form=st.sampled_from(FORMS))
@settings(deadline=None)
def test_an_explanation_that_mentions_other_options_changes_no_statement(before, letter, form):
    assert extract_answer(f"{before} {form.format(letter)}", CITIES) == letter


@given(before=EXPLANATION, number=st.integers(-9999, 9999), is_cut=st.booleans())
@settings(deadline=None)
def test_an_explanation_changes_no_stated_number(before, number, is_cut):
    assert extract_answer(f"{before} The answer is {number:,}.\nThat is all", is_cut=is_cut) == str(number)


@given(option=st.sampled_from(CITIES), form=st.sampled_from(DENIALS))
@settings(deadline=None)
def test_an_option_that_is_denied_is_no_answer(option, form):
    label = f"({'ABCD'[CITIES.index(option)]})"
    assert extract_answer(form.format(option), CITIES) is None
    assert extract_answer(form.format(label), CITIES) is None


@given(text=ODD, options=st.sampled_from([(), CITIES]))
@settings(max_examples=200, deadline=None)
def test_a_reply_that_was_cut_off_has_no_other_answer_by_a_statement_alone(text, options):
    answer = extract_answer(f"{text}\nThe answer is (B).\n", options)
    if options:
        assert extract_answer(f"{text}\nThe answer is (B).\n", options, is_cut=True) == answer == "B"


@given(whole=st.integers(-(10**6), 10**6), places=st.integers(0, 4))
@settings(deadline=None)
def test_a_number_is_itself_in_every_way_of_writing(whole, places):
    number = Fraction(whole, 10**places)
    for text in (f"{whole}e-{places}", f"{whole} × 10^-{places}", f"{whole:,}/{10**places}", str(number)):
        answer = extract_answer(f"The answer is {text}.")
        assert is_correct(answer, str(number)), text


@given(target=st.integers(1, 10**5), digit=st.integers(1, 9), places=st.integers(0, 1))
@settings(deadline=None)
def test_a_target_with_less_than_two_decimals_is_exact(target, digit, places):
    exact = f"{target}" if not places else f"{target // 10}.{target % 10}"
    assert not is_correct(f"{exact}{'' if places else '.'}{digit}", exact)
    assert is_correct(exact, exact)
