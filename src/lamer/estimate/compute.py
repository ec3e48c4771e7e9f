"""GPU time, disk and memory of a run or an experiment, from the size of the model: no weights are needed.

    reading        2 N T            FLOPs; N parameters, T tokens
    LoRA training  (4 N + 6 A) T    A adapter parameters; 2 N forward, 2 N backward through the frozen weights,
                                    which get no gradient of their own (2 N more); the adapters have all 6
                   + 2 N T          when activations are computed twice (gradient checkpointing)
    generation     a step of a batch of B reads the weights and the keys and values of B replies from memory, and
                   computes 2 N B FLOPs; the slower of the two counts, and no step is shorter than its launches

Time = FLOPs / (MFU x peak), where MFU is the share of the GPU's peak that is reached. What is assumed stands in
`Compute.basis`. N counts the input embedding too, so it is a little high for large vocabularies.

Source of 2 N and 6 N: Kaplan et al. 2020, Scaling Laws for Neural Language Models, section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from lamer.config import Config, ModelSettings
from lamer.errors import UsageError, nearest
from lamer.scoring.model import local_folder

MFU = 0.4
"""Share of the peak that is reached when a batch is read or trained on, where nobody measured it."""
BANDWIDTH_SHARE = 0.5
"""Share of the memory bandwidth that a decoding step reaches."""
MIN_STEP_S = 0.02
"""Seconds a decoding step takes at least: time to launch its kernels."""
TEMPLATE_TOKENS = 20
"""Tokens of the chat template and of `Question:`, `Options: (A)` around a prompt."""
TRAINING_TOKENS = 140
"""Tokens of a training example: question, three options, explanation, answer, chat template."""
SAMPLE_TOKENS = 150
"""Tokens of an evaluation prompt."""
REPLY_TOKENS = 100
"""Tokens of a free-form reply; the length limit is the most there can be."""
SAMPLES = {
    "comm": (8_935, 6), "agieval": (2_546, 8), "arc": (3_548, 2), "mmlu": (14_042, 57), "bbh": (6_511, 27),
    "crass": (44, 1), "gsm_plus": (2_400, 1),
}  # fmt: skip
"""Samples and tasks of the paper's benchmarks, as their data cards have them; files of your own are counted."""
ROWS = {
    "hf://12ml/e-CARE:train": 14_928,
    "hf://12ml/e-CARE:validation": 2_132,
    "hf://openai/gsm8k/main:train": 7_473,
    "gsm8k-queries.jsonl": 7_473,
    "hf://community-datasets/generics_kb/generics_kb_best:train": 1_020_868,
    "gsm8k-facts.jsonl": 29_892,
}
"""Rows of what the recipes name; of the facts, before low scores and duplicates are dropped."""
ENCODER_PARAMETERS, ENCODER_DIMENSION, FACT_TOKENS = 335_141_888, 1024, 16
"""Of BGE-large, and the tokens of a fact; other encoders are taken to be like it."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a GPU can do, by its data sheet."""

    name: str
    peak_flops: float
    """FLOPs a second in bfloat16, without sparsity."""
    bandwidth: float
    """Bytes a second from its memory."""
    memory_gib: float


GPUS = {
    "a100": Gpu("A100 80GB PCIe", 312e12, 1.935e12, 80),
    "h100": Gpu("H100 SXM", 989e12, 3.35e12, 80),
    "h200": Gpu("H200 SXM", 989e12, 4.8e12, 141),
}


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What the work depends on."""

    parameters: int
    adapted_width: int
    """Sum of inputs and outputs over the linear layers that get an adapter: times the rank, its parameters."""
    cached_values: int
    """Keys and values that a token leaves in the cache."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the work is done on, and what is taken for granted about it."""

    gpu: Gpu = GPUS["h100"]
    mfu: float = MFU
    price_per_hour: float | None = None
    """Money for an hour of the GPU; None: not known."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained and evaluated, for each seed."""

    trained: tuple[int, ...]
    """Examples of each training."""
    num_evaluated: int
    """Models that answer the benchmarks."""
    num_diagnosed: int = 1
    """Times that the queries are diagnosed: with rounds, before the first and after each."""
    seeds: int = 1


@dataclass(frozen=True, slots=True)
class Work:
    """GPU time for one purpose."""

    purpose: str
    tokens: int
    flops: float
    seconds: float
    max_seconds: float
    """When every reply is as long as it may be."""


@dataclass(frozen=True, slots=True)
class Compute:
    """What a run or an experiment needs of a machine."""

    gpu: str
    work: tuple[Work, ...]
    disk_gib: dict[str, float]
    """By what takes it."""
    memory_gib: float
    """GPU memory of training without activations: weights, adapter, its gradient and Adam's two moments."""
    hours: float
    max_hours: float
    cost: float | None
    """At the price that was given for the GPU."""
    basis: tuple[str, ...]


def gpu_named(name: str) -> Gpu:
    """The GPU called `name`.

    Raises:
        UsageError: If its data sheet is not known here.
    """
    if name not in GPUS:
        raise UsageError(f"--gpu {name}: not known{nearest(name, tuple(GPUS))}; known: {', '.join(GPUS)}")
    return GPUS[name]


def _dense(
    vocabulary: int,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head: int,
    ffn: int,
    tied: bool,
    bias: bool,
) -> ModelSize:
    """A decoder with gated feed-forward layers and RMS norms, as the recipes' four models are."""
    query, key = heads * head, kv_heads * head
    linear = 2 * hidden * query + 2 * hidden * key + 3 * hidden * ffn
    width = (hidden + query) * 2 + (hidden + key) * 2 + (hidden + ffn) * 3
    biases = query + 2 * key if bias else 0
    embeddings = vocabulary * hidden * (1 if tied else 2)
    parameters = embeddings + layers * (linear + biases + 2 * hidden) + hidden
    return ModelSize(parameters, layers * width, 2 * layers * key)


SIZES = {
    "mistralai/Mistral-7B-Instruct-v0.2": _dense(32000, 4096, 32, 32, 8, 128, 14336, False, False),
    "meta-llama/Meta-Llama-3-8B-Instruct": _dense(128256, 4096, 32, 32, 8, 128, 14336, False, False),
    "Qwen/Qwen2-7B-Instruct": _dense(152064, 3584, 28, 28, 4, 128, 18944, False, True),
    "google/gemma-1.1-2b-it": _dense(256000, 2048, 18, 8, 1, 256, 16384, True, False),
}
"""The recipes' models, for machines that have none of their files."""


def model_size(settings: ModelSettings) -> ModelSize | None:
    """The size of a model: of the recipes' by name, of a local one from its `config.json`; else None."""
    if settings.name in SIZES:
        return SIZES[settings.name]
    folder = local_folder(settings.name)
    if folder is None or not (folder / "config.json").is_file():
        return None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape, trust_remote_code=settings.trust_remote_code)
    return size_of(model)


def size_of(model: Any) -> ModelSize:
    """The size of a transformers causal LM, which may be on the device `meta`."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    widths = [
        sum(module.weight.shape)
        for module in model.modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    text = model.config.get_text_config()
    heads = text.num_attention_heads
    each = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelSize(parameters, sum(widths), 2 * text.num_hidden_layers * kv_heads * each)


def compute(
    config: Config,
    size: ModelSize,
    machine: Machine,
    plan: Plan,
    *,
    prompt_tokens: float,
    num_facts: int | None,
    num_samples: int,
) -> Compute:
    """The GPU time, disk and memory of `plan`.

    Args:
        config: Rank, epochs, batch of the evaluation, encoder.
        size: Of the model.
        machine: What it runs on.
        plan: What is trained and evaluated.
        prompt_tokens: Tokens that one diagnosis reads; the plan says how many there are.
        num_facts: Of the corpus; None when not known.
        num_samples: Evaluation samples of one model.
    """
    train, evaluation = config.train, config.evaluate
    adapter = train.lora.rank * size.adapted_width
    batch = batch_size(config)
    basis = [
        f"GPU: {machine.gpu.name}, {machine.gpu.peak_flops / 1e12:g} TFLOPS in bfloat16, "
        f"{machine.gpu.bandwidth / 1e12:g} TB/s (data sheet)",
        f"MFU {machine.mfu:g} when reading and training, {BANDWIDTH_SHARE:g} of the bandwidth and at least "
        f"{1000 * MIN_STEP_S:g} ms a step when generating: assumed, not measured on your machine",
        f"model: {size.parameters:,} parameters; adapter: {adapter:,}",
        f"tokens of a training example {TRAINING_TOKENS}, of an evaluation prompt {SAMPLE_TOKENS}, of a reply "
        f"{REPLY_TOKENS} (at most {evaluation.max_new_tokens}), {batch} replies at once: assumed",
    ]
    work: list[Work] = []
    tokens: float
    dense = config.retrieve.method in ("dense", "hybrid")
    if dense and num_facts:
        tokens = num_facts * FACT_TOKENS
        work.append(_reading("encode facts", tokens, 2.0 * ENCODER_PARAMETERS * tokens, machine))
    tokens = plan.seeds * plan.num_diagnosed * prompt_tokens
    work.append(_reading("diagnose", tokens, reading_flops(size, tokens), machine))
    tokens = plan.seeds * sum(plan.trained) * train.epochs * TRAINING_TOKENS
    twice = bool(train.gradient_checkpointing)
    work.append(_reading("train", tokens, training_flops(size, adapter, tokens, twice=twice), machine))
    times = plan.seeds * plan.num_evaluated
    prompts = 2 * num_samples * SAMPLE_TOKENS  # for the reply, and for the likeliest option
    work.append(_reading("evaluate: prompts", times * prompts, reading_flops(size, times * prompts), machine))
    if num_samples:
        replies = [
            times * generation_seconds(size, machine, num_samples, length, batch)
            for length in (min(REPLY_TOKENS, evaluation.max_new_tokens), evaluation.max_new_tokens)
        ]
        tokens = times * num_samples * min(REPLY_TOKENS, evaluation.max_new_tokens)
        work.append(Work("evaluate: replies", round(tokens), reading_flops(size, tokens), *replies))
    seconds, most = sum(item.seconds for item in work), sum(item.max_seconds for item in work)
    price = machine.price_per_hour
    return Compute(
        gpu=machine.gpu.name,
        work=tuple(work),
        disk_gib=disk(config, size, plan, adapter, num_facts),
        memory_gib=round((2 * size.parameters + 16 * adapter) / GIB, 1),
        hours=seconds / 3600,
        max_hours=most / 3600,
        cost=None if price is None else price * seconds / 3600,
        basis=tuple(basis),
    )


def reading_flops(size: ModelSize, tokens: float) -> float:
    """FLOPs of a forward pass over `tokens`: 2 N T."""
    return 2.0 * size.parameters * tokens


def training_flops(size: ModelSize, adapter: int, tokens: float, *, twice: bool = False) -> float:
    """FLOPs of LoRA training on `tokens`: (4 N + 6 A) T, and 2 N T more when activations are computed twice."""
    return (4.0 * size.parameters + 6.0 * adapter + (2.0 * size.parameters if twice else 0.0)) * tokens


def generation_seconds(size: ModelSize, machine: Machine, num_samples: int, length: int, batch: int) -> float:
    """Seconds to write `num_samples` replies of `length` tokens, `batch` at a time."""
    at_once = min(batch, max(num_samples, 1))
    context = SAMPLE_TOKENS + length / 2
    moved = 2.0 * size.parameters + 2.0 * at_once * context * size.cached_values  # bytes, bfloat16
    step = max(
        moved / (BANDWIDTH_SHARE * machine.gpu.bandwidth),
        reading_flops(size, at_once) / (machine.mfu * machine.gpu.peak_flops),
        MIN_STEP_S,
    )
    return ceil(num_samples / at_once) * length * step


def batch_size(config: Config) -> int:
    """Replies that the evaluation writes at once."""
    return max(1, config.evaluate.max_batch_tokens // (SAMPLE_TOKENS + config.evaluate.max_new_tokens))


def disk(config: Config, size: ModelSize, plan: Plan, adapter: int, num_facts: int | None) -> dict[str, float]:
    """GiB on disk: weights in bfloat16, adapters and optimizer states in float32, one vector a fact."""
    num_trained = len(plan.trained) * plan.seeds
    found = {
        "model": 2.0 * size.parameters,
        "adapters": 4.0 * adapter * num_trained,
        "checkpoints while training": 2 * 12.0 * adapter if plan.trained else 0.0,
    }
    if config.retrieve.method in ("dense", "hybrid"):
        width = 4 if config.retrieve.embedding_dtype == "float32" else 2
        found["encoder"] = 4.0 * ENCODER_PARAMETERS
        found["embeddings of facts"] = float((num_facts or 0) * ENCODER_DIMENSION * width)
    return {name: round(size_bytes / GIB, 2) for name, size_bytes in found.items()}


def num_samples(config: Config, counted: Sequence[int] = ()) -> int:
    """Samples of one evaluation: `counted` ones of files, and the benchmarks' by their data cards."""
    limit = config.evaluate.limit
    known = [SAMPLES[name] for name in config.evaluate.benchmarks if name in SAMPLES]
    return sum(
        size if limit is None else min(size, limit * tasks) for size, tasks in [*((n, 1) for n in counted), *known]
    )


def _reading(purpose: str, tokens: float, flops: float, machine: Machine) -> Work:
    seconds = flops / (machine.mfu * machine.gpu.peak_flops)
    return Work(purpose, round(tokens), flops, seconds, seconds)
