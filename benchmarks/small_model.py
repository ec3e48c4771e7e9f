"""Train a small Llama-shaped model on real text, for runs on machines that can download none.

    python benchmarks/small_model.py --facts F.tsv.gz ... --ecare train.jsonl.gz --skip 2000 --out models/small

It learns a byte-level BPE tokenizer and then, with plain next-token loss, fact sentences and e-CARE questions in
chat form with their right answers (the first `--skip` rows are left out and can serve as unseen queries).
It will not be good. It is real: a tokenizer, a chat template, weights, and knowledge that is partly missing.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>"]


def open_text(path: str) -> IO[str]:
    return gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")


def facts(paths: list[str]) -> Iterator[str]:
    for path in paths:
        with open_text(path) as file:
            yield from (row["fact"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def questions(path: str, skip: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(prompt, reply) pairs in lamer's own wording; the reply is the letter, the option's text, or both."""
    ends = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
    with open_text(path) as file:
        for i, line in enumerate(file):
            if i < skip:
                continue
            row = json.loads(line)
            a, b = row["options"]
            prompt = f"Question: {row['premise']} {ends[row['ask_for']]}\nOptions: (A) {a} (B) {b}"
            if rng.random() < 0.5:
                prompt = f"Fact: {row['explanation']}\n{prompt}"
            letter, text = "AB"[row["label"]], row["options"][row["label"]]
            replies = (
                letter,
                f"The answer is ({letter}) {text}",
                f"{row['explanation']} The answer is ({letter}) {text}",
            )
            yield prompt, rng.choice(replies)


def train_tokenizer(texts: list[str], vocab_size: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|bos|>", eos_token="<|end|>", pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE, model_max_length=512,
    )  # fmt: skip


def new_model(tokenizer: Any, hidden: int, layers: int, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=hidden * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=hidden // 32, num_key_value_heads=hidden // 32, max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def train(
    model: Any, rows: list[list[int]], pad: int, *, minutes: float, learning_rate: float, rng: random.Random
) -> None:
    """One pass over `rows`, or until the time is up; the learning rate falls with whichever is nearer its end."""
    import torch

    batches = [rows[i : i + 64] for i in range(0, len(rows), 64)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
    start, tokens = time.monotonic(), 0
    for step, batch in enumerate(rng.sample(batches, len(batches))):
        done = max(step / len(batches), (time.monotonic() - start) / (60 * minutes))
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = (
                learning_rate * min(1, (step + 1) / 50) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
            )
        width = max(map(len, batch))
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch])
        labels = ids.masked_fill(ids == pad, -100)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=(ids != pad).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += int((labels != -100).sum())
        if step % 50 == 0:
            rate = tokens / (time.monotonic() - start)
            print(
                f"step {step}/{len(batches)} loss {loss.item():.3f} {rate:,.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", nargs="+", required=True)
    parser.add_argument("--ecare", required=True)
    parser.add_argument("--skip", type=int, default=2000, help="first rows of e-CARE kept unseen")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--num-facts", type=int, default=40_000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rng = random.Random(options.seed)
    plain = list(facts(options.facts))
    plain = rng.sample(plain, min(options.num_facts, len(plain)))
    asked = list(questions(options.ecare, options.skip, rng))
    tokenizer = train_tokenizer(plain + [f"{prompt} {reply}" for prompt, reply in asked], options.vocab)
    rows = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}], return_dict=False
        )
        for prompt, reply in asked
    ] + [[tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in plain]
    rows.sort(key=len)
    model = new_model(tokenizer, options.hidden, options.layers, options.seed)
    print(f"{model.num_parameters():,} parameters, {sum(map(len, rows)):,} tokens", file=sys.stderr)
    train(
        model, rows, tokenizer.pad_token_id, minutes=options.minutes, learning_rate=options.learning_rate, rng=rng
    )
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
