from __future__ import annotations

import yaml
from training_examples import make_example

from lamer.records import Prediction
from lamer.run import Run
from lamer.training.card import model_card, refresh_card
from lamer.training.trainer import TrainResult

RESULT = TrainResult(
    num_examples=5, num_steps=6, left_out=("x",), final_loss=0.5, scaling=2.0, num_parameters=9, num_replayed=1,
    num_held_out=3, kept_step=4, held_out_loss=0.25, stopped_early=True,
)  # fmt: skip


def prediction(method, benchmark, number, correct, *, parsed=True):
    return Prediction(
        method, benchmark, "t", f"s{number}", "A", "A" if parsed else None, parsed, correct, "text",
        "A" if correct else "B",
    )  # fmt: skip


def card_of(config, result=RESULT):
    examples = [make_example(number) for number in range(4)]
    return model_card(config, examples, {"x00": "easy", "x01": "easy", "x02": "hard"} | {"x03": None}, result)


def test_the_card_tells_base_data_tiers_settings_and_limits(settings):
    changes = {"train.held_out.share": 0.1, "train.held_out.keep": "best", "train.held_out.patience": 2}
    card = card_of(settings(**changes))
    front, _, body = card.removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front)["base_model"] == settings().model.name
    for text in (
        "4 examples written by a teacher",
        "| easy | 2 |",
        "| no severity | 1 |",
        "| general | 1 |",
        "1 general examples (20.0% of all), the model's own replies",
        "3 examples held out, measured once an epoch: this is the adapter of step 4, with the lowest "
        "held-out loss (0.2500 nats a token); stopped early after step 6",
        "Not evaluated yet.",
        "## Limits",
    ):
        assert text in body


def test_the_card_says_nothing_of_what_was_not_done(settings):
    plain = TrainResult(num_examples=4, num_steps=6, left_out=(), final_loss=0.5, scaling=2.0, num_parameters=9)
    card = card_of(settings(), plain)
    assert "held out" not in card
    assert "general examples" not in card


def test_the_evaluation_is_filled_in_and_replaced(settings, tmp_path):
    config = settings()
    with Run.open(tmp_path / "run") as run:
        (run.path / "adapter").mkdir()
        (run.path / "adapter" / "README.md").write_text(card_of(config))
        assert not refresh_card(run, config)
        table = run.table("predictions", Prediction)
        table.write(0, [prediction("base", "arc", n, n < 2, parsed=n < 3) for n in range(4)])
        assert not refresh_card(run, config)
        table.write(1, [prediction("lamer", "arc", n, n > 0) for n in range(4)])
        assert refresh_card(run, config)
        card = (run.path / "adapter" / "README.md").read_text()
        (row,) = (line for line in card.splitlines() if line.startswith("| arc"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        # right before: 0, 1; right after: 1, 2, 3; so two remedied and one broken of four
        assert cells[:4] == ["arc", "4", "0.500", "0.750"]
        assert cells[4].startswith("+25.0 [")
        assert cells[5:] == ["2", "1", "1"]
        assert "Parse rate: 0.750 without, 1.000 with." in card
        assert "Not evaluated yet." not in card
        assert card.split("## Evaluation")[0] == card_of(config).split("## Evaluation")[0]
        assert card.split("## Limits")[1] == card_of(config).split("## Limits")[1]
        assert refresh_card(run, config)
        assert (run.path / "adapter" / "README.md").read_text() == card
        table.write(2, [prediction(name, "mmlu", 0, True) for name in ("base", "lamer")])
        assert refresh_card(run, config)
        again = (run.path / "adapter" / "README.md").read_text()
        assert "| mmlu | 1 | 1.000 | 1.000 |" in again
        assert "| average | 5 | 0.750 | 0.875 |" in again


def test_a_method_s_own_card_can_be_filled_in(settings, tmp_path):
    with Run.open(tmp_path / "run") as run:
        folder = run.path / "methods" / "naive" / "adapter"
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(card_of(settings()))
        rows = [prediction(method, "arc", n, True) for method in ("base", "naive") for n in range(2)]
        run.table("predictions", Prediction).write(0, rows)
        assert refresh_card(run, settings(), method="naive", adapter=folder)
        assert "| arc | 2 | 1.000 | 1.000 | +0.0 [+0.0, +0.0] | 0 | 0 | 1 |" in (folder / "README.md").read_text()
