"""Training data for other trainers: the kept examples of a run in the forms that they read (pure).

| form | a row | read by |
|---|---|---|
| trl | `prompt` and `completion`, each a list of one message (role, content) | TRL's SFTTrainer |
| alpaca | `instruction`, `input` (always empty), `output` | LLaMA-Factory and most others |
| sharegpt | `conversations`, two turns (from, value) | LLaMA-Factory, axolotl |

In every form the texts are those that lamer itself trains on, and `id`, `severity` (nats), `tier` and `fact` say
what an example was written for. The rows keep the order of the table examples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamer.config import PromptSettings
from lamer.records import Deficiency, Example, Fact, Tier
from lamer.tables import write_atomically

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """What an example was written for."""

    query_id: str
    fact_id: str
    fact: str
    tier: Tier


@dataclass(frozen=True, slots=True)
class TrainingText:
    """A kept example as the texts that are trained on."""

    example: Example
    origin: Origin | None
    """None where the example was written for no deficiency."""
    prompt: str
    """The user's message: question and options."""
    completion: str
    """The assistant's message: explanation and answer."""

    @property
    def about(self) -> Row:
        """The columns that every form has besides its texts."""
        return {
            "id": self.example.id,
            "severity": self.example.relative_entropy,
            "tier": self.origin.tier if self.origin else None,
            "fact": self.origin.fact if self.origin else None,
        }


def origins_of(units: Iterable[Deficiency], facts: Mapping[str, Fact]) -> dict[str, Origin]:
    """What stands behind each deficiency, by its id; units whose fact is unknown are left out."""
    return {
        unit.id: Origin(unit.query_id, unit.fact_id, facts[unit.fact_id].text, unit.tier)
        for unit in units
        if unit.fact_id in facts
    }


def training_texts(
    examples: Iterable[Example], settings: PromptSettings, origins: Mapping[str, Origin] | None = None
) -> Iterator[TrainingText]:
    """The kept examples as texts, rejected ones passed over.

    Args:
        examples: In any order.
        settings: How a question and its completion are written.
        origins: What the examples were written for, by id of the deficiency.
    """
    from lamer.scoring.render import letter, question_text

    for example in examples:
        if example.status != "kept" or example.answer is None:
            continue
        completion = settings.completion.format(
            explanation=example.explanation, letter=letter(example.answer), option=example.options[example.answer]
        )
        origin = (origins or {}).get(example.deficiency_id or "")
        yield TrainingText(example, origin, question_text(settings, example.question, example.options), completion)


def trl_row(text: TrainingText) -> Row:
    """TRL's conversational prompt-completion form."""
    return {
        "prompt": [{"role": "user", "content": text.prompt}],
        "completion": [{"role": "assistant", "content": text.completion}],
        **text.about,
    }


def alpaca_row(text: TrainingText) -> Row:
    """Alpaca's form; `input` stays empty because trainers put it behind a line break of their own."""
    return {"instruction": text.prompt, "input": "", "output": text.completion, **text.about}


def sharegpt_row(text: TrainingText) -> Row:
    """ShareGPT's form."""
    turns = [{"from": "human", "value": text.prompt}, {"from": "gpt", "value": text.completion}]
    return {"conversations": turns, **text.about}


def trl_rows(
    examples: Iterable[Example], settings: PromptSettings, origins: Mapping[str, Origin] | None = None
) -> Iterator[Row]:
    """The kept examples in TRL's form; arguments as in `training_texts`."""
    return map(trl_row, training_texts(examples, settings, origins))


def export_trl(
    examples: Iterable[Example],
    settings: PromptSettings,
    path: Path,
    origins: Mapping[str, Origin] | None = None,
) -> int:
    """Write `trl_rows` as JSON lines; returns their number.

    Raises:
        RunError: If the file cannot be written.
    """
    return write_lines(path, list(trl_rows(examples, settings, origins)))


def write_lines(path: Path, rows: list[Row]) -> int:
    """Rows as JSON lines, the whole file or nothing; returns their number."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomically(path, "".join(lines).encode())
    return len(rows)


def write_array(path: Path, rows: list[Row]) -> int:
    """Rows as one JSON array, a line each, the whole file or nothing; returns their number."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_atomically(path, f"[\n{lines}\n]\n".encode() if rows else b"[]\n")
    return len(rows)


@dataclass(frozen=True, slots=True)
class Form:
    """How one form is written to a file."""

    row: Callable[[TrainingText], Row]
    write: Callable[[Path, list[Row]], int]
    file: str
    """The file's name unless the user gives another."""
    info: Row | None = None
    """What LLaMA-Factory must be told of it in `dataset_info.json`, besides the file's name."""


FORMS: dict[str, Form] = {
    "trl": Form(trl_row, write_lines, "lamer_trl.jsonl"),
    "alpaca": Form(
        alpaca_row, write_array, "lamer_alpaca.json",
        {"formatting": "alpaca", "columns": {"prompt": "instruction", "query": "input", "response": "output"}},
    ),
    "sharegpt": Form(
        sharegpt_row, write_array, "lamer_sharegpt.json",
        {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
    ),
}  # fmt: skip
"""Single files; the data set of the Hub is in `lamer.synthesis.hub`."""
