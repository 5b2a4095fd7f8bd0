"""Whoever follows the events, or the alerts, by number misses none and gets none twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from fluxai.storage.batches import Batch
from fluxai.storage.postgres import PostgresStorage
from tests.unit.storage.making import USD, Limit, Maker, plan_for

WRITERS = 6
EVENTS = 40
OpenStore = Callable[..., PostgresStorage]


def follow(read: Callable[[int], list[int]], done: threading.Event) -> list[int]:
    """Read on from the last number until the writers are done and nothing more comes."""
    seen: list[int] = []
    while True:
        over = done.is_set()
        found = read(seen[-1] if seen else 0)
        seen += found
        if over and not found:
            return seen


def until_waiting(url: str, blocker: psycopg.Connection[Any]) -> None:
    """Return once another session waits for what `blocker` has locked."""
    pid = blocker.info.backend_pid
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))",
                (pid,),
            ).fetchone()
            if row is not None and row[0]:
                return


def test_a_reader_sees_every_event_once_while_many_write_and_roll_back(
    ledger_url: str, open_store: OpenStore
) -> None:
    """Writers of several tenants number, commit and roll back; the feed has no gap and no double."""
    done = threading.Event()
    reading = open_store()

    def write(number: int) -> None:
        store, maker = open_store(pool_size=1), Maker()
        plan = plan_for([Limit(amount=1000 * USD)], tenant=f"tenant {number % 4}")
        with psycopg.connect(ledger_url) as broken:
            for event in range(EVENTS):
                store.resolve_one(maker.record(plan, f"{number}/{event}"))
                lost = maker.record(plan, f"lost {number}/{event}")
                batch = Batch([lost], settle_on_expiry=False, known_plans=set()).body
                broken.execute("SELECT fluxai.carry_out(%s)", (json.dumps(batch),)).fetchone()
                broken.rollback()

    def read(after: int) -> list[int]:
        return [event.seq for event in reading.events(after=after, limit=7)]

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        reader = pool.submit(follow, read, done)
        writers = [pool.submit(write, number) for number in range(WRITERS)]
        try:
            for writer in writers:
                writer.result()
        finally:
            done.set()
        seen = reader.result()
    stored = sorted(event.seq for event in reading.events(limit=10_000))
    assert seen == stored
    assert len(seen) == WRITERS * EVENTS
    assert reading.verify().ok


def test_an_event_that_is_not_committed_yet_holds_back_those_numbered_after_it(
    ledger_url: str, postgres_store: PostgresStorage
) -> None:
    """A later event of another tenant is not shown before the earlier one has come, or has not."""
    maker = Maker()
    one, two = (plan_for([Limit(amount=USD)], tenant=tenant) for tenant in ("one", "two"))
    batch = Batch([maker.record(one, "first")], settle_on_expiry=False, known_plans=set()).body
    seen: list[str] = []
    for end, expected in (("rollback", ["rollback"]), ("commit", ["first", "commit"])):
        with psycopg.connect(ledger_url) as writer:
            writer.execute("SELECT fluxai.carry_out(%s)", (json.dumps(batch),)).fetchone()
            postgres_store.resolve([maker.record(two, end)])
            assert [event.id for event in postgres_store.events()] == seen
            getattr(writer, end)()
        seen += expected
        assert [event.id for event in postgres_store.events()] == seen


def test_an_alert_that_is_not_committed_yet_lets_none_go_before_it(
    ledger_url: str, open_store: OpenStore
) -> None:
    """Alerts are read in the order of their numbers: a later one waits for an earlier one."""
    store = open_store()
    row = ["acme", "tenant", "acme", "cost", "daily", 0, "policy", "0.8", 1, 1, 1]
    with psycopg.connect(ledger_url) as first, ThreadPoolExecutor(1) as pool:
        first.execute("SELECT fluxai.announce(%s)", (json.dumps([row]),)).fetchone()
        second: Any = pool.submit(store._call, "announce", raised=[[*row[:7], "0.9", *row[8:]]])
        until_waiting(ledger_url, first)
        assert store.outbox() == []
        first.commit()
        second.result()
    assert [alert.share for _, alert in store.outbox()] == ["0.8", "0.9"]
