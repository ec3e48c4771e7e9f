"""Rows of the Hub's data sets, in the columns that their cards show, become items."""

from __future__ import annotations

import json

import pytest
import yaml

from lamer.errors import DataError
from lamer.evaluation.extraction import extract_answer
from lamer.evaluation.harness import PAPER, TASKS
from lamer.evaluation.sources import (
    agieval,
    before_choices,
    lettered,
    load,
    local_file,
    prompt,
    read_rows_of,
    score,
    unlettered,
)


class Loader(yaml.SafeLoader):
    """Reads a task file without resolving its functions."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def tasks_of(benchmark):
    content = yaml.load((TASKS / f"{benchmark}.yaml").read_text(), Loader)
    return {task["task"]: task["dataset_kwargs"] for task in content["task"]}


def items(of, rows):
    source = tasks_of(of.partition("/")[0])[of.partition("/")[2]]
    assert source["of"] == of
    return read_rows_of(of, rows, {key: source.get(key) for key in ("question", "answer", "options")})


def only(of, row):
    (item,) = items(of, [row]).rows
    return item["question"], item["options"], item["answer"]


def test_the_paper_s_tasks_are_all_there():
    counts = {name: len(tasks_of(name)) for name in PAPER}
    assert counts == {"comm": 6, "agieval": 8, "arc": 2, "mmlu": 57, "bbh": 23, "crass": 1, "gsm_plus": 1}
    for name in PAPER:
        for task, source in tasks_of(name).items():
            assert source["of"] == f"{name}/{task}"
            assert {"path", "split", "question", "answer"} <= set(source)
            assert len(source.get("revision", "0" * 40)) == 40


def test_commonsense_rows():
    story = {
        "observation_1": "I joined.",
        "observation_2": "He hit him.",
        "hypothesis_1": "x",
        "hypothesis_2": "y",
    }
    asked = "I joined. Which event could cause He hit him?"
    assert only("comm/anli", {**story, "label": 2}) == (asked, ["x", "y"], "B")
    assert items("comm/anli", [{**story, "label": 0}]).num_left_out == 1
    copa = {"premise": "It rained.", "choice1": "wet", "choice2": "dry", "idx": 0, "label": 0}
    assert only("comm/copa", {**copa, "question": "effect"})[0] == "It rained. What happened as a result?"
    assert only("comm/copa", {**copa, "question": "cause"})[0] == "It rained. What was the cause of this?"
    choices = {"label": ["A", "B", "C"], "text": ["bank", "mall", "sea"]}
    row = {"id": "1", "question": "Where?", "choices": choices, "answerKey": "C", "question_concept": "x"}
    assert only("comm/csqa", row) == ("Where?", ["bank", "mall", "sea"], "C")
    assert items("comm/csqa", [{**row, "answerKey": ""}]).num_left_out == 1
    piqa = {"goal": "peeler", "sol1": "can peel", "sol2": "can sing", "label": 1}
    assert only("comm/piqa", piqa) == ("peeler", ["can peel", "can sing"], "B")
    siqa = {"context": "Jo ran.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "3"}
    assert only("comm/socialiqa", siqa) == ("Jo ran. Why?", ["a", "b", "c"], "C")
    assert only("comm/strategyqa", {"question": "Is it?", "answer": False}) == ("Is it?", ["yes", "no"], "B")


def test_arc_rows_with_letters_and_with_numbers():
    row = {"id": "1", "question": "What?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}}
    assert only("arc/arc_easy", {**row, "answerKey": "3"}) == ("What?", ["a", "b", "c"], "C")
    assert items("arc/arc_challenge", [{**row, "answerKey": "9"}]).num_left_out == 1


def test_mmlu_rows():
    row = {"question": "How many?", "subject": "anatomy", "choices": ["0", "4", "2", "6"], "answer": 1}
    assert only("mmlu/anatomy", row) == ("How many?", ["0", "4", "2", "6"], "B")


def test_agieval_rows():
    query = "Eight students.\nQ: Who reports?\nAnswer Choices: (A)Ann (B)Bob\nA: Among A through B, the answer is"
    row = {"query": query, "choices": ["(A)Ann", "(B)Bob"], "gold": [1]}
    assert only("agieval/lsat-ar", row) == ("Eight students.\nWho reports?", ["Ann", "Bob"], "B")
    assert items("agieval/lsat-ar", [{**row, "gold": [0, 1]}, {**row, "gold": []}]).num_left_out == 2
    assert agieval("Q: Who? Answer Choices: (A)Ann (B)Bob A: Among A through B, the answer is") == "Who?"
    assert agieval("Something else") == "Something else"
    assert unlettered(["(A)(B) is first", "(B) x"]) == ["(B) is first", "x"]


def test_big_bench_hard_rows_with_and_without_lettered_options():
    row = {"input": "What is it?\nOptions:\n(A) 12/14/2026\n(B) a (B) b", "target": "(B)"}
    assert only("bbh/date_understanding", row) == ("What is it?", ["12/14/2026", "a (B) b"], "B")
    listed = "Do you return?\nOptions:\n- Yes\n- No"
    assert only("bbh/navigate", {"input": listed, "target": "No"}) == (listed, [], "No")
    assert only("bbh/dyck_languages", {"input": "Close: ( (", "target": ") )"}) == ("Close: ( (", [], ") )")
    assert lettered("no list") == ("no list", [])


def test_crass_rows():
    inputs = "Q: A dog barks. What if not?\n  choice: quiet\n  choice: loud\nA: "
    row = {"inputs": inputs, "targets": ["loud"], "multiple_choice_targets": ["quiet", "loud"]}
    assert only("crass/crass_ai", row) == ("A dog barks. What if not?", ["quiet", "loud"], "B")
    assert before_choices("plain question") == "plain question"


def test_gsm_plus_rows_without_an_answer_are_left_out_and_counted():
    rows = [{"question": "How many?", "answer": "4.33"}, {"question": "How many?", "answer": "None"}]
    found = items("gsm_plus/gsm_plus", rows)
    assert [row["answer"] for row in found.rows] == ["4.33"]
    assert found.num_left_out == 1


def test_a_row_of_another_form_is_named():
    with pytest.raises(DataError, match=r"comm/piqa: row 1 is not as the task file says \('sol2' is undefined\)"):
        items("comm/piqa", [{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}, {"goal": "g", "sol1": "a"}])


def test_letters_beyond_the_options_are_no_answer():
    expressions = {"question": "q", "options": "o", "answer": "a"}
    rows = [{"q": "?", "o": ["x", "y"], "a": answer} for answer in ("A", "AB", "C", "", None, 2, -1, True, 1.0)]
    found = read_rows_of("x/y", rows, expressions)
    assert [row["id"] for row in found.rows] == ["x-y-0"]
    assert found.num_left_out == 8


def test_prompt_and_mark_of_an_item():
    doc = {"question": "What?", "options": ["hot", "cold"], "answer": "B"}
    assert prompt(doc) == "Question: What?\nOptions: (A) hot (B) cold"
    assert prompt({**doc, "options": []}) == "Question: What?"
    assert extract_answer("The answer is (B).", ("hot", "cold")) == "B"
    assert score(doc, ["The answer is (B)."]) == {"acc": 1.0, "parsed": 1.0}
    assert score(doc, ["The answer is (A)."]) == {"acc": 0.0, "parsed": 1.0}
    assert score(doc, ["Hm."]) == {"acc": 0.0, "parsed": 0.0}


def test_local_files_need_no_hub(tmp_path):
    row = {
        "id": "a",
        "benchmark": "arc",
        "task": "arc_easy",
        "question": "?",
        "options": ["x", "y"],
        "answer": "A",
    }
    (tmp_path / "arc.jsonl").write_text(json.dumps(row) + "\n")
    source = {"path": "no/such", "split": "test", "question": "question", "answer": "answer"}
    docs = load(of="arc/arc_easy", data=str(tmp_path), local=["arc_easy"], **source)["test"]
    assert docs[0] == {"id": "a", "question": "?", "answer": "A", "options": ["x", "y"]}
    with pytest.raises(DataError, match="arc/arc_challenge: there are no items with a valid answer in"):
        load(of="arc/arc_challenge", data=str(tmp_path), **source)
    with pytest.raises(DataError, match="holds no file of the benchmark mmlu"):
        local_file(str(tmp_path), "mmlu")
    with pytest.raises(DataError, match="is no folder"):
        local_file(str(tmp_path / "arc.jsonl"), "arc")
