"""SQL in Athena's dialect, run: sqlglot reads it, DuckDB runs it over the tables' objects."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from tiered_cache.local._athena_tables import QueryFailed, Table, Tables, first_line
from tiered_cache.local._athena_text import Column, texts

if TYPE_CHECKING:
    from collections.abc import Sequence

# DuckDB's errors, most specific first, and the name under which Athena reports the like.
_REASONS: tuple[tuple[type[duckdb.Error], str], ...] = (
    (duckdb.ConversionException, "INVALID_CAST_ARGUMENT"),
    (duckdb.OutOfRangeException, "NUMERIC_VALUE_OUT_OF_RANGE"),
    (duckdb.CatalogException, "FUNCTION_NOT_FOUND"),
    (duckdb.BinderException, "SYNTAX_ERROR"),
    (duckdb.ParserException, "SYNTAX_ERROR"),
    (duckdb.InvalidInputException, "INVALID_FUNCTION_ARGUMENT"),
    (duckdb.Error, "GENERIC_INTERNAL_ERROR"),
)

_INSTANT = "timestamp with time zone"


class Result(NamedTuple):
    """What a statement gave: columns and rows of text (none for DDL), and the bytes of the objects it read."""

    columns: list[Column]
    rows: list[list[str | None]]
    scanned: int


class Statement:
    """One statement on its way; `cancel` may be called from any thread at any time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Keep the engine from beginning, or interrupt it."""
        with self._changed:
            self._cancelled = True
            if self._cursor is not None:
                threading.Thread(target=self._interrupt, daemon=True).start()

    def _interrupt(self) -> None:
        """Interrupt until the statement has ended: DuckDB forgets an interrupt that comes just before it begins."""
        with self._changed:
            while self._cursor is not None:
                self._cursor.interrupt()
                self._changed.wait(0.01)

    def hold(self, cursor: duckdb.DuckDBPyConnection | None) -> None:
        """Say which cursor to interrupt from now on. Raises QueryFailed where the statement is cancelled already."""
        with self._changed:
            self._cursor = None if self._cancelled else cursor
            self._changed.notify_all()
            if self._cancelled and cursor is not None:
                raise QueryFailed("QUERY_CANCELLED")


class Engine:
    """The catalogue of tables and the database that queries run in. Methods may be called from many threads."""

    def __init__(self, s3: Any) -> None:
        self._database = duckdb.connect(config={"integer_division": True})  # 5 / 2 is 2, as in Athena
        self._tables = Tables(s3, self._database)
        self._catalogue: dict[tuple[str, str], Table] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Free the database. No statement may be running."""
        self._database.close()

    def forget(self) -> None:
        """Forget every table's definition."""
        with self._lock:
            self._catalogue.clear()

    def run(self, sql: str, parameters: Sequence[str], schema: str, statement: Statement) -> Result:
        """Run one statement; names without a schema are in `schema`. Raises QueryFailed with Athena's reason."""
        tree = _parsed(_bound(sql, parameters))
        match tree:
            case exp.Create() | exp.Drop():
                self._define(tree, schema)
                return Result([], [], 0)
            case exp.Query() | exp.Values():
                return self._query(tree, schema, statement)
            case _:
                raise QueryFailed(f"NOT_SUPPORTED: {tree.key.upper()} statements are not served here")

    def _define(self, tree: exp.Create | exp.Drop, schema: str) -> None:
        kind = str(tree.args.get("kind")).upper()
        if kind in ("DATABASE", "SCHEMA"):
            return  # a database exists here as soon as it is named
        target = tree.find(exp.Table)
        if kind != "TABLE" or target is None:
            raise QueryFailed(f"NOT_SUPPORTED: {tree.key.upper()} {kind} is not served here")
        name = _name(target, schema)
        table = None if isinstance(tree, exp.Drop) else Table.from_ddl(tree)
        with self._lock:
            if table is None:
                if self._catalogue.pop(name, None) is None and not tree.args.get("exists"):
                    raise QueryFailed(f"FAILED: SemanticException Table not found {'.'.join(name)}")
            elif name not in self._catalogue:
                self._catalogue[name] = table
            elif not tree.args.get("exists"):
                raise QueryFailed(f"FAILED: Execution Error: AlreadyExistsException: Table {name[1]} already exists")

    def _query(self, tree: exp.Expr, schema: str, statement: Statement) -> Result:
        scanned = self._resolve(tree, schema)
        _name_columns(tree)
        with self._database.cursor() as cursor:
            statement.hold(cursor)
            try:
                columns, rows = _run(cursor, tree.sql("duckdb"))
            except duckdb.Error as error:
                reason = next(name for kind, name in _REASONS if isinstance(error, kind))
                raise QueryFailed(f"{reason}: {first_line(error)}") from error
            finally:
                statement.hold(None)
        if isinstance(tree, exp.Values):
            columns = [column._replace(name=f"_col{place}") for place, column in enumerate(columns)]
        return Result(columns, texts(columns, rows), scanned)

    def _resolve(self, tree: exp.Expr, schema: str) -> int:
        """Put the loaded tables in the place of the names, and say how many bytes their objects have."""
        common = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
        sizes: dict[Table, int] = {}
        for node in list(tree.find_all(exp.Table)):
            if not isinstance(node.this, exp.Identifier):
                raise QueryFailed(f"FUNCTION_NOT_FOUND: table function {node.this.sql('athena')} is not served here")
            if not node.db and node.name.lower() in common:
                continue
            name = _name(node, schema)
            with self._lock:
                table = self._catalogue.get(name)
            if table is None:
                where = ".".join(("awsdatacatalog", *name))
                raise QueryFailed(f"TABLE_NOT_FOUND: line 1:1: Table '{where}' does not exist")
            loaded, sizes[table] = self._tables.load(table)
            if not node.alias:
                node.set("alias", exp.TableAlias(this=exp.to_identifier(node.name, quoted=True)))
            node.set("this", exp.to_identifier(loaded))
            node.set("db", None)
            node.set("catalog", None)
        return sum(sizes.values())


def _parsed(sql: str) -> exp.Expr:
    try:
        trees = [tree for tree in sqlglot.parse(sql, read="athena") if tree is not None]
    except SqlglotError as error:
        raise QueryFailed(f"SYNTAX_ERROR: {first_line(error)}") from error
    if len(trees) != 1:
        raise QueryFailed("SYNTAX_ERROR: only one sql statement is allowed")
    if trees[0].find(exp.ReadCSV, exp.ReadParquet):
        raise QueryFailed("FUNCTION_NOT_FOUND: Athena reads no files by function")
    return trees[0]


def _bound(sql: str, parameters: Sequence[str]) -> str:
    """The query with the `?` of its text replaced one by one. Each parameter is the text of an SQL literal."""
    try:
        marks = [token for token in sqlglot.tokenize(sql, read="athena") if token.token_type.name == "PLACEHOLDER"]
    except SqlglotError as error:
        raise QueryFailed(f"SYNTAX_ERROR: {first_line(error)}") from error
    if len(marks) != len(parameters):
        count = f"expected {len(marks)} but found {len(parameters)}"
        raise QueryFailed(f"INVALID_PARAMETER_USAGE: line 1:1: Incorrect number of parameters: {count}")
    for mark, parameter in reversed(list(zip(marks, parameters, strict=True))):
        value = _single(_parsed(f"select {parameter}"))
        value = value if isinstance(value, exp.Literal) else exp.paren(value)
        sql = sql[: mark.start] + value.sql("athena") + sql[mark.end + 1 :]
    return sql


def _single(tree: exp.Expr) -> exp.Expr:
    """The one expression that the parameter's text is; with anything beside it the text could change the query."""
    if (
        not isinstance(tree, exp.Select)
        or len(tree.expressions) != 1
        or tree.args.get("from_")
        or tree.args.get("where")
    ):
        raise QueryFailed("INVALID_PARAMETER_USAGE: a parameter must be one SQL literal")
    value: exp.Expr = tree.expressions[0]
    return value


def _name_columns(tree: exp.Expr) -> None:
    """Name unnamed columns `_col0`, `_col1` and so on, by their place, as Athena does."""
    if not isinstance(tree, exp.Query):
        return
    for place, column in enumerate(tree.selects):
        if not (column.alias or column.is_star or isinstance(column, exp.Column | exp.Dot)):
            column.replace(exp.alias_(column.copy(), f"_col{place}", quoted=True))


def _name(node: exp.Table, schema: str) -> tuple[str, str]:
    return (node.db or schema).lower(), node.name.lower()


def _run(cursor: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[Column], list[Any]]:
    relation = cursor.sql(sql)  # bound, not yet run
    columns = [Column.of(name, str(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)]
    if any(column.type == _INSTANT for column in columns):  # DuckDB's own conversion wants a time zone library
        names = [f"c{place}" for place in range(len(columns))]
        chosen = [f"epoch_ms({n})" if c.type == _INSTANT else n for n, c in zip(names, columns, strict=True)]
        relation = cursor.sql(f"select {', '.join(chosen)} from ({sql}) as t({', '.join(names)})")
    return columns, relation.fetchall()
