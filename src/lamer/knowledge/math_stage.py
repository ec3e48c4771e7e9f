"""The tables of the stage retrieve when the teacher writes the facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lamer.config import Config
from lamer.knowledge.corpus import normalize
from lamer.knowledge.math_facts import (
    MathReply,
    math_messages,
    math_prompt_hash,
    parse_math_reply,
    same_answer,
    teacher_facts,
    with_options,
)
from lamer.knowledge.shards import chunks, read_marker, write_marker
from lamer.progress import ProgressBar
from lamer.queries import load_queries
from lamer.records import Fact, Match, Query
from lamer.rows import BadRows
from lamer.run import Run

if TYPE_CHECKING:
    from lamer.teacher.teacher import Teacher

MATCH_SCORE = 1.0
"""Of a fact that was written for its query."""
NO_REPLY = "no reply from the teacher"


def write_math_tables(
    run: Run, config: Config, teacher: Teacher | None = None
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Tables `queries` (with the teacher's options), `facts` and `matches`, shard by shard.

    Every reply is in the ledger before it is used, so a second start pays for nothing twice.

    Args:
        run: Where to write.
        config: Queries, teacher, `retrieve.top_k`, tries, seed.
        teacher: Instead of the server that the settings name.

    Returns:
        What is to be said about queries, about facts, and notes.

    Raises:
        DataError: If the queries cannot be used; nothing was asked then.
        TeacherError: If the teacher cannot be reached, or a ceiling is reached before all facts are there.
    """
    from lamer.teacher.key import check_teacher
    from lamer.teacher.ledger import LEDGER, Ledger
    from lamer.teacher.teacher import Teacher

    settings = config.synthesize.teacher
    if teacher is None:
        check_teacher(settings)
    bad = BadRows(config.queries.skip_bad)
    total = sum(1 for _ in load_queries(config.queries, bad))  # every row is checked before anything is paid for
    tally: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    seen: set[str] = set()
    quiet = BadRows(config.queries.skip_bad, warn=lambda message: None)
    with Ledger(run.path / LEDGER) as ledger, ProgressBar("teacher's facts", total, "queries") as bar:
        asked = teacher or Teacher(settings, ledger)
        for index, shard in enumerate(chunks(load_queries(config.queries, quiet), config.diagnose.shard_size)):
            by_source.update(query.source for query in shard)
            marker = run.path / "index" / f"teacher-{index:05d}.json"
            if marker.exists():
                seen.update(fact.id for fact in run.table("facts", Fact).read_shard(index))
                tally.update(read_marker(marker))
                bar.skip(len(shard))
                continue
            replies = ask_teacher(asked, shard, config)
            doubted = doubted_answers(asked, shard, replies, config)
            tally.update(write_marker(marker, _write_shard(run, config, index, shard, replies, doubted, seen)))
            bar.advance(len(shard))
    queries = {
        "queries": total, "with options": tally["with options"], "by source": dict(by_source),
        "bad rows": bad.messages,
    }  # fmt: skip
    corpus = {
        "read": tally["facts written"], "kept": len(seen), "bad rows": [],
        "dropped": {"duplicate": tally["facts written"] - len(seen)},
    }  # fmt: skip
    return queries, corpus, _notes(settings.model, tally, is_checked=config.retrieve.self_answer > 0)


def ask_teacher(teacher: Teacher, queries: Sequence[Query], config: Config) -> dict[str, MathReply | None]:
    """The best reply for each query, by its id; None when the teacher gave none.

    A reply in which something is missing is asked for again, `synthesize.max_tries` times in all.
    """
    from lamer.teacher.requests import Request

    best: dict[str, MathReply | None] = {query.id: None for query in queries}
    pending = list(queries)
    for attempt in range(config.synthesize.max_tries):
        requests = [
            Request(
                query.id,
                tuple(math_messages(query, config.retrieve.top_k)),
                seed=config.seed + attempt,
                template=math_prompt_hash(),
                purpose="facts",
            )
            for query in pending
        ]
        replies = teacher.ask(requests)
        teacher.budget.require("facts")
        for key, reply in replies.items():
            if reply.text is not None:
                parsed = parse_math_reply(reply.text)
                known = best[key]
                best[key] = parsed if known is None or parsed.num_parts > known.num_parts else known
        pending = [query for query in pending if problem(query, best[query.id]) is not None]
        if not pending:
            break
    return best


def doubted_answers(
    teacher: Teacher, queries: Sequence[Query], replies: Mapping[str, MathReply | None], config: Config
) -> frozenset[str]:
    """Ids of the queries whose answer by the teacher is not the one that it gives again, asked blind.

    Each query that would get the teacher's options is put again `retrieve.self_answer` times with these options in
    changing order. Where too few replies name the teacher's answer, or could not be had, the answer is doubted.
    """
    if not config.retrieve.self_answer:
        return frozenset()
    from lamer.synthesis.blind import BlindCheck
    from lamer.synthesis.checks import Kept
    from lamer.synthesis.verify import Case

    cases: dict[str, Case] = {}
    for query in queries:
        reply = replies[query.id] or MathReply()
        options = with_options(query, reply, config.seed).options
        if query.options is None and options is not None and reply.answer is not None:
            cases[query.id] = Case("", Kept(normalize(query.text), options, options.index(reply.answer), ""))
    check = BlindCheck(teacher, config.retrieve.self_answer, config.retrieve.agreement, config.seed)
    reasons = check.reasons(list(cases.values()))
    return frozenset(key for key, reason in zip(cases, reasons) if reason is not None)


def problem(query: Query, reply: MathReply | None) -> str | None:
    """What a reply lacks for this query; one that has options needs facts only."""
    if reply is None:
        return NO_REPLY
    return reply.problem if query.options is None or not reply.facts else None


def _write_shard(
    run: Run,
    config: Config,
    index: int,
    queries: Sequence[Query],
    replies: dict[str, MathReply | None],
    doubted: frozenset[str],
    seen: set[str],
) -> dict[str, int]:
    """Write shard `index` of the three tables; `seen` takes the new facts' ids.

    A query whose answer is `doubted` keeps its facts and stays open: no option of it would be known to be right.
    """
    facts: list[Fact] = []
    matches: list[Match] = []
    finished: list[Query] = []
    tally: Counter[str] = Counter()
    for query in queries:
        reply = replies[query.id]
        lacking = problem(query, reply)
        if lacking is not None:
            tally[lacking] += 1
        reply = reply or MathReply()
        written = teacher_facts(reply, config.retrieve.top_k)
        tally["facts written"] += len(written)
        for rank, fact in enumerate(written):
            matches.append(Match(query.id, fact.id, rank, MATCH_SCORE))
            if fact.id not in seen:
                seen.add(fact.id)
                facts.append(fact)
        finished.append(query if query.id in doubted else with_options(query, reply, config.seed))
        tally["doubted"] += query.id in doubted
        tally["with options"] += finished[-1].options is not None
        if query.options is None and query.answer is not None and reply.answer is not None:
            tally["compared"] += 1
            tally["agreed"] += same_answer(reply.answer, query.answer)
    run.table("facts", Fact).write(index, facts)
    run.table("queries", Query).write(index, finished)
    run.table("matches", Match).write(index, matches)
    return dict(tally)


def _notes(model: str, tally: Counter[str], *, is_checked: bool) -> list[str]:
    notes = [f"Facts, answers and distractors were written by the teacher {model} and not checked by anyone."]
    if is_checked:
        notes = [
            f"Facts and answers were written by the teacher {model}; asked again blind, it did not come to its "
            f"answer for {tally['doubted']} queries, which stay open."
        ]
    if tally["compared"]:
        notes.append(
            f"The teacher's answer equals the label for {tally['agreed']} of the {tally['compared']} queries that "
            "have one; the labels decided nothing."
        )
    for lacking in (NO_REPLY, "no background knowledge", "no answer", "no distractor"):
        if tally[lacking]:
            notes.append(f"Replies with {lacking}: {tally[lacking]} queries." if lacking != NO_REPLY else
                         f"{tally[lacking]} queries got no reply from the teacher.")  # fmt: skip
    return notes
