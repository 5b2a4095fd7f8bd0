"""`schema.sql` is what the migrations are, and runs where it is meant to be pasted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from fluxai import Governor
from fluxai.demo_data import FREECO, load_demo
from fluxai.storage.postgres import PostgresStorage
from fluxai.storage.schema import main, schema_sql
from fluxai.storage.statements import load_migrations
from tests.demo_sql import demo_sql
from tests.servers.catalogue import catalogue
from tests.servers.postgres import Databases
from tests.servers.supabase import SupabaseDatabase, create_supabase_database

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "schema.sql"
DEMO = ROOT / "examples" / "supabase_demo.sql"


@pytest.fixture
def migrated(postgres_server: Databases) -> Iterator[SupabaseDatabase]:
    """Return another project, whose owner let the library migrate it."""
    database = create_supabase_database(postgres_server)
    storage = PostgresStorage(database.owner_url)
    storage.migrate()
    storage.close()
    yield database
    postgres_server.drop_database(database.admin_url)


def run(url: str, script: str) -> None:
    """Run a script as an SQL editor does: all of it at once."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script)


def make_months(url: str) -> None:
    """Make the months ahead, as the first governor does that opens the database."""
    storage = PostgresStorage(url)
    storage._make_months(None)
    storage.close()


def test_the_script_is_what_is_generated() -> None:
    """The file is what `python -m fluxai.storage.schema` prints, byte for byte."""
    printed = subprocess.run(
        [sys.executable, "-m", "fluxai.storage.schema"], capture_output=True, check=True
    ).stdout
    assert printed.decode() == SCHEMA.read_text(encoding="utf-8"), (
        "run: python -m fluxai.storage.schema > schema.sql"
    )


def test_it_makes_what_migrating_makes(
    supabase_database: SupabaseDatabase, migrated: SupabaseDatabase
) -> None:
    """Run by the owner, no superuser, it makes the same tables, functions, policies and rights."""
    run(supabase_database.owner_url, SCHEMA.read_text(encoding="utf-8"))
    make_months(supabase_database.owner_url)
    made, expected = catalogue(supabase_database.admin_url), catalogue(migrated.admin_url)
    for kind, rows in expected.items():
        assert made[kind] == rows, kind
    counted = {kind: len(rows) for kind, rows in expected.items()}
    assert min(counted[kind] for kind in ("columns", "functions", "policies", "views")) > 5


def test_the_library_finds_nothing_left_to_do(supabase_database: SupabaseDatabase) -> None:
    """A governor opened on it migrates nothing, and governs."""
    run(supabase_database.owner_url, SCHEMA.read_text(encoding="utf-8"))
    before = catalogue(supabase_database.admin_url)
    with Governor(supabase_database.owner_url) as governor:
        load_demo(governor)
        assert governor.verify().ok
    after = catalogue(supabase_database.admin_url)
    assert after["functions"] == before["functions"]
    assert after["versions"] == before["versions"]


def test_where_a_ledger_is_it_stops(migrated: SupabaseDatabase) -> None:
    """A second run says what to do instead, and changes nothing."""
    before = catalogue(migrated.admin_url)
    with pytest.raises(psycopg.errors.RaiseException, match="has a ledger already") as refused:
        run(migrated.owner_url, SCHEMA.read_text(encoding="utf-8"))
    assert "--after" in (refused.value.diag.message_hint or "")
    assert catalogue(migrated.admin_url) == before


def test_it_is_made_whole_or_not_at_all(supabase_database: SupabaseDatabase) -> None:
    """A script that fails at its end leaves nothing behind."""
    script = schema_sql().replace("COMMIT;", "SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        run(supabase_database.owner_url, script)
    assert catalogue_is_empty(supabase_database.admin_url)


def catalogue_is_empty(url: str) -> bool:
    """Say whether a database has nothing of ours."""
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT FROM pg_namespace WHERE nspname LIKE 'fluxai%'")
        return found.fetchone() is None


def test_an_upgrade_ends_where_the_whole_script_does(
    supabase_database: SupabaseDatabase, migrated: SupabaseDatabase
) -> None:
    """From the version before, only what is newer runs, and the result is the same."""
    older, newest = sorted(load_migrations("postgres"))[-2:]
    for version, script in sorted(load_migrations("postgres").items()):
        if version <= older:
            run(supabase_database.owner_url, script)
            noted = "INSERT INTO fluxai.migrations (version) VALUES ({})"
            run(supabase_database.owner_url, noted.format(version))
    upgrade = schema_sql(after=older)
    assert f"-- Version {newest}\n" in upgrade
    assert f"-- Version {older}\n" not in upgrade
    run(supabase_database.owner_url, upgrade)
    make_months(supabase_database.owner_url)
    made, expected = catalogue(supabase_database.admin_url), catalogue(migrated.admin_url)
    assert made == expected


def test_an_upgrade_of_another_version_stops(migrated: SupabaseDatabase) -> None:
    """It says which version is there."""
    newest = max(load_migrations("postgres"))
    with pytest.raises(psycopg.errors.RaiseException, match=f"has version {newest}"):
        run(migrated.owner_url, schema_sql(after=newest - 1))


def test_a_version_that_never_was_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The command says which is the newest."""
    with pytest.raises(SystemExit):
        main(["--after", "999"])
    assert "there is no version 999" in capsys.readouterr().err


class TestDemo:
    """The demo's records, for who wants to look at something."""

    def test_the_script_is_what_is_generated(self) -> None:
        """The file is what `python -m tests.demo_sql` prints."""
        assert demo_sql() == DEMO.read_text(encoding="utf-8"), (
            "run: python -m tests.demo_sql > examples/supabase_demo.sql"
        )

    def test_it_loads_what_the_demo_puts(self, migrated: SupabaseDatabase) -> None:
        """Run by the owner, and again, it leaves the records that `load_demo` would put."""
        for _ in range(2):
            run(migrated.owner_url, DEMO.read_text(encoding="utf-8"))
        with Governor() as wanted, Governor(migrated.owner_url) as found:
            load_demo(wanted)
            for registry in ("tenants", "users", "tools", "policies"):
                assert list(getattr(found, registry).list()) == list(
                    getattr(wanted, registry).list()
                )
            assert [tenant.name for tenant in found.tenants.list()] == [
                "FreeCo",
                "ProCorp",
                "EnterpriseLLC",
            ]
            refused = found.check(tenant=FREECO, tool="search-api", units=3_000)
            assert refused.decision == "denied"
