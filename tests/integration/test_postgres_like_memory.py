"""The Postgres store against the memory store: the same steps, the same answers, the same sums."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from fluxai.storage.postgres import PostgresStorage
from tests.integration.test_sqlite_like_memory import LikeMemory

EMPTY = """
DELETE FROM fluxai.counters; DELETE FROM fluxai.buckets; DELETE FROM fluxai.plans;
DELETE FROM fluxai.reservations; DELETE FROM fluxai.approvals; DELETE FROM fluxai.events;
DELETE FROM fluxai.labels; DELETE FROM fluxai.days; DELETE FROM fluxai.alerts;
DELETE FROM fluxai.records; DELETE FROM fluxai.versions; SELECT setval('fluxai.event_seq', 0)
"""
#: A round trip costs what a hundred steps in memory do: of the usual examples, one in so many.
EXAMPLES_SHARE = 10


def machine_on(url: str) -> Callable[[], LikeMemory]:
    """Return what makes a machine on a database, emptied each time."""

    class PostgresLikeMemory(LikeMemory):
        """Drives a memory store and two stores on one database through the same steps."""

        def open_stores(self) -> tuple[PostgresStorage, PostgresStorage]:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(EMPTY)
            return PostgresStorage(url, pool_size=1), PostgresStorage(url, pool_size=1)

    return PostgresLikeMemory


def test_the_same_steps_give_the_same_answers_as_memory(ledger_url: str) -> None:
    """Any run of verbs, by turns through two stores, answers and adds up as it does in memory."""
    profile = settings()
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine_on(ledger_url),
        settings=settings(profile, max_examples=max(1, profile.max_examples // EXAMPLES_SHARE)),
    )
