"""Yes, no, true, valid and the like at the beginning or end of a reply; refusals."""

from __future__ import annotations

import re

from lamer.evaluation.extraction.statements import VERDICTS

REFUSAL = re.compile(
    r"\b(?:i (?:cannot|can not|can't|could not|couldn't|am unable|am not able|am sorry|am not sure|won't"
    r"|do not know|don't know)|i'm (?:unable|not able|not sure|sorry)|as an ai"
    r"|(?:cannot|can't|can not) be (?:answered|determined|known)|impossible to (?:say|tell|know|determine)"
    r"|(?:not enough|insufficient) information|none of the above|no (?:correct |valid )?answer)\b",
    re.IGNORECASE,
)
_BOTH = rf"(?! ?(?:and|or|/|&) ?(?:{VERDICTS})\b)"
HEAD_VERDICT = re.compile(rf"\W*\b({VERDICTS})\b{_BOTH}(?![-']|\s(?:one|of|more|less|other)\b)", re.IGNORECASE)
_LONE_VERDICT = re.compile(rf"\W*\b({VERDICTS})\b(?=\s*(?:[.,;:!?)*\"\n–—-]|$))", re.IGNORECASE)
_TAIL_VERDICT = re.compile(rf"\b({VERDICTS})\W*$", re.IGNORECASE)
_ANY_VERDICT = re.compile(rf"\b(?:{VERDICTS})\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[.!?;:,\n]|\b(?:so|thus|hence|therefore|but)\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|never|neither|nor|cannot|unclear|whether|doubt\w*)\b|n't\b", re.IGNORECASE)
_OPPOSED = re.compile(r"(?:\bnot|n't)(?: (?:deductively|logically|formally|considered))? $", re.IGNORECASE)
_OPPOSITES = {
    "valid": "invalid", "invalid": "valid", "true": "false", "false": "true",
    "plausible": "implausible", "implausible": "plausible",
}  # fmt: skip


def verdict(reply: str, *, is_cut: bool = False, num_verdicts: int = 2) -> str | None:
    """The verdict that a reply begins or ends with, as written.

    None where the two differ (`yes ... no`), where its clause holds another one, or denies it. `not valid` is
    invalid (of two options or none: among three, `not true` may be unknown); `not necessarily true` is nothing.
    """
    head = _LONE_VERDICT.match(reply)
    tail = None if is_cut else _TAIL_VERDICT.search(reply[-400:])
    if tail is None or (head and head.end() >= len(reply.rstrip(" .!*\"'`)"))):
        return head[1] if head else None
    ending = _tail(tail, num_verdicts)
    if head is None:
        return ending
    pair = {head[1].casefold(), (ending or head[1]).casefold()}
    return None if pair in ({"yes", "no"}, {"true", "false"}, {"valid", "invalid"}) else head[1]


def has_verdict_at_end(reply: str) -> bool:
    """Whether the last word is a verdict, denied or not."""
    return _TAIL_VERDICT.search(reply[-400:]) is not None


def _tail(match: re.Match[str], num_verdicts: int) -> str | None:
    before = match.string[: match.start()]
    ends = [boundary.end() for boundary in _CLAUSE.finditer(before)]
    clause = before[ends[-1] if ends else 0 :]
    if _ANY_VERDICT.search(clause):
        return None
    if not _NEGATION.search(clause):
        return match[1]
    is_opposed = _OPPOSED.search(clause) and len(_NEGATION.findall(clause)) == 1 and num_verdicts == 2
    return _OPPOSITES.get(match[1].casefold()) if is_opposed else None
