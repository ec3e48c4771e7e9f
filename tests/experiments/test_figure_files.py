"""The figures' files: they open, texts from outside stay texts, and the numbers stand beside the pictures."""

from __future__ import annotations

import csv
import json
import random
import sys
from xml.etree import ElementTree

import pytest
from figure_experiment import TITLES, add_methods, add_predictions, add_story, benchmark_keys, example, make_run
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lamer.config import to_yaml
from lamer.errors import DataError, UsageError
from lamer.experiments.demo import demo_config
from lamer.experiments.figures import FIGURES, write_figure
from lamer.microworld import checkpoint_path
from lamer.records import Example

SVG = "{http://www.w3.org/2000/svg}"


def fill(out, *, models=("m $a$",), seeds=2, benchmarks=("alpha", "beta $x_", "gamma <i>"), names=tuple(TITLES)):
    keys = benchmark_keys(benchmarks)
    for model in models:
        for seed in range(seeds):
            run = make_run(out / model / f"seed-{seed}")
            add_story(run)
            add_methods(run, names)
            draws = random.Random(seed)
            base = {key: int(draws.random() < 0.5) for key in keys}
            answers = {name: {key: int(draws.random() < 0.6) for key in keys} for name in names}
            add_predictions(run, {**answers, "base": base})
            for name in set(names) & {"auggpt", "naive", "llm2llm"}:
                rows = [example(number, f"{name}|f{number}") for number in range(9)]
                run.table(f"methods/{name}/examples", Example).write(0, rows)
    return out


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def written(experiment):
    return {name: write_figure(name, experiment) for name in FIGURES}


def texts_of(svg):
    return [" ".join("".join(node.itertext()).split()) for node in ElementTree.parse(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_an_svg_a_png_and_numbers(experiment, written, name):
    assert [path.name for path in written[name][:3]] == [f"{name}.svg", f"{name}.png", f"{name}.json"]
    assert written[name][3].name == ("fig3.md" if name == "fig3" else f"{name}.csv")
    assert (experiment / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ElementTree.parse(experiment / f"{name}.svg").getroot().tag == f"{SVG}svg"
    assert texts_of(experiment / f"{name}.svg"), "text stays text"
    assert json.loads((experiment / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["fig3", "fig7"])
def test_the_same_numbers_give_the_same_bytes(experiment, written, name):
    before = {path: path.read_bytes() for path in written[name]}
    write_figure(name, experiment)
    assert {path: path.read_bytes() for path in written[name]} == before


def test_texts_from_outside_are_neither_mathematics_nor_markup(experiment, written):
    story = " ".join(texts_of(experiment / "fig3.svg"))
    assert "Query: Query cost $x_1$ & $y^{2$ <b>bold</b>" in story
    assert "\\frac | `code`" in story
    assert any("beta $x_" in text for text in texts_of(experiment / "fig5.svg"))
    assert any("gamma <i>" in text for text in texts_of(experiment / "fig4.svg"))
    assert any(text == "m $a$" for text in texts_of(experiment / "fig6.svg"))
    words = (experiment / "fig3.md").read_text()
    assert "\\$x\\_1\\$ \\& \\$y^\\{2\\$ \\<b\\>bold\\</b\\>" in words
    assert "\\|" in words
    assert "\x00" not in words


def test_the_numbers_of_the_story(experiment, written):
    story = json.loads((experiment / "fig3.json").read_text())
    assert story["P"] == pytest.approx([0.63, 0.37])
    assert story["Q"] == pytest.approx([0.15, 0.85])
    assert story["P after training"] == pytest.approx([0.2, 0.8])
    assert (story["tier"], story["repaired"], story["examples"]) == ("normal", True, ["q1|f1#0", "q1|f1#1"])


def test_figure_4_has_every_group_the_average_and_the_difference(experiment, written):
    rows = list(csv.DictReader((experiment / "fig4.csv").open()))
    groups = ["alpha", "beta $x_", "gamma <i>", "average"]
    assert [row["group"] for row in rows if row["method"] == "lamer"] == groups
    by = {(row["method"], row["group"]): float(row["score"]) for row in rows}
    for group in groups:
        assert by["lamer - llm2llm", group] == pytest.approx(by["lamer", group] - by["llm2llm", group], abs=1e-5)
    assert by["base", "average"] == pytest.approx(sum(by["base", g] for g in groups[:3]) / 3, abs=1e-5)


def test_figure_7_counts_one_share_for_each_space_and_says_what_it_embedded(experiment, written):
    found = json.loads((experiment / "fig7.json").read_text())["m $a$"]
    first, second = found["seed-0"], found["seed-1"]
    assert "NO SENTENCE ENCODER" in first["vectors"]
    assert any("NO SENTENCE ENCODER" in text for text in texts_of(experiment / "fig7.svg"))
    assert first["examples"] == {"auggpt": 9, "naive": 9, "llm2llm": 9, "lamer": 3}
    assert first["used"] == first["examples"]
    assert (first["drawn of each"], second["drawn of each"]) == (3, None)
    assert first["no difference"] == 0.25
    for shares in first["shares"].values():
        assert sum(value for value, _, _ in shares.values()) == pytest.approx(1.0)
    assert {key.split(",")[0] for key in first["shares"]} == {"embeddings", "t-SNE"}
    assert {key.split(",")[0] for key in second["shares"]} == {"embeddings"}, "only the first seed is drawn"


def test_two_benchmarks_are_bars_and_several_models_are_panels(tmp_path):
    out = fill(tmp_path, models=("a", "b", "c"), seeds=1, benchmarks=("alpha", "beta"))
    for name in ("fig4", "fig5"):
        write_figure(name, out)
        assert {"a", "b", "c"} <= set(texts_of(out / f"{name}.svg"))
    assert "share of the best method's" in texts_of(out / "fig5.svg")
    intervals = json.loads((out / "fig4.json").read_text())["a"]["scores"]["lamer"]
    assert all(low <= value <= high for value, low, high in intervals.values()), "one seed: over samples"


def test_what_is_missing_is_one_line(tmp_path):
    out = fill(tmp_path, names=("base", "naive"))
    for name, missing in (("fig4", "llm2llm, lamer"), ("fig6", "helpful, misleading")):
        with pytest.raises(DataError, match=f"no answers of {missing}") as caught:
            write_figure(name, out)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="fig7 compares the examples of methods; naive has some"):
        write_figure("fig7", out)
    with pytest.raises(UsageError, match="did you mean 'fig3'"):
        write_figure("fig33", out)


@pytest.mark.parametrize("package", ["matplotlib", "sklearn"])
def test_a_missing_extra_is_named_with_the_way_to_install_it(experiment, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"{package}: pip install 'lamer\[figures\]'"):
        write_figure("fig4", experiment)


def test_the_trained_model_is_asked_once_where_a_run_holds_no_stories(tmp_path):
    """A real model with a fresh adapter, which changes nothing yet."""
    run = make_run(tmp_path / "m" / "seed-0")
    add_story(run, after=None, odd="of the stone")
    (run.path / "lamer.yaml").write_text(to_yaml(demo_config(tmp_path, checkpoint_path(), "http://localhost")))
    adapter = run.path / "methods" / "lamer" / "adapter"
    model = AutoModelForCausalLM.from_pretrained(checkpoint_path())
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(adapter)
    write_figure("fig3", tmp_path)
    stories = [json.loads(line) for line in (run.path / "stories.jsonl").read_text().splitlines()]
    assert [(row["method"], row["query_id"]) for row in stories] == [("lamer", "q1"), ("lamer", "q2")]
    found = json.loads((tmp_path / "fig3.json").read_text())
    assert found["text after training"] == stories[0]["text"]
    assert sum(found["P after training"]) == pytest.approx(1.0)
    adapter.rename(tmp_path / "gone")
    before = (tmp_path / "fig3.svg").read_bytes()
    write_figure("fig3", tmp_path)
    assert (tmp_path / "fig3.svg").read_bytes() == before, "read from stories.jsonl, without the adapter"
