"""The teacher's API key: from the environment, never shown, never stored."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from lamer.config import TeacherSettings
from lamer.errors import TeacherError

OPENAI_URL = "https://api.openai.com/v1"
MIN_SECRET_LENGTH = 8
"""A shorter key is a placeholder of a local server, not a secret to be blotted out of replies."""


class Secret:
    """An API key that does not show itself."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "[key]"

    def scrub(self, text: str) -> str:
        """`text` without the key."""
        return text.replace(self.value, "[key]") if len(self.value) >= MIN_SECRET_LENGTH else text


def api_key(settings: TeacherSettings, section: str = "synthesize.teacher") -> Secret:
    """The key from the environment; empty for a server that may need none.

    Args:
        settings: Address and the variable's name.
        section: What errors call the settings.

    Raises:
        TeacherError: If the address is no address, the service needs a key and there is none, or the key cannot
            be one.
    """
    address = urlsplit(settings.base_url or OPENAI_URL)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise TeacherError(
            f"{section}.base_url: {settings.base_url!r} is no server address; write it like "
            "http://localhost:8000/v1"
        )
    variable = settings.api_key_env
    key = os.environ.get(variable, "").strip()
    if not key and (address.hostname == "openai.com" or address.hostname.endswith(".openai.com")):
        raise TeacherError(
            f"{address.hostname}: no key for {section}: set the environment variable {variable} (or another one "
            f"named by {section}.api_key_env), or point {section}.base_url at your own server"
        )
    if not (key.isascii() and key.isprintable()):
        raise TeacherError(f"{variable}: holds characters that no key has; set it again")
    return Secret(key)


def check_teacher(settings: TeacherSettings, section: str = "synthesize.teacher") -> None:
    """Find out early, without asking anything, that the teacher's address or key is missing.

    Raises:
        TeacherError: See `api_key`.
    """
    api_key(settings, section)
