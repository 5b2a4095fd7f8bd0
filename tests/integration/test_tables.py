"""The tables that SQLAlchemy is told of are those that the migrations make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from fluxai import Governor, Tool
from fluxai.storage.postgres import PostgresStorage
from fluxai.storage.tables import days, events, metadata
from tests.servers.ledger import Ledger
from tests.servers.postgres import Databases

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


@pytest.fixture
def described(postgres_server: Databases) -> Iterator[str]:
    """Return a database whose tables were made from the description, without any migration."""
    url = postgres_server.create_database()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema("fluxai"))
        metadata.create_all(connection)
    engine.dispose()
    yield url
    postgres_server.drop_database(url)


#: What is not compared: partitions, and what partitioning and storage parameters say of a table.
_COLUMNS = """
    SELECT c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
        a.attidentity::text, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'fluxai'::regnamespace AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY 1, 3
"""
_INDEXES = """
    SELECT c.relname, i.relname, regexp_replace(regexp_replace(pg_get_indexdef(i.oid),
        ' ON ONLY ', ' ON '), ' WITH \\(.*?\\)', '')
    FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
    JOIN pg_class AS c ON c.oid = x.indrelid
    WHERE c.relnamespace = 'fluxai'::regnamespace AND NOT c.relispartition ORDER BY 1, 2
"""
_CONSTRAINTS = """
    SELECT c.relname, o.conname, o.contype::text, pg_get_constraintdef(o.oid)
    FROM pg_constraint AS o JOIN pg_class AS c ON c.oid = o.conrelid
    WHERE c.relnamespace = 'fluxai'::regnamespace AND NOT c.relispartition
    ORDER BY 1, 2
"""
_SEQUENCES = """
    SELECT sequencename, data_type::text, start_value, min_value, max_value, increment_by
    FROM pg_sequences WHERE schemaname = 'fluxai' ORDER BY 1
"""


def found(url: str, query: str) -> list[Any]:
    """Ask the catalogue of a database."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.exec_driver_sql(query)]
    engine.dispose()
    return rows


@pytest.mark.parametrize(
    "query",
    [_COLUMNS, _INDEXES, _CONSTRAINTS, _SEQUENCES],
    ids=["columns", "indexes", "constraints", "sequences"],
)
def test_the_description_makes_what_the_migrations_make(
    described: str, ledger: Ledger, query: str
) -> None:
    """Columns with types, nulls and defaults; keys, checks and indexes; sequences."""
    migrated = found(ledger.url, query)
    assert migrated
    assert found(described, query) == migrated


def test_every_table_can_be_read_through_its_description(ledger: Ledger) -> None:
    """SQLAlchemy sees the same tables in the database, and selects each of them whole."""
    storage = PostgresStorage(ledger.url)
    seen = {
        name
        for name in sa.inspect(storage.engine).get_table_names(schema="fluxai")
        if not name.endswith("_other") and not name[-7:].replace("_", "").isdigit()
    }
    assert seen == {table.name for table in metadata.tables.values()}
    with storage.engine.connect() as connection:
        for table in metadata.sorted_tables:
            connection.execute(sa.select(table)).all()
            assert f"fluxai.{table.name}" in str(CreateTable(table).compile(dialect=DIALECT))
    storage.close()


def test_a_report_of_ones_own(ledger: Ledger) -> None:
    """Sums of days and single events are there to be selected, in nano-USD."""
    storage = PostgresStorage(ledger.url)
    with Governor(storage) as governor:
        governor.tools.put(Tool(id="dime", cost_per_unit="0.10"))
        for user in ("ann", "ann", "bob"):
            governor.settle(governor.reserve(tenant="acme", tool="dime", user=user))
        spent = (
            sa.select(days.c.user, sa.func.sum(days.c.cost))
            .where(days.c.tenant == "acme")
            .group_by(days.c.user)
            .order_by(days.c.user)
        )
        with storage.engine.connect() as connection:
            assert connection.execute(spent).all() == [("ann", 200_000_000), ("bob", 100_000_000)]
            tools = connection.execute(sa.select(events.c.tool, events.c.labels)).all()
        assert tools == [("dime", {})] * 3


def test_connections_wait_for_no_compiler(ledger: Ledger) -> None:
    """Plans that may not read whole tables look dear, and would be compiled each time."""
    storage = PostgresStorage(ledger.url)
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW jit").scalar() == "off"
    storage.close()
