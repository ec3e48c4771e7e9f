"""Facts, an answer and distractors written by the teacher, for queries far from any corpus (GSM8K; prompt C.1).

Parsing is pure: any text gives a reply, an unusable one gives an empty reply.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from lamer.knowledge.corpus import content_id, fact_key, normalize
from lamer.records import Fact, Query
from lamer.run import digest

if TYPE_CHECKING:
    from lamer.teacher.template import Template

SOURCE = "teacher"
MAX_OPTIONS = 10
_SECTIONS = {
    "background knowledge": "facts", "knowledge": "facts", "explanation": "explanation", "answer": "answer",
    "final answer": "answer", "distractors": "distractors", "distractor": "distractors",
}  # fmt: skip
_NAMES = "|".join(sorted(_SECTIONS, key=len, reverse=True))
# At the start of a line, with what Markdown puts around a heading; the colon may be missing at the line's end.
_LINE_HEADING = re.compile(rf"(?im)^[#>*_\-\[ \t]*(?:\d+[.)][*_ \t]*)?({_NAMES})[*_\] \t]*(?:[:：]|$)[*_]*")
# Anywhere, when the whole reply is one line; capitals keep "the answer: 5" inside an explanation out.
_INLINE_HEADING = re.compile(r"(Background Knowledge|Explanation|Answer|Distractors)[*_ ]*[:：][*_]*")
_BULLET = re.compile(r"^\s*(?:[-*•–]+|\(?\d{1,2}[.):]+|\(?[A-Ha-h][.)]+)[_\s]+")
_LABEL = re.compile(r"(?:^|(?<=[\s,;]))[(\[]?[A-H][)\].:][_\s]*")


@dataclass(frozen=True, slots=True)
class MathReply:
    """What could be read from the teacher's reply; a part that is not there is empty or None."""

    facts: tuple[str, ...] = ()
    """Distinct, in the order given."""
    explanation: str = ""
    answer: str | None = None
    """The teacher's own answer; it can be wrong."""
    distractors: tuple[str, ...] = ()
    """Distinct, and different from the answer."""

    @property
    def problem(self) -> str | None:
        """What is missing, first thing first; None for a whole reply."""
        missing = {
            "no background knowledge": self.facts,
            "no answer": self.answer,
            "no distractor": self.distractors,
        }
        return next((problem for problem, part in missing.items() if not part), None)

    @property
    def num_parts(self) -> int:
        """Parts that are there, of facts, answer and distractors."""
        return sum(map(bool, (self.facts, self.answer, self.distractors)))


def math_messages(query: Query, num_facts: int) -> list[dict[str, str]]:
    """The conversation that asks the teacher about one query."""
    question = normalize(query.text)
    return [{"role": "user", "content": _template().render(question=question, num_facts=num_facts)}]


def math_prompt_hash() -> str:
    """Digest of the prompt's text."""
    return _template().hash


@cache
def _template() -> Template:
    from lamer.teacher.template import Template

    text = (
        (resources.files("lamer.knowledge") / "prompts" / "math_facts-v1.txt").read_text(encoding="utf-8").strip()
    )
    return Template("math_facts-v1.txt", text, known=("num_facts", "question"))


def parse_math_reply(text: str) -> MathReply:
    """The parts of a reply in the format of prompt C.1; Markdown, one line and any order are understood."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    sections = _sections(text, _LINE_HEADING)
    if len(sections) < 2:
        sections = _sections(text, _INLINE_HEADING)
    answer = _concise(sections.get("answer", ""))
    distractors = (_concise(piece) for piece in _pieces(sections.get("distractors", "")))
    return MathReply(
        facts=tuple(_distinct((normalize(line) for line in _facts(sections.get("facts", ""))), fact_key)),
        explanation=normalize(_unwrapped(sections.get("explanation", ""))),
        answer=answer or None,
        distractors=tuple(_distinct(distractors, answer_key, besides=answer)),
    )


def _sections(text: str, heading: re.Pattern[str]) -> dict[str, str]:
    """Section texts by part; of two sections for one part the first that is not empty."""
    found: dict[str, str] = {}
    marks = list(heading.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None]):
        body = text[mark.end() : following.start() if following else len(text)].strip()
        name = _SECTIONS[mark[1].lower()]
        if body and name not in found:
            found[name] = body
    return found


def _facts(section: str) -> Iterator[str]:
    """Lines, or the sentences of a single line, without bullets; a lone word is no fact."""
    lines = [line for line in _unwrapped(section).splitlines() if line.strip()]
    if len(lines) == 1:
        lines = re.split(r"\s(?=\(?\d{1,2}[.)]\s)|(?<=[.!?;])\s+(?=[A-Z\"(])", lines[0])
    for line in lines:
        fact = _unwrapped(_BULLET.sub("", line)).strip(' \t"“”*_;')
        if len(fact_key(fact).split()) > 1 and not fact.endswith(":"):
            yield fact


def _pieces(section: str) -> list[str]:
    """The listed distractors: by label (A), else by line, else by semicolon or comma with a blank after it."""
    content = _unwrapped(section)
    labelled = _LABEL.split(content)
    if len(labelled) > 1:
        return labelled[1:]
    lines = content.splitlines()
    return lines if len(lines) > 1 else re.split(r";\s*|,\s+", content)


def _concise(text: str) -> str:
    """The first line, without label, bullet, Markdown, `####`, `\\boxed{}` and the full stop."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    line = _LABEL.sub("", _BULLET.sub("", line.strip(" \t*_#")), count=1)
    boxed = re.search(r"\\boxed\{([^{}]*)\}", line)
    return normalize(_unwrapped(boxed[1] if boxed else line).strip(' \t*_`,;"“”')).rstrip(".").strip()


def _unwrapped(text: str) -> str:
    """Without square brackets around the whole, copied from the format."""
    inner = text.strip()
    return inner[1:-1].strip() if inner.startswith("[") and inner.endswith("]") and len(inner) > 1 else inner


def _distinct(texts: Iterable[str], key: Callable[[str], str], besides: str = "") -> Iterator[str]:
    seen = {key(besides), ""}
    for text in texts:
        if key(text) not in seen:
            seen.add(key(text))
            yield text


def answer_key(text: str) -> str:
    """What two equal answers have in common: `$1,500.00` and `1500` are one."""
    key = re.sub(r"[\s$€£%]|(?<=\d),(?=\d{3})", "", text.casefold())
    return re.sub(r"(\d)\.0+(?!\d)", r"\1", key)


def teacher_facts(reply: MathReply, top_k: int) -> list[Fact]:
    """The first `top_k` facts of a reply, as rows of the corpus."""
    return [Fact(content_id(text), text, None, SOURCE) for text in reply.facts[:top_k]]


def with_options(query: Query, reply: MathReply, seed: int) -> Query:
    """The query with the teacher's answer and distractors as options, in a seeded order.

    A query that has options keeps them; one without a usable answer and distractor stays open. The label, where
    the source has one, becomes the index of the option that equals it, or None when no option or several do: the
    teacher's answer is never taken for the label, nor the label for an option.
    """
    if query.options is not None or reply.answer is None or not reply.distractors:
        return query
    options = [reply.answer, *reply.distractors][:MAX_OPTIONS]
    random.Random(digest(str(seed), query.id)).shuffle(options)
    return Query(query.id, query.text, tuple(options), _label_index(query.answer, options), query.source)


def _label_index(label: str | None, options: list[str]) -> str | None:
    if label is None:
        return None
    equal = [index for index, option in enumerate(options) if same_answer(option, label)]
    return str(equal[0]) if len(equal) == 1 else None


def same_answer(text: str, label: str) -> bool:
    """Whether `text` gives the answer `label`, also as the only number in some words (`72 clips` is `72`)."""
    numbers = re.findall(r"-?\d+(?:,\d{3})*(?:\.\d+)?", text)
    return answer_key(label) in {answer_key(text), *(map(answer_key, numbers) if len(numbers) == 1 else ())}
