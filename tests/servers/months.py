"""Histories over many months in a PostgreSQL ledger, for tests of partitions and of pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from fluxai import Governor, Policy, Tool
from fluxai.core.windows import to_us
from fluxai.storage.postgres import PostgresStorage
from fluxai.testing import FakeClock

TABLES = ("events", "labels", "reservations")


def at(year: int, month: int, day: int = 1, hour: int = 0, minute: int = 0) -> datetime:
    """Return an instant, UTC."""
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


@contextmanager
def ledger(url: str, start: datetime) -> Iterator[tuple[Governor, FakeClock]]:
    """Open a ledger whose clock is moved by hand, with a tool at 10 cents a call."""
    clock = FakeClock(start)
    with Governor(PostgresStorage(url), clock=clock) as governor:
        # Those of the server's own clock would be among the old ones.
        with psycopg.connect(url, autocommit=True) as connection:
            for part in partitions(url) - {f"{table}_other" for table in TABLES}:
                connection.execute(sql.SQL("DROP TABLE fluxai.{}").format(sql.Identifier(part)))
        governor.tools.put(Tool(id="search", cost_per_unit="0.10"))
        yield governor, clock


def migrate(url: str) -> None:
    """Make a ledger."""
    with closing(PostgresStorage(url)) as storage:
        storage.migrate()


def limit(governor: Governor, value: str = "1000", **fields: Any) -> None:
    """Put a policy of the tenant `acme`."""
    governor.policies.put(Policy(**{"tenant_id": "acme", "limit_value": value, **fields}))


def spend(governor: Governor, **fields: Any) -> Any:
    """Reserve and settle a call; return its reservation."""
    held = governor.reserve(**{"tenant": "acme", "user": "ada", "tool": "search", **fields})
    assert held.allowed, held.message
    governor.settle(held)
    return held


def query(url: str, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
    """Read from the database directly."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement, values or None).fetchall()


def make_months(
    url: str, moment: datetime, *, zone: str = "UTC", patient: bool = True
) -> list[int]:
    """Make partitions as a session in a time zone would; return what each step said.

    Where somebody is in the way, such as the server's own vacuum, a step is tried again.
    """
    said: list[int] = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT set_config('timezone', %s, false)", (zone,))
        while not said or said[-1] == 1:
            row = connection.execute("SELECT fluxai.make_months(%s)", (to_us(moment),)).fetchone()
            assert row is not None
            if row[0] == -1 and patient:
                continue
            said.append(row[0])
    return said


def write_while_a_month_is_made(url: str, moment: datetime, write: Callable[[], object]) -> None:
    """Start to write while the month of the events is made, and make it while that waits."""
    with ThreadPoolExecutor() as pool, psycopg.connect(url) as connection:
        for _ in ("reservations", "labels"):
            connection.execute("SELECT fluxai.make_months(%s)", (to_us(moment),))
            connection.commit()
        connection.execute("SELECT fluxai.make_months(%s)", (to_us(moment),))
        written = pool.submit(write)
        while not query(
            url,
            "SELECT FROM pg_locks WHERE NOT granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())",
        ):
            assert not written.done()
        connection.commit()
        written.result()


def partitions(url: str) -> set[str]:
    """Name the partitions that there are."""
    return {
        name
        for (name,) in query(
            url,
            "SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid "
            "WHERE c.relkind = 'r' AND c.relnamespace = 'fluxai'::regnamespace",
        )
    }


def rows(url: str) -> list[Any]:
    """Return all that the ledger knows of events, labels and reservations."""
    return [
        query(url, "SELECT to_jsonb(e) FROM fluxai.events AS e ORDER BY seq"),
        query(url, "SELECT to_jsonb(l) FROM fluxai.labels AS l ORDER BY seq, label"),
        query(url, "SELECT to_jsonb(r) FROM fluxai.reservations AS r ORDER BY id"),
    ]


def count(url: str, table: str) -> int:
    """Count the rows of a table of the ledger."""
    statement = sql.SQL("SELECT count(*) FROM fluxai.{}").format(sql.Identifier(table))
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


def part_of(url: str, table: str, counted_us: int) -> str:
    """Name the partition that holds what was counted at an instant."""
    statement = sql.SQL("SELECT tableoid::regclass::text FROM fluxai.{} WHERE counted_us = %s")
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.format(sql.Identifier(table)), (counted_us,)).fetchone()
    assert row is not None
    return str(row[0])


def balances(governor: Governor) -> list[tuple[Any, ...]]:
    """Return every budget of `acme`, as figures."""
    return sorted(
        (one.policy_id, str(one.scope_id), one.limit_type, str(one.settled), str(one.reserved))
        for one in governor.budgets("acme", "ada")
    )


__all__ = [
    "TABLES",
    "at",
    "balances",
    "count",
    "ledger",
    "limit",
    "make_months",
    "migrate",
    "part_of",
    "partitions",
    "query",
    "rows",
    "spend",
]
