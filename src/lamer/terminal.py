"""Text from outside, made safe to show on a terminal.

Queries, facts, replies and error messages come from files and servers. An escape sequence in one of them could
recolour, rewrite or hide what the terminal shows; a bidirectional override could make a line read otherwise.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, line and paragraph separators, bidirectional overrides."""


def visible(text: str) -> str:
    """`text` with unsafe characters as `\\u001b`; inside a JSON string the escape means the same character."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
