"""What is checked before Athena is asked, and how its text becomes values."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from tiered_cache._errors import ConfigurationError, LoadTimeout, OriginMalformed, SizeLimitExceeded
from tiered_cache.adapters._athena_rows import Column, cells_of_csv, columns, in_time, rows
from tiered_cache.adapters._athena_sql import checked, literals
from tiered_cache.adapters._boto import Call

CALL = Call("GetQueryResults", "workgroup 'primary'")


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("SELECT 1", 0),
        ("select ? from t where a = ?", 2),
        ("SELECT '?', '''?', \"?\", ? -- ?\n/* ? */", 1),
        ("(SELECT ?) UNION (SELECT ?)", 2),
        ("-- a comment first\n/* and another */ WITH x AS (SELECT 1) SELECT * FROM x", 0),
        ("VALUES (?, ?)", 2),
        ("SHOW TABLES", 0),
        ("describe t", 0),
        ("EXPLAIN SELECT 1", 0),
    ],
)
def test_placeholders_are_counted_outside_of_quotes_and_comments(sql: str, count: int) -> None:
    """A question mark in a text, a name or a comment is no placeholder."""
    assert checked(sql) == count


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "  \n",
        "DROP TABLE t",
        "INSERT INTO t SELECT 1",
        "-- SELECT\nDELETE FROM t",
        "SELECTED",
        "'SELECT'",
        "x" * 262_145,
        "SELECT '" + "ü" * 131_072 + "'",
    ],
    ids=["empty", "blank", "drop", "insert", "comment", "longer word", "text", "too long", "too many bytes"],
)
def test_a_statement_that_does_not_read_is_refused(sql: str) -> None:
    """Empty, too long, and writing statements are refused before anything is sent, without the SQL in the text."""
    with pytest.raises(ConfigurationError, match=r"^sql must") as caught:
        checked(sql)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("it's", "'it''s'"),
        ("", "''"),
        (7, "7"),
        (True, "TRUE"),
        (None, "NULL"),
        (Decimal("1.50"), "DECIMAL '1.50'"),
        (Decimal("1E+3"), "DECIMAL '1000'"),
        (0.1, "0.1E0"),
        (1e300, "1e+300"),
        (date(2026, 1, 31), "DATE '2026-01-31'"),
        (datetime.fromisoformat("2026-01-31 08:00:00.000005"), "TIMESTAMP '2026-01-31 08:00:00.000005'"),
        (datetime(2026, 1, 31, 8, tzinfo=timezone(timedelta(hours=1))), "TIMESTAMP '2026-01-31 07:00:00 UTC'"),
        (b"hi", "X'6869'"),
    ],
)
def test_a_value_becomes_the_literal_of_its_type(value: object, literal: str) -> None:
    """Each Python type has one literal; a zoned time is written in UTC, a float as a double."""
    assert literals("SELECT ?", (value,)) == (literal,)


@given(st.text(max_size=400))
def test_no_text_can_leave_its_quotes(text: str) -> None:
    """Whatever a text holds, SQL reads its literal as one string equal to it."""
    (literal,) = literals("SELECT ?", [text])
    assert literal[1:-1].replace("''", "") == text.replace("'", "")
    if "\x00" not in text:
        parsed = sqlglot.parse_one(f"SELECT {literal}", read="athena").selects[0]
        assert parsed.is_string
        assert parsed.this == text


@pytest.mark.parametrize(
    ("parameters", "kind", "said"),
    [
        ((), ConfigurationError, "1 placeholders"),
        ((1, 2), ConfigurationError, "2 parameters"),
        ((float("nan"),), ConfigurationError, "finite"),
        ((Decimal("Infinity"),), ConfigurationError, "finite"),
        (("x" * 1023,), ConfigurationError, "1024 characters"),
        (([1],), TypeError, "list"),
        ("a", TypeError, "tuple or list"),
        ({"a": 1}, TypeError, "tuple or list"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters: Any, kind: type[Exception], said: str) -> None:
    """Too few, too many, too long, or of a type without a literal: refused with the place."""
    with pytest.raises(kind, match=said):
        literals("SELECT ?", parameters)


def test_null_and_the_empty_string_are_two_things() -> None:
    """Nothing between commas is NULL, two quotes are an empty string; quotes, commas and line ends may be inside."""
    text = '"a","b","c"\n,"",\n"x ""y"", z","line\nend",\r\n'
    assert list(cells_of_csv(text, CALL)) == [["a", "b", "c"], [None, "", None], ['x "y", z', "line\nend", None]]


cells = st.lists(st.lists(st.none() | st.text(), min_size=1, max_size=4), max_size=5)


@given(cells)
def test_what_is_written_in_athenas_csv_is_read_back(table: list[list[str | None]]) -> None:
    """Any table of texts and NULLs survives Athena's quoting."""
    lines = [",".join("" if cell is None else '"' + cell.replace('"', '""') + '"' for cell in row) for row in table]
    assert list(cells_of_csv("".join(f"{line}\n" for line in lines), CALL)) == table


@pytest.mark.parametrize("text", ['"a', '"a"', '"a",', '"a"\nb\n', '"a"x\n', "<html>\n", '"a"\n"b'])
def test_a_file_that_is_cut_or_foreign_is_malformed(text: str) -> None:
    """A result without its last line end, or with bare text, is not taken for one."""
    with pytest.raises(OriginMalformed):
        list(cells_of_csv(text, CALL))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("tinyint", "-1", -1),
        ("smallint", "2", 2),
        ("integer", "3", 3),
        ("bigint", "9223372036854775807", 2**63 - 1),
        ("double", "0.1", 0.1),
        ("float", "-Infinity", float("-inf")),
        ("decimal", "1.50", Decimal("1.50")),
        ("boolean", "true", True),
        ("boolean", "false", False),
        ("date", "2026-01-31", date(2026, 1, 31)),
        ("time", "08:00:00.500", time(8, 0, 0, 500_000)),
        ("timestamp", "2026-01-31 08:00:00.123", datetime.fromisoformat("2026-01-31 08:00:00.123")),
        ("timestamp with time zone", "2026-01-31 08:00:00.000 UTC", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("timestamp with time zone", "2026-01-31 08:00:00.000 -05:30", datetime(2026, 1, 31, 13, 30, tzinfo=UTC)),
        (
            "timestamp with time zone",
            "2026-07-31 08:00:00 Europe/Berlin",
            datetime(2026, 7, 31, 8, tzinfo=ZoneInfo("Europe/Berlin")),
        ),
        ("varbinary", "68 69", b"hi"),
        ("varchar", "", ""),
        ("char", "a ", "a "),
        ("json", '{"a":1}', '{"a":1}'),
        ("array", "[1, 2]", "[1, 2]"),
        ("map", "{a=1}", "{a=1}"),
        ("row", "{a=1}", "{a=1}"),
        ("uuid", "u", "u"),
    ],
)
def test_a_cell_becomes_its_columns_type(kind: str, text: str, value: object) -> None:
    """Each type of Athena has one Python type, and NULL is None in all of them."""
    found = rows([Column("a", kind)], [[text], [None]], 10, CALL)
    assert found == [{"a": value}, {"a": None}]
    assert type(found[0]["a"]) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bigint", "secret"),
        ("boolean", "yes"),
        ("date", "10000-01-01"),
        ("decimal", "x"),
        ("timestamp with time zone", "2026-01-31 08:00:00 Mars/Base"),
        ("varbinary", "zz"),
    ],
)
def test_a_cell_that_is_not_of_its_type_is_malformed(kind: str, text: str) -> None:
    """The error tells the row and not the value."""
    with pytest.raises(OriginMalformed, match="row 1") as caught:
        rows([Column("a", kind)], [[text]], 10, CALL)
    assert text not in str(caught.value)


def test_rows_have_limits_and_whole_width() -> None:
    """More rows than allowed, and rows of another width, are refused."""
    with pytest.raises(SizeLimitExceeded, match="more than 1 rows"):
        rows([Column("a", "varchar")], [["1"], ["2"]], 1, CALL)
    with pytest.raises(OriginMalformed, match="1 values for 2 columns"):
        rows([Column("a", "varchar"), Column("b", "varchar")], [["1"]], 9, CALL)


def test_the_time_is_looked_at_after_each_thousand_rows() -> None:
    """A load that is up to it gives all of them, and one whose time is up ends there."""
    table: list[list[str | None]] = [[str(number)] for number in range(2500)]
    assert list(in_time(table, lambda: None, CALL)) == list(in_time(table, lambda: 0.1, CALL)) == table
    left = iter((1.0, 0.0))
    taken = iter(table)
    with pytest.raises(LoadTimeout, match="time was up after 2000 rows"):
        list(in_time(taken, lambda: next(left), CALL))
    assert next(taken) == ["2000"]


def test_columns_that_share_a_name_are_refused() -> None:
    """A dict cannot hold two columns of one name, so the query must name them apart."""
    described = {"ResultSetMetadata": {"ColumnInfo": [{"Name": "a", "Type": "varchar(3)"}] * 2}}
    with pytest.raises(ConfigurationError, match="two columns are named 'a'"):
        columns(described, CALL)
    with pytest.raises(OriginMalformed):
        columns({}, CALL)
