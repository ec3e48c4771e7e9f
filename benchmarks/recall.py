"""How often the fact that answers a query is among the facts retrieved for it, on the embedded world.

python benchmarks/recall.py --encoder FOLDER      # without --encoder: BM25 alone
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lamer.knowledge.retrieve import Bm25Retriever, HybridRetriever, retrieval_text
from lamer.microworld import World

TOP_K = (1, 4, 8)


def recall(hits: Sequence[Sequence[tuple[int, float]]], gold: Sequence[int], top_k: int) -> float:
    return sum(g in [index for index, _ in found[:top_k]] for found, g in zip(hits, gold)) / len(gold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="folder of a sentence encoder")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    print("| world | retriever | " + " | ".join(f"recall@{k}" for k in TOP_K) + " |\n" + "|---" * 5 + "|")
    for seed in options.seed:
        world = World.build(seed)
        corpus = world.corpus()
        place = {fact.id: index for index, fact in enumerate(corpus)}
        queries = world.queries()
        texts, gold = [retrieval_text(query) for query in queries], [place[world.gold_fact(q.id)] for q in queries]
        retrievers = {"bm25": Bm25Retriever([fact.text for fact in corpus])}
        if options.encoder:
            from sentence_transformers import SentenceTransformer

            from lamer.knowledge.retrieve import DenseRetriever

            model = SentenceTransformer(options.encoder)

            def encode(batch: Sequence[str], model: SentenceTransformer = model) -> object:
                return model.encode(list(batch), normalize_embeddings=True)

            dense = DenseRetriever([encode([fact.text for fact in corpus])], encode)
            retrievers |= {"dense": dense, "hybrid": HybridRetriever(retrievers["bm25"], dense)}
        for name, retriever in retrievers.items():
            hits = retriever.search(texts, max(TOP_K))
            shares = " | ".join(f"{recall(hits, gold, k):.3f}" for k in TOP_K)
            print(f"| {seed} | {name} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
