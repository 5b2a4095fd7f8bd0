"""PostgreSQL: `fluxai db` on a real server, and migrations that run while others write."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType

import psycopg
import pytest
from sqlalchemy.engine import make_url

from fluxai import StorageError
from fluxai.storage import functions, postgres
from fluxai.storage.postgres import PostgresStorage
from fluxai.storage.statements import load_migrations
from tests.integration.command_line import run
from tests.servers.months import at, ledger, make_months, migrate, query, spend
from tests.servers.postgres import Databases

_NEXT = functions.newest_version() + 1
_ONLINE = """-- online
-- Finds what a model has cost.
CREATE INDEX IF NOT EXISTS events_by_model ON fluxai.events (tenant, model, counted_us);
CREATE INDEX IF NOT EXISTS alerts_by_time ON fluxai.alerts (at_us);
COMMENT ON INDEX fluxai.events_by_model IS 'tried';
"""


@pytest.fixture
def one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be one more migration, which runs online."""

    def more(backend: str) -> Mapping[int, str]:
        return MappingProxyType({**load_migrations(backend), _NEXT: _ONLINE})

    monkeypatch.setattr(functions, "load_migrations", more)
    monkeypatch.setattr(postgres, "load_migrations", more)


def _indexes(url: str) -> dict[str, bool]:
    return dict(
        query(
            url,
            "SELECT c.relname, x.indisvalid FROM pg_index AS x "
            "JOIN pg_class AS c ON c.oid = x.indexrelid "
            "WHERE pg_get_indexdef(c.oid) LIKE '%(tenant, model, counted_us)' "
            "OR c.relname = 'alerts_by_time'",
        )
    )


@pytest.mark.usefixtures("one_more")
def test_an_index_is_built_while_others_write(postgres_url: str) -> None:
    """A migration that is online waits for a writer, and no other writer waits for it."""
    with ledger(postgres_url, at(2028, 1, 15)) as (governor, clock):
        make_months(postgres_url, clock.now)
        spend(governor)
        # As if it had not been there yet.
        query(postgres_url, "DELETE FROM fluxai.migrations WHERE version = %s RETURNING 1", _NEXT)
        with psycopg.connect(postgres_url) as connection:
            connection.execute("DROP INDEX fluxai.events_by_model")
        migrating = threading.Thread(target=migrate, args=(postgres_url,))
        with psycopg.connect(postgres_url) as writer:
            writer.execute("UPDATE fluxai.events_2028_01 SET note = 'seen'")
            migrating.start()
            while not query(
                postgres_url,
                "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' "
                "AND wait_event_type = 'Lock' AND datname = current_database()",
            ):
                assert migrating.is_alive()
            spend(governor)  # neither a writer,
            # nor one that opens the ledger in the middle of it, and waits for its end.
            second = threading.Thread(target=migrate, args=(postgres_url,))
            second.start()
        migrating.join()
        second.join()
        found = _indexes(postgres_url)
        assert found["events_by_model"]
        assert found["events_2028_01_events_by_model"]
        assert all(found.values())
        # A month that is made later brings its own.
        make_months(postgres_url, at(2028, 6, 15))
        assert len(_indexes(postgres_url)) == len(found) + 3
        assert all(_indexes(postgres_url).values())
        assert governor.verify().ok


@pytest.mark.usefixtures("one_more")
def test_an_online_migration_that_broke_off_is_finished(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there already is kept, what is broken is built again, and then it counts as done."""
    with monkeypatch.context() as before:
        before.setattr(postgres, "load_migrations", load_migrations)
        before.setattr(functions, "load_migrations", load_migrations)
        migrate(postgres_url)
    make_months(postgres_url, at(2028, 1, 15))
    what = "(tenant, model, counted_us)"
    first, second = (f"events_2028_0{month}" for month in (1, 2))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for statement in (
            f"CREATE INDEX events_by_model ON ONLY fluxai.events {what}",
            f"CREATE INDEX {first}_events_by_model ON fluxai.{first} {what}",
            f"CREATE INDEX {second}_events_by_model ON fluxai.{second} {what}",
        ):
            connection.execute(statement.encode())
        connection.execute(
            "UPDATE pg_index SET indisvalid = false "
            "WHERE indexrelid = 'fluxai.events_2028_01_events_by_model'::regclass"
        )
    assert not all(_indexes(postgres_url).values())
    storage = PostgresStorage(postgres_url)
    assert _ONLINE in storage.pending_sql()
    storage.migrate()
    assert all(_indexes(postgres_url).values())
    assert query(postgres_url, "SELECT max(version) FROM fluxai.migrations") == [(_NEXT,)]
    assert storage.pending_sql() == ""
    storage.close()


# -- fluxai db --------------------------------------------------------------------------------


def test_migrate_verify_and_reap_on_a_server(postgres_url: str) -> None:
    """The commands of a SQLite ledger do the same on PostgreSQL, and never show the password."""
    password = make_url(postgres_url).password
    assert isinstance(password, str)
    for arguments in (
        ["migrate"],
        ["migrate"],
        ["verify"],
        ["reap"],
        ["reap", "--keep", "400d"],
        ["rebuild"],
    ):
        for form in ([], ["--json"]):
            done = run("db", *arguments, "--db", postgres_url, *form)
            assert done.code == 0, done.err
            assert password not in done.out + done.err
    assert ":***@" in run("db", "migrate", "--db", postgres_url).out
    assert run("db", "verify", "--db", postgres_url, "--json").document["ok"] is True


def test_reap_prunes_what_is_older_than_it_keeps(postgres_url: str) -> None:
    """Months that ended so long ago go, and are named; the rest stays."""
    with ledger(postgres_url, at(2024, 1, 15)) as (governor, clock):
        make_months(postgres_url, clock.now)
        spend(governor)
    done = run("db", "reap", "--keep", "400d", "--db", postgres_url, "--json")
    assert done.code == 0, done.err
    assert done.document["pruned"] == ["2024-01", "2024-02", "2024-03"]
    assert done.document["stays"] is None
    assert run("db", "verify", "--db", postgres_url).code == 0
    assert "Nothing that old" in run("db", "reap", "--keep", "400d", "--db", postgres_url).out


@pytest.mark.parametrize(
    ("keep", "said"), [("10d", "35 days"), ("soon", "--keep"), ("-3d", "--keep")]
)
def test_reap_refuses_to_keep_too_little(postgres_url: str, keep: str, said: str) -> None:
    """A month has to stay whole while its window is open."""
    done = run("db", "reap", "--keep", keep, "--db", postgres_url)
    assert done.code != 0
    assert said in done.err


def test_a_dba_gets_the_sql(postgres_url: str) -> None:
    """What may not be created by the program's role is printed for one that may."""
    done = run("db", "migrate", "--sql", "--db", postgres_url)
    assert done.code == 0, done.err
    assert query(postgres_url, "SELECT to_regclass('fluxai.events')") == [(None,)]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(done.out.encode())
    assert run("db", "migrate", "--sql", "--db", postgres_url).out.strip() == ""
    assert run("db", "migrate", "--db", postgres_url).code == 0


def test_a_role_that_may_not_create_is_told_so(
    postgres_server: Databases, postgres_url: str
) -> None:
    """The message says what is lacking, and where to read on."""
    name = f"clerk_{make_url(postgres_url).database}"
    postgres_server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'open-sesame'")
    try:
        url = make_url(postgres_url).set(username=name, password="open-sesame")
        done = run("db", "migrate", "--db", url.render_as_string(hide_password=False))
        assert done.code == 1
        assert "permission denied" in done.err
        assert "sesame" not in done.err
        wrong = url.set(password="wrong-sesame").render_as_string(hide_password=False)
        done = run("db", "verify", "--db", wrong)
        assert done.code == 1
        assert "password authentication failed" in done.err
        assert "sesame" not in done.err
    finally:
        postgres_server.execute(f"DROP ROLE {name}")


def test_a_schema_that_is_newer_is_refused(postgres_url: str) -> None:
    """Neither the library nor a command touches what it does not know."""
    migrate(postgres_url)
    query(postgres_url, "INSERT INTO fluxai.migrations VALUES (99) RETURNING 1")
    with pytest.raises(StorageError, match="upgrade fluxai"):
        migrate(postgres_url)
    assert "upgrade fluxai" in run("db", "verify", "--db", postgres_url).err
