"""What a teacher costs: a small dated table of prices, shipped as `prices.yaml`; users may put theirs before it.

A price that no table has is unknown, and said to be: it is never taken from a similar model, nor is a server of
one's own taken to be free unless a table says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from lamer.config import TeacherSettings
from lamer.errors import ConfigError
from lamer.teacher.key import OPENAI_URL

PER = 1_000_000
"""Tokens that a price is for."""
ANY = "*"
"""Every model of a server."""
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})
SHIPPED = "prices.yaml"

_DATE = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4})")
"""What a dated snapshot has behind the model's name: -2024-07-18, -20240718, -0125."""
_KEYS = frozenset({"model", "server", "input", "output", "batch", "date", "source", "dated"})


@dataclass(frozen=True, slots=True)
class Price:
    """One row of a table."""

    model: str
    """Name on the server; `*` for every model there."""
    input: float
    """Money for a million prompt tokens."""
    output: float
    """Money for a million tokens of replies."""
    date: str
    """Day it was looked up, `2026-11-22`."""
    source: str
    """Where it was found."""
    currency: str
    batch: float = 1.0
    """Share of the price that is paid in batch mode."""
    server: str | None = None
    """Host that it holds at; None: anywhere."""
    dated: bool = True
    """Whether it also holds for the model's dated snapshots."""

    def cost(self, prompt_tokens: int, completion_tokens: int, *, is_batch: bool = False) -> float:
        """(prompt * input + completion * output) / 1,000,000, times `batch` in batch mode; in `currency`."""
        online = (prompt_tokens * self.input + completion_tokens * self.output) / PER
        return online * self.batch if is_batch else online

    def to_text(self) -> str:
        """`0.15 / 0.6 USD for a million tokens of prompts / replies (2026-11-22, https://...)`."""
        return (
            f"{self.input:g} / {self.output:g} {self.currency} for a million tokens of prompts / replies "
            f"({self.date}, {self.source})"
        )


def price_of(settings: TeacherSettings) -> Price | None:
    """The price of a teacher where it is asked, or None when no table has it.

    Raises:
        ConfigError: If the user's table cannot be read.
    """
    return find_price(load_prices(settings.prices), settings.model, host_of(settings))


def host_of(settings: TeacherSettings) -> str:
    """The host that a teacher is asked at; `localhost` for every name of this machine."""
    host = urlsplit(settings.base_url or OPENAI_URL).hostname or ""
    return "localhost" if host in LOCAL_HOSTS else host


def find_price(prices: Sequence[Price], model: str, host: str) -> Price | None:
    """The row for a model at a server: its very name, else the name it is a dated snapshot of, else `*`.

    Of rows that fit equally well the first one is taken, so that a user's rows come before the shipped ones.
    """
    here = [price for price in prices if price.server in (None, host)]
    for fits in (_is_exact, _is_snapshot, _is_any):
        for price in here:
            if fits(price, model):
                return price
    return None


def _is_exact(price: Price, model: str) -> bool:
    return price.model == model


def _is_snapshot(price: Price, model: str) -> bool:
    return price.dated and model.startswith(price.model) and _DATE.fullmatch(model[len(price.model) :]) is not None


def _is_any(price: Price, model: str) -> bool:
    return price.model == ANY


def load_prices(path: str | None = None) -> list[Price]:
    """The rows of the user's table, then the shipped ones where the currency is the same.

    Raises:
        ConfigError: If the table cannot be read, naming the row.
    """
    shipped = _read((resources.files("lamer.teacher") / SHIPPED).read_text(encoding="utf-8"), SHIPPED)
    if path is None:
        return shipped
    try:
        own = _read(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"synthesize.teacher.prices: {path}: cannot be read ({error}); docs/synthesis.md shows a table"
        ) from error
    return own + [price for price in shipped if price.currency == own[0].currency] if own else shipped


def _read(text: str, name: str) -> list[Price]:
    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML ({error.__class__.__name__})") from error
    if not isinstance(table, Mapping) or not isinstance(table.get("models"), list):
        raise ConfigError(f"{name}: a price table has `currency: USD` and a list `models:`")
    currency = table.get("currency")
    if not isinstance(currency, str) or not currency.strip():
        raise ConfigError(f"{name}: `currency:` is missing, such as USD")
    return [_row(row, currency.strip(), f"{name}: row {i}") for i, row in enumerate(table["models"], start=1)]


def _row(row: Any, currency: str, where: str) -> Price:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: expected model, input, output, date and source, found {row!r}")
    if unknown := set(map(str, row)) - _KEYS:
        raise ConfigError(f"{where}: unknown key {min(unknown)!r}; known: {', '.join(sorted(_KEYS))}")
    for name in ("model", "input", "output", "date", "source"):
        if row.get(name) is None:
            raise ConfigError(f"{where}: {name} is missing")
    for name in ("input", "output", "batch"):
        value = row.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ConfigError(f"{where}: {name} is {value!r}, expected a number, 0 or more")
    if row.get("batch", 1.0) > 1:
        raise ConfigError(f"{where}: batch is {row['batch']!r}, expected the share that is paid, such as 0.5")
    if not isinstance(row.get("dated", True), bool):
        raise ConfigError(f"{where}: dated is {row['dated']!r}, expected true or false")
    try:
        day = row["date"] if isinstance(row["date"], date) else date.fromisoformat(str(row["date"]))
    except ValueError as error:
        raise ConfigError(f"{where}: date is {row['date']!r}, expected a day such as 2026-11-22") from error
    server = row.get("server")
    return Price(
        model=str(row["model"]),
        input=float(row["input"]),
        output=float(row["output"]),
        date=day.isoformat(),
        source=str(row["source"]),
        currency=currency,
        batch=float(row.get("batch", 1.0)),
        server=None if server is None else str(server),
        dated=row.get("dated", True),
    )


def how_to_add(settings: TeacherSettings) -> str:
    """What to do about a model that no table has a price for."""
    host = host_of(settings)
    prices = "input: 0, output: 0" if host == "localhost" else "input: 0.15, output: 0.6"
    return (
        f"add a row `{{model: {settings.model!r}, server: {host}, {prices}, date: 2026-11-22, source: ...}}` "
        "(money for a million tokens) to a table named by synthesize.teacher.prices (see docs/synthesis.md)"
    )
