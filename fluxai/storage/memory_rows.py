"""What the memory store keeps, and how the ledger's verbs find it there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import takewhile
from struct import Struct
from typing import Any

from fluxai.core.decisions import (
    EXPIRED,
    PENDING,
    RELEASED,
    RESERVED,
    Reservation,
    UsageEvent,
)
from fluxai.core.ledger import NEVER, Counter, CounterKey
from fluxai.storage.base import Alert, Notices, Version, subject_values
from fluxai.storage.book import UTC_DAY_US, Book, only_event, opened, reaches_back_us, ring_of

_FOLDED_AT_ONCE = 32
_OUTBOX_MAX = 10_000

Row = list[int]


class Ledger:
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
        self.days: dict[int, dict[tuple[str | None, str, str | None], Row]] = {}
        self.pending = 0
        self.bounds: list[Bound] = []

    def row(self, day: int, user: str | None, tool: str, model: str | None) -> Row:
        """Return the sums of one day and group: cost, tokens, requests, events."""
        return self.days.setdefault(day, {}).setdefault((user, tool, model), [0, 0, 0, 0])


@cache
def _packer(counters: int) -> Callable[..., bytes]:
    """Return what packs two balances of so many counters; shared, so that it stays at hand."""
    return Struct(f"{2 * counters}q").pack


class Bound:
    """A plan's first candidate bound to resident counters: what the short path reads.

    `limits` has the lowest limit on each counter: under it, no check is crossed. `per_request` are
    (measure, limit). A bound dies when the rules change; the plan is then compiled, and bound,
    again.
    """

    __slots__ = ("counters", "ledger", "limits", "live", "pack", "per_request", "rings")

    counters: tuple[Counter, ...]
    limits: tuple[int, ...]
    per_request: tuple[tuple[int, int], ...]

    def __init__(self, ledger: Ledger, counters: Sequence[Counter]) -> None:
        self.ledger = ledger
        self.counters = tuple(counters)
        #: Packs the balances that a decision was made on: a tenth of what as many objects take.
        self.pack = _packer(len(self.counters))
        self.rings = any(counter.ring is not None for counter in counters)
        self.live = False


class MemoryBook(Book):
    """The rows of the memory store: resident, and folded into sums when they are many.

    The caller holds the lock.
    """

    def __init__(self, *, memory_events: int) -> None:
        self.notices = Notices()
        self._ledgers: dict[str, Ledger] = {}
        self._version = 0
        #: Every tenant's events, in the order they were settled; whether their times are too.
        self._events: deque[UsageEvent] = deque()
        self._ordered = True
        self._latest_us = -NEVER
        self._seq = 0
        self._summed_seq = 0
        self._memory_events = memory_events
        self._horizon_us = -NEVER
        self._open: dict[int, Reservation] = {}
        #: No open reservation is overdue before this instant.
        self._next_expiry_us = NEVER
        self._resolved: dict[int, Reservation] = {}
        self._unspent: deque[Reservation] = deque()
        self._fired: set[tuple[CounterKey, str, str]] = set()
        self._outbox: deque[tuple[int, Alert]] = deque(maxlen=_OUTBOX_MAX)
        self._alerts_raised = 0

    def _ledger(self, tenant: str) -> Ledger:
        ledger = self._ledgers.get(tenant)
        if ledger is None:
            ledger = self._ledgers[tenant] = Ledger()
        return ledger

    def version(self, tenant: str) -> Version:
        """Return the version of the rules that decide about a tenant."""
        ledger = self._ledgers.get(tenant)
        return (self._version, 0 if ledger is None else ledger.version)

    def find(self, tenant: str | None, uid: int) -> Reservation | None:
        """Return a reservation."""
        found = self._open.get(uid) or self._resolved.get(uid)
        return found if found is None or tenant in (None, found.subject.tenant) else None

    def find_key(self, tenant: str, key: str) -> Reservation | None:
        """Return the reservation made with an idempotency key."""
        ledger = self._ledgers.get(tenant)
        return None if ledger is None else ledger.keys.get(key)

    def find_event(self, tenant: str | None, key: int | str) -> UsageEvent | None:
        """Return an event."""
        if isinstance(key, int) and key in self._resolved:
            event = self._resolved[key].event
            if event is not None and tenant in (None, event.tenant):
                return event
        ledgers = self._ledgers.values() if tenant is None else [self._ledgers.get(tenant)]
        return only_event(
            ledger.events_by_key[key]
            for ledger in ledgers
            if ledger is not None and key in ledger.events_by_key
        )

    def counter(self, key: CounterKey) -> Counter | None:
        """Return a counter that exists."""
        ledger = self._ledgers.get(key.tenant)
        return None if ledger is None else ledger.counters.get(key)

    def open_sums(self, key: CounterKey, end_us: int, at_us: int) -> list[tuple[int, int]]:
        """List what the matching events add to a new counter."""
        ledger = self._ledger(key.tenant)
        start_us = reaches_back_us(key, at_us)
        if ledger.seen.get((key.scope, key.value), -NEVER) <= start_us:
            return []
        measure = Counter(key, end_us).measure
        found = []
        for event in self._since(key.tenant, start_us):
            if start_us <= event.source.counted_us < end_us and _counts(
                key, event.source, event.tool
            ):
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
        self, ledger: Ledger, counter: Counter, start_us: int, kept: Sequence[tuple[int, int]]
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
        ledger: Ledger,
        key: CounterKey,
        measure: int,
        start_us: int,
        kept: Sequence[tuple[int, int]],
    ) -> list[tuple[int, int]]:
        """Make up, from the daily sums, for events that were folded away."""
        if measure > 2:
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
        kill_bounds(self._ledger(counter.key.tenant))
        return True

    def held(self, reservation: Reservation) -> Sequence[Counter]:
        """Return the counters that hold a reservation."""
        return reservation.holds.counters if reservation.holds is not None else ()

    def set_held(self, reservation: Reservation, counters: Sequence[Counter]) -> None:
        """Say where a reservation is held."""
        ledger = self._ledger(reservation.subject.tenant)
        bound = Bound(ledger, counters)
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
        late = [
            reservation
            for reservation in self._open.values()
            if reservation.expires_us <= at_us and tenant in (None, reservation.subject.tenant)
        ]
        self._next_expiry_us = min((r.expires_us for r in self._open.values()), default=NEVER)
        late.sort(key=lambda reservation: reservation.expires_us)
        return late[:limit]

    def pending_count(self, tenant: str) -> int:
        """Count pending reservations."""
        return self._ledger(tenant).pending

    def horizon_us(self) -> int:
        """Say from when on resolved ids are remembered."""
        return self._horizon_us

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

    def _fold(self) -> None:
        """Drop the oldest events; their amounts stay in every sum as `carried`.

        A few at a time, so that no single call pays for many.
        """
        for _ in range(_FOLDED_AT_ONCE):
            event = self._events.popleft()
            source: Any = event.source
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
        late = list(takewhile(lambda e: e.seq > summed, reversed(self._events)))
        for event in reversed(late):
            self._sum(event)

    def _forget(self, reservation: Reservation) -> None:
        """Drop the oldest of those that ended without an event, unless it was settled since."""
        if reservation.state in (RELEASED, EXPIRED):
            self._resolved.pop(reservation.uid, None)
            _forget_key(self._ledger(reservation.subject.tenant), reservation)
            self._horizon_us = max(self._horizon_us, reservation.counted_us)

    @staticmethod
    def _matching(ledger: Ledger, event: UsageEvent) -> Iterable[Counter]:
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

    def alert(self, alert: Alert) -> None:
        """Announce an alert, and remember it for `outbox`."""
        super().alert(alert)
        self._alerts_raised += 1
        self._outbox.append((self._alerts_raised, alert))


def _forget_key(ledger: Ledger, reservation: Reservation) -> None:
    key = reservation.extra.key if reservation.extra is not None else None
    if key is not None and ledger.keys.get(key) is reservation:
        del ledger.keys[key]


def kill_bounds(ledger: Ledger) -> None:
    """Send the next use of every plan by the book, which binds it anew."""
    for bound in ledger.bounds:
        bound.live = False
    ledger.bounds.clear()


def drop_counter(ledger: Ledger, key: CounterKey) -> None:
    """Take a counter out; its events and open reservations still tell what it held."""
    counter = ledger.counters.pop(key)
    values = ledger.by_value[key.scope, key.value]
    values.remove(counter)
    if not values:
        del ledger.by_value[key.scope, key.value]


def rest_counter(ledger: Ledger, counter: Counter) -> None:
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


def add_row(into: Row, row: Sequence[int]) -> None:
    """Add sums to sums."""
    for index, amount in enumerate(row):
        into[index] += amount
