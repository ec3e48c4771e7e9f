"""The embedded world's teacher when it is shown a question: it answers blind, and judges, by what it knows.

What it knows is what is true in its world; a fact that it is shown goes before that. It recognises the scenarios
that it writes itself (`synthesis` templates).
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from lamer.microworld import lexicon

if TYPE_CHECKING:
    from lamer.microworld.lexicon import Attribute
    from lamer.microworld.teacher import MicroworldTeacher

_FIELD = re.compile(r"^(Fact|Question|Options|Written answer): (.*)$", re.MULTILINE)
_OPTION = re.compile(r"\(([A-Z])\) (.*?)(?= \([A-Z]\) |$)")
_SLOT = re.compile(r"\{(\w)\}")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A question as it stands in a prompt."""

    fact: str
    """Empty where none is shown."""
    question: str
    options: tuple[str, ...]
    written: str | None
    """The answer to be judged; None for a question to be answered."""


def read_sheet(text: str) -> Sheet | None:
    """The question of a prompt that wants an answer or a verdict; None for any other prompt."""
    if "multiple-choice question" not in text and "Written answer:" not in text:
        return None
    fields = dict(_FIELD.findall(text))
    options = tuple(option for _, option in _OPTION.findall(fields.get("Options", "")))
    return Sheet(fields.get("Fact", ""), fields.get("Question", ""), options, fields.get("Written answer"))


def sit(sheet: Sheet, teacher: MicroworldTeacher) -> str:
    """The reply: an answer with its letter, or the four lines of a verdict."""
    right = right_option(sheet, teacher)
    letter = None if right is None else f"({string.ascii_uppercase[right]})"
    if sheet.written is None:
        return "I cannot tell." if letter is None else f"This is what follows.\nAnswer: {letter}"
    is_right = letter is not None and sheet.written.startswith(letter)
    points = {
        "One right option": letter is not None,
        "Written answer is right": is_right,
        "Explanation supports it": is_right,
        "Fact is needed": _rests_on_fact(sheet, teacher),
    }
    return "\n".join(f"{point}: {'yes' if said else 'no'}" for point, said in points.items())


def right_option(sheet: Sheet, teacher: MicroworldTeacher) -> int | None:
    """The one option that follows from the fact shown or from what is true, or None."""
    scene = recognise_scene(sheet.question)
    if scene is None:
        return _only(sheet.options, [_tail(option) in sheet.fact and bool(sheet.fact) for option in sheet.options])
    attribute, kind = scene
    told = teacher.recognise(sheet.fact) if sheet.fact else None
    if told is not None and (told[0], told[1]) == scene:
        value: bool | None = told[2]
    else:
        facts = teacher.world.facts
        value = next((f.value for f in facts if (f.kind, f.attribute) == (kind, attribute.name)), None)
    if value is None:
        return None
    ending = f"{attribute.outcomes[value]}."
    return _only(sheet.options, [option.endswith(ending) for option in sheet.options])


def recognise_scene(question: str) -> tuple[Attribute, str] | None:
    """Attribute and kind of a scenario that the teacher writes."""
    for attribute, pattern in _patterns():
        match = pattern.search(question)
        if match is not None:
            return attribute, match["k"]
    return None


@cache
def _patterns() -> tuple[tuple[Attribute, re.Pattern[str]], ...]:
    return tuple(
        (attribute, re.compile(_SLOT.sub(lambda slot: "(?P<k>[a-z]+)" if slot[1] == "k" else ".+?", template)))
        for attribute in lexicon.ATTRIBUTES
        for template in attribute.synthesis
    )


def _rests_on_fact(sheet: Sheet, teacher: MicroworldTeacher) -> bool:
    scene, told = recognise_scene(sheet.question), teacher.recognise(sheet.fact)
    return told is not None and scene == (told[0], told[1]) if scene is not None else told is None


def _only(options: Sequence[str], fits: Sequence[bool]) -> int | None:
    return fits.index(True) if sum(fits) == 1 and len(options) == len(fits) else None


def _tail(option: str) -> str:
    """What a cloze option says."""
    return option.removeprefix("It goes on: ").rstrip(".")
