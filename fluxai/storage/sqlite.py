"""The SQLite store: one file, several processes, everything that it acknowledged on the disk."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxai.core.errors import StorageError
from fluxai.core.windows import DAY_US
from fluxai.storage.base import (
    Alert,
    Ask,
    Balance,
    Change,
    LedgerReport,
    Overdue,
    Rules,
    UsageRow,
    Version,
)
from fluxai.storage.combined import CombinedStorage
from fluxai.storage.items import Before, Item, event_key, time_of
from fluxai.storage.sqlite_book import SqliteBook, balance_of
from fluxai.storage.sqlite_file import SqliteFile
from fluxai.storage.sqlite_resident import Resident, resident_of
from fluxai.storage.sqlite_rows import (
    Row,
    alert_of,
    approval_of,
    counter_of,
    event_of,
)
from fluxai.storage.sqlite_verify import verify
from fluxai.storage.statements import load_statements

if TYPE_CHECKING:
    from fluxai.core.decisions import Approval, Reservation, UsageEvent
    from fluxai.core.ledger import CounterFilter, CounterKey

log = logging.getLogger("fluxai")

#: After so many changed rows the log is moved into the file, and ended windows are let go.
ROWS_PER_TIDYING = 2_000
ENDED_PER_TIDYING = 1_000


class SqliteStorage(CombinedStorage):
    """Keep the ledger in a file.

    Calls of many threads share transactions; those of many processes take turns. What a verb has
    returned survives a crash of the process and of the machine.

    Args:
        url: `sqlite:///file.db`, relative to the working folder or absolute, or a path.
        busy_timeout_s: How long to wait while another program has the file locked.
        mounts: Where the operating system lists its mounts, to tell network file systems.

    Raises:
        ConfigurationError: The URL names no file.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        busy_timeout_s: float = 5.0,
        mounts: Path = Path("/proc/mounts"),
    ) -> None:
        super().__init__()
        self._file = SqliteFile(url, busy_timeout_s=busy_timeout_s, mounts=mounts)
        self._sql = load_statements("sqlite_queries.sql")
        self._resident: Resident | None = None
        self._rows_untidy = 0

    @property
    def url(self) -> str:
        """The URL by which any process opens this store."""
        return f"sqlite:///{self._file.path}"

    @property
    def spool_path(self) -> str:
        """Where settlements that can't reach this store are kept meanwhile."""
        return f"{self._file.path}.spool"

    @property
    def commits(self) -> int:
        """How many transactions this object has committed; verbs share them."""
        return self._file.commits

    def migrate(self) -> None:
        """Create the file, or check it and bring its schema up to date."""
        self._file.migrate()

    # -- verbs ------------------------------------------------------------------------------

    def expire(self, at_us: int, *, limit: int, on_expiry: str = "release") -> Overdue:
        """End overdue reservations, oldest first."""
        with self._item_faults(), self._writing() as book:
            return book.expire(at_us, limit, on_expiry)

    def _tidy(self) -> None:
        """Move a long log into the file, and let the counters of ended windows go.

        This comes when a verb's transaction is over, so that only one caller waits for it.
        """
        if self._rows_untidy < ROWS_PER_TIDYING:
            return
        # Set first, so that others leave it to this thread.
        self._rows_untidy = 0
        try:
            with self._writing() as book:
                book.drop_ended_counters(self._latest_us, ENDED_PER_TIDYING)
            self._file.checkpoint()
        except StorageError as error:
            self.tidying_errors += 1
            log.warning("%s could not be tidied up; it will be tried again: %s", self.url, error)

    def _carry_out_in_order(self, items: Sequence[Item]) -> list[Any]:
        return self._carry_out(items)

    def _carry_out(self, items: Sequence[Item]) -> list[Any]:
        """Carry out a batch in one transaction, in order, whole or not at all."""
        if not items:
            return []
        before = [Before(item.reservation) for item in items if isinstance(item, Ask)]
        try:
            with self._writing() as book:
                book.prefetch(items)
                answers = [
                    book.reserve(item) if isinstance(item, Ask) else book.resolve(item)
                    for item in items
                ]
                self._latest_us = max(self._latest_us, time_of(items[-1]))
                return answers
        except BaseException:
            for kept in before:
                kept.restore()
            raise

    @contextmanager
    def _writing(self) -> Iterator[SqliteBook]:
        """Open the book for one transaction; what the verbs change is written when it is left."""
        file = self._file
        with file.writing() as connection:
            resident = self._resident = resident_of(connection, file.commits, self._resident)
            # From the first change to the commit it may say what is not so.
            resident.commits = -1
            rows = connection.total_changes
            book = SqliteBook(connection, resident, settle_on_expiry=self.settle_on_expiry)
            yield book
            book.flush()
            resident.commits = file.commits + 1
            self._rows_untidy += connection.total_changes - rows
        self.notices.alerts.extend(book.notices.alerts)

    @contextmanager
    def _item_faults(self) -> Iterator[None]:
        """Let an item that the database can't take leave as `StorageError`."""
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._file.fault(error) from error

    # -- records ----------------------------------------------------------------------------

    def apply(
        self,
        changes: Sequence[Change],
        expected_version: Version | None = None,
        *,
        unfed: Sequence[CounterFilter] = (),
    ) -> None:
        """Change records; what was compiled from the old ones is stale from here on.

        Raises:
            StorageError: The rules are not at `expected_version` any more, or another scope has an
                id that is to be a record's `sole` one.
        """
        scopes = sorted({change.scope for change in changes})
        with self._item_faults(), self._writing() as book:
            for scope in scopes:
                if scope != "*" and expected_version not in (None, book.version(scope)):
                    raise StorageError("the rules changed meanwhile; read them again and retry")
            if any(change.sole and book.has_elsewhere(change) for change in changes):
                raise StorageError("the rules changed meanwhile; read them again and retry")
            book.put_records(changes)
            book.raise_versions(scopes)
            if unfed:
                for scope in scopes:
                    book.drop_counters(unfed, None if scope == "*" else scope)

    def version(self, tenant: str) -> Version:
        """Read the version of the rules that decide about a tenant."""
        with self._reading() as book:
            return book.version(tenant)

    def rules(self, tenant: str) -> Rules:
        """Read what decides about a tenant, at one version."""
        with self._reading() as book:
            scopes = ("*",) if tenant == "*" else ("*", tenant)
            return Rules(
                version=book.version(tenant),
                tenant=next(iter(book.records("tenant", tenant, tenant, 1)), None),
                policies=tuple(
                    row for scope in scopes for row in book.records("policy", scope, None, -1)
                ),
                grants=tuple(
                    row for scope in scopes for row in book.records("grant", scope, None, -1)
                ),
            )

    def records(
        self,
        kind: str,
        *,
        scope: str | None = None,
        id: str | None = None,  # noqa: A002 -- the protocol's name
        limit: int = 10_000,
    ) -> list[dict[str, Any]]:
        """Read records, by id where one is given, in the order in which they were first put."""
        with self._reading() as book:
            return book.records(kind, scope, id, limit)

    # -- looking ----------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[SqliteBook]:
        """Open the book on one snapshot, to look only."""
        with self._snapshot() as connection:
            yield SqliteBook(connection, Resident(connection), read_only=True)

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        with self._item_faults(), self._file.reading() as connection:
            yield connection

    def find(self, tenant: str | None, uid: int) -> Reservation | None:
        """Read one reservation."""
        with self._reading() as book:
            return book.look_up(tenant, uid)

    def find_event(self, tenant: str | None, key: int | str) -> UsageEvent | None:
        """Read one event."""
        with self._reading() as book:
            return book.look_up_event(tenant, event_key(key))

    def reservations(
        self, *, state: str | None = None, tenant: str | None = None, limit: int = 1_000
    ) -> list[Reservation]:
        """Read reservations, newest first."""
        with self._reading() as book:
            return book.list_reservations(state, tenant, limit)

    def events(
        self, *, after: int = 0, limit: int = 100, tenant: str | None = None
    ) -> list[UsageEvent]:
        """Read events in the order they were settled."""
        name = "events_after" if tenant is None else "tenant_events_after"
        return [event_of(row) for row in self._rows(name, after, tenant, limit)]

    def recent_events(
        self, tenant: str, start_us: int, end_us: int, *, user: str | None, limit: int
    ) -> list[UsageEvent]:
        """Read the latest events counted in a half-open stretch of time, newest first."""
        if user is None:
            rows = self._rows("recent_events", tenant, start_us, end_us, limit)
        else:
            rows = self._rows("recent_user_events", tenant, start_us, end_us, user, limit)
        return [event_of(row) for row in rows]

    def approvals(
        self, *, tenant: str | None = None, state: str | None = None, limit: int = 1_000
    ) -> list[Approval]:
        """Read approvals, newest first."""
        return [approval_of(row) for row in self._rows("list_approvals", tenant, state, limit)]

    def balances(self, keys: Sequence[tuple[CounterKey, int]], at_us: int) -> list[Balance]:
        """Read counters without making any."""
        with self._reading() as book:
            return [book.balance(key, end_us, at_us) for key, end_us in keys]

    def accounts(
        self, tenant: str, scope: str, measure: str, kind: str, at_us: int, *, limit: int = 1_000
    ) -> list[Balance]:
        """Read the existing counters of one scope, measure and kind whose window holds `at_us`."""
        rows = self._rows("counters_at", tenant, scope, measure, kind, at_us, limit)
        return [balance_of(counter_of(row), at_us) for row in rows]

    def usage(self, tenant: str, start_us: int, end_us: int) -> list[UsageRow]:
        """Sum events: whole UTC days from the daily sums, the edges event by event."""
        first, last = -(-start_us // DAY_US), end_us // DAY_US
        if first < last:
            edges = [(start_us, first * DAY_US), (last * DAY_US, end_us)]
        else:
            edges = [(start_us, end_us)]
        rows = []
        with self._snapshot() as connection:
            if first < last:
                rows += connection.execute(
                    self._sql["usage_of_days"], (tenant, first, last)
                ).fetchall()
            for low_us, high_us in edges:
                if low_us < high_us:
                    rows += connection.execute(
                        self._sql["usage_of_events"], (tenant, low_us, high_us)
                    ).fetchall()
        return _summed(rows)

    def verify(self) -> LedgerReport:
        """Compare every counter and daily sum with the events and open reservations."""
        with self._snapshot() as connection:
            return verify(connection)

    def outbox(self, *, after: int = 0, limit: int = 100) -> list[tuple[int, Alert]]:
        """Read the alerts that were raised, in order."""
        return [alert_of(row) for row in self._rows("alerts_after", after, limit)]

    def now_offset_us(self, at_us: int) -> int:  # noqa: ARG002 -- one machine, one clock
        """Processes that share a file share the machine's clock."""
        return 0

    def close(self) -> None:
        """Finish what is queued and let go of the file."""
        self._combiner.close()
        self._file.close()

    def _rows(self, name: str, *values: object) -> list[Row]:
        with self._snapshot() as connection:
            return connection.execute(self._sql[name], values).fetchall()


def _summed(rows: Sequence[Row]) -> list[UsageRow]:
    """Add up rows of one group: user, tool, model, then cost, tokens, requests, events."""
    sums: dict[tuple[Any, str, Any], list[int]] = {}
    for user, tool, model, *amounts in rows:
        # Daily sums write 0 where there is no user or no model.
        group = (user if user != 0 else None, tool, model if model != 0 else None)
        into = sums.setdefault(group, [0, 0, 0, 0])
        for index, amount in enumerate(amounts):
            into[index] += amount
    return [
        UsageRow(
            user=user,
            tool=tool,
            model=model,
            cost_nanousd=cost,
            tokens=tokens,
            requests=requests,
            events=events,
        )
        for (user, tool, model), (cost, tokens, requests, events) in sums.items()
    ]
