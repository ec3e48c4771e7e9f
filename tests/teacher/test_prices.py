from __future__ import annotations

import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer.config import TeacherSettings
from lamer.errors import ConfigError
from lamer.teacher.prices import Price, find_price, how_to_add, load_prices, price_of

OPENAI = "api.openai.com"


ROWS = "currency: USD\nmodels: [{}]"


def price(model: str, **changes: object) -> Price:
    values = {"input": 1.0, "output": 2.0, "date": "2026-01-01", "source": "here", "currency": "USD", **changes}
    return Price(model, **values)  # type: ignore[arg-type]


def table(tmp_path, text: str) -> str:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    return str(path)


def test_a_cost_done_by_hand():
    row = price("m", input=0.5, output=1.5, batch=0.5)
    assert row.cost(1_000_000, 0) == 0.5
    assert row.cost(200, 400) == pytest.approx(0.0001 + 0.0006)
    assert row.cost(200, 400, is_batch=True) == pytest.approx(0.00035)
    assert price("m").cost(10, 10, is_batch=True) == price("m").cost(10, 10)


def test_every_shipped_price_is_dated_and_says_where_it_is_from():
    rows = load_prices()
    assert len({(row.model, row.server) for row in rows}) == len(rows) >= 5
    for row in rows:
        assert 0 < row.input <= row.output < 1000
        assert 0 < row.batch <= 1
        assert date(2026, 1, 1) <= date.fromisoformat(row.date) <= date(2027, 1, 1)
        assert re.match(r"https://\S+", row.source)
        assert row.server == OPENAI


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-20240806", "gpt-4o"),
        ("gpt-4o-0806", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-4o-audio-preview", None),
        ("gpt-4o-latest", None),
        ("gpt-4", None),
        ("gpt", None),
        ("GPT-4o", None),
        ("gpt-4o-2024-05-13-0101", None),
        ("", None),
    ],
)
def test_a_model_is_found_by_name_or_as_a_dated_snapshot_and_never_guessed(model, found):
    rows = [price("gpt-4o"), price("gpt-4o-mini"), price("gpt-4o-2024-05-13", dated=False)]
    row = find_price(rows, model, OPENAI)
    assert (row.model if row else None) == found


def test_a_price_holds_at_its_server_only():
    rows = [price("m", server=OPENAI), price("*", server="localhost", input=0.0, output=0.0)]
    assert find_price(rows, "m", OPENAI) == rows[0]
    assert find_price(rows, "m", "example.org") is None
    assert find_price(rows, "anything", "localhost") == rows[1]
    assert find_price([price("*"), price("m")], "m", OPENAI) == price("m")  # a name comes before any name


def test_a_local_server_is_not_free_unless_a_table_says_so(tmp_path):
    local = TeacherSettings(model="gpt-4o-mini", base_url="http://127.0.0.1:8000/v1")
    assert price_of(local) is None
    assert price_of(TeacherSettings(model="gpt-4o-mini")) is not None
    row = '{model: "*", server: localhost, input: 0, output: 0, date: 2026-11-22, source: me}'
    free = f"currency: USD\nmodels: [{row}]"
    found = price_of(local.model_copy(update={"prices": table(tmp_path, free)}))
    assert found is not None
    assert found.cost(10**9, 10**9) == 0.0


def test_own_rows_come_before_the_shipped_ones(tmp_path):
    row = "{model: gpt-4o, input: 9, output: 9, date: 2026-11-22, source: contract}"
    own = table(tmp_path, f"currency: USD\nmodels: [{row}]")
    assert price_of(TeacherSettings(model="gpt-4o", prices=own)).input == 9
    assert price_of(TeacherSettings(model="gpt-4o-mini", prices=own)).source.startswith("https://")
    euro = table(tmp_path, f"currency: EUR\nmodels: [{row}]")
    assert price_of(TeacherSettings(model="gpt-4o", prices=euro)).currency == "EUR"
    assert price_of(TeacherSettings(model="gpt-4o-mini", prices=euro)) is None  # dollars are no euros


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models: []", "currency"),
        ("currency: USD", "models"),
        ("[", "YAML"),
        (ROWS.format("gpt"), "row 1"),
        (ROWS.format("{model: m, input: 1, output: 1, date: 2026-01-01}"), "source is missing"),
        (ROWS.format("{model: m, input: -1, output: 1, date: 2026-01-01, source: s}"), "input is -1"),
        (ROWS.format("{model: m, input: .nan, output: 1, date: 2026-01-01, source: s}"), "input is nan"),
        (ROWS.format("{model: m, input: x, output: 1, date: 2026-01-01, source: s}"), "input is 'x'"),
        (ROWS.format("{model: m, input: 1, output: 1, date: soon, source: s}"), "date is 'soon'"),
        (ROWS.format("{model: m, imput: 1}"), "unknown key 'imput'"),
        (ROWS.format("{model: m, input: 1, output: 1, batch: 50, date: 2026-01-01, source: s}"), "0.5"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_in_one_line(tmp_path, text, told):
    with pytest.raises(ConfigError, match=re.escape(told)) as error:
        load_prices(table(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_table_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"synthesize\.teacher\.prices: .*docs/synthesis\.md"):
        load_prices(str(tmp_path / "none.yaml"))


def test_the_way_out_is_a_row_that_can_be_copied(tmp_path):
    settings = TeacherSettings(model="my/model", base_url="http://localhost:8000/v1")
    told = how_to_add(settings)
    row = re.search(r"`(\{.*\})`", told)[1]
    own = table(tmp_path, f"currency: USD\nmodels:\n  - {row}")
    assert price_of(settings.model_copy(update={"prices": own})).cost(5, 5) == 0.0


@given(st.text(max_size=30), st.integers(0, 10**12), st.integers(0, 10**12))
def test_cost_is_linear_and_any_name_is_looked_up_without_error(model, prompt, completion):
    row = price("m", input=0.3, output=0.7)
    total = row.cost(prompt, 0) + row.cost(0, completion)
    assert row.cost(prompt, completion) == pytest.approx(total)
    found = find_price([row], model, OPENAI)
    assert found is None or model == "m" or re.fullmatch(r"m-[\d-]+", model)
