"""The memory store: the ledger of one process, decided in microseconds."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, takewhile
from struct import Struct
from typing import Any

from fluxai.core.decisions import (
    EXPIRED,
    PENDING,
    RELEASED,
    RESERVED,
    SETTLED,
    Approval,
    Reservation,
    UsageEvent,
)
from fluxai.core.errors import StorageError
from fluxai.core.ledger import NEVER, Counter, CounterKey, Plan
from fluxai.core.money import PER_MILLION
from fluxai.storage.base import (
    Ask,
    Balance,
    Capabilities,
    Change,
    Conflict,
    Difference,
    LedgerReport,
    Notices,
    Overdue,
    Refusal,
    Resolution,
    Rules,
    Settle,
    UsageRow,
    Version,
    subject_values,
)
from fluxai.storage.book import UTC_DAY_US, Book, opened, reaches_back_us, ring_of

#: Resolved events kept in full; older ones are folded into the sums.
MEMORY_EVENTS = 100_000

_FOLDED_AT_ONCE = 32

_Row = list[int]


class _Ledger:
    """All that one tenant has."""

    __slots__ = (
        "bounds",
        "by_value",
        "counters",
        "counters_kept",
        "days",
        "events_by_key",
        "keys",
        "pending",
        "reopened",
        "resting",
        "seen",
        "version",
    )

    def __init__(self) -> None:
        self.version = 0
        self.counters: dict[CounterKey, Counter] = {}
        self.counters_kept = 64
        self.by_value: dict[tuple[str, str], list[Counter]] = {}
        #: Until when a (scope, value) may have been counted: later windows open at zero.
        self.seen: dict[tuple[str, str], int] = {}
        self.keys: dict[str, Reservation] = {}
        self.events_by_key: dict[int | str, UsageEvent] = {}
        #: Whether a counter was opened from events: then not every event's hold names it.
        self.reopened = False
        #: Counters that no policy feeds now, kept for what was folded into them.
        self.resting: dict[CounterKey, Counter] = {}
        self.days: dict[int, dict[tuple[str | None, str, str | None], _Row]] = {}
        self.pending = 0
        self.bounds: list[Bound] = []

    def row(self, day: int, user: str | None, tool: str, model: str | None) -> _Row:
        """Return the sums of one day and group: cost, tokens, requests, events."""
        return self.days.setdefault(day, {}).setdefault((user, tool, model), [0, 0, 0, 0])


class Bound:
    """A plan's first candidate bound to resident counters: what the short path reads.

    `limits` has the lowest limit on each counter: under it, no check is crossed. `per_request` are
    (measure, limit). A bound dies when the rules change; the plan is then compiled, and bound,
    again.
    """

    __slots__ = ("counters", "ledger", "limits", "live", "model", "pack", "per_request", "rings")

    counters: tuple[Counter, ...]
    limits: tuple[int, ...]
    per_request: tuple[tuple[int, int], ...]

    def __init__(self, ledger: _Ledger, counters: Sequence[Counter]) -> None:
        self.ledger = ledger
        self.counters = tuple(counters)
        #: Packs the balances that a decision was made on: a tenth of what as many objects take.
        self.pack = Struct(f"{2 * len(self.counters)}q").pack
        self.rings = any(counter.ring is not None for counter in counters)
        self.live = False
        self.model: str | None = None


class _Forked:
    """Stands in for the lock in a forked child, whose copy of the ledger would drift apart."""

    def __enter__(self) -> None:
        raise StorageError(
            "memory:// can't be used after fork(): parent and child would each count alone. Open a "
            "new Governor in the child, or share a file: Governor('sqlite:///fluxai.db')"
        )

    def __exit__(self, *_: object) -> None:
        return None


class MemoryStorage(Book):
    """Keep the ledger in this process's memory.

    Args:
        memory_events: Resolved events kept in full. Older ones are folded: they stay in every sum
            and in `usage()`, and leave `events()`; their ids are then too old to be used again.
    """

    capabilities = Capabilities(durable=False, shared=False, blocking=False)

    def __init__(self, *, memory_events: int = MEMORY_EVENTS) -> None:
        self.notices = Notices()
        self._lock: Any = threading.Lock()
        self._ledgers: dict[str, _Ledger] = {}
        self._records: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        self._version = 0
        self._seq = 0
        self._summed_seq = 0
        #: Every tenant's, in the order they were settled, and whether their times are in it too.
        self._events: deque[UsageEvent] = deque()
        self._ordered = True
        self._latest_us = -NEVER
        self._resolved: dict[int, Reservation] = {}
        self._open: dict[int, Reservation] = {}
        #: No open reservation is overdue before this instant.
        self._next_expiry_us = NEVER
        self._unspent: deque[Reservation] = deque()
        self._memory_events = memory_events
        self._horizon_us = -(1 << 62)
        self._limits: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._alerts: list[Any] = []
        self._fired: set[tuple[CounterKey, str, str]] = set()
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
        need = needs[0]
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
        bound = ask.plan.bound
        if isinstance(answer, Reservation) and not (type(bound) is Bound and bound.live):
            self._bind(ask.plan, ask.reservation.counted_us)
        return answer

    def resolve_one(self, item: Resolution) -> Any:
        """Resolve one item: a plain settle by the short path, all else by the book."""
        if type(item) is not Settle:
            with self._lock:
                return Book.resolve(self, item)
        _, uid, event, _, _ = item
        with self._lock:
            reservation = event.source
            bound = reservation.holds if type(reservation) is Reservation else None
            if (
                type(bound) is not Bound
                or reservation.state is not RESERVED
                or self._open.get(uid) is not reservation
                or bound.rings
                or event.model != bound.model
                or reservation.extra is not None
            ):
                return Book.settle(self, item)
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

    def _append(self, event: UsageEvent) -> None:
        self._seq += 1
        event.seq = self._seq
        if event.at_us < self._latest_us or event.source.counted_us > event.at_us:
            self._ordered = False
        else:
            self._latest_us = event.at_us
        self._events.append(event)
        if len(self._events) >= self._memory_events + _FOLDED_AT_ONCE:
            self._fold()

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
        limits = tuple(lowest[slot] for slot in range(len(counters)))
        # Most tenants have the same limits: one tuple for all of them stays in the cache.
        bound.limits = self._limits.setdefault(limits, limits)
        bound.per_request = tuple(
            (check.measure, check.limit) for check in candidate.checks if check.slot < 0
        )
        bound.model = candidate.model
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

    def _prune(self, ledger: _Ledger, at_us: int) -> None:
        """Let go of ended windows in which nothing is open; events still tell what they held."""
        if len(ledger.counters) + len(ledger.bounds) < 2 * ledger.counters_kept:
            return
        for key, counter in list(ledger.counters.items()):
            if counter.end_us <= at_us and not counter.reserved:
                _drop(ledger, key)
        kept = set(map(id, ledger.counters.values()))
        alive = []
        for bound in ledger.bounds:
            if all(id(counter) in kept for counter in bound.counters):
                alive.append(bound)
            else:
                bound.live = False
        ledger.bounds = alive
        ledger.counters_kept = max(64, len(ledger.counters) + len(alive))

    def expire(self, at_us: int, *, limit: int, on_expiry: str = "release") -> Overdue:  # type: ignore[override]
        """End overdue reservations."""
        with self._lock:
            return Book.expire(self, at_us, limit, on_expiry)

    def _fold(self) -> None:
        """Drop the oldest events; their amounts stay in every sum as `carried`.

        A few at a time, so that no single call pays for many.
        """
        for _ in range(_FOLDED_AT_ONCE):
            event = self._events.popleft()
            source = event.source
            ledger = self._ledgers[source.subject.tenant]
            amounts = (event.cost_nanousd, event.tokens, event.requests, 0)
            if event.seq > self._summed_seq:
                self._sum(event)
            own = type(source) is Reservation and source.event is event
            if own and not ledger.reopened and "late" not in event.flags:
                touched: Iterable[Counter] = source.holds.counters
            else:
                touched = self._matching(ledger, event)
            for counter in touched:
                if counter.ring is None:  # a ring's buckets have it until they leave
                    counter.carried += amounts[counter.measure]
            if own:
                del self._resolved[source.uid]
                _forget_key(ledger, source)
            else:
                ledger.events_by_key.pop(event.key, None)
            if source.counted_us > self._horizon_us:
                self._horizon_us = source.counted_us

    def _sum(self, event: UsageEvent) -> None:
        """Fold one event into the sums of its day; events are taken in order, each once."""
        self._summed_seq = event.seq
        source = event.source
        subject = source.subject
        row = self._ledgers[subject.tenant].row(
            source.counted_us // UTC_DAY_US, subject.user, event.tool, event.model
        )
        row[0] += event.cost_nanousd
        row[1] += event.tokens
        row[2] += event.requests
        row[3] += 1

    def _sum_all(self) -> None:
        """Bring the daily sums up to date. Readers do this, so that a settle need not."""
        summed = self._summed_seq
        late = [event for event in takewhile(lambda e: e.seq > summed, reversed(self._events))]
        for event in reversed(late):
            self._sum(event)

    def _forget(self, reservation: Reservation) -> None:
        """Drop the oldest of those that ended without an event, unless it was settled since."""
        if reservation.state in (RELEASED, EXPIRED):
            self._resolved.pop(reservation.uid, None)
            _forget_key(self._ledger(reservation.subject.tenant), reservation)
            self._horizon_us = max(self._horizon_us, reservation.counted_us)

    @staticmethod
    def _matching(ledger: _Ledger, event: UsageEvent) -> Iterable[Counter]:
        counted_us = event.source.counted_us
        for value in (*subject_values(event.source.subject), ("tool", event.tool)):
            for counter in ledger.by_value.get(value, ()):
                if counter.ring is not None:
                    if counter.ring.ring.bucket(counted_us) >= (
                        counter.ring.head - counter.ring.ring.buckets
                    ):
                        yield counter
                elif counter.key.start_us <= counted_us < counter.end_us:
                    yield counter

    # -- rows -------------------------------------------------------------------------------

    def _ledger(self, tenant: str) -> _Ledger:
        ledger = self._ledgers.get(tenant)
        if ledger is None:
            ledger = self._ledgers[tenant] = _Ledger()
        return ledger

    def version(self, tenant: str) -> Version:
        """Return the version of the rules that decide about a tenant."""
        ledger = self._ledgers.get(tenant)
        return (self._version, 0 if ledger is None else ledger.version)

    def find(self, tenant: str | None, uid: int) -> Reservation | None:  # type: ignore[override]
        """Return a reservation."""
        found = self._open.get(uid) or self._resolved.get(uid)
        return found if found is None or tenant in (None, found.subject.tenant) else None

    def find_key(self, tenant: str, key: str) -> Reservation | None:
        """Return the reservation made with an idempotency key."""
        ledger = self._ledgers.get(tenant)
        return None if ledger is None else ledger.keys.get(key)

    def find_event(self, tenant: str | None, key: int | str) -> UsageEvent | None:  # type: ignore[override]
        """Return an event."""
        if isinstance(key, int) and key in self._resolved:
            event = self._resolved[key].event
            if event is not None and tenant in (None, event.tenant):
                return event
        ledgers = self._ledgers.values() if tenant is None else [self._ledgers.get(tenant)]
        for ledger in ledgers:
            if ledger is not None and key in ledger.events_by_key:
                return ledger.events_by_key[key]
        return None

    def counter(self, key: CounterKey) -> Counter | None:
        """Return a counter that exists."""
        ledger = self._ledgers.get(key.tenant)
        return None if ledger is None else ledger.counters.get(key)

    def open_sums(
        self, key: CounterKey, end_us: int, at_us: int
    ) -> list[tuple[int, int]]:
        """List what the matching events add to a new counter."""
        ledger = self._ledger(key.tenant)
        start_us = reaches_back_us(key, at_us)
        if ledger.seen.get((key.scope, key.value), -NEVER) <= start_us:
            return []
        measure = Counter(key, end_us).measure
        found = []
        for event in self._since(key.tenant, start_us):
            if start_us <= event.source.counted_us < end_us and _counts(key, event.source, event.tool):
                amount = (event.cost_nanousd, event.tokens, event.requests, 0)[measure]
                found.append((event.source.counted_us, amount))
        ledger.reopened = ledger.reopened or bool(found)
        return found

    def open_counter(self, key: CounterKey, end_us: int, at_us: int) -> Counter:
        """Open a counter, with what was folded away as carried."""
        counter = self._summed(key, end_us, at_us)
        for reservation in self.open_holds(key, end_us):
            counter.hold(reservation.amounts[counter.measure])
            self.set_held(reservation, (*self.held(reservation), counter))
        self.add_counter(counter)
        return counter

    def _summed(self, key: CounterKey, end_us: int, at_us: int) -> Counter:
        kept = self.open_sums(key, end_us, at_us)
        counter = opened(key, end_us, kept, at_us)
        self._carry(self._ledger(key.tenant), counter, reaches_back_us(key, at_us), kept)
        return counter

    def _carry(
        self, ledger: _Ledger, counter: Counter, start_us: int, kept: Sequence[tuple[int, int]]
    ) -> None:
        """Add to a new counter what only sums still know of."""
        key = counter.key
        rested = ledger.resting.get(key)
        if rested is not None:
            folded = [(0, rested.carried)]
        elif start_us <= self._horizon_us and key.scope != "label":
            folded = self._folded(ledger, key, counter.measure, start_us, kept)
        else:
            return
        if counter.ring is not None:
            for counted_us, amount in folded:
                counter.post(amount, counted_us)
            return
        counter.carried = sum(amount for _, amount in folded)
        counter.committed += counter.carried

    def _folded(
        self,
        ledger: _Ledger,
        key: CounterKey,
        measure: int,
        start_us: int,
        kept: Sequence[tuple[int, int]],
    ) -> list[tuple[int, int]]:
        """Make up, from the daily sums, for events that were folded away."""
        if measure > 2:  # noqa: PLR2004 -- open reservations have no events
            return []
        self._sum_all()
        sums: dict[int, int] = {}
        for day, rows in ledger.days.items():
            if start_us // UTC_DAY_US <= day <= self._horizon_us // UTC_DAY_US:
                for (user, tool, _), row in rows.items():
                    if key.value in (key.tenant, user, tool) and (
                        key.scope == "tenant"
                        or (key.scope == "user" and user == key.value)
                        or (key.scope == "tool" and tool == key.value)
                    ):
                        sums[day] = sums.get(day, 0) + row[measure]
        for counted_us, amount in kept:
            day = counted_us // UTC_DAY_US
            if day in sums:
                sums[day] -= amount
        # As late as they can have been: in a rolling window the safe side is to keep them longer.
        return [
            (min((day + 1) * UTC_DAY_US - 1, self._horizon_us), amount)
            for day, amount in sums.items()
            if amount
        ]

    def _since(self, tenant: str, start_us: int) -> Iterable[UsageEvent]:
        """Walk a tenant's events that may count from `start_us` on, newest first."""
        for event in reversed(self._events):
            if self._ordered and event.at_us < start_us:
                return
            if event.source.subject.tenant == tenant:
                yield event

    def open_holds(self, key: CounterKey, end_us: int) -> Iterable[Reservation]:
        """List open reservations that a new counter has to hold as well."""
        seen_us = self._ledger(key.tenant).seen.get((key.scope, key.value), -NEVER)
        rolls = ring_of(key) is not None
        if seen_us <= (-NEVER if rolls else key.start_us):
            return []
        return [
            reservation
            for reservation in self._open.values()
            if reservation.subject.tenant == key.tenant
            and _counts(key, reservation, reservation.final_tool)
            and (rolls or key.start_us <= reservation.counted_us < end_us)
        ]

    def add_counter(self, counter: Counter) -> None:
        """Keep a new counter."""
        ledger = self._ledger(counter.key.tenant)
        rested = ledger.resting.pop(counter.key, None)
        if rested is not None:
            ledger.by_value[counter.key.scope, counter.key.value].remove(rested)
        ledger.counters[counter.key] = counter
        ledger.by_value.setdefault((counter.key.scope, counter.key.value), []).append(counter)

    def fired(self, counter: Counter, policy_id: str, share: str) -> bool:
        """Note that a share was announced."""
        mark = (counter.key, policy_id, share)
        if mark in self._fired:
            return False
        self._fired.add(mark)
        # Every settle looks again, until the next reserve binds the share that comes next.
        counter.next_alert = -NEVER
        _kill_bounds(self._ledger(counter.key.tenant))
        return True

    def held(self, reservation: Reservation) -> Sequence[Counter]:
        """Return the counters that hold a reservation."""
        return reservation.holds.counters if reservation.holds is not None else ()

    def set_held(self, reservation: Reservation, counters: Sequence[Counter]) -> None:
        """Say where a reservation is held."""
        ledger = self._ledger(reservation.subject.tenant)
        bound = Bound(ledger, counters)
        bound.model = reservation.model
        reservation.holds = bound

    def add(self, reservation: Reservation) -> None:
        """Keep a new reservation."""
        ledger = self._ledger(reservation.subject.tenant)
        self._saw(reservation, reservation.final_tool)
        if reservation.extra is not None and reservation.extra.key is not None:
            ledger.keys[reservation.extra.key] = reservation
        if reservation.state in (PENDING, RESERVED):
            self._open[reservation.uid] = reservation
            self._next_expiry_us = min(self._next_expiry_us, reservation.expires_us)
            ledger.pending += reservation.state == PENDING
        else:
            self._resolved[reservation.uid] = reservation

    def changed(self, reservation: Reservation, before: str) -> None:
        """Keep a reservation's new state."""
        ledger = self._ledger(reservation.subject.tenant)
        ledger.pending -= before == PENDING and reservation.state != PENDING
        if reservation.state in (PENDING, RESERVED):
            self._saw(reservation, reservation.final_tool)
            self._next_expiry_us = min(self._next_expiry_us, reservation.expires_us)
        elif self._open.pop(reservation.uid, None) is not None:
            self._resolved[reservation.uid] = reservation
        if reservation.state in (RELEASED, EXPIRED):
            self._unspent.append(reservation)
            if len(self._unspent) > self._memory_events:
                self._forget(self._unspent.popleft())

    def _saw(self, source: Any, tool: str) -> None:
        ledger = self._ledger(source.subject.tenant)
        for value in (*subject_values(source.subject), ("tool", tool)):
            ledger.seen[value] = max(ledger.seen.get(value, 0), source.counted_us + 1)

    def add_event(self, event: UsageEvent) -> None:
        """Append an event and fold it into its day."""
        source = event.source
        ledger = self._ledger(source.subject.tenant)
        self._saw(source, event.tool)
        if not (isinstance(source, Reservation) and source.event is event):
            ledger.events_by_key[event.key] = event
        self._append(event)

    def overdue(self, tenant: str | None, at_us: int, limit: int) -> list[Reservation]:
        """List overdue reservations, oldest first."""
        if at_us < self._next_expiry_us:
            return []
        late = [r for r in self._open.values() if r.expires_us <= at_us]
        self._next_expiry_us = min((r.expires_us for r in self._open.values()), default=NEVER)
        # The tenant that asked first; what is overdue elsewhere goes along rather than being
        # walked over again by the next one.
        late.sort(key=lambda r: (tenant not in (None, r.subject.tenant), r.expires_us))
        return late[:limit]

    def pending_count(self, tenant: str) -> int:
        """Count pending reservations."""
        return self._ledger(tenant).pending

    def horizon_us(self) -> int:
        """Say from when on resolved ids are remembered."""
        return self._horizon_us

    # -- records ----------------------------------------------------------------------------

    def apply(
        self,
        changes: Sequence[Change],
        expected_version: Version | None = None,
        *,
        drop: Callable[[CounterKey], bool] | None = None,
    ) -> None:
        """Change records; what was compiled from the old ones is stale from here on."""
        with self._lock:
            scopes = {change.scope for change in changes}
            for scope in scopes - {"*"}:
                if expected_version is not None and expected_version != self.version(scope):
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
                    _kill_bounds(ledger)
                    for key, counter in list(ledger.counters.items()):
                        if drop is not None and drop(key):
                            _drop(ledger, key)
                            if counter.carried:
                                _rest(ledger, counter)

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
        self, kind: str, *, scope: str | None = None, id: str | None = None, limit: int = 10_000
    ) -> list[dict[str, Any]]:
        """Read records."""
        with self._lock:
            found = []
            for (table_kind, table_scope), table in self._records.items():
                if table_kind == kind and scope in (None, table_scope):
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
            return [
                Balance(key, counter.settled, counter.reserved, counter.carried)
                for key, counter in ledger.counters.items()
                if (key.scope, key.measure, key.kind) == (scope, measure, kind)
                and key.start_us <= at_us < counter.end_us
            ][:limit]

    def usage(self, tenant: str, start_us: int, end_us: int) -> list[UsageRow]:
        """Sum events: whole days from the daily sums, the edges event by event."""
        with self._lock:
            ledger = self._ledgers.get(tenant)
            if ledger is None:
                return []
            self._sum_all()
            first, last = -(-start_us // UTC_DAY_US), end_us // UTC_DAY_US
            sums: dict[tuple[str | None, str, str | None], _Row] = {}
            for day, rows in ledger.days.items():
                if first <= day < last:
                    for group, row in rows.items():
                        _add(sums.setdefault(group, [0, 0, 0, 0]), row)
            edges = [(start_us, min(first * UTC_DAY_US, end_us))]
            if last >= first:
                edges.append((max(last * UTC_DAY_US, start_us), end_us))
            if any(low < high for low, high in edges):
                for event in self._since(tenant, start_us):
                    counted_us = event.source.counted_us
                    if any(low <= counted_us < high for low, high in edges):
                        group = (event.source.subject.user, event.tool, event.model)
                        row = [event.cost_nanousd, event.tokens, event.requests, 1]
                        _add(sums.setdefault(group, [0, 0, 0, 0]), row)
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

    def _held_in(self, reservation: Reservation) -> Iterable[Counter]:
        """Find the counters that have to hold an open reservation, from what it is alone."""
        ledger = self._ledgers[reservation.subject.tenant]
        tool = ("tool", reservation.final_tool)
        for value in (*subject_values(reservation.subject), tool):
            for counter in ledger.by_value.get(value, ()):
                if counter.ring is not None or (
                    counter.key.start_us <= reservation.counted_us < counter.end_us
                ):
                    yield counter

    def _verify_counters(
        self,
        ledger: _Ledger,
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
        return [(n, alert) for n, alert in enumerate(self._alerts, 1) if n > after][:limit]

    def now_offset_us(self, at_us: int) -> int:  # noqa: ARG002 -- one process, one clock
        """Memory has the process's own clock."""
        return 0

    def close(self) -> None:
        """Nothing is queued and nothing is open."""


def _forget_key(ledger: _Ledger, reservation: Reservation) -> None:
    key = reservation.extra.key if reservation.extra is not None else None
    if key is not None and ledger.keys.get(key) is reservation:
        del ledger.keys[key]


def _kill_bounds(ledger: _Ledger) -> None:
    """Send the next use of every plan by the book, which binds it anew."""
    for bound in ledger.bounds:
        bound.live = False
    ledger.bounds.clear()


def _drop(ledger: _Ledger, key: CounterKey) -> None:
    counter = ledger.counters.pop(key)
    values = ledger.by_value[key.scope, key.value]
    values.remove(counter)
    if not values:
        del ledger.by_value[key.scope, key.value]


def _rest(ledger: _Ledger, counter: Counter) -> None:
    """Keep a dropped counter where folding finds it, and nothing else does."""
    ledger.resting[counter.key] = counter
    ledger.reopened = True
    ledger.by_value.setdefault((counter.key.scope, counter.key.value), []).append(counter)


def _counts(key: CounterKey, source: Any, tool: str) -> bool:
    match key.scope:
        case "tenant":
            return True
        case "user":
            return bool(source.subject.user == key.value)
        case "tool":
            return tool == key.value
        case _:
            return key.value in {f"{name}={value}" for name, value in source.subject.labels}


def _add(into: _Row, row: Sequence[int]) -> None:
    for index, amount in enumerate(row):
        into[index] += amount


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
