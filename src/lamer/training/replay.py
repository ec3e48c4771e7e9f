"""General examples mixed into the training, so that what the model knew stays (`train.replay`).

They come from files (`train.replay.path`, in the form of lamer.training.examples), or from the model itself: its
own greedy replies to queries that the diagnosis found nothing wrong with.

Such a reply is trained on word for word (`Example.completion`). Written anew through `prompt.completion`, from its
top candidate and without an explanation, it would be a reply that the model does not give: the replay would teach
a form, and to leave explanations out, instead of holding the model where it is. For the same reason a reply
that has not ended by itself is left out: the end of the turn behind it would be made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256

from lamer.config import Config
from lamer.diagnosis.selection import num_replay
from lamer.evaluation.generate import GreedyGenerator
from lamer.progress import ProgressBar
from lamer.records import Diagnosis, Example, Query
from lamer.run import Run
from lamer.scoring.candidates import SampleRow, is_blank
from lamer.scoring.model import LoadedModel, load_model
from lamer.scoring.render import Renderer
from lamer.scoring.scorer import context_limit
from lamer.tables import Table
from lamer.training.examples import load_examples

TABLE = "replay"
PREFIX = "replay|"
"""In front of the id of a replayed example: of the query that was answered, or of the file's example."""
MAX_REPLY_TOKENS = 256
"""A reply that goes on longer is left out, and the next query takes its place."""
CHUNK = 64
"""Queries answered together: the unit of resume."""


def num_replayed(config: Config, num_examples: int) -> int:
    """Examples to replay beside `num_examples` others, so that they are `train.replay.share` of all."""
    return num_replay(config.train.replay.share, num_examples)


def replay_examples(run: Run, config: Config, count: int) -> list[Example]:
    """`count` general examples in random order, or as many as there are.

    The order depends on the seed and the ids only, and a larger `count` gives the same ones and others behind
    them, so methods of one run share what they replay. The model's own answers are kept in the table `replay`,
    whole chunks of them; called again, finished chunks are read.

    Args:
        run: An open run; without files, one with diagnoses.
        config: Its sections `model`, `prompt`, `train` (`replay`, `max_length`) and `seed`, and the batch size of
            `evaluate`.
        count: How many are wanted.

    Raises:
        DataError: If a file cannot be read.
        ModelError: If the model cannot be loaded.
    """
    if count <= 0:
        return []
    if config.train.replay.path:
        return sorted(given_examples(config), key=lambda row: _place(config.seed, row.id))[:count]
    return _own_answers(run, config, count)


def given_examples(config: Config) -> list[Example]:
    """All examples of the files of `train.replay.path`, named as replayed ones.

    Raises:
        DataError: If a file cannot be read.
    """
    return [replace(row, id=PREFIX + row.id) for row in load_examples(config.train.replay.path)]


def untouched_queries(run: Run, seed: int) -> list[Query]:
    """Queries that were diagnosed and whose pairs all lie below the threshold, in random order."""
    is_below: dict[str, bool] = {}
    for row in run.table("diagnoses", Diagnosis):
        is_below[row.query_id] = is_below.get(row.query_id, True) and row.tier == "below"
    found = [query for query in run.table("queries", Query) if is_below.get(query.id)]
    return sorted(found, key=lambda query: _place(seed, query.id))


def _own_answers(run: Run, config: Config, count: int) -> list[Example]:
    table: Table[Example] = run.table(TABLE, Example)
    queries = untouched_queries(run, config.seed)
    found: list[Example] = []
    loaded: LoadedModel | None = None
    with ExitStack() as stack:
        bar: ProgressBar | None = None
        for index, start in enumerate(range(0, len(queries), CHUNK)):
            if len(found) >= count:
                break
            if not table.has(index):
                loaded = loaded or load_model(config.model)
                bar = bar or stack.enter_context(ProgressBar("replay", total=count, unit="examples"))
                table.write(index, own_answers(queries[start : start + CHUNK], loaded, config))
                bar.advance(min(len(table.read_shard(index)), count - len(found)))
            found += table.read_shard(index)
    return found[:count]


def own_answers(queries: Sequence[Query], loaded: LoadedModel, config: Config) -> list[Example]:
    """The model's greedy replies as examples; without those that are blank, cut, or too long to train on."""
    renderer = Renderer(loaded.tokenizer, config.prompt)
    limit = min(config.train.max_length, context_limit(loaded) or config.train.max_length)
    contexts = [tuple(renderer.context_ids(renderer.prompt(query.text, query.options))) for query in queries]
    room = [min(MAX_REPLY_TOKENS, limit - len(context)) for context in contexts]
    asked = [index for index in range(len(queries)) if room[index] > 0]
    generator = _WholeReplies(loaded, renderer, config.evaluate.max_batch_tokens)
    texts = generator.sample([SampleRow(contexts[index], "", room[index]) for index in asked])
    return [
        _example(queries[index], text, config.model.name)
        for index, text in zip(asked, texts)
        if not is_blank(text)
    ]


class _WholeReplies(GreedyGenerator):
    """A reply that reaches its length limit is blank."""

    def _run(self, rows: Sequence[SampleRow]) -> list[list[int]]:
        return [ids if len(ids) < row.max_new_tokens else [] for row, ids in zip(rows, super()._run(rows))]


def _example(query: Query, reply: str, model: str) -> Example:
    return Example(
        id=PREFIX + query.id,
        deficiency_id=None,
        relative_entropy=None,
        question=query.text,
        options=query.options or (),
        answer=None,
        explanation="",
        status="kept",
        reason=None,
        raw=reply,
        teacher=model,
        completion=reply,
    )


def _place(seed: int, name: str) -> bytes:
    return sha256(f"replay {seed}|{name}".encode()).digest()
