"""Tables 2 and 4 of experiments whose answers are written by hand."""

from __future__ import annotations

import csv
import json
import re
import string

import pytest
from hand_made import predictions, write_seed
from hypothesis import given
from hypothesis import strategies as st

from lamer.errors import DataError
from lamer.evaluation.statistics import mcnemar
from lamer.experiments.grids import Grid, latex_text, markdown_text, to_csv, to_latex, to_markdown
from lamer.experiments.results import seed_runs
from lamer.experiments.scores import AVERAGE, pool, read_scores
from lamer.experiments.table_files import write
from lamer.experiments.tables import pairs_of, table2, table4
from lamer.microworld.world import World

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.2"
SEVEN = ("comm", "agieval", "arc", "mmlu", "bbh", "crass", "gsm_plus")


def sheet(two_tasks: str, other: str, crass: str):
    first, second = two_tasks.split()
    return {
        ("arc", "easy"): first,
        ("arc", "challenge"): second,
        ("mmlu", "law"): other,
        ("crass", "crass"): crass,
    }


@pytest.fixture
def experiment(tmp_path):
    """Two seeds of Base, LaMer and LaMer* on three benchmarks."""
    base = sheet("1100 10", "0x00", "1")
    by_seed = (
        {"base": base, "lamer": sheet("1110 11", "1100", "0"), "lamer-shuffled": sheet("1100 11", "1000", "0")},
        {"base": base, "lamer": sheet("1100 11", "1100", "1"), "lamer-shuffled": sheet("0000 11", "1x00", "1")},
    )
    for seed, methods in enumerate(by_seed):
        write_seed(
            tmp_path, "tiny_model", seed, {name: predictions(name, given) for name, given in methods.items()},
            titles={"base": "Base", "lamer": "LaMer", "lamer-shuffled": "LaMer*"},
            notes={"lamer": ["2 of 100 examples missing"]} if seed else None,
        )  # fmt: skip
    return tmp_path


def test_cells_are_the_accuracies_worked_by_hand(experiment):
    [model] = read_scores(seed_runs(experiment))
    assert model.num_samples == {"arc": 6, "mmlu": 4, "crass": 1, AVERAGE: 11}
    base, lamer = model.methods["base"], model.methods["lamer"]
    # arc: mean over easy 2/4 and challenge 1/2; mmlu 0; crass 1
    assert {k: v.values for k, v in base.columns.items()} == {
        "arc": (0.5, 0.5), "mmlu": (0.0, 0.0), "crass": (1.0, 1.0), AVERAGE: (0.5, 0.5),
    }  # fmt: skip
    assert lamer.columns["arc"].values == (0.875, 0.75)
    assert lamer.columns[AVERAGE].values == pytest.approx(((0.875 + 0.5 + 0) / 3, (0.75 + 0.5 + 1) / 3))
    assert lamer.columns["arc"].mean == pytest.approx(0.8125)
    assert lamer.columns["arc"].deviation == pytest.approx(0.0625 * 2**0.5)
    # micro weighs samples: 4 of 11; one reply of mmlu's four has no answer: mean parse rate (1 + 3/4 + 1) / 3
    assert base.micro.values == pytest.approx((4 / 11, 4 / 11))
    assert base.parse_rate.mean == pytest.approx((1 + 0.75 + 1) / 3)
    assert base.loglikelihood.mean == 1.0
    assert (lamer.examples.values, lamer.steps.values) == ((100.0, 100.0), (3.0, 4.0))
    assert lamer.notes == ("seed 1: 2 of 100 examples missing",)


def test_differences_agree_with_the_cells_and_with_counts_by_hand(experiment):
    [model] = read_scores(seed_runs(experiment))
    pair = model.pair("lamer", "base")
    for name, found in pair.columns.items():
        cells = [model.methods[method].columns[name].mean for method in ("lamer", "base")]
        assert found.difference == pytest.approx(cells[0] - cells[1])
    everything = pair.columns[AVERAGE]
    # seed 0: +easy3 +challenge2 +law1 +law2 -crass; seed 1: +challenge2 +law1 +law2
    assert (everything.remedied, everything.broken) == (3.5, 0.5)
    assert everything.p_value == mcnemar(4, 1)
    assert everything.p_by_seed == (mcnemar(4, 1), mcnemar(3, 0))
    # three columns: mmlu .5, arc .5, crass 1.0; Holm's least is 3 times the least
    assert pair.adjusted == {"arc": 1.0, "mmlu": 1.0, "crass": 1.0}
    assert not pair.is_called(AVERAGE)


def test_files_say_the_same_numbers(experiment):
    [model] = models = read_scores(seed_runs(experiment))
    table = table2(models)
    files = {path.name: path for path in write(experiment, table)}
    assert list(files) == ["table2.md", "table2.tex", "table2.csv", "table2-differences.csv", "table2.json"]
    rows = {row["method"]: row for row in csv.DictReader(files["table2.csv"].open())}
    figures = {row["method"]: row for row in json.loads(files["table2.json"].read_text())["models"][0]["methods"]}
    for name, method in model.methods.items():
        for column, figure in method.columns.items():
            assert float(rows[name][column]) == figure.mean
            assert figures[name]["accuracy"][column] == list(figure.values)
        assert rows[name]["steps_high"] == str(max(method.steps.values))
    told = list(csv.DictReader(files["table2-differences.csv"].open()))
    found = {(row["method"], row["reference"], row["column"]): row for row in told}
    pair = model.pair("lamer", "lamer-shuffled")
    assert float(found["lamer", "lamer-shuffled", "arc"]["low"]) == pair.columns["arc"].low
    assert {(row["method"], row["reference"]) for row in told} == {
        ("lamer", "base"), ("lamer-shuffled", "base"), ("lamer", "lamer-shuffled"),
    }  # fmt: skip
    text = files["table2.md"].read_text()
    assert "| LaMer | 81.25 ± 8.84 | 50.00 ± 0.00 | 50.00 ± 70.71 | 60.42 ± 20.62 |" in text
    assert "2 seeds, fewer than 3: no difference is called one" in text
    assert "- LaMer: seed 1: 2 of 100 examples missing" in text
    assert r"tiny\_model" in files["table2.tex"].read_text()
    assert "paper" not in text.lower()


def test_table_4_shows_the_two_orders_alone(experiment):
    table = table4(read_scores(seed_runs(experiment)))
    assert table.methods == ("lamer", "lamer-shuffled")
    [pair] = table.pairs["tiny_model"]
    assert pair.columns["arc"].by_seed == pytest.approx((0.125, 0.25))
    write(experiment, table)
    assert "Base" not in (experiment / "table4.md").read_text()


def test_one_seed_says_what_it_cannot_tell(tmp_path):
    rows = {"base": predictions("base", {("b", "t"): "0000"}), "lamer": predictions("lamer", {("b", "t"): "1111"})}
    write_seed(tmp_path, "m", 0, rows)
    write(tmp_path, table2(read_scores(seed_runs(tmp_path))))
    text = (tmp_path / "table2.md").read_text()
    assert "intervals say nothing of other seeds" in text
    assert "| Lamer | 100.00 | 100.00 |" in text
    with pytest.raises(DataError, match="no model has both lamer and lamer-shuffled"):
        table4(read_scores(seed_runs(tmp_path)))


@pytest.mark.parametrize(
    ("hub_id", "evaluation", "stands"),
    [(MISTRAL, {}, True), (MISTRAL, {"limit": 5}, False), (MISTRAL, {"data": "own"}, False), ("a/b", {}, False)],
)
def test_the_papers_figures_stand_beside_the_same_model_and_data_alone(tmp_path, hub_id, evaluation, stands):
    answers = {(name, name): "10" for name in SEVEN}
    methods = {name: predictions(name, answers) for name in ("base", "llm2llm", "lamer")}
    settings = {"evaluate": evaluation}
    write_seed(tmp_path, "Mistral", 0, methods, hub_id=hub_id, settings=settings)
    write(tmp_path, table2(read_scores(seed_runs(tmp_path))))
    text = (tmp_path / "table2.md").read_text()
    row = "| Llm2Llm (paper) | 74.59 | 34.44 | 78.66 | 55.03 | 34.58 | 83.33 | 16.33 | 53.85 |"
    assert (row in text) is stands
    assert ("prints 54.00 as the average of llm2llm; its scores give 53.85" in text) is stands
    [*_, lamer] = csv.DictReader((tmp_path / "table2.csv").open())
    assert lamer.get("paper_crass_percent") == ("88.33" if stands else None)


def test_on_the_embedded_world_columns_are_knowledge_states(tmp_path):
    world = World.build(3, wrong=0.05, kinds_per_category=20, strangers_per_category=2)
    world.write(tmp_path / "embedded" / "world")
    samples = [json.loads(line) for line in (tmp_path / "embedded" / "world" / "evaluation.jsonl").open()]
    right = {"base": {"known"}, "lamer": {"known", "weak", "absent"}}

    def rows(method):
        answers = {("microworld", "t"): "".join("01"[world.state_of(s["id"]) in right[method]] for s in samples)}
        made = predictions(method, answers)
        fields = {name: [getattr(row, name) for row in made] for name in ("correct", "answer")}
        from dataclasses import replace

        return [
            replace(row, sample_id=s["id"], task=s["task"], correct=c, answer=a)
            for row, s, c, a in zip(made, samples, fields["correct"], fields["answer"])
        ]

    for seed in range(3):
        write_seed(tmp_path, "embedded", seed, {name: rows(name) for name in right})
    [model] = read_scores(seed_runs(tmp_path))
    assert list(model.num_samples) == ["all", "known", "weak", "absent", "wrong"]
    states = [fact.state for fact in world.facts]
    assert model.num_samples == {"all": len(samples)} | {
        state: 2 * states.count(state) for state in ("known", "weak", "absent", "wrong")
    }
    lamer = {name: figure.mean for name, figure in model.methods["lamer"].columns.items()}
    assert lamer["known"] == lamer["absent"] == 1.0
    assert lamer["wrong"] == 0.0
    assert lamer["all"] == pytest.approx(1 - states.count("wrong") / len(states))
    pair = model.pair("lamer", "base")
    assert pair.columns["all"].difference == pytest.approx(
        (states.count("weak") + states.count("absent")) / len(states)
    )
    assert pair.is_called("absent")
    assert not pair.is_called("known")
    write(tmp_path, table2([model]))
    assert re.search(
        r"\| Method \| all \| known \| weak \| absent \| wrong \|", (tmp_path / "table2.md").read_text()
    )
    assert "†" in (tmp_path / "table2.md").read_text()


def test_several_models_get_their_rows_and_a_mean_over_models(tmp_path):
    for model, signs in (("a-model", "1100"), ("b-model", "1000")):
        methods = {
            "base": predictions("base", {("x", "t"): "0000"}),
            "lamer": predictions("lamer", {("x", "t"): signs}),
        }
        write_seed(tmp_path, model, 0, methods)
    table = table2(read_scores(seed_runs(tmp_path)))
    assert table.pairs["all models"][0].columns[AVERAGE].difference == pytest.approx(0.375)
    write(tmp_path, table)
    assert [row["model"] for row in csv.DictReader((tmp_path / "table2.csv").open())] == ["a-model"] * 2 + [
        "b-model"
    ] * 2
    assert "## all models" in (tmp_path / "table2.md").read_text()


@pytest.mark.parametrize(("num_seeds", "is_called"), [(1, False), (2, False), (3, True)])
def test_models_of_few_seeds_together_call_nothing(tmp_path, num_seeds, is_called):
    """Three models with one seed each say as little of other seeds as one of them."""
    for model in ("a", "b", "c"):
        for seed in range(num_seeds):
            rows = {
                name: predictions(name, {("b", "t"): sign * 12}) for name, sign in (("base", "0"), ("lamer", "1"))
            }
            write_seed(tmp_path, model, seed, rows)
    found = pool(read_scores(seed_runs(tmp_path)), "lamer", "base")
    assert found.columns[AVERAGE].num_seeds == 3 * num_seeds
    assert found.is_called(AVERAGE) is is_called


def test_a_method_without_some_seed_is_compared_on_those_it_has(tmp_path):
    base, lamer = predictions("base", {("x", "t"): "00"}), predictions("lamer", {("x", "t"): "10"})
    write_seed(tmp_path, "m", 0, {"base": base, "lamer": lamer})
    write_seed(tmp_path, "m", 1, {"base": base})
    [model] = read_scores(seed_runs(tmp_path))
    assert model.methods["lamer"].seeds == (0,)
    assert model.pair("lamer", "base").columns[AVERAGE].num_seeds == 1
    write(tmp_path, table2([model]))
    assert "Lamer: seeds 0 only" in (tmp_path / "table2.md").read_text()


def test_items_that_training_data_repeat_are_stated_and_left_out_beside(tmp_path):
    answers = {"base": {("x", "t"): "0011", ("y", "t"): "01"}, "lamer": {("x", "t"): "1111", ("y", "t"): "01"}}
    run = write_seed(tmp_path, "m", 0, {name: predictions(name, given) for name, given in answers.items()})
    write(tmp_path, table2(read_scores(seed_runs(tmp_path))))
    assert "was not looked for" in (tmp_path / "table2.md").read_text()
    overlap = {"examples": 9, "repeating": 1, "benchmarks": {"x": ["x-t-0", "x-t-1"], "y": []}}
    (run.path / "overlap.json").write_text(json.dumps(overlap))
    [model] = read_scores(seed_runs(tmp_path))
    # x without its first two items: 1.0 for both methods; y: 1/2
    assert model.methods["base"].without_overlap.values == (0.75,)
    assert model.methods["lamer"].without_overlap.values == (0.75,)
    write(tmp_path, table2([model]))
    text = (tmp_path / "table2.md").read_text()
    assert "Of 6 items these overlap with training data (of the seed with the most): x 2." in text
    assert "| without overlap |" in text
    (run.path / "overlap.json").write_text(json.dumps(overlap | {"benchmarks": {"x": [], "y": []}}))
    write(tmp_path, table2(read_scores(seed_runs(tmp_path))))
    text = (tmp_path / "table2.md").read_text()
    assert "None of the 6 items overlaps with training data." in text
    assert "without overlap" not in text


def test_other_samples_are_refused(tmp_path):
    methods = {"base": predictions("base", {("x", "t"): "00"}), "lamer": predictions("lamer", {("x", "t"): "100"})}
    write_seed(tmp_path, "m", 0, methods)
    with pytest.raises(DataError, match="m: lamer of seed 0 answered other samples"):
        read_scores(seed_runs(tmp_path))


def test_pairs_are_told_from_the_methods_there():
    names = ("base", "naive", "lamer", "default", "lamer-x", "default-x")
    assert pairs_of(names) == [
        ("naive", "base"), ("lamer", "base"), ("default", "base"), ("lamer-x", "base"), ("default-x", "base"),
        ("lamer", "naive"), ("lamer", "lamer-x"),
        ("default", "naive"), ("default", "lamer"), ("default", "default-x"),
    ]  # fmt: skip
    assert pairs_of(("naive", "lamer-shuffled")) == []


def test_latex_of_hostile_names_is_escaped_and_balanced():
    names = (r"a_b & 50% \input{x}", "#1 {~^} $x$ <|>", "line\nend\x1b[31m")
    text = to_latex(Grid(names[0], ("Method", "x_1"), tuple((name, "1.0 ± 0.1†") for name in names)), "t")
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    bare = text.replace("\\\\", "").replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert re.findall(r"(?<!\\)[%#]", text) == []
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in body] == [1, 1, 1]
    assert r"\input" not in text.replace(r"\textbackslash{}input", "")
    assert "\x1b" not in text


@given(st.text(alphabet=string.printable + "±†é", max_size=30))
def test_escaped_text_keeps_one_line_and_no_active_characters(text):
    latex = latex_text(text)
    assert "\n" not in latex
    stripped = re.sub(r"\\[{}&%$#_]|\\text[a-z]+\{\}|\$\\pm\$|\$-\$|\$\^\{\\dagger\}\$", "", latex)
    assert not set(stripped) & set("\\{}&%$#_~^")
    assert re.sub(r"\\(.)", r"\1", markdown_text(text)) == "".join(c if c.isprintable() else " " for c in text)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_csv_reads_back_as_the_same_numbers(values):
    rows = [{"name": 'a,"b"\n', "value": value, "none": None} for value in values]
    found = list(csv.DictReader(to_csv(rows).splitlines(keepends=True)))
    assert [float(row["value"]) for row in found] == values
    assert {(row["name"], row["none"]) for row in found} == {('a,"b"\n', "")}


def test_markdown_rows_have_the_cells_of_the_head():
    text = to_markdown(Grid("c", ("a", "b"), (("x|y", "1"), ("z", "2"))))
    assert text.splitlines()[2:] == ["| a | b |", "|---|--:|", r"| x\|y | 1 |", "| z | 2 |"]
