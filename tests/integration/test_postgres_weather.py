"""Bad weather: a clear error, or a correct wait, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from fluxai import Governor, StorageError
from fluxai.core.clock import SystemClock
from fluxai.core.errors import ConfigurationError
from fluxai.storage.postgres import PostgresStorage
from fluxai.storage.statements import load_migrations
from tests.integration.ledger_worker import TENANT, TOOL, prepare
from tests.servers.postgres import Databases, PostgresServer
from tests.servers.tcp_proxy import TcpProxy
from tests.unit.storage.making import CENT, NOON_US, USD, Limit, Maker, plan_for

PLAN = plan_for([Limit(amount=USD)])
OpenStore = Callable[..., PostgresStorage]


def run(url: str, *statements: str) -> None:
    """Run SQL as the administrator."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def refusal(store: PostgresStorage) -> str:
    """Open a store that can't be opened, and return what it says."""
    with pytest.raises(StorageError) as caught:
        store.migrate()
    return str(caught.value)


def test_a_wrong_password_is_said_at_once_and_never_shown(
    postgres_url: str, open_store: OpenStore
) -> None:
    """The error names the server and the user, not the password, and nothing is tried again."""
    url = make_url(postgres_url).set(password="not-this-one")
    store = open_store(url.render_as_string(hide_password=False))
    said = refusal(store)
    assert "password authentication failed" in said
    assert "not-this-one" not in said
    assert store.retries == 0


def test_a_database_that_is_not_there_is_said_at_once(
    postgres_url: str, open_store: OpenStore
) -> None:
    """The error says which one."""
    store = open_store(
        make_url(postgres_url).set(database="nowhere").render_as_string(hide_password=False)
    )
    assert 'database "nowhere" does not exist' in refusal(store)
    assert store.retries == 0


def test_a_role_without_rights_is_told_what_it_needs(
    ledger_url: str, postgres_server: Databases, open_store: OpenStore
) -> None:
    """Who may log in and no more is refused, with a hint."""
    run(ledger_url, "DROP ROLE IF EXISTS fluxai_test_guest")
    run(ledger_url, "CREATE ROLE fluxai_test_guest LOGIN PASSWORD 'guest'")
    url = make_url(ledger_url).set(username="fluxai_test_guest", password="guest")
    try:
        store = open_store(url.render_as_string(hide_password=False))
        assert "needs rights to the schema fluxai" in refusal(store)
    finally:
        run(ledger_url, "DROP ROLE fluxai_test_guest")


def test_a_newer_schema_is_refused(ledger_url: str, postgres_store: PostgresStorage) -> None:
    """An old library does not write into what it does not know."""
    run(ledger_url, "INSERT INTO fluxai.migrations (version) VALUES (999)")
    assert "upgrade fluxai" in refusal(postgres_store)


@pytest.mark.parametrize("missing", ["TABLE fluxai.days", "FUNCTION fluxai.lock_tenants"])
def test_a_schema_with_a_hole_is_said_to_be_incomplete(
    ledger_url: str, postgres_store: PostgresStorage, missing: str
) -> None:
    """What is missing is named, nothing is acknowledged, and no transaction stays open."""
    run(ledger_url, f"DROP {missing} CASCADE")
    with pytest.raises(StorageError, match="not complete: run fluxai db migrate"):
        postgres_store.resolve_one(Maker().record(PLAN, "event"))
    assert postgres_store.events() == []


def test_what_a_migration_left_half_done_is_finished(
    ledger_url: str, open_store: OpenStore
) -> None:
    """A database at an older version is brought up to date by the next that opens it."""
    run(ledger_url, "DROP SCHEMA fluxai CASCADE", "DROP SCHEMA fluxai_api CASCADE")
    store = open_store()
    with store._pool.connection() as connection:
        scripts = load_migrations("postgres")
        with connection.transaction():
            connection.execute(scripts[1])
            connection.execute("INSERT INTO fluxai.migrations (version) VALUES (1)")
    store.migrate()
    store.resolve_one(Maker().record(PLAN, "event"))
    assert store.verify().ok


FAIL_FIRST = """
CREATE SEQUENCE public.failures;
CREATE FUNCTION public.fail_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.failures') <= 3 THEN
        RAISE EXCEPTION 'try again' USING ERRCODE = '{code}';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fail_first BEFORE INSERT ON fluxai.{table} FOR EACH ROW
EXECUTE FUNCTION public.fail_first()
"""


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03", "57014", "25006"])
def test_a_transaction_that_the_server_gave_up_is_tried_again(
    ledger_url: str, postgres_store: PostgresStorage, code: str
) -> None:
    """Serialisation failures, deadlocks and time-outs cost tries, and no cent."""
    maker = Maker()
    run(ledger_url, FAIL_FIRST.format(code=code, table="reservations"))
    held: Any = postgres_store.reserve_one(maker.ask(PLAN, 5 * CENT))
    assert (held.state, postgres_store.retries) == ("reserved", 3)
    run(
        ledger_url,
        "DROP TRIGGER fail_first ON fluxai.reservations; DROP FUNCTION public.fail_first; "
        "DROP SEQUENCE public.failures",
        FAIL_FIRST.format(code=code, table="days"),
    )
    postgres_store.resolve_one(maker.settle(held, 3 * CENT))
    assert postgres_store.retries == 6
    (balance,) = postgres_store.balances(PLAN.first.keys, NOON_US)
    assert (balance.settled, balance.reserved) == (3 * CENT, 0)
    assert postgres_store.verify().ok


def test_a_server_that_defaults_to_snapshots_decides_no_differently(
    ledger_url: str, open_store: OpenStore
) -> None:
    """Locks are waited for before anything is read, whatever isolation the database prefers."""
    name = make_url(ledger_url).database
    run(ledger_url, f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    maker, store = Maker(), open_store()
    with store._pool.connection() as connection:
        found = connection.execute("SHOW transaction_isolation").fetchone()
    assert found == ("read committed",)
    assert getattr(store.reserve_one(maker.ask(PLAN)), "state", None) == "reserved"


def test_an_exhausted_pool_is_said_to_be_one(open_store: OpenStore) -> None:
    """Who waits too long for a connection is told what to change; later calls go through."""
    store = open_store(pool_size=1, pool_timeout_s=0.05, patience_s=0.1)
    with store._pool.connection(), pytest.raises(StorageError, match="raise pool_size"):
        store.version("acme")
    assert store.version("acme") == (0, 0)


def test_a_settlement_with_the_server_gone_is_spooled_and_replayed(
    postgres_url: str, postgres_proxy: TcpProxy, tmp_path: Path
) -> None:
    """The money is on disk when the store can't be reached, and in the ledger when it can."""
    store = PostgresStorage(postgres_proxy.through(postgres_url), patience_s=0.1)
    with Governor(store, spool=tmp_path / "spool") as governor:
        prepare(governor, "5")
        held = governor.reserve(tenant=TENANT, tool=TOOL)
        postgres_proxy.stop_accepting()
        postgres_proxy.cut()
        with pytest.raises(StorageError) as caught:
            governor.settle(held, cost="0.07")
        assert caught.value.spooled
        postgres_proxy.heal()
        assert governor.replay_spool() == 1
        assert [event.cost for event in governor.events()] == [Decimal("0.07")]
        assert governor.settle(held, cost="0.07").cost == Decimal("0.07")
        (budget,) = governor.budgets(TENANT)
        assert (budget.settled, budget.reserved) == (Decimal("0.07"), 0)
        assert governor.verify().ok


class Ahead(SystemClock):
    """A clock that is seven minutes off."""

    def now(self) -> datetime:
        """Return the wrong time."""
        return super().now() + timedelta(minutes=7)


def test_clocks_minutes_apart_count_by_the_stores(postgres_url: str) -> None:
    """A process whose clock is wrong reserves and expires by the database's clock."""
    with Governor(postgres_url) as right, Governor(postgres_url, clock=Ahead()) as wrong:
        prepare(right, "5")
        held = right.reserve(tenant=TENANT, tool=TOOL, ttl="5m")
        other = wrong.reserve(tenant=TENANT, tool=TOOL, ttl="5m")
        assert wrong.expire().released == 0
        assert abs(other.expires_at - held.expires_at) < timedelta(minutes=1)
        assert abs(other.expires_at - datetime.now(UTC)) < timedelta(minutes=6)
        for one in (held, other):
            assert wrong.settle(one, cost="0.01").cost == Decimal("0.01")
        assert [one.settled for one in wrong.budgets(TENANT)] == [Decimal("0.02")]


def test_a_url_of_another_scheme_is_refused() -> None:
    """What is no PostgreSQL URL is a mistake in the configuration."""
    with pytest.raises(ConfigurationError, match="no scheme of PostgreSQL"):
        PostgresStorage("mysql://localhost/x")


def test_a_server_that_restarts_is_waited_for(
    stoppable_postgres: PostgresServer, ledger_url: str, open_store: OpenStore
) -> None:
    """Connections that a restart has cut cost tries; what was held is still held."""
    maker, store = Maker(), open_store()
    held: Any = store.reserve_one(maker.ask(PLAN))
    stoppable_postgres.restart("immediate")
    store.resolve_one(maker.settle(held, 2 * CENT))
    (balance,) = store.balances(PLAN.first.keys, NOON_US)
    assert (balance.settled, balance.reserved) == (2 * CENT, 0)
    assert store.verify().ok
