"""How much may be asked of a server, and when (pure: every method is told the time).

concurrency   requests in flight: fewer when the server is overloaded, more again while it answers
pace          requests and tokens a minute
hold          nothing is sent before the end of a Retry-After
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from lamer.config import TeacherSettings

MINUTE_S = 60.0
BURST_S = 1.0
"""What has not been used in this time may be used at once."""
CHARACTERS_PER_TOKEN = 3.0
"""Of a prompt, before the first reply has told; English has four."""
SMOOTHING = 0.1
"""Weight of the newest reply in the running means."""


class Concurrency:
    """Requests in flight: additive increase, multiplicative decrease.

    Each answer adds 1 / limit, so that a limit's worth of answers adds one; an overload halves what is in flight,
    never below 1. One overload fails many requests at once: those sent before the last decrease say nothing new.

    Args:
        most: The limit at the start and ever.

    Source: Chiu and Jain, Analysis of the increase and decrease algorithms, Computer Networks 17 (1989).
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.in_flight = 0
        self._last_decrease = -inf

    @property
    def has_room(self) -> bool:
        """Whether one more may be sent."""
        return self.in_flight < int(self.limit)

    def increase(self) -> None:
        """An answer arrived."""
        self.limit = min(self.limit + 1.0 / self.limit, float(self.most))

    def decrease(self, sent: float, now: float) -> None:
        """A request that was sent at `sent` (and still counts as in flight) met an overloaded server."""
        if sent >= self._last_decrease:
            self.limit = max(1.0, min(self.limit, float(self.in_flight)) / 2.0)
            self._last_decrease = now


class Pace:
    """Units a minute, evenly: in any 60 s at most `per_minute`, the last request's own units not counted.

    A unit takes `(60 + BURST_S) / per_minute` seconds, one after another; a request may start `BURST_S` before
    its units are due, or at once when nothing is owed, however large it is. Requests of one unit never exceed the
    limit in any 60 s.

    Args:
        per_minute: The limit.
    """

    def __init__(self, per_minute: int) -> None:
        self.seconds_per_unit = (MINUTE_S + BURST_S) / per_minute
        self._paid = -inf
        """When all that was used so far is paid for."""

    def wait_s(self, now: float, units: float) -> float:
        """Seconds until a request of so many units may start; 0.0 for now."""
        cost = units * self.seconds_per_unit
        return max(0.0, max(self._paid, now) + cost - max(cost, BURST_S) - now)

    def use(self, now: float, units: float) -> None:
        """A request of so many units starts."""
        self._paid = max(self._paid, now) + units * self.seconds_per_unit

    def correct(self, units: float) -> None:
        """It took so many units more (or fewer: negative) than was thought."""
        self._paid += units * self.seconds_per_unit


class TokenGuess:
    """Tokens that a request will take, from what earlier ones took.

    Args:
        max_tokens: What a reply may take; expected until the first reply has told.
    """

    def __init__(self, max_tokens: int) -> None:
        self.tokens_per_character = 1.0 / CHARACTERS_PER_TOKEN
        self.completion_tokens = float(max_tokens)
        self._has_learned = False

    def tokens(self, num_characters: int) -> float:
        """Prompt and reply of a request whose messages have so many characters."""
        return num_characters * self.tokens_per_character + self.completion_tokens

    def learn(self, num_characters: int, prompt_tokens: int, completion_tokens: int) -> None:
        """What one request took."""
        weight = SMOOTHING if self._has_learned else 1.0
        self._has_learned = True
        self.completion_tokens += weight * (completion_tokens - self.completion_tokens)
        if num_characters and prompt_tokens:
            self.tokens_per_character += weight * (prompt_tokens / num_characters - self.tokens_per_character)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request in flight."""

    sent: float
    num_characters: int
    tokens: float
    """Expected; 0.0 without a limit on tokens."""


class Limits:
    """Everything that holds a request back.

    Args:
        settings: `concurrency`, `requests_per_minute`, `tokens_per_minute`, `max_tokens`.
    """

    def __init__(self, settings: TeacherSettings) -> None:
        self.concurrency = Concurrency(settings.concurrency)
        self.held_until = -inf
        self._requests = Pace(settings.requests_per_minute) if settings.requests_per_minute else None
        self._tokens = Pace(settings.tokens_per_minute) if settings.tokens_per_minute else None
        self._guess = TokenGuess(settings.max_tokens)

    def wait_s(self, now: float, num_characters: int) -> float:
        """Seconds until a request may be sent; 0.0 for now, infinity for not before another one ends."""
        if not self.concurrency.has_room:
            return inf
        wait = max(0.0, self.held_until - now)
        if self._requests is not None:
            wait = max(wait, self._requests.wait_s(now, 1))
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait_s(now, self._guess.tokens(num_characters)))
        return wait

    def send(self, now: float, num_characters: int) -> Ticket:
        """A request is sent. Every ticket goes to `answered` or `failed`."""
        self.concurrency.in_flight += 1
        if self._requests is not None:
            self._requests.use(now, 1)
        tokens = 0.0
        if self._tokens is not None:
            tokens = self._guess.tokens(num_characters)
            self._tokens.use(now, tokens)
        return Ticket(now, num_characters, tokens)

    def answered(self, ticket: Ticket, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """It was answered; a server that tells no usage leaves the guess as it is."""
        self.concurrency.increase()
        self.concurrency.in_flight -= 1
        if self._tokens is not None and completion_tokens is not None:
            prompt_tokens = prompt_tokens or 0
            self._tokens.correct(prompt_tokens + completion_tokens - ticket.tokens)
            self._guess.learn(ticket.num_characters, prompt_tokens, completion_tokens)

    def failed(self, ticket: Ticket, now: float, *, is_overload: bool, hold_s: float = 0.0) -> None:
        """It failed: it took no tokens.

        Args:
            ticket: The request's.
            now: The time.
            is_overload: Whether fewer requests would help.
            hold_s: Seconds in which nothing shall be sent.
        """
        if is_overload:
            self.concurrency.decrease(ticket.sent, now)
        self.concurrency.in_flight -= 1
        if self._tokens is not None:
            self._tokens.correct(-ticket.tokens)
        self.held_until = max(self.held_until, now + hold_s)
