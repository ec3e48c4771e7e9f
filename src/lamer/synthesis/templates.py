"""Prompts for the teacher: versioned text files with strict placeholders.

The files under `prompts/` are those of the paper's appendix C.2 (reasoning, math), with the noise of its printing
mended. A changed text is a new file with a new version; the hash of the texts is part of a run's fingerprint.
Facts and queries are untrusted: they are put in as they are, on one line, and never read as a template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources

from lamer.records import Fact, Query
from lamer.run import digest
from lamer.teacher.template import Template

FILES: dict[str, str] = {"reasoning": "reasoning-v1.txt", "math": "math-v1.txt"}
AGAIN_FILE = "again-v1.txt"
PLACEHOLDERS = ("fact", "examples", "num_examples", "num_options")
NO_EXAMPLES = "(none)"


def load_template(name: str) -> Template:
    """The teacher's prompt `name`."""
    return Template(FILES[name], _read(FILES[name]), PLACEHOLDERS)


def load_again() -> Template:
    """What is added to the prompt when some of a unit's examples are there and others are asked for again."""
    return Template(AGAIN_FILE, _read(AGAIN_FILE), known=("questions",))


def _read(file: str) -> str:
    return (resources.files("lamer.synthesis") / "prompts" / file).read_text(encoding="utf-8").strip()


def template_hash(name: str) -> str:
    """Digest of every text that prompt `name` is made of."""
    return digest(load_template(name).text, load_again().text)


def one_line(text: str) -> str:
    """`text` with every run of white space (line breaks too) as one space."""
    return " ".join(text.split())


def reference_text(query: Query) -> str:
    """The reference example: question and options in the order shown. Never the label, nor an explanation."""
    question = f"Question: {one_line(query.text)}"
    if not query.options:
        return question
    return f"{question}\nOptions: {options_text(query.options)}"


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
) -> str:
    """The user message that asks the teacher for examples.

    Args:
        name: Which prompt.
        fact: The knowledge that the examples must need.
        query: The reference example, or None for none.
        num_examples: Examples asked for.
        num_options: Options of each.
        made_before: Questions of examples kept from earlier replies, to be different from.
    """
    prompt = load_template(name).render(
        fact=one_line(fact.text),
        examples=reference_text(query) if query is not None else NO_EXAMPLES,
        num_examples=num_examples,
        num_options=num_options,
    )
    if made_before:
        listed = "\n".join(f"- {one_line(question)}" for question in made_before)
        prompt = f"{prompt}\n\n{load_again().render(questions=listed)}"
    return prompt
