"""What the writer of a SQLite file keeps at hand between its transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fluxai.core.ledger import Counter, CounterKey

if TYPE_CHECKING:
    from fluxai.storage.base import Version

COUNTERS_RESIDENT_MAX = 20_000
PLANS_RESIDENT_MAX = 100_000
TENANTS_RESIDENT_MAX = 100_000
FIRED_REMEMBERED_MAX = 10_000

_Fired = tuple[CounterKey, str, str]


class Resident:
    """What a writer may keep from one transaction to the next, until somebody else writes.

    `data_version` is SQLite's own word on that: it changes when another connection has committed.
    `commits` is what the writer's count must be; where it isn't, the transaction that changed this
    was rolled back.
    """

    def __init__(
        self, connection: sqlite3.Connection, data_version: int = 0, commits: int = 0
    ) -> None:
        self.connection = connection
        self.data_version = data_version
        self.commits = commits
        self.counters: dict[CounterKey, Counter] = {}
        self.counters_by_id: dict[int, Counter] = {}
        self.plans: dict[bytes, int] = {}
        self.versions: dict[str, Version] = {}
        self.last_event: int | None = None
        #: Alerts known to have been raised. That stays true, whoever writes.
        self.fired: set[_Fired] = set()

    def add(self, counter: Counter) -> None:
        """Keep a counter that has a row."""
        self.counters[counter.key] = counter
        self.counters_by_id[counter.row_id] = counter

    def forget(self, row_ids: Iterable[int]) -> None:
        """Let go of counters whose rows are gone."""
        for row_id in row_ids:
            counter = self.counters_by_id.pop(row_id, None)
            if counter is not None:
                del self.counters[counter.key]

    def holds(self, connection: sqlite3.Connection, data_version: int, commits: int) -> bool:
        """Say whether all of this is still true, and within its bounds."""
        return (
            self.connection is connection
            and self.data_version == data_version
            and self.commits == commits
            and len(self.counters) < COUNTERS_RESIDENT_MAX
            and len(self.plans) < PLANS_RESIDENT_MAX
            and len(self.versions) < TENANTS_RESIDENT_MAX
            and len(self.fired) < FIRED_REMEMBERED_MAX
        )


def resident_of(connection: sqlite3.Connection, commits: int, before: Resident | None) -> Resident:
    """Return what was kept, if it is still true, or a new beginning."""
    (data_version,) = connection.execute("PRAGMA data_version").fetchone()
    if before is not None and before.holds(connection, data_version, commits):
        return before
    return Resident(connection, data_version, commits)
