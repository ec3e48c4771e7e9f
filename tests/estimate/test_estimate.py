from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from lamer.cli import _main
from lamer.config import Config, load_config
from lamer.estimate import Estimate, estimate, show
from lamer.estimate.calls import again
from lamer.estimate.known import EXAMPLE_TOKENS
from lamer.knowledge.corpus import load_facts
from lamer.microworld import MicroworldTeacher, World, checkpoint_path
from lamer.queries import load_queries
from lamer.records import Deficiency, Fact, Match, Query
from lamer.run import Run, StageEntry
from lamer.synthesis.stage import open_ledger, synthesize
from lamer.teacher import tokens
from lamer.teacher.tokens import TokenCounter, approximate, encoding_file, token_counter
from lamer.testing import TeacherServer

TIERS = ("below", "easy", "normal", "hard", "unfair")


def count_words(text: str) -> int:
    return len(text.split())


WORDS = TokenCounter("words", True, count_words, lambda messages: sum(count_words(m["content"]) for m in messages))
"""As the test server counts."""


@pytest.fixture(scope="module")
def world() -> World:
    return World.build(5)


def settings_of(world: World, folder: Path, base_url: str | None, **synthesize_settings: object) -> Config:
    world.write(folder / "world")
    teacher = {"model": "m", "base_url": base_url} | dict(synthesize_settings.pop("teacher", {}))
    return load_config(
        {
            "model": {"name": str(checkpoint_path())},
            "queries": {"path": [str(folder / "world" / "queries.jsonl")]},
            "facts": {"path": [str(folder / "world" / "facts.tsv")]},
            "synthesize": {"teacher": teacher, **synthesize_settings},
        },
        preset="demo",
    )


def fill(run: Run, config: Config, count: int) -> None:
    """The tables of a run that has selected `count` deficiencies of the world."""
    queries = list(load_queries(config.queries))
    facts = list(load_facts(config.facts)[0])
    units = []
    for number, (query, fact) in enumerate(zip(queries[:count], facts)):
        tier = TIERS[number % 5]
        units.append(Deficiency(f"{query.id}|{fact.id}", query.id, fact.id, 0.5, tier, max(number % 5, 1)))
    run.table("queries", Query).write(0, queries)
    run.table("facts", Fact).write(0, facts)
    run.table("matches", Match).write(0, [Match(unit.query_id, unit.fact_id, 0, 1.0) for unit in units])
    run.table("deficiencies", Deficiency).write(0, units)
    run.write_manifest({name: StageEntry("complete", {}) for name in ("retrieve", "diagnose", "select")})


def sums(found: Estimate, *purposes: str) -> tuple[float, float, float]:
    lines = [line for line in found.lines if line.purpose in purposes]
    return (
        sum(line.calls for line in lines),
        sum(line.prompt_tokens for line in lines),
        sum(line.completion_tokens for line in lines),
    )


def test_the_estimate_of_a_diagnosed_run_is_what_the_ledger_then_holds(tmp_path, world):
    teacher = MicroworldTeacher(world, seed=3)
    with Run.open(tmp_path / "run") as run, TeacherServer(teacher.reply) as server:
        config = settings_of(world, tmp_path, server.base_url)
        fill(run, config, 200)
        before = estimate(config, run, counter=WORDS, rejection_rate=teacher.error_rate)
        rough = estimate(config, run, counter=approximate(), rejection_rate=teacher.error_rate)
        assert server.num_requests == 0
        assert before.is_diagnosed
        synthesize(run, config)
        with open_ledger(run) as ledger:
            totals = ledger.totals("examples")
        asked = ("examples", "examples again")
        assert sums(before, "examples")[0] == 200  # one request for each deficiency
        assert sums(before, *asked)[0] == pytest.approx(totals.answered, rel=0.05)
        assert sums(before, *asked)[1] == pytest.approx(totals.prompt_tokens, rel=0.05)
        assert sums(rough, *asked)[1] == pytest.approx(
            1.5 * totals.prompt_tokens, rel=0.2
        )  # a word is 6 characters


def test_first_requests_are_counted_word_for_word(tmp_path, world):
    with Run.open(tmp_path / "run") as run, TeacherServer(MicroworldTeacher(world).reply) as server:
        config = settings_of(world, tmp_path, server.base_url, max_tries=1)
        fill(run, config, 60)
        before = estimate(config, run, counter=WORDS)
        synthesize(run, config)
        with open_ledger(run) as ledger:
            totals = ledger.totals()
        assert sums(before, "examples")[0] == 60
        assert sums(before, "examples", "format")[:2] == (
            61,
            pytest.approx(totals.prompt_tokens, abs=5),
        )  # rounded
        assert [line.purpose for line in before.lines].count("examples again") == 0
        assert {line.tier: line.calls for line in before.lines if line.purpose == "examples"} == dict.fromkeys(
            TIERS, 12
        )


def test_what_the_ledger_holds_costs_nothing(tmp_path, world):
    with Run.open(tmp_path / "run") as run, TeacherServer(MicroworldTeacher(world).reply) as server:
        config = settings_of(
            world, tmp_path, server.base_url, max_tries=1, teacher={"max_calls": 25, "format": "text"}
        )
        fill(run, config, 60)
        synthesize(run, config)
        found = estimate(config, run, counter=WORDS)
        assert found.total("from_ledger") == 25 == server.num_replies
        assert sums(found, "examples")[0] == 35
        assert any("measured on" in text for text in found.basis)
        rest = config.model_copy(
            update={
                "synthesize": config.synthesize.model_copy(
                    update={"teacher": config.synthesize.teacher.model_copy(update={"max_calls": None})}
                )
            }
        )
        synthesize(run, rest)
        assert server.num_replies == 60
        assert sums(estimate(rest, run, counter=WORDS), "examples")[0] == 0


def test_later_rounds_cost_what_the_first_does_and_stay_when_it_is_paid(tmp_path, world):
    with Run.open(tmp_path / "run") as run, TeacherServer(MicroworldTeacher(world).reply) as server:
        config = settings_of(world, tmp_path, server.base_url, teacher={"format": "text"})
        fill(run, config, 60)
        three = config.model_copy(update={"rounds": 3})
        first, before = estimate(config, run, counter=WORDS), estimate(three, run, counter=WORDS)
        asked, later = ("examples", "examples again"), ("examples, later rounds", "examples again, later rounds")
        assert sums(before, *asked) == sums(first, *asked)
        assert sums(before, *later) == pytest.approx([2 * value for value in sums(first, *asked)])
        assert before.total("max_calls") - first.total("max_calls") == 2 * sum(
            line.max_calls for line in first.lines if line.purpose in asked
        )
        assert any(
            "later rounds: 2, each with as many deficiencies as the first, assumed" in t for t in before.basis
        )
        trained = {
            name: work.tokens
            for name, found in (("one", first), ("three", before))
            for work in found.compute.work
            if work.purpose == "train"
        }
        assert trained["three"] == pytest.approx((1 + 2 + 3) * trained["one"], rel=0.01)  # all examples so far
        counts = synthesize(run, config).counts
        run.write_manifest({**run.manifest(), "synthesize": StageEntry("complete", {}, counts=counts)})
        rest, done = estimate(three, run, counter=WORDS), estimate(config, run, counter=WORDS)
        assert sums(done, *asked, *later)[0] == sums(rest, *asked)[0] == 0
        assert sums(rest, *later)[0] > 2 * 60
        assert any("the examples of this run are written" in note for note in done.notes)
        (train,) = (work for work in done.compute.work if work.purpose == "train")
        assert train.tokens == trained["one"], "training is still to be done"


def test_an_estimate_writes_nothing_into_the_run(tmp_path, world):
    with Run.open(tmp_path / "run") as run:
        config = settings_of(world, tmp_path, "http://localhost:1/v1")
        fill(run, config, 20)
        before = sorted(path.relative_to(run.path) for path in run.path.rglob("*"))
        estimate(config, run)
        assert sorted(path.relative_to(run.path) for path in run.path.rglob("*")) == before


def queries_file(folder: Path, count: int) -> str:
    path = folder / "queries.jsonl"
    rows = ({"question": f"Someone put object {i} down. Why?", "options": ["a b", "c d"]} for i in range(count))
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def paper(folder: Path, **teacher: object) -> Config:
    return load_config(
        {"model": {"name": "no/such-model"}, "queries": {"path": [queries_file(folder, 2000)]}}
        | {"synthesize": {"teacher": {"model": "gpt-4o-mini", **teacher}}},
        preset="paper",
    )


def test_before_a_diagnosis_the_paper_preset_costs_at_most_its_3750_examples(tmp_path):
    found = estimate(paper(tmp_path), rejection_rate=0.0, counter=WORDS)
    assert not found.is_diagnosed
    assert {line.tier: line.calls for line in found.lines if line.tier and line.calls} == dict.fromkeys(
        TIERS[1:], 375
    )
    calls, prompt, reply = sums(found, "examples")
    assert (calls, reply) == (1500, 3750 * EXAMPLE_TOKENS)
    assert found.total("cost") == pytest.approx((prompt * 0.15 + reply * 0.6) / 1e6, rel=1e-3)
    assert found.total("max_cost") == pytest.approx((prompt * 4 * 0.15 + 6000 * 2048 * 0.6) / 1e6, rel=1e-3)
    assert found.total("cost") < found.total("max_cost")
    batch = estimate(paper(tmp_path, mode="batch"), rejection_rate=0.0, counter=WORDS)
    assert batch.total("cost") == pytest.approx(found.total("cost") / 2)
    assert found.diagnosis is not None
    assert (found.diagnosis.pairs, found.diagnosis.prompts) == (2000 * 5, 2000 * 6)  # 4 facts and 1 placebo each
    assert found.diagnosis.scores == 2000 * 6 * 2
    assert (found.diagnosis.tokens, found.diagnosis.weights_gib) == (None, None)
    assert any("tokens of the diagnosis are not known" in note for note in found.notes)
    assert any("gpt-4o-mini" in line and "2026-" in line for line in show(found))


def test_an_unknown_price_is_said_and_not_guessed(tmp_path):
    found = estimate(paper(tmp_path, model="my-model", base_url="http://localhost:8000/v1"), counter=WORDS)
    assert found.total("cost") is None
    assert found.total("calls") > 1500
    assert found.prices == {"my-model": None}
    assert any("price of my-model at localhost is not known" in note for note in found.notes)
    assert any("not known" in line for line in show(found))


def test_optional_checks_and_facts_by_a_teacher_have_lines_of_their_own(tmp_path):
    plain = paper(tmp_path)
    verify = {"self_answer": 3, "judge": {"model": "gpt-4o"}}
    given = plain.model_dump() | {"preset": "paper"}
    given["synthesize"]["verify"] = plain.synthesize.verify.model_dump() | verify
    given["retrieve"]["method"] = "teacher"
    found = estimate(load_config(given), rejection_rate=0.0, counter=WORDS)
    calls = {line.purpose: line.calls for line in found.lines if line.purpose != "examples"}
    assert {name: count for name, count in calls.items() if count} == {
        "facts": 2000, "format": 1, "self answer": 3 * 3750, "judge": 3750,
    }  # fmt: skip
    judge = next(line for line in found.lines if line.purpose == "judge")
    assert judge.model == "gpt-4o"
    assert judge.cost == pytest.approx((judge.prompt_tokens * 2.5 + judge.completion_tokens * 10) / 1e6)
    assert set(found.prices) == {"gpt-4o-mini", "gpt-4o"}


def test_asking_again_done_by_hand():
    calls, items = again(2, 0.5, 3)
    assert calls == pytest.approx((1 - 0.5**2) + (1 - 0.75**2))
    assert items == pytest.approx(2 * 0.5 + 2 * 0.25)
    assert again(3, 0.0, 4) == (0.0, 0.0)
    assert again(3, 0.5, 1) == (0, 0)


def test_asking_again_equals_a_simulation():
    rng = random.Random(0)
    calls = items = 0
    for _ in range(20_000):
        missing = 3
        for attempt in range(4):
            if attempt and missing:
                calls, items = calls + 1, items + missing
            missing = sum(rng.random() < 0.3 for _ in range(missing))
    assert again(3, 0.3, 4) == (pytest.approx(calls / 20_000, rel=0.02), pytest.approx(items / 20_000, rel=0.02))


# The command


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_shows_the_estimate(tmp_path, world, capsys, as_json):
    file = tmp_path / "lamer.yaml"
    config = settings_of(world, tmp_path, None, teacher={"model": "gpt-4o-mini"})
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    options = ["--json"] if as_json else []
    assert _main(["estimate", str(file), "--out", str(tmp_path / "none"), *options]) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "none").exists()
    if as_json:
        found = json.loads(shown)
        assert found["total"]["calls"] > 0
        assert found["total"]["cost"] == pytest.approx(sum(line["cost"] for line in found["lines"]))
        assert found["diagnosis"]["tokens"] > 0  # the shipped model's tokenizer is there
        assert found["counted_by"].startswith("approximation")
    else:
        assert "examples again" in shown
        assert "USD" in shown
        assert "approximation: characters / 4" in shown


# Tokens


def test_without_a_tokenizer_tokens_are_characters_by_four_and_said_to_be():
    counter = token_counter("gpt-3.5-turbo-0125" if not encoding_file("cl100k_base").exists() else "who/knows")
    assert (counter.is_exact, counter.name) == (False, "approximation: characters / 4")
    assert [counter.count(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
    assert counter.messages([{"role": "user", "content": "abcd"}]) == 1 + 4 + 3


def test_a_local_tokenizer_counts_as_the_model_does():
    from transformers import AutoTokenizer

    counter = token_counter(str(checkpoint_path()))
    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint_path()))
    assert counter.is_exact
    text = "A spoon was left in the sun."
    assert counter.count(text) == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    messages = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert counter.messages(messages) == len(ids) > counter.count(text)


def test_tiktokens_cache_is_found_where_tiktoken_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert encoding_file("cl100k_base") == tmp_path / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
    assert encoding_file("o200k_base") == tmp_path / "fb374d419588a4632f3f557e76b4b70aebbca790"


def test_a_tokenizer_that_cannot_be_read_is_no_reason_to_fail(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokens.has_tokenizer(str(tmp_path))
    assert not token_counter(str(tmp_path)).is_exact
