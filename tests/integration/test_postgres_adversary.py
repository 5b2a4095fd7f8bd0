"""Hostile callers on overlapping budgets, watched by plain SQL: no state above a limit, no cent lost."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from fluxai.core.decisions import Reservation, UsageEvent
from fluxai.core.windows import HOUR_US
from fluxai.storage.base import Release
from fluxai.storage.postgres import PostgresStorage
from tests.unit.storage.making import CENT, NOON_US, USD, Limit, Maker, plan_for

CONNECTIONS = 24
LIMITS = {
    "tenant": Limit(amount=4 * USD, kind="total"),
    "user": Limit(amount=150 * CENT, scope="user"),
    "label": Limit(amount=2 * USD, scope="label", value="run=1"),
    "rolling": Limit(amount=350 * CENT, kind=f"rolling:{HOUR_US}"),
    "tool": Limit(amount=3 * USD, scope="tool"),
}
#: What is spent and held, by everything that a limit looks at; none of the ledger's own sums.
LOOK = """
WITH money AS (
    SELECT "user", tool, labels, cost FROM fluxai.events
    UNION ALL
    SELECT "user", tool, labels, cost FROM fluxai.reservations
    WHERE state IN ('pending', 'reserved')
)
SELECT 'tenant', coalesce(sum(cost), 0) FROM money
UNION ALL SELECT 'rolling', coalesce(sum(cost), 0) FROM money
UNION ALL SELECT 'user', sum(cost) FROM money GROUP BY "user"
UNION ALL SELECT 'tool', sum(cost) FROM money GROUP BY tool
UNION ALL SELECT 'label', sum(cost) FROM money WHERE labels @> '{"run": "1"}'
"""


def watch(url: str, done: threading.Event) -> list[Any]:
    """Look again and again until the others are done; return every state above a limit."""
    over = []
    with psycopg.connect(url, autocommit=True) as connection:
        last = False
        while not last:
            last = done.is_set()
            over += [
                (name, spent)
                for name, spent in connection.execute(LOOK)
                if spent is not None and spent > LIMITS[name].amount
            ]
    return over


def attack(
    store: PostgresStorage, seed: int, steps: int, shared: list[Any], *, late: bool
) -> Counter[str]:
    """Reserve, settle, release at random: repeated, out of order, and what others have asked for."""
    dice, maker, done = random.Random(seed), Maker(), Counter[str]()
    for _ in range(steps):
        plan = plan_for(
            list(LIMITS.values()),
            user=dice.choice(["alice", "bob", "carol", "dora"]),
            tool=dice.choice(["model-a", "tool-b"]),
            labels=dice.choice([(), (("run", "1"),)]),
        )
        amount = dice.randint(1, 15) * CENT
        uid = maker.new_id(NOON_US)
        asks = [maker.ask(plan, amount, uid=uid) for _ in range(dice.choice([1, 1, 2]))]
        for ask in asks:
            answer = store.reserve_one(ask)
            assert isinstance(answer, Reservation)
            done[answer.state] += 1
        if answer.state == "reserved":
            shared.append((answer, dice.randint(0, amount // CENT) * CENT))
        for _ in range(dice.choice([0, 1, 2])):
            if shared:
                # Whose it is, and whether it was settled or released before, does not matter.
                held, cost = dice.choice(shared)
                item: Any = maker.settle(held, cost, plan=plan_again(held), correction_uid=uid)
                # Unless settles may come late, each reservation is only settled or only released.
                if dice.random() < 0.3 if late else held.uid % 4 == 0:
                    item = Release(tenant="acme", uid=held.uid, at_us=NOON_US)
                done[type(store.resolve_one(item)).__name__] += 1
    return done


def plan_again(held: Reservation) -> Any:
    """Compile the plan of a reservation once more, for a settle that comes late."""
    subject = held.subject
    return plan_for(
        list(LIMITS.values()), user=subject.user, tool=held.final_tool, labels=subject.labels
    )


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("steps", [10, pytest.param(400, marks=pytest.mark.long)])
def test_no_state_above_a_limit_is_ever_seen(
    ledger_url: str, open_store: Callable[..., PostgresStorage], steps: int, *, late: bool
) -> None:
    """24 stores, each with a connection of its own, on five overlapping limits under a watcher."""
    done = threading.Event()
    shared: list[Any] = []
    stores = [open_store(pool_size=1, patience_s=60.0) for _ in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS + 1) as pool:
        watcher = pool.submit(watch, ledger_url, done)
        try:
            jobs = [
                pool.submit(attack, store, seed, steps, shared, late=late)
                for seed, store in enumerate(stores)
            ]
            counts = sum((job.result() for job in jobs), Counter[str]())
        finally:
            done.set()
        over = watcher.result()
    # A settle that comes after a release is charged whatever the limits say, and flagged.
    events = stores[0].events(limit=100_000)
    charged_late = sum(event.cost_nanousd for event in events if "late" in event.flags)
    assert [one for one in over if one[1] > LIMITS[one[0]].amount + charged_late] == []
    assert late or charged_late == 0
    assert counts["reserved"] > 0
    assert counts["refused"] > 0
    assert len({event.id for event in events}) == len(events)
    with psycopg.connect(ledger_url) as connection:
        row = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert row == (0,)
    report = stores[0].verify()
    assert report.ok, report.differences
    assert UsageEvent.__name__ in counts
