"""Numbers in a text: found, written plainly, compared by value."""

from __future__ import annotations

import re
from fractions import Fraction

from lamer.evaluation.extraction.wording import normal, plain

MAX_EXPONENT = 64
"""A power with a larger exponent is left as it is written."""

MAX_DIGITS = 60
"""A longer number has no value here, it is compared as text."""

_GROUPED = r"\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|(?<!\d )[1-9]\d{0,2}(?: \d{3})+(?! ?[\d/])"
NUMBER = re.compile(
    r"(?<![\w.^])(?P<sign>[-+](?=[\d.$€£])|(?<![\w)%] )[-+]\s)?(?:[$€£]\s?)?"
    rf"(?P<whole>(?:{_GROUPED})(?:\.\d+)?|\d*\.\d+|\d+)"
    r"(?:\s?[x×*·]\s?10\s?(?:\^|\*\*)\s?[{(]?(?P<ten>[-+]?\d{1,3})[)}]?"
    r"|[eE](?P<scientific>[-+]?\d{1,3})(?!\w)"
    r"|\s?(?:\^|\*\*)\s?[{(]?(?P<power>-?\d{1,3})[)}]?"
    r"|\s(?P<numerator>\d{1,18})\s?/\s?(?P<denominator>\d{1,18})"
    r"|\s?/\s?(?P<over>\d{1,18}(?:\.\d{1,18})?))?"
    r"(?:\s(?P<scale>hundred|thousand|million|billion|trillion)\b)?"
    r"(?!\d|[eE][-+]?\d|\s?\^|\s?\*\*\s?\d)",
    re.IGNORECASE,
)
"""Also 1,234, 1,23,456, 10 000, 3 1/2, 1/2, 1.5e3, 1.5 × 10^3, 10^3 and 3.5 million."""

_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20",
}  # fmt: skip
_TERM = r"[-+]?\s?\(*[-$€£]?\s?(?:[\d.,]*\d|[A-Za-z]\b)%?(?: [A-Za-z]+){0,5}\)*"
_SUM = re.compile(rf"\s*{_TERM}(?:\s?[-–+*/×÷·^x]\s?{_TERM})+\s*", re.IGNORECASE)
_REASON = re.compile(r"\b(?:since|because)\b", re.IGNORECASE)
_NAME = re.compile(r"\W*[A-Za-z]\w*(?: [A-Za-z]\w*){0,3}\W*")


def written(match: re.Match[str]) -> str:
    """A number that was found, plainly: `1234`, `-0.5`, `1/2`; mixed numbers as a ratio (3 1/2 is `7/2`)."""
    if any(match[name] for name in ("ten", "scientific", "power", "numerator", "scale")):
        amount = _amount(match)
        return match[0].strip() if amount is None else _decimal(amount, is_ratio=bool(match["numerator"]))
    sign, whole = _sign(match), _digits(match)
    if "." in whole:
        whole = whole.rstrip("0").rstrip(".") or "0"
        whole = f"0{whole}" if whole.startswith(".") else whole
    else:
        whole = whole.lstrip("0") or "0"
    return f"{sign}{whole}/{match['over']}" if match["over"] else f"{sign}{whole}"


def value(text: str) -> Fraction | None:
    """The number that a whole text is, or None."""
    word = normal(text).casefold()
    match = NUMBER.fullmatch(_WORDS.get(word, plain(word).strip().rstrip("%").strip()))
    return None if match is None else _amount(match)


def is_same_number(given: Fraction, target: str) -> bool:
    """Whether `given` is the target's value, or a longer decimal or ratio that the target is the rounding of.

    A target counts as rounded where it has two decimals or more and two significant digits (33.333 and 100/3 are
    33.33): one decimal is mostly exact (2.5), and 2.45 is another number. Ties are no rounding: 0.455 is not 0.46.
    """
    wanted = value(target)
    if wanted is None or given == wanted:
        return wanted is not None
    decimals = re.search(r"\.(\d{2,})\s*%?\s*$", target)
    is_rounded = decimals is not None and len(re.sub(r"\D", "", target).lstrip("0")) > 1
    return is_rounded and decimals is not None and abs(given - wanted) * 2 * 10 ** len(decimals[1]) < 1


def behind_equation(text: str) -> str:
    """What a text that begins with `3 * 6 = ` or `x = ` gives as the result: what stands behind that sign.

    A number alone before the sign is the result already (`20 = 4 * 5`), and so is one with other words behind it
    (`5 since 5 * 3 = 15`). In a sentence that begins with words (`that he has 3 * 6 = 18`) it is the last sign,
    up to `since` or `because`.
    """
    if "=" in text and re.match(r"\W*[^\W\d]{2}", text):
        claim = _REASON.split(text, maxsplit=1)[0]
        return claim.rsplit("=", 1)[1] if "=" in claim.rstrip(" =") else claim
    while "=" in text:
        before, rest = text.split("=", 1)
        if len(before) > 200 or not rest.strip() or not (_SUM.fullmatch(before) or _NAME.fullmatch(before)):
            break
        text = rest
    return text


def _amount(match: re.Match[str]) -> Fraction | None:
    if len(match["whole"]) > MAX_DIGITS or len(match["over"] or "") > MAX_DIGITS:
        return None
    exponent = int(match["ten"] or match["scientific"] or match["power"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    try:
        amount = Fraction(_digits(match))
        if match["power"]:
            amount = amount**exponent
        elif exponent:
            amount *= Fraction(10) ** exponent
        if match["numerator"]:
            amount += Fraction(int(match["numerator"]), int(match["denominator"]))
        if match["over"]:
            amount /= Fraction(match["over"])
    except ZeroDivisionError:
        return None
    amount *= _SCALES.get((match["scale"] or "").casefold(), 1)
    return -amount if _sign(match) else amount


def _sign(match: re.Match[str]) -> str:
    return "-" if (match["sign"] or "").startswith("-") else ""


def _digits(match: re.Match[str]) -> str:
    return match["whole"].replace(",", "").replace(" ", "")


def _decimal(amount: Fraction, *, is_ratio: bool) -> str:
    """An integer or a finite decimal as such, anything else (and a mixed number) as a ratio."""
    if amount.denominator == 1 or is_ratio:
        return str(amount)
    rest, places = amount.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        places = max(places, count)
    if rest != 1:
        return str(amount)
    digits = f"{abs(amount) * 10**places}".rjust(places + 1, "0")
    return f"{'-' if amount < 0 else ''}{digits[:-places]}.{digits[-places:]}"
