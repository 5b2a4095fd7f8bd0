"""The memory store: the ledger of one process, decided in microseconds."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from fluxai.core.decisions import (
    RESERVED,
    SETTLED,
    Approval,
    Reservation,
    UsageEvent,
)
from fluxai.core.errors import StorageError
from fluxai.core.ledger import CALL_LABEL, NEVER, CounterFilter, CounterKey, Plan
from fluxai.core.money import PER_MILLION
from fluxai.storage.base import (
    Ask,
    Balance,
    Capabilities,
    Change,
    Conflict,
    Difference,
    LedgerReport,
    Overdue,
    Refusal,
    Resolution,
    Rules,
    Settle,
    UsageRow,
    Version,
    subject_values,
)
from fluxai.storage.book import UTC_DAY_US, Book, reaches_back_us
from fluxai.storage.memory_rows import (
    Bound,
    Ledger,
    MemoryBook,
    Row,
    add_row,
    drop_counter,
    kill_bounds,
    rest_counter,
)

#: Resolved events kept in full; older ones are folded into the sums.
MEMORY_EVENTS = 100_000


class _Forked:
    """Stands in for the lock in a forked child, whose copy of the ledger would drift apart."""

    def __enter__(self) -> None:
        raise StorageError(
            "memory:// can't be used after fork(): parent and child would each count alone. Open a "
            "new Governor in the child, or share a file: Governor('sqlite:///fluxai.db')"
        )

    def __exit__(self, *_: object) -> None:
        return None


class MemoryStorage(MemoryBook):
    """Keep the ledger in this process's memory.

    Args:
        memory_events: Resolved events kept in full. Older ones are folded: they stay in every sum
            and in `usage()`, and leave `events()`; their ids are then too old to be used again.
    """

    capabilities = Capabilities(durable=False, shared=False, blocking=False)

    def __init__(self, *, memory_events: int = MEMORY_EVENTS) -> None:
        super().__init__(memory_events=memory_events)
        self._lock: Any = threading.Lock()
        self._records: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        self._limits: dict[tuple[int, ...], tuple[int, ...]] = {}
        _forbid_after_fork(self)

    # -- verbs ------------------------------------------------------------------------------

    def migrate(self) -> None:
        """Nothing to do: the schema is this code."""

    def reserve(self, asks: Sequence[Ask]) -> list[Reservation | Refusal]:  # type: ignore[override]
        """Decide each ask."""
        return [self.reserve_one(ask) for ask in asks]

    def resolve(self, items: Sequence[Resolution]) -> list[Any]:  # type: ignore[override]
        """Resolve each item."""
        return [self.resolve_one(item) for item in items]

    def reserve_one(self, ask: Ask) -> Reservation | Refusal:
        """Decide one ask: by the short path where nothing is crossed, else by the book."""
        reservation, plan, needs, _ = ask
        bound = plan.bound
        need: Any = needs[0]
        output_tokens = need.cap
        if (
            output_tokens is None
            or type(bound) is not Bound
            or bound.rings
            or reservation.extra is not None
        ):
            return self._by_the_book(ask)
        amounts = (
            -(-(need.fixed + need.per_output * output_tokens) // PER_MILLION),
            need.input_tokens + output_tokens,
            need.requests,
            1,
        )
        for measure, limit in bound.per_request:
            if amounts[measure] > limit:
                return self._by_the_book(ask)
        with self._lock:
            if not bound.live:
                return self._reserve_and_bind(ask)
            if reservation.uid in self._open or reservation.uid in self._resolved:
                return Book.reserve(self, ask)  # a repeat, after an answer that was lost
            counters = bound.counters
            before = []
            for counter, limit in zip(counters, bound.limits):  # noqa: B905 -- as many of each
                committed = counter.committed
                if committed + amounts[counter.measure] > limit:
                    return Book.reserve(self, ask)
                before.append(committed)
            crossed = False
            for counter in counters:
                before.append(counter.reserved)
                amount = amounts[counter.measure]
                counter.reserved += amount
                counter.committed = committed = counter.committed + amount
                if committed >= counter.next_alert:
                    crossed = True
            reservation._balances = bound.pack(*before)
            reservation.candidate = plan.first
            reservation.need = need
            reservation.amounts = amounts
            reservation.output_tokens = output_tokens
            reservation.holds = bound
            self._open[reservation.uid] = reservation
            if reservation.expires_us < self._next_expiry_us:
                self._next_expiry_us = reservation.expires_us
            if crossed:
                self._watch(reservation.candidate, counters, reservation.counted_us)
            return reservation

    def _by_the_book(self, ask: Ask) -> Reservation | Refusal:
        with self._lock:
            return self._reserve_and_bind(ask)

    def _reserve_and_bind(self, ask: Ask) -> Reservation | Refusal:
        answer = Book.reserve(self, ask)
        if ask.plan.call is not None:
            # A plan of one call is used no more: binding it would only take room.
            at_us = ask.reservation.counted_us
            self._prune(self._ledger(ask.plan.subject.tenant), at_us)
            return answer
        bound = ask.plan.bound
        if isinstance(answer, Reservation) and not (type(bound) is Bound and bound.live):
            self._bind(ask.plan, ask.reservation.counted_us)
        return answer

    def resolve_one(self, item: Resolution) -> Any:
        """Resolve one item: a plain settle by the short path, all else by the book."""
        if type(item) is not Settle:
            with self._lock:
                return Book.resolve(self, item)
        event = self.settle_now(item.uid, item.event)
        if event is not None:
            return event
        with self._lock:
            return Book.settle(self, item)

    def settle_now(self, uid: int, event: UsageEvent) -> UsageEvent | None:
        """Settle an open reservation of this store by the short path.

        Returns:
            The event; None where the book has to look: nothing was changed then.
        """
        with self._lock:
            reservation: Any = event.source
            bound = reservation.holds if type(reservation) is Reservation else None
            if (
                type(bound) is not Bound
                or reservation.state is not RESERVED
                or self._open.get(uid) is not event.source
                or bound.rings
                or reservation.extra is not None
            ):
                return None
            held = reservation.amounts
            posted = (event.cost_nanousd, event.tokens, event.requests, 0)
            crossed = False
            for counter in bound.counters:
                measure = counter.measure
                amount = held[measure]
                counter.reserved -= amount
                counter.committed = total = counter.committed + posted[measure] - amount
                if total >= counter.next_alert:
                    crossed = True
            if event.cost_nanousd > held[0]:
                event.flags = (*event.flags, "overrun")
            reservation.state = SETTLED
            reservation.event = event
            del self._open[uid]
            self._resolved[uid] = reservation
            self._append(event)
            if crossed:
                self._watch(reservation.candidate, bound.counters, event.at_us)
            return event

    def _bind(self, plan: Plan, at_us: int) -> None:
        """Bind a plan to its counters, so that its next use takes the short path."""
        candidate = plan.candidates[0]
        tenant = plan.subject.tenant
        if plan.version != self.version(tenant):
            return
        ledger = self._ledger(tenant)
        counters = self.counters(candidate.keys, at_us)
        bound = Bound(ledger, counters)
        lowest: dict[int, int] = {}
        for check in candidate.checks:
            if check.slot >= 0:
                lowest[check.slot] = min(check.limit, lowest.get(check.slot, check.limit))
        limits = tuple(lowest.get(slot, NEVER) for slot in range(len(counters)))
        # Most tenants have the same limits: one tuple for all of them stays in the cache.
        bound.limits = self._limits.setdefault(limits, limits)
        bound.per_request = tuple(
            (check.measure, check.limit) for check in candidate.checks if check.slot < 0
        )
        # Whatever is bound to a counter has all the policies on it, so this is the whole answer.
        for counter in counters:
            counter.next_alert = NEVER
        for check in candidate.checks:
            if check.slot >= 0:
                counter = counters[check.slot]
                for amount, share in check.alert_at:
                    if (counter.key, check.policy_id, share) not in self._fired:
                        counter.next_alert = min(counter.next_alert, amount)
        for value in (*subject_values(plan.subject), ("tool", candidate.tool)):
            ledger.seen[value] = max(ledger.seen.get(value, 0), plan.end_us)
        bound.live = True
        ledger.bounds.append(bound)
        plan.bound = bound
        self._prune(ledger, at_us)

    def _prune(self, ledger: Ledger, at_us: int) -> None:
        """Let go of ended windows in which nothing is open; events still tell what they held.

        So of the rolling ones of single calls that have nothing left in them.
        """
        if len(ledger.counters) + len(ledger.bounds) < 2 * ledger.counters_kept:
            return
        ended: set[CounterKey] = set()
        for key, counter in list(ledger.counters.items()):
            if counter.reserved:
                continue
            if counter.end_us <= at_us:
                drop_counter(ledger, key)
                ended.add(key)
            elif (
                counter.ring is not None
                and key.value.startswith(CALL_LABEL)
                and counter.ring.is_empty(at_us)
            ):
                drop_counter(ledger, key)
        kept = set(map(id, ledger.counters.values()))
        alive = []
        for bound in ledger.bounds:
            if all(id(counter) in kept for counter in bound.counters):
                alive.append(bound)
            else:
                bound.live = False
        ledger.bounds = alive
        self._fired = {mark for mark in self._fired if mark[0] not in ended}
        ledger.counters_kept = max(64, len(ledger.counters) + len(alive))

    def expire(self, at_us: int, *, limit: int, on_expiry: str = "release") -> Overdue:  # type: ignore[override]
        """End overdue reservations."""
        with self._lock:
            return Book.expire(self, at_us, limit, on_expiry)

    # -- records ----------------------------------------------------------------------------

    def apply(
        self,
        changes: Sequence[Change],
        expected_version: Version | None = None,
        *,
        unfed: Sequence[CounterFilter] = (),
    ) -> None:
        """Change records; what was compiled from the old ones is stale from here on."""
        with self._lock:
            scopes = {change.scope for change in changes}
            for scope in scopes - {"*"}:
                if expected_version is not None and expected_version != self.version(scope):
                    raise StorageError("the rules changed meanwhile; read them again and retry")
            if any(change.sole and self._has_elsewhere(change) for change in changes):
                raise StorageError("the rules changed meanwhile; read them again and retry")
            for change in changes:
                table = self._records.setdefault((change.kind, change.scope), {})
                if change.body is None:
                    table.pop(change.id, None)
                else:
                    table[change.id] = change.body
            for scope in scopes:
                if scope == "*":
                    self._version += 1
                    stale = list(self._ledgers.values())
                else:
                    ledger = self._ledger(scope)
                    ledger.version += 1
                    stale = [ledger]
                for ledger in stale:
                    kill_bounds(ledger)
                    for key, counter in list(ledger.counters.items()):
                        if any(one.fits(key) for one in unfed):
                            drop_counter(ledger, key)
                            if counter.carried:
                                rest_counter(ledger, counter)

    def _has_elsewhere(self, change: Change) -> bool:
        """Say whether another scope has a record of a change's kind and id."""
        return any(
            change.id in table
            for (kind, scope), table in self._records.items()
            if kind == change.kind and scope != change.scope
        )

    def rules(self, tenant: str) -> Rules:
        """Read what decides about a tenant."""
        with self._lock:
            table = self._records.get
            return Rules(
                version=self.version(tenant),
                tenant=table(("tenant", tenant), {}).get(tenant),
                policies=(
                    *table(("policy", "*"), {}).values(),
                    *(table(("policy", tenant), {}).values() if tenant != "*" else ()),
                ),
                grants=(
                    *table(("grant", "*"), {}).values(),
                    *(table(("grant", tenant), {}).values() if tenant != "*" else ()),
                ),
            )

    def records(
        self,
        kind: str,
        *,
        scope: str | None = None,
        id: str | None = None,  # noqa: A002 -- the record's own word
        limit: int = 10_000,
    ) -> list[dict[str, Any]]:
        """Read records."""
        with self._lock:
            found: list[dict[str, Any]] = []
            if scope is not None:
                # Asked for each plan: it must not get slower with the number of tenants.
                tables = [self._records.get((kind, scope), {})]
            else:
                tables = [table for key, table in self._records.items() if key[0] == kind]
            for table in tables:
                if id is None:
                    found.extend(islice(table.values(), limit))
                elif id in table:
                    found.append(table[id])
            return found[:limit]

    # -- looking ----------------------------------------------------------------------------

    def reservations(
        self, *, state: str | None = None, tenant: str | None = None, limit: int = 1_000
    ) -> list[Reservation]:
        """Read reservations, newest first."""
        with self._lock:
            found = [
                reservation
                for reservation in (
                    *self._resolved.values(),
                    *self._open.values(),
                )
                if state in (None, reservation.state)
                and tenant in (None, reservation.subject.tenant)
            ]
        found.sort(key=lambda reservation: -reservation.uid)
        return found[:limit]

    def events(
        self, *, after: int = 0, limit: int = 100, tenant: str | None = None
    ) -> list[UsageEvent]:
        """Read events in order."""
        with self._lock:
            found = (
                event
                for event in self._events
                if event.seq > after and tenant in (None, event.source.subject.tenant)
            )
            return list(islice(found, limit))

    def approvals(
        self, *, tenant: str | None = None, state: str | None = None, limit: int = 1_000
    ) -> list[Approval]:
        """Read approvals, newest first."""
        found = [
            reservation.extra.approval
            for reservation in self.reservations(tenant=tenant, limit=1 << 30)
            if reservation.extra is not None and reservation.extra.approval is not None
        ]
        return [approval for approval in found if state in (None, approval.state)][:limit]

    def balances(self, keys: Sequence[tuple[CounterKey, int]], at_us: int) -> list[Balance]:
        """Read counters without making any."""
        with self._lock:
            found = []
            for key, end_us in keys:
                counter = self.counter(key)
                if counter is None:
                    counter = self._summed(key, end_us, at_us)
                    for reservation in self.open_holds(key, end_us):
                        counter.hold(reservation.amounts[counter.measure])
                counter.turn(at_us)
                found.append(Balance(key, counter.settled, counter.reserved, counter.carried))
            return found

    def accounts(
        self, tenant: str, scope: str, measure: str, kind: str, at_us: int, *, limit: int = 1_000
    ) -> list[Balance]:
        """Read the existing counters of one scope, measure and kind."""
        with self._lock:
            ledger = self._ledgers.get(tenant)
            if ledger is None:
                return []
            found = [
                counter
                for key, counter in ledger.counters.items()
                if (key.scope, key.measure, key.kind) == (scope, measure, kind)
                and key.start_us <= at_us < counter.end_us
            ][:limit]
            for counter in found:
                counter.turn(at_us)
            return [
                Balance(counter.key, counter.settled, counter.reserved, counter.carried)
                for counter in found
            ]

    def usage(self, tenant: str, start_us: int, end_us: int) -> list[UsageRow]:
        """Sum events: whole days from the daily sums, the edges event by event."""
        with self._lock:
            ledger = self._ledgers.get(tenant)
            if ledger is None:
                return []
            self._sum_all()
            first, last = -(-start_us // UTC_DAY_US), end_us // UTC_DAY_US
            sums: dict[tuple[str | None, str, str | None], Row] = {}
            for day, rows in ledger.days.items():
                if first <= day < last:
                    for group, row in rows.items():
                        add_row(sums.setdefault(group, [0, 0, 0, 0]), row)
            edges = [(start_us, min(first * UTC_DAY_US, end_us))]
            if last >= first:
                edges.append((max(last * UTC_DAY_US, start_us), end_us))
            if any(low < high for low, high in edges):
                for event in self._since(tenant, start_us):
                    counted_us = event.source.counted_us
                    if any(low <= counted_us < high for low, high in edges):
                        group = (event.source.subject.user, event.tool, event.model)
                        row = [event.cost_nanousd, event.tokens, event.requests, 1]
                        add_row(sums.setdefault(group, [0, 0, 0, 0]), row)
        return [
            UsageRow(
                user=user,
                tool=tool,
                model=model,
                cost_nanousd=row[0],
                tokens=row[1],
                requests=row[2],
                events=row[3],
            )
            for (user, tool, model), row in sums.items()
        ]

    def recent_events(
        self, tenant: str, start_us: int, end_us: int, *, user: str | None, limit: int
    ) -> list[UsageEvent]:
        """Read the latest events of a stretch of time."""
        with self._lock:
            ledger = self._ledgers.get(tenant)
            if ledger is None:
                return []
            found = (
                event
                for event in self._since(tenant, start_us)
                if start_us <= event.source.counted_us < end_us
                and user in (None, event.source.subject.user)
            )
            return list(islice(found, limit))

    def verify(self) -> LedgerReport:
        """Compare every counter and daily sum with the events and open reservations."""
        with self._lock:
            differences: list[Difference] = []
            counters = 0
            settled: dict[CounterKey, int] = {}
            reserved: dict[CounterKey, int] = {}
            for event in self._events:
                amounts = (event.cost_nanousd, event.tokens, event.requests, 0)
                for counter in self._matching(self._ledgers[event.tenant], event):
                    key = counter.key
                    settled[key] = settled.get(key, 0) + amounts[counter.measure]
            for reservation in self._open.values():
                for counter in self._held_in(reservation):
                    key = counter.key
                    amount = reservation.amounts[counter.measure]
                    reserved[key] = reserved.get(key, 0) + amount
            for ledger in self._ledgers.values():
                counters += len(ledger.counters)
                differences.extend(self._verify_counters(ledger, settled, reserved))
            return LedgerReport(
                not differences,
                counters,
                len(self._events),
                len(self._open),
                tuple(differences[:1000]),
            )

    def _verify_counters(
        self,
        ledger: Ledger,
        settled: dict[CounterKey, int],
        reserved: dict[CounterKey, int],
    ) -> Iterable[Difference]:
        for key, counter in ledger.counters.items():
            name = "/".join(map(str, key))
            if counter.ring is None or self._horizon_us < reaches_back_us(key, counter.ring.head):
                expected = settled.get(key, 0) + counter.carried
                if expected != counter.settled:
                    yield Difference(f"settled of {name}", expected, counter.settled)
            if reserved.get(key, 0) != counter.reserved:
                yield Difference(f"reserved of {name}", reserved.get(key, 0), counter.reserved)

    def outbox(self, *, after: int = 0, limit: int = 100) -> list[tuple[int, Any]]:
        """Read the alerts that were raised."""
        with self._lock:
            return [found for found in self._outbox if found[0] > after][:limit]

    def now_offset_us(self, at_us: int) -> int:  # noqa: ARG002 -- one process, one clock
        """Memory has the process's own clock."""
        return 0

    def close(self) -> None:
        """Nothing is queued and nothing is open."""


def _forbid_after_fork(storage: MemoryStorage) -> None:
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(storage)

    def forbid() -> None:
        alive = reference()
        if alive is not None:
            alive._lock = _Forked()

    os.register_at_fork(after_in_child=forbid)


__all__ = ["MEMORY_EVENTS", "Conflict", "MemoryStorage"]
