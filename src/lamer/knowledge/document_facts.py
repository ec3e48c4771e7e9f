"""Facts from passages of documents: written by the teacher, or the passage's own sentences; each one checked.

Parsing and checks are pure: any text gives a reply, an unusable one gives no facts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from lamer.knowledge.corpus import content_id, fact_key, normalize
from lamer.knowledge.sentences import sentences
from lamer.records import Fact, Passage

if TYPE_CHECKING:
    from lamer.teacher.template import Template

TOO_SHORT, TOO_LONG, QUESTION = "too short", "too long", "a question"
NEEDS_CONTEXT = "not understood on its own"
NEW_NUMBER, UNSUPPORTED = "a number that the passage lacks", "words that the passage lacks"
NO_SENTENCE = "no whole sentence"
REASONS = (TOO_SHORT, TOO_LONG, QUESTION, NEEDS_CONTEXT, NO_SENTENCE, NEW_NUMBER, UNSUPPORTED)
MIN_WORDS, MAX_WORDS = 3, 60
MIN_CHARACTERS = 6
"""Of a fact in a script without blanks."""
MIN_SUPPORT = 0.5
"""Share of a fact's longer words that its passage must have."""
STEM = 5
"""Letters by which two words are compared: `melting` and `melts` are one."""

_POINTERS = re.compile(r"(?i)(?:it|its|they|their|this|these|those|he|she|his|her|such|here)\b")
_ABOUT_ITSELF = re.compile(r"(?i)\bthe (?:passage|text|document|article|authors?|section|paragraph|excerpt)\b")
_BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}[.)])\s+")
_NONE = re.compile(r"(?i)[\s*_`\"'.-]*none[\s*_`\"'.]*")
_END = re.compile(r"[.!?…。！？][\"'”’»)\]」』）]*$")
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DocumentReply:
    """What could be read from the teacher's reply."""

    facts: tuple[str, ...] = ()
    """Distinct, in the order given."""
    is_none: bool = False
    """The teacher says that the passage states no fact."""

    @property
    def is_usable(self) -> bool:
        """Whether there is nothing to ask again."""
        return self.is_none or bool(self.facts)


def document_messages(passage: Passage, max_facts: int) -> list[dict[str, str]]:
    """The conversation that asks the teacher about one passage."""
    content = _template().render(heading=passage.heading or "(none)", passage=passage.text, max_facts=max_facts)
    return [{"role": "user", "content": content}]


def document_prompt_hash() -> str:
    """Digest of the prompt's text."""
    return _template().hash


@cache
def _template() -> Template:
    from lamer.teacher.template import Template

    name = "document_facts-v1.txt"
    text = (resources.files("lamer.knowledge") / "prompts" / name).read_text(encoding="utf-8").strip()
    return Template(name, text, known=("heading", "max_facts", "passage"))


def parse_document_reply(text: str, max_facts: int, *, is_cut: bool = False) -> DocumentReply:
    """The bulleted or numbered lines of a reply; where it has none, its lines.

    Args:
        text: The teacher's words.
        max_facts: Facts beyond these are left out.
        is_cut: The reply ended at its length limit: its last line is left out.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    if _NONE.fullmatch(text):
        return DocumentReply(is_none=True)
    lines = [line for line in text.splitlines() if line.strip()]
    if is_cut:
        lines = lines[:-1]
    bulleted = [_BULLET.sub("", line) for line in lines if _BULLET.match(line)]
    found: dict[str, str] = {}
    for line in bulleted or lines:
        fact = normalize(line.replace("**", "")).strip('"“” ')
        if fact_key(fact) and not fact.endswith(":"):
            found.setdefault(fact_key(fact), fact)
    return DocumentReply(tuple(found.values())[:max_facts])


def sentence_facts(passage: Passage) -> list[str]:
    """The sentences of a passage, as they are."""
    return [sentence for block in passage.text.split("\n") for sentence in sentences(block)]


def fact_of(text: str, passage: Passage) -> Fact:
    """A row of the corpus; its source is the id of the passage."""
    return Fact(content_id(text), text, None, passage.id)


def sentence_problem(text: str) -> str | None:
    """Why a sentence is no fact; None when nothing speaks against it."""
    return _form_problem(text) or (None if _END.search(text) else NO_SENTENCE)


def extracted_problem(text: str, passage: Passage) -> str | None:
    """Why something that the teacher wrote is not taken for a fact of the passage; None for nothing.

    Words and numbers are compared, not meaning: a fact that turns the passage's words round passes.
    """
    problem = _form_problem(text)
    if problem:
        return problem
    source = f"{passage.heading} {passage.text}"
    if not _numbers(text) <= _numbers(source):
        return NEW_NUMBER
    words = _stems(text)
    return UNSUPPORTED if words and len(words & _stems(source)) < MIN_SUPPORT * len(words) else None


def _form_problem(text: str) -> str | None:
    words = text.split()
    if len(words) < MIN_WORDS and not (len(words) == 1 and len(text) >= MIN_CHARACTERS and not text.isascii()):
        return TOO_SHORT
    if len(words) > MAX_WORDS or len(text) > 8 * MAX_WORDS:
        return TOO_LONG
    if text.rstrip("\"'”’)」』").endswith(("?", "？")):
        return QUESTION
    return NEEDS_CONTEXT if _POINTERS.match(text) or _ABOUT_ITSELF.search(text) else None


def _numbers(text: str) -> set[str]:
    """Numbers in digits, those up to twelve also from words; `1,500` and `1500` are one."""
    digits = {number.replace(",", "").rstrip(".") for number in re.findall(r"\d[\d,.]*", text)}
    words = set(re.findall(r"[a-z]+", text.casefold()))
    return digits | {str(value) for value, word in enumerate(_NUMBER_WORDS) if word in words}


def _stems(text: str) -> set[str]:
    return {word[:STEM] for word in re.findall(r"[^\W\d_]{4,}", text.casefold())}
