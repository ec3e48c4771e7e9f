"""Does a text quote a fact? Are two options the same? (pure)

Both are asked of texts whose numbers are written in one way ("eight" and "8") and whose contractions are spelled
out ("don't" and "do not").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from lamer.synthesis.words import ARTICLES, contains, ngrams, plain_words, stem, without_invisible

QUOTE_NGRAM = 3
QUOTE_SHARE = 0.7
"""A fact of at least five words is quoted when this share of its three-word runs stands in one text."""
MIN_QUOTED_WORDS = 5

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = {word: number for number, word in enumerate(_ONES)} | {
    word: 10 * number for number, word in enumerate(_TENS, start=2)
}
_WHOLE_CONTRACTIONS = {"can't": ("can", "not"), "cannot": ("can", "not"), "won't": ("will", "not")}
_ENDS = " .,;:!?\"'“”‘’*_`"
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})")
_ABOUT_OPTIONS = re.compile(
    r"(?:all|none|both|neither|either|any|some|two|one|each)\s+(?:(?:of\s+)?(?:the\s+|these\s+|those\s+)?"
    r"(?:above|options?|choices?|answers?|others|other\s+options)|of\s+(?:these|those))"
    r"(?:\s+(?:options?|choices?|answers?|above))?(?:\s+(?:is|are|may\s+be|could\s+be)\s+\w+)?",
    re.IGNORECASE,
)


def same_numbers(words: Sequence[str]) -> list[str]:
    """The words with numbers up to 99 as digits (`twenty one` as `21`) and negations spelled out."""
    return list(_unified(words))


def _unified(words: Sequence[str]) -> Iterator[str]:
    tens: int | None = None
    for word in words:
        number = _NUMBERS.get(word)
        if tens is not None:
            if number is not None and 0 < number < 10:
                yield str(tens + number)
                tens = None
                continue
            yield str(tens)
            tens = None
        if number is not None and number >= 20:
            tens = number
        elif number is not None:
            yield str(number)
        else:
            yield from _spelled_out(word)
    if tens is not None:
        yield str(tens)


def _spelled_out(word: str) -> tuple[str, ...]:
    plain = word.replace("’", "'")
    if plain.endswith("n't") or plain == "cannot":
        return _WHOLE_CONTRACTIONS.get(plain) or (plain.removesuffix("n't"), "not")
    return (word,)


def is_quoted(fact: str, text: str) -> bool:
    """Whether the fact stands in the text.

    All its words in a row, case, punctuation, articles and (from three words on) plural `s` aside; or, for facts
    of five words and more, at least 70 % of its three-word runs.
    """
    plain_fact, plain_text = same_numbers(plain_words(fact)), same_numbers(plain_words(text))
    if contains(plain_text, plain_fact):
        return True
    fact_words, text_words = [stem(word) for word in plain_fact], [stem(word) for word in plain_text]
    if len(fact_words) >= QUOTE_NGRAM and contains(text_words, fact_words):
        return True
    if len(fact_words) < MIN_QUOTED_WORDS:
        return False
    runs = ngrams(fact_words, QUOTE_NGRAM)
    return len(runs & ngrams(text_words, QUOTE_NGRAM)) >= QUOTE_SHARE * len(runs)


def is_said_verbatim(fact: str, text: str) -> bool:
    """Whether all words of the fact stand in the text in a row."""
    return contains(same_numbers(plain_words(text)), same_numbers(plain_words(fact)))


def option_key(option: str) -> str:
    """What two options that are the same share; empty for an empty one.

    Case, articles in front of a word, punctuation around words, contractions and the way numbers are written do
    not count; signs, brackets and everything inside a word do (`-3` is not `3`, `[0, 1)` is not `[0, 1]`).
    """
    folded = unicodedata.normalize("NFKC", without_invisible(option)).casefold()
    words = [word for token in _HYPHEN.sub(" ", folded).split() if (word := token.strip(_ENDS))]
    kept = [word for word, after in zip(words, [*words[1:], ""]) if word not in ARTICLES or not after]
    return " ".join(same_numbers(kept))


def is_about_options(option: str, letters: str) -> bool:
    """Whether an option is made of others: `All of the above`, `Both A and B`, `(A) or (C)`.

    Args:
        option: The option.
        letters: Those of the item's options.
    """
    text = option.strip(_ENDS)
    letter = rf"(?:(?i:options?)\s+)?(?:[(\[][{letters}][)\]]|[{letters}])"
    listed = rf"(?:(?i:both|either|neither|all|only)\s+)?{letter}(?:\s*(?:,|and|or|nor|&|,\s*and)\s*{letter})+"
    return bool(
        _ABOUT_OPTIONS.fullmatch(text)
        or re.fullmatch(listed + r"(?:\s+(?:only|together|are\s+(?:correct|right|true)))?", text)
    )
