from __future__ import annotations

import sqlite3
import threading

import pytest

from lamer.errors import RunError
from lamer.teacher.ledger import Answer, Entry, Ledger, request_hash

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
