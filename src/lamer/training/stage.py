"""The train stage: an adapter from the kept examples."""

from __future__ import annotations

from lamer.config import Config, HeldOutSettings
from lamer.records import Deficiency, Diagnosis, Example
from lamer.run import Run, StageResult
from lamer.scoring.model import require_base
from lamer.training.examples import load_examples
from lamer.training.held_out import hold_out
from lamer.training.push import check_name, push_adapter
from lamer.training.replay import num_replayed, replay_examples
from lamer.training.trainer import TrainResult, train_adapter

MAX_LISTED = 10


def train(run: Run, config: Config) -> StageResult:
    """Train on the kept examples of the run, or on those of `train.path`; writes `adapter/` and `training/`.

    A later round trains a fresh adapter on the examples of all rounds up to it. Without examples there is no
    adapter, and evaluation uses the model as it is.

    Raises:
        LamerError: See `train_adapter` and `push_adapter`.
    """
    require_base(config.model)
    if config.train.push_to_hub:
        check_name(config.train.push_to_hub)
    rounds = run.so_far()
    if config.train.path:
        examples = load_examples(config.train.path)
    else:
        examples = [row for one in rounds for row in one.table("examples", Example) if row.status == "kept"]
    units = [unit for one in rounds for unit in one.table("deficiencies", Deficiency)]
    tiers = {unit.id: unit.tier for unit in units}
    split = hold_out(examples, config, tiers, {unit.id: unit.fact_id for unit in units})
    wanted = num_replayed(config, len(split.training))
    replay = replay_examples(rounds[0], config, wanted)
    result = train_adapter(
        split.training,
        config,
        run.path / "training",
        run.path / "adapter",
        tiers,
        replay=replay,
        held_out=split.held_out,
    )
    counts = {
        "examples": result.num_examples,
        "replayed": result.num_replayed,
        "held_out": result.num_held_out,
        "left_out": len(result.left_out),
        "steps": result.num_steps,
        "kept_step": result.kept_step,
        "final_loss": result.final_loss,
        "held_out_loss": result.held_out_loss,
        "lora_scaling": result.scaling,
        "trainable_parameters": result.num_parameters,
    }
    notes = _notes(result, config)
    if len(replay) < wanted:
        notes.append(_replay_shortage(rounds[0], len(replay), wanted, config))
    if result.num_examples and config.train.push_to_hub and config.rounds == 1:  # else the rounds push their last
        address = push_adapter(run.path / "adapter", config.train.push_to_hub, run.path / "training")
        notes.append(f"the adapter was pushed to {address}")
    return StageResult(counts, notes)


def _replay_shortage(run: Run, count: int, wanted: int, config: Config) -> str:
    if config.train.replay.path:
        told = "the files of train.replay.path have no more"
    elif not run.table("diagnoses", Diagnosis).has(0):
        told = "examples alone name no queries that the model could answer; name general ones in train.replay.path"
    else:
        told = (
            "no more queries without a deficiency were answered by the model; add queries, or name files in "
            "train.replay.path"
        )
    return f"replay: {count} of {wanted} general examples; {told}"


def _notes(result: TrainResult, config: Config) -> list[str]:
    notes = []
    if result.left_out:
        listed = ", ".join(result.left_out[:MAX_LISTED]) + (", ..." if len(result.left_out) > MAX_LISTED else "")
        notes.append(
            f"{len(result.left_out)} examples are too long for training and were left out: {listed} "
            "(all in training/left_out.jsonl)"
        )
    if not result.num_examples:
        return [*notes, "there is nothing to train on; the model stays as it is, and so does its evaluation"]
    train = config.train
    notes.append(
        f"order {train.order} (scope {train.scope}), as planned in every step; LoRA rank {train.lora.rank}, alpha "
        f"{train.lora.alpha:g}: the update is scaled by {result.scaling:.4g}"
    )
    if train.held_out.share or train.held_out.path:
        notes.append(_held_out_note(result, train.held_out))
    if result.memory:
        notes.append(f"memory: {result.memory}")
    return notes


def _held_out_note(result: TrainResult, settings: HeldOutSettings) -> str:
    if not result.num_held_out:
        return "held out: no example; there are too few facts, or the examples are too long"
    stop = (
        f"training stopped after step {result.num_steps}: {settings.patience} measurements without a lower loss"
        if result.stopped_early
        else f"training ended with its plan, after step {result.num_steps}"
    )
    which = "lowest" if settings.keep == "best" else "last"
    return (
        f"held out: {result.num_held_out} examples; the adapter is that of step {result.kept_step} (the {which} "
        f"held-out loss, {result.held_out_loss:.4f} nats); {stop}"
    )
