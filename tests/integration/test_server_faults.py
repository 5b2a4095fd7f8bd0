"""Answers that were lost, and servers that restart: every verb may be repeated, and nothing doubles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest

from fluxai import Governor, Policy, Tool
from fluxai.core.ids import Uuid7Source
from fluxai.storage.functions import FunctionStorage
from fluxai.storage.memory import MemoryStorage
from fluxai.storage.postgres import PostgresStorage
from fluxai.storage.supabase import SupabaseStorage
from fluxai.testing import FakeClock
from tests.servers.fixtures import StartPostgrest
from tests.servers.ledger import Ledger, Project
from tests.servers.postgres import PostgresServer
from tests.servers.supabase import SupabaseDatabase
from tests.servers.tcp_proxy import TcpProxy

PATIENCE_S = 60


class Wire:
    """A store behind a proxy, and the ways in which that breaks."""

    def __init__(self, storage: FunctionStorage, proxy: TcpProxy, *, names_functions: bool) -> None:
        self.storage = storage
        self.proxy = proxy
        self.names_functions = names_functions

    def break_next(self, how: str) -> None:
        """Let the next call go wrong."""
        match how:
            case "lost answer" if self.names_functions:
                self.proxy.lose_answer_to(b"/rpc/")
            case "lost answer":
                self.proxy.lose_answer()
            case "lost request" if self.names_functions:
                self.proxy.lose_request_with(b"/rpc/")
            case _:
                # Whatever a connection was used for, it is gone.
                self.proxy.cut()


@pytest.fixture(params=["postgres", "supabase"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """Return an empty store of each kind, behind a proxy."""
    storage: FunctionStorage
    if request.param == "postgres":
        ledger: Ledger = request.getfixturevalue("ledger")
        proxy: TcpProxy = request.getfixturevalue("postgres_proxy")
        storage = PostgresStorage(proxy.through(ledger.url), patience_s=PATIENCE_S)
        made = Wire(storage, proxy, names_functions=False)
    else:
        project: Project = request.getfixturevalue("project")
        api = project.api
        storage = SupabaseStorage(api.url, key=api.service_key, patience_s=PATIENCE_S)
        made = Wire(storage, api.proxy, names_functions=True)
    with closing(storage):
        yield made


def every_verb(governor: Governor, clock: FakeClock, fault: Callable[[], None]) -> list[Any]:
    """Call each verb once, a fault before each; return what they answered."""
    answers: list[Any] = []

    def call(verb: Callable[[], Any]) -> Any:
        fault()
        answer = verb()
        answers.append(answer)
        return answer

    call(lambda: governor.tools.put(Tool(id="dime", cost_per_unit="0.10")))
    for name, kind, value, decision in (
        ("all", "total", "2.00", "deny"),
        ("ask", "per_request", "0.25", "require_approval"),
    ):
        policy = Policy(
            id=name, tenant_id="acme", limit_type=kind, limit_value=value, decision=decision
        )
        call(lambda policy=policy: governor.policies.put(policy))
    dime = {"tenant": "acme", "tool": "dime"}
    first = call(lambda: governor.reserve(**dime, idempotency_key="one"))
    second = call(lambda: governor.reserve(**dime, units=2, labels={"team": "red"}))
    third = call(lambda: governor.reserve(**dime))
    dear = [call(lambda: governor.reserve(**dime, units=3)) for _ in range(2)]
    call(lambda: governor.extend(second, ttl="3h"))
    call(lambda: governor.settle(first, cost="0.05"))
    call(lambda: governor.settle(second, cost="0.30"))
    call(lambda: governor.release(third))
    call(lambda: governor.approvals.approve(dear[0].id, by="eve"))
    call(lambda: governor.approvals.reject(dear[1].id, by="eve", reason="no"))
    call(lambda: governor.record(**dime, cost="0.40", id="past"))
    call(lambda: governor.adjust("past", "-0.10", reason="rebate", by="eve", id="fix"))
    call(lambda: governor.reserve(**dime, ttl="1s"))
    clock.advance("1h")
    call(governor.expire)
    call(lambda: governor.policies.delete("ask"))
    return answers


def state_of(governor: Governor) -> dict[str, Any]:
    """Read all that verbs can change."""
    return {
        "events": sorted(
            (one.id, one.cost, one.decision, sorted(one.flags)) for one in governor.events()
        ),
        "reservations": sorted((one.id, one.state) for one in governor.reservations()),
        "approvals": sorted((one.id, one.state) for one in governor.approvals.list()),
        "budgets": [(one.policy_id, one.settled, one.reserved) for one in governor.budgets("acme")],
        "usage": governor.usage("acme").total_cost,
    }


def scripted(
    storage: Any, fault: Callable[[], None]
) -> tuple[list[Any], dict[str, Any], list[Any]]:
    """Run the script on a store, always with the same clock and ids."""
    alerts: list[Any] = []
    clock = FakeClock()
    governor = Governor(storage, clock=clock, ids=Uuid7Source(seed=7), sinks=[alerts.append])
    answers = every_verb(governor, clock, fault)
    fault()
    assert governor.verify().ok
    shown = [(type(one).__name__, getattr(one, "id", None)) for one in answers]
    return shown, state_of(governor), sorted((one.policy_id, one.share) for one in alerts)


@pytest.mark.parametrize("how", ["lost answer", "lost request", "cut"])
def test_every_verb_survives_a_broken_wire(wire: Wire, how: str) -> None:
    """With a fault before each verb, answers, rows and alerts are those of a store without any."""
    expected = scripted(MemoryStorage(), lambda: None)
    assert scripted(wire.storage, lambda: wire.break_next(how)) == expected
    # An idle connection that was cut may be noticed by the client before it is used again.
    assert wire.storage.retries > 10 or (how == "cut" and wire.names_functions)


# -- restarts in mid-run ----------------------------------------------------------------------


class Spending:
    """What threads have settled, as it was acknowledged."""

    def __init__(self) -> None:
        self.settled: list[str] = []
        self._news = threading.Semaphore(0)

    def add(self, event_id: str) -> None:
        self.settled.append(event_id)
        self._news.release()

    def reach(self, more: int) -> None:
        """Wait until so many more calls were settled."""
        while self._news.acquire(blocking=False):
            pass
        for _ in range(more):
            assert self._news.acquire(timeout=PATIENCE_S), "no calls are settled any more"


@contextmanager
def spending(governor: Governor, callers: int) -> Iterator[Spending]:
    """Reserve and settle from several threads while the block runs."""
    done = threading.Event()
    spent = Spending()

    def work(_: int) -> None:
        while not done.is_set():
            held = governor.reserve(tenant="acme", tool="dime")
            assert held.allowed
            spent.add(governor.settle(held, cost="0.07").event_id)

    with ThreadPoolExecutor(callers) as pool:
        workers = [pool.submit(work, number) for number in range(callers)]
        try:
            yield spent
        finally:
            done.set()
            # What stopped a caller says more than that nothing is settled any more.
            for worker in workers:
                worker.result()


def prove(governor: Governor, settled: list[str]) -> None:
    """Check that what was acknowledged is there, each once."""
    stored: list[str] = []
    after = 0
    while page := governor.events(after=after, limit=1_000):
        stored += [event.id for event in page]
        after = page[-1].seq
    assert sorted(stored) == sorted(settled)
    assert governor.verify().ok
    assert {one.state for one in governor.reservations(limit=100_000)} == {"settled"}


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_restarts_in_mid_run(
    stoppable_postgres: PostgresServer, ledger: Ledger, mode: Any
) -> None:
    """Callers wait, go on, and lose nothing, also where the server crashes."""
    storage = PostgresStorage(ledger.url, patience_s=PATIENCE_S)
    with Governor(storage) as governor:
        governor.tools.put(Tool(id="dime", cost_per_unit="0.10"))
        with spending(governor, 8) as spent:
            spent.reach(50)
            stoppable_postgres.restart(mode)
            spent.reach(50)
        prove(governor, spent.settled)
    assert storage.retries > 0


@pytest.mark.parametrize("what", ["PostgREST", "PostgreSQL"])
def test_a_project_restarts_in_mid_run(
    stoppable_postgres: PostgresServer,
    supabase_database: SupabaseDatabase,
    start_postgrest: StartPostgrest,
    what: str,
) -> None:
    """The same through the REST server, whichever of the two restarts."""
    with closing(PostgresStorage(supabase_database.owner_url)) as owner:
        owner.migrate()
    api = start_postgrest(schemas=("fluxai_api",))
    storage = SupabaseStorage(api.url, key=api.service_key, patience_s=PATIENCE_S)
    with Governor(storage) as governor:
        governor.tools.put(Tool(id="dime", cost_per_unit="0.10"))
        with spending(governor, 8) as spent:
            spent.reach(50)
            if what == "PostgREST":
                api.restart()
            else:
                stoppable_postgres.restart("immediate")
                # It looks for its database after pauses that grow.
                api.wait_until_ready()
            spent.reach(50)
        prove(governor, spent.settled)
    assert storage.retries > 0
