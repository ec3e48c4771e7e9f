"""Prompts for the teacher: versioned text files with strict placeholders.

| prompt | what it asks for |
|---|---|
| reasoning | the paper's appendix C.2, reasoning, its printing mended; Naive uses it without reference example |
| math | the paper's appendix C.2, math; the same |
| auggpt | question and answer without explanation, from a fact alone (AugGPT) |
| llm2llm | examples similar to one that was answered wrongly, which is shown with its label (LLM2LLM) |
| a path | your own file |

The files under `prompts/` hold the instructions; `{format}` in them stands for a block that says how to write the
reply down, in the paper's text format or as JSON. A changed text is a new file with a new version; the hash of the
texts is part of a run's fingerprint and stands on every example.

Facts and queries are untrusted: they are put in on one line, in one pass, without marks that a chat template would
read as the end of a message, and never read as a template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from lamer.errors import DataError, UsageError, nearest
from lamer.records import Fact, Query
from lamer.run import digest
from lamer.synthesis.options import LETTERS
from lamer.teacher.formats import Format
from lamer.teacher.template import Template

PLACEHOLDERS = ("fact", "examples", "num_examples", "num_options")
AGAIN_FILE = "again-v1.txt"
NO_EXAMPLES = "(none)"
MAX_FILE_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Prompt:
    """A shipped prompt, or the form of a user's own."""

    file: str
    blocks: Mapping[Format, str]
    """Files of the format block."""
    placeholders: tuple[str, ...] = PLACEHOLDERS
    reference: Literal["query", "labelled query"] = "query"
    """What stands for `{examples}`: a query without its label, or with it."""
    has_explanation: bool = True
    """Whether it asks for explanations."""


_EXPLAINED: Mapping[Format, str] = {"text": "format-reasoning-v1.txt", "json": "format-json-v1.txt"}
PROMPTS: Mapping[str, Prompt] = {
    "reasoning": Prompt("reasoning-v1.txt", _EXPLAINED),
    "math": Prompt("math-v1.txt", {"text": "format-math-v1.txt", "json": "format-math-json-v1.txt"}),
    "auggpt": Prompt(
        "auggpt-v1.txt",
        {"text": "format-answer-v1.txt", "json": "format-answer-json-v1.txt"},
        ("fact", "num_examples", "num_options"),
        has_explanation=False,
    ),
    "llm2llm": Prompt(
        "llm2llm-v1.txt", _EXPLAINED, ("examples", "num_examples", "num_options"), reference="labelled query"
    ),
}


def prompt_named(name: str) -> Prompt:
    """The shipped prompt `name`, or the user's file at this path.

    Raises:
        UsageError: If it is neither.
    """
    if name in PROMPTS:
        return PROMPTS[name]
    if not Path(name).is_file():
        hint = nearest(name, list(PROMPTS))
        raise UsageError(
            f"synthesize.prompt: {name!r} is no prompt{hint} and no file; known: {', '.join(PROMPTS)}, or the "
            "path of your own"
        )
    return Prompt(name, _EXPLAINED)


def load_template(name: str, format: Format = "text") -> Template:
    """The teacher's prompt `name` with its format block.

    A user's file holds `{fact}`, `{num_examples}`, `{num_options}`, and as it likes `{examples}` and `{format}`;
    without `{format}` it says itself how to write the reply.

    Raises:
        UsageError: In one line, naming file and placeholder, or what keeps the file from being read.
    """
    prompt = prompt_named(name)
    is_shipped = name in PROMPTS
    text = _read(prompt.file) if is_shipped else _read_own(prompt.file)
    optional = () if is_shipped else ("examples", "format")
    instructions = Template(prompt.file, text, (*prompt.placeholders, "format"), optional)
    if not instructions.has("format"):
        return Template(prompt.file, text, prompt.placeholders, optional)
    # Other placeholders stay as they are: the block is text of ours, put where {format} stands.
    whole = text.replace("{format}", _read(prompt.blocks[format]))
    return Template(prompt.file, whole, prompt.placeholders, optional)


def takes_formats(name: str) -> bool:
    """Whether prompt `name` leaves it to `{format}` how the reply is written."""
    return name in PROMPTS or "{format}" in _read_own(name)


def check_prompt(name: str, format: Literal["auto", "text", "json"] = "auto") -> None:
    """Find out early, before anything is computed, that a prompt cannot be used.

    Raises:
        UsageError: See `load_template`; also if JSON is wanted from a file without `{format}`.
    """
    load_template(name, "text")
    if format == "json" and not takes_formats(name):
        raise UsageError(
            f"{name}: placeholder {{format}} is missing; add it, or set synthesize.teacher.format to text"
        )


def load_again() -> Template:
    """What is added to the prompt when some of a unit's examples are there and others are asked for again."""
    return Template(AGAIN_FILE, _read(AGAIN_FILE), known=("questions",))


def _read(file: str) -> str:
    return (resources.files("lamer.synthesis") / "prompts" / file).read_text(encoding="utf-8").strip()


def _read_own(path: str) -> str:
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-8-sig").replace("\r\n", "\n").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a prompt in UTF-8 ({error})") from error
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(f"{path}: {len(content)} bytes are no prompt; {MAX_FILE_BYTES} at most")
    return text


def template_hash(name: str, format: Format = "text") -> str:
    """Digest of every text that prompt `name` is made of; in the ledger and on the examples."""
    return digest(load_template(name, format).text, load_again().text)


def prompt_hash(name: str) -> str:
    """Digest of prompt `name` in all formats, for the run's fingerprint: the format is settled later."""
    return digest(template_hash(name, "text"), template_hash(name, "json"))


# What is put in

_HIDDEN = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
"""Control characters, turns of writing direction, and tags that no reader sees."""
_ROLE_MARK = re.compile(
    r"<(?=[|｜])|<(?=/?(?:s|bos|eos|im_start|im_end|start_of_turn|end_of_turn|think|<SYS>)>)|\[(?=/?INST\])",
    re.IGNORECASE,
)
"""Beginnings of the marks by which chat templates tell whose turn it is."""


def one_line(text: str) -> str:
    """Untrusted text for a prompt: every run of white space (line breaks too) as one space, hidden characters left
    out, marks of chat templates (`<|im_end|>`, `[INST]`) broken up by a space, code fences as quotation marks."""
    shown = " ".join(_HIDDEN.sub("", text).split())
    return _ROLE_MARK.sub(lambda match: f"{match[0]} ", shown).replace("```", "'''")


def reference_text(query: Query) -> str:
    """The reference example: question and options in the order shown. Never the label, nor an explanation."""
    question = f"Question: {one_line(query.text)}"
    if not query.options:
        return question
    return f"{question}\nOptions: {options_text(query.options)}"


def labelled_text(query: Query) -> str:
    """The example with its label, for prompts that show what was answered wrongly.

    Raises:
        DataError: If it has no label.
    """
    if query.answer is None:
        raise DataError(f"query {query.id}: has no label, which the prompt llm2llm shows")
    index = query.answer_index
    answer = query.answer if index is None or query.options is None else query.options[index]
    letter = "" if index is None else f"({LETTERS[index]}) "
    return f"{reference_text(query)}\nAnswer: {letter}{one_line(answer)}"


def options_text(options: Iterable[str]) -> str:
    """`(A) first (B) second`."""
    return " ".join(f"({chr(ord('A') + i)}) {one_line(option)}" for i, option in enumerate(options))


def build_prompt(
    name: str,
    fact: Fact,
    query: Query | None,
    num_examples: int,
    num_options: int,
    made_before: Sequence[str] = (),
    *,
    format: Format = "text",
) -> str:
    """The user message that asks the teacher for examples.

    Args:
        name: Which prompt.
        fact: The knowledge that the examples must need.
        query: The reference example, or None for none.
        num_examples: Examples asked for.
        num_options: Options of each.
        made_before: Questions of examples kept from earlier replies, to be different from.
        format: How the reply is to be written.

    Raises:
        DataError: If the prompt shows labels and the query has none.
    """
    prompt, template = prompt_named(name), load_template(name, format)
    show = labelled_text if prompt.reference == "labelled query" else reference_text
    values = {
        "fact": one_line(fact.text),
        "examples": show(query) if query is not None else NO_EXAMPLES,
        "num_examples": num_examples,
        "num_options": num_options,
    }
    text = template.render(**{key: values[key] for key in template.known})
    if made_before:
        listed = "\n".join(f"- {one_line(question)}" for question in made_before)
        text = f"{text}\n\n{load_again().render(questions=listed)}"
    return text
