"""Does an example repeat a held-out text? N-gram overlap with every evaluation and held-out file of a run.

A held-out item is a question with its options, or a paragraph of plain text. Words are lower-case, without
punctuation and apostrophes (GPT-3's); a Chinese or Japanese character is a word. An example is contaminated when

    13-gram rule   its question, an option or its explanation holds 13 words in a row of a held-out question or
                   option; or all of a held-out question of 8 to 12 words
    8-gram rule    of the 8-grams of its question, 70 % or more are held out, in whatever items: a short copy
                   with a word changed at its edge, or a new beginning put before one

A question that says little alone, with fewer than eight words or fewer than four that carry meaning ("Which of
these is true?"), stands for itself and its options, all in a row and each alone.

Both rules pass over boilerplate: n-grams of the run's own prompt, those of the fact the example was written for
(the teacher is told to use it), and those in more than `MAX_ITEMS` held-out items.

An item of fewer than eight words cannot be told from chance, nor one of nothing but boilerplate; such items are
counted as `unprotected`.

The index is two sorted arrays of 64-bit hashes with the number of an item each, 12 bytes an n-gram. Hashes are
multilinear over 64-bit hashes of the words (Lemire and Kaser, Strongly universal string hashing is fast, 2014): an
n-gram that is not among N is found among them with a chance of about N / 2^64 (10 M: 5e-13), an n-gram that
is there is always found.

Sources: 13-grams, lower limit of 8 words for whole items, n-grams of more than 10 documents passed over: Brown et
al., Language models are few-shot learners, 2020, appendix C. 70 % of the 8-grams: Chowdhery et al., PaLM, 2022,
section 8. Both ask about a benchmark item in a training corpus; here a training example is asked about.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamer.rows import HUB, Row, file_format, place, read_rows
from lamer.synthesis.duplicates import MIN_QUESTION_WORDS
from lamer.synthesis.words import STOP_WORDS, without_invisible

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONG = 13
"""Words in a row that are never chance."""
SHORT = 8
"""Words of the shorter n-grams, and of the shortest text that is looked for as a whole."""
SHARE = 0.7
"""Share of an example's 8-grams that must not be held out."""
MAX_ITEMS = 10
"""An n-gram of more held-out items than that is boilerplate."""
WORDS_PER_BATCH = 1 << 20
"""Words hashed at once while the index is built."""

_ONE_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and Han: scripts that put no spaces between words."""
_WORD = re.compile(rf"[{_ONE_CHARACTER}]|[^\W_{_ONE_CHARACTER}]+")
_APOSTROPHE = re.compile("(?<=\\w)['’](?=\\w)")
_NOT_TEXT = frozenset({"id", "benchmark", "task", "source", "answer", "label", "index"})
"""Columns of a held-out file that are no part of an item's text."""


@dataclass(frozen=True, slots=True)
class HeldOutItem:
    """One item of a held-out file."""

    place: str
    """`arc.jsonl, line 3`, with its id where it has one."""
    question: str
    """The question, or the paragraph."""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overlap:
    """What an example shares with held-out texts."""

    place: str
    """The item it shares most with."""
    words: str
    """The first words in a row that both have."""
    share: float | None
    """8-gram rule: how many of its 8-grams are held out; None by the 13-gram rule."""

    def __str__(self) -> str:
        found = "" if self.share is None else f", {self.share:.0%} of its {SHORT}-word runs are held out"
        return f'{self.place}: "{self.words}"{found}'


# Words and hashes


def held_out_words(text: str) -> list[str]:
    """The words of a text as the index has them; see the top of this module."""
    folded = (
        text.casefold() if text.isascii() else unicodedata.normalize("NFKC", without_invisible(text)).casefold()
    )
    return _WORD.findall(_APOSTROPHE.sub("", folded))


def _number(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


class _Vocabulary(dict[str, int]):
    """Words to 64-bit numbers, each computed once."""

    def __missing__(self, word: str) -> int:
        self[word] = number = _number(word)
        return number


class Hasher:
    """Words to hashes of their n-grams."""

    def __init__(self) -> None:
        self._vocabulary = _Vocabulary()
        self._factors: dict[tuple[int, bool], list[int]] = {}

    def numbers(self, words: Sequence[str]) -> NDArray[np.uint64]:
        """A 64-bit number for each word, shape [num_words]."""
        import numpy as np

        return np.fromiter(map(self._vocabulary.__getitem__, words), dtype=np.uint64, count=len(words))

    def ngrams(self, numbers: NDArray[np.uint64], n: int, *, whole: bool = False) -> NDArray[np.uint64]:
        """sum_k numbers[i + k] * factor_k mod 2^64 for each i, shape [max(num_words - n + 1, 0)].

        Args:
            numbers: Of the words.
            n: Words a run.
            whole: With the factors of whole texts, so that a text of eight words is not mistaken for an 8-gram.
        """
        import numpy as np

        count = max(len(numbers) - n + 1, 0)
        total = np.zeros(count, dtype=np.uint64)
        for k, factor in enumerate(self._factors_of(n, whole)):
            total += numbers[k : k + count] * np.uint64(factor)
        return total

    def _factors_of(self, n: int, whole: bool) -> list[int]:
        if (n, whole) not in self._factors:
            self._factors[n, whole] = [_number(f"lamer n-gram {n} {whole} {k}") | 1 for k in range(n)]
        return self._factors[n, whole]


class _Gathered:
    """Hashes with the numbers of their items while an index is built."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = []
        self._items: list[NDArray[np.uint32]] = []

    def add(self, hashes: NDArray[np.uint64], items: NDArray[np.uint32]) -> None:
        """Hashes with the item of each; items come in ascending order."""
        self._hashes.append(hashes)
        self._items.append(items)

    def table(self, ignored: NDArray[np.uint64], max_items: int, is_protected: NDArray[np.bool_]) -> _Table:
        """Sorted, each hash once with the first of its items; the ignored and the frequent ones left out.

        Sets `is_protected[item]` for every item of a hash that stays.
        """
        import numpy as np

        if not sum(map(len, self._hashes)):
            return _Table(np.empty(0, np.uint64), np.empty(0, np.uint32))
        hashes, items = np.concatenate(self._hashes), np.concatenate(self._items)
        self._hashes.clear()
        self._items.clear()
        order = np.argsort(hashes, kind="stable")  # within a hash, items stay in ascending order
        hashes, items = hashes[order], items[order]
        del order
        is_first = np.ones(len(hashes), dtype=bool)
        is_first[1:] = hashes[1:] != hashes[:-1]
        is_other_item = is_first.copy()
        is_other_item[1:] |= items[1:] != items[:-1]
        starts = np.flatnonzero(is_first)
        stays = np.add.reduceat(is_other_item, starts, dtype=np.int64) <= max_items
        del is_first, is_other_item
        if len(ignored):
            stays &= ~np.isin(hashes[starts], ignored)
        is_protected[items[np.repeat(stays, np.diff(starts, append=len(hashes)))]] = True
        chosen = starts[stays]
        return _Table(hashes[chosen], items[chosen])


@dataclass(frozen=True, slots=True)
class _Table:
    """A set of hashes, each with the number of an item."""

    hashes: NDArray[np.uint64]
    """Ascending."""
    items: NDArray[np.uint32]

    def find(self, wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The item of each hash, -1 where there is none, shape [num_wanted]."""
        import numpy as np

        if not len(self.hashes) or not len(wanted):
            return np.full(len(wanted), -1, dtype=np.int64)
        places = np.searchsorted(self.hashes, wanted).clip(max=len(self.hashes) - 1)
        return np.where(self.hashes[places] == wanted, self.items[places].astype(np.int64), -1)


# The index


class HeldOut:
    """Every n-gram of the held-out items."""

    def __init__(self, items: Iterable[HeldOutItem], prompt: str = "", *, max_items: int = MAX_ITEMS) -> None:
        """
        Args:
            items: The held-out items; read once.
            prompt: The run's own prompt text; its n-grams are never held out.
            max_items: See `MAX_ITEMS`.
        """
        import numpy as np

        self._hasher = Hasher()
        self._places: list[str] = []
        long, short = _Gathered(), _Gathered()
        batch: list[_Text] = []
        num_waiting = 0
        for item in items:
            questions, options = _texts_of(item.question, item.options)
            for words in questions:
                self._add_whole(words, long)
            for words in (*questions, *options):
                batch.append(_Text(len(self._places), words))
                num_waiting += len(words)
            self._places.append(item.place)
            if num_waiting >= WORDS_PER_BATCH:
                self._add_ngrams(batch, long, short)
                batch, num_waiting = [], 0
        self._add_ngrams(batch, long, short)
        own = self._hasher.numbers(held_out_words(prompt))
        is_protected = np.zeros(len(self._places), dtype=bool)
        self._long = long.table(self._hasher.ngrams(own, LONG), max_items, is_protected)
        self._short = short.table(self._hasher.ngrams(own, SHORT), max_items, is_protected)
        self.num_unprotected = len(self._places) - int(is_protected.sum())

    def __len__(self) -> int:
        return len(self._places)

    @property
    def num_ngrams(self) -> int:
        """N-grams in the index, boilerplate left out."""
        return len(self._long.hashes) + len(self._short.hashes)

    @property
    def counts(self) -> dict[str, int]:
        """What the manifest says about it."""
        return {"items": len(self), "ngrams": self.num_ngrams, "unprotected": self.num_unprotected}

    @property
    def notes(self) -> list[str]:
        """What a user should know about it."""
        if not self.num_unprotected:
            return []
        return [
            f"{self.num_unprotected} of {len(self)} held-out items have fewer than {SHORT} words, or words that "
            "many share: no example is found to repeat them"
        ]

    def _add_whole(self, words: Sequence[str], long: _Gathered) -> None:
        """A short text as a whole."""
        import numpy as np

        if SHORT <= len(words) < LONG:
            hashes = self._hasher.ngrams(self._hasher.numbers(words), len(words), whole=True)
            long.add(hashes, np.array([len(self._places)], dtype=np.uint32))

    def _add_ngrams(self, batch: Sequence[_Text], long: _Gathered, short: _Gathered) -> None:
        """The n-grams of texts, in one go; those that reach from one text into the next are no n-grams."""
        import numpy as np

        numbers = self._hasher.numbers([word for text in batch for word in text.words])
        lengths = [len(text.words) for text in batch]
        texts = np.repeat(np.arange(len(batch)), lengths)
        items = np.repeat(np.array([text.item for text in batch], dtype=np.uint32), lengths)
        for n, gathered in ((LONG, long), (SHORT, short)):
            hashes = self._hasher.ngrams(numbers, n)
            if len(hashes):
                is_inside = texts[: len(hashes)] == texts[n - 1 :]
                gathered.add(hashes[is_inside], items[: len(hashes)][is_inside])

    def find(
        self, question: str, options: Sequence[str] = (), explanation: str = "", fact: str = ""
    ) -> Overlap | None:
        """The held-out item that an example repeats, or None.

        Args:
            question: Of the example.
            options: Of the example.
            explanation: Of the example, or its whole reply; 13-gram rule only, for a short one may well state
                common knowledge.
            fact: What the example was written for; its own n-grams do not count.
        """
        if not self._places:
            return None
        known = self._hasher.numbers(held_out_words(fact))
        questions, others = _texts_of(question, options)
        for words in (*questions, *others, held_out_words(explanation)):
            overlap = self._long_overlap(words, known)
            if overlap is not None:
                return overlap
        found = (self._short_overlap(words, known) for words in questions)
        return next((overlap for overlap in found if overlap is not None), None)

    def shared(
        self, question: str, options: Sequence[str] = (), explanation: str = "", fact: str = ""
    ) -> frozenset[int]:
        """Hashes of all held-out n-grams by which `find` finds an example; see there for the arguments."""
        known = self._hasher.numbers(held_out_words(fact))
        questions, others = _texts_of(question, options)
        hashes: set[int] = set()
        for words in (*questions, *others, held_out_words(explanation)):
            for n in range(LONG, SHORT - 1, -1):
                hashes |= self._hits(self._long, words, known, n, whole=n < LONG)
        for words in questions:
            if self._short_overlap(words, known) is not None:
                hashes |= self._hits(self._short, words, known, SHORT)
        return frozenset(hashes)

    def _hits(
        self, table: _Table, words: list[str], known: NDArray[np.uint64], n: int, *, whole: bool = False
    ) -> set[int]:
        hashes = self._hasher.ngrams(self._hasher.numbers(words), n, whole=whole)
        is_hit = table.find(hashes) >= 0
        is_hit &= ~_among(hashes, self._hasher.ngrams(known, n, whole=whole))
        return set(hashes[is_hit].tolist())

    def holds(self, item: HeldOutItem, hashes: Set[int]) -> bool:
        """Whether an item holds one of the n-grams that `shared` gave."""
        questions, others = _texts_of(item.question, item.options)
        for words in (*questions, *others):
            numbers = self._hasher.numbers(words)
            if not all(hashes.isdisjoint(self._hasher.ngrams(numbers, n).tolist()) for n in (LONG, SHORT)):
                return True
        wholes = [self._hasher.numbers(words) for words in questions if SHORT <= len(words) < LONG]
        return any(int(self._hasher.ngrams(text, len(text), whole=True)[0]) in hashes for text in wholes)

    def _long_overlap(self, words: list[str], known: NDArray[np.uint64]) -> Overlap | None:
        numbers = self._hasher.numbers(words)
        for n in range(LONG, SHORT - 1, -1):
            is_whole = n < LONG
            hashes = self._hasher.ngrams(numbers, n, whole=is_whole)
            items = self._long.find(hashes)
            if (items < 0).all():
                continue
            items[_among(hashes, self._hasher.ngrams(known, n, whole=is_whole))] = -1
            if (items >= 0).any():
                return self._overlap(words, items, n, None)
        return None

    def _short_overlap(self, words: list[str], known: NDArray[np.uint64]) -> Overlap | None:
        hashes = self._hasher.ngrams(self._hasher.numbers(words), SHORT)
        items = self._short.find(hashes)
        if (items < 0).all():
            return None
        is_known = _among(hashes, self._hasher.ngrams(known, SHORT))
        items[is_known] = -1
        num_held_out, num_asked = int((items >= 0).sum()), int((~is_known).sum())
        if not num_held_out or num_held_out < SHARE * num_asked:
            return None
        return self._overlap(words, items, SHORT, num_held_out / num_asked)

    def _overlap(self, words: list[str], items: NDArray[np.int64], n: int, share: float | None) -> Overlap:
        """The item with most of the n-grams (the first of equals) and the first run of words found in it."""
        import numpy as np

        found = items[items >= 0]
        numbers, counts = np.unique(found, return_counts=True)
        most = int(numbers[counts.argmax()])
        start = int(np.flatnonzero(items == most)[0])
        return Overlap(self._places[most], " ".join(words[start : start + n]), share)


def _among(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    import numpy as np

    return np.isin(hashes, others)


@dataclass(frozen=True, slots=True)
class _Text:
    """A text of an item, while the index is built."""

    item: int
    words: list[str]


def _texts_of(question: str, options: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """The words of the question (with its options where it says little alone), and of each option."""
    asked, others = held_out_words(question), [held_out_words(option) for option in options]
    says_enough = len(asked) >= SHORT and len(set(asked) - STOP_WORDS) >= MIN_QUESTION_WORDS
    if says_enough or not others:
        return [asked], others
    whole = [word for words in (asked, *others) for word in words]
    return [whole, *([*asked, *words] for words in others)], others


# Files


def read_held_out(paths: Sequence[str]) -> Iterator[HeldOutItem]:
    """The items of held-out files: rows of any format of `lamer.rows`, or the paragraphs of a plain text.

    A row's text is `question` and `options`, or where it has no question, all its texts in order; what is named
    in `_NOT_TEXT` is none. Lines of a plain text that follow each other are one paragraph.

    Raises:
        DataError: If a file cannot be read or has no rows.
    """
    names = [path if path.startswith(HUB) else Path(path).name for path in paths]
    for path, name in zip(paths, names if len(set(names)) == len(names) else paths):
        rows = read_rows(path)
        if not path.startswith(HUB) and file_format(path) == "text":
            yield from _paragraphs(rows, name)
        else:
            yield from (item for number, row in rows if (item := _item(row, place(name, number))) is not None)


def _item(row: Row, where: str) -> HeldOutItem | None:
    """What a row says, or None when it holds no text."""
    name = row.get("id")
    shown = f"{where} ({name})" if isinstance(name, str | int) and str(name) else where
    question = row.get("question")
    if isinstance(question, str):
        return HeldOutItem(shown, question, tuple(_texts(row.get("options"))))
    text = " ".join(part for key, value in row.items() if key not in _NOT_TEXT for part in _texts(value))
    return HeldOutItem(shown, text) if text else None


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, in order, lists and mappings (as in chats) unpacked."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for part in value.values() for text in _texts(part))
    elif isinstance(value, Iterable):
        yield from (text for part in value for text in _texts(part))


def _paragraphs(rows: Iterable[tuple[int, Row]], name: str) -> Iterator[HeldOutItem]:
    lines: list[str] = []
    first = last = 0
    for number, row in rows:
        if lines and number != last + 1:
            yield HeldOutItem(place(name, first), "\n".join(lines))
            lines = []
        first = first if lines else number
        last = number
        lines.append(row["text"])
    if lines:
        yield HeldOutItem(place(name, first), "\n".join(lines))
