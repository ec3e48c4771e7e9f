from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from evaluation_rows import ROWS
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer.cli import _main
from lamer.evaluation.benchmarks import Sample
from lamer.evaluation.compare import compare_runs
from lamer.evaluation.overlap import (
    FILE,
    Overlaps,
    find_overlaps,
    read_overlaps,
    summarize_without,
    training_examples,
    write_overlaps,
)
from lamer.evaluation.stage import evaluate_methods
from lamer.evaluation.statistics import summarize
from lamer.records import Deficiency, Example, Fact, Prediction
from lamer.run import Run, StageResult
from lamer.training.stage import train

PASSAGE = "the old lighthouse keeper carried seven heavy lamps up the winding stairs before the storm broke"
"""Sixteen words."""


def example(question, options=("yes", "no"), explanation="", name="e1", deficiency="d1"):
    return Example(name, deficiency, 1.0, question, options, 0, explanation, "kept", None, "", "t")


def sample(name, question, benchmark="arc", options=()):
    return Sample(name, benchmark, benchmark, question, options, "x")


def test_an_item_overlaps_by_a_run_of_thirteen_words_wherever_it_stands():
    samples = [
        sample("a", f"Tell me why {PASSAGE}, and what then?"),
        sample("b", "A completely different question about the weather on a remote island in spring."),
        sample("c", "Who?", options=(PASSAGE, "nobody")),
        sample("d", f"{' '.join(PASSAGE.split()[:12])} and then quite another thing happened", "mmlu"),
    ]
    found = find_overlaps(samples, [(example("What?", explanation=f"Because {PASSAGE}."), "")])
    assert found.items == {"arc": {"a", "c"}, "mmlu": set()}
    assert (found.num_examples, found.num_repeating, found.num_items) == (1, 1, 2)
    assert found.has("arc", "a")
    assert not found.has("mmlu", "a")


def test_an_item_overlaps_by_a_short_question_as_a_whole():
    question = "Why does a heavy iron ship float?"  # seven words and one more below
    samples = [sample("a", f"{question} Explain"), sample("b", "Why does a heavy wooden door float?")]
    found = find_overlaps(samples, [(example(f"Tell me: {question} Explain, please, to a small child"), "")])
    assert found.items == {"arc": {"a"}}


def test_an_item_overlaps_by_most_of_an_examples_eight_word_runs():
    words = PASSAGE.split()
    changed = " ".join([*words[:12], "rain"])  # 13 words: five 8-grams shared of six
    found = find_overlaps([sample("a", PASSAGE)], [(example(changed), "")])
    assert found.items == {"arc": {"a"}}
    other = " ".join(["some", "other", "words", *words[:8], "and", "more", "of", "them"])
    assert find_overlaps([sample("a", PASSAGE)], [(example(other), "")]).num_items == 0


@pytest.mark.parametrize("question", [PASSAGE, "Why does a heavy iron ship float on cold water?"])
def test_an_item_overlaps_by_a_whole_reply_that_repeats_it(question):
    """The completion is what is trained on, and an explanation beside it is not."""
    samples = [sample("a", question)]
    replied = replace(example("Go on.", options=()), answer=None, completion=f"He wrote: {question} Nobody knew.")
    assert find_overlaps(samples, [(replied, "")]).items == {"arc": {"a"}}
    assert find_overlaps(samples, [(replied, question)]).num_items == 0, "the fact says so"
    unread = replace(example("Go on.", explanation=question), completion="Nobody knew.")
    assert find_overlaps(samples, [(unread, "")]).num_items == 0


def test_what_the_fact_says_is_no_overlap():
    assert find_overlaps([sample("a", PASSAGE)], [(example(PASSAGE), PASSAGE)]).num_items == 0


words = st.lists(st.sampled_from([f"w{number}" for number in range(300)]), min_size=14, max_size=30, unique=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(words, min_size=1, max_size=6), st.data())
def test_copied_items_are_found_and_only_items_that_share_words(questions, data):
    samples = [sample(f"s{number}", " ".join(text)) for number, text in enumerate(questions)]
    copied = data.draw(st.integers(0, len(samples) - 1))
    found = find_overlaps(samples, [(example(f"Now {samples[copied].question}"), "")])
    assert f"s{copied}" in found.items["arc"]
    for name in found.items["arc"]:
        text = questions[int(name[1:])]
        runs = {tuple(text[i : i + 8]) for i in range(len(text) - 7)}
        source = questions[copied]
        assert runs & {tuple(source[i : i + 8]) for i in range(len(source) - 7)}


def test_without_training_examples_nothing_overlaps():
    found = find_overlaps([sample("a", PASSAGE)], [])
    assert found.items == {"arc": set()}
    assert found.sentence(1).startswith("none of the 1 evaluation items overlaps with the 0 training examples")


def test_the_accuracy_without_overlap_of_a_case_done_by_hand():
    rows = [Prediction("base", "arc", "easy", f"s{number}", "A", "A", True, number < 3, "") for number in range(4)]
    overlaps = Overlaps(5, 1, {"arc": frozenset({"s0", "s3"})})
    assert summarize(rows).average.accuracy == 0.75
    clean = summarize_without(rows, overlaps)
    assert clean.average.accuracy == 1.0  # s1 and s2 are left, both right
    assert clean.average.num_samples == 2
    assert summarize_without(rows, Overlaps(5, 1, {"arc": frozenset(f"s{n}" for n in range(4))})) is None


def test_training_data_are_the_kept_examples_with_their_facts_and_those_of_methods(tmp_path, settings):
    with Run.open(tmp_path / "run") as run:
        run.table("facts", Fact).write(0, [Fact("f1", "A fact.", None, "file")])
        run.table("deficiencies", Deficiency).write(0, [Deficiency("d1", "q1", "f1", 0.5, "normal", 2)])
        rejected = replace(example("Rejected?", name="e2"), status="rejected", reason="letter")
        run.table("examples", Example).write(0, [example("Own?"), rejected])
        random_one = example("Random?", name="n1", deficiency="naive|f1")
        run.table("methods/naive/examples", Example).write(0, [random_one, example("Own?")])
        found = [(item.question, fact) for item, fact in training_examples(run, settings())]
        assert found == [("Own?", "A fact."), ("Random?", "A fact.")]
        file = tmp_path / "train.jsonl"
        file.write_text(
            json.dumps({"question": "Mine?", "options": ["a", "b"], "answer": "A", "severity": 1}) + "\n"
        )
        given = settings(**{"train.path": f"[{file}]"})
        assert [item.question for item, _ in training_examples(run, given)] == ["Mine?", "Random?", "Own?"]


def general(number):
    return {"id": f"g{number}", "question": f"Question {number}?", "completion": f"Reply {number}."}


def order(folder, *ids):
    (folder / "training").mkdir(parents=True)
    (folder / "training" / "order.jsonl").write_text(json.dumps({"step": 1, "ids": ids}) + "\n")


def test_of_what_is_replayed_the_rows_that_a_training_drew_are_training_data(tmp_path, settings):
    file = tmp_path / "general.jsonl"
    file.write_text("".join(json.dumps(general(number)) + "\n" for number in range(4)))
    config = settings(**{"train.replay.path": f"[{file}]"})
    with Run.open(tmp_path / "run") as run:
        own = [replace(example(f"Query {name}?", name=f"replay|{name}"), completion=name) for name in "ab"]
        run.table("replay", Example).write(0, own)

        def found():
            return sorted(item.completion for item, _ in training_examples(run, config))

        assert found() == ["Reply 0.", "Reply 1.", "Reply 2.", "Reply 3.", "a", "b"], "no order, so all may be"
        order(run.path, "x1", "replay|g2", "replay|b")
        assert found() == ["Reply 2.", "b"]
        order(run.path / "methods" / "naive", "replay|g0", "g1")
        assert found() == ["Reply 0.", "Reply 2.", "b"]


def test_a_question_replayed_from_a_file_is_found_by_the_evaluation(tmp_path, settings):
    """With a real training, of which only one of two general examples is part."""
    copies = [{**general(number), "completion": ROWS[number]["question"]} for number in (1, 2)]
    file = tmp_path / "general.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in copies))
    config = settings(**{"train.replay.path": f"[{file}]", "train.replay.share": 0.5, "train.epochs": 1})
    with Run.open(tmp_path / "run") as run:
        run.table("examples", Example).write(0, [example("Which of the two will sink first?")])
        assert train(run, config).counts["replayed"] == 1
        evaluate_methods(run, config, {"base": None})
        drawn = (run.path / "training" / "order.jsonl").read_text()
        overlaps = read_overlaps(run.path)
    (number,) = (number for number in (1, 2) if f"replay|g{number}" in drawn)
    assert overlaps.num_examples == 2
    assert overlaps.has("heat", f"s{number}")


def test_the_stage_states_the_overlap_of_every_benchmark(tmp_path, settings):
    with Run.open(tmp_path / "run") as run:
        copy = f"{ROWS[2]['question']} {' '.join(ROWS[2]['options'])}"
        run.table("examples", Example).write(0, [example(copy)])
        result = evaluate_methods(run, settings(), {"base": None})
        rows = list(run.table("predictions", Prediction))
        overlaps = read_overlaps(run.path)
    assert overlaps.has("heat", "s2")
    table = result.counts["accuracy without overlap"]
    assert table["heat"]["overlap"] == len(overlaps.items["heat"]) > 0
    assert table["sums"] == {"samples": 1, "overlap": 0, "base": float(rows[-1].correct)}
    kept = [row.correct for row in rows if row.benchmark == "heat" and not overlaps.has("heat", row.sample_id)]
    assert len(kept) == 5 - table["heat"]["overlap"]
    assert table["average"]["overlap"] == overlaps.num_items
    assert any("evaluation items overlap with the 1 training examples" in note for note in result.notes)
    assert (tmp_path / "run" / FILE).exists()


def test_a_comparison_shows_the_overlap(tmp_path, capsys):
    path = tmp_path / "run"
    with Run.open(path) as run:
        rng = random.Random(0)
        rows = [
            Prediction(method, name, name, f"s{number}", "A", "A", True, rng.random() < 0.5, "")
            for method in ("base", "lamer")
            for name in ("arc", "mmlu")
            for number in range(10)
        ]
        run.begin("evaluate", {})
        run.table("predictions", Prediction).write(0, rows)
        write_overlaps(run, Overlaps(7, 2, {"arc": frozenset({"s1", "s2", "gone"}), "mmlu": frozenset()}))
        run.complete("evaluate", StageResult({}), 0.0)
    found = compare_runs([path])
    assert found.overlaps.items == {"arc": {"s1", "s2"}, "mmlu": set()}
    for row in found.rows:
        left = [
            p.correct
            for p in rows
            if p.method == row.name and (p.benchmark, p.sample_id) not in {("arc", "s1"), ("arc", "s2")}
        ]
        assert row.without_overlap.average.micro_accuracy == pytest.approx(sum(left) / 18)
    assert _main(["compare", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "| method | average | without overlap | micro |" in shown
    assert "| arc | 10 | 2 |" in shown
    assert "2 of 20 evaluation items overlap with the 7 training examples" in shown.replace("\n", " ")
    assert _main(["compare", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overlap"] == {"arc": 2, "mmlu": 0}
