"""Concurrency, by counting money: threads, tasks and processes on one budget, under a watcher."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from fluxai import AsyncGovernor, Governor, Policy
from tests.integration import workers
from tests.integration.ledger_worker import TENANT, TOOL, prepare, spend
from tests.servers.ledger import Ledger, Project

CALLERS = 64
DOLLAR = 1_000_000_000

STORES = ("memory", "sqlite", "postgres", "supabase")
SHARED = [name for name in STORES if name != "memory"]

#: What a budget has spent and holds, by plain SQL: no code of ours adds anything up.
_SPENT = (
    "SELECT (SELECT coalesce(sum(cost), 0) FROM {0}events) + (SELECT coalesce(sum(cost), 0)"
    " FROM {0}reservations WHERE state IN ('pending', 'reserved'))"
)


class Store(NamedTuple):
    """An empty store: how a governor opens it, and a look at its rows past the governor."""

    url: str
    look: Callable[[], dict[str, int]]


def make_store(name: str, request: pytest.FixtureRequest, folder: Path) -> Store:
    """Return an empty store of one kind."""
    match name:
        case "memory":
            return Store("memory://", dict)
        case "sqlite":
            path = folder / "ledger.db"
            return Store(f"sqlite:///{path}", lambda: rows_of_file(path))
        case "postgres":
            ledger: Ledger = request.getfixturevalue("ledger")
            return Store(ledger.url, lambda: rows_of_database(ledger.url))
        case _:
            # Its URL and key are in the environment, also of processes that are started.
            project: Project = request.getfixturevalue("project")
            return Store("supabase://", lambda: rows_of_database(project.admin_url))


def rows_of_file(path: Path) -> dict[str, int]:
    """Look at a SQLite file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        ((spent,),) = connection.execute(_SPENT.format(""))
    return {"limit": spent}


def rows_of_database(url: str) -> dict[str, int]:
    """Look at a PostgreSQL database, on a connection of one's own."""
    with psycopg.connect(url) as connection:
        ((spent,),) = connection.execute(_SPENT.format("fluxai."))
    return {"limit": int(spent)}


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store, of each kind."""
    return make_store(request.param, request, tmp_path).url


@pytest.fixture(params=SHARED)
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store that processes can share, of each kind."""
    return make_store(request.param, request, tmp_path)


@contextmanager
def watched(look: Callable[[], dict[str, int]], limits: dict[str, int]) -> Iterator[list[Any]]:
    """Look again and again while the block runs; collect every state above a limit."""
    done = threading.Event()
    seen: list[Any] = []
    looks = [0]

    def watch() -> None:
        while not done.is_set():
            found = look()
            looks[0] += 1
            seen.extend(
                (name, found[name], most) for name, most in limits.items() if found[name] > most
            )

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
    assert looks[0] > 0


def budgets_of(governor: Governor) -> dict[str, int]:
    """Read what each budget has settled and reserved."""
    return {
        budget.policy_id: int((budget.settled + budget.reserved) * DOLLAR)
        for budget in governor.budgets(TENANT)
    }


def spent_by(governor: Governor) -> Decimal:
    """Add up every event."""
    spent, after = Decimal(0), 0
    while page := governor.events(after=after, limit=1_000):
        spent += sum(event.cost for event in page)
        after = page[-1].seq
    return spent


def test_threads_get_exactly_what_there_is(url: str) -> None:
    """64 concurrent ten-cent calls on a budget of a dollar: exactly ten are admitted."""
    with Governor(url) as governor:
        prepare(governor, "1.00")
        start = threading.Barrier(CALLERS)

        def call(_: int) -> bool:
            start.wait()
            return governor.reserve(tenant=TENANT, tool=TOOL).allowed

        with (
            watched(lambda: budgets_of(governor), {"limit": DOLLAR}) as over,
            ThreadPoolExecutor(CALLERS) as pool,
        ):
            admitted = sum(pool.map(call, range(CALLERS)))
        assert (admitted, over) == (10, [])
        assert governor.verify().ok


def test_tasks_get_exactly_what_there_is(url: str) -> None:
    """64 concurrent tasks that hold, and settle or let go, spend a dollar and not a cent more."""

    async def call(governor: AsyncGovernor, number: int) -> Decimal:
        held = await governor.reserve(tenant=TENANT, tool=TOOL)
        if not held.allowed:
            return Decimal(0)
        settled = await governor.settle(held, cost="0.10")
        return settled.cost

    async def main() -> None:
        async with AsyncGovernor(url) as governor:
            prepare(governor.governor, "1.00")
            spent = await asyncio.gather(*(call(governor, number) for number in range(CALLERS)))
            assert sum(spent) == 1
            assert sum(cost > 0 for cost in spent) == 10
            assert (await governor.verify()).ok
            assert spent_by(governor.governor) == 1

    asyncio.run(main())


def test_many_threads_on_overlapping_budgets(url: str) -> None:
    """Holds, settlements, repeats and releases at random: never over a limit, no cent lost."""
    with Governor(url) as governor:
        prepare(governor, "40")
        limits = {"limit": 40 * DOLLAR, "alice": 15 * DOLLAR, "x": 8 * DOLLAR}
        for name, scope, scope_id in (("alice", "user", "alice"), ("x", "label", "run=x")):
            governor.policies.put(
                Policy(
                    id=name,
                    tenant_id=TENANT,
                    scope=scope,  # type: ignore[arg-type]
                    scope_id=scope_id,
                    limit_type="daily",
                    limit_value=str(limits[name] // DOLLAR),
                )
            )
        with (
            watched(lambda: budgets_of(governor), limits) as over,
            ThreadPoolExecutor(16) as pool,
        ):
            cents = sum(pool.map(lambda seed: spend(governor, seed, 40), range(16)))
        assert over == []
        assert governor.verify().ok
        assert spent_by(governor) == Decimal(cents) / 100
        (total,) = [one for one in governor.budgets(TENANT) if one.policy_id == "limit"]
        assert total.settled == Decimal(cents) / 100
        held = sum(one.estimate.highest for one in governor.reservations(state="reserved"))
        assert total.reserved == held


def test_processes_get_exactly_what_there_is(shared: Store) -> None:
    """Four processes of sixteen threads each on one store: ten dimes of a dollar, no more."""
    with Governor(shared.url) as governor:
        prepare(governor, "1.00")
        with workers.started(shared.url, "burst", *[[16]] * 4) as processes:
            said = workers.finished(processes)
        assert sum(one["admitted"] for one in said) == 10
        assert governor.verify().ok


def test_many_processes_spend_no_cent_too_many_and_lose_none(shared: Store) -> None:
    """Four processes at random under a watcher that reads the rows itself: the sum is theirs."""
    with Governor(shared.url) as governor:
        prepare(governor, "30")
        with (
            watched(shared.look, {"limit": 30 * DOLLAR}) as over,
            workers.started(
                shared.url, "load", *[[1_000 * number, 4, 40] for number in range(4)]
            ) as processes,
        ):
            said = workers.finished(processes)
        assert over == []
        assert governor.verify().ok
        assert spent_by(governor) == Decimal(sum(one["cents"] for one in said)) / 100


def test_policies_edited_under_load_are_kept_from_the_next_call_on(url: str) -> None:
    """Limits raised and lowered while threads spend: what is admitted fits the highest of them."""
    with Governor(url) as governor:
        prepare(governor, "2")
        done, called = threading.Event(), threading.Semaphore(1)

        def edit() -> None:
            values = ["5", "3", "1", "4"]
            # One edit for each call that got through, so that calls are never starved by them.
            while called.acquire() and not done.is_set():
                values.append(values.pop(0))
                governor.policies.put(
                    Policy(id="limit", tenant_id=TENANT, limit_type="total", limit_value=values[0])
                )

        editor = threading.Thread(target=edit)
        editor.start()
        try:
            with (
                watched(lambda: budgets_of(governor), {"limit": 5 * DOLLAR}) as over,
                ThreadPoolExecutor(8) as pool,
            ):
                spenders = [
                    pool.submit(spend_patiently, governor, seed, called) for seed in range(8)
                ]
                cents = sum(spender.result() for spender in spenders)
        finally:
            done.set()
            called.release()
            editor.join()
        assert over == []
        assert governor.verify().ok
        assert spent_by(governor) == Decimal(cents) / 100


def spend_patiently(governor: Governor, seed: int, called: threading.Semaphore) -> int:
    """Spend, trying again where the rules changed too often while one call was decided.

    `called` is told of each call that got through.
    """
    from fluxai import StorageError

    settled = 0
    for number in range(10):
        for _ in range(1_000):
            try:
                settled += spend(governor, 100 * seed + number, 1)
            except StorageError as error:
                assert "changed" in str(error)
            else:
                called.release()
                break
    return settled
