from __future__ import annotations

import gzip
import json

import pytest

from lamer.errors import DataError
from lamer.evaluation.benchmarks import load_samples

GOOD = {"id": "1", "benchmark": "b", "task": "t", "question": "Why?", "options": ["x", "y"], "answer": "B"}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_a_row_becomes_a_sample(tmp_path):
    (sample,) = load_samples([write(tmp_path / "f.jsonl", GOOD)])
    assert (sample.id, sample.benchmark, sample.task) == ("1", "b", "t")
    assert (sample.question, sample.options, sample.target) == ("Why?", ("x", "y"), "B")


def test_what_a_row_does_not_say_comes_from_the_file(tmp_path):
    row = {"question": "How many?", "answer": "4"}
    (_, sample) = load_samples([write(tmp_path / "sums.jsonl", GOOD, row)])
    assert (sample.id, sample.benchmark, sample.task, sample.options) == ("sums:2", "sums", "sums", ())


def test_files_are_read_in_order_and_limited_each(tmp_path):
    first = write(tmp_path / "a.jsonl", *({**GOOD, "id": f"a{n}"} for n in range(3)))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({**GOOD, "id": f"b{n}"}) + "\n" for n in range(3))
    paths = [first, str(tmp_path / "b.jsonl.gz")]
    assert [sample.id for sample in load_samples(paths, 2)] == ["a0", "a1", "b0", "b1"]
    assert len(load_samples(paths)) == 6


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({**GOOD, "answer": "C"}, "answer is 'C', expected a letter from A to B"),
        ({**GOOD, "answer": "x"}, "answer is 'x', expected a letter"),
        ({**GOOD, "answer": None}, "answer is missing"),
        ({**GOOD, "question": ""}, "question is empty"),
        ({**GOOD, "question": 3}, "question is 3, expected text"),
        ({**GOOD, "options": "x, y"}, "options is 'x, y', expected a list"),
        ({**GOOD, "options": ["x"]}, "options has 1 entries"),
        ({**GOOD, "options": ["x", 5]}, "option 2 is 5"),
        ({**GOOD, "options": ["x"] * 27}, "options has 27 entries"),
        ({**GOOD, "id": "0"}, "id '0' was used before"),
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(row, problem, tmp_path):
    path = write(tmp_path / "f.jsonl", {**GOOD, "id": "0"}, row)
    with pytest.raises(DataError) as error:
        load_samples([path])
    assert f"{path}, line 2" in str(error.value)
    assert problem in str(error.value)


def test_a_duplicate_id_in_another_file_names_both_places(tmp_path):
    paths = [write(tmp_path / name, GOOD) for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(DataError, match=r"b\.jsonl, line 1.*a\.jsonl, line 1"):
        load_samples(paths)


def test_wrong_columns_and_missing_or_empty_files_are_named(tmp_path):
    with pytest.raises(DataError, match="question"):
        load_samples([write(tmp_path / "f.jsonl", {"questoin": "Why?", "answer": "A"})])
    with pytest.raises(DataError, match="answer"):
        load_samples([write(tmp_path / "g.jsonl", {"question": "Why?", "anser": "A"})])
    with pytest.raises(DataError, match="no such file"):
        load_samples([str(tmp_path / "nothing.jsonl")])
    with pytest.raises(DataError, match="is empty"):
        load_samples([write(tmp_path / "empty.jsonl")])


def test_the_real_benchmarks_load_whole(real_data):
    counts = {"comm.jsonl": 2100, "agieval.jsonl.gz": 1789, "arc.jsonl": 600, "mmlu.jsonl.gz": 10728,
              "bbh.jsonl.gz": 6300, "crass.jsonl": 22, "gsm_plus.jsonl": 2200}  # fmt: skip
    samples = load_samples([str(real_data / "benchmarks" / name) for name in counts])
    assert len(samples) == sum(counts.values())
    assert len({sample.benchmark for sample in samples}) == 7
