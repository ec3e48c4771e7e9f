"""Facts from the user's documents: the table `passages`, and a stream of facts for the table `facts`.

Documents are read whole before anything is asked, so a bad one costs nothing. The teacher's replies are in the
ledger before they are used: a second start reads them there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lamer.config import Config
from lamer.errors import DataError
from lamer.knowledge.corpus import CorpusReport
from lamer.knowledge.document_facts import (
    REASONS,
    DocumentReply,
    document_messages,
    document_prompt_hash,
    extracted_problem,
    fact_of,
    parse_document_reply,
    sentence_facts,
    sentence_problem,
)
from lamer.knowledge.documents import find_documents, read_passages
from lamer.knowledge.shards import chunks, read_marker, replace_table, write_marker
from lamer.progress import ProgressBar
from lamer.records import Fact, Passage
from lamer.rows import BadRows
from lamer.run import Run

if TYPE_CHECKING:
    from lamer.teacher.teacher import Teacher

PASSAGES_PER_SHARD = 20_000
PASSAGES_PER_CALL = 256
"""Passages that the teacher is asked about together."""
_log = logging.getLogger("lamer")


def write_passages(run: Run, config: Config, bad: BadRows) -> dict[str, Any]:
    """The table `passages`, and what is to be said about it; documents that were left out go to `bad`.

    Raises:
        DataError: If there is no document, too many are bad, or none has text.
        UsageError: If a package is missing.
    """
    marker = run.path / "index" / "passages.json"
    if marker.exists():
        content = read_marker(marker)
        bad.messages += content["bad documents"]
        return content
    documents = find_documents(config.facts.documents)
    counts = {"documents": len(documents.files), "passages": 0}

    def counted() -> Iterator[Passage]:
        for passage in read_passages(documents, config.facts, bad, bar.advance):
            counts["passages"] += 1
            yield passage
        if not counts["passages"]:
            raise DataError(f"{config.facts.documents[0]}: no document has text; name others in facts.documents")

    with ProgressBar("read documents", len(documents.files), "documents") as bar:
        replace_table(run, "passages", Passage, counted(), PASSAGES_PER_SHARD, lambda count: None)
    counts["documents"] -= len(bad.messages)
    passed_over = dict(documents.passed_over.most_common())
    return write_marker(marker, counts | {"bad documents": bad.messages, "passed over": passed_over})


def extracted_facts(
    run: Run, config: Config, report: CorpusReport, tally: Counter[str], teacher: Teacher | None = None
) -> Iterator[Fact]:
    """The facts of all passages, in order; those that fail a check are counted in `report.dropped`.

    Args:
        run: Has the table `passages`; the ledger lies there.
        config: `facts`, teacher, tries, seed.
        report: Takes the drops.
        tally: Takes passages without a reply, and without a fact.
        teacher: Instead of the server that the settings name.

    Raises:
        TeacherError: If the teacher cannot be reached, or a ceiling is reached before all facts are there.
    """
    report.dropped |= dict.fromkeys(REASONS, 0)
    found = _by_teacher(run, config, tally, teacher) if config.facts.extract == "teacher" else _sentences(run)
    for passage, texts in found:
        is_own = config.facts.extract == "sentences"
        problems = [sentence_problem(text) if is_own else extracted_problem(text, passage) for text in texts]
        report.dropped.update(Counter(report.dropped) + Counter(filter(None, problems)))
        tally["without a fact"] += all(problems)
        yield from (fact_of(text, passage) for text, problem in zip(texts, problems) if problem is None)


def document_notes(config: Config, passages: dict[str, Any], tally: dict[str, int]) -> list[str]:
    """What a user should know about facts from documents."""
    origin = f"{passages['passages']} passages of {passages['documents']} documents"
    notes = {
        "sentences": f"Facts are the sentences of {origin}, taken as they are: not every sentence is a fact, and "
        "some need their neighbours. facts.extract=teacher has a teacher write them.",
        "teacher": f"Facts were extracted from {origin} by the teacher {config.synthesize.teacher.model}; their "
        "words and numbers were compared with the passage, their truth was not checked.",
    }
    found = [notes[config.facts.extract]]
    if tally.get("without a reply"):
        found.append(f"{tally['without a reply']} passages got no usable reply from the teacher.")
    if passages["passed over"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in passages["passed over"].items())
        found.append(f"Files in the folders that are no documents were passed over: {kinds}.")
    return found


def _sentences(run: Run) -> Iterator[tuple[Passage, Sequence[str]]]:
    _log.warning("facts.extract=sentences: the sentences of the documents are taken for facts, as they are")
    for passage in run.table("passages", Passage):
        yield passage, sentence_facts(passage)


def _by_teacher(
    run: Run, config: Config, tally: Counter[str], teacher: Teacher | None
) -> Iterator[tuple[Passage, Sequence[str]]]:
    from lamer.teacher.ledger import LEDGER, Ledger
    from lamer.teacher.teacher import Teacher

    table = run.table("passages", Passage)
    with Ledger(run.path / LEDGER) as ledger, ProgressBar("extract facts", table.num_rows, "passages") as bar:
        asked = teacher or Teacher(config.synthesize.teacher, ledger)
        for group in chunks(table, PASSAGES_PER_CALL):
            replies = ask_about_passages(asked, group, config)
            tally["without a reply"] += sum(not replies[passage.id].is_usable for passage in group)
            bar.advance(len(group))
            yield from ((passage, replies[passage.id].facts) for passage in group)


def ask_about_passages(teacher: Teacher, passages: Sequence[Passage], config: Config) -> dict[str, DocumentReply]:
    """The reply about each passage, by its id; one that cannot be used is asked for again."""
    from lamer.teacher.requests import Request

    limit = config.facts.facts_per_passage
    found = {passage.id: DocumentReply() for passage in passages}
    for attempt in range(config.synthesize.max_tries):
        pending = [passage for passage in passages if not found[passage.id].is_usable]
        if not pending:
            break
        requests = [
            Request(
                passage.id,
                tuple(document_messages(passage, limit)),
                seed=config.seed + attempt,
                template=document_prompt_hash(),
                purpose="facts",
            )
            for passage in pending
        ]
        replies = teacher.ask(requests)
        teacher.budget.require("facts")
        for key, reply in replies.items():
            if reply.text is not None:
                found[key] = parse_document_reply(reply.text, limit, is_cut=reply.finish_reason == "length")
    return found
