"""Text in one form: Unicode, LaTeX, and words that can be compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SPAN = 1000
"""Characters that are looked at behind `the answer is` and inside of a box."""

_SUPERSCRIPT = re.compile(r"(?<=[\w)\]}])⁻?[⁰¹²³⁴-⁹]+")
_ANSWER_TAG = re.compile(r"<answer>", re.IGNORECASE)
_TAG = re.compile(r"</?(?:answer|b|i|u|p|em|strong|br|span|code|sub|sup)\s?/?>", re.IGNORECASE)
_BRACE = re.compile(r"\\[{}]|\\(?:boxed|fbox)\s?\{|[{}]")
_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}|\\[dt]?frac\s?(\d)\s?(\d)")
_TOKEN = re.compile(
    r"(?:(?<![\w.])[-+])?\d+(?:,\d{2,3})*,\d{3}(?:\.\d+)?|(?:(?<![\w.])[-+])?\d*\.?\d+"
    r"|[^\W\d_]+(?:'[^\W\d_]+)?|(?<![^\W\d_])-|-(?![^\W\d_])|[^\s\w.,;:!?'\"`()\[\]{}*_~$\\…-]"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, number or sign."""

    text: str
    """Without case; a number without commas and plus."""
    start: int
    """Of its first character, in the text without case."""
    end: int


def normal(text: str) -> str:
    """Text in Unicode's compatibility form, without markup tags and without runs of white space.

    Digits keep their meaning: 2½ is `2 1/2` and 10² is `10^2`; the compatibility form alone has `21/2` and `102`.
    """
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0], text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))", "", text)
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/").replace("’", "'").replace("−", "-")
    text = re.sub(r"[^\S\n]+", " ", text)
    text = _TAG.sub("", _ANSWER_TAG.sub("\nAnswer: ", text))
    return re.sub(r" ?\n\s*", "\n", text).strip()


def after_thinking(text: str) -> str:
    """The text behind a closed reasoning block; an unclosed one holds no answer."""
    if "</think>" in text:
        return text.rsplit("</think>", 1)[1]
    return text.split("<think>", 1)[0]


def boxed(text: str) -> Iterator[tuple[int, str]]:
    r"""Position and content of every `\boxed{...}` that is closed, inner braces balanced."""
    opened: list[int | None] = []
    for match in _BRACE.finditer(text):
        if match[0] == "}" and opened:
            start = opened.pop()
            if start is not None and match.start() - start <= MAX_SPAN:
                yield start, plain(text[start : match.start()])
        elif match[0] == "{":
            opened.append(None)
        elif len(match[0]) > 2:
            opened.append(match.end())


def plain(text: str) -> str:
    """LaTeX reduced to plain text: fractions as a/b, no commands, dollar signs kept only before digits."""
    text = _FRACTION.sub(lambda m: f"{m[1] or m[3]}/{m[2] or m[4]}", text)
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s?\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[()\[\]]", " ", text).replace("{,}", ",").replace("\\times", "×").replace("\\cdot", "×")
    text = re.sub(r"\\[,;!% ]|\\(?:left|right)\b", "", text).replace("\\$", "$").replace("−", "-")
    return re.sub(r"\$(?!\s?[\d.])", "", text)


def tokens(text: str) -> list[Token]:
    """Words, numbers and signs of a normal text, without case and punctuation."""
    return [
        Token(_number_token(match[0]), match.start(), match.end()) for match in _TOKEN.finditer(text.casefold())
    ]


def key(text: str) -> tuple[str, ...]:
    """What is compared of a text: its tokens; the bare text where only signs are left."""
    normal_text = normal(text)
    found = tuple(token.text for token in tokens(normal_text))
    if any(any(character.isalnum() for character in token) for token in found):
        return found
    bare = "".join(normal_text.casefold().split())
    return (bare,) if bare else ()


def first_sentence(text: str) -> str:
    """Up to the first full stop, exclamation or question mark before a space."""
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]


def _number_token(token: str) -> str:
    return token.replace(",", "").lstrip("+") if token[-1].isdigit() else token
