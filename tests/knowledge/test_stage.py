"""The stage writes three whole tables, does only what is missing, and leaves nothing behind on bad input."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from lamer.config import Config, load_config
from lamer.errors import DataError, TeacherError, UsageError
from lamer.knowledge import dense, stage
from lamer.knowledge.encoders import Encoder
from lamer.knowledge.math_stage import write_math_tables
from lamer.knowledge.stage import retrieve
from lamer.pipeline import STAGES, dependencies
from lamer.records import Fact, Match, Query
from lamer.run import Run
from lamer.teacher.ledger import LEDGER, Ledger
from lamer.teacher.teacher import Teacher
from lamer.testing import QueuedTeacher, TeacherServer

NOUNS = ("acid", "salt", "ice", "fire", "spice", "skin", "iron")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(stage, "FACTS_PER_SHARD", 20)
    monkeypatch.setattr(dense, "FACTS_PER_CALL", 4)
    monkeypatch.setattr(stage, "QUERIES_AT_ONCE", 6)


def config(folder: Path, **settings) -> Config:
    folder.mkdir(exist_ok=True, parents=True)
    queries = [
        {"id": f"q{i}", "text": f"Why is {noun} so?", "options": [f"It {noun}s.", "zebra"], "answer": 0}
        for i, noun in enumerate((*NOUNS, "quux"))
    ]
    facts = [f"{noun.title()} is {other} in a way." for noun in NOUNS for other in NOUNS if noun != other]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "f.txt").write_text("\n".join((*facts, facts[0].upper())))
    given = {
        "queries": {"path": [str(folder / "q.jsonl")]},
        "facts": {"path": [str(folder / "f.txt")]},
        "retrieve": {"method": "bm25", "top_k": 2, "query_instruction": ""},
        "diagnose": {"shard_size": 3},
    }
    for section, values in settings.items():
        given[section] = given.get(section, {}) | values
    return load_config(given)


def run_stage(folder: Path, settings: Config):
    with Run.open(folder) as run:
        if not run.manifest():
            run.begin("retrieve", {})
        return retrieve(run, settings)


def tables(folder: Path) -> dict[str, list]:
    run = Run(folder)
    found = {
        name: list(run.table(name, kind))
        for name, kind in {"queries": Query, "facts": Fact, "matches": Match}.items()
    }
    names = {name: [path.name for path in run.table(name, Query).shards()] for name in found}
    return found | {"shards": [names]}


def test_the_three_tables_belong_together(tmp_path):
    result = run_stage(tmp_path / "run", config(tmp_path))
    found = tables(tmp_path / "run")
    assert [query.id for query in found["queries"]] == [f"q{i}" for i in range(8)]
    assert len(found["facts"]) == 42
    by_id = {fact.id: fact.text.lower() for fact in found["facts"]}
    for match in found["matches"]:
        noun = NOUNS[int(match.query_id[1:])]
        assert noun in by_id[match.fact_id]
        assert match.score > 0
    assert [(m.query_id, m.rank) for m in found["matches"]] == [
        (f"q{i}", rank) for i in range(7) for rank in range(2)
    ]
    assert (
        found["shards"][0]["queries"]
        == found["shards"][0]["matches"]
        == [f"shard-0000{i}.parquet" for i in range(3)]
    )
    assert dict(result.counts) == {
        "queries": 8, "queries by source": {"q": 8}, "queries with options": 8, "query rows left out": 0,
        "fact rows read": 43, "facts": 42,
        "fact rows dropped": {"low score": 0, "duplicate": 1, "empty": 0, "bad row": 0},
        "matches": 14, "queries without a match": 1,
    }  # fmt: skip
    assert result.notes == [
        "Facts were found by their words only (BM25): one that says the same in other words is not found. "
        "retrieve.method=dense or hybrid searches by meaning.",
        "1 queries have no match: no fact shares a word with them.",
    ]


def test_facts_of_too_low_a_score_are_no_matches(tmp_path):
    run_stage(tmp_path / "all", config(tmp_path))
    every = tables(tmp_path / "all")["matches"]
    best = {match.query_id: match.score for match in every if match.rank == 0}
    run_stage(tmp_path / "ties", config(tmp_path, retrieve={"method": "bm25", "top_k": 2, "min_score_ratio": 1.0}))
    assert tables(tmp_path / "ties")["matches"] == [m for m in every if m.score == best[m.query_id]]
    floor = {"method": "bm25", "top_k": 2, "min_score": max(best.values()) + 1}
    result = run_stage(tmp_path / "none", config(tmp_path, retrieve=floor))
    assert result.counts["queries without a match"] == 8
    assert f"or none reaches retrieve.min_score={floor['min_score']}" in result.notes[1]


def test_a_second_start_changes_and_reads_nothing(tmp_path):
    settings = config(tmp_path)
    first = run_stage(tmp_path / "run", settings)
    before = tables(tmp_path / "run")
    for name in ("q.jsonl", "f.txt"):
        (tmp_path / name).unlink()
    assert run_stage(tmp_path / "run", settings) == first
    assert tables(tmp_path / "run") == before


def killed_at(rename: int, folder: Path, settings: Config) -> bool:
    """Run the stage in a child that is killed (-9) in front of its rename number `rename`; whether it was."""
    with Run.open(folder) as run:
        run.begin("retrieve", {})
    child = os.fork()
    if child == 0:
        count, original = 0, Path.rename

        def counted(path, target):
            nonlocal count
            count += 1
            if count == rename:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(path, target)

        Path.rename = Path.replace = counted
        try:
            run_stage(folder, settings)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_killed_anywhere_it_continues_to_the_same_tables(tmp_path):
    settings = config(tmp_path)
    wanted_result = run_stage(tmp_path / "whole", settings)
    wanted = tables(tmp_path / "whole")
    rename = 1
    while killed_at(rename, folder := tmp_path / f"killed-{rename}", settings):
        killed_at(1 + rename % 5, folder, settings)
        assert run_stage(folder, settings) == wanted_result
        assert tables(folder) == wanted
        assert not list(folder.glob("index/*.tmp/"))
        rename += 1
    assert rename == 1 + 3 + 2 + 3 + 2 + 3  # shards of queries, facts and matches; folders and markers


class BrokenError(BaseException):
    """Stands for a power cut."""


@pytest.mark.parametrize("method", ["dense", "hybrid"])
def test_an_interrupted_embedding_goes_on_and_a_later_run_embeds_nothing(
    tmp_path, monkeypatch, encoder_folder, method
):
    settings = config(tmp_path, retrieve={"method": method, "encoder": str(encoder_folder)})
    monkeypatch.setenv("LAMER_CACHE", str(tmp_path / "cache"))
    wanted_result = run_stage(tmp_path / "whole", settings)
    wanted = tables(tmp_path / "whole")

    monkeypatch.setenv("LAMER_CACHE", str(tmp_path / "other cache"))
    original, encoded = Encoder.encode_facts, []

    def breaking(self, texts):
        encoded.append(len(texts))
        if len(encoded) == 6:
            raise BrokenError
        return original(self, texts)

    monkeypatch.setattr(Encoder, "encode_facts", breaking)
    with pytest.raises(BrokenError):
        run_stage(tmp_path / "broken", settings)
    assert run_stage(tmp_path / "broken", settings) == wanted_result
    assert tables(tmp_path / "broken") == wanted
    assert sum(encoded) == 42 + 4  # the chunk under way was the only one done twice
    run_stage(tmp_path / "later", settings)
    assert tables(tmp_path / "later") == wanted
    assert sum(encoded) == 42 + 4


def test_a_grown_corpus_embeds_the_new_facts_only(tmp_path, monkeypatch, encoder_folder):
    settings = config(tmp_path, retrieve={"method": "dense", "encoder": str(encoder_folder)})
    original, encoded = Encoder.encode_facts, []

    def counted(self, texts):
        encoded.extend(texts)
        return original(self, texts)

    monkeypatch.setattr(Encoder, "encode_facts", counted)
    run_stage(tmp_path / "first", settings)
    assert len(encoded) == 42
    lines = (tmp_path / "f.txt").read_text().splitlines()
    (tmp_path / "f.txt").write_text("\n".join(["Ice melts.", *lines[5:-1], "Acid burns skin."]))
    del encoded[:]
    run_stage(tmp_path / "second", settings)
    assert encoded == ["Ice melts.", "Acid burns skin."]
    monkeypatch.setenv("LAMER_CACHE", str(tmp_path / "other cache"))
    run_stage(tmp_path / "fresh", settings)  # rows in another order on disk, in blocks of their own
    fresh, second = (tables(tmp_path / name)["matches"] for name in ("fresh", "second"))
    assert [(m.query_id, m.fact_id, m.rank) for m in second] == [(m.query_id, m.fact_id, m.rank) for m in fresh]
    assert [m.score for m in second] == pytest.approx([m.score for m in fresh], abs=1e-6)


def test_other_folder_devices_and_batches_are_the_same_run_another_index_is_not(tmp_path, encoder_folder):
    settings = config(tmp_path, retrieve={"method": "dense", "encoder": str(encoder_folder)})

    def changed(**update):
        return settings.model_copy(update={"retrieve": settings.retrieve.model_copy(update=update)})

    (stage_,) = (stage_ for stage_ in STAGES if stage_.name == "retrieve")
    wanted = dependencies(stage_, settings)
    assert dependencies(stage_, changed(embeddings="elsewhere", devices=["cpu"], batch_size=1)) == wanted
    assert dependencies(stage_, changed(index="IVF4,Flat")) != wanted
    assert "seed" in dependencies(stage_, changed(index="IVF4,Flat"))


def test_the_recall_of_an_index_stands_in_the_notes(tmp_path, encoder_folder, caplog):
    """One cell of four is looked into, then all; the test compares the matches with those of exact search."""
    retrieve = {"method": "dense", "encoder": str(encoder_folder), "index": "IVF4,Flat"}
    run_stage(tmp_path / "exact", config(tmp_path, retrieve=retrieve | {"index": "flat"}))
    last = {m.query_id: m.score for m in tables(tmp_path / "exact")["matches"]}
    for search in ("nprobe=1", "nprobe=4"):
        settings = config(tmp_path, retrieve=retrieve | {"index_search": search})
        result = run_stage(tmp_path / search, settings)
        matches = tables(tmp_path / search)["matches"]
        share = sum(m.score >= last[m.query_id] - 1e-6 for m in matches) / 16
        (note,) = (note for note in result.notes if "recall@2" in note)
        assert f"IVF4,Flat ({search}): recall@2 {share:.3f} against exact search, on 8 queries" in note
        assert ("That is low" in note) is (share < 0.9) is (note in caplog.messages)
        assert run_stage(tmp_path / search, settings) == result
    assert share == 1.0
    assert not list(tmp_path.glob("**/index-*.faiss"))  # not in the run, but beside the embeddings


def test_index_settings_that_faiss_does_not_know_are_told_before_anything_is_encoded(
    tmp_path, monkeypatch, encoder_folder
):
    monkeypatch.setattr(Encoder, "encode_facts", lambda self, texts: pytest.fail("encoded"))
    for update, message in (
        (
            {"index": "IVF4,Flatt"},
            r"retrieve\.index: faiss cannot make 'IVF4,Flatt' for 16 dimensions \(could not",
        ),
        ({"index": "HNSW8", "index_search": "nprobe=1"}, r"retrieve\.index_search: 'nprobe=1' does not fit HNSW8"),
    ):
        settings = config(tmp_path, retrieve={"method": "dense", "encoder": str(encoder_folder)} | update)
        with pytest.raises(UsageError, match=message) as caught:
            run_stage(tmp_path / "run", settings)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run" / "queries").exists()


def test_dense_matches_are_the_nearest_vectors(tmp_path, encoder_folder):
    settings = config(tmp_path, retrieve={"method": "dense", "encoder": str(encoder_folder), "top_k": 3})
    run_stage(tmp_path / "run", settings)
    found = tables(tmp_path / "run")
    encoder = Encoder.load(settings.retrieve)
    vectors = encoder.encode_facts([fact.text for fact in found["facts"]])
    scores = {fact.id: vector for fact, vector in zip(found["facts"], vectors)}
    for query in found["queries"]:
        (vector,) = encoder.encode_queries([stage.retrieval_text(query)])
        matches = [match for match in found["matches"] if match.query_id == query.id]
        assert [match.score for match in matches] == pytest.approx(
            sorted(vectors @ vector, reverse=True)[:3], abs=1e-5
        )
        assert all(
            match.score == pytest.approx(float(scores[match.fact_id] @ vector), abs=1e-5) for match in matches
        )


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [("q.jsonl", '{"id": 1, "text": "x"}\n{"id": 1, "text": "y"}', "id '1' is already used"),
     ("q.jsonl", "", "is empty"), ("f.txt", "...\n", "no fact is left"), ("f.txt", "", "is empty")],
)  # fmt: skip
def test_bad_input_leaves_no_table(tmp_path, file, content, message):
    settings = config(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        run_stage(tmp_path / "run", settings)
    bad_table = {"q.jsonl": "queries", "f.txt": "facts"}[file]
    assert not (tmp_path / "run" / bad_table).exists()
    assert not list(tmp_path.glob("run/**/*.tmp"))


def test_bad_rows_within_the_limit_are_listed_in_the_notes(tmp_path, caplog):
    settings = config(tmp_path, queries={"skip_bad": 1})
    with (tmp_path / "q.jsonl").open("a") as file:
        file.write("\nnot JSON\n")
    result = run_stage(tmp_path / "run", settings)
    assert result.counts["query rows left out"] == 1
    assert result.notes[-1].startswith(f"Left out: {tmp_path / 'q.jsonl'}, line 9: not valid JSON")
    assert "line 9" in caplog.text


def test_a_missing_encoder_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UsageError, match=r"pip install 'lamer\[dense\]'"):
        run_stage(tmp_path / "run", config(tmp_path, retrieve={"method": "dense", "encoder": "x"}))
    assert not (tmp_path / "run" / "queries").exists()


def test_a_bge_instruction_with_another_encoder_is_remarked(tmp_path, encoder_folder):
    settings = config(tmp_path, retrieve={"method": "dense", "encoder": str(encoder_folder)})
    default = load_config().retrieve.query_instruction
    settings = settings.model_copy(
        update={"retrieve": settings.retrieve.model_copy(update={"query_instruction": default})}
    )
    assert "The query instruction is that of BGE" in run_stage(tmp_path / "run", settings).notes[1]


# The teacher's facts


def math_config(folder: Path, **settings) -> Config:
    folder.mkdir(exist_ok=True, parents=True)
    rows = [{"question": f"What is {i} and {i}?", "answer": f"Add.\n#### {2 * i}"} for i in range(8)]
    (folder / "gsm.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {
        "queries": {"path": [str(folder / "gsm.jsonl")]},
        "retrieve": {"method": "teacher", "top_k": 4},
        "diagnose": {"shard_size": 3},
    }
    return load_config(given | settings)


def math_reply(messages, **sampling) -> str:
    """Right but for 3, nothing useful for 5, useful at the second try for 6."""
    i = int(messages[0]["content"].rsplit("What is ", 1)[1].split()[0])
    if i == 5 or (i == 6 and sampling["seed"] == 0):
        return "I do not know."
    answer = 2 * i + (i == 3)
    return (
        f"Background Knowledge:\n1. Adding a number to itself doubles it.\n2. The double of {i} is even.\n"
        f"Explanation: {i} + {i} = {answer}.\nAnswer: {answer}\nDistractors: (A) {answer + 1} (B) {answer + 2}"
    )


def test_a_teacher_over_http_writes_facts_and_options(tmp_path):
    with TeacherServer(math_reply) as server:
        settings = math_config(tmp_path, synthesize={"teacher": {"base_url": server.base_url}, "max_tries": 2})
        result = run_stage(tmp_path / "run", settings)
        assert server.num_requests == 8 + 2
        assert run_stage(tmp_path / "run", settings) == result
        assert server.num_requests == 10
    found = tables(tmp_path / "run")
    assert [query.id for query in found["queries"]] == [f"gsm-{i + 1}" for i in range(8)]
    for i, query in enumerate(found["queries"]):
        if i == 5:
            assert (query.options, query.answer) == (None, "10")
        elif i == 3:
            assert query.answer is None  # 6 is no option: the teacher says 7
            assert sorted(query.options) == ["7", "8", "9"]
        else:
            assert query.options[query.answer_index] == str(2 * i)
    texts = [fact.text for fact in found["facts"]]
    assert texts.count("Adding a number to itself doubles it.") == 1
    assert len(texts) == len(set(texts)) == 8
    assert {fact.source for fact in found["facts"]} == {"teacher"}
    assert [match.rank for match in found["matches"]] == [0, 1] * 7
    assert {match.fact_id for match in found["matches"]} == {fact.id for fact in found["facts"]}
    assert result.counts["facts"] == 8
    assert result.counts["queries with options"] == 7
    assert result.counts["queries without a match"] == 1
    assert any("equals the label for 6 of the 7" in note for note in result.notes)
    assert any("no background knowledge: 1 queries" in note for note in result.notes)


def test_a_teacher_that_does_not_come_to_its_answer_again_leaves_the_query_open(tmp_path):
    def reply(messages, **sampling) -> str:
        text = messages[0]["content"]
        if "multiple-choice" not in text:
            return math_reply(messages, **sampling)
        i = int(text.rsplit("What is ", 1)[1].split()[0])
        found = re.search(rf"\(([A-C])\) {2 * i}(?= |$)", text, re.MULTILINE)
        return f"Answer: ({found[1]})" if found else "None of the options is right."

    with TeacherServer(reply) as server:
        more = {"teacher": {"base_url": server.base_url}, "max_tries": 2}
        settings = math_config(tmp_path, synthesize=more, retrieve={"method": "teacher", "self_answer": 3})
        result = run_stage(tmp_path / "run", settings)
        assert server.num_requests == 10 + 7 * 3
        assert run_stage(tmp_path / "run", settings) == result
        assert server.num_requests == 31
    found = tables(tmp_path / "run")
    assert [query.id for query in found["queries"] if query.options is None] == ["gsm-4", "gsm-6"]
    assert found["queries"][3].answer == "6"  # the label of an open query is its text
    assert result.counts["queries with options"] == 6
    assert result.counts["queries without a match"] == 1  # a doubted query keeps its facts
    assert any("asked again blind, it did not come to its answer for 1 queries" in note for note in result.notes)


def test_a_killed_teachers_stage_pays_for_nothing_twice(tmp_path):
    settings = math_config(tmp_path, synthesize={"teacher": {"concurrency": 1}})
    log = tmp_path / "asked.txt"

    def killing(messages, **sampling):
        with log.open("a") as file:
            file.write(messages[0]["content"][-15:].strip() + f" seed {sampling['seed']}\n")
        if len(log.read_text().splitlines()) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return math_reply(messages, **sampling)

    def write(folder: Path, reply):
        with Run.open(folder) as run, Ledger(folder / LEDGER) as ledger:
            run.begin("retrieve", {})
            return write_math_tables(
                run, settings, Teacher.from_callable(reply, ledger, settings.synthesize.teacher)
            )

    wanted = write(tmp_path / "whole", math_reply)
    child = os.fork()
    if child == 0:
        write(tmp_path / "killed", killing)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert write(tmp_path / "killed", killing) == wanted
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")
    asked = log.read_text().splitlines()
    answered = asked[:4] + asked[5:]
    assert len(answered) == len(set(answered)) > 8


def test_bad_queries_are_told_before_the_teacher_is_asked(tmp_path):
    queue = QueuedTeacher([])
    with TeacherServer(queue.reply) as server:
        settings = math_config(tmp_path, synthesize={"teacher": {"base_url": server.base_url}})
        with (tmp_path / "gsm.jsonl").open("a") as file:
            file.write("\n{}")
        with pytest.raises(DataError, match="line 9"):
            run_stage(tmp_path / "run", settings)
        assert server.num_requests == 0


def test_a_teacher_that_cannot_be_asked_is_told(tmp_path):
    with pytest.raises(TeacherError, match="OPENAI_API_KEY"):
        run_stage(tmp_path / "a", math_config(tmp_path))
    with pytest.raises(UsageError, match=r"leave facts\.path and facts\.documents empty"):
        run_stage(tmp_path / "b", math_config(tmp_path, facts={"path": ["x.tsv"]}))
