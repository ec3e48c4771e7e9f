from __future__ import annotations

import io
import re

import pytest

from lamer import progress as lines
from lamer.synthesis.synthesize import write_examples
from lamer.teacher import progress
from lamer.teacher.ledger import Ledger
from lamer.teacher.progress import CallProgress, money_text, reasons_text
from lamer.teacher.requests import Reply
from lamer.teacher.teacher import Teacher
from writing_teacher import config_for, sloppy, units


@pytest.fixture
def every_reply_is_shown(monkeypatch):
    monkeypatch.setattr(progress, "SHOW_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "MONEY_EVERY_S", 0.0)
    monkeypatch.setattr(lines, "LOG_INTERVAL_S", 0.0)


def reply(number: int, **changes) -> Reply:
    return Reply(f"r{number}", "text", prompt_tokens=100, completion_tokens=20, **changes)


def test_reasons_are_told_most_frequent_first_and_rare_ones_together():
    assert reasons_text({}) == ""
    assert reasons_text({"b": 2, "a": 2, "c": 9, "none": 0}) == "c 9, a 2, b 2"
    assert reasons_text(dict.fromkeys("abcdef", 5) | {"g": 1}) == "a 5, b 5, c 5, d 5, others 11"


def test_money_is_told_in_its_currency():
    assert money_text({}) == ""
    assert money_text({"USD": 0.01234}) == "0.0123 USD"
    assert money_text({"EUR": 1234.5, "USD": 0.5}) == "1,234.50 EUR, 0.5000 USD"


def test_a_log_gets_plain_lines_with_everything_in_them(capsys, every_reply_is_shown):
    money = iter(["0.1 USD", "0.2 USD", "0.3 USD"])
    with CallProgress("synthesize, try 2", 4, rejected={"duplicate": 3}, money=lambda: next(money)) as shown:
        shown.take(reply(0, is_cached=True))
        shown.take(reply(1))
        shown.take(reply(2, error="no reply"))
        shown.take(reply(3))
    out, err = capsys.readouterr()
    assert out == ""
    told = err.splitlines()
    assert re.fullmatch(r"synthesize, try 2: 1/4 calls, 1 calls done before", told[0])
    assert re.fullmatch(
        r"synthesize, try 2: 3/4 calls, [\d,.]+ calls/s, \d+ s left, 240 tokens, 0\.2 USD, 1 given up, "
        r"rejected: duplicate 3",
        told[2],
    )
    assert told[3].startswith("synthesize, try 2: 4/4 calls")
    assert "360 tokens, 0.3 USD" in told[3]
    assert not re.search(r"[\x1b\r]", err)


def test_quick_replies_are_shown_together_and_none_is_lost(capsys, monkeypatch):
    monkeypatch.setattr(lines, "LOG_INTERVAL_S", 0.0)
    monkeypatch.setattr(progress, "SHOW_EVERY_S", 3600.0)
    asked = []
    with CallProgress("ask", 500, money=lambda: asked.append(1) or "") as shown:
        for number in range(500):
            shown.take(reply(number))
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[-1].startswith("ask: 500/500 calls")
    assert "60,000 tokens" in told[-1]
    assert len(asked) == 1


def test_a_terminal_shows_one_moving_line(monkeypatch, every_reply_is_shown):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with CallProgress("synthesize", 2, rejected={"unparsed": 1}, money=lambda: "0.1 USD") as shown:
        shown.take(reply(0))
        shown.take(reply(1))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "2/2" in text
    assert "240 tokens, 0.1 USD, rejected: unparsed 1" in text


def test_synthesis_tells_what_was_rejected_in_the_rounds_before(tmp_path, capsys, every_reply_is_shown):
    with Ledger(tmp_path / "teacher.sqlite") as ledger:
        work, queries, facts = units(24)
        made = write_examples(work, queries, facts, config_for(), Teacher.from_callable(sloppy, ledger))
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("synthesize: 1/24 calls")
    assert "rejected" not in told[0]
    second = next(line for line in told if line.startswith("synthesize, try 2: "))
    match = re.search(r"rejected: (.*)", second)
    assert match is not None
    reasons = dict(part.rsplit(" ", 1) for part in match[1].split(", "))
    assert set(reasons) <= {*made.counts["rejected"], "others"}
    assert all(int(count) <= made.counts["rejected"].get(reason, 10**9) for reason, count in reasons.items())
