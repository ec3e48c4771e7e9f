"""Documents in, facts with their passages out; a killed start pays for nothing twice; every drop is counted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from document_files import pdf

from lamer.config import Config, load_config
from lamer.errors import DataError, RunError, TeacherError, UsageError
from lamer.knowledge import document_stage
from lamer.knowledge.stage import retrieve
from lamer.pipeline import STAGES, dependencies, execute, extracts_by_teacher
from lamer.records import TABLES, Fact, Passage
from lamer.run import Run
from lamer.summary import show_table
from lamer.teacher.ledger import Ledger
from lamer.testing import TeacherServer

SUBSTANCES = ("acid", "salt", "ice", "iron", "sugar")


def config(folder: Path, base_url: str = "http://127.0.0.1:9/v1", **facts) -> Config:
    """Five documents about a substance each, a page, a PDF; two queries."""
    notes = folder / "notes"
    notes.mkdir(parents=True, exist_ok=True)
    for name in SUBSTANCES:
        (notes / f"{name}.md").write_text(
            f"# {name.title()}\n\n{name.title()} is found in {name} mines. It is old."
        )
    (notes / "page.html").write_text("<nav>x</nav><p>Copper conducts heat well.<p>Copper conducts heat well")
    (notes / "sheet.pdf").write_bytes(pdf([["Silver conducts heat better."]]))
    (notes / "x.png").write_bytes(b"")
    (folder / "q.jsonl").write_text('{"id": "q1", "text": "Where is salt found?"}\n{"id": "q2", "text": "Heat?"}')
    return load_config(
        {
            "queries": {"path": [str(folder / "q.jsonl")]},
            "facts": {"documents": [str(notes)]} | facts,
            "retrieve": {"method": "bm25", "top_k": 2},
            "synthesize": {"teacher": {"base_url": base_url, "concurrency": 1, "max_retries": 0}, "max_tries": 2},
        }
    )


def run_stage(folder: Path, settings: Config):
    with Run.open(folder) as run:
        if not run.manifest():
            run.begin("retrieve", {})
        return retrieve(run, settings)


def rows(folder: Path, name: str) -> list:
    return list(Run(folder).table(name, TABLES[name]))


def teacher(messages, **sampling) -> str:
    """A right, a wrong and a dependent fact; nothing about iron; nothing usable about ice at the first try."""
    passage = messages[0]["content"].rsplit("Passage:\n", 1)[1]
    word = passage.split()[0]
    if word == "Iron":
        return "NONE"
    if word == "Ice" and sampling["seed"] == 0:
        return ""
    if "conducts" in passage:
        return f"Facts:\n1. {passage.splitlines()[0]}"
    return f"- {word} is found in mines.\n- {word} was discovered in 1855.\n- It is old.\n- Why is it old?"


def test_a_teacher_writes_facts_that_keep_their_passage(tmp_path, capsys):
    with TeacherServer(teacher) as server:
        settings = config(tmp_path, server.base_url)
        result = run_stage(tmp_path / "run", settings)
        assert server.num_requests == 7 + 1
        assert run_stage(tmp_path / "run", settings) == result
        assert server.num_requests == 8
    passages = {passage.id: passage for passage in rows(tmp_path / "run", "passages")}
    assert passages["notes/acid.md#passage-1"] == Passage(
        "notes/acid.md#passage-1", "notes/acid.md", 1, "Acid", "Acid is found in acid mines. It is old."
    )
    assert passages["notes/sheet.pdf#passage-1"].heading == "page 1"
    assert [(fact.text, fact.source) for fact in rows(tmp_path / "run", "facts")] == [
        ("Acid is found in mines.", "notes/acid.md#passage-1"),
        ("Ice is found in mines.", "notes/ice.md#passage-1"),
        ("Copper conducts heat well.", "notes/page.html#passage-1"),
        ("Salt is found in mines.", "notes/salt.md#passage-1"),
        ("Silver conducts heat better.", "notes/sheet.pdf#passage-1"),
        ("Sugar is found in mines.", "notes/sugar.md#passage-1"),
    ]
    assert result.counts["documents"] == result.counts["passages"] == 7
    assert result.counts["passages without a fact"] == 1
    dropped = result.counts["fact rows dropped"]
    assert (dropped["a number that the passage lacks"], dropped["not understood on its own"]) == (4, 4)
    assert dropped["a question"] == 4
    assert result.counts["fact rows read"] == 6 + 12
    assert any("by the teacher gpt-4o-mini; their words and numbers were compared" in n for n in result.notes)
    assert "Files in the folders that are no documents were passed over: .png 1." in result.notes
    show_table(tmp_path / "run", "passages", as_json=True, limit=1)
    assert json.loads(capsys.readouterr().out)["id"] == "notes/acid.md#passage-1"


def test_sentences_need_no_teacher_and_are_announced(tmp_path, caplog):
    (tmp_path / "f.txt").write_text("copper conducts heat WELL\n")
    settings = config(tmp_path, extract="sentences", path=[str(tmp_path / "f.txt")])
    result = run_stage(tmp_path / "run", settings)
    facts = rows(tmp_path / "run", "facts")
    assert [(fact.text, fact.source) for fact in facts] == [
        ("copper conducts heat WELL", "f"),
        *((f"{n.title()} is found in {n} mines.", f"notes/{n}.md#passage-1") for n in ("acid", "ice", "iron")),
        ("Salt is found in salt mines.", "notes/salt.md#passage-1"),
        ("Silver conducts heat better.", "notes/sheet.pdf#passage-1"),
        ("Sugar is found in sugar mines.", "notes/sugar.md#passage-1"),
    ]
    dropped = {reason: count for reason, count in result.counts["fact rows dropped"].items() if count}
    assert dropped == {"duplicate": 1, "not understood on its own": 5, "no whole sentence": 1}
    assert any("are taken for facts, as they are" in message for message in caplog.messages)
    assert any(note.startswith("Facts are the sentences of 7 passages of 7 documents") for note in result.notes)
    assert not (tmp_path / "run" / "teacher.sqlite").exists()


def test_killed_while_asking_it_pays_for_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(document_stage, "PASSAGES_PER_CALL", 2)
    log = tmp_path / "asked.txt"

    def counted(messages, **sampling):
        with log.open("a") as file:
            file.write(messages[0]["content"].rsplit("Passage:\n", 1)[1].split()[0] + f" {sampling['seed']}\n")
        return teacher(messages, **sampling)

    with TeacherServer(counted) as server:
        settings = config(tmp_path, server.base_url)
        wanted = run_stage(tmp_path / "whole", settings)
        asked = log.read_text().splitlines()
        for kill_at in (1, 4, 7):
            log.unlink()
            folder = tmp_path / f"killed-{kill_at}"
            assert killed_before_reply(kill_at, folder, settings)
            assert len(log.read_text().splitlines()) == kill_at
            assert run_stage(folder, settings) == wanted
            assert len(log.read_text().splitlines()) == len(asked) + 1  # the reply not yet written down
            for name in ("facts", "passages", "matches", "queries"):
                assert rows(folder, name) == rows(tmp_path / "whole", name)


def killed_before_reply(number: int, folder: Path, settings: Config) -> bool:
    """Run the stage in a child that is killed (-9) before the ledger takes reply `number`; whether it was."""
    child = os.fork()
    if child == 0:
        calls, original = [], Ledger.record

        def record(self, entries):
            calls.append(entries)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            original(self, entries)

        Ledger.record = record
        run_stage(folder, settings)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_replies_that_cannot_be_used_are_counted(tmp_path):
    with TeacherServer(lambda messages: " ") as server:
        settings = config(tmp_path, server.base_url, path=[str(tmp_path / "f.txt")])
        (tmp_path / "f.txt").write_text("Salt is a spice.\n")
        result = run_stage(tmp_path / "run", settings)
    assert "7 passages got no usable reply from the teacher." in result.notes
    assert result.counts["facts"] == 1


def test_nothing_is_asked_when_a_document_or_a_row_is_bad(tmp_path):
    with TeacherServer(teacher) as server:
        settings = config(tmp_path, server.base_url)
        (tmp_path / "notes" / "a.pdf").write_bytes(b"torn")
        with pytest.raises(DataError, match=r"notes/a\.pdf: is not a readable PDF .*--skip-bad"):
            run_stage(tmp_path / "run", settings)
        assert not (tmp_path / "run" / "passages").exists()
        (tmp_path / "f.jsonl").write_text("{}\n")
        with pytest.raises(DataError, match=r"f\.jsonl"):
            run_stage(
                tmp_path / "b", config(tmp_path, server.base_url, path=[str(tmp_path / "f.jsonl")], skip_bad=1)
            )
        assert server.num_requests == 0
        result = run_stage(tmp_path / "c", config(tmp_path, server.base_url, skip_bad=1))
    assert result.counts["documents"] == 7
    assert result.counts["fact rows dropped"]["bad row"] == 1
    assert result.notes[-1].startswith(f"Left out: {tmp_path / 'notes' / 'a.pdf'}: is not a readable PDF")


def test_documents_without_text_are_told(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    settings = load_config(
        {"facts": {"documents": [str(tmp_path / "notes")], "skip_bad": 1}, "queries": {"path": ["q"]}}
    )
    with Run.open(tmp_path / "run") as run, pytest.raises(DataError, match="no document has text"):
        document_stage.write_passages(run, settings, document_stage.BadRows(1))


def test_a_changed_document_is_another_run_a_moved_folder_is_not(tmp_path):
    (stage,) = (stage for stage in STAGES if stage.name == "retrieve")
    settings = config(tmp_path / "one", extract="sentences")
    with Run.open(tmp_path / "run") as run:
        ((_, _, is_new),) = execute(run, settings, until="retrieve")
        assert is_new
        ((_, _, is_new),) = execute(run, config(tmp_path / "two", extract="sentences"), until="retrieve")
        assert not is_new
        (tmp_path / "two" / "notes" / "salt.md").write_text("Salt is a spice.")
        facts = settings.facts.model_copy(update={"documents": [str(tmp_path / "two" / "notes")]})
        with pytest.raises(RunError, match=r"facts\.documents="):
            list(execute(run, settings.model_copy(update={"facts": facts}), until="retrieve"))
    by_teacher = dependencies(stage, config(tmp_path / "one"))
    assert {"facts.template", "synthesize.teacher.model", "seed"} <= set(by_teacher)
    assert "facts.template" not in dependencies(stage, settings)
    assert not extracts_by_teacher(settings)


def test_a_missing_key_is_told_before_documents_are_read(tmp_path):
    settings = config(tmp_path).model_copy(update={"synthesize": load_config().synthesize})
    with Run.open(tmp_path / "run") as run, pytest.raises(TeacherError, match="OPENAI_API_KEY"):
        list(execute(run, settings, until="retrieve"))
    with pytest.raises(UsageError, match=r"facts\.documents empty"):
        run_stage(tmp_path / "b", load_config({"facts": {"documents": ["x"]}, "retrieve": {"method": "teacher"}}))


def test_hub_data_sets_are_corpora_too(tmp_path, monkeypatch):
    """A folder beside the working directory stands for the Hub, as the library has it."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "someone" / "facts").mkdir(parents=True)
    (tmp_path / "someone" / "facts" / "train.jsonl").write_text(
        '{"generic_sentence": "Salt is a spice.", "score": 0.9}\n'
        '{"generic_sentence": "Salt talks.", "score": 0.1}\n'
    )
    monkeypatch.chdir(tmp_path)
    settings = config(tmp_path, documents=[], path=["hf://someone/facts"])
    result = run_stage(tmp_path / "run", settings)
    assert [(fact.text, fact.source) for fact in rows(tmp_path / "run", "facts")] == [
        ("Salt is a spice.", "someone/facts")
    ]
    assert result.counts["fact rows dropped"]["low score"] == 1
    assert isinstance(rows(tmp_path / "run", "facts")[0], Fact)
