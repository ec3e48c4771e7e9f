"""Corpus, encoders and retrieval: which facts belong to which query."""

from __future__ import annotations

from lamer.knowledge.corpus import CorpusReport, load_facts
from lamer.knowledge.retrieve import (
    Bm25Retriever,
    DenseRetriever,
    HybridRetriever,
    Retriever,
    retrieval_text,
)

__all__ = [
    "Bm25Retriever",
    "CorpusReport",
    "DenseRetriever",
    "HybridRetriever",
    "Retriever",
    "load_facts",
    "retrieval_text",
]
