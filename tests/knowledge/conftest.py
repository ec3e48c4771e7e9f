"""A tiny real sentence encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

INSTRUCTION = "represent this sentence for searching relevant passages : "
WORDS = [
    *INSTRUCTION.split(),
    "acid",
    "is",
    "burns",
    "skin",
    "salt",
    "a",
    "spice",
    "ice",
    "melts",
    "cold",
    "why",
    "does",
]


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> Path:
    """A BERT of one layer with random weights, pooled by its first token as BGE is."""
    pytest.importorskip("sentence_transformers")
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    source = tmp_path_factory.mktemp("bert")
    (source / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "."]))
    BertTokenizerFast(vocab=str(source / "vocab.txt")).save_pretrained(source)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS) + 6, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(source)
    word = models.Transformer(str(source), max_seq_length=32)
    pooling = models.Pooling(16, pooling_mode="cls")
    folder = tmp_path_factory.mktemp("encoder")
    SentenceTransformer(modules=[word, pooling], device="cpu").save(str(folder))
    return folder
