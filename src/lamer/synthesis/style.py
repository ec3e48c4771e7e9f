"""How the teacher is to write its replies down; settled once a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lamer.config import SynthesizeSettings
from lamer.synthesis.schema import TRIAL_MESSAGE, examples_schema
from lamer.synthesis.templates import prompt_named, takes_formats, template_hash
from lamer.teacher.formats import Choice, Format, choose_format
from lamer.teacher.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Style:
    """What every request of a stage has in common."""

    choice: Choice
    template: str
    """Hash of the prompt."""
    response_format: dict[str, Any] | None
    """The schema to follow; None for text."""
    has_explanation: bool
    """Whether examples have explanations."""

    @property
    def format(self) -> Format:
        """Text or JSON."""
        return self.choice.format

    @property
    def counts(self) -> dict[str, Any]:
        """The choice, for the manifest."""
        return {"chosen": self.format, "why": self.choice.reason, "trials": self.choice.num_asked}


def settle_style(settings: SynthesizeSettings, teacher: Teacher) -> Style:
    """In which format the teacher replies, found out by a trial request where the settings leave it open.

    Raises:
        UsageError: If the prompt cannot be used.
        TeacherError: See `choose_format`.
    """
    if not takes_formats(settings.prompt):
        return style_of(settings, Choice("text", "the prompt says itself how to reply"))
    schema = examples_schema(settings.num_options, has_explanation=prompt_named(settings.prompt).has_explanation)
    return style_of(settings, choose_format(teacher, schema, TRIAL_MESSAGE.format(settings.num_options)))


def style_of(settings: SynthesizeSettings, choice: Choice) -> Style:
    """The style that follows from a choice of format; asks nobody."""
    has_explanation = prompt_named(settings.prompt).has_explanation
    schema = examples_schema(settings.num_options, has_explanation=has_explanation)
    return Style(
        choice,
        template_hash(settings.prompt, choice.format),
        schema.response_format if choice.format == "json" else None,
        has_explanation,
    )
