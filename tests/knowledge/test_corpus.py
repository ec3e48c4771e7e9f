"""The corpus keeps what it should, drops the rest, and counts why."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer.config import FactSettings
from lamer.errors import DataError, UsageError
from lamer.knowledge.corpus import CorpusReport, content_id, fact_key, load_facts, normalize
from lamer.records import Fact


def save(path: Path, content: str) -> str:
    path.write_text(content, "utf-8")
    return str(path)


def load(*paths: str, **settings: object) -> tuple[list[Fact], CorpusReport]:
    facts, report = load_facts(FactSettings(path=list(paths), **settings))
    return list(facts), report


def test_rows_are_filtered_and_every_drop_has_a_reason(tmp_path):
    source = save(
        tmp_path / "f.tsv",
        "fact\tscore\tsource\n"
        "Acid  is corrosive.\t0.9\tkb\n"
        "acid is corrosive\t1.0\tkb\n"
        "Salt is a spice.\t0.69\tkb\n"
        "Salt is a spice.\t\tother\n"
        "...\t0.9\tkb\n"
        "\t0.9\tkb\n"
        "Ice is cold.\t0.7\t\n",
    )
    facts, report = load(source)
    assert [(fact.text, fact.score, fact.source) for fact in facts] == [
        ("Acid is corrosive.", 0.9, "kb"),
        ("Salt is a spice.", None, "other"),
        ("Ice is cold.", 0.7, "f"),
    ]
    assert report.kept == 3
    assert report.dropped == {"low score": 1, "duplicate": 1, "empty": 2, "bad row": 0}
    assert report.read == 7


def test_of_duplicates_the_first_stays_also_across_files(tmp_path):
    first, second = (
        save(tmp_path / "a.txt", "Ice is cold.\n"),
        save(tmp_path / "b.txt", "ice is COLD !\nFire is hot.\n"),
    )
    facts, report = load(first, second)
    assert [(fact.text, fact.source) for fact in facts] == [("Ice is cold.", "a"), ("Fire is hot.", "b")]
    assert report.dropped["duplicate"] == 1


def test_the_genericskb_forms_are_read(tmp_path):
    official = save(
        tmp_path / "gkb.tsv",
        "SOURCE\tTERM\tQUANTIFIER\tGENERIC SENTENCE\tSCORE\n"
        "Arc\ttree\t\tTrees grow.\t0.8\nArc\ttree\t\tTrees talk.\t0.1\n",
    )
    hub = save(
        tmp_path / "hub.jsonl", '{"source": "Arc", "term": "ice", "generic_sentence": "Ice melts.", "score": 1}\n'
    )
    facts, report = load(official, hub)
    assert [(fact.text, fact.score, fact.source) for fact in facts] == [
        ("Trees grow.", 0.8, "Arc"), ("Ice melts.", 1.0, "Arc"),
    ]  # fmt: skip
    assert report.dropped["low score"] == 1


def test_ids_depend_on_the_words_only_and_given_ones_stay(tmp_path):
    facts, _ = load(save(tmp_path / "a.jsonl", '{"fact": "Ice is cold.", "id": 7}\n{"fact": "Fire is  hot"}\n'))
    assert [fact.id for fact in facts] == ["7", content_id("fire is hot!")]
    assert content_id("fire is hot!").startswith("f")
    assert len(content_id("x")) == 17


@pytest.mark.parametrize("score", ["NaN", "inf", "-Infinity", "high", "0,7"])
def test_a_score_that_is_no_number_is_a_bad_row(tmp_path, score):
    source = save(tmp_path / "f.csv", f'fact,score\nIce is cold.,1\nFire is hot.,"{score}"\n')
    with pytest.raises(DataError, match=r"f\.csv, line 3: score is .*--skip-bad") as caught:
        load(source)
    assert "\n" not in str(caught.value)
    facts, report = load(source, skip_bad=1)
    assert len(facts) == 1
    assert report.dropped["bad row"] == 1
    assert report.bad_rows[0].startswith(f"{source}, line 3: score is")


def test_json_nan_is_a_bad_row(tmp_path):
    with pytest.raises(DataError, match="line 1: score is nan"):
        load(save(tmp_path / "f.jsonl", '{"fact": "Ice is cold.", "score": NaN}\n'))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"fakt": "x"}', "no column 'fact'.*is 'fakt' meant"),
        ('{"fact": "x"}\n{"id": 1}', "line 2: no column 'fact'"),
        ('{"fact": 5}', "line 1: fact is 5, expected text"),
        ('{"fact": "\\ud800 x"}', "line 1: fact holds half a character"),
        ('{"fact": "x", "id": 1}\n{"fact": "y", "id": "1"}', "line 2: id '1' is already used"),
        ('{"fact": "x"}\n{"fact"', "line 2: not valid JSON"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        load(save(tmp_path / "f.jsonl", content))


def test_a_corpus_of_which_nothing_is_left_says_why(tmp_path):
    with pytest.raises(DataError, match=r"no fact is left \(2 low score\); lower facts\.min_score"):
        load(save(tmp_path / "f.tsv", "fact\tscore\na b\t0.1\nc d\t0.2\n"))
    with pytest.raises(UsageError, match=r"facts\.path"):
        load()


@pytest.mark.parametrize(
    ("one", "other"),
    [("3 < 4", "3 > 4"), ("10²", "102"), ("½ cup", "1 2 cup"), ("1.5", "15"), ("C++", "C"), ("straße", "strase")],
)
def test_different_facts_have_different_keys(one, other):
    assert fact_key(one) != fact_key(other)


def test_equal_facts_have_one_key():
    texts = ("Don't touch it!", "don’t  touch it", "DON'T\u00a0TOUCH IT...", '"Don\'t touch it."')
    assert {fact_key(text) for text in texts} == {"don t touch it"}
    assert fact_key("cafe\u0301") == fact_key("caf\u00e9")


@given(st.text())
def test_normalizing_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)
    assert fact_key(normalize(text)) == fact_key(text)


def test_the_real_corpus_is_counted_as_its_description_says(real_data):
    """56,956 GenericsKB rows with scores of 0.7 and more, 6,487 OpenBook rows without."""
    facts, report = load(*(str(real_data / "facts" / f"{name}.tsv.gz") for name in ("genericskb", "openbook")))
    assert report.read == 56_956 + 6_487
    assert report.kept == len(facts) == len({fact.id for fact in facts})
    assert report.dropped["low score"] == report.dropped["bad row"] == 0
    assert sum(fact.score is None for fact in facts) > 6_000
