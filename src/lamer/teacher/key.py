"""The teacher's API key: from the environment, never shown, never stored."""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from lamer.config import TeacherSettings
from lamer.errors import TeacherError

OPENAI_URL = "https://api.openai.com/v1"
MIN_SECRET_LENGTH = 8
"""A shorter key is a placeholder of a local server, not a secret to be blotted out of replies."""


HTTP_LOGGERS = ("openai", "httpx", "httpcore", "aiohttp")
"""Begins of the names of the loggers that may be told what a server said."""


class Secret:
    """An API key that does not show itself."""

    def __init__(self, value: str) -> None:
        self.value = value
        is_secret = len(value) >= MIN_SECRET_LENGTH
        self._forms = _forms(value) if is_secret else []
        self._escaped = _escaped(value) if is_secret else None

    def __repr__(self) -> str:
        return "[key]"

    def scrub(self, text: str) -> str:
        """`text` without the key, also where it is written in base64 or with escapes."""
        for form in self._forms:
            text = text.replace(form, "[key]")
        is_escaped = self._escaped is not None and ("%" in text or "\\" in text)
        return self._escaped.sub("[key]", text) if self._escaped and is_escaped else text


def _forms(key: str) -> list[str]:
    """The key and its base64, longest first.

    Base64 writes three bytes as four characters, so a key inside a longer text has three forms, by where it
    begins. The characters that it shares with its neighbours are left out.
    """
    found = {key}
    for offset, shared in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"\0" * offset + key.encode()).decode()
        form = encoded[shared : len(encoded) - (0, 3, 2)[(offset + len(key)) % 3]]
        found |= {form, form.translate(str.maketrans("+/", "-_"))}
    return sorted(found, key=len, reverse=True)


def _escaped(key: str) -> re.Pattern[str]:
    """The key with any of its characters as `%2F`, `\\u002f` or `\\/`."""
    characters = [
        rf"(?:\\?{re.escape(character)}|%(?i:{ord(character):02x})|\\u00(?i:{ord(character):02x}))"
        for character in key
    ]
    return re.compile("".join(characters))


class _KeyFilter(logging.Filter):
    """Takes a key out of log records; none is held back."""

    def __init__(self, secret: Secret) -> None:
        super().__init__()
        self.secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        """Write the key out of the message and of a traceback."""
        record.msg, record.args = self.secret.scrub(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_info, record.exc_text = None, self.secret.scrub(record.exc_text)
        return True


@contextmanager
def quiet_logs(secret: Secret) -> Iterator[None]:
    """While this lasts, no logger of the HTTP client writes the key, whatever a server says and at any level.

    A logger asks only its own filters, not those of the loggers above it, so every one of them gets the filter;
    the client must have been made before.
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith(HTTP_LOGGERS)]
    loggers = [logging.getLogger(name) for name in names]
    key_filter = _KeyFilter(secret)
    for logger in loggers:
        logger.addFilter(key_filter)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(key_filter)


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
