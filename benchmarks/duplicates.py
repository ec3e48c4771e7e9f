"""Near-duplicates among many questions: this project's exact index against MinHash with LSH (datasketch).

python benchmarks/duplicates.py --size 10000 [--method prefix | minhash] [--similarity 0.8]

Questions of 8 to 14 words drawn by Zipf's law; one in ten is an earlier one with a word or two changed. Both
decide in the order of the questions and keep what is no near-duplicate of what they kept. Recall is against the
exact index: of the questions it calls duplicates, how many the other one does. datasketch is no dependency of
lamer: pip install datasketch.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator

import numpy as np

from lamer.progress import peak_memory_mib
from lamer.synthesis.duplicates import Index, Subject
from lamer.synthesis.words import jaccard

VOCABULARY = 30_000
NUM_PERM = 128


def questions(size: int, seed: int = 0) -> Iterator[frozenset[str]]:
    rng, draw = random.Random(seed), np.random.default_rng(seed)
    weights = 1 / np.arange(20, VOCABULARY + 20)
    weights /= weights.sum()
    recent: list[frozenset[str]] = []
    for start in range(0, size, 10_000):
        for row in draw.choice(VOCABULARY, size=(min(10_000, size - start), 14), p=weights):
            if recent and rng.random() < 0.1:
                words = sorted(rng.choice(recent))
                for _ in range(rng.randrange(3)):
                    words[rng.randrange(len(words))] = f"w{rng.randrange(VOCABULARY)}"
                found = frozenset(words)
            else:
                found = frozenset(f"w{word}" for word in row[: rng.randrange(8, 15)])
            recent.append(found)
            if len(recent) > 200_000:
                recent = recent[100_000:]
            yield found


def by_prefix(size: int, similarity: float) -> list[bool]:
    index, decided = Index(similarity), []
    for words in questions(size):
        subject = Subject(words, frozenset())
        decided.append(index.find(subject))
        if not decided[-1]:
            index.add(subject)
    return decided


def by_minhash(size: int, similarity: float) -> list[bool]:
    """LSH gives candidates, which are compared exactly: no false duplicates, some missed."""
    from datasketch import MinHash, MinHashLSH

    # Weights for few misses (0.1 for false candidates, 0.9 for missed ones): candidates are compared anyway.
    index = MinHashLSH(threshold=similarity, num_perm=NUM_PERM, weights=(0.1, 0.9))
    kept: dict[int, frozenset[str]] = {}
    decided: list[bool] = []
    for number, words in enumerate(questions(size)):
        sketch = MinHash(num_perm=NUM_PERM, seed=1)
        sketch.update_batch([word.encode() for word in sorted(words)])
        decided.append(any(jaccard(words, kept[other]) >= similarity for other in index.query(sketch)))
        if not decided[-1]:
            index.insert(number, sketch)
            kept[number] = words
    return decided


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--method", choices=["prefix", "minhash"], default="prefix")
    parser.add_argument("--similarity", type=float, default=0.8)
    parser.add_argument("--save", help="file for the decisions, to compare two methods by")
    parser.add_argument("--against", help="file of decisions that recall is counted against")
    options = parser.parse_args()
    start = time.process_time()
    for _ in questions(options.size):
        pass
    making, memory = time.process_time() - start, peak_memory_mib()
    start = time.process_time()
    decided = (by_prefix if options.method == "prefix" else by_minhash)(options.size, options.similarity)
    seconds = time.process_time() - start - making
    line = {
        "method": options.method,
        "questions": options.size,
        "duplicates": sum(decided),
        "seconds_cpu": round(seconds, 1),
        "microseconds_each": round(seconds / options.size * 1e6, 1),
        "peak_mib": round(peak_memory_mib()),
        "peak_mib_before": round(memory),
    }
    if options.against:
        with open(options.against, encoding="utf-8") as file:
            exact = json.load(file)
        line["recall"] = sum(a and b for a, b in zip(exact, decided)) / max(sum(exact), 1)
    if options.save:
        with open(options.save, "w", encoding="utf-8") as file:
            json.dump(decided, file)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
