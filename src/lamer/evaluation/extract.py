"""The answer in a free-form reply.

Text in, answer out: no model, no label. What is found is published here and pinned by the table of cases in the
tests, so that an accuracy can be redone by hand.

With options the answer is a letter. In this order:
    1. the last stated answer: `the answer is ...` (other languages too), `Answer: ...`, `\\boxed{...}`, `(B) is
       correct`, `I choose B`;
    2. the reply, or else its last or first line, is nothing but a label or an option: `B`, `(B)`, `B.`, `B) text`;
    3. the reply begins with a label: `(B) text`, `B. because ...`;
    4. the reply holds the text of exactly one option, or else exactly one label in brackets.
Without options it is a number, a verdict (yes, no, true, ...) or a short phrase: the last stated answer, else a
verdict the reply begins or ends with, else its last number, else the reply itself when it is short.
Anything else, refusals too, is None: no answer is ever guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from fractions import Fraction

MAX_PHRASE_WORDS = 12
"""A longer reply without a stated answer is no answer by itself."""

MAX_STATED_WORDS = 40
"""A longer text behind `the answer is` is no answer either."""

_TOKEN = re.compile(
    r"(?:(?<![\w.])[-+])?\d+(?:,\d{3})+(?:\.\d+)?|(?:(?<![\w.])[-+])?\d*\.?\d+"
    r"|[^\W\d_]+(?:'[^\W\d_]+)?|(?<![^\W\d_])-|-(?![^\W\d_])|[^\s\w.,;:!?'\"`()\[\]{}*_~$\\…-]"
)
_ANSWER = r"(?:\banswer|\b(?:antwort|r[ée]ponse|respuesta|risposta|resposta|antwoord|ответ)|答案|答え|정답)"
_IS = r"(?:\b(?:is|be|was|ist|est|es|è|é)\b(?:\s+that\b)?|[:=→是は]|\s[-–—](?=\s))"
_STATEMENT = re.compile(
    rf"(?:{_ANSWER}|\b(?:correct|best|right) (?:option|choice|one|statement)|\b(?:my|final) choice|\boption)\b"
    rf"(?P<between>[^.\n!?:=]{{0,48}}?){_IS}\s*"
    r"|\b(?:result|solution|conclusion|total)\s*(?:\bis\b|[:=])\s*"
    r"|\banswer\s+(?=[(\[]?[A-Z]\b)",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"\bi(?:'d| would|'ll| will)? (?:choose|pick|select|go with|say)\b\s*(?:option\b)?"
    r"|(?:^|(?<=[.!?,;:\n])\s*|\band\s+)(?:therefore|thus|hence|so)\b[,:]?\s*(?:option\b)?"
    r"|\bit(?:'s| is)\s+(?=[(\[])|\bit must be\b|####",
    re.IGNORECASE,
)
_JUDGED = re.compile(
    r"(?:[(\[]\s*(?P<bracketed>[A-Za-z])\s*[)\]]|\b[Oo]ption\s+(?P<named>[A-Z])\b"
    r"|(?:^|(?<=[.!?,\n])\s*|\b(?:[Ss]o|[Tt]hus|[Tt]herefore),?\s+)(?P<bare>[A-Z]))"
    r"[*_\"']*\s+(?:is|would be|must be|seems)\s+(?:(?:the|most|clearly|definitely)\s+)*"
    r"(?:correct|right|best|likely|answer|true)\b(?!\s+(?:wrong|incorrect|false|not)\b)"
)
_BRACKETED = re.compile(r"[(\[]\s*\**([A-Za-z])\**\s*[)\]]")
_DECORATION = r"[\s*_\"'`#>:$]*(?:(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+)?"
_HEAD_BRACKETED = re.compile(_DECORATION + r"[(\[]\s*\**([A-Za-z])\**\s*[)\]]")
_HEAD_DELIMITED = re.compile(_DECORATION + r"([A-Za-z])(?=[*_\"'`$]*(?:\s*$|\s*[).:;,!\]}–—]|\s+[-–—=(]))")
_HEAD_CAPITAL = re.compile(_DECORATION + r"([A-Z])(?=[*_\"'`$]*\s)")
_HEAD_LISTED = re.compile(_DECORATION + r"([A-Z])[*_]*[).:]")
_ONLY_LABEL = re.compile(_DECORATION + r"[(\[]?\s*\**([A-Za-z])\**\s*[)\].:!,]*[\s*_\"'`$]*$")
_NEGATED = re.compile(r"\s*(?:not|neither|never|isn't|incorrect|wrong|unclear|unknown)\b", re.IGNORECASE)
_NEGATED_BETWEEN = re.compile(r"\b(?:not|cannot|wrong|incorrect)\b|n't\b", re.IGNORECASE)
_HEDGED = re.compile(
    r"[*_\"'`]*\s*(?:(?:or|and|/|&)\s*(?:[Oo]ption\s+)?[(\[]?[A-Z]\b|,\s*[(\[][A-Z]|,\s*no\b"
    r"|(?:is|are|was|seems|looks|must be|would be)\s+(?:\w+\s+)?(?:wrong|incorrect|false|not|out)\b"
    r"|(?:isn't|cannot|can't|does not|doesn't|is not)\b)"
)
_BUT = re.compile(r"\bbut(?: rather)?\s+(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_REFUSAL = re.compile(
    r"\b(?:i (?:cannot|can not|can't|could not|couldn't|am unable|am not able|am sorry|am not sure|won't"
    r"|do not know|don't know)|i'm (?:unable|not able|not sure|sorry)|as an ai"
    r"|(?:cannot|can't|can not) be (?:answered|determined|known)|impossible to (?:say|tell|know|determine)"
    r"|(?:not enough|insufficient) information|none of the above|no (?:correct |valid )?answer)\b",
    re.IGNORECASE,
)
_ANSWER_TAG = re.compile(r"<answer>", re.IGNORECASE)
_TAG = re.compile(r"</?(?:answer|b|i|u|p|em|strong|br|span|code|sub|sup)\s*/?>", re.IGNORECASE)
_TIME = re.compile(r"\s*(\d{1,2}:\d{2})\b")
_VERDICTS = "yes|no|true|false|valid|invalid|plausible|implausible"
_HEAD_VERDICT = re.compile(rf"\W*\b({_VERDICTS})\b(?![-'’]|\s+(?:one|of|more|less|other)\b)", re.IGNORECASE)
_LONE_VERDICT = re.compile(rf"\W*\b({_VERDICTS})\b(?=\s*(?:[.,;:!?)*\"\n–—-]|$))", re.IGNORECASE)
_TAIL_VERDICT = re.compile(rf"\b({_VERDICTS})\W*$", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-−+]?)\s?(?:[$€£]\s?)?(?P<whole>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+)"
    r"(?:\s+(?P<numerator>\d+)\s*/\s*(?P<denominator>\d+)|\s*/\s*(?P<over>\d+(?:\.\d+)?))?(?![\d]|[eE][-+]?\d)"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}|\\[dt]?frac\s*(\d)\s*(\d)")
_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20",
}  # fmt: skip


def extract_answer(text: str, options: Sequence[str] = ()) -> str | None:
    """The answer that a reply gives, or None where it gives none.

    Args:
        text: What the model wrote.
        options: Answer options in the order shown; empty for a free answer.

    Returns:
        A letter ("A" is the first option), or for a free answer a plain number ("1234", "-0.5", "1/2"), a
        verdict or a phrase as written.
    """
    reply = after_thinking(unicodedata.normalize("NFKC", text).replace("\u2044", "/"))
    reply = _TAG.sub("", _ANSWER_TAG.sub("\nAnswer: ", reply)).strip()
    if not reply:
        return None
    if options:
        index = _choice(reply, list(options))
        return None if index is None else chr(ord("A") + index)
    return _free(reply)


def is_correct(answer: str | None, target: str, options: Sequence[str] = ()) -> bool:
    """Whether an extracted answer is the target.

    With options both are letters. Free answers agree as numbers (a longer decimal is rounded to the decimals of
    the target: 4.333 is 4.33), else as words, without case and punctuation.
    """
    if answer is None:
        return False
    if options:
        return answer == target
    given, wanted = _value(answer), _value(target)
    if given is not None and wanted is not None:
        return given == wanted or _rounds_to(given, target)
    return _key(answer) == _key(target)


# -- with options -------------------------------------------------------------------------------------------


def _choice(reply: str, options: list[str]) -> int | None:
    keys = [_key(option) for option in options]
    stated: dict[bool, int] = {}
    for tail, weak in _statements(reply):
        index = _resolve(tail, keys, weak)
        if index is not None:
            stated[weak] = index
    if stated:
        return stated[min(stated)]
    found = _bare(reply, keys)
    if found is not None:
        return found
    if _REFUSAL.search(reply):
        return None
    contained = _contained(_key(reply), keys)
    if len(contained) == 1:
        return contained.pop()
    labels = {label for match in _BRACKETED.finditer(reply) if (label := _index(match[1], keys)) is not None}
    return labels.pop() if len(labels) == 1 and not contained else None


def _statements(reply: str) -> Iterator[tuple[str, bool]]:
    """What follows each statement of an answer, in the order of the text, and whether the statement is weak.

    Negated statements are left out. A weak one ("so ...") may be followed by any sentence, and counts only where
    there is no other.
    """
    found = [
        (match.end(), _tail(reply, match.end()), False)
        for match in _STATEMENT.finditer(reply)
        if not _NEGATED_BETWEEN.search(match["between"] or "")
    ]
    found += [(match.end(), _tail(reply, match.end()), True) for match in _CONCLUSION.finditer(reply)]
    found += [(position, content, False) for position, content in _boxed(reply)]
    for match in _JUDGED.finditer(reply):
        found.append((match.end(), f"({match['bracketed'] or match['named'] or match['bare']})", False))
    for _, tail, weak in sorted(found, key=lambda item: item[0]):
        if not _NEGATED.match(tail):
            yield tail, weak
        elif rest := _BUT.search(tail):
            yield rest["rest"], weak


def _tail(reply: str, start: int) -> str:
    """From `start` to the end of its line; the next line where that is empty."""
    return reply[start:].lstrip().split("\n", 1)[0]


def _resolve(tail: str, keys: list[tuple[str, ...]], weak: bool) -> int | None:
    """The option that the words behind `the answer is` name."""
    match = _HEAD_BRACKETED.match(tail)
    if match:
        return _label(match, keys)
    head = _longest_head(_key(tail), keys)
    if head is not None:
        return head
    match = _HEAD_DELIMITED.match(tail) or (None if weak else _HEAD_CAPITAL.match(tail))
    if match and (index := _label(match, keys)) is not None:
        return index
    sentence = re.split(r"(?<=[.!?])\s", tail, maxsplit=1)[0]
    contained = _contained(_key(sentence), keys)
    if len(contained) == 1:
        return contained.pop()
    labels = {label for found in _BRACKETED.finditer(sentence) if (label := _index(found[1], keys)) is not None}
    return labels.pop() if len(labels) == 1 and not contained else None


def _longest_head(tokens: tuple[str, ...], keys: Sequence[tuple[str, ...]]) -> int | None:
    """The option that the words begin with; the longest of several, None where two are alike."""
    heads = sorted(
        (i for i, key in enumerate(keys) if _is_wordy(key) and tokens[: len(key)] == key),
        key=lambda i: len(keys[i]),
    )
    if not heads or (len(heads) > 1 and keys[heads[-1]] == keys[heads[-2]]):
        return None
    return heads[-1]


def _bare(reply: str, keys: list[tuple[str, ...]]) -> int | None:
    """The option that the reply, its last or its first line or sentence is, or whose label it begins with."""
    lines = [line for line in reply.split("\n") if line.strip()]
    sentences = re.split(r"(?<=[.!?])\s+|\n+", reply)
    for part in (reply, lines[-1], lines[0], sentences[-1], sentences[0]):
        match = _ONLY_LABEL.match(part)
        if match and (index := _index(match[1], keys)) is not None:
            return index
        exact = [i for i, key in enumerate(keys) if key and key == _key(part)]
        if len(exact) == 1:
            return exact[0]
    for part in (lines[0], lines[-1]):
        match = _HEAD_BRACKETED.match(part) or _HEAD_LISTED.match(part)
        if match and (index := _label(match, keys)) is not None:
            return index
    return _verdict_option(reply, keys)


def _verdict_option(reply: str, keys: Sequence[tuple[str, ...]]) -> int | None:
    """The yes or no among the options that the reply begins or ends with."""
    for match in (_LONE_VERDICT.match(reply), _TAIL_VERDICT.search(reply)):
        if match and (key := (match[1].casefold(),)) in keys:
            return keys.index(key)
    return None


def _label(match: re.Match[str], keys: Sequence[tuple[str, ...]]) -> int | None:
    """The option of a label that a text begins with; None where it is taken back ("A or B", "A is wrong")."""
    return None if _HEDGED.match(match.string, match.end()) else _index(match[1], keys)


def _index(label: str, keys: Sequence[tuple[str, ...]]) -> int | None:
    index = ord(label.upper()) - ord("A")
    return index if 0 <= index < len(keys) else None


def _is_wordy(key: tuple[str, ...]) -> bool:
    """Whether an option can be told from a label: more than one letter."""
    return bool(key) and not (len(key) == 1 and len(key[0]) == 1 and key[0].isalpha())


def _is_verdict(key: tuple[str, ...]) -> bool:
    return len(key) == 1 and _HEAD_VERDICT.fullmatch(key[0]) is not None


def _contained(tokens: tuple[str, ...], keys: Sequence[tuple[str, ...]]) -> set[int]:
    """Options whose words stand in `tokens`, outside of a longer option's words.

    `yes`, `no` and the like do not count: any sentence may hold them.
    """
    spans = [
        (start, start + len(key), index)
        for index, key in enumerate(keys)
        if _is_wordy(key) and not _is_verdict(key)
        for start in range(len(tokens) - len(key) + 1)
        if tokens[start : start + len(key)] == key
    ]
    return {
        index
        for start, end, index in spans
        if not any(a <= start and end <= b and (b - a) > (end - start) for a, b, _ in spans)
    }


# -- without options ----------------------------------------------------------------------------------------


def _free(reply: str) -> str | None:
    stated = [found for tail in _free_statements(reply) if (found := _content(tail)) is not None]
    if stated:
        return stated[-1]
    if _REFUSAL.search(reply):
        return None
    verdict = _LONE_VERDICT.match(reply) or _TAIL_VERDICT.search(reply)
    if verdict:
        return verdict[1]
    if _is_brackets(reply):
        return reply
    numbers = list(_NUMBER.finditer(_plain(reply)))
    if numbers:
        return _number(numbers[-1])
    return _phrase(reply, MAX_PHRASE_WORDS)


def _free_statements(reply: str) -> Iterator[str]:
    found = [
        (match.end(), _tail(reply, match.end()))
        for match in _STATEMENT.finditer(reply)
        if not _NEGATED_BETWEEN.search(match["between"] or "")
    ]
    found += [(match.end(), _tail(reply, match.end())) for match in re.finditer(r"####\s*", reply)]
    found += list(_boxed(reply))
    for _, tail in sorted(found, key=lambda item: item[0]):
        if not _NEGATED.match(tail) and not _REFUSAL.search(tail):
            yield tail


def _content(tail: str) -> str | None:
    """A number, verdict or phrase out of the words behind `the answer is`."""
    plain = _plain(tail)
    if "=" in plain:
        plain = plain.rsplit("=", 1)[1]
    head = _HEAD_VERDICT.match(plain)
    if head:
        return head[1]
    sentence = re.split(r"(?<=[.!?])\s", plain, maxsplit=1)[0]
    if _is_brackets(sentence):
        return sentence.strip(" .*`")
    if time := _TIME.match(sentence):
        return time[1]
    number = _NUMBER.search(sentence)
    if number:
        return _number(number)
    return _phrase(sentence, MAX_STATED_WORDS)


def _phrase(text: str, max_words: int) -> str | None:
    """A short text without its label, quotation marks and full stop."""
    bare = re.sub(r"^[\s*_\"'`]*[(\[][A-Za-z][)\]]\s*(?=\S)", "", text)
    bare = bare.strip().strip("*_\"'`“”").rstrip(".!").strip().strip("*_\"'`“”")
    words = bare.split()
    return bare if words and len(words) <= max_words and "\n" not in bare else None


def _is_brackets(text: str) -> bool:
    """Whether a text is made of brackets only (a Dyck word)."""
    bare = text.strip(" .*`\n")
    return bool(bare) and set(bare) <= set("[](){}<> ")


def _number(match: re.Match[str]) -> str:
    sign = "-" if match["sign"] in ("-", "−") else ""
    whole = match["whole"].replace(",", "")
    if match["numerator"] and int(match["denominator"]):
        mixed = int(Fraction(whole)) * int(match["denominator"]) + int(match["numerator"])
        return f"{sign}{mixed}/{int(match['denominator'])}"
    if "." in whole:
        whole = whole.rstrip("0").rstrip(".") or "0"
        whole = f"0{whole}" if whole.startswith(".") else whole
    else:
        whole = whole.lstrip("0") or "0"
    return f"{sign}{whole}/{match['over']}" if match["over"] else f"{sign}{whole}"


# -- shared -------------------------------------------------------------------------------------------------


def after_thinking(text: str) -> str:
    """The text behind a closed reasoning block; an unclosed one holds no answer."""
    if "</think>" in text:
        return text.rsplit("</think>", 1)[1]
    return text.split("<think>", 1)[0]


def _boxed(text: str) -> Iterator[tuple[int, str]]:
    r"""Position and content of every `\boxed{...}`, inner braces balanced."""
    for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if not depth:
            yield match.start(), _plain(text[match.end() : end - 1])


def _plain(text: str) -> str:
    """LaTeX reduced to plain text: fractions as a/b, no commands, dollar signs kept only before digits."""
    text = _FRACTION.sub(lambda m: f"{m[1] or m[3]}/{m[2] or m[4]}", text)
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[()\[\]]", " ", text).replace("{,}", ",")
    text = re.sub(r"\\[,;!% ]|\\(?:left|right)\b", "", text).replace("\\$", "$").replace("−", "-")
    return re.sub(r"\$(?!\s?[\d.])", "", text)


def _key(text: str) -> tuple[str, ...]:
    """Words, numbers and signs of a text without case and punctuation; the bare text where only signs are left."""
    normal = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("−", "-")
    tokens = tuple(_number_token(token) for token in _TOKEN.findall(normal))
    if any(any(character.isalnum() for character in token) for token in tokens):
        return tokens
    bare = "".join(normal.split())
    return (bare,) if bare else ()


def _number_token(token: str) -> str:
    return token.replace(",", "").lstrip("+") if token[-1].isdigit() else token


def _value(text: str) -> Fraction | None:
    """The number that a whole text is, or None."""
    word = text.strip().casefold()
    match = _NUMBER.fullmatch(_WORDS.get(word, _plain(word).strip().rstrip("%").strip()))
    if match is None:
        return None
    try:
        return Fraction(_number(match))
    except (ValueError, ZeroDivisionError):
        return _ratio(_number(match))


def _ratio(text: str) -> Fraction | None:
    numerator, _, denominator = text.partition("/")
    try:
        return Fraction(numerator) / Fraction(denominator)
    except (ValueError, ZeroDivisionError):
        return None


def _rounds_to(given: Fraction, target: str) -> bool:
    """Whether `given`, rounded to the decimals of `target`, is `target`."""
    decimals = len(target.strip().rpartition(".")[2]) if "." in target else 0
    wanted = _value(target)
    return bool(decimals) and wanted is not None and abs(given - wanted) * 10**decimals <= Fraction(1, 2)
