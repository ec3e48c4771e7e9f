"""Texts as words, for comparing them (pure)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_INVISIBLE = re.compile("[\\u00ad\\u200b-\\u200f\\u2060-\\u2064\\ufeff]")
"""Soft hyphen, zero-width spaces and the like: what nobody sees separates no words."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")

ARTICLES = frozenset({"a", "an", "the"})
_STOP_WORDS = (
    "about all also am and any are as at be because been being both but by can could did do does doing "
    "during each either else few for from had has have having he her here hers him his how i if in into "
    "is it its just may me might much must my of off on once one only or other our out own same shall "
    "she should so some such than that their them then there these they this those through to too until "
    "up upon us very was we were what when where which while who whom whose why will with within would "
    "you your happened result cause following likely"
)
STOP_WORDS = ARTICLES | frozenset(_STOP_WORDS.split())
"""Words that say little about what a question is about; the last ones are those of question forms. Words that turn
a meaning round (not, before, more, under) are none of them."""


def without_invisible(text: str) -> str:
    """`text` without characters that nobody sees."""
    return text if text.isascii() else _INVISIBLE.sub("", text)


def plain_words(text: str) -> list[str]:
    """Lower-case words in order, articles left out."""
    folded = unicodedata.normalize("NFKC", without_invisible(text)).casefold()
    return [word for word in _WORD.findall(folded) if word not in ARTICLES]


def words(text: str) -> list[str]:
    """The same, plural `s` and possessive taken off."""
    return [stem(word) for word in plain_words(text)]


def stem(word: str) -> str:
    """`dogs` and `dog's` as `dog`; nothing more, so that different words stay different."""
    for ending in ("'s", "’s"):
        word = word.removesuffix(ending)
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


_STOP_STEMS = frozenset(stem(word) for word in STOP_WORDS)


def content_words(text: str) -> frozenset[str]:
    """The words that carry the meaning; all words of a text that has no others."""
    found = words(text)
    return frozenset(word for word in found if word not in _STOP_STEMS) or frozenset(found)


def contains(words_of_text: Sequence[str], phrase: Sequence[str]) -> bool:
    """Whether the words of `phrase` follow one another in the text; an empty phrase never does."""
    if not phrase:
        return False
    text, searched = f" {' '.join(words_of_text)} ", f" {' '.join(phrase)} "
    return searched in text


def ngrams(sequence: Sequence[str], n: int) -> set[tuple[str, ...]]:
    """All runs of `n` words."""
    return {tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)}


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared words over all words; 1.0 for equal sets, also for two empty ones.

    Source: Jaccard, The distribution of the flora in the alpine zone, New Phytologist 11 (1912).
    """
    if not first and not second:
        return 1.0
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)
