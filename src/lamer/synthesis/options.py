"""Read the options of an example (pure)."""

from __future__ import annotations

import re
import string
import unicodedata

from lamer.synthesis.markup import flat

LETTERS = string.ascii_uppercase
MAX_OPTIONS = 10

_OPEN, _SHUT = r"[(（\[【]", r"[)）\]】]"
_LETTER = "[A-Za-zＡ-Ｚ]"
_MARKS: tuple[re.Pattern[str], ...] = (
    re.compile(
        rf"(?:^[ \t>]{{0,8}}(?:[-*•][ \t]{{1,3}})?|(?<=[\s,;.!?*])|(?<=[^\x00-\x7f]))"
        rf"[*_`]{{0,3}}{_OPEN}({_LETTER}){_SHUT}[*_`]{{0,3}}[.:：]?",
        re.MULTILINE,
    ),
    re.compile(
        rf"^[ \t>*_`•\-]{{0,8}}({_LETTER})[*_`]{{0,3}}(?:[).:）．：][*_`]{{0,3}}(?=[ \t]|$|[^\x00-\x7f])|、)",
        re.MULTILINE,
    ),
    re.compile(
        r"(?:^|(?<=[\s,;，；。]))[*_`]{0,3}([A-ZＡ-Ｚ])[*_`]{0,3}(?:[).:）．：][*_`]{0,3}(?=\s|[^\x00-\x7f])|、)",
        re.MULTILINE,
    ),
    re.compile(r"^[ \t>*_`•\-]{0,8}\(?(\d{1,2})[).:][*_`]{0,3}(?=[ \t])", re.MULTILINE),
)
_BULLET = re.compile(r"^[ \t]{0,8}[-*•][ \t]{1,4}")


def parse_options(text: str) -> tuple[str, ...]:
    """The options of an options field; empty when none can be told apart.

    Forms: `(A) x (B) y`, `A) x`, `A. x`, `A、x`, `1. x`, on one line or one a line, letters in order from A; or,
    without letters, a list with a bullet on every line.
    """
    best: tuple[str, ...] = ()
    for mark in _MARKS:
        found = _marked(text, mark)
        if len(found) > len(best):
            best = found
    if best:
        return best
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) >= 2 and all(_BULLET.match(line) for line in lines):
        return tuple(option_text(_BULLET.sub("", line)) for line in lines[:MAX_OPTIONS])
    return ()


def options_in_question(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Split options that stand, one a line, under a question."""
    for mark in (_MARKS[0], _MARKS[1]):
        sequence = _sequence(text, mark)
        at_line_start = [
            start for start, _ in sequence if not text[text.rfind("\n", 0, start) + 1 : start].strip()
        ]
        if len(sequence) >= 2 and len(at_line_start) == len(sequence) and sequence[0][0] > 0:
            return text[: sequence[0][0]], parse_options(text[sequence[0][0] :])
    return None


def letter_index(letter: str) -> int:
    """`A` is 0; full-width letters and small ones count the same; -1 for what is no letter."""
    plain = unicodedata.normalize("NFKC", letter).upper()
    return LETTERS.find(plain) if plain else -1


def option_text(text: str) -> str:
    """An option's text: one line, without separators at its end."""
    return flat(text).rstrip(",;|/，； ").strip()


def without_marks(options: list[str]) -> tuple[str, ...]:
    """Options given one by one, without the letters A, B, C, ... where every one begins with its own."""
    for mark in _MARKS[:2]:
        found = [mark.match(option) for option in options]
        if all(match and letter_index(match[1]) == place for place, match in enumerate(found)):
            return tuple(option_text(option[match.end() :]) for option, match in zip(options, found) if match)
    return tuple(option_text(option) for option in options)


def _marked(text: str, mark: re.Pattern[str]) -> tuple[str, ...]:
    """Texts between the marks A, B, C, ... (each the first one after the mark before); none for fewer than two."""
    spans = _sequence(text, mark)
    if len(spans) < 2:
        return ()
    ends = [start for start, _ in spans[1:]] + [len(text)]
    return tuple(option_text(text[end:stop]) for (_, end), stop in zip(spans, ends))


def _sequence(text: str, mark: re.Pattern[str]) -> list[tuple[int, int]]:
    """Where the marks A, B, C, ... stand: each is the first one of its letter after the one before."""
    found: list[tuple[int, int]] = []
    for match in mark.finditer(text):
        label = match[1]
        number = int(label) - 1 if label.isdecimal() else letter_index(label)
        if number == len(found) and number < MAX_OPTIONS:
            found.append(match.span())
    return found
