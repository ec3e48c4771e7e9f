"""Training data for other trainers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lamer.config import PromptSettings
from lamer.records import Example
from lamer.tables import write_atomically


def trl_rows(examples: Iterable[Example], settings: PromptSettings) -> Iterator[dict[str, Any]]:
    """The kept examples in TRL's conversational prompt-completion form, the same texts as lamer trains on.

    Args:
        examples: In any order; rejected ones are passed over.
        settings: How a question and its completion are written.
    """
    from lamer.scoring.render import letter, question_text

    for example in examples:
        if example.status != "kept" or example.answer is None:
            continue
        prompt = question_text(settings, example.question, example.options)
        completion = settings.completion.format(
            explanation=example.explanation, letter=letter(example.answer), option=example.options[example.answer]
        )
        yield {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": completion}],
        }


def export_trl(examples: Iterable[Example], settings: PromptSettings, path: Path) -> int:
    """Write `trl_rows` as JSON lines; returns their number.

    Raises:
        RunError: If the file cannot be written.
    """
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in trl_rows(examples, settings)]
    write_atomically(path, "".join(lines).encode())
    return len(lines)
