"""The tables of the PostgreSQL schema for SQLAlchemy Core, for reports of your own.

    from sqlalchemy import func, select

    from fluxai.storage.tables import days

    spent = select(days.c.tenant, func.sum(days.c.cost)).group_by(days.c.tenant)
    with storage.engine.connect() as connection:  # a PostgresStorage
        for tenant, nanousd in connection.execute(spent):
            ...

They are for reading. What is written past the verbs of the ledger, its sums don't know of. The
migrations make the tables, and this only describes them: don't call `metadata.create_all`.

Amounts are integers: nano-USD (a billionth of a dollar) in `cost` and where `measure` is `cost`,
plain counts elsewhere. Columns that end in `_us` are microseconds since 1970, UTC.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    Sequence,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

#: All of it; every table is in the schema `fluxai`.
metadata: Final = MetaData(schema="fluxai")


def _required(name: str, kind: type[BigInteger | Text | JSONB | Boolean]) -> Column[Any]:
    return Column(name, kind, nullable=False)


#: Versions of the schema, and when this database got them.
migrations: Final = Table(
    "migrations",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

#: How often the rules of a tenant changed; `*` stands for those that concern every tenant.
versions: Final = Table(
    "versions",
    metadata,
    Column("tenant", Text, primary_key=True),
    _required("version", BigInteger),
)

#: Tenants, users, tools, models, policies and grants, as JSON.
records: Final = Table(
    "records",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    _required("body", JSONB),
    Column("place", BigInteger, Identity(always=True), nullable=False),
)

counter_ids: Final = Sequence("counter_ids", metadata=metadata)
#: Running accounts: what is settled and reserved in a window.
counters: Final = Table(
    "counters",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    _required("tenant", Text),
    _required("scope", Text),
    _required("value", Text),
    _required("measure", Text),
    _required("kind", Text),
    _required("start_us", BigInteger),
    _required("end_us", BigInteger),
    _required("settled", BigInteger),
    _required("reserved", BigInteger),
    Column("carried", BigInteger, nullable=False, server_default=text("0")),
    Column("head", BigInteger),
    UniqueConstraint("tenant", "scope", "value", "measure", "kind", "start_us"),
    Index("counters_by_end", "end_us"),
)

#: What was settled in each live bucket of a rolling window.
buckets: Final = Table(
    "buckets",
    metadata,
    Column("counter", BigInteger, primary_key=True, autoincrement=False),
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),
    _required("amount", BigInteger),
)

#: Limits and prices that reservations were judged by, each once.
plans: Final = Table(
    "plans",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    _required("candidates", Text),
)

#: Every reservation with its state and the numbers it was decided on. By month of its id.
reservations: Final = Table(
    "reservations",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("user", Text),
    _required("labels", JSONB),
    _required("requested_tool", Text),
    _required("tool", Text),
    Column("model", Text),
    _required("decision", Text),
    _required("state", Text),
    _required("counted_us", BigInteger),
    _required("expires_us", BigInteger),
    Column("resolved_us", BigInteger),
    _required("cost", BigInteger),
    _required("tokens", BigInteger),
    _required("requests", BigInteger),
    _required("concurrent", BigInteger),
    _required("output_tokens", BigInteger),
    _required("need", JSONB),
    _required("method", Text),
    Column("key", Text),
    Column("digest", Text),
    Column("exact", Text),
    Column("counters", ARRAY(BigInteger), nullable=False),
    Column("plan", BigInteger),
    _required("judged", Text),
    CheckConstraint(
        "state IN ('pending', 'reserved', 'settled', 'released', 'expired')",
        name="reservations_state_check",
    ),
    Index("reservations_by_key", "tenant", "key", postgresql_where=text("key IS NOT NULL")),
    Index(
        "reservations_open",
        "tenant",
        "expires_us",
        postgresql_where=text("state IN ('pending', 'reserved')"),
    ),
)

#: What was asked of a person, and the answers.
approvals: Final = Table(
    "approvals",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", UUID, primary_key=True),
    _required("state", Text),
    _required("requested_us", BigInteger),
    _required("expires_us", BigInteger),
    Column("decided_us", BigInteger),
    Column("decided_by", Text),
    Column("reason", Text),
    Column("claim", Text),
)

event_seq: Final = Sequence("event_seq", start=0, minvalue=0, metadata=metadata)
#: What was spent: append-only, the truth. By month of the time that it counts in.
events: Final = Table(
    "events",
    metadata,
    _required("seq", BigInteger),
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("reservation_id", UUID),
    _required("at_us", BigInteger),
    Column("counted_us", BigInteger, primary_key=True, autoincrement=False),
    Column("user", Text),
    _required("tool", Text),
    Column("model", Text),
    _required("cost", BigInteger),
    _required("tokens", BigInteger),
    _required("requests", BigInteger),
    Column("usage", JSONB),
    _required("labels", JSONB),
    _required("decision", Text),
    _required("flags", JSONB),
    Column("price_version", Text),
    _required("outcome", Text),
    Column("corrects", Text),
    Column("note", Text),
    Index("events_by_seq", "seq"),
    Index("events_by_tenant", "tenant", "seq"),
    Index("events_by_time", "tenant", "counted_us"),
    Index(
        "events_by_user",
        "tenant",
        "user",
        "counted_us",
        postgresql_where=text('"user" IS NOT NULL'),
    ),
)

#: Which events carry a label, as `key=value`. By month.
labels: Final = Table(
    "labels",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("label", Text, primary_key=True),
    Column("counted_us", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    _required("cost", BigInteger),
    _required("tokens", BigInteger),
    _required("requests", BigInteger),
)

#: Sums of events per UTC day, as days since 1970.
days: Final = Table(
    "days",
    metadata,
    _required("tenant", Text),
    _required("day", BigInteger),
    Column("user", Text),
    _required("tool", Text),
    Column("model", Text),
    _required("cost", BigInteger),
    _required("tokens", BigInteger),
    _required("requests", BigInteger),
    _required("events", BigInteger),
    Index(
        "days_by_what",
        "tenant",
        "day",
        "user",
        "tool",
        "model",
        unique=True,
        postgresql_nulls_not_distinct=True,
    ),
    Index("days_by_user", "tenant", "user", "day", postgresql_where=text('"user" IS NOT NULL')),
)

#: Shares of limits that were announced, once per window, policy and share.
alerts: Final = Table(
    "alerts",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    _required("tenant", Text),
    _required("scope", Text),
    _required("value", Text),
    _required("measure", Text),
    _required("kind", Text),
    _required("start_us", BigInteger),
    _required("policy_id", Text),
    _required("share", Text),
    _required("limit", BigInteger),
    _required("committed", BigInteger),
    _required("at_us", BigInteger),
    UniqueConstraint(
        "tenant", "scope", "value", "measure", "kind", "start_us", "policy_id", "share"
    ),
)

#: What was pruned: ids and times up to here may have been used, and are remembered no more.
horizon: Final = Table(
    "horizon",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    _required("counted_us", BigInteger),
    CheckConstraint("one", name="horizon_one_check"),
)
