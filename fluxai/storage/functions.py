"""A store whose verbs are functions of a PostgreSQL database: one call, one round trip.

How a function is called is all that differs between a connection of one's own and a REST server in
front of the database; so a `Caller` is passed in.
"""

from __future__ import annotations

import logging
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from fluxai.core.errors import StorageError
from fluxai.storage.base import (
    Alert,
    Ask,
    Balance,
    Change,
    Difference,
    LedgerReport,
    Overdue,
    Rules,
    UsageRow,
    Version,
)
from fluxai.storage.batches import (
    Batch,
    Watched,
    alert_of,
    alert_row,
    event_of,
    read_answer,
    reservation_of,
    runs,
    sorted_runs,
)
from fluxai.storage.book import only_event
from fluxai.storage.combined import CombinedStorage
from fluxai.storage.items import Before, Item, event_id, time_of
from fluxai.storage.statements import load_migrations

if TYPE_CHECKING:
    from fluxai.core.decisions import Approval, Reservation, UsageEvent
    from fluxai.core.ledger import CounterFilter, CounterKey

log = logging.getLogger("fluxai")

#: After so many items the counters of ended windows are let go, and coming months are made.
ITEMS_PER_TIDYING: Final = 2_000
ENDED_PER_TIDYING: Final = 1_000
FIRED_REMEMBERED_MAX: Final = 10_000
PLANS_REMEMBERED_MAX: Final = 100_000
DIFFERENCES_MAX: Final = 1_000
#: Three tables, three months ahead and one past, and room for others that make some too.
PARTITIONS_AT_ONCE_MAX: Final = 20
#: How long to come back for a moment in which a month can be pruned.
PRUNING_PATIENCE_S: Final = 60.0
#: Between tries: doubled from the first to the last, and cut at random, so that many do not return
#: together.
_FIRST_PAUSE_S: Final = 0.02
_LAST_PAUSE_S: Final = 1.0


class Unreachable(StorageError):
    """The database gave no answer, or asked to try again: whether it did anything is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What became of old months.

    Attributes:
        months: Those that are gone, `2026-01`, oldest first.
        stays: The first that was old enough and is still needed, None where there is none.
        because: What it is needed for.
    """

    months: tuple[str, ...]
    stays: str | None = None
    because: str | None = None


class RefusedData(Exception):
    """The database can't take what it was given; nothing was changed."""


class Caller(Protocol):
    """Calls functions of the schema `fluxai`."""

    #: What errors name: where the database is, without any secret.
    place: str

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function in a transaction of its own, and return its JSON, read.

        Lists and dictionaries among the arguments are passed as JSON.

        Raises:
            Unreachable: No answer came, or one that asks to try again.
            RefusedData: The arguments can't be stored.
            StorageError: Anything else.
        """
        ...

    def close(self) -> None:
        """Let go of every connection."""
        ...


class FunctionStorage(CombinedStorage):
    """Keep the ledger in a PostgreSQL database.

    Calls of many threads share transactions; those of many processes take turns tenant by tenant.
    What a verb has returned survives a crash of the process and of the database server.

    Args:
        caller: How the functions are called.
        patience_s: How long a call is tried again while the database is out of reach. Every verb
            may be repeated by id, so an answer that was lost on its way does no harm.
    """

    def __init__(self, caller: Caller, *, patience_s: float = 5.0) -> None:
        super().__init__()
        #: How often alerts could not be announced. No money is lost by that.
        self.announcing_errors = 0
        #: How often a call was tried again.
        self.retries = 0
        #: How many batches were carried out; verbs share them.
        self.commits = 0
        self._caller = caller
        self._patience_s = patience_s
        self._known_plans: set[str] = set()
        self._fired: set[tuple[CounterKey, str, str]] = set()
        self._items_untidy = 0

    # -- schema -----------------------------------------------------------------------------

    @abstractmethod
    def migrate(self) -> None:
        """Check the schema; a store that can bring it up to date does so."""

    def check_version(self, version: int) -> None:
        """Refuse a schema that this library does not know, or not yet have."""
        newest = newest_version()
        if version > newest:
            raise StorageError(
                f"{self._caller.place} has schema version {version}, and this fluxai knows "
                f"versions up to {newest}; upgrade fluxai"
            )
        if version < newest:
            raise StorageError(
                f"{self._caller.place} has schema version {version}, and this fluxai needs "
                f"{newest}; run the migrations that are missing (fluxai db migrate)"
            )

    # -- calls ------------------------------------------------------------------------------

    def _call(self, function: str, **arguments: Any) -> Any:
        """Call a function, again and again for a while if no answer comes."""
        until_s = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return self._caller.call(function, arguments)
            except Unreachable as error:
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise
                self.retries += 1
                log.info("trying %s again: %s", function, error)
                # Not a secret: it only keeps callers from coming back together.
                time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))  # noqa: S311
                pause_s = min(pause_s * 2, _LAST_PAUSE_S)

    @contextmanager
    def _item_faults(self) -> Iterator[None]:
        """Let what the database can't take leave as `StorageError`."""
        try:
            yield
        except RefusedData as error:
            raise StorageError(f"{self._caller.place} can't store this: {error}") from error

    def _read(self, function: str, **arguments: Any) -> Any:
        with self._item_faults():
            return self._call(function, **arguments)

    # -- verbs ------------------------------------------------------------------------------

    def expire(self, at_us: int, *, limit: int, on_expiry: str = "release") -> Overdue:
        """End overdue reservations, oldest first."""
        done = self._read("expire", now_us=at_us, most=limit, settle=on_expiry == "settle")
        return Overdue(*done)

    def _carry_out_in_order(self, items: Sequence[Item]) -> list[Any]:
        return [answer for run in runs(items) for answer in self._carry_out_run(run)]

    def _carry_out(self, items: Sequence[Item]) -> list[Any]:
        answers: list[Any] = [None] * len(items)
        for places in sorted_runs(items):
            run = [items[place] for place in places]
            for place, answer in zip(places, self._carry_out_run(run), strict=True):
                answers[place] = answer
        return answers

    def _carry_out_run(self, items: Sequence[Item]) -> list[Any]:
        """Carry out a batch in one transaction, whole or not at all."""
        before = [Before(item.reservation) for item in items if isinstance(item, Ask)]
        batch = Batch(items, settle_on_expiry=self.settle_on_expiry, known_plans=self._known_plans)
        try:
            rows = self._call("carry_out", batch=batch.body)
        except BaseException:
            for kept in before:
                kept.restore()
            raise
        batch.done()
        self.commits += 1
        watched: list[Watched] = []
        answers: list[Any] = [None] * len(items)
        for number, *answer in rows:
            answers[number] = read_answer(items[number], answer, watched)
        self._items_untidy += len(items)
        self._latest_us = max(self._latest_us, time_of(items[-1]))
        if len(self._known_plans) > PLANS_REMEMBERED_MAX:
            self._known_plans.clear()
        self._announce(watched)
        return answers

    def _announce(self, watched: Sequence[Watched]) -> None:
        """Announce the shares of limits that were crossed, those that nobody has announced yet.

        What can't be announced now is by the next call that finds it crossed.
        """
        found: dict[tuple[CounterKey, str, str], Alert] = {}
        for one in watched:
            for alert in one.crossed():
                found.setdefault((alert.key, alert.policy_id, alert.share), alert)
        for mark in self._fired.intersection(found):
            del found[mark]
        if not found:
            return
        try:
            fresh = self._call("announce", raised=[alert_row(alert) for alert in found.values()])
        except (StorageError, RefusedData) as error:
            self.announcing_errors += 1
            log.warning("%s could not note alerts; the next call will: %s", self._place, error)
            return
        if len(self._fired) > FIRED_REMEMBERED_MAX:
            self._fired.clear()
        self._fired.update(found)
        self.notices.alerts.extend(alert for _, alert in map(alert_of, fresh))

    def _tidy(self) -> None:
        """Let the counters of ended windows go, and make coming months, once in a while.

        This comes when a verb's transaction is over, so that only one caller waits for it.
        """
        if self._items_untidy < ITEMS_PER_TIDYING:
            return
        # Set first, so that others leave it to this thread.
        self._items_untidy = 0
        try:
            self._call("drop_ended", before_us=self._latest_us, most=ENDED_PER_TIDYING)
            self._make_months(self._latest_us)
        except (StorageError, RefusedData) as error:
            self._untidied(error)

    def _untidied(self, error: Exception) -> None:
        self.tidying_errors += 1
        log.warning("%s could not be tidied up; it will be tried again: %s", self._place, error)

    def _make_months(self, now_us: int | None) -> None:
        """Make partitions ahead, each in a transaction of its own.

        Whoever is in the way is not waited for: next time will do, and until then rows go to the
        default partition.
        """
        for _ in range(PARTITIONS_AT_ONCE_MAX):
            if self._read("make_months", now_us=now_us) != 1:
                return

    @property
    def _place(self) -> str:
        return self._caller.place

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
        rows = [
            {"kind": one.kind, "scope": one.scope, "id": one.id, "body": one.body, "sole": one.sole}
            for one in changes
        ]
        done = self._read(
            "apply",
            changes=rows,
            expected=list(expected_version) if expected_version is not None else {},
            unfed=[_filter_row(one) for one in unfed],
        )
        if not done:
            raise StorageError("the rules changed meanwhile; read them again and retry")

    def version(self, tenant: str) -> Version:
        """Read the version of the rules that decide about a tenant."""
        every, own = self._read("read_version", of_tenant=tenant)
        return every, own

    def rules(self, tenant: str) -> Rules:
        """Read what decides about a tenant, at one version."""
        found = self._read("read_rules", of_tenant=tenant)
        every, own = found["version"]
        return Rules(
            version=(every, own),
            tenant=found["tenant"],
            policies=tuple(found["policies"]),
            grants=tuple(found["grants"]),
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
        found: list[dict[str, Any]] = self._read(
            "read_records", of_kind=kind, of_scope=scope, of_id=id, most=limit
        )
        return found

    # -- looking ----------------------------------------------------------------------------

    def find(self, tenant: str | None, uid: int) -> Reservation | None:
        """Read one reservation."""
        row = self._read("read_reservation", of_tenant=tenant, of_id=event_id(uid))
        return None if row is None else reservation_of(row)

    def find_event(self, tenant: str | None, key: int | str) -> UsageEvent | None:
        """Read one event."""
        rows = self._read("read_event", of_tenant=tenant, of_id=event_id(key))
        return only_event(map(event_of, rows))

    def reservations(
        self, *, state: str | None = None, tenant: str | None = None, limit: int = 1_000
    ) -> list[Reservation]:
        """Read reservations, newest first."""
        rows = self._read("read_reservations", of_state=state, of_tenant=tenant, most=limit)
        return [reservation_of(row) for row in rows]

    def events(
        self, *, after: int = 0, limit: int = 100, tenant: str | None = None
    ) -> list[UsageEvent]:
        """Read events in the order they were settled.

        Of every tenant's, only those before which none can come any more: whoever reads on from the
        last one misses nothing.
        """
        rows = self._read("read_events", after_seq=after, of_tenant=tenant, most=limit)
        return [event_of(row) for row in rows]

    def recent_events(
        self, tenant: str, start_us: int, end_us: int, *, user: str | None, limit: int
    ) -> list[UsageEvent]:
        """Read the latest events counted in a half-open stretch of time, newest first."""
        rows = self._read(
            "read_recent_events",
            of_tenant=tenant,
            from_us=start_us,
            to_us=end_us,
            of_user=user,
            most=limit,
        )
        return [event_of(row) for row in rows]

    def approvals(
        self, *, tenant: str | None = None, state: str | None = None, limit: int = 1_000
    ) -> list[Approval]:
        """Read approvals, newest first."""
        rows = self._read("read_approvals", of_tenant=tenant, of_state=state, most=limit)
        extras = (reservation_of(row).extra for row in rows)
        return [extra.approval for extra in extras if extra is not None and extra.approval]

    def balances(self, keys: Sequence[tuple[CounterKey, int]], at_us: int) -> list[Balance]:
        """Read counters without making any."""
        rows = self._read(
            "read_balances", keys=[(*key, end_us) for key, end_us in keys], now_us=at_us
        )
        return [Balance(key, *row) for (key, _), row in zip(keys, rows, strict=True)]

    def accounts(
        self, tenant: str, scope: str, measure: str, kind: str, at_us: int, *, limit: int = 1_000
    ) -> list[Balance]:
        """Read the existing counters of one scope, measure and kind whose window holds `at_us`."""
        from fluxai.core.ledger import CounterKey

        rows = self._read(
            "read_accounts",
            of_tenant=tenant,
            of_scope=scope,
            of_measure=measure,
            of_kind=kind,
            now_us=at_us,
            most=limit,
        )
        return [Balance(CounterKey(*row[:6]), *row[6:]) for row in rows]

    def usage(self, tenant: str, start_us: int, end_us: int) -> list[UsageRow]:
        """Sum events: whole UTC days from the daily sums, the edges event by event."""
        rows = self._read("read_usage", of_tenant=tenant, from_us=start_us, to_us=end_us)
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
            for user, tool, model, cost, tokens, requests, events in rows
        ]

    def verify(self) -> LedgerReport:
        """Compare every counter and daily sum with the events and open reservations."""
        found = self._read("verify", most=DIFFERENCES_MAX)
        differences = tuple(Difference(*row) for row in found["differences"])
        return LedgerReport(
            not differences,
            found["counters"],
            found["events"],
            found["reservations"],
            differences,
        )

    def outbox(self, *, after: int = 0, limit: int = 100) -> list[tuple[int, Alert]]:
        """Read the alerts that were raised, in order."""
        return list(map(alert_of, self._read("read_outbox", after_seq=after, most=limit)))

    def now_offset_us(self, at_us: int) -> int:
        """Say how far the database server's clock is ahead.

        The best of a few tries: what the way there and back took is left out by half.
        """
        best: tuple[int, int] | None = None
        for _ in range(3):
            asked_ns = time.monotonic_ns()
            found: int = self._read("read_clock")
            took_us = (time.monotonic_ns() - asked_ns) // 1000
            offset_us = found - took_us // 2 - at_us
            if best is None or took_us < best[0]:
                best = (took_us, offset_us)
            at_us += took_us
        return best[1] if best is not None and abs(best[1]) > best[0] else 0

    def prune(self, before_us: int, *, on_month: Callable[[str], object] | None = None) -> Pruned:
        """Drop the months that ended before an instant, and remember their sums.

        Balances, verdicts and daily sums stay as they are; the events and reservations are gone. Ids
        and times up to the end of the last month that was pruned are refused from then on.

        Args:
            before_us: Not in the future, and 35 days ago at least: windows that last a month must
                not be cut.
            on_month: Is told each month that is gone.

        Returns:
            The months, and which one has to stay.

        Raises:
            StorageError: Others were in the way all the time. What is pruned until then is pruned.
        """
        months: list[str] = []
        until_s = time.monotonic() + PRUNING_PATIENCE_S
        while found := self._read("prune", before_us=before_us):
            if "stays" in found:
                return Pruned(months=tuple(months), stays=found["stays"], because=found["because"])
            if "pruned" in found:
                months.append(found["pruned"])
                if on_month is not None:
                    on_month(months[-1])
            elif time.monotonic() > until_s:
                raise StorageError(
                    f"{self._place}: others use the ledger without a pause; prune it later"
                )
            else:
                # Those that waited for us come first.
                time.sleep(random.uniform(0.1, 0.5))  # noqa: S311 -- not a secret
        return Pruned(months=tuple(months))

    def rebuild(self) -> None:
        """Make every sum again from the events and open reservations that are there.

        For when `verify` finds a difference. Nobody else changes anything meanwhile; that may take
        minutes.
        """
        self._read("rebuild")

    def close(self) -> None:
        """Finish what is queued and let go of every connection."""
        self._combiner.close()
        self._caller.close()


def newest_version() -> int:
    """Say which version of the schema this library makes."""
    return max(load_migrations("postgres"))


def _filter_row(one: CounterFilter) -> dict[str, Any]:
    row = one._asdict()
    if one.besides is not None:
        row["besides"] = _filter_row(one.besides)
    return row
