"""Is an item a training example? Each check says no with one of these reasons (pure).

| reason | what it means |
|---|---|
| unparsed | the reply holds nothing like an example |
| filtered | the server's content filter kept the reply back |
| truncated | the reply was cut off inside this item |
| no question, no options, no answer | the field is missing |
| answer not an option, ambiguous answer | the answer names no option, or more than one |
| template echoed | a field still holds a placeholder of the prompt, as in `[QUESTION]` |
| too long | a field is longer than any short example needs |
| wrong number of options | not as many as asked for |
| duplicate options | two options are the same up to case and punctuation, or one is empty |
| no explanation | the explanation is missing |
| explanation contradicts answer | the explanation names another option as right, or this one as wrong |
| fact quoted | the fact stands in the question or in an option, or most of its wording does |
| copies reference | a near-duplicate of the query it was written for |
| duplicate | a near-duplicate of an example already kept in this run |
| surplus | fine, but more than was asked for |

What `lamer.synthesis.verify` adds, where it is switched on:

| reason | what it means |
|---|---|
| not easier with the fact | the fact does not make the answer more probable for the model under diagnosis |
| student cannot read it | the model cannot score it (too long for it) |
| blind answers disagree | asked again without the answer, the teacher gives another one too often |
| judge: not one right option, judge: wrong answer, judge: explanation does not support the answer, \
judge: fact not needed | the independent judge says so |
| judge unreadable | the judge's reply is no verdict |
| not verified | a server did not answer |

Also here: the letters of the right answers are made uniform over the run.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lamer.synthesis.duplicates import Index, Subject, are_near, subject_of
from lamer.synthesis.parse import LETTERS, ParsedItem, comparable
from lamer.synthesis.words import contains, ngrams, plain_words, words

UNPARSED = "unparsed"
FILTERED = "filtered"
TRUNCATED = "truncated"
TEMPLATE_ECHOED = "template echoed"
TOO_LONG = "too long"
WRONG_NUMBER_OF_OPTIONS = "wrong number of options"
DUPLICATE_OPTIONS = "duplicate options"
NO_EXPLANATION = "no explanation"
CONTRADICTION = "explanation contradicts answer"
FACT_QUOTED = "fact quoted"
COPIES_REFERENCE = "copies reference"
DUPLICATE = "duplicate"
SURPLUS = "surplus"
BLOCKED = frozenset({DUPLICATE, SURPLUS})
"""Reasons that fall away when an example kept before is dropped."""

MAX_QUESTION_LENGTH = 1500
MAX_OPTION_LENGTH = 400
MAX_EXPLANATION_LENGTH = 3000
"""In characters."""

QUOTE_NGRAM = 3
QUOTE_SHARE = 0.7
"""A fact of at least five words is quoted when this share of its three-word runs stands in one text."""
MIN_QUOTED_WORDS = 5

_ECHO = re.compile(
    r"\[\s*(?:question|candidate options|the option|a concise|options?|answer|explanation|solution)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Kept:
    """An item that passed, ready to become an example."""

    question: str
    options: tuple[str, ...]
    answer: int
    explanation: str
    raw: str = ""
    """The teacher's own words."""


def structural_reason(item: ParsedItem, num_options: int, *, is_cut: bool = False) -> str | None:
    """Why an item is no example by its form alone, or None.

    Args:
        item: The item.
        num_options: Options asked for.
        is_cut: Whether the reply ended at the length limit.
    """
    if is_cut and item.is_last and (item.problem is not None or item.ends_with in ("explanation", "options")):
        return TRUNCATED
    if item.problem is not None:
        return item.problem
    question, options, explanation = item.question or "", item.options or (), item.explanation or ""
    if any(_ECHO.match(text) for text in (question, *options, explanation)):
        return TEMPLATE_ECHOED
    if len(options) != num_options:
        return WRONG_NUMBER_OF_OPTIONS
    if len({comparable(option) for option in options} - {""}) != num_options:
        return DUPLICATE_OPTIONS
    if not explanation:
        return NO_EXPLANATION
    longest = max(map(len, options))
    if (
        len(question) > MAX_QUESTION_LENGTH
        or longest > MAX_OPTION_LENGTH
        or len(explanation) > MAX_EXPLANATION_LENGTH
    ):
        return TOO_LONG
    assert item.answer_index is not None
    return CONTRADICTION if contradicts(explanation, item.answer_index, num_options) else None


def is_quoted(fact: str, text: str) -> bool:
    """Whether the fact stands in the text.

    All its words in a row, case, punctuation, articles and (from three words on) plural `s` aside; or, for facts
    of five words and more, at least 70 % of its three-word runs.
    """
    if contains(plain_words(text), plain_words(fact)):
        return True
    fact_words, text_words = words(fact), words(text)
    if len(fact_words) >= QUOTE_NGRAM and contains(text_words, fact_words):
        return True
    if len(fact_words) < MIN_QUOTED_WORDS:
        return False
    runs = ngrams(fact_words, QUOTE_NGRAM)
    return len(runs & ngrams(text_words, QUOTE_NGRAM)) >= QUOTE_SHARE * len(runs)


class RunChecks:
    """The checks against what the run holds already; examples must come in their final order.

    Args:
        similarity: Jaccard similarity of content words from which on two questions are near-duplicates.
    """

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity
        self._kept = Index(similarity)

    def reason(self, item: ParsedItem, fact: str, reference: Subject | None) -> str | None:
        """Why an item that is sound in itself cannot be kept, or None.

        Args:
            item: An item without a `structural_reason`.
            fact: The fact it was written for.
            reference: The query it was written for, or None.
        """
        question, options = item.question or "", item.options or ()
        if any(is_quoted(fact, text) for text in (question, *options)):
            return FACT_QUOTED
        subject = subject_of(question, options, fact)
        if reference is not None and are_near(subject, reference, self.similarity):
            return COPIES_REFERENCE
        return DUPLICATE if self._kept.find(subject) else None

    def keep(self, item: ParsedItem, fact: str) -> Kept:
        """Remember an item as kept."""
        assert item.question is not None
        assert item.options is not None
        assert item.explanation is not None
        assert item.answer_index is not None
        self._kept.add(subject_of(item.question, item.options, fact))
        return Kept(item.question, item.options, item.answer_index, item.explanation, item.raw)

    def drop(self, kept: Kept, fact: str) -> None:
        """Forget an item that was kept: it blocks no later one."""
        self._kept.remove(subject_of(kept.question, kept.options, fact))


# Letters

_PAREN = re.compile(r"[(\[]([A-Z])[)\]]")
_NAMED = re.compile(
    r"\b((?:[Oo]ptions?|[Cc]hoices?|[Aa]nswers?|[Ll]etters?)(?:\s+(?:is|was|would\s+be|must\s+be|should\s+be))?[\s:]{1,3}"
    r"\*{0,2})([A-Z])(?![\w'’])"
)
_BARE = re.compile(r"(?<![\w(\['’-])([A-Z])(?![\w)\]'’-])")
_RIGHT = re.compile(
    r"\b(?:the\s+)?(?:(?:correct|right|best|true)\s+(?:answer|option|choice)|answer)\s*(?:is|:|must\s+be|would\s+be)"
    r"\s*(?:therefore\s+|thus\s+)?(?:option\s+|choice\s+)?[(\[]?([A-Z])(?:[)\]]|(?=[\s.,;:]|$))",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"(?:[(\[]([A-Z])[)\]]|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+([A-Z])\b)\s+(?:is|would\s+be)\s+(?:clearly\s+|the\s+|an?\s+)?"
    r"(not\s+)?(?:the\s+)?(correct|right|incorrect|wrong)\b"
)
_LONE_A = re.compile(
    r"[^\s.!?:]\s{1,3}A(?![\w'’])|(?:^|[.!?:]\s{1,3}|\n)A\s(?:is|was|and|or|would|does|has|can|cannot|because)\b"
)
"""A capital A inside a sentence, or one that a sentence starts with and that is no article."""
_POSITION = re.compile(r"\b(?:of the|the) (?:above|options|others)\b|\b(?:both|neither) \(?[A-Z]\b", re.IGNORECASE)


def contradicts(explanation: str, answer: int, num_options: int) -> bool:
    """Whether the explanation names another letter as the right one, or this letter as wrong.

    Read literally from `the answer is (B)`, `option B is wrong` and the like; an explanation without letters never
    contradicts.
    """
    for match in _RIGHT.finditer(explanation):
        letter = match[1]
        if (
            letter.isupper()
            and letter in LETTERS[:num_options]
            and not _is_article(match)
            and letter != LETTERS[answer]
        ):
            return True
    for match in _VERDICT.finditer(explanation):
        says_right = (match[4] in ("correct", "right")) != bool(match[3])
        if says_right != ((match[1] or match[2]) == LETTERS[answer]):
            return True
    return False


def _is_article(match: re.Match[str]) -> bool:
    """`the answer is A dog`: a letter without parentheses and with more text behind."""
    return match[1] == "A" and match.string[match.end(1) : match.end(1) + 1] == " "


def mentions_letters(text: str, num_options: int) -> bool:
    """Whether the text names options by letters in parentheses or after `option`, `answer`, ..."""
    found = [match[1] for match in _PAREN.finditer(text)] + [match[2] for match in _NAMED.finditer(text)]
    return any(letter in LETTERS[:num_options] for letter in found)


def is_tied_to_order(kept: Kept) -> bool:
    """Whether the options must stay in their order.

    So it is when the question or an option speaks of positions or letters, and when the explanation holds a lone
    letter that may or may not be an option's (`vitamin C`).
    """
    num_options = len(kept.options)
    for text in (kept.question, *kept.options):
        if _POSITION.search(text) or mentions_letters(text, num_options):
            return True
    rest = _NAMED.sub(" ", _PAREN.sub(" ", kept.explanation))
    lone = {match[1] for match in _BARE.finditer(rest)} & set(LETTERS[:num_options])
    return bool(lone - {"A"}) or _LONE_A.search(rest) is not None


def move_answer(kept: Kept, position: int) -> Kept:
    """The same example with the right option at `position`.

    The other options keep their order; letters in the explanation follow their options.
    """
    order = [i for i in range(len(kept.options)) if i != kept.answer]
    order.insert(position, kept.answer)
    renamed = {LETTERS[old]: LETTERS[new] for new, old in enumerate(order)}
    explanation = _PAREN.sub(
        lambda match: match[0].replace(match[1], renamed.get(match[1], match[1])), kept.explanation
    )
    explanation = _NAMED.sub(lambda match: match[1] + renamed.get(match[2], match[2]), explanation)
    return Kept(kept.question, tuple(kept.options[i] for i in order), position, explanation, kept.raw)


def balance_letters(examples: Sequence[Kept], seed: int) -> list[Kept]:
    """The examples with their options re-ordered so that the letters of the right answers are uniform.

    Every letter gets as many examples as any other, up to one; examples tied to their order keep it and the others
    make up for them. Which example gets which letter is a seeded shuffle, so that the letter does not follow the
    order of severity.

    Args:
        examples: In their final order.
        seed: Of the shuffle.
    """
    if not examples:
        return []
    num_options = max(len(example.options) for example in examples)
    tied = [is_tied_to_order(example) for example in examples]
    counts = Counter(example.answer for example, is_tied in zip(examples, tied) if is_tied)
    positions: list[int] = []
    for _ in range(tied.count(False)):
        rarest = min(range(num_options), key=lambda position: (counts[position], position))
        counts[rarest] += 1
        positions.append(rarest)
    random.Random(f"letters {seed}").shuffle(positions)
    free = iter(positions)
    return [example if is_tied else move_answer(example, next(free)) for example, is_tied in zip(examples, tied)]
