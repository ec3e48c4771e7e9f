"""What an explanation says about the options: which one is right, which are wrong (pure).

Read literally from phrases of English such as `the answer is (B)`, `option b is wrong`, `hence C.`, `B and C are
incorrect` or `the correct answer is it stayed cool`. What is not said in such a phrase is not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lamer.synthesis.parse import LETTERS
from lamer.synthesis.words import plain_words

_MARKUP = re.compile(r"[*_`]+")
_LETTER = r"(?:[(\[][A-Za-z][)\]]|\b[A-Za-z]\b(?!['’]))"
_NAMED_LETTER = rf"(?:(?:options?|choices?|answers?|letters?)\s+)?{_LETTER}"
_LIST = rf"{_NAMED_LETTER}(?:\s*(?:,\s*(?:and|or|nor)?|and|or|nor|&)\s*{_NAMED_LETTER}){{0,8}}"
_BEFORE = (
    r"(?:^|[.!?;:,]\s+|\n\s*|\b(?:so|because|since|hence|thus|therefore|that|but|while|whereas|and|or|only|both|"
    r"either|(?P<neither>neither)|options?|choices?|answers?)\s+|(?=[(\[]))"
)
_ADVERBS = r"(?:\s+(?:clearly|obviously|definitely|therefore|thus|also|both|all|the|an?|only|most|simply|just))*"
_VERDICT = re.compile(
    rf"{_BEFORE}(?P<letters>{_LIST})\s+"
    r"(?P<verb>is|are|was|were|(?:would|must|should|could|may)\s+be|(?:cannot|can't|can’t|can\s+not)\s+be|"
    r"(?:isn|aren|wasn|weren)['’]t)"
    rf"{_ADVERBS}(?P<not>\s+not\b|\s+never\b)?{_ADVERBS}\s+"
    r"(?P<word>correct|right|best|true|incorrect|wrong|false|answer)\b",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"\b(?:(?:correct|right|best|true)\s+(?:answer|option|choice|one)|answer)\s*"
    r"(?:(?P<is>is|was|must\s+be|would\s+be|should\s+be|has\s+to\s+be|:)(?P<not>\s+not)?|"
    r"(?P<cannot>(?:cannot|can't|can’t|can\s+not)\s+be|isn['’]t))"
    r"\s*(?:(?:therefore|thus|clearly|definitely|obviously|indeed|that)\s+)?",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    rf"\b(?:hence|thus|therefore|so|consequently|choose|select|pick|conclude)\s*[,:]?\s+"
    rf"(?:it\s+(?:is|must\s+be)\s+|the\s+answer\s+)?(?:option\s+|choice\s+)?(?P<letter>{_LETTER})\s*(?:[.!;\n]|$)",
    re.IGNORECASE,
)
_NOT_THIS = re.compile(
    rf"(?:,\s*not|\brather\s+than)\s+(?:(?:option|choice)\s+(?P<named>{_LETTER})|(?P<paren>[(\[][A-Za-z][)\]]))",
    re.IGNORECASE,
)
_TOLD = re.compile(
    rf"(?:(?P<named>(?:option|choice|letter)\s+{_LETTER})|(?P<paren>[(\[][A-Za-z][)\]])|(?P<bare>[A-Za-z])(?![\w'’]))"
    r"(?P<end>\s*(?:[.,;:!?)\n–—-]|$)|\s+(?:because|since|as|for|which|and|or)\b)?",
    re.IGNORECASE,
)
_ONE = re.compile(r"(?<![A-Za-z])([A-Za-z])(?![A-Za-z])")
_NOT_VERB = re.compile(r"n['’]?o?t\b", re.IGNORECASE)
_WRONG_WORDS = frozenset({"incorrect", "wrong", "false"})


def contradicts(explanation: str, answer: int, options: Sequence[str]) -> bool:
    """Whether the explanation names another option as the right one, or this one as wrong.

    Args:
        explanation: What the teacher wrote.
        answer: Index of the option that it gave as the answer.
        options: In the order that the explanation speaks of.
    """
    text = _MARKUP.sub("", explanation)
    return any(
        index < len(options) and is_right != (index == answer) and (is_right or index == answer)
        for index, is_right in _claims(text, answer, options)
    )


def _claims(text: str, answer: int, options: Sequence[str]) -> Iterator[tuple[int, bool]]:
    """(option, whether it is called right), as often as it is said."""
    for match in _VERDICT.finditer(text):
        says_no = bool(match["not"] or match["neither"] or _NOT_VERB.search(match["verb"]))
        is_right = (match["word"].lower() not in _WRONG_WORDS) != says_no
        yield from ((index, is_right) for index in _indices(match["letters"]))
    for match in _CONCLUSION.finditer(text):
        if match["letter"] != "a":
            yield from ((index, True) for index in _indices(match["letter"]))
    for match in _NOT_THIS.finditer(text):
        yield from ((index, False) for index in _indices(match["named"] or match["paren"]))
    for lead in _LEAD.finditer(text):
        is_right = not (lead["not"] or lead["cannot"])
        named = _named_after(text, lead.end() + _spaces(text, lead.end()))
        if named is None:
            named = _told_after(text[lead.end() : lead.end() + 500], answer, options)
        if named is not None:
            yield named, is_right


def _spaces(text: str, start: int) -> int:
    return len(text[start:]) - len(text[start:].lstrip())


def _named_after(text: str, start: int) -> int | None:
    """The letter that stands here, unless it may be an article (`the answer is A dog`) or a word's beginning."""
    match = _TOLD.match(text, start)
    if match is None or (match["bare"] and match["end"] is None):
        return None
    return next(_indices(match["named"] or match["paren"] or match["bare"]), None)


def _told_after(text: str, answer: int, options: Sequence[str]) -> int | None:
    """The option whose words stand here; the answer where several fit equally well, None for none."""
    told = plain_words(text)
    best, length = None, 0
    for index, option in enumerate(options):
        words = plain_words(option)
        if words and told[: len(words)] == words and (len(words) > length or index == answer):
            best, length = index, max(length, len(words))
    return best


def _indices(letters: str) -> Iterator[int]:
    return (LETTERS.index(letter.upper()) for letter in _ONE.findall(letters))
