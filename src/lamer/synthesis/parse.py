"""Read a teacher's reply (pure): text in, items out, nothing invented and nothing raised.

The format is the paper's (C.2): several examples in one reply, each with Question, Options, Answer and
Explanation (math: Solution), in any order, on one line or many. Around it come what chat models add: Markdown,
code fences, numbering, a preamble, a closing phrase, an end cut off.

    Question: Anna left her spoon in the soup. What happened?
    Options: (A) It became hot. (B) It stayed cool. (C) It sank.
    Answer: (A)
    Explanation: The spoon is of iron, and iron conducts heat.

All patterns have bounded repeats: time is linear in the length of the reply, whatever it holds.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Field = Literal["question", "options", "answer", "explanation"]

LETTERS = string.ascii_uppercase
MAX_OPTIONS = 10

NO_QUESTION = "no question"
NO_OPTIONS = "no options"
NO_ANSWER = "no answer"
ANSWER_NOT_AN_OPTION = "answer not an option"
AMBIGUOUS_ANSWER = "ambiguous answer"


@dataclass(frozen=True, slots=True)
class ParsedItem:
    """One example as the teacher wrote it; what it did not write is None."""

    question: str | None
    options: tuple[str, ...] | None
    answer: str | None
    """The answer's own words: "B", "(B)", "(B) It sank.", "It sank."."""
    answer_index: int | None
    """Index into `options` that `answer` names; None when it names none or several."""
    explanation: str | None
    raw: str
    """The part of the reply that the item was read from, verbatim."""
    problem: str | None
    """What keeps it from being an example (`no question`, `no options`, `no answer`, `answer not an option`,
    `ambiguous answer`), the first that applies."""
    is_last: bool = False
    """The last one of its reply: the one that a length limit cuts off."""
    ends_with: Field | None = None
    """The field written last."""


_NAMES: dict[str, Field] = {
    "question": "question",
    "options": "options", "option": "options", "choices": "options", "candidate options": "options",
    "answer options": "options",
    "answer": "answer", "correct answer": "answer", "right answer": "answer", "correct option": "answer",
    "explanation": "explanation", "solution": "explanation", "rationale": "explanation",
    "reasoning": "explanation", "reason": "explanation",
}  # fmt: skip

_NAME = "|".join(sorted((name.replace(" ", "[ ]") for name in _NAMES), key=len, reverse=True))
_ANY_CASE = re.ASCII | re.IGNORECASE
"""ASCII too: without it `ſ` would be an `s`."""
_TAIL = r"[ \t]{0,2}(?:\#?\d{1,4}|\(\d{1,4}\)|\[\d{1,4}\])?[ \t]{0,2}[*_`]{0,3}[ \t]{0,2}[:：][*_`]{0,3}"
_DECORATION = r"[ \t>#*_`•\-]{0,12}"
_NUMBER = r"(?:\(?\d{1,4}[.):]{1,2}[ \t]{0,4})?"
_EXAMPLE = r"(?:(?:new[ ])?(?:example|item)[ \t]{0,2}\#?\d{1,4}[ \t]{0,2}[.:)\-–—]{0,2}[*_`]{0,3}[ \t]{0,4})?"
_LINE_LABEL = re.compile(
    rf"^{_DECORATION}{_EXAMPLE}{_NUMBER}[*_`]{{0,3}}(?P<name>{_NAME}){_TAIL}",
    _ANY_CASE | re.MULTILINE,
)
_INLINE_LABEL = re.compile(
    r"(?<=[\s.?!)\]\"'”*])[*_`]{0,3}(?P<name>Question|Options|Answer|Correct[ ]Answer|Explanation|Solution)"
    + _TAIL,
    re.ASCII,
)
_BOUNDARY_LINE = re.compile(
    rf"^{_DECORATION}(?:(?:new[ ])?(?:example|item)[ \t]{{0,2}}\#?\d{{1,4}}[.:)]{{0,2}}|\d{{1,4}}[.)]{{1,2}})"
    r"[*_`]{0,3}[ \t]*$",
    _ANY_CASE,
)
_NUMBERED = re.compile(
    rf"^{_DECORATION}(?:q(?:uestion)?[ ]?)?\(?\d{{1,4}}[.):]{{1,2}}[*_`]{{0,3}}[ \t]{{1,4}}",
    _ANY_CASE,
)
_BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)([^*\n]{1,400}?)(?<=\S)\*\*(?![\w*])")
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


def parse(reply: str) -> list[ParsedItem]:
    """The items of a reply, in order; empty when there is nothing like an item. Never raises."""
    text = reply.replace("\r\n", "\n").replace("\r", "\n")
    drafts = _drafts(text)
    return [_item(draft, text, is_last=draft is drafts[-1]) for draft in drafts]


def _labels(text: str) -> list[_Label]:
    """All labels in order; those inside a line must be capitalised."""
    found = {
        match.end(): _Label(_NAMES[match["name"].lower()], match.start(), match.end(), True)
        for match in _LINE_LABEL.finditer(text)
    }
    for match in _INLINE_LABEL.finditer(text):
        label = _Label(_NAMES[match["name"].lower()], match.start(), match.end(), False)
        found.setdefault(match.end(), label)
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
            if label.field == "options" or _options_in_question(block) is not None:
                return starts[top]
        if label.field == "options":
            return None
    return None


def _is_question(line: str) -> bool:
    return line.rstrip(" \n*_`\"'”)").endswith(("?", "？"))


def _item(draft: _Draft, text: str, *, is_last: bool) -> ParsedItem:
    fields = dict(draft.fields)
    raw = text[draft.start : draft.end].strip()
    question_text = _NUMBERED.sub("", _trim(fields.get("question", "")), count=1)
    options: tuple[str, ...] | None = None
    if "options" in fields:
        options = parse_options(_trim(fields["options"])) or None
    elif (found := _options_in_question(question_text)) is not None:
        question_text, options = found
    question = None if _is_ruler(question_text) else _flat(question_text)
    answer = _first_line(_trim(fields.get("answer", ""))) or None
    explanation = _prose(fields.get("explanation", ""), is_last=is_last) or None
    index, trouble = find_answer(answer, options) if answer and options else (None, None)
    if options and any(_disagrees(repeated, index, options) for repeated in draft.repeated_answers):
        index, trouble = None, AMBIGUOUS_ANSWER
    problem = (
        NO_QUESTION if question is None
        else NO_OPTIONS if options is None
        else NO_ANSWER if answer is None
        else trouble
    )  # fmt: skip
    ends_with = None if draft.repeated_answers else next(reversed(draft.fields), None)
    return ParsedItem(question, options, answer, index, explanation, raw, problem, is_last, ends_with)


def _disagrees(repeated: str, index: int | None, options: Sequence[str]) -> bool:
    """Whether an answer that was written again names another option."""
    again, _ = find_answer(_first_line(_trim(repeated)), options)
    return again is not None and again != index


def _trim(value: str) -> str:
    """Without code fences, rulers, an `Example 2` line and emphasis marks at the ends."""
    lines = [line for line in value.strip().split("\n") if not line.lstrip().startswith("```")]
    while len(lines) > 1 and (_is_ruler(lines[-1]) or _BOUNDARY_LINE.match(lines[-1])):
        lines.pop()
    return _BOLD.sub(r"\1", "\n".join(lines).strip().strip("*`").strip())


def _is_ruler(line: str) -> bool:
    """Nothing but punctuation: blank, `---`, `***`, `......`."""
    stripped = line.strip()
    return not stripped or (len(stripped) > 1 and not any(character.isalnum() for character in stripped))


def _flat(value: str) -> str:
    """On one line, single spaces, without emphasis marks around it."""
    return _BOLD.sub(r"\1", " ".join(value.split()).strip("*`").strip())


def _first_line(value: str) -> str:
    return next((flat for line in value.split("\n") if (flat := _flat(line))), "")


def _prose(value: str, *, is_last: bool) -> str:
    """An explanation, one line a step; a closing phrase after the last item is no part of it."""
    paragraphs = _trim(value).split("\n\n")
    if is_last:
        while len(paragraphs) > 1 and _CHATTER.match(paragraphs[-1].strip(" *_`\n")):
            paragraphs.pop()
    lines = "\n".join(paragraphs).split("\n")
    return "\n".join(flat for line in lines if not _is_ruler(line) and (flat := _flat(line)))


# Options

_MARKS: tuple[re.Pattern[str], ...] = (
    re.compile(
        r"(?:^[ \t>]{0,8}(?:[-*•][ \t]{1,3})?|(?<=[\s,;.!?*]))[*_`]{0,3}[(（\[]([A-Za-z])[)）\]][*_`]{0,3}[.:]?",
        re.MULTILINE,
    ),
    re.compile(r"^[ \t>*_`•\-]{0,8}([A-Za-z])[*_`]{0,3}[).:][*_`]{0,3}(?=[ \t]|$)", re.MULTILINE),
    re.compile(r"(?:^|(?<=[\s,;]))[*_`]{0,3}([A-Z])[*_`]{0,3}[).:][*_`]{0,3}(?=\s)", re.MULTILINE),
    re.compile(r"^[ \t>*_`•\-]{0,8}\(?(\d{1,2})[).:][*_`]{0,3}(?=[ \t])", re.MULTILINE),
)
_BULLET = re.compile(r"^[ \t]{0,8}[-*•][ \t]{1,4}")


def parse_options(text: str) -> tuple[str, ...]:
    """The options of an options field; empty when none can be told apart.

    Forms: `(A) x (B) y`, `A) x`, `A. x`, `1. x`, on one line or one a line, letters in order from A; or, without
    letters, a list with a bullet on every line.
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
        return tuple(_option(_BULLET.sub("", line)) for line in lines[:MAX_OPTIONS])
    return ()


def _marked(text: str, mark: re.Pattern[str]) -> tuple[str, ...]:
    """Texts between the marks A, B, C, ... (each the first one after the mark before); none for fewer than two."""
    spans = [span for span, _ in _sequence(text, mark)]
    if len(spans) < 2:
        return ()
    ends = [start for start, _ in spans[1:]] + [len(text)]
    return tuple(_option(text[end:stop]) for (_, end), stop in zip(spans, ends))


def _sequence(text: str, mark: re.Pattern[str]) -> list[tuple[tuple[int, int], int]]:
    found: list[tuple[tuple[int, int], int]] = []
    for match in mark.finditer(text):
        label = match[1].upper()
        number = int(label) - 1 if label.isdecimal() else LETTERS.find(label)
        if number == len(found) and number < MAX_OPTIONS:
            found.append((match.span(), number))
    return found


def _option(text: str) -> str:
    """An option's text: one line, without separators at its end."""
    return _flat(text).rstrip(",;|/ ").strip()


def _options_in_question(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Split options that stand, one a line, under a question."""
    for mark in (_MARKS[0], _MARKS[1]):
        sequence = [span for span, _ in _sequence(text, mark)]
        at_line_start = [
            start for start, _ in sequence if not text[text.rfind("\n", 0, start) + 1 : start].strip()
        ]
        if len(sequence) >= 2 and len(at_line_start) == len(sequence) and sequence[0][0] > 0:
            return text[: sequence[0][0]], parse_options(text[sequence[0][0] :])
    return None


# Answer

_LETTER_FIRST = re.compile(
    r"^(?:the[ ])?(?:correct[ ])?(?:answer|option|choice)?(?:[ ]is)?[ :]{0,2}"
    r"(?:[(（\[](?P<paren>[A-Za-z])[)）\]]|(?P<bare>[A-Z])(?=[).:,\s]|$)|(?P<lone>[a-z])(?=[).]|$))[).:,]?\s*(?P<rest>.*)$",
    _ANY_CASE | re.DOTALL,
)
_ANY_PAREN = re.compile(r"[(（\[]([A-Za-z])[)）\]]")


def find_answer(answer: str, options: Sequence[str]) -> tuple[int | None, str | None]:
    """Which option an answer names, and what is wrong when it names none.

    Letter (`B`, `(B)`, `Option B`), letter with text (`(B) It sank.`), or the option's text alone. A letter whose
    text is another option's, or several letters, are `ambiguous answer`; a letter beyond the options or a text
    that is none of them `answer not an option`.
    """
    texts = [comparable(option) for option in options]
    whole = comparable(answer)
    if whole and texts.count(whole) == 1:
        return texts.index(whole), None
    match = _LETTER_FIRST.match(answer.strip("*_`\"' "))
    if match is None:
        return _by_text(answer, texts)
    is_article = match["bare"] in ("A", "a", "I") and match["rest"] and _follows_by_space(match)
    rest = comparable(match["rest"])
    index = LETTERS.index((match["paren"] or match["bare"] or match["lone"]).upper())
    if is_article and (index >= len(options) or rest != texts[index]):
        return _by_text(answer, texts)
    letters = {letter.upper() for letter in _ANY_PAREN.findall(answer)} - {LETTERS[index]}
    if any(LETTERS.index(letter) < len(options) for letter in letters):
        return None, AMBIGUOUS_ANSWER
    if index >= len(options):
        return None, ANSWER_NOT_AN_OPTION
    if rest and rest != texts[index] and rest in texts:
        return None, AMBIGUOUS_ANSWER
    return index, None


def _follows_by_space(match: re.Match[str]) -> bool:
    """`A dog` (an article) and not `A. dog`."""
    return match.string[match.end("bare") : match.end("bare") + 1].isspace()


def _by_text(answer: str, texts: Sequence[str]) -> tuple[int | None, str | None]:
    letters = [letter.upper() for letter in _ANY_PAREN.findall(answer)]
    inside = {LETTERS.index(letter) for letter in letters if LETTERS.index(letter) < len(texts)}
    if len(inside) == 1:
        return inside.pop(), None
    if len(inside) > 1 or texts.count(comparable(answer)) > 1:
        return None, AMBIGUOUS_ANSWER
    return None, ANSWER_NOT_AN_OPTION


def comparable(text: str) -> str:
    """`text` without case, punctuation at the ends and doubled spaces, in Unicode's compatibility form."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" .,;:!?*_`\"'“”‘’")
