"""Make the small model of a world from nothing: tokenizer, weights, log and accuracy table.

    python -m lamer.microworld.pretrain --seed 0 --out checkpoint
    python -m lamer.microworld.pretrain --seed 0 --out checkpoint --tiny      # seconds, knows nothing

The model is a plain Llama with weights in float32; training computes in bfloat16.
Loss is on the tokens of the reply alone. The same seed and number of threads give the same weights.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamer.microworld.accuracy import accuracy_table
from lamer.microworld.card import figures, write_card
from lamer.microworld.corpus import Lesson, write_corpus
from lamer.microworld.world import World
from lamer.progress import ProgressBar

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BOS, USER, ASSISTANT, END, PAD = "<s>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + (message['content'] | trim) + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""User and assistant turns, each closed by the end-of-turn token; no system prompt."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights, besides the world."""

    vocab_size: int = 2048
    hidden_size: int = 160
    intermediate_size: int = 448
    num_layers: int = 4
    num_heads: int = 5
    num_reading: int = 60_000
    """Reading lessons, see `lamer.microworld.corpus`."""
    exposure_scale: float = 1.0
    batch_size: int = 32
    learning_rate: float = 2.5e-3
    warmup: float = 0.05
    """Share of the steps with a rising learning rate; a cosine to zero follows."""
    weight_decay: float = 0.05
    bfloat16: bool = True


RECIPE = Recipe()
TINY = Recipe(
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=2,
    num_reading=300,
    exposure_scale=0.05,
)
"""Exercises every step in seconds; the model learns nothing."""


def train_tokenizer(lessons: Sequence[Lesson], names: frozenset[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every invented name is one token, with a chat template.

    A text is encoded as if a space stood before it, so that a word is the same token wherever it stands.

    Raises:
        ValueError: If the vocabulary is too small to hold every name as one token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    weighted = [" ".join(sorted(names))] * (len(lessons) // 20 + 1)
    texts = (f"{lesson.prompt}\n{lesson.reply}" for lesson in lessons)
    tokenizer.train_from_iterator((text for group in (weighted, texts) for text in group), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=END, pad_token=PAD, model_max_length=512,
        padding_side="right", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    split = [name for name in sorted(names) if len(fast.encode(name, add_special_tokens=False)) != 1]
    if split:
        raise ValueError(f"vocab_size={vocab_size} splits {len(split)} invented names, the first is {split[0]!r}")
    return fast


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights, a pure function of recipe and seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A lesson as token ids; the first `start` ids are the prompt."""

    ids: list[int]
    start: int


def encode(tokenizer: PreTrainedTokenizerFast, lessons: Sequence[Lesson]) -> list[Encoded]:
    """Token ids of prompt and reply, joined at token level, the reply closed by the end-of-turn token."""
    prompts = tokenizer.apply_chat_template(
        [[{"role": "user", "content": lesson.prompt}] for lesson in lessons],
        add_generation_prompt=True,
        tokenize=False,
    )
    heads = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    tails = tokenizer([lesson.reply for lesson in lessons], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    return [Encoded([*head, *tail, end], len(head)) for head, tail in zip(heads, tails, strict=True)]


def batches(encoded: Sequence[Encoded], batch_size: int, rng: random.Random) -> list[list[Encoded]]:
    """Batches of similar length in random order; lengths are sorted within windows of 32 batches."""
    found = []
    window = 32 * batch_size
    for begin in range(0, len(encoded), window):
        rows = sorted(encoded[begin : begin + window], key=lambda row: len(row.ids))
        parts = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        rng.shuffle(parts)
        found += parts
    return found


def collate(rows: Sequence[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels, shape [batch, length]; labels are -100 except on the reply."""
    import torch

    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad)
    labels = torch.full((len(rows), length), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        labels[i, row.start : len(row.ids)] = torch.tensor(row.ids[row.start :])
    return ids, labels


def hidden_states(model: LlamaForCausalLM, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What `model.model` computes without padding mask and cache, shape [batch, length, hidden], in `dtype`.

    The weights stay in float32; products and activations are in `dtype`. On two CPU cores in bfloat16 this
    trains about three times as fast as the same under autocast, most of it by writing attention as two matrix
    products: for rows this short the fused kernel's backward pass takes half of the time.
    """
    import torch
    from torch.nn import functional

    config = model.config
    num_heads = config.num_attention_heads
    batch, length = ids.shape
    width = config.hidden_size // num_heads
    frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * frequencies.repeat(2)
    cosine, sine = angles.cos().to(dtype), angles.sin().to(dtype)
    sine[:, : width // 2] *= -1
    future = torch.full((length, length), -1e9, dtype=dtype).triu(1)

    def norm(module: Any, rows: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(rows, (config.hidden_size,), module.weight.to(dtype), config.rms_norm_eps)

    def linear(rows: torch.Tensor, *modules: Any) -> torch.Tensor:
        return functional.linear(rows, torch.cat([module.weight for module in modules]).to(dtype))

    states = functional.embedding(ids, model.model.embed_tokens.weight).to(dtype)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        rows = linear(norm(layer.input_layernorm, states), attention.q_proj, attention.k_proj, attention.v_proj)
        # shape [3, batch, heads, length, width]
        parts = rows.view(batch, length, 3, num_heads, width).permute(2, 0, 3, 1, 4)
        turned = parts[:2] * cosine + torch.roll(parts[:2], width // 2, -1) * sine
        queries, keys = turned.reshape(2, batch * num_heads, length, width)
        weights = torch.baddbmm(future, queries * width**-0.5, keys.transpose(1, 2)).softmax(-1)
        mixed = weights @ parts[2].reshape(batch * num_heads, length, width)
        mixed = mixed.view(batch, num_heads, length, width).transpose(1, 2).reshape(batch, length, -1)
        states = states + linear(mixed, attention.o_proj)
        rows = linear(norm(layer.post_attention_layernorm, states), mlp.gate_proj, mlp.up_proj)
        gate, up = rows.chunk(2, -1)
        states = states + linear(functional.silu(gate) * up, mlp.down_proj)
    return norm(model.model.norm, states)


def reply_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Mean cross-entropy over the tokens of the replies, in nats.

    Padding stands on the right of a causal model, so no attention mask is needed; logits are computed where
    a label stands and nowhere else.
    """
    from torch.nn import functional

    wanted = labels[:, 1:] != -100
    states = hidden_states(model, ids, dtype)[:, :-1][wanted]
    logits = functional.linear(states, model.lm_head.weight.to(dtype))
    return functional.cross_entropy(logits.float(), labels[:, 1:][wanted])


def learning_rate_at(step: int, num_steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero."""
    import math

    rise = max(1, round(recipe.warmup * num_steps))
    if step < rise:
        return recipe.learning_rate * (step + 1) / rise
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, num_steps - rise)))


def train(
    model: LlamaForCausalLM, encoded: Sequence[Encoded], pad: int, recipe: Recipe, seed: int
) -> Iterator[dict[str, float]]:
    """Train in place, one pass over the lessons; yields a row of the training log per step."""
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    plan = batches(encoded, recipe.batch_size, random.Random(f"lamer-batches-{seed}"))
    model.train()
    dtype = torch.bfloat16 if recipe.bfloat16 else torch.float32
    num_tokens = 0
    for step, rows in enumerate(plan):
        rate = learning_rate_at(step, len(plan), recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, labels = collate(rows, pad)
        loss = reply_loss(model, ids, labels, dtype)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        num_tokens += sum(len(row.ids) for row in rows)
        yield {
            "step": step + 1, "num_steps": len(plan), "tokens": num_tokens, "loss": loss.item(),
            "learning_rate": rate, "gradient_norm": norm.item(),
        }  # fmt: skip


def pretrain(
    world: World, out: Path, recipe: Recipe = RECIPE, *, seed: int | None = None, limit: int | None = None
) -> dict[str, Any]:
    """Write the checkpoint of a world into the folder `out`, with its training log, accuracy table and card.

    Args:
        seed: Of weights and batches; the world's own by default.
        limit: Number of evaluation queries in the accuracy table; all by default.

    Returns:
        What `accuracy.json` holds.
    """
    import torch
    from transformers import AutoModelForCausalLM

    seed = world.seed if seed is None else seed
    started = time.monotonic()
    lessons = write_corpus(world, num_reading=recipe.num_reading, scale=recipe.exposure_scale)
    tokenizer = train_tokenizer(lessons, world.names, recipe.vocab_size)
    encoded = encode(tokenizer, lessons)
    torch.manual_seed(seed)
    model = new_model(tokenizer, recipe, seed)
    out.mkdir(parents=True, exist_ok=True)
    window: list[float] = []
    with ProgressBar("pretrain", len(encoded), "lessons") as bar, (out / "training_log.jsonl").open("w") as log:
        for row in train(model, encoded, tokenizer.pad_token_id, recipe, seed):
            window.append(row["loss"])
            bar.advance(min(recipe.batch_size, len(encoded) - bar.done), note=f"loss {row['loss']:.3f}")
            if row["step"] % 25 == 0 or row["step"] == row["num_steps"]:
                row["loss"] = sum(window) / len(window)
                log.write(json.dumps(row) + "\n")
                window.clear()
    seconds = round(time.monotonic() - started, 1)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    made = {
        "world": {"seed": world.seed, "wrong": world.wrong},
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "lessons": len(lessons),
        "tokens": sum(len(row.ids) for row in encoded),
        "seconds": seconds,
        "torch": torch.__version__,
        "table": accuracy_table(AutoModelForCausalLM.from_pretrained(out).eval(), tokenizer, world, limit=limit),
    }
    (out / "accuracy.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(write_card([made]), encoding="utf-8")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m lamer.microworld.pretrain", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the world, the weights and the batches")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--wrong", type=float, default=0.0, help="share of facts taught with the opposite value")
    parser.add_argument("--tiny", action="store_true", help="a model that learns nothing, in seconds")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    world = World.build(options.seed, wrong=options.wrong)
    made = pretrain(world, options.out, TINY if options.tiny else RECIPE, limit=64 if options.tiny else None)
    sys.stdout.write(figures([made], "text-sum") + "\n")
    sys.stderr.write(f"{options.out}: {made['parameters']:,} parameters in {made['seconds']:.0f} s\n")


if __name__ == "__main__":
    main()
