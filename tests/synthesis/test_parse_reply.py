from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer.synthesis.parse import ParsedItem, find_answer, parse, parse_options
from writing_teacher import good_item

OPTIONS = ("It became hot.", "It stayed cool.", "It sank.")


def only(reply: str) -> ParsedItem:
    (item,) = parse(reply)
    return item


def test_the_format_of_the_paper():
    item = only(
        "Question: Anna left her spoon in the soup. What happened?\n"
        "Options: (A) It became hot. (B) It stayed cool. (C) It sank.\n"
        "Answer: (A)\n"
        "Explanation: The spoon is of iron."
    )
    assert item.question == "Anna left her spoon in the soup. What happened?"
    assert item.options == OPTIONS
    assert (item.answer, item.answer_index) == ("(A)", 0)
    assert item.explanation == "The spoon is of iron."
    assert item.problem is None


def test_the_math_format_has_the_solution_before_the_answer():
    item = only(
        "Question: 2 apples at $3?\nSolution: 2 apples.\n\n2 * 3 = 6\n42\nOptions: (A) $5 (B) $6 (C) $7\n"
        "Answer: (B) $6"
    )
    assert item.explanation == "2 apples.\n2 * 3 = 6\n42"
    assert item.options == ("$5", "$6", "$7")
    assert item.answer_index == 1


@pytest.mark.parametrize(
    "options",
    [
        "(A) It became hot. (B) It stayed cool. (C) It sank.",
        "A. It became hot. B. It stayed cool. C. It sank.",
        "A) It became hot. B) It stayed cool. C) It sank.",
        "(A) It became hot., (B) It stayed cool., (C) It sank.",
        "(A) It became hot.; (B) It stayed cool.; (C) It sank.",
        "\n(A) It became hot.\n(B) It stayed cool.\n(C) It sank.",
        "\nA. It became hot.\nB. It stayed cool.\nC. It sank.",
        "\n- A) It became hot.\n- B) It stayed cool.\n- C) It sank.",
        "\n- (A) It became hot.\n- (B) It stayed cool.\n- (C) It sank.",
        "\n  **A.** It became hot.\n  **B.** It stayed cool.\n  **C.** It sank.",
        "**(A)** It became hot. **(B)** It stayed cool. **(C)** It sank.",
        "[A] It became hot. [B] It stayed cool. [C] It sank.",
        "\n1. It became hot.\n2. It stayed cool.\n3. It sank.",
        "\n- It became hot.\n- It stayed cool.\n- It sank.",
        "(a) It became hot. (b) It stayed cool. (c) It sank.",
    ],
)
def test_ways_to_write_options(options):
    item = only(f"Question: What?\nOptions: {options}\nAnswer: It stayed cool.\nExplanation: e")
    assert item.options == OPTIONS
    assert item.answer_index == 1


def test_options_without_marks_are_not_guessed():
    assert parse_options("hot / cool / gone") == ()
    assert parse_options("hot, cool, gone") == ()
    assert parse_options("(A) alone") == ()


def test_a_vitamin_is_no_option():
    assert parse_options("(A) vitamin A. (B) vitamin B. (C) none (of these)") == (
        "vitamin A.", "vitamin B.", "none (of these)",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1), ("(B)", 1), ("(B) It stayed cool.", 1), ("B. It stayed cool.", 1), ("B) It stayed cool", 1),
        ("**(B)**", 1), ("Option B", 1), ("The answer is (B)", 1), ("(B) $15", 1), ("it stayed COOL", 1),
        ("b)", 1),
        ("It sank.", 2), ("Clearly (C).", 2), ("B: It stayed cool.", 1), ("[B]", 1), ("B, because", 1),
    ],
)  # fmt: skip
def test_ways_to_write_the_answer(answer, index):
    assert find_answer(answer, OPTIONS) == (index, None)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("D", "answer not an option"), ("(D) It sank.", "answer not an option"), ("none", "answer not an option"),
        ("A stone", "answer not an option"), ("(A) or (B)", "ambiguous answer"),
        ("(A) It sank.", "ambiguous answer"), ("both (A) and (C)", "ambiguous answer"),
    ],
)  # fmt: skip
def test_an_answer_that_names_no_single_option_is_none(answer, problem):
    assert find_answer(answer, OPTIONS) == (None, problem)


def test_an_article_is_no_letter():
    animals = ("A dog", "A cat", "A cow")
    assert find_answer("A cat", animals) == (1, None)
    assert find_answer("A", animals) == (0, None)
    assert find_answer("A dog", animals) == (0, None)


MARKDOWN = """Sure! Here are 2 new examples:

```
**Question 1:** Why did **it** rain? Was 2**3 = 8?
**Options:**
(A) clouds,
(B) sun
(C) moon
**Answer:** **(C) moon**
**Explanation:** Because of the moon.
```

---

### Example 2
**Question 2:** Why?
**Options:** A) a1; B) b1; C) c1
**Explanation:** first

**Answer:** b1

Let me know if you need more!"""


def test_markdown_fences_numbers_and_courtesies():
    first, second = parse(MARKDOWN)
    assert first.question == "Why did it rain? Was 2**3 = 8?"
    assert first.options == ("clouds", "sun", "moon")
    assert first.answer_index == 2
    assert first.explanation == "Because of the moon."
    assert second.question == "Why?"
    assert second.options == ("a1", "b1", "c1")
    assert (second.answer_index, second.explanation) == (1, "first")


def test_a_courtesy_after_the_last_explanation_is_left_out():
    reply = "Question: q?\nOptions: (A) x (B) y (C) z\nAnswer: A\nExplanation: e\n\nI hope these examples help!"
    assert only(reply).explanation == "e"


def test_everything_on_one_line():
    reply = (
        "Question: a? Options: (A) x (B) y (C) z Answer: (B) y Explanation: e. "
        "Question: c? Options: (A) p (B) q (C) r Answer: C. r Explanation: f."
    )
    first, second = parse(reply)
    assert (first.question, first.answer_index, first.explanation) == ("a?", 1, "e.")
    assert (second.question, second.answer_index, second.explanation) == ("c?", 2, "f.")


def test_numbered_questions_without_labels():
    reply = (
        "1. What is x?\n(A) 1\n(B) 2\n(C) 3\nAnswer: (B)\nExplanation: y\n\n"
        "2. Anna sat.\nWhat is z?\nA. 1\nB. 2\nC. 3\nAnswer: A\nExplanation: w"
    )
    first, second = parse(reply)
    assert (first.question, first.options, first.explanation) == ("What is x?", ("1", "2", "3"), "y")
    assert (second.question, second.options) == ("Anna sat. What is z?", ("1", "2", "3"))
    assert (first.problem, second.problem) == (None, None)


def test_the_explanation_may_come_first():
    reply = (
        "Explanation: e1\nQuestion: q1?\nOptions: (A) x (B) y\nAnswer: A\n\n"
        "Explanation: e2\nQuestion: q2?\nOptions: (A) x (B) y\nAnswer: B"
    )
    assert [(item.question, item.explanation, item.answer_index) for item in parse(reply)] == [
        ("q1?", "e1", 0), ("q2?", "e2", 1),
    ]  # fmt: skip


def test_an_unlabelled_item_does_not_leak_into_the_one_before():
    reply = (
        "Question: q?\nOptions: (A) x (B) y (C) z\nAnswer: (A)\nExplanation: fine.\n\n"
        "Here is another. What then?\nOptions: a / b / c\nExplanation:"
    )
    first, second = parse(reply)
    assert first.explanation == "fine."
    assert (second.question, second.problem) == ("Here is another. What then?", "no options")
    assert second.explanation is None


def test_an_answer_that_is_repeated_differently_is_ambiguous():
    start = "Question: q?\nOptions: (A) x (B) y\nAnswer: A\nExplanation: e\nAnswer: "
    assert only(start + "(A)").answer_index == 0
    assert only(start + "(A)").explanation == "e"
    assert only(start + "(B)").problem == "ambiguous answer"


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("Question:", "no question"),
        ("Options: (A) x (B) y\nAnswer: A", "no question"),
        ("Question: q?", "no options"),
        ("Question: q?\nOptions:", "no options"),
        ("Question: q?\nOptions: (A) x (B) y", "no answer"),
        ("Question: q?\nOptions: (A) x (B) y\nAnswer:", "no answer"),
        ("Question: q?\nOptions: (A) x (B) y\nAnswer: (", "answer not an option"),
    ],
)
def test_a_reply_cut_off_says_what_is_missing(reply, problem):
    item = only(reply)
    assert item.problem == problem
    assert item.explanation is None
    assert (item.answer_index is None) == (problem != "no question" or item.options is None)


@pytest.mark.parametrize("reply", ["", "   \n", "I'm sorry, I cannot help.", "......", "注意：为什么？"])
def test_a_reply_without_items_gives_none(reply):
    assert parse(reply) == []


def test_raw_parts_are_the_teachers_own_words_in_order():
    rng = random.Random(0)
    items = [good_item(rng) for _ in range(5)]
    assert [item.raw for item in parse("\n\n".join(items))] == items


@pytest.mark.parametrize(
    "reply",
    [
        "问题：汤匙在汤里。怎么了？\n选项：（A）变热（B）不变（C）沉下去\n解释：铁导热。\n答案：（A）",
        "**题目 1**：汤匙在汤里。怎么了？\nA、变热\nB、不变\nC、沉下去\n正确答案：A、变热\n解析：铁导热。",
        "1、题目：汤匙在汤里。怎么了？\n选项：A．变热 B．不变 C．沉下去\n答案：A。\n解析：铁导热。",
        "示例 1：\n問題：汤匙在汤里。怎么了？\n選項：A.变热 B.不变 C.沉下去\n答案：变热\n解釋：铁导热。",
        "问题：汤匙在汤里。怎么了？ 选项：(Ａ) 变热 (Ｂ) 不变 (Ｃ) 沉下去 答案：(Ａ) 解析：铁导热。",
        "問題：汤匙在汤里。怎么了？\n選択肢：\n【A】变热\n【B】不变\n【C】沉下去\n正解：选项A\n解説：铁导热。",
    ],
)
def test_chinese_and_japanese_with_their_punctuation(reply):
    item = only(reply)
    assert item.question == "汤匙在汤里。怎么了？"
    assert item.options == ("变热", "不变", "沉下去")
    assert (item.answer_index, item.explanation, item.problem) == (0, "铁导热。", None)


@pytest.mark.parametrize(
    "labels",
    [
        "Frage Antwortmöglichkeiten Erklärung Antwort",
        "Question Choix Explication Réponse",
        "QUESTION OPTIONS EXPLICATION RÉPONSE",
        "Pregunta Opciones Explicación Respuesta_correcta",
        "Domanda Opzioni Spiegazione Risposta",
        "Pergunta Alternativas Explicação Resposta",
        "Vraag Opties Uitleg Antwoord",
        "Вопрос Варианты_ответа Объяснение Ответ",
        "Pytanie Opcje Wyjaśnienie Odpowiedź",
        "Soru Seçenekler Açıklama Cevap",
        "السؤال الخيارات الشرح الإجابة",
        "प्रश्न विकल्प व्याख्या उत्तर",
        "질문 선택지 해설 정답",
        "Câu_hỏi Lựa_chọn Giải_thích Đáp_án",
        "Pertanyaan Pilihan Penjelasan Jawaban",
    ],
)
def test_labels_in_other_languages(labels):
    question, options, explanation, answer = (label.replace("_", " ") for label in labels.split())
    for template in (
        "{}: q?\n{}: (A) x (B) y (C) z\n{}: e\n{}: (B) y",
        "**{}** : q?\n{}：\nA. x\nB. y\nC. z\n{}: e\n- {}: B",
    ):
        item = only(template.format(question, options, explanation, answer))
        assert (item.question, item.options, item.answer_index, item.explanation) == (
            "q?",
            ("x", "y", "z"),
            1,
            "e",
        )


def test_a_line_with_a_colon_is_no_label():
    rest = "Options: (A) x (B) y\nAnswer: A\nExplanation: One reason: rain."
    item = only(f"Question: He said: no.\nNote: it rained. Why?\n{rest}")
    assert item.question == "He said: no. Note: it rained. Why?"
    assert item.explanation == "One reason: rain."


def test_thoughts_are_no_part_of_the_reply():
    item = "Question: {}?\nOptions: (A) x (B) y\nAnswer: {}"
    reply = f"<think>{item.format('draft', 'A')}</think>\n{item.format('q', 'B')}"
    assert only(reply).question == "q?"
    assert parse(reply.partition("</think>")[0]) == []


def test_windows_line_ends():
    item = only("Question: q?\r\nOptions: (A) x\r\n(B) y\r\nAnswer: B\r\nExplanation: e\r\n")
    assert (item.options, item.answer_index, item.explanation) == (("x", "y"), 1, "e")


def soundness(reply: str) -> None:
    for item in parse(reply):
        parts = [item.question, item.answer, *(item.explanation or "").split("\n"), *(item.options or ())]
        written = "".join(character for character in item.raw if character.isalnum())
        for part in parts:
            for word in (part or "").split():
                assert "".join(character for character in word if character.isalnum()) in written
        assert item.raw in reply.replace("\r\n", "\n").replace("\r", "\n")
        assert (item.answer_index is None) or item.answer_index < len(item.options or ())
        assert (item.problem is None) == bool(item.question and item.options and item.answer_index is not None)


@given(st.text())
@settings(max_examples=300)
def test_no_text_makes_it_raise_or_invent(text):
    soundness(text)


FRAGMENTS = st.sampled_from(
    [
        "Question:", "Options:", "Answer:", "Explanation:", "Solution:", "\n", "\n\n", " ", "(A)", "(B) x", "C.",
        "**", "```", "1.", "2)", "Question 2:", "What?", "why", "- ", "......", "(D)", "A", "queſtion:",
        "K)", "（A）",
        "Example 3", "\r\n", "_", "Answer: (B)", "Options: (A) x (B) y (C) z", "\u2028", "\x00", "é", "：", "[A]",
    ]
)  # fmt: skip


@given(st.lists(FRAGMENTS, max_size=40).map("".join))
@settings(max_examples=500)
def test_no_mixture_of_its_own_marks_makes_it_raise_or_invent(text):
    soundness(text)


@given(st.integers(0, 10**6), st.data())
def test_a_mutated_reply_never_raises(seed, data):
    rng = random.Random(seed)
    reply = "\n\n".join(good_item(rng) for _ in range(3))
    cut = data.draw(st.integers(0, len(reply)))
    soundness(reply[:cut] + data.draw(st.text(max_size=5)) + reply[cut + data.draw(st.integers(0, 20)) :])


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "Question:",
        "(A)",
        " ",
        "\n",
        "Question: a\nOptions: (A) b (B) c\n",
        "A. ",
        "a?\n\n",
        "- ",
        "**a",
        "\t#",
    ],
)
def test_long_degenerate_replies_come_back(text):
    assert isinstance(parse((text * 100_000)[:100_000]), list)
