"""The time that waits are measured in, so that tests can live through long ones quickly."""

from __future__ import annotations

import asyncio
import time


class Clock:
    """Seconds that pass as they do; or faster.

    Args:
        speed: Seconds of this clock in one real second.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed

    def now(self) -> float:
        """Seconds since some moment in the past; never runs backwards."""
        return time.monotonic() * self.speed

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until `event` is set, at most `seconds` (infinity: however long)."""
        if seconds <= 0:
            return
        try:
            async with asyncio.timeout(None if seconds == float("inf") else seconds / self.speed):
                await event.wait()
        except TimeoutError:
            return
