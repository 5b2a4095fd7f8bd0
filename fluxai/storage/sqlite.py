"""The SQLite store: one file, several processes, everything that it acknowledged on the disk."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fluxai.core.decisions import OPEN_STATES, Approval, Reservation, UsageEvent
from fluxai.core.errors import StorageError
from fluxai.core.ledger import CounterKey
from fluxai.core.windows import DAY_US
from fluxai.storage.base import (
    Adjust,
    Alert,
    Ask,
    Balance,
    Capabilities,
    Change,
    LedgerReport,
    Notices,
    Overdue,
    Record,
    Refusal,
    Resolution,
    Rules,
    Settle,
    UsageRow,
    Version,
)
from fluxai.storage.book import opened
from fluxai.storage.combiner import Combiner
from fluxai.storage.outcomes import outcome_text
from fluxai.storage.sqlite_book import Resident, SqliteBook, resident_of
from fluxai.storage.sqlite_file import SqliteFile
from fluxai.storage.sqlite_rows import (
    alert_of,
    approval_of,
    counter_of,
    event_id,
    event_key,
    event_of,
    with_outcome_text,
)
from fluxai.storage.sqlite_verify import verify
from fluxai.storage.statements import load_statements

log = logging.getLogger("fluxai")

#: After so many changed rows the log is moved into the file, and ended windows are let go.
ROWS_PER_TIDYING = 2_000
ENDED_PER_TIDYING = 1_000

_Item = Ask | Resolution


class SqliteStorage:
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

    capabilities = Capabilities(durable=True, shared=True, blocking=True)

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        busy_timeout_s: float = 5.0,
        mounts: Path = Path("/proc/mounts"),
    ) -> None:
        self.notices = Notices()
        self.settle_on_expiry = False
        #: How often moving the log into the file failed. Nothing is lost by that.
        self.checkpoint_errors = 0
        self._file = SqliteFile(url, busy_timeout_s=busy_timeout_s, mounts=mounts)
        self._sql = load_statements("sqlite_queries.sql")
        self._combiner: Combiner[_Item, Any] = Combiner(self._carry_out)
        self._resident: Resident | None = None
        self._tidying = threading.Lock()
        self._tidied_rows = 0
        self._untidy = False

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

    def reserve_one(self, ask: Ask) -> Reservation | Refusal:
        """Decide one ask, in one transaction with whatever else is waiting."""
        reservation = ask.reservation
        extra = reservation.extra
        digest = None if extra is None else extra.digest
        name = ("reserve", reservation.subject.tenant, reservation.uid, digest)
        answer: Reservation | Refusal = self._submit(ask, name, urgent=False)
        return answer

    def resolve_one(self, item: Resolution) -> Any:
        """Resolve one item, in one transaction with whatever else is waiting."""
        item = _at_the_door(item)
        return self._submit(item, _name(item), urgent=True)

    def reserve(self, asks: Sequence[Ask]) -> list[Reservation | Refusal]:
        """Decide asks in one transaction."""
        with self._item_faults():
            return self._carry_out(asks)

    def resolve(self, items: Sequence[Resolution]) -> list[Any]:
        """Resolve items in one transaction."""
        with self._item_faults():
            return self._carry_out([_at_the_door(item) for item in items])

    def withdraw(self, ask: Ask) -> bool:
        """Take back an ask that waits in another thread, which then gets `Withdrawn`.

        Returns:
            Whether that came in time; if not, the ask is decided, and may hold money.
        """
        return self._combiner.withdraw(ask)

    def expire(self, at_us: int, *, limit: int, on_expiry: str = "release") -> Overdue:
        """End overdue reservations, oldest first."""
        with self._writing() as book:
            return book.expire(at_us, limit, on_expiry)

    def _submit(self, item: _Item, name: Hashable, *, urgent: bool) -> Any:
        with self._item_faults():
            answer = self._combiner.submit(item, urgent=urgent, name=name)
        if self._untidy:
            self._tidy()
        return answer

    def _carry_out(self, items: Sequence[_Item]) -> list[Any]:
        """Carry out a batch in one transaction, whole or not at all."""
        before = [_Before(item.reservation) for item in items if type(item) is Ask]
        try:
            with self._writing() as book:
                book.prefetch(items)
                return [
                    book.reserve(item) if type(item) is Ask else book.resolve(item)
                    for item in items
                ]
        except BaseException:
            for kept in before:
                kept.restore()
            raise

    @contextmanager
    def _writing(self) -> Iterator[SqliteBook]:
        """Open the book for one transaction; what was changed is written when it is closed."""
        resident, self._resident_before = None, None
        try:
            with self._file.writing() as connection:
                resident = resident_of(connection, self._resident)
                # Until the commit nothing in it may be relied upon.
                self._resident = None
                book = SqliteBook(
                    connection, resident, settle_on_expiry=self.settle_on_expiry
                )
                yield book
                book.flush()
                self._untidy = connection.total_changes - self._tidied_rows > ROWS_PER_TIDYING
        finally:
            pass
        self._resident = resident
        self.notices.alerts.extend(book.notices.alerts)

    @contextmanager
    def _item_faults(self) -> Iterator[None]:
        """Let an item that the database can't take leave as `StorageError`."""
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
            raise self._file.fault(error) from error
