from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from lamer.errors import RunError
from lamer.teacher import session
from lamer.teacher.ledger import Answer, Cost, Entry, Ledger, Loss, Totals, Unpriced, request_hash

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hi \ud800 é"}], "seed": 1, "template": "t"}


def entry(number: int, text: str | None = "reply") -> Entry:
    request = {**REQUEST, "seed": number}
    return Entry(request_hash(request), "m", request, Answer(text, "stop", 3, 4, 0.25))


def test_the_hash_follows_everything_but_the_order_of_keys():
    assert request_hash(REQUEST) == request_hash(dict(reversed(REQUEST.items())))
    for key, value in (("model", "n"), ("messages", []), ("seed", 2), ("template", "u"), ("temperature", 0.5)):
        assert request_hash({**REQUEST, key: value}) != request_hash(REQUEST)


def test_what_was_recorded_is_found_after_opening_again(tmp_path):
    with Ledger(tmp_path / "deep" / "teacher.sqlite") as ledger:
        ledger.record([entry(1), entry(2, None)])
        ledger.record_failure("h", "m", "500 (7 tries)", 1.5)
    with Ledger(tmp_path / "deep" / "teacher.sqlite") as ledger:
        assert ledger.find(entry(1).hash) == Answer("reply", "stop", 3, 4, 0.25)
        assert ledger.find(entry(2).hash) == Answer(None, "stop", 3, 4, 0.25)
        assert ledger.find(entry(3).hash) is None
        totals = ledger.totals()
        assert (totals.answered, totals.failed, totals.prompt_tokens, totals.completion_tokens) == (2, 1, 6, 8)


def test_a_failure_is_no_answer(tmp_path):
    with Ledger(tmp_path / "t.sqlite") as ledger:
        ledger.record_failure(entry(1).hash, "m", "503", 0.1)
        assert ledger.find(entry(1).hash) is None


def test_an_answer_is_never_replaced(tmp_path):
    with Ledger(tmp_path / "t.sqlite") as ledger:
        ledger.record([entry(1, "first")])
        ledger.record([entry(1, "second")])
        found = ledger.find(entry(1).hash)
        assert found is not None
        assert found.text == "first"


def test_a_committed_answer_is_on_disk_while_the_ledger_is_open(tmp_path):
    with Ledger(tmp_path / "t.sqlite") as ledger:
        ledger.record([entry(1)])
        other = sqlite3.connect(tmp_path / "t.sqlite")
        assert other.execute("SELECT reply, status FROM requests").fetchall() == [("reply", "answered")]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.close()


def test_many_threads_write(tmp_path):
    with Ledger(tmp_path / "t.sqlite") as ledger:
        threads = [
            threading.Thread(target=lambda n=n: [ledger.record([entry(n * 100 + i)]) for i in range(10)])
            for n in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.totals().answered == 50


def test_a_file_that_is_no_ledger_is_refused_in_one_line(tmp_path):
    path = tmp_path / "t.sqlite"
    path.write_bytes(b"not a database, however long it may be" * 100)
    with pytest.raises(RunError, match=r"t\.sqlite: cannot be used") as caught:
        Ledger(path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_keeps_what_is_there(tmp_path):
    with Ledger(tmp_path / "t.sqlite") as ledger:
        ledger.record([entry(1)])
        pages = ledger._database.execute("PRAGMA page_count").fetchone()[0]
        ledger._database.execute(f"PRAGMA max_page_count={pages + 1}")
        with pytest.raises(RunError, match="free some space"):
            ledger.record([entry(2, "x" * 100_000)])
        assert ledger.find(entry(1).hash) is not None
        ledger._database.execute("PRAGMA max_page_count=100000")
        ledger.record([entry(2, "x" * 100_000)])
        assert ledger.totals().answered == 2


OLD_SCHEMA = """
CREATE TABLE requests (
    hash TEXT PRIMARY KEY, model TEXT NOT NULL, request TEXT NOT NULL, reply TEXT, finish_reason TEXT,
    prompt_tokens INTEGER, completion_tokens INTEGER, seconds REAL NOT NULL, status TEXT NOT NULL,
    created TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE failures (
    hash TEXT NOT NULL, model TEXT NOT NULL, error TEXT NOT NULL, seconds REAL NOT NULL, created TEXT NOT NULL
);
INSERT INTO requests VALUES
    ('h1', 'm', '{}', 'an old reply', 'stop', 30, 40, 0.5, 'answered', '2026-01-01T00:00:00.000+00:00'),
    ('h2', 'm', '{}', NULL, 'content_filter', 5, 0, 0.5, 'empty', '2026-01-01T00:00:00.000+00:00');
INSERT INTO failures VALUES ('h3', 'm', '500', 0.5, '2026-01-01T00:00:00.000+00:00');
"""


def test_a_ledger_of_the_first_version_is_read_and_written_on(tmp_path):
    path = tmp_path / "teacher.sqlite"
    old = sqlite3.connect(path)
    old.executescript(OLD_SCHEMA)
    old.close()
    for already in (0, 1):  # the second time nothing is left to add
        with Ledger(path) as ledger:
            assert ledger.find("h1") == Answer("an old reply", "stop", 30, 40, 0.5)
            assert ledger.find("h2") == Answer(None, "content_filter", 5, 0, 0.5)
            totals = ledger.totals()
            assert (totals.answered, totals.failed, totals.lost) == (2 + already, 1, 0)
            assert (totals.unpriced, totals.cost) == (2, None)  # what they cost is not made up
            assert ledger.unpriced() == [Unpriced("m", 2, 0, 35, 40)]
            assert ledger.totals("").answered == 2
            ledger.record([entry(1)] if already else [priced(entry(1), 0.25)])
    with Ledger(path) as ledger:
        assert ledger.totals().costs == {"USD": 0.25}
        assert ledger.purposes() == ["", "examples"]


def priced(row: Entry, amount: float, currency: str = "USD") -> Entry:
    return replace(row, purpose="examples", cost=Cost(amount, currency))


def test_money_is_summed_by_currency_and_purpose(tmp_path):
    with Ledger(tmp_path / "t.sqlite") as ledger:
        ledger.record([priced(entry(1), 0.25), priced(entry(2), 0.5)])
        ledger.record_loss(Loss("h", "m", "no choices", 1.0, 7, None, "judge", Cost(2.0, "USD", is_bound=True)))
        assert ledger.totals() == Totals(2, 0, 13, 8, 1, {"USD": 2.75}, 0, 1)
        assert ledger.totals().cost == 2.75
        assert ledger.totals("examples").costs == {"USD": 0.75}
        assert ledger.totals("judge") == Totals(0, 0, 7, 0, 1, {"USD": 2.0}, 0, 1)
        assert ledger.totals("facts") == Totals(0, 0, 0, 0)
        ledger.record([priced(entry(3), 1.0, "EUR")])
        assert ledger.totals().costs == {"EUR": 1.0, "USD": 2.75}
        assert ledger.totals().cost is None  # euros and dollars are no sum


def test_a_paid_reply_that_cannot_be_used_has_its_own_status(tmp_path):
    replies = [
        ("cut", "length"),
        (None, "content_filter"),
        ("some", "content_filter"),
        (None, "stop"),
        ("x", None),
    ]
    with Ledger(tmp_path / "t.sqlite") as ledger:
        for number, (text, reason) in enumerate(replies):
            ledger.record([Entry(f"h{number}", "m", {}, Answer(text, reason, 1, 1))])
        other = sqlite3.connect(ledger.path)
        rows = other.execute("SELECT status FROM requests ORDER BY hash").fetchall()
        other.close()
        assert [status for (status,) in rows] == ["truncated", "filtered", "filtered", "empty", "answered"]
        assert ledger.totals().answered == 5


def test_a_lost_try_is_no_answer(tmp_path):
    with Ledger(tmp_path / "t.sqlite") as ledger:
        ledger.record_loss(Loss(entry(1).hash, "m", "reset", 0.1))
        assert ledger.find(entry(1).hash) is None


def test_a_session_that_was_killed_is_known_at_the_next_start(tmp_path):
    path = tmp_path / "t.sqlite"
    with Ledger(path) as ledger:
        with ledger.session(16):
            assert ledger.killed() == (1, 16)
        with pytest.raises(KeyboardInterrupt), ledger.session(16):
            raise KeyboardInterrupt
        assert ledger.killed() == (0, 0)  # an interruption ends it in order
    script = (
        "import os, sys, pathlib; from lamer.teacher.ledger import Ledger\n"
        "with Ledger(pathlib.Path(sys.argv[1])) as ledger, ledger.session(4): os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    with Ledger(path) as ledger:
        assert ledger.killed() == (2, 8)


def test_a_slow_disk_is_written_to_beside_the_event_loop_and_tried_again_later(tmp_path, monkeypatch):
    with Ledger(tmp_path / "teacher.sqlite") as ledger:
        threads: list[bool] = []
        record = ledger.record

        def watched(entries):
            threads.append(threading.current_thread() is not threading.main_thread())
            record(entries)

        monkeypatch.setattr(ledger, "record", watched)
        monkeypatch.setattr(session, "COMMITS_IN_THREAD", 2)
        monkeypatch.setattr(session, "SLOW_COMMIT_S", -1.0)  # every commit is slow

        async def write_all() -> None:
            writer = session.Writer(ledger)
            for number in range(7):
                await writer.write(Entry(f"h{number}", "m", {"n": number}, Answer("text")))
            await writer.flush()

        asyncio.run(write_all())
        assert threads == [False, False, True, True, False, True, True]
        monkeypatch.setattr(session, "SLOW_COMMIT_S", 1e9)
        threads.clear()
        asyncio.run(write_all())
        assert threads == [False] * 7
        assert ledger.totals().answered == 7
