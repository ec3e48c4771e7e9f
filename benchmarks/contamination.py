"""The index of held-out n-grams: size, speed, planted copies found, false alarms.

python benchmarks/contamination.py shared/data/benchmarks [--ecare shared/data/ecare] [--ngrams 10000000]

Three parts: an index over every file of the folder; one over random words of the size asked for; e-CARE questions
(real text in the form of this project's queries) against the first, hits on e-CARE's own items apart.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from lamer.progress import peak_memory_mib
from lamer.synthesis.contamination import LONG, MAX_ITEMS, HeldOut, HeldOutItem, held_out_words, read_held_out

FORMS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
FILLER = "so the baker told the miller long ago on the bridge"


def build(items: list[HeldOutItem] | Iterator[HeldOutItem]) -> tuple[HeldOut, float]:
    start = time.process_time()
    return HeldOut(items), time.process_time() - start


def windows(text: str) -> list[str]:
    """All runs of 13 words."""
    words = held_out_words(text)
    return [" ".join(words[start : start + LONG]) for start in range(len(words) - LONG + 1)]


def recall(index: HeldOut, items: list[HeldOutItem], count: int, rng: random.Random) -> tuple[int, int]:
    """13 words in a row of a question, put among other words: (found, planted). Boilerplate is never planted: how
    many items hold a run is counted here once more, by the words themselves."""
    num_items = Counter(hash(run) for item in items for run in set(windows(item.question)))
    long_enough = [item for item in items if len(held_out_words(item.question)) > LONG]
    found = planted = 0
    for item in rng.sample(long_enough, min(count, len(long_enough))):
        run = rng.choice(windows(item.question))
        if num_items[hash(run)] <= MAX_ITEMS:
            planted += 1
            found += index.find(f"{FILLER}, {run.upper()}! {FILLER}?", ("one", "another")) is not None
    return found, planted


def whole_recall(index: HeldOut, items: list[HeldOutItem], count: int, rng: random.Random) -> tuple[int, int]:
    """Items copied as they are, whatever their length: (found, planted)."""
    chosen = rng.sample(items, min(count, len(items)))
    return sum(index.find(item.question, item.options) is not None for item in chosen), len(chosen)


def lookups(index: HeldOut, items: list[HeldOutItem]) -> float:
    """Examples looked up in a second of CPU."""
    start = time.process_time()
    for item in items:
        index.find(f"{FILLER} {item.question[:80]}", item.options[:3], "Because of this and that, as said.")
    return len(items) / (time.process_time() - start)


def random_items(num_ngrams: int, rng: np.random.Generator) -> Iterator[HeldOutItem]:
    """Questions of 100 random words, 88 + 93 n-grams each, until there are so many."""
    for number in range(-(-num_ngrams // 181)):
        words = rng.integers(0, 200_000, 100)
        yield HeldOutItem(f"random, line {number}", " ".join(f"w{word}" for word in words))


def ecare(folder: Path) -> Iterator[tuple[str, list[str], str]]:
    for path in sorted(folder.glob("*.jsonl*")):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                yield f"{row['premise']} {FORMS[row['ask_for']]}", row["options"], row["explanation"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="labelled files")
    parser.add_argument("--ecare", type=Path, help="folder of e-CARE files")
    parser.add_argument("--ngrams", type=int, default=10_000_000)
    options = parser.parse_args()
    rng = random.Random(0)

    items = list(read_held_out([str(path) for path in sorted(options.folder.iterdir()) if path.is_file()]))
    index, seconds = build(items)
    peak = peak_memory_mib()
    found, planted = recall(index, items, 3000, rng)
    whole, copied = whole_recall(index, items, 3000, rng)
    print("| index | items | n-grams | unprotected | build, s CPU | peak MiB | examples/s | 13 words copied |")
    print("|---" * 8 + "|")
    print(
        f"| {options.folder.name} | {len(index):,} | {index.num_ngrams:,} | {index.num_unprotected} | "
        f"{seconds:.1f} | {peak:.0f} | {lookups(index, items[:3000]):,.0f} | {found} of {planted} found |",
        flush=True,
    )
    print(f"items copied as they are: {whole} of {copied} found", flush=True)
    if options.ecare is not None:
        asked = hits = own = 0
        for question, choices, explanation in ecare(options.ecare):
            overlap = index.find(question, choices, explanation)
            asked += 1
            hits += overlap is not None
            own += overlap is not None and "ecare" in overlap.place
        print(
            f"e-CARE: {asked:,} items, {hits} refused, {own} of them for one of e-CARE there",
            flush=True,
        )
    del items

    index, seconds = build(random_items(options.ngrams, np.random.default_rng(0)))
    peak = peak_memory_mib()
    sample = list(islice(random_items(options.ngrams, np.random.default_rng(0)), 3000))
    found, planted = recall(index, sample, 3000, rng)
    fresh = list(random_items(3000 * 181, np.random.default_rng(1)))
    false_alarms = sum(index.find(item.question) is not None for item in fresh)
    print(
        f"| random | {len(index):,} | {index.num_ngrams:,} | {index.num_unprotected} | {seconds:.1f} | "
        f"{peak:.0f} | {lookups(index, fresh):,.0f} | {found} of {planted} found |"
    )
    print(
        f"false alarms on {len(fresh):,} fresh random questions: {false_alarms}; chance of one for an n-gram "
        f"that is not held out: {index.num_ngrams / 2**64:.1e}"
    )


if __name__ == "__main__":
    main()
