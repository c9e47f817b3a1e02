# SPDX-License-Identifier: Apache-2.0
"""The schema and every statement of a unit of work keep to what a Citus cluster can do."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pglast import ast, parse_sql
from pglast.visitors import Visitor

from services.ledger.adapters import chains, condition, invariants, reader, retention, statements

ROOT = Path(__file__).parents[4]
LEDGER = ROOT / "services" / "ledger"
KEY = ("bucket", "account_id")

UNITS = {
    name: value
    for name, value in vars(statements).items()
    if isinstance(value, statements.Statement)
}
COPIES = {
    name: value for name, value in vars(statements).items() if isinstance(value, statements.Copied)
}
READS = {
    "CREATE_ACCOUNT": statements.CREATE_ACCOUNT,
    **{name: getattr(chains, name) for name in ("HEADS", "HEAD_SEQUENCE", "ADD_LINKS", "CHAINED")},
    **{
        name: getattr(reader, name) for name in ("_ATTEMPTS", "_REQUESTS", "_SETTLEMENTS", "_USAGE")
    },
}
FORGETTING = {
    "FORGET_LOCK": retention.LOCK,
    "STILL_OLD": retention.STILL_OLD,
    **{f"FORGET_REQUESTS_{n}": text for n, text in enumerate(retention.FORGET_REQUESTS)},
    "FORGET_OPERATIONS": retention.FORGET_OPERATIONS,
    "SET_RETAINED": retention.SET_RETAINED,
}
HOT = {**{name: unit.one_bucket for name, unit in UNITS.items()}, **READS, **FORGETTING}

# Of all shards at once: behind the requests, and without a lock.
COLD = {
    "LAPSED_RUNS": statements.LAPSED_RUNS,
    "OLD_REQUESTS": retention.OLD_REQUESTS,
    "OLD_OPERATIONS": retention.OLD_OPERATIONS,
    "OPEN_HOLDS": condition.OPEN_HOLDS,
    "STRAYS": invariants.STRAYS.query,
    **{invariant.name: invariant.query for invariant in invariants.INVARIANTS},
}


def migration() -> ModuleType:
    """Load the first migration, whose file name is no identifier."""
    path = LEDGER / "migrations" / "versions" / "0001_initial.py"
    spec = importlib.util.spec_from_file_location("initial", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DDL = {
    name: value
    for name, value in vars(migration()).items()
    if isinstance(value, str) and re.match(r"\s*CREATE (TABLE|UNIQUE INDEX|INDEX)", value)
}


class Sources(Visitor):
    """Collects the tables of a statement and what fixes their bucket."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, str] = {}
        self.fixed: set[str] = set()
        self.equal: list[tuple[str, str]] = []
        self.functions: set[str] = set()
        self.locks = False

    def visit_RangeVar(self, _ancestors: Any, node: Any) -> None:  # noqa: N802 - the parser's name
        """A table."""
        alias = node.alias.aliasname if node.alias else node.relname
        self.tables[alias] = node.relname

    def visit_A_Expr(self, _ancestors: Any, node: Any) -> None:  # noqa: N802
        """A comparison: of a bucket with $1, or with another table's bucket."""
        if node.name[0].sval != "=":
            return
        left, right = _bucket(node.lexpr), _bucket(node.rexpr)
        if left is not None and _is_first_parameter(node.rexpr):
            self.fixed.add(left)
        if left is not None and right is not None:
            self.equal.append((left, right))

    def visit_FuncCall(self, _ancestors: Any, node: Any) -> None:  # noqa: N802
        """A function."""
        self.functions.add(node.funcname[-1].sval)

    def visit_LockingClause(self, _ancestors: Any, _node: Any) -> None:  # noqa: N802
        """A row lock."""
        self.locks = True

    def unfixed(self) -> set[str]:
        """Return tables whose bucket is not $1, directly or by another's."""
        fixed = set(self.fixed)
        if "" in fixed:
            fixed |= set(self.tables)
        for _ in self.equal:
            for left, right in self.equal:
                if left in fixed or right in fixed:
                    fixed |= {left, right}
        return set(self.tables) - fixed

    def apart(self) -> set[str]:
        """Return tables beside others whose bucket is not that of any of them."""
        together = {name for pair in self.equal for name in pair}
        return set(self.tables) - together if len(self.tables) > 1 else set()


def _bucket(node: Any) -> str | None:
    """Return the table of a column named bucket, empty for the only one; None for others."""
    if not isinstance(node, ast.ColumnRef) or getattr(node.fields[-1], "sval", "") != "bucket":
        return None
    return node.fields[0].sval if len(node.fields) > 1 else ""


def _is_first_parameter(node: Any) -> bool:
    if isinstance(node, ast.TypeCast):
        node = node.arg
    return isinstance(node, ast.ParamRef) and node.number == 1


def parsed(text: str) -> Any:
    """Parse one statement."""
    (raw,) = parse_sql(text)
    return raw.stmt


def visited(statement: Any) -> Sources:
    """Collect what a statement touches."""
    sources = Sources()
    sources(statement)
    return sources


@pytest.mark.requirement("O8")
class TestStatements:
    @pytest.mark.parametrize("name", HOT)
    def test_a_hot_statement_stays_on_one_bucket(self, name: str) -> None:
        statement = parsed(HOT[name])
        sources = visited(statement)
        if isinstance(statement, ast.InsertStmt):
            columns = tuple(column.name for column in statement.cols[:2])
            assert columns == KEY
            assert _is_first_parameter(statement.selectStmt.targetList[0].val)
            assert set(sources.tables) == {statement.relation.relname}
        else:
            assert sources.unfixed() == set()

    @pytest.mark.parametrize("name", HOT)
    def test_no_statement_takes_an_advisory_lock_or_a_sequence(self, name: str) -> None:
        functions = visited(parsed(HOT[name])).functions
        assert not [f for f in functions if "advisory" in f or f in {"nextval", "setval"}]

    def test_only_the_accounts_of_a_unit_are_locked_and_in_one_order(self) -> None:
        locking = {name for name, text in HOT.items() if visited(parsed(text)).locks}
        assert locking == {"LOCK_ACCOUNTS", "FORGET_LOCK"}
        (locked,) = parsed(HOT["LOCK_ACCOUNTS"]).fromClause
        order = [key.node.fields[-1].sval for key in locked.subquery.sortClause]
        assert tuple(order) == KEY

    @pytest.mark.parametrize("name", UNITS)
    def test_both_texts_of_a_statement_touch_the_same_tables(self, name: str) -> None:
        one, many = parsed(UNITS[name].one_bucket), parsed(UNITS[name].many_buckets)
        assert visited(one).tables == visited(many).tables
        assert visited(one).functions == visited(many).functions

    @pytest.mark.parametrize("name", COPIES)
    def test_copied_rows_carry_their_bucket_and_account(self, name: str) -> None:
        assert COPIES[name].columns[:2] == KEY

    @pytest.mark.parametrize("name", COLD)
    def test_what_asks_all_shards_locks_nothing_and_joins_within_a_bucket(self, name: str) -> None:
        sources = visited(parsed(COLD[name]))
        assert not sources.locks
        assert not [f for f in sources.functions if "advisory" in f]
        assert sources.apart() == set()

    def test_no_statement_under_an_accounts_lock_sums_rows(self) -> None:
        sums = {"sum", "count", "avg", "array_agg"}
        assert {name for name in HOT if visited(parsed(HOT[name])).functions & sums} == set()

    def test_a_bucket_that_is_not_fixed_is_found(self) -> None:
        text = "SELECT 1 FROM a JOIN b ON a.x = b.x WHERE a.bucket = $1"
        assert visited(parsed(text)).unfixed() == {"b"}


def constraints(table: Any) -> Iterator[Any]:
    """Yield a table's own constraints and those of its columns."""
    for element in table.tableElts:
        if isinstance(element, ast.Constraint):
            yield element
        else:
            yield from element.constraints or ()


@pytest.mark.requirement("O8")
class TestSchema:
    @pytest.mark.parametrize("name", DDL)
    def test_every_key_begins_with_bucket_and_account(self, name: str) -> None:
        statement = parsed(DDL[name])
        if isinstance(statement, ast.IndexStmt):
            # Any other index is each shard's own.
            assert (
                not statement.unique
                or tuple(part.name for part in statement.indexParams[:2]) == KEY
            )
            return
        keys = 0
        for constraint in constraints(statement):
            columns = constraint.keys or constraint.fk_attrs
            if columns is not None:
                keys += constraint.keys is not None
                assert tuple(column.sval for column in columns[:2]) == KEY
        assert keys >= 1

    @pytest.mark.parametrize("name", DDL)
    def test_no_column_counts_by_a_sequence(self, name: str) -> None:
        assert not re.search(
            r"\b(small|big)?serial\b|nextval|AS IDENTITY", DDL[name], re.IGNORECASE
        )

    def test_every_table_is_distributed_beside_accounts(self) -> None:
        tables = {
            statement.relation.relname
            for statement in map(parsed, DDL.values())
            if isinstance(statement, ast.CreateStmt)
        }
        script = (ROOT / "deploy" / "citus" / "distribute.sql").read_text()
        assert parse_sql(script)
        spread = re.findall(r"create_distributed_table\('(\w+)', 'bucket', (.*)\)", script)
        assert spread[0][0] == "accounts"
        assert {name for name, _ in spread} == tables
        assert {place for _, place in spread[1:]} == {"colocate_with => 'accounts'"}

    def test_nothing_in_the_ledger_takes_an_advisory_lock(self) -> None:
        for path in LEDGER.rglob("*.py"):
            assert "pg_advisory" not in path.read_text(), path
