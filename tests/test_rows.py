"""Every format gives the same rows; what is wrong is told in one line, with file and line."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import logging
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer.errors import DataError, UsageError
from lamer.rows import BadRows, FieldError, clean_text, count_rows, labels, read_rows, require_columns, row_id

ROWS = [{"id": "1", "text": "Salt, dissolves"}, {"id": "2", "text": 'He said "no"'}]


def write(path: Path, content: str | bytes) -> str:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


def table_bytes(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def csv_text(rows: list[dict]) -> str:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


CONTENT = {
    "a.jsonl": "\n".join(json.dumps(row) for row in ROWS),
    "a.ndjson": "\n\n".join(json.dumps(row) for row in ROWS) + "\n",
    "a.csv": csv_text(ROWS),
    "a.tsv": 'id\ttext\r\n1\tSalt, dissolves\r\n2\tHe said "no"\r\n',
    "b.tsv": 'id\ttext\n1\t"Salt, dissolves"\n2\t"He said ""no"""\n',
    "a.parquet": table_bytes(ROWS),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", CONTENT)
def test_every_format_gives_the_same_rows_plain_and_compressed(tmp_path, name, suffix):
    source = write(tmp_path / (name + suffix), CONTENT[name])
    assert [row for _, row in read_rows(source)] == ROWS


def test_numbers_are_lines_of_the_file(tmp_path):
    assert [n for n, _ in read_rows(write(tmp_path / "a.jsonl", '\n{"a": 1}\n\n{"a": 2}'))] == [2, 4]
    assert [n for n, _ in read_rows(write(tmp_path / "a.tsv", "a\tb\n1\t2\n\n3\t4\n"))] == [2, 4]
    assert [n for n, _ in read_rows(write(tmp_path / "a.csv", 'a,b\n"1\n1",2\n3,4\n'))] == [2, 4]
    assert [n for n, _ in read_rows(write(tmp_path / "a.parquet", CONTENT["a.parquet"]))] == [1, 2]


def test_a_text_file_gives_one_row_a_line(tmp_path):
    source = write(tmp_path / "a.txt.gz", "\ufeffone\n\n  two  \r\n")
    assert list(read_rows(source)) == [(1, {"text": "one"}), (3, {"text": "  two  "})]


def test_unicode_line_separators_do_not_split_a_row(tmp_path):
    source = write(tmp_path / "a.jsonl", json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False))
    assert list(read_rows(source)) == [(1, {"text": "a\u2028b\x85c"})]


BAD_FILES = {
    "missing.jsonl": (None, "no such file"),
    "empty.jsonl": (b"", "is empty"),
    "empty.jsonl.gz": (b"", "has no rows"),
    "blank.txt": (b"\n \n", "has no rows"),
    "header.csv": (b"a,b\n", "has no rows"),
    "twice.tsv": (b"a\ta\n1\t2\n", "two columns are named 'a'"),
    "array.json": (b'[\n{"a": 1}\n]', "is one JSON array"),
    "wide.jsonl": ('{"a": 1}'.encode("utf-16"), "line 1: is UTF-16"),
    "latin.jsonl": ('{"a": 1}\n{"a": "é"}'.encode("latin-1"), "line 2: not UTF-8"),
    "latin.csv": ('a,b\n1,"é"'.encode("latin-1"), "line 2: not UTF-8"),
    "latin.txt": ("ok\né".encode("latin-1"), "line 2: not UTF-8"),
    "broken.jsonl": (b'{"a": 1}\n{"a": 2\n', "line 2: not valid JSON"),
    "deep.jsonl": (b'{"a": ' + b"[" * 100_000 + b"}", "line 1: not valid JSON"),
    "list.jsonl": (b'{"a": 1}\n[1]\n', "line 2: expected a JSON object, found an array"),
    "number.jsonl": (b'{"a": 1}\n7\n', "line 2: expected a JSON object, found a number"),
    "narrow.csv": (b"a,b\n1\n", "line 2: 1 field, the header has 2"),
    "wide.tsv": (b"a\tb\n1\t2\t3\n", "line 2: 3 fields, the header has 2"),
    "quote.csv": (b'a,b\n1,2\n3,"4\n', "line 3: not valid CSV"),
    "torn.parquet": (CONTENT["a.parquet"][:-20], "not a readable Parquet file"),
    "a.xlsx": (b"PK", "the ending .xlsx does not tell the format"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_told_in_one_line(tmp_path, name):
    content, message = BAD_FILES[name]
    source = str(tmp_path / name) if content is None else write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        list(read_rows(source))
    assert message in str(caught.value)
    assert str(caught.value).startswith(source)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_nearest_one(tmp_path):
    write(tmp_path / "queries.jsonl", "{}")
    with pytest.raises(DataError, match=r"did you mean 'queries\.jsonl'"):
        list(read_rows(str(tmp_path / "querys.jsonl")))


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        list(read_rows(str(tmp_path / "a.jsonl")))


def test_a_damaged_gzip_file_is_told(tmp_path):
    packed = gzip.compress(b'{"a": 1}\n' * 5000)
    for name, raw in {"torn.jsonl.gz": packed[:40], "plain.jsonl.gz": b'{"a": 1}'}.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match="not a whole gzip file"):
            list(read_rows(str(tmp_path / name)))


def test_as_many_bad_rows_pass_as_allowed_and_each_is_warned_of(tmp_path, caplog):
    source = write(tmp_path / "a.jsonl", '{"a": 1}\nx\n{"a": 2}\n[]\n')
    bad = BadRows(2)
    with caplog.at_level(logging.WARNING, "lamer"):
        rows = list(read_rows(source, bad))
    assert [row["a"] for _, row in rows] == [1, 2]
    assert [message.split(": ")[0] for message in bad.messages] == [f"{source}, line 2", f"{source}, line 4"]
    assert [record.getMessage() for record in caplog.records] == [f"left out: {m}" for m in bad.messages]


def test_one_bad_row_too_many_names_those_before_and_the_way_out(tmp_path):
    source = write(tmp_path / "a.jsonl", "x\ny\n")
    with pytest.raises(DataError) as caught:
        list(read_rows(source, BadRows(1, warn=lambda message: None)))
    message = str(caught.value)
    assert message.startswith(f"{source}, line 2: not valid JSON")
    assert "--skip-bad 1 allows 1" in message
    assert f"{source}, line 1" in message


def test_a_file_of_bad_rows_only_is_not_called_empty(tmp_path):
    source = write(tmp_path / "a.jsonl", "x\n")
    assert list(read_rows(source, BadRows(5, warn=lambda message: None))) == []


def test_a_wrong_column_is_named_with_the_nearest_one():
    require_columns("f", ["question", "id"], ["text", "question"], "queries")
    with pytest.raises(
        DataError, match=r"f: no column 'text' or 'question' \(queries\); it has .* is 'qestion' meant"
    ):
        require_columns("f", ["id", "qestion"], ["text", "question"], "queries")


def test_labels_are_short_and_unique():
    assert labels(["a/x.jsonl.gz", "b/y.csv"]) == {"a/x.jsonl.gz": "x", "b/y.csv": "y"}
    assert labels(["x.jsonl", "x.csv"]) == {"x.jsonl": "x.jsonl", "x.csv": "x.csv"}
    assert labels(["a/x.csv", "b/x.csv"]) == {"a/x.csv": "a/x.csv", "b/x.csv": "b/x.csv"}
    assert labels(["hf://o/n:test"]) == {"hf://o/n:test": "o/n:test"}
    with pytest.raises(DataError, match="named twice"):
        labels(["x.csv", "x.csv"])


@pytest.mark.parametrize("value", [None, "", "  ", 3, float("nan"), ["a"], "\ud800"])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(FieldError):
        clean_text(value, "text")


def test_ids_are_texts_or_whole_numbers():
    assert [row_id(value) for value in (None, 7, 7.0, " a ")] == ["", "7", "7", "a"]
    for value in (float("nan"), float("inf"), 1.5, True, [1]):
        with pytest.raises(FieldError):
            row_id(value)


def test_a_hub_data_set_without_network_is_told_in_one_line():
    with pytest.raises(DataError, match="hf://someone/nothing:train: cannot be loaded") as caught:
        list(read_rows("hf://someone/nothing:train"))
    assert "\n" not in str(caught.value)


def test_a_hub_data_set_without_the_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'lamer\[hub\]'"):
        list(read_rows("hf://someone/nothing"))


@pytest.mark.parametrize("name", ["hf://", "hf://a//b", "hf://a/b/c/d"])
def test_a_malformed_hub_name_shows_the_form(name):
    with pytest.raises(DataError, match="expected hf://"):
        list(read_rows(name))


def test_rows_are_counted_for_progress(tmp_path):
    assert count_rows(write(tmp_path / "a.parquet", CONTENT["a.parquet"])) == 2
    assert count_rows(write(tmp_path / "a.tsv.gz", "a\n1\n2\n")) == 3
    assert count_rows(str(tmp_path / "none.csv")) == 0
    assert count_rows(write(tmp_path / "b.parquet", b"nothing")) == 0


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.csv.gz"])
@given(raw=st.binary(max_size=200))
def test_no_bytes_make_a_reader_fail_in_another_way(tmp_path_factory, name, raw):
    path = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        for _, row in read_rows(str(path), BadRows(3, warn=lambda message: None)):
            assert isinstance(row, dict)
