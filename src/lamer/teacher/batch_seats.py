"""Room under the ceilings for requests in batches: taken before they are sent, given back when that is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lamer.config import TeacherSettings
from lamer.teacher.budget import Budget, Seat, Wish
from lamer.teacher.ledger import Answer, Cost, Ledger
from lamer.teacher.prices import Price


class Seats:
    """The requests of one session that may have to be paid, by hash.

    Args:
        settings: The teacher's.
        ledger: Whose budget it is.
        price: What the model costs; None: not known.
    """

    def __init__(self, settings: TeacherSettings, ledger: Ledger, price: Price | None) -> None:
        self.settings = settings
        self.price = price
        self.purposes: dict[str, str] = {}
        """What requests are asked for, by hash."""
        self._budget = Budget.of(ledger)
        self._seats: dict[str, Seat] = {}

    def reserve(self, bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """As many of these requests, from the first on, as the ceilings leave room for."""
        taken: dict[str, Mapping[str, Any]] = {}
        for key, body in bodies.items():
            seat = self._budget.take(self._wish(key, body))
            if seat is None:
                break
            self._seats[key], taken[key] = seat, body
        return taken

    def hold(self, bodies: Mapping[str, Mapping[str, Any]]) -> None:
        """Requests that an earlier start has sent: they are in flight, whatever the ceilings say."""
        for key, body in bodies.items():
            if body.get("model") == self.settings.model:
                self._seats[key] = self._budget.hold(self._wish(key, body))

    async def is_reached(self, key: str, body: Mapping[str, Any]) -> bool:
        """Whether a ceiling is reached, now that nothing of ours is in flight; tells the budget so."""
        seat = await self._budget.seat(self._wish(key, body))
        if seat is not None:
            seat.release()
        return seat is None

    def settle(self, key: str, answer: Answer) -> Cost | None:
        """An answer: its real cost takes the place of the room; None where the price is not known."""
        seat = self._seats.pop(key, None)
        return seat.settle(answer) if seat is not None else None

    def lose(self, key: str, error: str) -> None:
        """A request that was, or may have been, answered and paid, but the answer cannot be read."""
        if (seat := self._seats.pop(key, None)) is not None:
            seat.lose(error)

    def release(self, keys: Iterable[str]) -> None:
        """Give room back: these requests are not paid, or no longer ours to count."""
        for key in list(keys):
            if (seat := self._seats.pop(key, None)) is not None:
                seat.release()

    def close(self) -> None:
        """Give all room back; what is still under way is held again by the next session."""
        self.release(self._seats)

    def _wish(self, key: str, body: Mapping[str, Any]) -> Wish:
        return Wish(key, self.settings.model, body, self.price, True, self.purposes.get(key, ""))
