"""Which option does an answer name? (pure)"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from lamer.synthesis.options import letter_index

ANSWER_NOT_AN_OPTION = "answer not an option"
AMBIGUOUS_ANSWER = "ambiguous answer"

_ANY_CASE = re.ASCII | re.IGNORECASE
_BEHIND_LETTER = r"[).:,。．、：，）]"
_SAID = "|".join(
    (
        "(?:the[ ])?(?:correct[ ])?(?:answer|option|choice)?(?:[ ]is)?",
        "(?:正确|正確)?(?:答案|选项|選項)?(?:是|为|為|选|選)?",
        "(?:la[ ])?(?:réponse|respuesta|risposta|resposta|opción|opção|opzione)(?:[ ](?:est|es|è|é))?",
        "(?:antwort|ответ|вариант)(?:[ ]ist)?",
    )
)
"""What may stand before the letter."""
_LETTER_FIRST = re.compile(
    rf"^(?:{_SAID})[ :：]{{0,2}}"
    r"(?:[(（\[【](?P<paren>[A-Za-zＡ-Ｚ])[)）\]】]"
    r"|(?P<bare>[A-ZＡ-Ｚ])(?=[).:,\s。．、：，）]|$)|(?P<lone>[a-z])(?=[).)]|$))"
    rf"{_BEHIND_LETTER}?\s*(?P<rest>.*)$",
    _ANY_CASE | re.DOTALL,
)
_ANY_PAREN = re.compile(r"[(（\[【]([A-Za-zＡ-Ｚ])[)）\]】]")


def find_answer(answer: str, options: Sequence[str]) -> tuple[int | None, str | None]:
    """Which option an answer names, and what is wrong when it names none.

    Letter (`B`, `(B)`, `Option B`), letter with text (`(B) It sank.`), or the option's text alone. A letter whose
    text is another option's, or several letters, are `ambiguous answer`; a letter beyond the options or a text
    that is none of them `answer not an option`.
    """
    texts = [comparable(option) for option in options]
    whole = comparable(answer)
    if whole and texts.count(whole) == 1:
        return texts.index(whole), None
    match = _LETTER_FIRST.match(answer.strip("*_`\"'“” "))
    if match is None:
        return _by_text(answer, texts)
    is_article = match["bare"] in ("A", "a", "I") and match["rest"] and _is_followed_by_space(match)
    rest = comparable(match["rest"])
    index = letter_index(match["paren"] or match["bare"] or match["lone"])
    if is_article and (index >= len(options) or rest != texts[index]):
        return _by_text(answer, texts)
    letters = {letter_index(letter) for letter in _ANY_PAREN.findall(answer)} - {index}
    if any(letter < len(options) for letter in letters):
        return None, AMBIGUOUS_ANSWER
    if index >= len(options):
        return None, ANSWER_NOT_AN_OPTION
    if rest and rest != texts[index] and rest in texts:
        return None, AMBIGUOUS_ANSWER
    return index, None


def comparable(text: str) -> str:
    """`text` without case, punctuation at the ends and doubled spaces, in Unicode's compatibility form."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" .,;:!?*_`\"'“”‘’«»„。、，；：！？")


def _is_followed_by_space(match: re.Match[str]) -> bool:
    """`A dog` (an article) and not `A. dog`."""
    return match.string[match.end("bare") : match.end("bare") + 1].isspace()


def _by_text(answer: str, texts: Sequence[str]) -> tuple[int | None, str | None]:
    inside = {letter_index(letter) for letter in _ANY_PAREN.findall(answer)} & set(range(len(texts)))
    if len(inside) == 1:
        return inside.pop(), None
    if len(inside) > 1 or texts.count(comparable(answer)) > 1:
        return None, AMBIGUOUS_ANSWER
    return None, ANSWER_NOT_AN_OPTION
