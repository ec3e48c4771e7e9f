"""Parser of the teacher's replies: whatever comes, no exception, nothing invented, in linear time.

    python benchmarks/parsing.py [--count 100000] [--seed 0]

Good replies in both formats are mutated (deletions, swaps, duplications, truncation, Unicode noise, JSON inside
JSON, splices of other replies), mixed from the parser's own marks, or replaced by noise. A field counts as
invented when a word of it does not occur in the reply, escapes and markup aside. Large and deeply nested replies
are timed at two sizes: a ratio of 4 for four times the length is linear.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import string
import time
from collections import Counter
from collections.abc import Callable, Iterator

from lamer.synthesis.parse import ParsedItem, parse

_WORDS = (
    "anchor basket candle drawer engine feather garden hammer island jacket kettle ladder mirror needle orchard "
    "naïve Größe été 汤匙 вода 42 $15 3.5 don't x=2 half-full"
)
WORDS = _WORDS.split()
NOISE = string.printable + "éß汤：，（）“”\u200b\u202e\u2028\ud83d\ufeff\x00\U0001f600"
_MARKS = (
    "Question: |Options: |Answer: |Explanation: |Solution: |问题：|Antwort: |(A) |B. |C) |(D)|**|```|```json|"
    '1. |- |\n|\n\n|{|}|[|]|"|\\|:|,|"question": |"options": |"answer": |"explanation": |{"A": "x"}|null|'
    '1e9|\\u00e9|\\ud83d|\\"|<think>|</think>|......|Example 3'
)
MARKS = _MARKS.split("|")


def sentence(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count)).capitalize()


def good_reply(rng: random.Random) -> tuple[str, int]:
    """A sound reply of one to four examples in one of the two formats, and their number."""
    is_json, count = rng.random() < 0.5, rng.randint(1, 4)
    items = []
    for _ in range(count):
        question, explanation = sentence(rng, 12) + "?", sentence(rng, 20) + "."
        options, slot = [f"{sentence(rng, 4)} {letter}" for letter in "xyz"], rng.randrange(3)
        letter = "ABC"[slot]
        if is_json:
            shown = rng.choice([options, dict(zip("ABC", options))])
            answer = rng.choice([letter, f"({letter}) {options[slot]}", options[slot]])
            items.append({"question": question, "options": shown, "explanation": explanation, "answer": answer})
        else:
            shape = rng.choice(["({}) {} ", "{}) {}\n", "{}. {}\n"])
            listed = "".join(shape.format(label, text) for label, text in zip("ABC", options)).strip()
            listed = f"\n{listed}" if "\n" in listed else listed
            answer = rng.choice([f"({letter})", letter, f"({letter}) {options[slot]}"])
            lines = [f"Options: {listed}", f"Answer: {answer}", f"Explanation: {explanation}"]
            if rng.random() < 0.5:
                lines = [lines[2], lines[0], lines[1]]
            items.append("\n".join([f"Question: {question}", *lines]))
    if not is_json:
        return "\n\n".join(items), count
    return json.dumps({"examples": items}, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2])), count


def deleted(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    return text[:start] + text[start + rng.randint(1, 30) :]


def doubled(text: str, rng: random.Random) -> str:
    start, length = rng.randrange(len(text) + 1), rng.randint(1, 200)
    return text[: start + length] + text[start:]


def swapped(text: str, rng: random.Random) -> str:
    a, b, c = sorted(rng.randrange(len(text) + 1) for _ in range(3))
    return text[:a] + text[b:c] + text[a:b] + text[c:]


def cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def noisy(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    return text[:start] + "".join(rng.choice(NOISE) for _ in range(rng.randint(1, 6))) + text[start:]


def marked(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    return text[:start] + rng.choice(MARKS) + text[start:]


def wrapped(text: str, rng: random.Random) -> str:
    return rng.choice(
        [json.dumps(text), json.dumps({"reply": text}), f"```\n{text}\n```", f"[[{text}]]", f"Sure!\n\n{text}"]
    )


def spliced(text: str, rng: random.Random) -> str:
    return cut(text, rng) + good_reply(rng)[0]


MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (
    deleted, doubled, swapped, cut, noisy, marked, wrapped, spliced,
)  # fmt: skip


def replies(count: int, seed: int) -> Iterator[tuple[str, str, int]]:
    """Kind, reply, examples that it holds (known for the good ones only)."""
    rng = random.Random(seed)
    for number in range(count):
        share = number % 10
        text, written = good_reply(rng)
        if share == 0:
            yield "good", text, written
        elif share == 1:
            yield "noise", "".join(rng.choice(NOISE) for _ in range(rng.randint(0, 400))), 0
        elif share == 2:
            yield "marks", "".join(rng.choice(MARKS) for _ in range(rng.randint(0, 60))), 0
        else:
            mutations = [rng.choice(MUTATIONS) for _ in range(rng.choice([1, 1, 1, 2, 5]))]
            for mutation in mutations:
                text = mutation(text, rng)
            yield f"mutated: {mutations[0].__name__}" if len(mutations) == 1 else "mutated several times", text, 0


def written_in(reply: str) -> str:
    """Letters and digits of a reply as written, and with its escapes resolved once and twice."""
    texts = [reply]
    for _ in range(2):
        texts.append(re.sub(r"(?s)\\(?:u([0-9a-fA-F]{4})|(.))", resolved, texts[-1]))
    whole = (text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts)
    return "\n".join("".join(c for c in text if c.isalnum()) for text in whole)


def resolved(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else {"n": "\n", "t": "\t", "r": "\r"}.get(match[2], match[2])


def num_invented(items: list[ParsedItem], reply: str) -> int:
    """Fields with a word that the reply does not hold."""
    if not items:
        return 0
    written = written_in(reply)
    fields = [
        text for item in items for text in (item.question, item.answer, item.explanation, *(item.options or ()))
    ]
    return sum(
        any("".join(c for c in word if c.isalnum()) not in written for word in field.split())
        for field in fields
        if field
    )


def run(count: int, seed: int) -> None:
    totals: dict[str, Counter[str]] = {}
    seconds: list[float] = []
    for kind, reply, written in replies(count, seed):
        tally = totals.setdefault(kind, Counter())
        started = time.process_time()
        try:
            items = parse(reply)
        except Exception as error:
            tally["exceptions"] += 1
            print(f"{type(error).__name__}: {error}: {reply[:200]!r}")
            continue
        seconds.append(time.process_time() - started)
        sound = sum(item.problem is None for item in items)
        tally.update(replies=1, parsed=bool(items), items=len(items), sound=sound)
        tally["exact"] += kind == "good" and sound == len(items) == written
        invented = num_invented(items, reply)
        tally["invented"] += invented
        if invented:
            print(f"invented: {reply[:300]!r}")
    print(f"{'kind':26}{'replies':>9}{'parsed':>8}{'items':>9}{'sound':>9}{'invented':>9}{'exceptions':>11}")
    for kind, tally in sorted(totals.items()):
        share = tally["parsed"] / max(tally["replies"], 1)
        print(
            f"{kind:26}{tally['replies']:9}{share:8.1%}{tally['items']:9}{tally['sound']:9}{tally['invented']:9}"
            f"{tally['exceptions']:11}"
        )
    good = totals["good"]
    print(f"good replies read in full: {good['exact'] / good['replies']:.2%}")
    seconds.sort()
    mean, tail, longest = sum(seconds) / len(seconds), seconds[int(len(seconds) * 0.99)], seconds[-1]
    print(
        f"CPU time per reply: mean {mean * 1e3:.3f} ms, 99th percentile {tail * 1e3:.3f} ms, "
        f"longest {longest * 1e3:.3f} ms"
    )


def run_large() -> None:
    rng = random.Random(0)
    text = good_reply(rng)[0]
    while text.startswith("{"):
        text = good_reply(rng)[0]
    as_json = json.dumps({"question": "q?", "options": ["x", "y", "z"], "explanation": "e", "answer": "A"})
    units = {
        "sound text examples": text + "\n\n",
        "sound JSON examples, one a line": as_json + "\n",
        "one JSON list": as_json + ",",
        "[": "[",
        '{"a":': '{"a":',
        '[{"question":': '[{"question":',
        "quotation marks": '"',
        "escaped quotation marks": '\\"',
        "labels": "Question: ",
        "labels, one a line": "Answer: A\n",
        "options": "(A) x (B) y ",
        "line breaks": "\n",
        "blanks": " ",
        "asterisks": "**a",
        "letters": "a",
        "words": "word ",
        "short lines": "a b\n",
    }
    print(f"\n{'reply of 1 MB':34}{'items':>8}{'CPU s':>9}{'x 1/4 MB':>10}")
    for name, unit in units.items():
        times = []
        for size in (250_000, 1_000_000):
            body = (unit * (size // len(unit) + 1))[:size]
            reply = f'{{"examples": [{body}' if name == "one JSON list" else body
            started = time.process_time()
            items = parse(reply)
            times.append(time.process_time() - started)
        print(f"{name:34}{len(items):8}{times[1]:9.2f}{times[1] / times[0]:10.1f}", flush=True)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--count", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    run(given.count, given.seed)
    run_large()
