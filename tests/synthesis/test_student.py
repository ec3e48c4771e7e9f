from __future__ import annotations

import json

import pytest

import tiny_models
from lamer.config import DiagnoseSettings, PromptSettings, load_config
from lamer.errors import RunError
from lamer.records import Diagnosis
from lamer.run import Run
from lamer.scoring.remote import RemoteScorer
from lamer.scoring.render import Renderer
from lamer.scoring.scorer import Scorer
from lamer.synthesis.checks import Kept
from lamer.synthesis.student import NOT_EASIER, NOT_READ, StudentCheck, open_student
from lamer.synthesis.verify import Case
from lamer.testing import ScoringServer, tiny_model

torch = pytest.importorskip("torch")

FACTS = ("Copper conducts heat.", "Wool keeps people warm.", "Glass melts in an oven.", "Paris is in France.")
OPTIONS = ("it froze", "it melted", "it became hot")


def cases(count: int = 8) -> list[Case]:
    return [
        Case(FACTS[i % 4], Kept(f"She put the spoon {i} in the soup. What happened?", OPTIONS, i % 3, "x"))
        for i in range(count)
    ]


def tools(limit: int = 512):
    loaded = tiny_models.loaded("llama", "llama3", limit)
    return Scorer(loaded), Renderer(loaded.tokenizer, PromptSettings())


def by_transformers(case: Case, *, with_fact: bool) -> list[float]:
    """log P of each option's letter, normalised over the letters, from the model's own forward pass."""
    loaded = tiny_models.loaded("llama", "llama3")
    words = loaded.tokenizer
    listed = " ".join(f"({letter}) {option}" for letter, option in zip("ABC", case.example.options))
    prompt = f"Question: {case.example.question}\nOptions: {listed}"
    if with_fact:
        prompt = f"Fact: {case.fact}\n{prompt}"
    ids = words.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    letters = [words(letter, add_special_tokens=False)["input_ids"] for letter in "ABC"]
    assert all(len(letter) == 1 for letter in letters)
    with torch.no_grad():
        logits = loaded.model(input_ids=ids).logits[0, -1].float()
    return torch.log_softmax(logits[[letter[0] for letter in letters]], dim=0).tolist()


def test_gain_and_relative_entropy_are_those_of_the_models_own_forward_pass():
    check = StudentCheck(tools, DiagnoseSettings())
    found = check.reasons(cases())
    expected_gains, expected_entropies = [], []
    for case, measured, reason in zip(cases(), check.measure(cases()), found):
        log_p, log_q = (by_transformers(case, with_fact=with_fact) for with_fact in (False, True))
        assert measured.log_prior == pytest.approx(log_p, abs=1e-4)
        assert measured.log_posterior == pytest.approx(log_q, abs=1e-4)
        gain = log_q[case.example.answer] - log_p[case.example.answer]
        assert measured.gain(case.example.answer) == pytest.approx(gain, abs=1e-4)
        assert reason == (None if gain > 0 else NOT_EASIER)
        expected_gains.append(gain)
        p, q = torch.tensor(log_p), torch.tensor(log_q)
        expected_entropies.append(float((p.exp() * (p - q)).sum()))
    assert {None, NOT_EASIER} == set(found)
    counts = check.counts()
    assert counts["scored"] == 8
    assert counts["gain_nats"]["mean"] == pytest.approx(sum(expected_gains) / 8, abs=1e-4)
    assert counts["relative_entropy_nats"]["mean"] == pytest.approx(sum(expected_entropies) / 8, abs=1e-4)
    middle = sorted(expected_gains)[3:5]
    assert counts["gain_nats"]["median"] == pytest.approx(sum(middle) / 2, abs=1e-4)


def test_the_prompts_and_the_target_are_those_of_the_diagnosis():
    settings = DiagnoseSettings(target="text", normalization="sum", show_options=False)
    scorer, renderer = tools()
    check = StudentCheck(lambda: (scorer, renderer), settings)
    measured = check.measure(cases(1))[0]
    loaded = scorer.loaded
    context = renderer.context_ids(f"Fact: {FACTS[0]}\nQuestion: {cases(1)[0].example.question}")
    sums = []
    for option in OPTIONS:
        words = renderer.continuation_ids(option)
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([context + words])).logits[0].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        sums.append(sum(float(logprobs[len(context) - 1 + i, word]) for i, word in enumerate(words)))
    expected = torch.log_softmax(torch.tensor(sums), dim=0).tolist()
    assert measured.log_posterior == pytest.approx(expected, abs=1e-4)


def test_nothing_is_loaded_before_there_is_something_to_score():
    def never():
        raise AssertionError("loaded")

    check = StudentCheck(never, DiagnoseSettings())
    assert check.reasons([]) == []
    assert check.counts()["gain_nats"] == {"mean": None, "median": None}


def test_an_example_beyond_the_models_context_is_not_kept():
    long = Case(FACTS[0], Kept("spoon " * 400, OPTIONS, 0, "x"))
    check = StudentCheck(lambda: tools(256), DiagnoseSettings())
    assert check.reasons([long])[0] == NOT_READ


def test_a_second_start_measures_nothing_again_and_says_the_same(tmp_path):
    file = tmp_path / "_student.json"
    first = StudentCheck(tools, DiagnoseSettings(shard_size=3), file)
    found = first.reasons(cases())
    opened = []

    def reopen():
        opened.append(True)
        return tools()

    second = StudentCheck(reopen, DiagnoseSettings(), file)
    assert second.reasons(cases()) == found
    assert opened == []
    assert second.counts() == first.counts() | {"scored": 0}
    assert second.measure(cases()) == first.measure(cases())
    assert second.reasons(cases(9))[:8] == found
    assert second.counts()["scored"] == 1


def test_the_same_question_on_another_fact_is_measured_anew():
    check = StudentCheck(tools, DiagnoseSettings())
    one, other = cases(1)[0], Case(FACTS[1], cases(1)[0].example)
    first, second = check.measure([one, other])
    assert first.log_prior == pytest.approx(second.log_prior, abs=1e-4)
    assert first.log_posterior != pytest.approx(second.log_posterior, abs=1e-4)


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"a": {"log_prior": [0.0]}}'])
def test_a_broken_file_is_named(tmp_path, content):
    file = tmp_path / "_student.json"
    file.write_text(content)
    with pytest.raises(RunError, match=r"_student\.json: cannot be read .*delete it"):
        StudentCheck(tools, DiagnoseSettings(), file)


def test_a_served_model_is_the_student_as_well(tmp_path):
    folder = tmp_path / "model"
    model, words = tiny_model("llama", folder)
    expected = StudentCheck(
        lambda: (Scorer(_loaded(model, words)), Renderer(words, PromptSettings())), DiagnoseSettings()
    ).measure(cases(3))
    with ScoringServer(model, words) as server, Run.open(tmp_path / "run") as run:
        config = load_config({"model": {"name": str(folder), "server": {"base_url": server.base_url}}})
        scorer, renderer = open_student(run, config)
        assert isinstance(scorer, RemoteScorer)
        found = StudentCheck(lambda: (scorer, renderer), config.diagnose).measure(cases(3))
    for one, other in zip(found, expected):
        assert one.log_prior == pytest.approx(other.log_prior, abs=1e-4)
        assert one.log_posterior == pytest.approx(other.log_posterior, abs=1e-4)


def test_another_served_model_than_the_diagnosed_one_is_refused(tmp_path):
    folder = tmp_path / "model"
    model, words = tiny_model("llama", folder)
    with ScoringServer(model, words) as server, Run.open(tmp_path / "run") as run:
        notes = run.table("diagnoses", Diagnosis).folder
        notes.mkdir(parents=True)
        (notes / "_server.json").write_text(json.dumps({"model": "another", "probe_logprobs": []}))
        config = load_config({"model": {"name": str(folder), "server": {"base_url": server.base_url}}})
        with pytest.raises(RunError, match="was begun with model another"):
            open_student(run, config)


def _loaded(model, words):
    from lamer.scoring.model import LoadedModel

    return LoadedModel(model, words, torch.device("cpu"))
