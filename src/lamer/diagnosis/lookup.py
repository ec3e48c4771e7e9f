"""Finding the rows of a shard's queries in tables that are too large for memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from itertools import islice

from lamer.records import Fact, Match, Query, Record, arrow_schema, from_arrow
from lamer.tables import Table


def chunks(table: Table[Record], size: int) -> Iterator[list[Record]]:
    """The table's rows in order, `size` at a time."""
    rows = iter(table)
    while chunk := list(islice(rows, size)):
        yield chunk


def rows_where(table: Table[Record], column: str, values: Collection[str]) -> list[Record]:
    """The rows whose `column` is one of `values`, in table order; reads the table, keeps only what matches."""
    import pyarrow.dataset as ds

    files = table.shards()
    if not files or not values:
        return []
    dataset = ds.dataset([str(file) for file in files], schema=arrow_schema(table.record), format="parquet")
    return list(from_arrow(dataset.to_table(filter=ds.field(column).isin(sorted(values))), table.record))


def facts_by_id(table: Table[Fact], ids: Collection[str]) -> dict[str, Fact]:
    """The facts with these ids."""
    return {fact.id: fact for fact in rows_where(table, "id", set(ids))}


class MatchLookup:
    """The matches of a chunk of queries, ordered by rank.

    Usually matches stand in the order of their queries. That is checked once, by walking through both tables side
    by side; then each chunk's matches are read on from where the last ones ended. Otherwise each chunk costs a
    scan of the table.
    """

    def __init__(self, matches: Table[Match], queries: Table[Query]) -> None:
        self._table = matches
        self._in_order = _in_query_order(matches, queries)
        self._rows = iter(matches)
        self._next: Match | None = next(self._rows, None)

    def of(self, queries: list[Query]) -> dict[str, list[Match]]:
        """Matches by query id; chunks must come in the order of the queries table, without a gap."""
        ids = {query.id for query in queries}
        found: dict[str, list[Match]] = defaultdict(list)
        for match in self._read_on(ids) if self._in_order else rows_where(self._table, "query_id", ids):
            found[match.query_id].append(match)
        return {name: sorted(rows, key=lambda match: match.rank) for name, rows in found.items()}

    def _read_on(self, ids: set[str]) -> Iterator[Match]:
        while self._next is not None and self._next.query_id in ids:
            yield self._next
            self._next = next(self._rows, None)


def _in_query_order(matches: Table[Match], queries: Table[Query]) -> bool:
    """Whether the matches' query ids, repeats aside, are a subsequence of the queries' ids."""
    match_ids = _column(matches, "query_id")
    current = next(match_ids, None)
    for query_id in _column(queries, "id"):
        while current == query_id:
            current = next(match_ids, None)
        if current is None:
            return True
    return current is None


def _column(table: Table[Record], name: str) -> Iterator[str]:
    import pyarrow.parquet as pq

    for file in table.shards():
        yield from pq.read_table(file, columns=[name]).column(name).to_pylist()
