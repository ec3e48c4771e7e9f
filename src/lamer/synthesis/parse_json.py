"""Read examples from JSON, whole or damaged (pure).

One pass over the characters with a stack of its own: no recursion, no second look, so that time is linear and no
depth of nesting breaks it. Objects with a question or with options are items, wherever they stand: under
`examples`, in a list, one a line, in a code fence, between words. What is cut off at the end of the reply is
`truncated`, the items before it are whole; an object whose grammar is broken (an unescaped quotation mark, a
missing comma or bracket) is `malformed`, since nobody knows where its texts end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lamer.synthesis.items import MALFORMED, TRUNCATED, ParsedItem, item_of
from lamer.synthesis.labels import Field, field_of, key
from lamer.synthesis.markup import flat, is_ruler
from lamer.synthesis.options import MAX_OPTIONS, letter_index, option_text, parse_options, without_marks

MAX_DEPTH = 32
"""Containers inside each other; what lies deeper is passed over."""

_START = re.compile(r'\{(?=\s*["{}])|\[(?=\s*["{\[])')
"""Where JSON may begin in running text."""
_TOKEN = re.compile(
    r'(?P<text>"[^"\\]*+(?:\\.[^"\\]*+)*+)(?P<end>"?)'
    r"|(?P<mark>[{}\[\],:])"
    r"|(?P<scalar>-?\d[\d.eE+\-]*+|true\b|false\b|null\b)"
    r"|(?P<space>\s++)"
    r'|(?P<junk>[^\s"{}\[\],:]++)',
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_LOOKS_LIKE_JSON = re.compile(r'[\[{]\s{0,9}[\[{"]')

_SURROGATE = re.compile("[\ud800-\udfff]")
_LETTER_KEY = re.compile(r"(?:option|choice)?[ _]?\(?([A-Za-z])[).:]?", re.ASCII | re.IGNORECASE)
_TEXT_KEYS = ("text", "content", "value", "option text", "option", "choice", "description")
_LABEL_KEYS = ("label", "letter", "id", "key", "option", "choice", "index")


@dataclass(slots=True)
class _Container:
    """An object or a list while it is read."""

    is_object: bool
    start: int
    end: int = 0
    keys: list[str] = field(default_factory=list)
    """Of an object; as many as `values`, or one more while a value is awaited."""
    values: list[str | _Container] = field(default_factory=list)
    is_broken: bool = False
    is_cut: bool = False
    awaits_colon: bool = False
    awaits_comma: bool = False

    @property
    def awaits_value(self) -> bool:
        return len(self.keys) > len(self.values)

    @property
    def fields(self) -> set[Field | None]:
        return {field_of(name) for name in self.keys}

    @property
    def is_item(self) -> bool:
        return self.is_object and bool(self.fields & {"question", "options"})


def parse_json(text: str) -> list[ParsedItem]:
    """The items of all JSON in a text, in order; empty when there is none. Never raises."""
    found = _items(_Reader(text).read(), text)
    if not found and '\\"' in text:  # JSON inside a JSON string
        unescaped = _decoded(text)
        found = _items(_Reader(unescaped).read(), unescaped, raw=text.strip())
    return found


class _Reader:
    """One pass over a text; gives its objects in the order in which they begin."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._stack: list[_Container] = []
        self._objects: list[_Container] = []
        self._num_too_deep = 0

    def read(self) -> list[_Container]:
        """All objects; those still open at the end are cut."""
        position = 0
        while position < len(self.text):
            if not self._stack:
                start = _START.search(self.text, position)
                if start is None:
                    break
                position = start.start()
            match = _TOKEN.match(self.text, position)
            assert match is not None  # every character is one of the token kinds
            self._take(match)
            position = match.end()
        for container in self._stack:
            container.end, container.is_cut = len(self.text), True
        return self._objects

    def _take(self, match: re.Match[str]) -> None:
        kind, token = match.lastgroup, match[0]
        if kind == "mark":
            self._mark(token, match.start(), match.end())
        elif self._num_too_deep or kind == "space":
            return
        elif kind == "junk":
            self._stack[-1].is_broken = True
        elif kind == "scalar":
            self._scalar("" if token == "null" else token)
        elif match["end"]:
            self._text(_decoded(match["text"][1:]))
        # else a text that the reply ends in: its field is not there

    def _mark(self, mark: str, start: int, end: int) -> None:
        if mark in "{[":
            self._open(mark == "{", start)
        elif mark in "}]":
            self._close(mark == "}", end)
        elif self._num_too_deep:
            return
        elif mark == ",":
            self._stack[-1].is_broken |= self._stack[-1].awaits_value
            self._stack[-1].awaits_comma = False
        else:
            self._stack[-1].is_broken |= not self._stack[-1].awaits_colon
            self._stack[-1].awaits_colon = False

    def _open(self, is_object: bool, start: int) -> None:
        if self._num_too_deep or len(self._stack) == MAX_DEPTH:
            self._num_too_deep += 1
            return
        container = _Container(is_object, start)
        if self._stack:
            self._add(container)
        self._stack.append(container)
        if is_object:
            self._objects.append(container)

    def _close(self, is_object: bool, end: int) -> None:
        """Close the innermost container of this kind, and what was left open inside it."""
        if self._num_too_deep:
            self._num_too_deep -= 1
            return
        if all(container.is_object != is_object for container in self._stack):
            self._stack[-1].is_broken = True
            return
        while True:
            container = self._stack.pop()
            container.end = end
            container.is_broken |= container.awaits_value
            if container.is_object == is_object:
                return
            container.is_broken = True

    def _text(self, text: str) -> None:
        parent = self._stack[-1]
        if parent.is_object and not parent.awaits_value:
            parent.is_broken |= parent.awaits_comma
            parent.keys.append(text)
            parent.awaits_colon = True
        else:
            self._add(text)

    def _scalar(self, token: str) -> None:
        if self._stack[-1].is_object and not self._stack[-1].awaits_value:
            self._stack[-1].is_broken = True
        else:
            self._add(token)

    def _add(self, value: str | _Container) -> None:
        """A value of the innermost container; one without a key is no value of an object."""
        parent = self._stack[-1]
        parent.is_broken |= parent.awaits_comma or parent.awaits_colon
        if parent.is_object and not parent.awaits_value:
            parent.is_broken = True
            return
        parent.values.append(value)
        parent.awaits_comma, parent.awaits_colon = True, False


def _decoded(text: str) -> str:
    """The text of a JSON string. An escape that JSON does not know, and those of control characters, stay as they
    are written: `\\frac` and `\\(` are LaTeX that somebody forgot to escape."""
    if "\\" not in text:
        return text
    found = _ESCAPE.sub(_unescape, text)
    if _SURROGATE.search(found):
        found = found.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return found


def _unescape(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    return {"n": "\n", "r": "\n", "t": "\t", '"': '"', "\\": "\\", "/": "/"}.get(match[2], match[0])


# From objects to items


def _items(objects: list[_Container], text: str, raw: str | None = None) -> list[ParsedItem]:
    """The objects that are items; those inside a field of another item are none.

    Args:
        objects: In the order of the text.
        text: What they were read from.
        raw: What stands for the teacher's own words; None takes each item's part of `text`.
    """
    inside: set[int] = set()
    found: list[_Container] = []
    for container in objects:
        if container.is_item and id(container) not in inside:
            found.append(container)
            inside |= {id(below) for value in _fields(container).values() for below in _within(value)}
    return [
        _item(one, raw if raw is not None else text[one.start : one.end], is_last=one is found[-1])
        for one in found
    ]


def _within(values: Iterable[str | _Container]) -> Iterator[_Container]:
    """The containers among the values, at any depth."""
    for value in values:
        if isinstance(value, _Container):
            yield value
            yield from _within(value.values)


def _fields(container: _Container) -> dict[Field, list[str | _Container]]:
    """The values of every field, cut ones left out."""
    fields: dict[Field, list[str | _Container]] = {}
    for name, value in zip(container.keys, container.values):
        meant = field_of(name)
        if meant is not None and not (isinstance(value, _Container) and value.is_cut):
            fields.setdefault(meant, []).append(value)
    return fields


def _item(container: _Container, raw: str, *, is_last: bool) -> ParsedItem:
    fields = _fields(container)
    questions = [flat(text) for value in fields.get("question", []) for text in _texts(value)]
    options = [_options(value) for value in fields.get("options", [])]
    answers = [flat(text) for value in fields.get("answer", []) for text in _texts(value)]
    steps = [_steps(value) for value in fields.get("explanation", [])]
    is_malformed = (
        container.is_broken
        or any(below.is_broken for values in fields.values() for below in _within(values))
        or len(set(questions)) > 1
        or len(set(options)) > 1
        or any(_LOOKS_LIKE_JSON.match(question) for question in questions)
    )
    return item_of(
        next((question for question in questions if not is_ruler(question)), None),
        next(iter(options), None),
        answers,
        next((text for text in steps if text), None),
        raw,
        damage=TRUNCATED if container.is_cut else MALFORMED if is_malformed else None,
        is_last=is_last,
    )


def _texts(value: str | _Container) -> list[str]:
    """A text; the texts of a list; those of an object (`letter` and `text`, say) as one."""
    if isinstance(value, str):
        return [value]
    texts = [text for text in value.values if isinstance(text, str)]
    return [" ".join(texts)] if value.is_object else texts


def _steps(value: str | _Container) -> str:
    """An explanation, one line a step."""
    lines = [line for text in _texts(value) for line in text.split("\n")]
    return "\n".join(flat(line) for line in lines if not is_ruler(line))


def _options(value: str | _Container) -> tuple[str, ...]:
    """Options as a list of texts or of labelled objects, as an object by letter, or as one text with letters."""
    if isinstance(value, str):
        return parse_options(value)
    if value.is_object:
        return _by_letter(value.keys, value.values)
    values = value.values[: MAX_OPTIONS + 1]
    texts = [text for text in values if isinstance(text, str)]
    if len(texts) == len(values):
        return without_marks(texts)
    labelled = [_labelled(option, place) for place, option in enumerate(values)]
    found = tuple(text for text in labelled if text is not None)
    return found if len(found) == len(values) else ()


def _by_letter(keys: list[str], values: list[str | _Container]) -> tuple[str, ...]:
    """`{"A": "hot", "B": "cold"}`; empty unless the keys are the first letters, each once."""
    by_index: dict[int, str] = {}
    for name, value in list(zip(keys, values))[: MAX_OPTIONS + 1]:
        match = _LETTER_KEY.fullmatch(name.strip())
        if match is None or not isinstance(value, str) or letter_index(match[1]) in by_index:
            return ()
        by_index[letter_index(match[1])] = value
    if sorted(by_index) != list(range(len(by_index))):
        return ()
    return tuple(option_text(by_index[index]) for index in range(len(by_index)))


def _labelled(value: str | _Container, place: int) -> str | None:
    """`{"label": "A", "text": "hot"}` or `{"A": "hot"}` at its place; None when it is something else."""
    if isinstance(value, str) or not value.is_object:
        return None
    texts = {key(name): text for name, text in zip(value.keys, value.values) if isinstance(text, str)}
    if len(texts) == 1 and (match := _LETTER_KEY.fullmatch(next(iter(value.keys)).strip())):
        return option_text(next(iter(texts.values()))) if letter_index(match[1]) == place else None
    told = next((name for name in _TEXT_KEYS if name in texts), None)
    label = next((texts[name] for name in _LABEL_KEYS if name in texts and name != told), "")
    match = _LETTER_KEY.fullmatch(label.strip())
    if told is None or (match is not None and letter_index(match[1]) != place):
        return None
    return option_text(texts[told])
