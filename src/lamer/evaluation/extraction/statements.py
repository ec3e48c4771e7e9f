"""Statements of an answer in a reply: `the answer is ...`, `Answer: ...`, boxed, `(B) is right`, `I choose B`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lamer.evaluation.extraction.wording import MAX_SPAN, boxed

MAX_STATEMENTS = 200
"""Only the last ones of a reply are read."""

VERDICTS = "yes|no|true|false|valid|invalid|plausible|implausible"

_NOUN = (
    r"(?:\b(?:answer|ans|antwort|r[ée]ponse|respuesta|risposta|resposta|antwoord|ответ)\b"
    r"|\b(?:correct|best|right) (?:option|choice|one|statement)\b|\b(?:my|final) choice\b|\boption\b)"
)
_IS = r"(?:\b(?:is|be|was|ist|lautet|est|es|è|é)\b(?: that\b)?|[:=→]|\s[-–—](?=\s))"
_STATEMENT = re.compile(
    r"\banswer\s+(?=[(\[]?[A-HJ-Z]\b[)\]]?(?! (?:is|are|was|would|seems|looks|cannot|can't|isn't)\b))"
    rf"|{_NOUN}(?P<between>[^.\n!?:=]{{0,48}}?){_IS}\s*"
    r"|(?:答案|答え|答|正解|정답|답)(?:(?P<between_cjk>[^.\n!?。:=A-Za-z]{0,12}?)(?:是|为|為|は|が|은|는|이|[:=])"
    r"|(?=\s?[(\[]?[A-Z]))\s*"
    r"|\b(?:result|solution|conclusion|total)\s*(?:\bis\b|[:=])\s*",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"\bi(?:'d| would|'ll| will)? (?:choose|pick|select|go with|opt for|say)\b(?! that)\s*"
    r"|\bi (?:believe|think|guess|say)(?: that)? (?:it(?:'s| is)|the answer is)\s+"
    r"|(?:^|(?<=[.!?\n])\s?)(?:choose|pick|select)\b\s*|\bit (?:should|must|has to) be\b\s*"
    r"|(?:选择|選擇|选|選)\s*",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"(?:^|(?<=[.!?,;:\n])\s?|\band )(?:therefore|thus|hence|so)\b[,:]?\s?(?:option\b)?"
    r"|\bit(?:'s| is) (?=[(\[])",
    re.IGNORECASE,
)
_MARK = re.compile(r"####\s*")
_JUDGED = re.compile(
    r"(?:[(\[]\s?(?P<bracketed>[A-Za-z])\s?[)\]]|\b(?:[Oo]ption|[Aa]nswer|[Cc]hoice) (?P<named>[A-Z])\b"
    r"|(?:^|(?<=[.!?,\n])\s?|\b(?:[Ss]o|[Tt]hus|[Tt]herefore),?\s)(?P<bare>[A-Z]))"
    r"[*_\"']*(?: (?:is|would be|must be|seems) (?:(?:the|most|clearly|definitely|indeed|probably) )*"
    r"(?:correct|right|best|likely|answer|true)\b(?! (?:wrong|incorrect|false|not)\b)"
    r"|(?P<ticked>(?:\s?:|\s[-–—])\s?(?:correct|right|true|yes)\b(?=\s?(?:[.,;!\n]|$))))"
)
_NEGATED_BEFORE = re.compile(
    r"\b(?:wrong|incorrect|false|worst|bad|invalid|unlikely|implausible|impossible|least(?: \w+)?)(?: \w+)? $"
    r"|\bnot (?:the|an?|my|our) (?:\w+ )?$"
    r"|\b(?:if|whether|unless|suppose|assume|assuming)(?: that)?(?: the| my)?(?: \w+)? $"
    r"|(?:\b(?:not|never|cannot)|n't) (?:think|believe|say|mean|agree|accept|see)\b[^.!?;,\n]*$"
    r"|\bdoubt (?:that |if |whether )?[^.!?;,\n]*$",
    re.IGNORECASE,
)
_NEGATED_BETWEEN = re.compile(
    r"\b(?:not|cannot|never|wrong|incorrect|false|least|unlikely|nicht|kein\w*|pas|não|niet|не)\b|n't\b|\bno\s*$"
    r"|\bnon\s*$|不|非|ない",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\s*(?:(?:not|neither|never|isn't|incorrect|wrong|unclear|unknown|least|nicht|kein\w*|pas|niet|não|не)\b"
    r"|n't\b|不|all (?:\w+ )?(?:but|except)\b|anything but\b)",
    re.IGNORECASE,
)
_BUT = re.compile(r"\bbut(?: rather)?\s+(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_OPENING = re.compile(
    r"[\s*_\"'`]*(?:(?:most (?:likely|probably|certainly)|almost certainly|definitely|clearly|certainly|surely"
    r"|likely|probably|indeed|therefore|thus|hence|then|obviously|undoubtedly|simply|actually|in fact|of course"
    r"|evidently|without (?:a )?doubt|presumably|still|also|really)\b,?\s?"
    r"|(?-i:the|la|el|il|le|die|der|das|het|a|o)\s(?=letter\b|option\b|choice\b|(?-i:[*_\"'`(\[]*[A-Z]\b))|l')+",
    re.IGNORECASE,
)
_WITHDRAWN = re.compile(
    r"\b(?:wait,? no|no,? wait|scratch that|correction)\b(?=\s?(?:[,.;:!…–—-]|$))", re.IGNORECASE
)
_LABELLED = re.compile(
    r"(?:^|\n)[^\n.!?:=]{0,40}\b(?:sorted|alphabetical(?:ly)?|words|list|order|output|sequence)\b"
    r"[^\n.!?:=]{0,24}:\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """What follows `the answer is`."""

    tail: str
    """Up to the end of the line; the next line where that is empty. `(B)` for `(B) is correct`."""
    kind: Literal["stated", "chosen", "ticked", "marked", "concluded"]
    """chosen (`I choose`) states a label, and otherwise only concludes; ticked is `B: right`; marked is `####`;
    concluded (`so ...`) may be followed by any sentence, and counts only where nothing is stated."""
    is_open: bool = False
    """Whether it reaches the end of the reply."""


def statements(reply: str) -> list[Statement]:
    """The last statements of a normal text, in its order; none negated (but `not ... but`), none hypothetical."""
    found = [(match, "stated") for match in _STATEMENT.finditer(reply) if not _is_denied_between(match)]
    found += [(match, "chosen") for match in _CHOSEN.finditer(reply)]
    found += [(match, "concluded") for match in _CONCLUSION.finditer(reply)]
    found += [(match, "marked") for match in _MARK.finditer(reply)]
    placed = [
        (match.end(), _statement(reply, match.end(), kind))
        for match, kind in found
        if not _NEGATED_BEFORE.search(reply[max(0, match.start() - 80) : match.start()])
    ]
    placed += [(position, Statement(content, "stated")) for position, content in boxed(reply)]
    for match in _JUDGED.finditer(reply):
        label = match["bracketed"] or match["named"] or match["bare"]
        placed.append((match.end(), Statement(f"({label})", "ticked" if match["ticked"] else "stated")))
    placed.sort(key=lambda item: item[0])
    return [read for _, statement in placed[-MAX_STATEMENTS:] if (read := _affirmed(statement)) is not None]


def labelled(reply: str) -> Statement | None:
    """What stands behind `Sorted words:` and the like, the last of them."""
    matches = list(_LABELLED.finditer(reply))
    return _statement(reply, matches[-1].end(), "concluded") if matches else None


def without_opening(tail: str) -> str:
    """Without adverbs and articles before the answer (`definitely B`, `la B`)."""
    match = _OPENING.match(tail)
    return tail[match.end() :] if match else tail


def behind_withdrawal(reply: str) -> str:
    """What stands behind the last `wait, no`: all before it is taken back."""
    matches = list(_WITHDRAWN.finditer(reply))
    return reply[matches[-1].end() :].lstrip(" ,.;:!…–—-\n") if matches else reply


def _affirmed(statement: Statement) -> Statement | None:
    tail = without_opening(statement.tail)
    if not (_NEGATED.match(statement.tail) or _NEGATED.match(tail)):
        return statement
    rest = _BUT.search(tail)
    return Statement(rest["rest"], statement.kind, statement.is_open) if rest else None


def _is_denied_between(match: re.Match[str]) -> bool:
    between = match["between"] or match["between_cjk"] or ""
    is_other = re.fullmatch(r"\s*[(\[]?[A-Z][)\]]?\s*", between) is not None  # `option B is ...`
    return is_other or _NEGATED_BETWEEN.search(between) is not None


def _statement(reply: str, start: int, kind: str) -> Statement:
    while start < len(reply) and reply[start].isspace():
        start += 1
    end = reply.find("\n", start, start + MAX_SPAN)
    is_open = end < 0 and start + MAX_SPAN >= len(reply)
    return Statement(reply[start : start + MAX_SPAN if end < 0 else end], kind, is_open)  # type: ignore[arg-type]
