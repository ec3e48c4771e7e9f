from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny_models
from lamer.config import PromptSettings
from lamer.errors import DataError
from lamer.scoring.pairs import read_pairs, score_file
from lamer.scoring.render import Renderer

CHAT = [{"role": "user", "content": "What is hot?"}]


def scored(path: Path, kind: str = "llama", family: str = "llama3", limit: int = 512) -> list[dict[str, float]]:
    loaded = tiny_models.loaded(kind, family, limit)
    return list(score_file(path, loaded, Renderer(loaded.tokenizer, PromptSettings()), 256))


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_text_and_chat_contexts_are_scored_in_order(tmp_path: Path):
    rows = [
        {"context": "The capital of France is", "continuation": " Paris"},
        {"context": CHAT, "continuation": "the spoon"},
        {"context": "Wool", "continuation": " keeps people warm."},
    ]
    results = scored(written(tmp_path / "pairs.jsonl", *rows))
    loaded = tiny_models.loaded()
    words = loaded.tokenizer
    for row, result in zip(rows, results):
        if isinstance(row["context"], str):
            context = words(row["context"])["input_ids"]
        else:
            context = words.apply_chat_template(row["context"], add_generation_prompt=True)["input_ids"]
        continuation = words(row["continuation"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([context + continuation])).logits.log_softmax(-1)[0]
        expected = sum(float(logits[len(context) + i - 1, token]) for i, token in enumerate(continuation))
        assert result == {"logprob": pytest.approx(expected, abs=1e-4), "num_tokens": len(continuation)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"context": "a", ', r"pairs.jsonl, line 2: not valid JSON"),
        ({"context": "a", "continuations": "b"}, r"line 2: field 'continuation' is missing .*'continuations'"),
        ({"contxt": "a", "continuation": "b"}, r"line 2: field 'context' is missing .*'contxt'"),
        ({"context": "a", "continuation": 3}, "line 2: continuation must be a text"),
        ({"context": [{"role": "user"}], "continuation": "b"}, "line 2: context must be"),
        ([1, 2], "line 2: expected"),
        ({"context": "a", "continuation": ""}, "line 2: the continuation has no tokens"),
        ({"context": "a " * 600, "continuation": "b"}, r"line 2: .* tokens, the model's limit is 512"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_scored(row: object, message: str, tmp_path: Path):
    path = written(tmp_path / "pairs.jsonl", {"context": "a", "continuation": " b"}, row)
    loaded = tiny_models.loaded()
    results = score_file(path, loaded, Renderer(loaded.tokenizer, PromptSettings()))
    with pytest.raises(DataError, match=message):
        next(results)


def test_a_missing_or_empty_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        read_pairs(written(tmp_path / "empty.jsonl"))
