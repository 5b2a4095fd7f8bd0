"""Fixtures of real servers: ask for them by name in any test.

`FLUXAI_TEST_POSTGRES_URL` names a server to use instead of one of our own: its user must be allowed
to create databases, and roles for Supabase. `FLUXAI_TEST_POSTGRES_VERSION` chooses another
installed release, by its first number.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.servers import postgres, postgrest
from tests.servers.ledger import Ledger, Project, make_ledger, make_project
from tests.servers.postgres import Databases, PostgresServer
from tests.servers.postgrest import Postgrest
from tests.servers.supabase import SupabaseDatabase, create_supabase_database
from tests.servers.tcp_proxy import TcpProxy

_URL = "FLUXAI_TEST_POSTGRES_URL"
_VERSION = "FLUXAI_TEST_POSTGRES_VERSION"
_SEVERAL = 2

StartPostgrest = Callable[..., Postgrest]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Databases]:
    """Return a PostgreSQL server, one for each test process, or skip where none is installed."""
    if url := os.environ.get(_URL):
        yield Databases(url)
        return
    installed = postgres.available()
    if not installed:
        pytest.skip(postgres.MISSING)
    if version := os.environ.get(_VERSION):
        installed = [binaries for binaries in installed if str(binaries.major) == version]
        assert installed, f"{_VERSION}={version}, and that release is not installed"
    # Tests kill processes, never the machine: what they acknowledged is safe without the disk.
    with PostgresServer.start(installed[0], settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Databases) -> Iterator[str]:
    """Return the URL of a fresh, empty database, dropped after the test."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def stoppable_postgres(postgres_server: Databases) -> Iterator[PostgresServer]:
    """Return the server to stop and start, or skip where it is not ours; it runs again afterwards."""
    if not isinstance(postgres_server, PostgresServer):
        pytest.skip(postgres.NOT_OURS)
    yield postgres_server
    if not postgres_server.running:
        postgres_server.start_again()


@pytest.fixture
def postgres_proxy(postgres_server: Databases) -> Iterator[TcpProxy]:
    """Return a proxy in front of the server: `postgres_proxy.through(postgres_url)`."""
    with TcpProxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
def supabase_database(postgres_server: Databases) -> Iterator[SupabaseDatabase]:
    """Return a fresh database with the roles and the `auth` schema of hosted Supabase."""
    database = create_supabase_database(postgres_server)
    yield database
    postgres_server.drop_database(database.admin_url)


@pytest.fixture(scope="session")
def postgrest_program() -> None:
    """Fetch PostgREST once, or skip where there is none for this machine."""
    try:
        postgrest.program()
    except postgrest.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def start_postgrest(
    postgrest_program: None, supabase_database: SupabaseDatabase
) -> Iterator[StartPostgrest]:
    """Return a function that starts PostgREST on `supabase_database`; all end after the test."""
    with contextlib.ExitStack() as started:

        def start(*, schemas: Sequence[str] = ("public",)) -> Postgrest:
            return started.enter_context(Postgrest.start(supabase_database, schemas=schemas))

        yield start


@pytest.fixture(scope="session")
def shared_ledger(postgres_server: Databases) -> Iterator[Ledger]:
    """Return a migrated database; ask for `ledger`, which is empty."""
    with make_ledger(postgres_server) as made:
        yield made


@pytest.fixture
def ledger(shared_ledger: Ledger) -> Iterator[Ledger]:
    """Return a migrated database without a row, the same one again and again."""
    shared_ledger.empty()
    yield shared_ledger
    shared_ledger.check()


@pytest.fixture(scope="session")
def shared_project(postgres_server: Databases, postgrest_program: None) -> Iterator[Project]:
    """Return a project of Supabase with its REST server; ask for `project`, which is empty."""
    with make_project(postgres_server) as made:
        yield made


@pytest.fixture
def project(
    shared_project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Project]:
    """Return a project without a row, the same one again and again; `supabase://` opens it."""
    shared_project.empty()
    # Its server speaks plain HTTP, and reading all certificates at each start takes a tenth of a
    # second; those of a folder are read when one is needed.
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SUPABASE_URL", shared_project.api.url)
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", shared_project.api.service_key)
    yield shared_project
    shared_project.api.proxy.heal()
    shared_project.check()


@pytest.fixture(scope="session")
def shared_oldest_ledger() -> Iterator[Ledger]:
    """Return a migrated database on the oldest installed release; ask for `oldest_ledger`."""
    installed = postgres.available()
    if os.environ.get(_URL) or len({binaries.major for binaries in installed}) < _SEVERAL:
        pytest.skip("one release of PostgreSQL is tried: no older one is installed beside it")
    settings = {"fsync": "off"}
    with (
        PostgresServer.start(installed[-1], settings=settings) as server,
        make_ledger(server) as made,
    ):
        yield made


@pytest.fixture
def oldest_ledger(shared_oldest_ledger: Ledger) -> Iterator[Ledger]:
    """Return a migrated database without a row on the oldest release, or skip where it is the only one."""
    shared_oldest_ledger.empty()
    yield shared_oldest_ledger
    shared_oldest_ledger.check()
