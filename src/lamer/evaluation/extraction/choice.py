"""The option that a reply names."""

from __future__ import annotations

import re

from lamer.evaluation.extraction.mentions import Keys, affirmed, is_in_sum, is_verdict, is_wordy, label_index
from lamer.evaluation.extraction.numerals import behind_equation
from lamer.evaluation.extraction.statements import Statement, statements, without_opening
from lamer.evaluation.extraction.verdicts import REFUSAL, verdict
from lamer.evaluation.extraction.wording import first_sentence, key, tokens

_DECORATION = r"[\s*_\"'`#>:$•-]*+(?:(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Aa]nswer)\s)?[*_\"'`$]*+"
_HEAD = re.compile(
    _DECORATION + r"(?:[(\[]\s?\**(?P<bracketed>[A-Za-z])\**\s?[)\]]|(?P<bare>[A-Za-z])(?![A-Za-z0-9_]|'\w|\.\w))"
)
_ONLY_LABEL = re.compile(_DECORATION + r"[(\[]?\s?\**([A-Za-z])\**\s?[)\].:!,。]*[\s*_\"'`$]*$")
_DELIMITED = re.compile(r"[*_\"'`$]*(?:\s*$|\s?[).:;,!?\]}–—。、]|\s[-–—=(]|[⺀-鿿가-힣])")
_REASON = re.compile(
    r"[*_\"'`$]*\s(?:because|since|as|for|due|given|based|and|but|which|so|therefore|if|when|according|here|by|in"
    r"|or)\b"
)
_LISTED = re.compile(r"[*_\"'`]*[).:,]|[*_\"'`]*\s(?:because|since|as|due|given|based|[-–—])(?!\w)")
_OTHER = r"(?:[oO]ption )?(?:[(\[]\s?\**(?P<bracketed>[A-Za-z])\**\s?[)\]]|(?P<bare>[A-Z])(?![\w']))"
_ANOTHER = re.compile(
    rf"[*_\"'`)\]]*(?P<joint>\s?(?:,|/|&|;)?\s?(?:\b(?:or|and)\b)?\s?){_OTHER}(?P<after>[*_\"'`]*\s?(?:$|[,.;!?&/]"
    r"|(?:and|or)\b)?)"
)
_JUDGEMENT = re.compile(r"\s?(?:is|are|was|would|cannot|can't|isn't|does)\b")
_TAKEN_BACK = re.compile(
    r"[*_\"'`)\]]*(?:\s?\?|, no\b(?! (?:doubt|question))"
    r"|(?:\s?[:,–—-]\s?|\s(?:is|are|was|seems|looks|must be|would be)\s)(?:\w+ )?"
    r"(?:wrong|incorrect|false|not|out|no)\b(?! doubt| only)"
    r"|\s?(?:isn't|cannot|can't|does not|doesn't|is not|では|じゃ|[가이] 아))"
)


def choice(reply: str, keys: Keys, *, is_cut: bool) -> int | None:
    """Index of the option, None where the reply names none or several.

    Args:
        reply: A normal text.
        keys: The options' tokens.
        is_cut: The reply was cut off: its last words and the options it mentions are no answer.
    """
    weak = None
    for statement in reversed(statements(reply)):
        if weak is not None and statement.kind in ("concluded", "marked"):
            continue
        if statement.kind == "ticked" and any(map(is_verdict, keys)):
            continue
        label = _label(statement.tail, keys, is_weak=statement.kind in ("concluded", "chosen"))
        index = label if label is not None else _named(statement, keys)
        if index is None:
            continue
        if statement.kind in ("stated", "ticked") or (statement.kind == "chosen" and label is not None):
            return index
        weak = index if weak is None else weak
    if weak is not None:
        return weak
    found = _bare(reply, keys, is_cut=is_cut)
    if found is not None or is_cut or REFUSAL.search(reply):
        return found
    options = affirmed(reply, keys)
    return options.pop() if len(options) == 1 else None


def _named(statement: Statement, keys: Keys) -> int | None:
    """The option that the words behind `the answer is` name by its text, or in their first sentence in any way."""
    tail = statement.tail
    if _HEAD.match(tail) and re.match(_DECORATION + r"[(\[]", tail):
        return None
    if not any("=" in option for option in keys):
        tail = behind_equation(tail)
    for text in (tail, without_opening(tail)):
        head = _longest_head(text, keys)
        if head is not None:
            return head
    options = affirmed(first_sentence(tail), keys)
    return options.pop() if len(options) == 1 else None


def _longest_head(text: str, keys: Keys) -> int | None:
    """The option that the words begin with; the longest of several, None where two are alike."""
    words = tuple(token.text for token in tokens(text))
    heads = sorted(
        (
            i
            for i, option in enumerate(keys)
            if is_wordy(option)
            and words[: len(option)] == option
            and not is_in_sum("", words[len(option)] if len(option) < len(words) else "", option)
        ),
        key=lambda i: len(keys[i]),
    )
    if not heads or (len(heads) > 1 and keys[heads[-1]] == keys[heads[-2]]):
        return None
    longest = keys[heads[-1]]
    rest = words[len(longest) :]
    is_both = is_verdict(longest) and len(rest) > 1 and rest[0] in ("and", "or", "/") and is_verdict(rest[1:2])
    return None if is_both else heads[-1]


def _label(tail: str, keys: Keys, *, is_weak: bool) -> int | None:
    """The label that the words begin with; not where they begin with an option's text that is no label."""
    for text in (tail, without_opening(tail)):
        match = _HEAD.match(text)
        if match is None:
            continue
        is_text = match["bare"] is not None and _longest_head(text, keys) is not None
        if match["bracketed"] is not None or (not is_text and _is_label(match, is_weak=is_weak)):
            return _kept(match, keys)
    return None


def _is_label(match: re.Match[str], *, is_weak: bool) -> bool:
    """Whether a bare letter is a label: not the article `a`, not `I`, not the initial of a word."""
    text, end, letter = match.string, match.end(), match["bare"]
    if _DELIMITED.match(text, end):
        return True
    if not letter.isupper() or not re.match(r"[*_\"'`$]*\s", text[end : end + 8]):
        return False
    return _REASON.match(text, end) is not None or (letter not in "AI" and not is_weak)


def _kept(match: re.Match[str], keys: Keys) -> int | None:
    """The option of a label; None where it is taken back or is one of several ("A or B", "A is wrong")."""
    text, end = match.string, match.end()
    index = label_index(match["bracketed"] or match["bare"], keys)
    if index is None:
        return None
    if keys[index] and tuple(token.text for token in tokens(text[end:]))[: len(keys[index])] == keys[index]:
        return index
    another = _ANOTHER.match(text, end)
    if another and _is_another(another, keys):
        return None
    return None if _TAKEN_BACK.match(text, end) else index


def _is_another(match: re.Match[str], keys: Keys) -> bool:
    joint, letter = match["joint"].strip(), match["bracketed"] or match["bare"]
    if label_index(letter, keys) is None:
        return False
    is_closed = bool(match["after"].strip()) or match.end() == len(match.string)
    if match["bracketed"]:
        return joint != "," or is_closed or not _JUDGEMENT.match(match.string, match.end())
    return is_closed or (bool(joint) and joint[-1] not in ",;" and letter not in "AI")


def _bare(reply: str, keys: Keys, *, is_cut: bool) -> int | None:
    """The option that the reply, its last or its first line or sentence is, or whose label it begins with."""
    lines = reply.split("\n")
    sentences = re.split(r"(?<=[.!?])\s+|\n+", reply)
    firsts, lasts = (lines[0], sentences[0]), (lines[-1], sentences[-1])
    if _is_several(sentences, keys):
        return None
    for part in (reply, *firsts) if is_cut else (reply, lasts[0], firsts[0], lasts[1], firsts[1]):
        index = _alone(part, keys)
        if index is not None and (part == reply or not part.endswith("?")):
            return index
    index = _begun(lines, keys, is_cut=is_cut)
    if index is not None:
        return index
    word = verdict(reply, is_cut=is_cut, num_verdicts=len(keys))
    return keys.index((word.casefold(),)) if word is not None and (word.casefold(),) in keys else None


def _is_several(sentences: list[str], keys: Keys) -> bool:
    """Whether the reply is nothing but several options, the last one named once."""
    if sentences[-1] in sentences[:-1] or len(sentences) > 2 * len(keys):
        return False
    found = [_alone(sentence, keys) for sentence in sentences]
    return None not in found and len(set(found)) > 1


def _alone(part: str, keys: Keys) -> int | None:
    match = _ONLY_LABEL.match(part)
    if match and (index := label_index(match[1], keys)) is not None:
        return index
    own = key(part) if len(part) < 5000 else ()
    exact = [i for i, option in enumerate(keys) if option and option == own]
    return exact[0] if len(exact) == 1 else None


def _begun(lines: list[str], keys: Keys, *, is_cut: bool) -> int | None:
    """The label that the first or else the last line begins with, unless the lines are a list of the options."""
    labels = [_listed(line, keys) for line in lines]
    shown = [label for label in labels if label is not None]
    run = 0
    while run < len(shown) and shown[run] == run:
        run += 1
    is_list = run > 1
    if not is_list and labels[0] is not None:
        return labels[0]
    if is_cut or labels[-1] is None or (is_list and len(shown) == run):
        return None
    return labels[-1]


def _listed(line: str, keys: Keys) -> int | None:
    match = _HEAD.match(line)
    if match is None or (match["bare"] and not (match["bare"].isupper() and _LISTED.match(line, match.end()))):
        return None
    if match["bare"] == "I" and not re.match(r"[*_\"'`]*[).:]", line[match.end() :]):
        return None
    return _kept(match, keys)
