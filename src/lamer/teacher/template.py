"""A prompt as text with strict placeholders."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lamer.errors import UsageError, nearest
from lamer.run import digest

_BRACES = re.compile(r"\{(\w*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Template:
    """A text with `{placeholders}`, each known and each there.

    Raises:
        UsageError: In one line, naming the template and the placeholder that is unknown or missing.
    """

    name: str
    text: str
    known: tuple[str, ...]
    optional: tuple[str, ...] = ()
    """Those of the known ones that may be missing."""

    def __post_init__(self) -> None:
        found = set()
        for match in _BRACES.finditer(self.text):
            name = match[1]
            if name not in self.known:
                given = match[0] if name is not None else f"lone '{match[0]}'"
                raise UsageError(
                    f"{self.name}: unknown placeholder {given}{nearest(name or '', self.known)}; known: "
                    + ", ".join(f"{{{key}}}" for key in self.known)
                )
            found.add(name)
        missing = [key for key in self.known if key not in found and key not in self.optional]
        if missing:
            raise UsageError(f"{self.name}: placeholder {{{missing[0]}}} is missing; add it to the template")

    def render(self, **values: object) -> str:
        """The text with every placeholder replaced, in one pass: braces inside values stay what they are.

        Raises:
            ValueError: If a value is missing or unknown.
        """
        if set(values) != set(self.known):
            raise ValueError(f"{self.name}: needs values for {self.known}, got {tuple(values)}")
        return _BRACES.sub(lambda match: str(values[match[1]]), self.text)

    def has(self, placeholder: str) -> bool:
        """Whether the text holds `{placeholder}`."""
        return f"{{{placeholder}}}" in self.text

    @property
    def hash(self) -> str:
        """Digest of the text."""
        return digest(self.text)
