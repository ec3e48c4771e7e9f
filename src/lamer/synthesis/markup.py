"""Take off what chat models put around a text: emphasis, code fences, rulers (pure)."""

from __future__ import annotations

import re

_BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)([^*\n]{1,400}?)(?<=\S)\*\*(?![\w*])")


def flat(value: str) -> str:
    """On one line, single spaces, without emphasis marks around it."""
    return plain(" ".join(value.split()))


def plain(value: str) -> str:
    """Without emphasis marks around the whole or around parts of it."""
    return _BOLD.sub(r"\1", value.strip().strip("*`").strip())


def unfenced(value: str) -> list[str]:
    """The lines without those that open or close a code fence."""
    return [line for line in value.strip().split("\n") if not line.lstrip().startswith("```")]


def is_ruler(line: str) -> bool:
    """Nothing but punctuation: blank, `---`, `***`, `......`."""
    stripped = line.strip()
    return not stripped or (len(stripped) > 1 and not any(character.isalnum() for character in stripped))


def first_line(value: str) -> str:
    """The first line that says something, flat."""
    return next((line for raw in value.split("\n") if (line := flat(raw))), "")
