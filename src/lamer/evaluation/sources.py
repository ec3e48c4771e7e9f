"""Where the items of the paper's benchmarks come from: rows of a Hub data set, or a local file, made alike.

The task files in `tasks/` say for every task which data set it is, which split and revision, and how question,
options and answer are read from a row. These are Jinja expressions over the row's columns; they may call
`lettered`, `agieval`, `unlettered` and `before_choices`. lm-evaluation-harness calls `load`, `prompt` and `score`
by name, whether it runs the tasks itself or lamer does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lamer.config import PromptSettings
from lamer.errors import DataError, LamerError
from lamer.evaluation.benchmarks import MAX_OPTIONS, Sample, load_samples
from lamer.evaluation.extraction import extract_answer, is_correct
from lamer.scoring.render import LETTERS, letter, question_text

FILE_ENDS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".parquet")
"""Endings a benchmark's local file may have, in the order they are looked for."""
NO_ANSWER = frozenset({"", "none"})
"""Right answers that say there is none (GSM-Plus: the question cannot be answered)."""


@dataclass(frozen=True, slots=True)
class Items:
    """The items of one task."""

    rows: list[dict[str, Any]]
    """`id`, `question`, `options` (empty for a free answer) and `answer` (a letter into the options, or text)."""
    num_left_out: int
    """Items without a valid answer."""


# What the harness calls


def load(
    of: str,
    path: str,
    split: str,
    question: str,
    answer: str,
    options: str | None = None,
    name: str | Sequence[str] | None = None,
    revision: str | None = None,
    local: Sequence[str] | None = None,
    data: str | None = None,
    **_: Any,
) -> dict[str, Any]:
    """The items of one task as the split `test` of a data set, with what was left out in its description.

    Args:
        of: `BENCHMARK/TASK`.
        path: The Hub data set.
        split: Its split.
        question: Expression for the question.
        answer: Expression for the answer: an index into the options, a letter, or for a free answer its text.
        options: Expression for the list of options; None for a free answer.
        name: Its configuration, or several whose rows are joined.
        revision: Commit of the data set; None takes the newest.
        local: Names of the task in local files; the configurations' names, or else the task's, by default.
        data: Folder with local files; None reads the Hub.

    Raises:
        DataError: If the data cannot be read, or hold nothing for the task.
    """
    import datasets

    names = [name] if isinstance(name, str) or name is None else list(name)
    if data is not None:
        items = _local_items(data, of, local or [part for part in names if part] or [of.partition("/")[2]])
    else:
        expressions = {"question": question, "answer": answer, "options": options}
        items = read_rows_of(of, _hub_rows(of, path, names, split, revision), expressions)
    if not items.rows:
        raise DataError(f"{of}: there are no items with a valid answer in {data or path}")
    features = datasets.Features(
        {key: datasets.Value("string") for key in ("id", "question", "answer")}
        | {"options": [datasets.Value("string")]}
    )
    info = datasets.DatasetInfo(description=str(items.num_left_out), features=features)
    return {"test": datasets.Dataset.from_list(items.rows, features=features, info=info)}


def prompt(doc: Mapping[str, Any]) -> str:
    """The user message in the paper's form (Appendix D): the question, and its options where it has some."""
    return question_text(PromptSettings(), doc["question"], doc["options"] or None)


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`acc` (the extracted answer is right) and `parsed` (there is one) of a reply, 0 or 1 each."""
    options = tuple(doc["options"])
    answer = extract_answer(results[0], options)
    return {
        "acc": float(is_correct(answer, doc["answer"], options)),
        "parsed": float(answer is not None),
    }


# Rows of a Hub data set


def read_rows_of(of: str, rows: Iterable[Mapping[str, Any]], expressions: Mapping[str, str | None]) -> Items:
    """Items from rows by the task's expressions; an item without a valid answer is left out.

    Valid is an index of the options or the letter of one; for a free answer any text but those in `NO_ANSWER`.

    Args:
        of: `BENCHMARK/TASK`; the n-th row of the source is `BENCHMARK-TASK-n`.
        rows: Of the source.
        expressions: `question`, `answer` and `options`, which is None for a free answer.

    Raises:
        DataError: If an expression does not fit a row.
    """
    compiled = {key: _expression(text) for key, text in expressions.items() if text is not None}
    found: list[dict[str, Any]] = []
    num_left_out = 0
    for number, row in enumerate(rows):
        try:
            options = (
                [str(option).strip() for option in compiled["options"](**row)] if "options" in compiled else []
            )
            question, answer = str(compiled["question"](**row)).strip(), compiled["answer"](**row)
        except Exception as error:
            raise DataError(f"{of}: row {number} is not as the task file says ({error})") from error
        target = _target(answer, options)
        if target is None or not question:
            num_left_out += 1
            continue
        name = f"{of.replace('/', '-')}-{number}"
        found.append({"id": name, "question": question, "options": options, "answer": target})
    return Items(found, num_left_out)


def _target(answer: Any, options: Sequence[str]) -> str | None:
    """The answer as samples have it; None where it is none."""
    if not options:
        text = "" if answer is None else str(answer).strip()
        return None if text.casefold() in NO_ANSWER else text
    if not 2 <= len(options) <= MAX_OPTIONS or not all(options):
        return None
    if isinstance(answer, str) and len(answer) == 1 and answer in LETTERS[: len(options)]:
        return answer
    is_index = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options)
    return letter(answer) if is_index else None


def _hub_rows(
    of: str, path: str, names: Sequence[str | None], split: str, revision: str | None
) -> Iterable[Mapping[str, Any]]:
    import datasets

    for name in names:
        try:
            yield from datasets.load_dataset(path, name, split=split, revision=revision)
        except LamerError:
            raise
        except Exception as error:
            raise DataError(
                f"{of}: data set {path} of the Hub cannot be loaded ({_first_line(error)}); "
                "evaluate.data=FOLDER reads local files instead"
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@lru_cache(maxsize=256)
def _expression(text: str) -> Callable[..., Any]:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined)
    environment.globals.update(
        lettered=lettered, agieval=agieval, unlettered=unlettered, before_choices=before_choices
    )
    return environment.compile_expression(text, undefined_to_none=False)


# What the expressions may call

_OPTION_LIST = re.compile(r"\s*\bOptions:\s*\n(?P<lines>(?:\([A-Z]\).*(?:\n|$))+)\s*$")
_LETTERED_LINE = re.compile(r"^\([A-Z]\)[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_AGIEVAL = re.compile(r"^(?P<passage>.*?)\s*(?:^|(?<=\s))Q: (?P<question>.*?)\s*Answer Choices:.*$", re.DOTALL)


def lettered(text: str) -> tuple[str, list[str]]:
    """A BIG-Bench Hard input without its list of lettered options, and these; the whole input without a list."""
    match = _OPTION_LIST.search(text)
    if match is None:
        return text, []
    return text[: match.start()].strip(), _LETTERED_LINE.findall(match["lines"])


def agieval(query: str) -> str:
    """Passage and question of an AGIEval query, `PASSAGE Q: QUESTION Answer Choices: ... A: Among A to E, ...`."""
    match = _AGIEVAL.match(query)
    if match is None:
        return query
    return "\n".join(part for part in (match["passage"].strip(), match["question"].strip()) if part)


def unlettered(options: Sequence[str]) -> list[str]:
    """Options without `(A)`, `(B)`, ... before them."""
    return [re.sub(r"^\s*\([A-Z]\)\s*", "", option) for option in options]


def before_choices(inputs: str) -> str:
    """A BIG-bench input, `Q: QUESTION` and lines `choice: ...` down to `A:`: the question."""
    return re.split(r"\n\s*choice:", inputs)[0].strip().removeprefix("Q:").strip()


# Local files


def local_file(folder: str, benchmark: str) -> Path:
    """A benchmark's file in a folder: `arc.jsonl`, `arc.jsonl.gz`, ...

    Raises:
        DataError: If there is none.
    """
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: is no folder; evaluate.data names the one with the benchmarks' files")
    files = [Path(folder) / f"{benchmark}{end}" for end in FILE_ENDS]
    for file in files:
        if file.is_file():
            return file
    raise DataError(
        f"{folder}: holds no file of the benchmark {benchmark} ({files[0].name}, {files[1].name}, ...)"
    )


def local_samples(folder: str, benchmark: str) -> Sequence[Sample]:
    """All samples of a benchmark's local file, of whatever task."""
    file = local_file(folder, benchmark)
    return _read(str(file), file.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read(file: str, _modified: int) -> Sequence[Sample]:
    return tuple(load_samples([file]))


def _local_items(folder: str, of: str, tasks: Sequence[str]) -> Items:
    rows = [sample for sample in local_samples(folder, of.partition("/")[0]) if sample.task in tasks]
    valid = [row for row in rows if row.options or row.target.casefold() not in NO_ANSWER]
    return Items(
        [
            {"id": row.id, "question": row.question, "options": list(row.options), "answer": row.target}
            for row in valid
        ],
        len(rows) - len(valid),
    )
