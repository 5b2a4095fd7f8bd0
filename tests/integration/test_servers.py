"""The servers that tests run against do what those tests rely on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import postgrest as postgrest_client
import pytest
import sqlalchemy as sa
from supabase import Client, ClientOptions, create_client

from tests.servers import postgres
from tests.servers.fixtures import StartPostgrest
from tests.servers.postgres import Databases, PostgresServer
from tests.servers.postgrest import Postgrest
from tests.servers.supabase import SupabaseDatabase, create_supabase_database
from tests.servers.tcp_proxy import TcpProxy

_INSERT = sa.text("INSERT INTO marks VALUES (:mark)")


@pytest.fixture
def marks(postgres_url: str) -> Iterator[sa.Engine]:
    """Return an engine on a database with one table."""
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE marks (mark int)"))
    yield engine
    engine.dispose()


def add(engine: sa.Engine, mark: int) -> None:
    """Commit one row."""
    with engine.begin() as connection:
        connection.execute(_INSERT, {"mark": mark})


def found(engine: sa.Engine) -> list[int]:
    """Return the rows that are there."""
    with engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT mark FROM marks ORDER BY mark")).scalars())


class TestPostgres:
    """A PostgreSQL server of our own."""

    @pytest.mark.parametrize("binaries", postgres.available(), ids=lambda each: each.version)
    def test_each_installed_release_starts_and_makes_databases(
        self, binaries: postgres.Binaries
    ) -> None:
        """Any release that is found can be the one that tests run on, with durable commits."""
        with PostgresServer.start(binaries) as server:
            first, second = server.create_database(), server.create_database()
            assert first != second
            engine = sa.create_engine(first)
            with engine.connect() as connection:
                asked = sa.text(
                    "SELECT current_setting('server_version'), current_setting('fsync')"
                )
                version, fsync = connection.execute(asked).one()
            engine.dispose()
        assert (version.split()[0], fsync) == (binaries.version, "on")
        assert engine.dialect.driver == "psycopg"
        assert not server.folder.exists()

    def test_a_database_copies_its_template(
        self, postgres_server: Databases, marks: sa.Engine
    ) -> None:
        """A schema is made once, then copied for each test."""
        add(marks, 1)
        marks.dispose()
        url = postgres_server.create_database(template=str(marks.url.database))
        copy = sa.create_engine(url)
        assert found(copy) == [1]
        copy.dispose()
        postgres_server.drop_database(url)

    @pytest.mark.parametrize("how", ["immediate", "kill"])
    def test_a_crash_keeps_what_was_committed(
        self, stoppable_postgres: PostgresServer, marks: sa.Engine, how: str
    ) -> None:
        """After a crash the server recovers every row whose commit it acknowledged, and no other."""
        add(marks, 1)
        open_transaction = marks.connect()
        open_transaction.execute(_INSERT, {"mark": 2})
        if how == "kill":
            stoppable_postgres.kill()
        else:
            stoppable_postgres.stop("immediate")
        assert not stoppable_postgres.running
        open_transaction.invalidate()
        open_transaction.close()
        marks.dispose()
        stoppable_postgres.start_again()
        assert found(marks) == [1]

    def test_a_server_ends_with_the_process_that_started_it(self, tmp_path: Path) -> None:
        """A killed test process leaves neither a server nor its folder."""
        script = """if True:
            from tests.servers.postgres import PostgresServer
            server = PostgresServer.start(settings={"fsync": "off"})
            print(server.url(), flush=True)
            print(server.folder, flush=True)
            input()
        """
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            url, folder = process.stdout.readline().strip(), process.stdout.readline().strip()
            assert Path(folder).exists()
            process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while Path(folder).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(folder).exists()
        engine = sa.create_engine(url)
        with pytest.raises(sa.exc.OperationalError):
            engine.connect()


class TestProxy:
    """The proxy that breaks the wire."""

    @pytest.fixture
    def through(self, postgres_proxy: TcpProxy, marks: sa.Engine) -> Iterator[sa.Engine]:
        """Return an engine on the same database, behind the proxy and logged in."""
        engine = sa.create_engine(postgres_proxy.through(marks.url.render_as_string(False)))
        add(engine, 1)
        yield engine
        engine.dispose()

    def test_a_lost_answer_leaves_the_commit(
        self, postgres_proxy: TcpProxy, marks: sa.Engine, through: sa.Engine
    ) -> None:
        """The commit stands, its acknowledgement is lost, and the next transaction passes."""
        postgres_proxy.lose_answer_to(b"COMMIT")
        with pytest.raises(sa.exc.OperationalError):
            add(through, 2)
        assert found(marks) == [1, 2]
        add(through, 3)
        assert found(marks) == [1, 2, 3]
        assert postgres_proxy.losses == 1

    def test_a_lost_request_leaves_nothing(
        self, postgres_proxy: TcpProxy, marks: sa.Engine, through: sa.Engine
    ) -> None:
        """What the server never got whole, it did not do."""
        postgres_proxy.lose_request_with(b"COMMIT")
        with pytest.raises(sa.exc.OperationalError):
            add(through, 2)
        assert found(marks) == [1]

    def test_any_answer_of_a_transaction_can_be_lost(
        self, postgres_proxy: TcpProxy, marks: sa.Engine, through: sa.Engine
    ) -> None:
        """Its answers are those to BEGIN, to the statement and to COMMIT; only the last is too late."""
        for after in range(3):
            through.dispose()
            postgres_proxy.lose_answer(after=after)
            with pytest.raises(sa.exc.OperationalError):
                add(through, 10 + after)
        assert found(marks) == [1, 12]

    def test_a_skipped_match_passes(
        self, postgres_proxy: TcpProxy, marks: sa.Engine, through: sa.Engine
    ) -> None:
        """A fault can be meant for the second request that matches, also on another connection."""
        postgres_proxy.lose_answer_to(b"COMMIT", skip=1)
        add(through, 2)
        with pytest.raises(sa.exc.OperationalError):
            add(through, 3)
        assert found(marks) == [1, 2, 3]

    def test_an_outage_ends(self, postgres_proxy: TcpProxy, through: sa.Engine) -> None:
        """Connections are cut and refused until the proxy is healed."""
        postgres_proxy.stop_accepting()
        postgres_proxy.cut()
        for _ in range(2):
            with pytest.raises(sa.exc.OperationalError):
                add(through, 2)
        postgres_proxy.heal()
        add(through, 3)
        assert found(through) == [1, 3]


_API = """
CREATE SCHEMA fluxai_api;
REVOKE ALL ON SCHEMA fluxai_api FROM PUBLIC;
GRANT USAGE ON SCHEMA fluxai_api TO service_role, authenticated;
CREATE TABLE fluxai_api.marks (mark int);
CREATE FUNCTION fluxai_api.add(mark int) RETURNS bigint LANGUAGE sql SECURITY DEFINER
    SET search_path = ''
    AS $$ INSERT INTO fluxai_api.marks VALUES (mark); SELECT count(*) FROM fluxai_api.marks $$;
REVOKE ALL ON FUNCTION fluxai_api.add FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fluxai_api.add TO service_role;
CREATE FUNCTION fluxai_api.tenant() RETURNS text LANGUAGE sql STABLE SECURITY INVOKER
    AS $$ SELECT auth.jwt() -> 'app_metadata' ->> 'tenant_id' $$;
"""


class TestPostgrest:
    """PostgREST, as hosted Supabase runs it."""

    @pytest.fixture
    def api(
        self, supabase_database: SupabaseDatabase, start_postgrest: StartPostgrest
    ) -> Postgrest:
        """Return a project whose owner made a schema with functions."""
        owner = sa.create_engine(supabase_database.owner_url)
        with owner.begin() as connection:
            connection.exec_driver_sql(_API)
        owner.dispose()
        return start_postgrest(schemas=("fluxai_api",))

    @pytest.fixture
    def http(self) -> Iterator[httpx.Client]:
        """Return what closes the connections of the clients of a test."""
        with httpx.Client() as client:
            yield client

    def client(self, api: Postgrest, key: str, http: httpx.Client) -> Client:
        return create_client(api.url, key, ClientOptions(schema="fluxai_api", httpx_client=http))

    def test_the_service_key_calls_a_function(self, api: Postgrest, http: httpx.Client) -> None:
        """The unmodified client reaches the function, again and again on one connection."""
        client = self.client(api, api.service_key, http)
        answers = [client.rpc("add", {"mark": mark}).execute().data for mark in (5, 6, 7)]
        assert answers == [1, 2, 3]

    def test_everybody_else_is_refused(self, api: Postgrest, http: httpx.Client) -> None:
        """Neither the public key nor a user's token runs what only the service may."""
        for key in (api.anon_key, api.token(role="authenticated")):
            with pytest.raises(postgrest_client.APIError) as refused:
                self.client(api, key, http).rpc("add", {"mark": 5}).execute()
            assert refused.value.code == "42501"

    def test_a_policy_reads_the_token(self, api: Postgrest, http: httpx.Client) -> None:
        """`auth.jwt()` holds the claims that the token was signed with."""
        claims: dict[str, Any] = {"app_metadata": {"tenant_id": "acme"}}
        token = api.token(role="authenticated", claims=claims)
        assert self.client(api, token, http).rpc("tenant").execute().data == "acme"

    def test_a_new_function_is_there_after_a_reload(
        self, api: Postgrest, supabase_database: SupabaseDatabase, http: httpx.Client
    ) -> None:
        """PostgREST reads the schema once; what comes later needs a reload."""
        client = self.client(api, api.service_key, http)
        owner = sa.create_engine(supabase_database.owner_url)
        with owner.begin() as connection:
            connection.exec_driver_sql(
                "CREATE FUNCTION fluxai_api.later() RETURNS int LANGUAGE sql AS 'SELECT 1'"
            )
        owner.dispose()
        with pytest.raises(postgrest_client.APIError, match="PGRST202"):
            client.rpc("later").execute()
        api.reload_schema()
        assert client.rpc("later").execute().data == 1

    def test_a_lost_answer_leaves_the_commit(self, api: Postgrest, http: httpx.Client) -> None:
        """The proxy in front of PostgREST loses answers too, after what they answer is done."""
        client = self.client(api, api.service_key, http)
        api.proxy.lose_answer_to(b"/rpc/add")
        with pytest.raises(httpx.RemoteProtocolError):
            client.rpc("add", {"mark": 5}).execute()
        assert client.rpc("add", {"mark": 6}).execute().data == 2

    def test_two_projects_share_a_server(self, postgres_server: Databases) -> None:
        """The roles are made once; each project has a database of its own, and no superuser."""
        databases = [create_supabase_database(postgres_server) for _ in range(2)]
        for database in databases:
            owner = sa.create_engine(database.owner_url)
            with owner.connect() as connection:
                asked = sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
                assert connection.execute(asked).scalar() is False
            owner.dispose()
            postgres_server.drop_database(database.admin_url)
