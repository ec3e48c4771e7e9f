"""Read examples in the paper's text format (pure).

Several examples in one reply, each with Question, Options, Answer and Explanation (math: Solution), in any order,
on one line or many. Around it come what chat models add: Markdown, code fences, numbering, a preamble, a closing
phrase, an end cut off.

    Question: Anna left her spoon in the soup. What happened?
    Options: (A) It became hot. (B) It stayed cool. (C) It sank.
    Answer: (A)
    Explanation: The spoon is of iron, and iron conducts heat.

All patterns have bounded repeats: time is linear in the length of the reply, whatever it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from lamer.synthesis.items import ParsedItem, item_of
from lamer.synthesis.labels import EXAMPLE_NAMES, INLINE_NAMES, Field, field_of
from lamer.synthesis.markup import first_line, flat, is_ruler, plain, unfenced
from lamer.synthesis.options import options_in_question, parse_options

_ANY_CASE = re.ASCII | re.IGNORECASE
"""ASCII too: without it `ſ` would be an `s`."""
_TAIL = r"[ \t]{0,2}(?:\#?\d{1,4}|\(\d{1,4}\)|\[\d{1,4}\])?[ \t]{0,2}[*_`]{0,3}[ \t]{0,2}[:：][*_`]{0,3}"
_DECORATION = r"[ \t>#*_`•\-]{0,12}"
_NUMBER = r"(?:\(?\d{1,4}[.):、．]{1,2}[ \t]{0,4})?"
_EXAMPLE_TAIL = r"[ \t]{0,2}\#?\d{1,4}[ \t]{0,2}[.:：)\-–—]{0,2}[*_`]{0,3}[ \t]{0,4}"
_EXAMPLE = rf"(?:(?:new[ ])?(?:{EXAMPLE_NAMES}){_EXAMPLE_TAIL})?"
_WORD = r"[^\s:：#*_`>•()\[\]\d\-]{1,20}+"
_LINE_LABEL = re.compile(
    rf"^{_DECORATION}{_EXAMPLE}{_NUMBER}[*_`]{{0,3}}(?P<name>{_WORD}(?:[ ]{_WORD}){{0,3}}){_TAIL}",
    _ANY_CASE | re.MULTILINE,
)
"""A few words and a colon; whether they name a field is looked up."""
_INLINE_LABEL = re.compile(
    rf"(?<=[\s.?!)\]\"'”*。？！）；])[*_`]{{0,3}}(?P<name>{INLINE_NAMES}){_TAIL}",
    re.ASCII,
)
_BOUNDARY_LINE = re.compile(
    rf"^{_DECORATION}(?:(?:new[ ])?(?:{EXAMPLE_NAMES})[ \t]{{0,2}}\#?\d{{1,4}}[.:：)]{{0,2}}|\d{{1,4}}[.)]{{1,2}})"
    r"[*_`]{0,3}[ \t]*$",
    _ANY_CASE,
)
_NUMBERED = re.compile(
    rf"^{_DECORATION}(?:q(?:uestion)?[ ]?)?\(?\d{{1,4}}(?:[.):]{{1,2}}[*_`]{{0,3}}[ \t]{{1,4}}|[、．])",
    _ANY_CASE,
)
_CHATTER = re.compile(
    r"(?:let me know|i hope|hope (?:this|these)|feel free|please let|would you like|do you want|"
    r"these (?:new )?(?:examples|questions)|if you (?:need|want|would|have))\b",
    _ANY_CASE,
)


@dataclass(frozen=True, slots=True)
class _Label:
    """A field's name in the reply."""

    field: Field
    start: int
    end: int
    is_at_line_start: bool


@dataclass(slots=True)
class _Draft:
    """An item while it is read."""

    start: int
    fields: dict[Field, str] = field(default_factory=dict)
    """In the order written."""
    repeated_answers: list[str] = field(default_factory=list)
    end: int = 0

    @property
    def is_complete(self) -> bool:
        return {"question", "options", "answer"} <= self.fields.keys()

    @property
    def starts_with_explanation(self) -> bool:
        return next(iter(self.fields), None) == "explanation"


def parse_text(text: str) -> list[ParsedItem]:
    """The items of a text, in order; empty when there is nothing like an item. Never raises."""
    drafts = _drafts(text)
    return [_item(draft, text, is_last=draft is drafts[-1]) for draft in drafts]


def _labels(text: str) -> list[_Label]:
    """All labels in order; those inside a line must be capitalised."""
    found: dict[int, _Label] = {}
    for pattern, is_at_line_start in ((_LINE_LABEL, True), (_INLINE_LABEL, False)):
        for match in pattern.finditer(text):
            name = field_of(match["name"])
            if name is not None:
                found.setdefault(match.end(), _Label(name, match.start(), match.end(), is_at_line_start))
    return sorted(found.values(), key=lambda label: label.start)


Step = Literal["item", "field", "repeat", "text"]


def _drafts(text: str) -> list[_Draft]:
    """Cut the reply into items: a label ends the field before it, and some labels start an item."""
    drafts: list[_Draft] = []
    draft: _Draft | None = None
    last: tuple[Step, Field, int] | None = None
    for label in _labels(text):
        begin = last[2] if last else 0
        question = _question_start(text, begin, label)
        step = _step(label, draft, has_question=question is not None)
        if step == "text":
            continue
        cut = question if question is not None and step == "item" else label.start
        if draft is not None and last is not None:
            _close(draft, last, text[begin:cut])
        if step == "item":
            draft = _Draft(cut)
            drafts.append(draft)
            if cut < label.start:
                draft.fields["question"] = text[cut : label.start]
        assert draft is not None
        if step != "repeat":
            draft.fields[label.field] = ""
        last = (step, label.field, label.end)
    if draft is not None and last is not None:
        _close(draft, last, text[last[2] :])
    for this, following in zip(drafts, [*drafts[1:], _Draft(len(text))]):
        this.end = following.start
    return drafts


def _close(draft: _Draft, opened: tuple[Step, Field, int], body: str) -> None:
    """Give a field its text; an answer that comes a second time stands apart."""
    step, name, _ = opened
    if step == "repeat":
        draft.repeated_answers.append(body)
    else:
        draft.fields[name] = body


def _step(label: _Label, draft: _Draft | None, *, has_question: bool) -> Step:
    """Whether a label starts an item, adds a field to the present one, repeats the answer, or is mere text.

    Inside a line a label counts only where its field is still missing. A second Options at a line's start, or a
    second Answer after an unlabelled question with options, belongs to a new item.
    """
    if draft is None:
        return "item" if label.field == "question" or label.is_at_line_start else "text"
    present = draft.fields.keys()
    if label.field == "question":
        if present == {"explanation"}:
            return "field"
        return "item" if label.is_at_line_start or "question" not in present or len(present) > 1 else "text"
    if label.field not in present:
        return "field"
    if not label.is_at_line_start:
        return "text"
    if label.field == "explanation":
        return "item" if draft.starts_with_explanation and draft.is_complete else "text"
    if label.field == "answer":
        return "item" if has_question else "repeat"
    return "item"


def _question_start(text: str, begin: int, label: _Label) -> int | None:
    """Where a question without a label starts in `text[begin : label.start]`.

    Before Options it is the last paragraph, numbered or ending in a question mark; before Answer such a paragraph
    with the options under it.
    """
    if label.field not in ("options", "answer") or not label.is_at_line_start:
        return None
    lines = text[begin : label.start].splitlines(keepends=True)[-40:]
    starts = [label.start - sum(map(len, lines[index:])) for index in range(len(lines))]
    first = 0 if (starts and starts[0] == 0) or len(lines) == 40 else 1
    for index in range(len(lines) - 1, first - 1, -1):
        if not lines[index].strip():
            continue
        top = index
        while top > first and lines[top - 1].strip() and not _NUMBERED.match(lines[top]):
            top -= 1
        if _is_question(lines[index]) or _NUMBERED.match(lines[top]):
            block = text[starts[top] : label.start]
            if label.field == "options" or options_in_question(block) is not None:
                return starts[top]
        if label.field == "options":
            return None
    return None


def _is_question(line: str) -> bool:
    return line.rstrip(" \n*_`\"'”)").endswith(("?", "？"))


def _item(draft: _Draft, text: str, *, is_last: bool) -> ParsedItem:
    fields = dict(draft.fields)
    question = _NUMBERED.sub("", _trim(fields.get("question", "")), count=1)
    options: tuple[str, ...] | None = None
    if "options" in fields:
        options = parse_options(_trim(fields["options"]))
    elif (found := options_in_question(question)) is not None:
        question, options = found
    return item_of(
        None if is_ruler(question) else flat(question),
        options,
        [first_line(_trim(answer)) for answer in (fields.get("answer", ""), *draft.repeated_answers)],
        _prose(fields.get("explanation", ""), is_last=is_last),
        text[draft.start : draft.end].strip(),
        is_last=is_last,
        ends_with=None if draft.repeated_answers else next(reversed(draft.fields), None),
    )


def _trim(value: str) -> str:
    """Without code fences, rulers, an `Example 2` line and emphasis marks at the ends."""
    lines = unfenced(value)
    while len(lines) > 1 and (is_ruler(lines[-1]) or _BOUNDARY_LINE.match(lines[-1])):
        lines.pop()
    return plain("\n".join(lines))


def _prose(value: str, *, is_last: bool) -> str:
    """An explanation, one line a step; a closing phrase after the last item is no part of it."""
    paragraphs = _trim(value).split("\n\n")
    if is_last:
        while len(paragraphs) > 1 and _CHATTER.match(paragraphs[-1].strip(" *_`\n")):
            paragraphs.pop()
    lines = "\n".join(paragraphs).split("\n")
    return "\n".join(line for raw in lines if not is_ruler(raw) and (line := flat(raw)))
