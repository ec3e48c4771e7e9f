"""LoRA fine-tuning in a planned order, with transformers' Trainer and PEFT.

The Trainer sees a data set whose items are the planned optimizer steps, read one after another: its own batching
and accumulation have nothing to decide, so tails of epochs are exact. The ids travel with the data and are
recorded when a step runs.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lamer.config import Config, LoraSettings, TrainSettings
from lamer.diagnosis.tiers import tier_of
from lamer.errors import ModelError, RunError, UsageError
from lamer.progress import ProgressBar
from lamer.records import Example, Tier
from lamer.run import digest
from lamer.scoring.forward import Forward, Projection
from lamer.scoring.memory import free_memory, is_out_of_memory
from lamer.scoring.model import LoadedModel, load_model
from lamer.scoring.render import Renderer
from lamer.scoring.scorer import context_limit, forward_parameters
from lamer.tables import write_atomically
from lamer.training.card import model_card
from lamer.training.checkpoints import (
    ROOM,
    OrderLog,
    StepLog,
    claim,
    last_whole,
    mark_complete,
    remove_checkpoints,
)
from lamer.training.curriculum import order_examples, plan_steps
from lamer.training.dataset import (
    IGNORED,
    EncodedExamples,
    PlannedSteps,
    encode_examples,
    padded,
    write_left_out,
)
from lamer.training.held_out import COLUMN, HeldOut
from lamer.training.layers import fused
from lamer.training.memory import Room, RoomFile, checkpoint, find_room
from lamer.training.tracking import check_trackers, tracking_callbacks

MAX_GRAD_NORM = 1.0
HARMLESS = {"save_steps", "path", "micro_batch_size", "gradient_checkpointing", "report_to", "push_to_hub"}
"""Settings that may change before a training goes on: the adapter does not depend on them, or on their content;
but dropout's masks do on the micro-batches."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training did."""

    num_examples: int
    """Examples trained on; 0: there was no training, and there is no adapter."""
    num_steps: int
    """Optimizer steps."""
    left_out: tuple[str, ...]
    """Ids of examples with too many tokens, replayed ones too."""
    final_loss: float | None
    """Cross-entropy of the last step, in nats a completion token."""
    scaling: float
    """What the low-rank update is multiplied with."""
    num_parameters: int
    """Trainable parameters."""
    memory: str = ""
    """How large the micro-batches were, and whether activations were computed twice."""
    num_replayed: int = 0
    """General examples among `num_examples`."""
    num_held_out: int = 0
    """Examples that were measured and not trained on."""
    kept_step: int | None = None
    """The optimizer step whose adapter this is."""
    held_out_loss: float | None = None
    """At the last measurement up to `kept_step`, in nats a completion token."""
    stopped_early: bool = False
    """Whether `train.held_out.patience` ended the training before its plan."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything a training needs but the model."""

    config: Config
    examples: list[Example]
    replayed: list[str]
    encoded: EncodedExamples
    held_out: EncodedExamples
    plan: list[list[str]]
    tiers: dict[str, Tier | None]
    out: Path
    adapter: Path

    @property
    def left_out(self) -> tuple[str, ...]:
        """Ids of all examples that are too long."""
        return (*self.encoded.left_out, *self.held_out.left_out)


def train_adapter(
    examples: Sequence[Example],
    config: Config,
    out: Path,
    adapter: Path,
    tiers: Mapping[str, Tier] | None = None,
    *,
    replay: Sequence[Example] = (),
    held_out: Sequence[Example] = (),
) -> TrainResult:
    """Train a LoRA adapter on the examples, in the order of the settings.

    Killed and called again, it goes on after the last whole checkpoint and ends with the same adapter; when it
    was done before, it only says so. The adapter (safetensors, with a model card) appears whole or not at all.

    Args:
        examples: Kept examples, in any order; none: nothing is done.
        config: Its sections `model`, `prompt` and `train`, `seed`, and `diagnose` for tiers that are not given.
        out: Working folder: checkpoints, order.jsonl, log.jsonl.
        adapter: Folder of the finished adapter.
        tiers: Of the deficiencies, by id; an example of another one has the tier of its relative entropy.
        replay: General examples, spread over the order (see `plan_steps`); `train.replay` itself is not read
            here, see lamer.training.replay.
        held_out: Examples to measure, as `train.held_out` says when and what for; see lamer.training.held_out.

    Raises:
        RunError: If `out` belongs to another training, the realised order is not the planned one, or the disk is
            full.
        ModelError: If the model cannot be loaded or trained.
    """
    scaling = effective_scaling(config.train.lora)
    check_trackers(config.train.report_to)
    if not examples:
        return TrainResult(0, 0, (), None, scaling, 0)
    loaded = load_model(config.model)
    job = _prepare(examples, replay, held_out, config, loaded, out, adapter, tiers or {})
    if job.plan:
        claim(out, _digest(job))
    write_left_out(out / "left_out.jsonl", (job.encoded, job.held_out))
    if not job.plan:
        return TrainResult(0, 0, job.left_out, None, scaling, 0)
    done = _finished(job)
    if done is not None:
        return done
    with _quiet():
        projection = Forward(loaded).projection
        model = _with_lora(loaded, config)
        held, room = _train(job, model, loaded.device, projection)
        held.restore(model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    last = StepLog(out / "log.jsonl").rows()[-1]
    result = TrainResult(
        num_examples=len(job.examples) + len(job.replayed),
        num_steps=last["step"],
        left_out=job.left_out,
        final_loss=last["loss"],
        scaling=scaling,
        num_parameters=num_parameters,
        memory=str(room),
        num_replayed=len(job.replayed),
        num_held_out=len(held.examples),
        kept_step=held.kept.step if held.kept else last["step"],
        held_out_loss=held.kept.loss if held.kept else None,
        stopped_early=last["step"] < len(job.plan),
    )
    _save(job, model, result)
    return result


def effective_scaling(lora: LoraSettings) -> float:
    """alpha / rank, or alpha / sqrt(rank) when rank-stabilised."""
    return lora.alpha / (math.sqrt(lora.rank) if lora.rslora else lora.rank)


def _tier(example: Example, known: Mapping[str, Tier], config: Config) -> Tier | None:
    if example.deficiency_id is not None and example.deficiency_id in known:
        return known[example.deficiency_id]
    return None if example.relative_entropy is None else tier_of(example.relative_entropy, config.diagnose.edge)


def _prepare(
    examples: Sequence[Example],
    replay: Sequence[Example],
    held_out: Sequence[Example],
    config: Config,
    loaded: LoadedModel,
    out: Path,
    adapter: Path,
    known_tiers: Mapping[str, Tier],
) -> _Job:
    settings = config.train
    limit = min(settings.max_length, context_limit(loaded) or settings.max_length)
    tiers = {example.id: _tier(example, known_tiers, config) for example in examples}
    ordered = order_examples(examples, settings.order, config.seed, tiers)
    renderer = Renderer(loaded.tokenizer, config.prompt)
    encoded = encode_examples([*ordered, *replay], renderer, limit)
    measured = encode_examples(held_out, renderer, limit)
    fitting = [example for example in ordered if example.id in encoded.examples]
    replayed = [example.id for example in replay if fitting and example.id in encoded.examples]
    plan = plan_steps(
        [example.id for example in fitting],
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        scope=settings.scope,
        tiers=tiers,
        order=settings.order,
        num_steps=settings.steps,
        replayed=replayed,
    )
    return _Job(config, fitting, replayed, encoded, measured, plan, tiers, out, adapter)


def _digest(job: _Job) -> str:
    """Of everything the adapter depends on."""
    left_aside: Any = dict.fromkeys(HARMLESS, True) | {"replay": {"path"}, "held_out": {"path"}}
    train = job.config.train.model_dump(exclude=left_aside)
    encoded = (*job.encoded.examples.values(), *job.held_out.examples.values())
    rows = [(row.id, row.input_ids, row.num_context) for row in encoded]
    model = [job.config.model.name, job.config.model.revision, job.config.model.dtype]
    return digest(json.dumps([train, job.config.seed, model, job.plan, rows]))


def _finished(job: _Job) -> TrainResult | None:
    """The result of an earlier call that came to its end."""
    file = job.out / "result.json"
    if not job.adapter.exists():
        return None
    if not file.exists():
        raise RunError(f"{job.adapter}: exists already; remove it, or use --restart-from train")
    stored = json.loads(file.read_text(encoding="utf-8"))
    remove_checkpoints(job.out)
    return TrainResult(**{**stored, "left_out": tuple(stored["left_out"])})


def _with_lora(loaded: LoadedModel, config: Config) -> Any:
    """The model with fresh adapters, drawn from the seed; everything else is frozen."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    lora = config.train.lora
    alpha: Any = int(lora.alpha) if lora.alpha.is_integer() else lora.alpha  # PEFT says int, and takes both
    set_seed(config.seed)
    try:
        return get_peft_model(
            loaded.model,
            LoraConfig(
                r=lora.rank,
                lora_alpha=alpha,
                lora_dropout=lora.dropout,
                target_modules=lora.target_modules,
                use_rslora=lora.rslora,
                use_dora=lora.dora,
                task_type="CAUSAL_LM",
            ),
        )
    except ValueError as error:
        raise ModelError(f"train.lora: {str(error).splitlines()[0]}; all-linear fits every model") from error


def _train(job: _Job, model: Any, device: Any, projection: Projection) -> tuple[HeldOut, Room]:
    """Run the planned steps that are still missing; what was measured, and the room that micro-batches had."""
    resumed = last_whole(job.out)
    step = resumed[0] if resumed else 0
    order, log = OrderLog(job.out / "order.jsonl", job.plan), StepLog(job.out / "log.jsonl")
    order.rewind(step)
    log.rewind(step)
    settings = job.config.train
    held = HeldOut(job.out, settings.held_out, job.held_out.examples, log, len(job.plan), settings.epochs)
    held.forget()
    plan = job.plan[:step] if held.is_over else job.plan  # killed after it had stopped: nothing is missing
    data = PlannedSteps(plan, job.encoded.examples, 1)
    with ProgressBar("train", total=sum(map(len, job.plan)), unit="examples") as bar, fused(model):
        bar.skip(sum(map(len, job.plan[:step])))
        loss = partial(completion_loss, projection=projection)
        kept_room = RoomFile(job.out / ROOM, settings, device)
        with _explained(job):
            trainer = _trainer(
                model,
                data,
                _arguments(job, device),
                loss,
                (kept_room.read() if resumed else None) or _room(job, model, device, loss),
                kept_room,
                (order, log),
                held,
                bar,
            )
            for callback in tracking_callbacks(job.config.train.report_to, job.out, step):
                trainer.add_callback(callback)
            trainer.train(resume_from_checkpoint=str(resumed[1]) if resumed else None)
    order.check(held.measured[-1].step if held.is_over else None)
    return held, trainer.room


def _room(job: _Job, model: Any, device: Any, loss_of: Callable[[Any, dict[str, Any]], Any]) -> Room:
    """What a micro-batch may hold, measured on the longest example where the settings leave it open."""
    longest = max(job.encoded.examples.values(), key=lambda row: len(row.input_ids))
    batch = {name: tensor.to(device) for name, tensor in padded([longest]).items()}
    model.train()
    return find_room(job.config.train, model, device, len(longest.input_ids), lambda: loss_of(model, batch))


def _arguments(job: _Job, device: Any) -> Any:
    from transformers import TrainingArguments

    settings = job.config.train
    is_cpu = device.type == "cpu"
    if device.index:
        raise UsageError(
            f"model.device: {device}: training uses the first GPU; set CUDA_VISIBLE_DEVICES="
            f"{device.index} and model.device=cuda"
        )
    arguments = TrainingArguments(
        output_dir=str(job.out),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_schedule(settings),
        warmup_steps=math.ceil(settings.warmup * len(job.plan)),
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        seed=job.config.seed,
        use_cpu=is_cpu,
        dataloader_pin_memory=not is_cpu,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to="none",
    )
    if not is_cpu:
        _ = arguments.device  # counts the GPUs; more than one would be used at once, out of order
        arguments._n_gpu = 1
    return arguments


def _schedule(settings: TrainSettings) -> str:
    """transformers' plain `constant` knows no warm-up."""
    return "constant_with_warmup" if settings.schedule == "constant" and settings.warmup else settings.schedule


def _trainer(
    model: Any,
    data: PlannedSteps,
    arguments: Any,
    loss_of: Callable[[Any, dict[str, Any]], Any],
    room: Room,
    kept_room: RoomFile,
    logs: tuple[OrderLog, StepLog],
    held: HeldOut,
    bar: ProgressBar,
) -> Any:
    """The Trainer of a plan; `loss_of(model, micro_batch)` is summed over completion tokens.

    Where memory runs out the step is done again in smaller micro-batches, with the same gradient; `room` of the
    Trainer says how small they became, and so does `kept_room`.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback

    order, log = logs

    class StepTrainer(Trainer):  # type: ignore[misc]
        """One item of the data is one optimizer step."""

        room: Room

        def set_room(self, room: Room) -> None:
            """Micro-batches of that size from now on."""
            self.room = room
            kept_room.write(room)
            data.micro_batch_size, data.max_tokens = room.rows, room.tokens
            if room.checkpointing:
                checkpoint(self.model)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            """Gradients of a whole step, micro-batch after micro-batch; returns its loss."""
            order.record(self.state.global_step + 1, inputs["ids"])
            model.train()
            while True:
                failed = self._try_step(model, inputs)
                if not isinstance(failed, tuple):
                    return failed
                # Behind the except block: there the traceback would keep the failed micro-batch's tensors alive.
                model.zero_grad(set_to_none=True)
                free_memory()
                self.set_room(self.room.smaller(*failed))
                inputs = data[self.state.global_step]

        def _try_step(self, model: Any, inputs: Any) -> Any:
            """The step's loss, or rows and width of the micro-batch that did not fit into memory."""
            import torch

            total = torch.zeros((), device=self.args.device)
            for micro_batch in inputs["micro_batches"]:
                try:
                    loss = loss_of(model, self._prepare_inputs(micro_batch)) / inputs["num_items"]
                    self.accelerator.backward(loss)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    return tuple(micro_batch["input_ids"].shape)
                total += loss.detach()
            return total

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            def measured(micro_batch: dict[str, Any]) -> Any:
                return loss_of(self.model, self._prepare_inputs(micro_batch))

            step = self.state.global_step
            if "loss" in logs and held.is_due(step):
                logs[COLUMN] = held.measure(step, self.model, measured, data.micro_batch_size, data.max_tokens)
                self.control.should_training_stop |= held.is_over
            super().log(logs, start_time)

        def _save(self, output_dir: Any = None, state_dict: Any = None) -> None:
            # Asked to decide by itself, PEFT looks the base model up on the Hub.
            self.model.save_pretrained(output_dir, save_embedding_layers=False)

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Log, progress, checkpoint marks."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs is None or "loss" not in logs:
                return
            row = {"step": state.global_step} | {
                name: logs[name] for name in ("loss", "learning_rate", "grad_norm", COLUMN) if name in logs
            }
            log.append(row)
            if not math.isfinite(logs["loss"]):
                raise ModelError(
                    f"the loss became {logs['loss']} at step {state.global_step}; lower train.learning_rate, "
                    "or use another model.dtype"
                )
            bar.advance(len(data.plan[state.global_step - 1]), note=f"loss {logs['loss']:.3f}")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            held.forget()

    trainer = StepTrainer(
        model=model, args=arguments, train_dataset=data, data_collator=_only_item, callbacks=[Watch()]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.set_room(room)
    return trainer


def _only_item(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (item,) = items
    return item


def completion_loss(model: Any, micro_batch: dict[str, Any], projection: Projection = "all") -> Any:
    """Sum of -log p over the completion tokens of a micro-batch, in nats; float32 whatever the model's dtype.

    Args:
        model: A causal language model.
        micro_batch: `input_ids` and `labels` (-100: no part in the loss), right-padded, shape [rows, width].
        projection: `mask` when the model can project only the positions that predict a completion token.
    """
    from torch.nn.functional import cross_entropy, pad

    targets = pad(micro_batch["labels"][:, 1:], (0, 1), value=IGNORED)
    is_learnt = targets != IGNORED
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in forward_parameters(model) else {}
    if projection == "mask":
        options["logits_to_keep"] = is_learnt
    logits = model(input_ids=micro_batch["input_ids"], **options).logits
    kept = logits if projection == "mask" else logits[is_learnt]
    return cross_entropy(kept.float(), targets[is_learnt], reduction="sum")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' remarks to their own developers; what matters is raised or logged here."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def _explained(job: _Job) -> Iterator[None]:
    """Failures of disk and memory as one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunError(f"{job.out}: cannot write a checkpoint ({error}); free some space") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"training ran out of memory between steps ({(str(error) or 'MemoryError').splitlines()[0][:200]}); "
            "lower train.lora.rank, or use another device"
        ) from error


def _save(job: _Job, model: Any, result: TrainResult) -> None:
    """Write the adapter beside its place, then rename it."""
    temporary = job.adapter.with_name(f".{job.adapter.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with _explained(job):
        model.save_pretrained(str(temporary), save_embedding_layers=False)
    card = model_card(
        job.config,
        job.examples,
        job.tiers,
        result,
    )
    write_atomically(temporary / "README.md", card.encode())
    write_atomically(job.out / "result.json", json.dumps(asdict(result)).encode())
    temporary.replace(job.adapter)
    remove_checkpoints(job.out)
