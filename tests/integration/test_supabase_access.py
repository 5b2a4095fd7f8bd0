"""Who may do what with a project: every role tries everything, through a real REST server.

Views and functions are read from the database, so none that comes later is forgotten.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from fluxai import ConfigurationError, Governor, Policy, StorageError, Tool
from fluxai.storage.postgres import PostgresStorage
from fluxai.storage.supabase import SupabaseStorage
from fluxai.testing import FakeClock
from tests.servers.fixtures import StartPostgrest
from tests.servers.ledger import Project
from tests.servers.months import count, write_while_a_month_is_made
from tests.servers.postgrest import Postgrest
from tests.servers.supabase import SupabaseDatabase, make_secret, sign
from tests.test_docs import blocks_of

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "run-on-supabase.md"
OURS, THEIRS = "acme", "globex"
API = "fluxai_api"

#: Arguments for every function: by name, or else by type.
NAMED: dict[str, Any] = {
    "of_tenant": THEIRS,
    "of_kind": "policy",
    "most": 100,
    "batch": {"now_us": 0, "settle_on_expiry": False, "items": []},
    "changes": [{"kind": "policy", "scope": THEIRS, "id": f"{THEIRS} limit", "body": None}],
    "before_us": 4_000_000_000_000_000,
}
TYPED: dict[str, Any] = {
    "bigint": 4_000_000_000_000_000,
    "boolean": True,
    "integer": 1,
    "jsonb": [],
    "text": None,
    "uuid": None,
}


@dataclass(frozen=True, slots=True)
class Surface:
    """What a REST server shows: views with their columns, functions with their arguments."""

    views: Mapping[str, list[str]]
    functions: Mapping[str, dict[str, Any]]


def surface_of(url: str) -> Surface:
    """Read it from the database."""
    with psycopg.connect(url) as connection:
        views = connection.execute(
            "SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class AS c "
            "JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 "
            "WHERE c.relnamespace = 'fluxai_api'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p')"
            " GROUP BY 1"
        ).fetchall()
        functions = connection.execute(
            "SELECT proname, coalesce(proargnames, '{}'), "
            "ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) AS t) FROM pg_proc "
            "WHERE pronamespace = 'fluxai_api'::regnamespace"
        ).fetchall()
    return Surface(
        dict(views),
        {
            name: {
                argument: NAMED.get(argument, TYPED[kind])
                for argument, kind in zip(names, kinds, strict=True)
            }
            for name, names, kinds in functions
        },
    )


def everything(url: str) -> dict[str, str]:
    """Read every row of the ledger, as one digest for each table."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT c.oid::regclass::text FROM pg_class AS c WHERE relkind IN ('r', 'p') "
            "AND relnamespace = 'fluxai'::regnamespace"
        ).fetchall()
        found = {}
        for (table,) in tables:
            row = connection.execute(
                f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} AS t"
            ).fetchone()
            assert row is not None
            found[table] = row[0]
    return found


def spend(governor: Governor, tenant: str) -> None:
    """Leave a row in every view: open and settled calls, an approval, an alert."""
    governor.policies.put(
        Policy(
            id=f"{tenant} limit",
            tenant_id=tenant,
            limit_type="daily",
            limit_value="1.00",
            alert_at=("0.1",),  # type: ignore[arg-type]
        )
    )
    governor.policies.put(
        Policy(
            id=f"{tenant} ask",
            tenant_id=tenant,
            limit_type="per_request",
            limit_value="0.15",
            decision="require_approval",
        )
    )
    for _ in range(2):
        governor.settle(governor.reserve(tenant=tenant, tool="dime", user="ann"))
    governor.reserve(tenant=tenant, tool="dime", labels={"team": tenant})
    governor.reserve(tenant=tenant, tool="dime", units=2)


class Door:
    """Asks the REST server as somebody."""

    def __init__(self, http: httpx.Client, url: str, token: str | None) -> None:
        self._http = http
        self._url = f"{url}/rest/v1"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def ask(
        self, method: str, path: str, *, schema: str = API, body: Any = None, **headers: str
    ) -> httpx.Response:
        """Send one request, for any schema."""
        profile = "Accept-Profile" if method in ("GET", "HEAD") else "Content-Profile"
        return self._http.request(
            method,
            f"{self._url}/{path}",
            headers={**self._headers, profile: schema, **headers},
            json=body,
        )

    def rows(self, path: str, **more: str) -> list[dict[str, Any]]:
        """Read rows; none where that is refused."""
        answer = self.ask("GET", path, **more)
        return answer.json() if answer.is_success else []


# -- who asks ---------------------------------------------------------------------------------


def of_tenant(tenant: Any) -> dict[str, Any]:
    """Return the claims of somebody whom the project's server has put into a tenant."""
    return {"sub": "7f9f3c1e-0000-4000-8000-000000000001", "app_metadata": {"tenant_id": tenant}}


def authenticated(api: Postgrest, **claims: Any) -> str:
    """Return the token of a user who has signed in."""
    return api.token(role="authenticated", claims=claims)


def forged(role: str) -> str:
    """Return a token that somebody else has signed."""
    claims = {"role": role, "exp": int(time.time()) + 3_600, **of_tenant(OURS)}
    return sign(claims, secret=make_secret())


def unsigned(role: str) -> str:
    """Return a token that says it needs no signature."""
    parts = ({"alg": "none", "typ": "JWT"}, {"role": role, **of_tenant(OURS)})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    return (b".".join(encoded) + b".").decode()


STRANGERS: dict[str, Callable[[Postgrest], str | None]] = {
    "no token": lambda _: None,
    "anon": lambda api: api.anon_key,
    "anon who names a tenant": lambda api: api.token(role="anon", claims=of_tenant(OURS)),
    "no tenant": lambda api: authenticated(api),
    "tenant in user_metadata": lambda api: authenticated(api, user_metadata={"tenant_id": OURS}),
    "tenant as a claim of its own": lambda api: authenticated(api, tenant_id=OURS, tenant=OURS),
    "empty tenant": lambda api: authenticated(api, **of_tenant("")),
    "null tenant": lambda api: authenticated(api, **of_tenant(None)),
    "every tenant": lambda api: authenticated(api, **of_tenant("*")),
    "pattern of tenants": lambda api: authenticated(api, **of_tenant("%")),
    "list of tenants": lambda api: authenticated(api, **of_tenant([OURS, THEIRS])),
    "tenant in other letters": lambda api: authenticated(api, **of_tenant(OURS.upper())),
    "app_metadata that is no object": lambda api: authenticated(api, app_metadata=OURS),
    "forged user": lambda _: forged("authenticated"),
    "forged service": lambda _: forged("service_role"),
    "unsigned service": lambda _: unsigned("service_role"),
    "expired user": lambda api: authenticated(api, exp=int(time.time()) - 3_600, **of_tenant(OURS)),
    "expired service": lambda api: api.token(
        role="service_role", claims={"exp": int(time.time()) - 3_600}
    ),
    "owner of the schema": lambda api: api.token(role="supabase_owner"),
    "superuser": lambda api: api.token(role="postgres"),
    "the REST server itself": lambda api: api.token(role="authenticator", claims=of_tenant(OURS)),
    "role that is none": lambda api: api.token(role="nobody at all"),
    "no token at all": lambda _: "nonsense",
}


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """Return what closes the connections of a test."""
    # A kept connection may be closed by its other end just as it is used again.
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(timeout=30, limits=limits) as client:
        yield client


@pytest.fixture
def spent(project: Project) -> Project:
    """Return a project in which two tenants have rows in every view."""
    with Governor("supabase://") as governor:
        governor.tools.put(Tool(id="dime", cost_per_unit="0.10"))
        for tenant in (OURS, THEIRS):
            spend(governor, tenant)
    return project


@pytest.fixture
def surface(spent: Project) -> Surface:
    """Return what the REST server shows."""
    return surface_of(spent.admin_url)


def tamper(door: Door, surface: Surface, tenant: str) -> list[str]:
    """Try to write to every view, and return what was not refused."""
    done = []
    for view, columns in surface.views.items():
        column = next(name for name in columns if name != "tenant")
        where = f"{view}?tenant=eq.{tenant}"
        tries = [
            ("POST", view, {"tenant": tenant}),
            ("PATCH", where, {column: None}),
            ("PATCH", where, {"tenant": OURS}),
            ("PUT", f"{where}&{column}=eq.1", {"tenant": tenant, column: 1}),
            ("DELETE", where, None),
            ("DELETE", view, None),
        ]
        done += [
            f"{method} {path}: {answer.status_code}"
            for method, path, body in tries
            for answer in [door.ask(method, path, body=body, Prefer="return=representation")]
            if answer.is_success
        ]
    return done


def call_all(door: Door, surface: Surface) -> list[str]:
    """Call every function, and return which were not refused for want of rights."""
    done = []
    for name, arguments in surface.functions.items():
        answers = [door.ask("POST", f"rpc/{name}", body=arguments), door.ask("GET", f"rpc/{name}")]
        done += [f"{name}: {one.status_code} {one.text}" for one in answers if one.is_success]
        # A role that does not exist is refused in another way.
        if answers[0].status_code not in (401, 403) and '"role ' not in answers[0].text:
            done.append(f"{name}: {answers[0].status_code} {answers[0].text}")
    return done


class TestStrangers:
    """Everybody who is neither a tenant nor the service."""

    @pytest.mark.parametrize("who", STRANGERS)
    def test_nobody_else_reads_writes_or_calls_anything(
        self, who: str, spent: Project, surface: Surface, http: httpx.Client
    ) -> None:
        """No row of any view, no change to any of them, and no function."""
        door = Door(http, spent.api.url, STRANGERS[who](spent.api))
        before = everything(spent.admin_url)
        assert {view: door.rows(view) for view in surface.views} == {
            view: [] for view in surface.views
        }
        for tenant in (OURS, THEIRS):
            assert tamper(door, surface, tenant) == []
        assert call_all(door, surface) == []
        assert everything(spent.admin_url) == before


class TestTenant:
    """Somebody signed in, whose tenant the project's server has written into the token."""

    @pytest.fixture
    def door(self, spent: Project, http: httpx.Client) -> Door:
        """Return how that one asks."""
        return Door(http, spent.api.url, authenticated(spent.api, **of_tenant(OURS)))

    def test_it_reads_its_own_rows_and_no_other(self, door: Door, surface: Surface) -> None:
        """Every view shows all of its tenant's rows, whatever is asked for."""
        for view in surface.views:
            rows = door.rows(view)
            assert {row["tenant"] for row in rows} == {OURS}, view
            for path in (
                f"{view}?tenant=eq.{THEIRS}",
                f"{view}?tenant=neq.{OURS}",
                f"{view}?or=(tenant.eq.{THEIRS},tenant.eq.{THEIRS})",
                f"{view}?tenant=in.({THEIRS})",
                f"{view}?select=tenant&tenant=like.g*",
            ):
                assert door.rows(path) == [], path
            counted = door.ask("HEAD", view, Prefer="count=exact")
            assert counted.headers["Content-Range"].rpartition("/")[2] == str(len(rows))

    def test_a_name_with_odd_characters_is_compared_whole(
        self, spent: Project, surface: Surface, http: httpx.Client
    ) -> None:
        """Quotes, patterns and blanks in a tenant's name widen nothing."""
        for name in (f"{OURS}' OR '1'='1", f"{OURS}%", f" {OURS}", f"{OURS}\t", f'{{"{OURS}"}}'):
            door = Door(http, spent.api.url, authenticated(spent.api, **of_tenant(name)))
            assert [door.rows(view) for view in surface.views] == [[] for _ in surface.views]

    def test_it_changes_nothing_and_calls_nothing(
        self, door: Door, spent: Project, surface: Surface
    ) -> None:
        """Neither its own rows nor a neighbour's; and what moves money is for the service."""
        before = everything(spent.admin_url)
        assert tamper(door, surface, OURS) == []
        assert tamper(door, surface, THEIRS) == []
        assert call_all(door, surface) == []
        assert everything(spent.admin_url) == before

    def test_the_schema_behind_the_views_is_closed(
        self,
        spent: Project,
        supabase_database: SupabaseDatabase,
        start_postgrest: StartPostgrest,
        http: httpx.Client,
    ) -> None:
        """It is not shown; and where somebody shows it by mistake, still only the service enters."""
        tables = ("events", "records", "counters", "plans", "migrations", "events_other")
        token = authenticated(spent.api, **of_tenant(OURS))
        for table in tables:
            answer = Door(http, spent.api.url, token).ask("GET", table, schema="fluxai")
            assert answer.json()["code"] == "PGRST106"
        migrate(supabase_database.owner_url)
        shown = start_postgrest(schemas=(API, "fluxai"))
        for token in (shown.anon_key, authenticated(shown, **of_tenant(OURS))):
            door = Door(http, shown.url, token)
            for table in tables:
                answer = door.ask("GET", table, schema="fluxai")
                assert answer.json()["code"] == "42501", (table, answer.text)
            for name in ("read_clock", "tenant_of_token", "make_months", "prune", "grant_access"):
                answer = door.ask("POST", f"rpc/{name}", schema="fluxai", body={})
                assert answer.status_code in (401, 403, 404), (name, answer.text)

    def test_rights_given_away_by_a_guide_open_nothing(
        self,
        supabase_database: SupabaseDatabase,
        start_postgrest: StartPostgrest,
        http: httpx.Client,
    ) -> None:
        """What guides say of any exposed schema, all rights to all three roles, is survived."""
        migrate(supabase_database.owner_url)
        with psycopg.connect(supabase_database.owner_url, autocommit=True) as owner:
            for what in ("TABLES", "ROUTINES", "SEQUENCES"):
                owner.execute(
                    f"GRANT ALL ON ALL {what} IN SCHEMA {API} TO anon, authenticated, service_role"
                )
            owner.execute(f"GRANT USAGE ON SCHEMA {API} TO anon, authenticated, service_role")
        api = start_postgrest(schemas=(API,))
        with (
            contextlib.closing(SupabaseStorage(api.url, key=api.service_key)) as storage,
            Governor(storage) as governor,
        ):
            governor.tools.put(Tool(id="dime", cost_per_unit="0.10"))
            for tenant in (OURS, THEIRS):
                spend(governor, tenant)
        surface = surface_of(supabase_database.admin_url)
        before = everything(supabase_database.admin_url)
        for token in (api.anon_key, authenticated(api, **of_tenant(OURS))):
            door = Door(http, api.url, token)
            assert tamper(door, surface, OURS) + tamper(door, surface, THEIRS) == []
            assert call_all(door, surface) == []
            assert all(row["tenant"] == OURS for view in surface.views for row in door.rows(view))
        assert everything(supabase_database.admin_url) == before


class TestService:
    """The service role's key."""

    def test_it_reads_every_tenant_and_writes_by_verbs_alone(
        self, spent: Project, surface: Surface, http: httpx.Client
    ) -> None:
        """Views show it all tenants, and take no writes: rows change by the ledger's verbs."""
        door = Door(http, spent.api.url, spent.api.service_key)
        for view in surface.views:
            assert {row["tenant"] for row in door.rows(view)} == {OURS, THEIRS}, view
        before = everything(spent.admin_url)
        assert tamper(door, surface, THEIRS) == []
        assert everything(spent.admin_url) == before

    def test_it_may_call_every_function(
        self, spent: Project, surface: Surface, http: httpx.Client
    ) -> None:
        """Whatever the arguments do, none is refused for want of rights."""
        door = Door(http, spent.api.url, spent.api.service_key)
        for name, arguments in surface.functions.items():
            answer = door.ask("POST", f"rpc/{name}", body=arguments)
            assert answer.status_code not in (401, 403, 404), (name, answer.text)

    def test_it_writes_into_months_that_are_made_later(self, spent: Project) -> None:
        """New partitions need no rights of their own."""
        later = datetime(2041, 1, 15, tzinfo=UTC)
        door = SupabaseStorage()
        door._make_months(micros(later))
        door.close()
        with Governor("supabase://", clock=lambda: later) as governor:
            held = governor.reserve(tenant="initech", tool="dime", labels={"a": "b"})
            governor.settle(held)
            governor.record(tenant="initech", tool="dime", cost="0.10", id="late")
            assert governor.verify().ok
        with psycopg.connect(spent.admin_url) as connection:
            for table in ("events", "labels", "reservations"):
                found = connection.execute(
                    f"SELECT count(*) FROM fluxai.{table}_2041_01"
                ).fetchone()
                assert found is not None
                assert found[0] > 0, table


def micros(instant: datetime) -> int:
    """Return an instant in microseconds since 1970."""
    return int(instant.timestamp()) * 1_000_000


def migrate(url: str) -> None:
    """Bring a database's schema up to date."""
    with contextlib.closing(PostgresStorage(url)) as storage:
        storage.migrate()


# -- the database itself, without a REST server -----------------------------------------------


@pytest.fixture
def grown(supabase_database: SupabaseDatabase) -> SupabaseDatabase:
    """Return a project that is some months old: some were made later, and one was pruned."""
    with contextlib.closing(PostgresStorage(supabase_database.owner_url)) as storage:
        storage.migrate()
        for year in (2020, 2039, 2040):
            storage._make_months(micros(datetime(year, 12, 31, tzinfo=UTC)))
        storage.prune(micros(datetime(2021, 1, 1, tzinfo=UTC)))
    return supabase_database


@pytest.fixture
def ask(grown: SupabaseDatabase) -> Iterator[Callable[[str], list[Any]]]:
    """Return a function that asks the catalogue of a grown project."""
    with psycopg.connect(grown.admin_url, autocommit=True) as connection:
        yield lambda query: connection.execute(query).fetchall()


class TestCatalogue:
    """What holds for all that is there, whoever adds to it."""

    def test_nobody_but_the_service_may_call_a_function(
        self, ask: Callable[[str], list[Any]]
    ) -> None:
        """None of ours is open to the public, but for what the policies ask."""
        found = ask(
            "SELECT p.oid::regprocedure::text, r.rolname FROM pg_proc AS p, pg_roles AS r "
            "WHERE p.pronamespace::regnamespace::text LIKE 'fluxai%' "
            "AND r.rolname IN ('anon', 'authenticated', 'authenticator', 'pg_read_all_data') "
            "AND has_function_privilege(r.oid, p.oid, 'EXECUTE') ORDER BY 1, 2"
        )
        assert found == [("fluxai.tenant_of_token()", "authenticated")]

    def test_the_public_has_no_right_to_anything(self, ask: Callable[[str], list[Any]]) -> None:
        """Neither to a schema nor to a relation nor to a function: PUBLIC is in no list of rights."""
        found = ask(
            "SELECT name FROM ("
            "SELECT nspname::text AS name, nspacl AS acl FROM pg_namespace "
            "WHERE nspname LIKE 'fluxai%' UNION ALL "
            "SELECT c.oid::regclass::text, relacl FROM pg_class AS c "
            "WHERE relnamespace::regnamespace::text LIKE 'fluxai%' UNION ALL "
            "SELECT p.oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)) "
            "FROM pg_proc AS p WHERE pronamespace::regnamespace::text LIKE 'fluxai%') AS f, "
            "aclexplode(f.acl) AS a WHERE a.grantee = 0"
        )
        assert found == []

    def test_rights_to_tables_are_those_that_are_needed(
        self, ask: Callable[[str], list[Any]]
    ) -> None:
        """A tenant may select what has a policy; the service may not hang triggers on tables."""
        found = ask(
            "SELECT DISTINCT r.rolname, a.privilege_type FROM pg_class AS c, "
            "aclexplode(c.relacl) AS a JOIN pg_roles AS r ON r.oid = a.grantee "
            "WHERE c.relnamespace::regnamespace::text LIKE 'fluxai%' "
            "AND a.grantee <> c.relowner ORDER BY 1, 2"
        )
        assert found == [
            ("authenticated", "SELECT"),
            *(("service_role", one) for one in ("DELETE", "INSERT", "SELECT", "UPDATE", "USAGE")),
        ]
        readable = ask(
            "SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = 'fluxai'::regnamespace "
            "AND c.relkind IN ('r', 'p') AND has_table_privilege('authenticated', c.oid, 'SELECT') "
            "ORDER BY 1"
        )
        policies = ask("SELECT tablename FROM pg_policies ORDER BY 1")
        assert readable == policies

    def test_every_policy_shows_a_tenant_its_own(self, ask: Callable[[str], list[Any]]) -> None:
        """There is one kind of policy: to read, for who is signed in, by the signed tenant."""
        found = ask("SELECT DISTINCT cmd, roles::text, permissive, qual FROM pg_policies")
        assert found == [
            (
                "SELECT",
                "{authenticated}",
                "PERMISSIVE",
                "(tenant = ( SELECT fluxai.tenant_of_token() AS tenant_of_token))",
            )
        ]

    def test_every_table_has_row_level_security(self, ask: Callable[[str], list[Any]]) -> None:
        """Also partitions, the default ones and those of months that were made later."""
        found = ask(
            "SELECT count(*), count(*) FILTER (WHERE relispartition), "
            "array_agg(c.oid::regclass::text) FILTER (WHERE NOT relrowsecurity) FROM pg_class AS c "
            "WHERE relnamespace::regnamespace::text LIKE 'fluxai%' AND relkind IN ('r', 'p')"
        )
        ((tables, partitions, without),) = found
        assert without is None
        assert tables > partitions > 3 * 3 * 2

    def test_views_ask_with_the_rights_of_the_reader(self, ask: Callable[[str], list[Any]]) -> None:
        """Every view is `security_invoker`; nothing else is shown but functions."""
        found = ask(
            "SELECT relname, relkind::text, reloptions FROM pg_class "
            "WHERE relnamespace = 'fluxai_api'::regnamespace"
        )
        assert found
        assert {(kind, *options) for _, kind, options in found} == {("v", "security_invoker=true")}

    def test_every_function_says_where_names_are_looked_up(
        self, ask: Callable[[str], list[Any]]
    ) -> None:
        """A path is set, or the body was read when the function was made."""
        found = ask(
            "SELECT p.oid::regprocedure::text FROM pg_proc AS p "
            "WHERE p.pronamespace::regnamespace::text LIKE 'fluxai%' AND p.prosqlbody IS NULL "
            "AND NOT coalesce(p.proconfig::text LIKE '%search_path=%', false)"
        )
        assert found == []

    def test_no_call_waits_for_a_compiler(self, ask: Callable[[str], list[Any]]) -> None:
        """Plans that may not read whole tables look dear, and would be compiled each time."""
        found = ask(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'fluxai_api'::regnamespace "
            "AND NOT coalesce('jit=off' = ANY (proconfig), false)"
        )
        assert found == []

    def test_the_owners_rights_are_lent_to_two_functions(
        self, ask: Callable[[str], list[Any]]
    ) -> None:
        """They make and drop months; they, and all they call, look into `pg_temp` last."""
        functions = {
            name: (body, definer, read_when_made, path)
            for name, body, definer, read_when_made, path in ask(
                "SELECT p.proname, coalesce(p.prosrc, '') , p.prosecdef, "
                "p.prosqlbody IS NOT NULL, p.proconfig::text "
                "FROM pg_proc AS p WHERE p.pronamespace::regnamespace::text = 'fluxai'"
            )
        }
        lent = {name for name, (_, definer, *_) in functions.items() if definer}
        assert lent == {"make_months", "prune"}
        shown = ask(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'fluxai_api'::regnamespace "
            "AND prosecdef"
        )
        assert shown == []
        reached: set[str] = set()
        while lent:
            name = lent.pop()
            reached.add(name)
            body, _, read_when_made, path = functions[name]
            assert read_when_made or "search_path=pg_catalog, pg_temp" in path, name
            called = set(re.findall(r"fluxai\.(\w+)\(", body)) & set(functions)
            lent |= called - reached
        assert {"make_part", "lock_tenants", "sums"} <= reached


class TestAttacks:
    """Somebody with a session of their own, as one of the roles."""

    @pytest.fixture
    def session(self, grown: SupabaseDatabase) -> Iterator[psycopg.Connection[Any]]:
        """Return a session of the role that the REST server logs in as."""
        with psycopg.connect(grown.authenticator_url, autocommit=True) as connection:
            yield connection

    @pytest.mark.parametrize(
        "call",
        ["make_months(2429913600000000)", "prune(1640995200000000)"],
        ids=lambda one: one[:5],
    )
    def test_the_owners_rights_run_no_code_of_a_caller(
        self, session: psycopg.Connection[Any], call: str
    ) -> None:
        """Temporary types under the names of real ones, with checks that run code, are not used."""
        said: list[str] = []
        session.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
        session.execute("SET ROLE service_role")
        names = ("timestamptz", "text", "jsonb", "uuid", "int8", "int4", "bool", "name", "numeric")
        for name in names:
            session.execute(
                f"CREATE FUNCTION pg_temp.evil(pg_catalog.{name}) RETURNS pg_catalog.bool "
                f"LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', current_user; RETURN true; END $$"
            )
            session.execute(
                f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{name} CHECK (pg_temp.evil(VALUE))"
            )
        session.execute(f"SELECT fluxai.{call}")
        assert set(said) <= {"service_role"}

    def test_no_trigger_of_a_caller_runs_with_the_owners_rights(
        self, session: psycopg.Connection[Any]
    ) -> None:
        """The service writes rows; what happens on writing is not its to say."""
        session.execute("SET ROLE service_role")
        session.execute(
            "CREATE FUNCTION pg_temp.evil() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RETURN NULL; END $$"
        )
        for table in ("counters", "events", "horizon", "approvals"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(
                    f"CREATE TRIGGER evil AFTER DELETE ON fluxai.{table} "
                    f"FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.evil()"
                )

    @pytest.mark.parametrize("role", ["anon", "authenticated"])
    def test_a_session_of_a_role_gets_no_further_than_the_views(
        self, session: psycopg.Connection[Any], role: str
    ) -> None:
        """No name of the schema behind them, no other path, nothing to create there."""
        session.execute(f"SET ROLE {role}")
        for statement in (
            "SELECT * FROM fluxai.events",
            "SELECT * FROM fluxai.events_other",
            "SELECT fluxai.read_clock()",
            "SELECT fluxai.tenant_of_token()",
            "SELECT fluxai.make_months(NULL)",
            "SELECT nextval('fluxai.event_seq')",
            "CREATE TABLE fluxai.mine (one int)",
            "CREATE TABLE fluxai_api.mine (one int)",
            "CREATE FUNCTION fluxai.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "ALTER TABLE fluxai.events DISABLE ROW LEVEL SECURITY",
            "DROP POLICY own_tenant ON fluxai.events",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement)
        session.execute("SET search_path = fluxai, fluxai_api")
        with pytest.raises((psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable)):
            session.execute("SELECT read_clock(), (SELECT count(*) FROM records)")

    def test_a_cheap_function_sees_no_row_before_the_policy(
        self, session: psycopg.Connection[Any], grown: SupabaseDatabase
    ) -> None:
        """A filter that tells what it is given is given its own tenant's rows only."""
        with contextlib.closing(PostgresStorage(grown.owner_url)) as storage:
            governor = Governor(storage)
            governor.tools.put(Tool(id="dime", cost_per_unit="0.10"))
            for tenant in (OURS, THEIRS):
                spend(governor, tenant)
        said: list[str] = []
        session.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
        claims = json.dumps(of_tenant(OURS))
        session.execute("SELECT set_config('request.jwt.claims', %s, false)", [claims])
        session.execute("SET ROLE authenticated")
        session.execute(
            "CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS "
            "$$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
        )
        for view in surface_of(grown.admin_url).views:
            rows = session.execute(
                f"SELECT * FROM fluxai_api.{view} WHERE pg_temp.tell(tenant)"
            ).fetchall()
            assert rows, view
        assert set(said) == {OURS}


# -- what a wrong set-up says -----------------------------------------------------------------


def opened(url: str, key: str) -> None:
    """Open a project as a governor does, with no patience."""
    storage = SupabaseStorage(url, key=key, patience_s=0)
    try:
        storage.migrate()
    finally:
        storage.close()


class TestRemedies:
    """A project that can't be used says what to do."""

    @pytest.mark.parametrize(
        ("key", "remedy"),
        [
            (lambda api: api.anon_key, "has to be the service role's"),
            (lambda api: authenticated(api, **of_tenant(OURS)), "has to be the service role's"),
            (lambda _: forged("service_role"), "the key is not one of this project"),
            (
                lambda api: api.token(role="service_role", claims={"exp": int(time.time()) - 60}),
                "SUPABASE_SERVICE_ROLE_KEY",
            ),
        ],
        ids=["anon", "user", "wrong", "expired"],
    )
    def test_a_key_that_may_not_govern(
        self, project: Project, key: Callable[[Postgrest], str], remedy: str
    ) -> None:
        """The error names the variable that holds the key, and no part of the key."""
        secret = key(project.api)
        with pytest.raises(StorageError, match=remedy) as refused:
            opened(project.api.url, secret)
        assert "SUPABASE_SERVICE_ROLE_KEY" in str(refused.value)
        assert secret not in str(refused.value)
        assert refused.value.__cause__ is not None

    def test_a_schema_that_is_not_exposed(
        self, supabase_database: SupabaseDatabase, start_postgrest: StartPostgrest
    ) -> None:
        """The error says where to add it."""
        migrate(supabase_database.owner_url)
        api = start_postgrest(schemas=("public",))
        with pytest.raises(StorageError, match="add fluxai_api to the exposed schemas"):
            opened(api.url, api.service_key)

    def test_a_project_without_the_schema(self, start_postgrest: StartPostgrest) -> None:
        """The error says to run schema.sql."""
        api = start_postgrest(schemas=("public", API))
        with pytest.raises(StorageError, match=r"run schema\.sql"):
            opened(api.url, api.service_key)

    @pytest.mark.parametrize(("change", "said"), [(1, "upgrade fluxai"), (-1, "migrations")])
    def test_a_schema_of_another_version(
        self,
        supabase_database: SupabaseDatabase,
        start_postgrest: StartPostgrest,
        change: int,
        said: str,
    ) -> None:
        """The error says which side is to be upgraded."""
        migrate(supabase_database.owner_url)
        with psycopg.connect(supabase_database.owner_url, autocommit=True) as owner:
            owner.execute(
                "INSERT INTO fluxai.migrations (version) "
                "SELECT max(version) + 1 FROM fluxai.migrations"
                if change > 0
                else "DELETE FROM fluxai.migrations "
                "WHERE version = (SELECT max(version) FROM fluxai.migrations)"
            )
        api = start_postgrest(schemas=(API,))
        with pytest.raises(StorageError, match=said):
            opened(api.url, api.service_key)

    def test_a_row_on_its_way_while_its_month_is_made(
        self, supabase_database: SupabaseDatabase, start_postgrest: StartPostgrest
    ) -> None:
        """Nobody hears of it: it is written again."""
        url, moment = supabase_database.owner_url, datetime(2029, 7, 15, tzinfo=UTC)
        migrate(url)
        api = start_postgrest(schemas=(API,))
        storage = SupabaseStorage(api.url, key=api.service_key)
        with contextlib.closing(storage), Governor(storage, clock=FakeClock(moment)) as governor:
            governor.tools.put(Tool(id="search", cost_per_unit="0.10"))
            governor.settle(governor.reserve(tenant="ours", tool="search"))
            held = governor.reserve(tenant="others", tool="search")
            write_while_a_month_is_made(url, moment, lambda: governor.settle(held))
            assert storage.retries == 1
            assert count(url, "events_2029_07") == 2
            assert governor.verify().ok

    def test_a_project_that_is_away(self, project: Project) -> None:
        """The error names the place that can't be reached."""
        project.api.proxy.stop_accepting()
        with pytest.raises(StorageError, match=f"{project.api.url} is out of reach"):
            opened(project.api.url, project.api.service_key)

    def test_nothing_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error names the variable that is missing."""
        monkeypatch.delenv("SUPABASE_URL", raising=False)
        monkeypatch.delenv("SUPABASE_SERVICE_ROLE_KEY", raising=False)
        with pytest.raises(ConfigurationError, match="SUPABASE_URL"):
            Governor("supabase://")
        monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:1")
        with pytest.raises(ConfigurationError, match="SUPABASE_SERVICE_ROLE_KEY"):
            Governor("supabase://")


# -- the guide --------------------------------------------------------------------------------


def test_the_first_program_of_the_guide_runs(project: Project, tmp_path: Path) -> None:
    """It needs nothing but the two variables, and prints what was spent."""
    (block,) = (one for one in blocks_of(GUIDE) if one.text.startswith("# first_program.py"))
    program = tmp_path / "first_program.py"
    program.write_text(block.text, encoding="utf-8")
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("0.10\n", "")
