"""Options that a text names, and whether it affirms or denies them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lamer.evaluation.extraction.statements import VERDICTS
from lamer.evaluation.extraction.wording import tokens

Keys = Sequence[tuple[str, ...]]
"""The options' tokens."""

_BRACKETED = re.compile(r"[(\[]\s?\**([a-z])\**\s?[)\]]")
_SENTENCE = re.compile(
    r"[!;\n。]|\.(?!\d)|(?P<question>\?)|(?<!all )(?<!anything )\bbut\b"
    r"|\b(?:because|since|so|therefore|whereas|while|although|though)\b"
)
_DENIAL = re.compile(
    r"\b(?:not|never|neither|nor|cannot|wrong|incorrect|false|untrue|unlikely|impossible|implausible|eliminat\w+"
    r"|exclud\w+|ruled? out|rules out|ruling out|except|unlike|all but|anything but|rather than|instead of"
    r"|without)\b|n't\b|不"
)
_ASIDE = re.compile(r"(?:^|\band |[(–—-])\s*(?:not|never)\b|\b(?:rather than|instead of|unlike)\b")
"""Denies what follows it only."""
_BACK = re.compile(
    r"\s*(?:which|that|this|it|they|both|is|are|was|were|isn't|aren't|can|cannot|can't|would|does|doesn't|must|seems"
    r"|being|as)\b"
)
_OPERATORS = frozenset("+*/×÷^=<>%") | {"-"}


@dataclass(frozen=True, slots=True)
class Mention:
    """An option's text or label in a text."""

    option: int
    start: int
    """In the text without case."""
    end: int
    is_label: bool


def affirmed(text: str, keys: Keys) -> set[int]:
    """The options that a text names by text or, where it names none, by label in brackets; none that it denies.

    Denied is what stands in a part of a sentence with a negation that is not the option's own (`London is wrong`,
    `it cannot be (B)`, `all but (B)`), behind `not` in an aside (`Rome, not Paris`), or in a question.
    """
    lower = text.casefold()
    texts = _texts(text, keys)
    labels = [
        Mention(index, match.start(), match.end(), True)
        for match in _BRACKETED.finditer(lower)
        if (index := label_index(match[1], keys)) is not None
    ]
    denied = _denied(lower, [*texts, *labels])
    for mentions in (texts, labels):
        if mentions:
            taken_back = {mention.option for mention in denied if mention.is_label == mentions[0].is_label}
            return {mention.option for mention in mentions} - taken_back
    return set()


def label_index(label: str, keys: Keys) -> int | None:
    """The option of a letter, None where there is none."""
    index = ord(label.upper()) - ord("A")
    return index if 0 <= index < len(keys) else None


def is_wordy(key: tuple[str, ...]) -> bool:
    """Whether an option can be told from a label: more than one letter."""
    return bool(key) and not (len(key) == 1 and len(key[0]) == 1 and key[0].isalpha())


def is_verdict(key: tuple[str, ...]) -> bool:
    """Whether an option is `yes`, `no` or the like: any sentence may hold these words."""
    return len(key) == 1 and key[0] in VERDICTS.split("|")


def is_in_sum(before: str, after: str, key: tuple[str, ...]) -> bool:
    """Whether a number stands inside of arithmetic: `12 + 3` does not name the option 12."""
    is_number = len(key) == 1 and key[0][-1].isdigit()
    return is_number and (after in _OPERATORS - {"=", "%"} or before in _OPERATORS - {"="})


def _texts(text: str, keys: Keys) -> list[Mention]:
    """Options whose words stand in the text, outside of a longer option's words."""
    found = tokens(text)
    words = [token.text for token in found]
    heads: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        if is_wordy(key) and not is_verdict(key):
            heads.setdefault(key[0], []).append(index)
    spans = [
        (start, start + len(keys[index]), index)
        for start, word in enumerate(words)
        for index in heads.get(word, ())
        if tuple(words[start : start + len(keys[index])]) == keys[index]
        and not is_in_sum(
            words[start - 1] if start else "", words[start + 1] if start + 1 < len(words) else "", keys[index]
        )
    ]
    outer: list[tuple[int, int, int]] = []
    for span in sorted(spans, key=lambda item: (item[0], -item[1])):
        if not outer or span[1] > outer[-1][1] or span[:2] == outer[-1][:2]:
            outer.append(span)
    return [Mention(index, found[start].start, found[end - 1].end, False) for start, end, index in outer]


def _denied(lower: str, mentions: Sequence[Mention]) -> list[Mention]:
    masked = list(lower)
    for mention in mentions:
        masked[mention.start : mention.end] = "x" * (mention.end - mention.start)
    text = "".join(masked)
    waiting = sorted(mentions, key=lambda mention: mention.start)
    denied: list[Mention] = []
    start = place = 0
    for boundary in [*_SENTENCE.finditer(text), None]:
        end = boundary.start() if boundary else len(text)
        inside = place
        while place < len(waiting) and waiting[place].start < end:
            place += 1
        own = waiting[inside:place]
        if own:
            is_question = boundary is not None and boundary["question"] is not None
            denied += own if is_question else _denied_in(text, start, end, own)
        start = boundary.end() if boundary else end
    return denied


def _denied_in(text: str, start: int, end: int, mentions: Sequence[Mention]) -> list[Mention]:
    """The denied ones of one sentence, looked at between its commas."""
    denied: list[Mention] = []
    place = 0
    for part in re.finditer(r"[^,]+", text[start:end]):
        first = place
        while place < len(mentions) and mentions[place].start < start + part.end():
            place += 1
        own = mentions[first:place]
        negation = _DENIAL.search(part[0])
        if not negation:
            continue
        aside = _ASIDE.search(part[0].lstrip() if own and first else part[0])
        if not own:
            denied += mentions[:place] if _BACK.match(part[0]) else ()
        elif aside and (first or own[0].start - start - part.start() < aside.start()):
            shift = len(part[0]) - len(part[0].lstrip()) if first else 0
            denied += [m for m in own if m.start - start - part.start() >= aside.start() + shift]
        else:
            denied += own
    return denied
