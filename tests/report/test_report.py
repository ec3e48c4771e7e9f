from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer.config import Config, to_yaml
from lamer.records import Deficiency, Diagnosis, Example, Fact, Query, Shortage
from lamer.report.data import read_report
from lamer.report.histogram import bars, svg
from lamer.report.stage import report
from lamer.run import Run, StageResult

EVIL = "<script>alert('x')</script>&\"<img src=x onerror=alert(1)>"


def diagnosis(query_id: str, severity: float | None) -> Diagnosis:
    if severity is None:
        return Diagnosis(query_id, "f", ("a",), "options", (), (), (), (), (), None, None, None, None, EVIL)
    return Diagnosis(
        query_id, "f", (EVIL, "b"), "options", (-0.1, -2.0), (-2.0, -0.1), (-1.0, -3.0), (-3.0, -1.0), (2, 2),
        severity, "unfair" if severity >= 1 else "below", "flipped", None,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    with Run.open(tmp_path / "run") as opened:
        opened.table("queries", Query).write(0, [Query(f"q{i}", EVIL, (EVIL, "b"), None, "s") for i in range(3)])
        opened.table("facts", Fact).write(0, [Fact("f", EVIL, None, "s")])
        opened.table("diagnoses", Diagnosis).write(
            0, [diagnosis("q0", 2.5), diagnosis("q1", 0.01), diagnosis("q2", None)]
        )
        opened.table("deficiencies", Deficiency).write(0, [Deficiency("q0|f", "q0", "f", 2.5, "unfair", 4)])
        opened.table("examples", Example).write(
            0,
            [
                Example("q0|f#0", "q0|f", 2.5, EVIL, (EVIL, "b", "c"), 0, EVIL, "kept", None, EVIL, EVIL),
                Example("q0|f!0", "q0|f", 2.5, "", (), None, "", "rejected", EVIL, EVIL, EVIL),
            ],
        )
        rows = [
            {"method": method, "query_id": "q0", "text": EVIL, "log_prior": [-1.0, -0.46]}
            for method in ("base", "lamer")
        ]
        (opened.path / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        opened.begin("diagnose", {})
        opened.complete("diagnose", StageResult({"pairs": 3, "odd": {EVIL: EVIL}}, [EVIL]), 1.0)
        (opened.path / "lamer.yaml").write_text(to_yaml(Config()) + f"# {EVIL}\n")
        yield opened


def test_untrusted_text_is_escaped_everywhere(run):
    report(run, Config())
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") >= 10  # query, option, fact, example, answers, reason, notes, settings


def test_the_report_counts_what_the_tables_hold(run):
    data = read_report(run)
    assert (data.num_pairs, data.num_undiagnosed, data.num_kept) == (3, 1, 1)
    assert data.tiers["unfair"]["flipped"] == 1
    assert data.rejected == {EVIL: 1}
    (story,) = data.stories
    assert [candidate.after for candidate in story.candidates] == pytest.approx([0.3679, 0.6313], abs=1e-3)
    assert story.examples[0].id == "q0|f#0"


def test_an_empty_run_has_a_report_too(tmp_path):
    with Run.open(tmp_path / "run") as empty:
        assert report(empty, Config()).counts["stories"] == 0
        assert "0 pairs" in (empty.path / "report.html").read_text(encoding="utf-8")


def test_the_report_package_imports_no_stage():
    import subprocess
    import sys

    code = (
        "import sys, lamer.report.stage\n"
        "names = ('diagnosis', 'synthesis', 'training', 'evaluation', 'knowledge', 'scoring', 'pipeline')\n"
        "sys.exit(', '.join(n for n in names if f'lamer.{n}' in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@given(st.lists(st.floats(min_value=0, max_value=1e6)))
def test_every_value_falls_into_exactly_one_bar(values):
    assert sum(bar.count for bar in bars(values)) == len(values)


def test_values_fall_where_they_belong():
    (bar,) = [bar for bar in bars([0.5]) if bar.count]
    assert bar.low <= 0.5 < bar.high


def test_the_histogram_names_its_pairs():
    assert re.search(r"Histogram of relative entropy over 2 pairs", svg([0.2, 3.0]))


def test_the_report_lists_every_short_deficiency_and_the_accounting(run):
    counts = {
        "requested": 9, "kept": 1, "short": 8, "replies": {"total": 5, "parsed": 4, "unparsed": 1},
        "items": {"total": 7, "kept": 1, "rejected": 6},
    }  # fmt: skip
    rows = [Shortage(f"q{n}|f", "q", "f", "hard", 3, 1, 4, ("duplicate", EVIL), (2, 1), EVIL) for n in range(30)]
    run.table("shortages", Shortage).write(0, rows)
    run.begin("synthesize", {})
    run.complete("synthesize", StageResult(counts), 1.0)
    report(run, Config())
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert (
        "Requested 9 = kept 1 + short 8. Replies 5 = parsed 4 + unparsed 1. Items 7 = kept 1 + rejected 6" in page
    )
    assert all(f"q{n}|f</th>" in page for n in range(30))
    assert "<script" not in page
