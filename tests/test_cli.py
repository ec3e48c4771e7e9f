"""The command line: exit statuses, one-line errors, help, JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lamer.cli import _main
from lamer.microworld import checkpoint_path
from lamer.records import Diagnosis, Query
from lamer.run import Run


def run_cli(*arguments: str, capsys) -> tuple[int, str, str]:
    status = _main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["rum"], 2, "No such command 'rum'"),
        (["run"], 2, "Missing argument"),
        (["run", "none.yaml"], 2, "none.yaml: no such file; `lamer init > none.yaml` writes one"),
        (["init", "--preset", "dem"], 2, "preset: unknown preset 'dem' (did you mean 'demo'?)"),
        (["show", "nowhere", "queries"], 1, "nowhere: no run here"),
        (["show", "nowhere", "querys"], 2, "unknown table 'querys' (did you mean 'queries'?)"),
        (["report", "--out", "nowhere"], 1, "nowhere: no run here"),
        (["diagnose", "--set", "modl.name=x"], 2, "modl: unknown key (did you mean 'model'?)"),
        (["diagnose", "--set", "diagnose.threshold"], 2, "--set diagnose.threshold: expected key=value"),
        (["diagnose", "--restart-from", "diagnos"], 2, "unknown stage 'diagnos' (did you mean 'diagnose'?)"),
    ],
)
def test_wrong_usage_is_one_line_and_an_exit_status(arguments, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, out, err = run_cli(*arguments, capsys=capsys)
    assert got == status
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not any(tmp_path.iterdir()), "wrong usage leaves nothing behind"


def small_input(folder: Path) -> list[str]:
    queries, facts = folder / "queries.jsonl", folder / "facts.txt"
    queries.write_text('{"id": "q1", "text": "What is soft?", "options": ["wool", "a stone"]}\n')
    facts.write_text("Wool is soft.\nStones are hard.\n")
    return ["--queries", str(queries), "--facts", str(facts), "--set", "retrieve.method=bm25"]


BAD_INPUT = {
    "missing queries": (["--queries", "none.jsonl"], "none.jsonl: no such file"),
    "missing facts": (["--facts", "none.txt"], "none.txt: no such file"),
    "a model folder that is not there": (["--model", "./none"], "none"),
    "a Hub id without network": (["--model", "no-such-org/no-such-model"], "no-such-org/no-such-model"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_that_names_it(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extra, message = BAD_INPUT[case]
    model = ["--model", str(checkpoint_path())]
    status, _, err = run_cli("diagnose", *model, *small_input(tmp_path), *extra, "--out", "run", capsys=capsys)
    assert status in (1, 2)
    lines = [line for line in err.splitlines() if line.startswith("lamer: ")]
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "text": "x"}\n{"id": "b", \n', "queries.jsonl, line 2"),
        ('{"id": "a", "txet": "x"}\n', "is 'txet' meant?"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "'a'"),
        ("", "queries.jsonl"),
    ],
)
def test_a_bad_query_file_is_named_with_its_line(content, message, capsys, tmp_path):
    arguments = small_input(tmp_path)
    (tmp_path / "queries.jsonl").write_text(content)
    status, _, err = run_cli("retrieve", *arguments, "--out", str(tmp_path / "run"), capsys=capsys)
    assert status == 1
    assert message in err.splitlines()[-1]


def test_run_leaves_out_as_many_bad_rows_as_allowed(capsys, tmp_path):
    queries, facts = small_input(tmp_path)[1:4:2]
    Path(queries).write_text(Path(queries).read_text() + "{\n")
    config = tmp_path / "lamer.yaml"
    content = {"queries": {"path": [queries]}, "facts": {"path": [facts]}, "retrieve": {"method": "bm25"}}
    config.write_text(json.dumps(content))
    command = ["run", str(config), "--until", "retrieve", "--out", str(tmp_path / "run")]
    assert run_cli(*command, capsys=capsys)[0] == 1
    status, stdout, err = run_cli(*command, "--skip-bad", "1", capsys=capsys)
    assert status == 0, err
    assert "query rows left out: 1" in stdout


def test_a_corrected_file_needs_no_new_run_directory(capsys, tmp_path):
    arguments = small_input(tmp_path)
    good = (tmp_path / "queries.jsonl").read_text()
    (tmp_path / "queries.jsonl").write_text("{\n")
    assert run_cli("retrieve", *arguments, "--out", str(tmp_path / "run"), capsys=capsys)[0] == 1
    (tmp_path / "queries.jsonl").write_text(good)
    assert run_cli("retrieve", *arguments, "--out", str(tmp_path / "run"), capsys=capsys)[0] == 0


def test_diagnose_works_without_a_settings_file(capsys, tmp_path):
    out = tmp_path / "run"
    model = ["--model", str(checkpoint_path()), "--set", "diagnose.target=text"]
    status, stdout, err = run_cli("diagnose", *model, *small_input(tmp_path), "--out", str(out), capsys=capsys)
    assert status == 0, err
    assert "diagnose" in stdout
    status, stdout, _ = run_cli("show", str(out), "diagnoses", "--json", capsys=capsys)
    row = json.loads(stdout.splitlines()[0])
    assert row["query_id"] == "q1"
    assert list(row)[:3] == ["query_id", "fact_id", "candidates"]
    status, stdout, _ = run_cli("explain", str(out), "q1", "--json", capsys=capsys)
    explained = json.loads(stdout)
    assert status == 0
    assert explained["relative_entropy"] == pytest.approx(row["relative_entropy"], abs=1e-5)


def test_training_does_not_start_paying_the_teacher(capsys, tmp_path):
    out = tmp_path / "run"
    arguments = small_input(tmp_path)
    assert run_cli("retrieve", *arguments, "--out", str(out), capsys=capsys)[0] == 0
    status, _, err = run_cli("train", "--out", str(out), "--set", f"model.name={checkpoint_path()}", capsys=capsys)
    assert status == 2
    assert "train needs synthesize first, which asks the teacher: `lamer synthesize" in err


def test_a_missing_key_is_told_before_any_work(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = tmp_path / "lamer.yaml"
    config.write_text("model: {name: nothing}\n")
    status, _, err = run_cli("run", str(config), "--out", str(tmp_path / "run"), capsys=capsys)
    assert status == 1
    assert "OPENAI_API_KEY" in err


def test_a_model_without_deficiencies_ends_well_and_says_so(capsys, tmp_path):
    from lamer.testing import tiny_model

    tiny_model("llama", tmp_path / "model")
    samples = tmp_path / "test.jsonl"
    samples.write_text('{"question": "What is soft?", "options": ["wool", "a stone"], "answer": "A"}\n')
    arguments = small_input(tmp_path)
    config = tmp_path / "lamer.yaml"
    config.write_text(
        json.dumps(
            {
                "model": {"name": str(tmp_path / "model"), "device": "cpu"},
                "queries": {"path": [arguments[1]]},
                "facts": {"path": [arguments[3]]},
                "retrieve": {"method": "bm25"},
                "synthesize": {"teacher": {"base_url": "http://127.0.0.1:9/v1"}},
                "evaluate": {"path": [str(samples)], "max_new_tokens": 4},
            }
        )
    )
    status, stdout, err = run_cli("run", str(config), "--out", str(tmp_path / "run"), capsys=capsys)
    assert status == 0, err
    assert "no deficiency" in stdout
    assert "only the base model was evaluated" in stdout
    assert (tmp_path / "run" / "report.html").exists()


def test_a_full_disk_is_one_line(capsys, tmp_path, monkeypatch):
    import lamer.tables
    from lamer.errors import RunError

    def no_space(path, content):
        raise RunError(f"{path}: cannot write (No space left on device); free some space or choose another --out")

    monkeypatch.setattr(lamer.tables, "write_atomically", no_space)
    status, _, err = run_cli("retrieve", *small_input(tmp_path), "--out", str(tmp_path / "run"), capsys=capsys)
    assert status == 1
    assert err.splitlines()[-1].startswith("lamer: ")
    assert "No space left on device" in err


def test_ctrl_c_says_how_to_continue(capsys, tmp_path, monkeypatch):
    import lamer.knowledge.stage

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lamer.knowledge.stage, "retrieve", interrupted)
    status, _, err = run_cli("retrieve", *small_input(tmp_path), "--out", str(tmp_path / "run"), capsys=capsys)
    assert status == 130
    assert err == "lamer: stopped; the same command continues from here\n"


def test_score_gives_a_json_line_a_row_in_order(capsys, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"context": [{"role": "user", "content": "Question: x"}], "continuation": "The cow became ill."},
        {"context": "Once upon", "continuation": " a time"},
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, stdout, _ = run_cli("score", "--model", str(checkpoint_path()), str(pairs), capsys=capsys)
    scores = [json.loads(line) for line in stdout.splitlines()]
    assert status == 0
    assert [set(score) for score in scores] == [{"logprob", "num_tokens"}] * 2
    assert all(score["logprob"] < 0 and score["num_tokens"] > 0 for score in scores)


def test_score_names_the_line_of_a_bad_pair(capsys, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"context": "x", "continuation": "y"}\n{"context": "x"}\n')
    status, _, err = run_cli("score", "--model", str(checkpoint_path()), str(pairs), capsys=capsys)
    assert status == 1
    assert "line 2" in err.splitlines()[-1]


def test_show_prints_a_table_and_says_what_it_left_out(capsys, tmp_path):
    with Run.open(tmp_path / "run") as run:
        run.table("queries", Query).write(
            0, [Query(f"q{i}", "x\x1b[31m", ("a", "b"), None, "s") for i in range(5)]
        )
        run.write_manifest({})
    status, stdout, _ = run_cli("show", str(tmp_path / "run"), "queries", "--limit", "2", capsys=capsys)
    assert status == 0
    assert "q1" in stdout
    assert "q2" not in stdout
    assert "2 of 5 rows" in stdout
    assert "\x1b[31m" not in stdout, "control characters of untrusted text do not reach the terminal"


@pytest.mark.parametrize("columns", ["80", "250"])
def test_show_puts_many_fields_below_each_other_in_a_narrow_terminal(columns, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    row = Diagnosis("q1", "f1", ("a", "b"), "options", *((-0.5,),) * 4, (1, 1), 0.25, "easy", "flipped", None)
    with Run.open(tmp_path / "run") as run:
        run.table("diagnoses", Diagnosis).write(0, [row, replace(row, fact_id="f2")])
        run.write_manifest({})
    _, stdout, _ = run_cli("show", str(tmp_path / "run"), "diagnoses", capsys=capsys)
    lines = [line.split() for line in stdout.splitlines()]
    below = [["relative_entropy", "0.25"], ["tier", "easy"], ["fact_id", "f1"], ["fact_id", "f2"]]
    assert all((line in lines) == (columns == "80") for line in below)
    assert "relative_entropy" in stdout


def test_help_answers_without_heavy_imports():
    code = (
        "import sys; from lamer.cli import _main\n"
        "_main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'openai', 'pyarrow', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_stands_in_the_readme_and_shows_an_example():
    from lamer.cli import app

    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    commands = {command.name or command.callback.__name__: command for command in app.registered_commands}
    table = readme[readme.index("| command |") :]
    assert all(re.search(rf"`(lamer )?{name}`", table) for name in commands)
    assert all("Example: lamer" in (command.epilog or "") for command in commands.values())


def test_python_dash_m_lamer_is_the_same_command():
    got = subprocess.run([sys.executable, "-m", "lamer", "--version"], capture_output=True, text=True)
    assert (got.returncode, got.stdout.split()[0]) == (0, "lamer")
