"""The ledger's verbs, written once, over rows that a backend holds.

A backend supplies the rows: resident in memory, or loaded for one batch and written back. The
verbs decide and change; each looks before it leaps, so an item is done whole or not at all. The
caller holds the lock, or the transaction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from fluxai.core.decisions import (
    EXPIRED,
    OPEN_STATES,
    PENDING,
    RELEASED,
    RESERVED,
    SETTLED,
    Approval,
    Posting,
    Reservation,
    ReservationExtra,
    UsageEvent,
    corrected,
)
from fluxai.core.errors import InvalidRequest
from fluxai.core.ids import uuid_text
from fluxai.core.ledger import (
    CONCURRENT,
    Amounts,
    Balances,
    Candidate,
    Counter,
    CounterKey,
    Plan,
    RingState,
    Verdict,
    judge,
)
from fluxai.core.money import to_decimal
from fluxai.core.windows import Ring, from_us
from fluxai.storage import refusals
from fluxai.storage.base import (
    KEY_REMEMBERED_US,
    OVERDUE_PER_RESERVE_MAX,
    PENDING_PER_TENANT_MAX,
    Adjust,
    Alert,
    Approve,
    Ask,
    Claim,
    Conflict,
    Extend,
    NeedPlan,
    Notices,
    Overdue,
    Record,
    Refusal,
    Reject,
    Release,
    Report,
    Resolution,
    Settle,
    Stale,
    Unknown,
    Version,
    plan_candidate,
)

Keys = Sequence[tuple[CounterKey, int]]
UTC_DAY_US = 86_400_000_000
#: Of so many overdue holds a reserve ends those that are in its way first.
OVERDUE_LOOKED_AT_MAX = 4 * OVERDUE_PER_RESERVE_MAX


class Book(ABC):
    """One view of the ledger in which verbs are carried out."""

    notices: Notices

    # -- rows: what a backend supplies ------------------------------------------------------

    @abstractmethod
    def version(self, tenant: str) -> Version:
        """Return the version of the rules that decide about a tenant."""

    @abstractmethod
    def find(self, tenant: str, uid: int) -> Reservation | None:
        """Return a reservation of that tenant."""

    @abstractmethod
    def find_key(self, tenant: str, key: str) -> Reservation | None:
        """Return the reservation made with that idempotency key."""

    @abstractmethod
    def find_event(self, tenant: str, key: int | str) -> UsageEvent | None:
        """Return an event of that tenant."""

    @abstractmethod
    def counter(self, key: CounterKey) -> Counter | None:
        """Return a counter that exists."""

    @abstractmethod
    def open_sums(self, key: CounterKey, end_us: int, at_us: int) -> Iterable[tuple[int, int]]:
        """List (counted_us, amount) of the events that a new counter has to start with."""

    @abstractmethod
    def open_holds(self, key: CounterKey, end_us: int) -> Iterable[Reservation]:
        """List the open reservations that a new counter has to hold as well."""

    @abstractmethod
    def add_counter(self, counter: Counter) -> None:
        """Keep a new counter."""

    @abstractmethod
    def fired(self, counter: Counter, policy_id: str, share: str) -> bool:
        """Note that a share was announced; False when it had been before."""

    @abstractmethod
    def held(self, reservation: Reservation) -> Sequence[Counter]:
        """Return the counters in which a reservation is held."""

    @abstractmethod
    def set_held(self, reservation: Reservation, counters: Sequence[Counter]) -> None:
        """Say in which counters a reservation is held from now on."""

    @abstractmethod
    def add(self, reservation: Reservation) -> None:
        """Keep a new reservation."""

    @abstractmethod
    def changed(self, reservation: Reservation, before: str) -> None:
        """Keep a reservation whose state was `before`."""

    @abstractmethod
    def add_event(self, event: UsageEvent) -> None:
        """Append an event and fold it into the daily sums."""

    @abstractmethod
    def overdue(self, tenant: str | None, at_us: int, limit: int) -> list[Reservation]:
        """List open reservations whose time is over, oldest first."""

    @abstractmethod
    def pending_count(self, tenant: str) -> int:
        """Count the pending reservations of a tenant."""

    def horizon_us(self) -> int:
        """Say from when on resolved ids are still remembered."""
        return 0

    def alert(self, alert: Alert) -> None:
        """Announce that a budget crossed a share of its limit."""
        self.notices.alerts.append(alert)

    # -- counters ---------------------------------------------------------------------------

    def counters(self, keys: Keys, at_us: int) -> tuple[Counter, ...]:
        """Return the counters of a candidate, opening those that do not exist yet."""
        found = []
        for key, end_us in keys:
            counter = self.counter(key)
            if counter is None:
                counter = self.open_counter(key, end_us, at_us)
            counter.turn(at_us)
            found.append(counter)
        return tuple(found)

    def open_counter(self, key: CounterKey, end_us: int, at_us: int) -> Counter:
        """Open a counter with what the events and open reservations that match it add up to."""
        counter = opened(key, end_us, self.open_sums(key, end_us, at_us), at_us)
        for reservation in self.open_holds(key, end_us):
            counter.hold(reservation.amounts[counter.measure])
            self.set_held(reservation, (*self.held(reservation), counter))
        self.add_counter(counter)
        return counter

    def _watch(self, candidate: Candidate | None, counters: Sequence[Counter], at_us: int) -> None:
        """Announce the shares of limits that the balances now cross."""
        if candidate is None:
            return
        by_key = {counter.key: counter for counter in counters}
        for check in candidate.checks:
            if check.slot < 0 or not check.alert_at:
                continue
            counter = by_key.get(candidate.keys[check.slot][0])
            if counter is None:
                continue
            for amount, share in check.alert_at:
                if counter.committed >= amount and self.fired(counter, check.policy_id, share):
                    self.alert(
                        Alert(
                            counter.key.tenant,
                            check.policy_id,
                            counter.key,
                            share,
                            check.limit,
                            counter.committed,
                            at_us,
                        )
                    )

    # -- reserve ----------------------------------------------------------------------------

    def reserve(self, ask: Ask) -> Reservation | Refusal:
        """Decide one ask, and hold the candidate that stands."""
        reservation, plan = ask.reservation, ask.plan
        tenant = reservation.subject.tenant
        known = self._replayed(reservation)
        if known is not None:
            return known
        version = self.version(tenant)
        if plan.version != version:
            return Stale(version)
        at_us = reservation.counted_us
        verdict, counters = self._judge(ask)
        if _gives_less(verdict, ask) and self._expire_some(tenant, at_us, counters.values()):
            verdict, counters = self._judge(ask)
        if (
            verdict.decision == "pending_approval"
            and self.pending_count(tenant) >= PENDING_PER_TENANT_MAX
        ):
            verdict = Verdict("denied", verdict.steps)
            extra_of(reservation).note = refusals.too_many_pending(tenant)
        fill(reservation, ask, verdict)
        if verdict.decision == "denied":
            reservation.state = "refused"
            self._watch_refusal(verdict, counters, at_us)
            return reservation
        self._hold(reservation, counters[verdict.last.candidate.index])
        if verdict.decision == "pending_approval":
            self._ask_approval(ask)
        self.add(reservation)
        self._watch(reservation.candidate, self.held(reservation), at_us)
        return reservation

    def _replayed(self, reservation: Reservation) -> Reservation | Refusal | None:
        tenant, extra = reservation.subject.tenant, reservation.extra
        known = self.find(tenant, reservation.uid)
        if known is None and extra is not None and extra.key is not None:
            known = self.find_key(tenant, extra.key)
            if known is not None and self._forgotten(known, reservation.counted_us):
                known = None
        if known is None:
            return None
        digest = extra.digest if extra is not None else None
        if digest != (known.extra.digest if known.extra is not None else None):
            return refusals.key_used(extra.key if extra is not None else None, known.id)
        return known

    @staticmethod
    def _forgotten(known: Reservation, at_us: int) -> bool:
        resolved = known.extra.resolved_us if known.extra is not None else None
        return resolved is not None and at_us - resolved > KEY_REMEMBERED_US

    def _judge(self, ask: Ask) -> tuple[Verdict, dict[int, tuple[Counter, ...]]]:
        counters: dict[int, tuple[Counter, ...]] = {}
        balances: dict[int, Balances] = {}
        for candidate in ask.plan.candidates:
            found = self.counters(candidate.keys, ask.reservation.counted_us)
            counters[candidate.index] = found
            balances[candidate.index] = (
                [counter.committed for counter in found],
                [counter.settled for counter in found],
            )
        return judge(ask.plan, ask.needs, balances), counters

    def _watch_refusal(
        self, verdict: Verdict, counters: dict[int, tuple[Counter, ...]], at_us: int
    ) -> None:
        step = verdict.last
        self._watch(step.candidate, counters[step.candidate.index], at_us)

    def _hold(self, reservation: Reservation, counters: Sequence[Counter]) -> None:
        amounts = reservation.amounts
        for counter in counters:
            counter.hold(amounts[counter.measure])
        self.set_held(reservation, counters)

    def _give_back(self, reservation: Reservation) -> None:
        amounts = reservation.amounts
        for counter in self.held(reservation):
            counter.hold(-amounts[counter.measure])

    def _ask_approval(self, ask: Ask) -> None:
        reservation = ask.reservation
        reservation.expires_us = ask.approval_expires_us
        extra_of(reservation).approval = Approval(
            id=reservation.id,
            tenant=reservation.subject.tenant,
            user=reservation.subject.user,
            tool=reservation.final_tool,
            amount=to_decimal(reservation.amounts[0]),
            state="pending",
            requested_at=from_us(reservation.counted_us),
            expires_at=from_us(reservation.expires_us),
            message=reservation.message,
            labels=reservation.subject.label_map,
        )

    # -- resolve ----------------------------------------------------------------------------

    def resolve(self, item: Resolution) -> Any:
        """Carry out one resolution."""
        match item:
            case Settle():
                return self.settle(item)
            case Release():
                return self.release(item)
            case Extend():
                return self.extend(item)
            case Record():
                return self.record(item)
            case Adjust():
                return self.adjust(item)
            case Approve():
                return self.approve(item)
            case Reject():
                return self.reject(item)
            case Claim():
                return self.claim(item)
            case Report():
                return self.report(item)

    def settle(self, item: Settle) -> UsageEvent | Refusal:
        """Settle a reservation, or take in one that the store has lost."""
        reservation = self.find(item.tenant, item.uid)
        if reservation is None:
            return self._settle_lost(item)
        if reservation.state == SETTLED:
            return self._settle_again(reservation, item)
        if reservation.state not in OPEN_STATES:
            return self._settle_late(reservation, item)
        known = item.event.source
        watched = known.candidate if isinstance(known, Reservation) else reservation.candidate
        event = _of(item, reservation, *(() if reservation.state == RESERVED else ("late",)))
        self._give_back(reservation)
        counters = self.held(reservation)
        self._post(counters, event)
        self._finish(reservation, SETTLED, event.at_us, event)
        self.add_event(event)
        self._watch(watched, counters, event.at_us)
        return event

    def _settle_again(self, reservation: Reservation, item: Settle) -> UsageEvent | Refusal:
        first = reservation.event
        assert first is not None  # noqa: S101 -- a settled reservation has its event
        exact = reservation.extra.exact if reservation.extra is not None else None
        latest = exact or first
        if _repeats(first, latest, item.event):
            return corrected(first, exact) if exact is not None else first
        if exact is not None or "estimated" not in first.flags:
            return refusals.settled_otherwise(reservation.id, latest.cost)
        refusal = self._unplanned(item, reservation)
        if refusal is not None:
            return refusal
        event = _of(item, reservation, "correction")
        event.key = item.correction_uid
        event.cost_nanousd -= first.cost_nanousd
        event.tokens -= first.tokens
        event.requests -= first.requests
        event.corrects = first.id
        self._post_by_plan(item.plan, event)
        extra_of(reservation).exact = event
        self.changed(reservation, SETTLED)
        self.add_event(event)
        return corrected(first, event)

    def _settle_late(self, reservation: Reservation, item: Settle) -> UsageEvent | Refusal:
        refusal = self._unplanned(item, reservation)
        if refusal is not None:
            return refusal
        event = _of(item, reservation, "late")
        self._post_by_plan(item.plan, event)
        self._finish(reservation, SETTLED, event.at_us, event)
        self.add_event(event)
        return event

    def _settle_lost(self, item: Settle) -> UsageEvent | Refusal:
        known = item.event.source
        if not isinstance(known, Reservation) or known.counted_us <= self.horizon_us():
            return Unknown("reservation", item.uid)
        entered = self.find_event(item.tenant, item.uid)
        if entered is not None:  # by record(), under the reservation's id
            return refusals.settled_otherwise(entered.id, entered.cost)
        refusal = self._unplanned(item, known)
        if refusal is not None:
            return refusal
        copy = _copy(known)
        event = _of(item, copy, "late")
        self._post_by_plan(item.plan, event)
        copy.state = SETTLED
        copy.event = event
        extra_of(copy).resolved_us = event.at_us
        self.set_held(copy, ())
        self.add(copy)
        self.add_event(event)
        return event

    def _unplanned(
        self, item: Settle | Adjust | Approve, source: Reservation | Posting
    ) -> Refusal | None:
        """Say what is missing to find the counters of `source`: a plan, or a fresh one."""
        if item.plan is None:
            return NeedPlan(source)
        version = self.version(item.tenant)
        return None if item.plan.version == version else Stale(version)

    def release(self, item: Release) -> Reservation | Refusal:
        """Give a reservation's money back. A repeat answers with the state as it is."""
        reservation = self.find(item.tenant, item.uid)
        if reservation is None:
            return Unknown("reservation", item.uid)
        if reservation.state == SETTLED:
            return refusals.already_settled(reservation.id)
        if reservation.state in OPEN_STATES:
            self._give_back(reservation)
            self._finish(reservation, RELEASED, item.at_us)
        return reservation

    def extend(self, item: Extend) -> Reservation | Refusal:
        """Let a reservation live longer."""
        reservation = self.find(item.tenant, item.uid)
        if reservation is None:
            return Unknown("reservation", item.uid)
        if reservation.state != RESERVED:
            return refusals.not_reserved(reservation.id, reservation.state)
        if item.expires_us > reservation.expires_us:
            reservation.expires_us = item.expires_us
            self.changed(reservation, RESERVED)
        return reservation

    def record(self, item: Record) -> UsageEvent | Refusal:
        """Enter money that was spent elsewhere."""
        event, plan = item.event, item.plan
        tenant = event.source.subject.tenant
        known = self.find_event(tenant, event.key)
        if known is not None:
            if known.outcome == event.outcome:
                return known
            return refusals.id_used(event.id)
        if isinstance(event.key, int) and self.find(tenant, event.key) is not None:
            return refusals.id_of_reservation(event.id)
        if event.source.counted_us <= self.horizon_us():
            return refusals.pruned("at", "raise memory_events or use a durable store")
        if plan.version != self.version(tenant):
            return Stale(self.version(tenant))
        self._post_by_plan(plan, event)
        self.add_event(event)
        return event

    def adjust(self, item: Adjust) -> UsageEvent | Refusal:
        """Enter a signed correction in the windows of the event that it corrects."""
        known = self.find_event(item.tenant, item.key)
        if known is not None:
            if known.outcome == item.outcome:
                return known
            return refusals.id_used(known.id)
        if isinstance(item.key, int) and self.find(item.tenant, item.key) is not None:
            return refusals.id_of_reservation(uuid_text(item.key))
        first = self.find_event(item.tenant, item.event_key)
        if first is None:
            return Unknown("event", item.event_key)
        refusal = self._unplanned(item, first.source)
        if refusal is not None:
            return refusal
        event = UsageEvent(
            item.key,
            first.source,
            first.model,
            item.cost_nanousd,
            0,
            0,
            None,
            item.at_us,
            ("correction",),
            first.price_version,
            item.outcome,
            corrects=first.id,
            note=item.note,
        )
        self._post_by_plan(item.plan, event)
        self.add_event(event)
        return event

    # -- leases -----------------------------------------------------------------------------

    def report(self, item: Report) -> Reservation | Refusal:
        """Enter what was spent out of a lease, and hold no more of it than is to be kept."""
        fresh: list[UsageEvent] = []
        for event in item.events:
            known = self.find_event(item.tenant, event.key)
            if known is None:
                fresh.append(event)
            elif (latest := self._otherwise(known, event)) is not None:
                return refusals.settled_otherwise(known.id, latest.cost)
        lease = self.find(item.tenant, item.uid)
        if lease is None or (lease.state not in OPEN_STATES and fresh):
            return Unknown("reservation", item.uid)
        if lease.state not in OPEN_STATES:
            return lease
        version = self.version(item.tenant)
        if fresh and item.version != version:
            return Stale(version)
        counters = self.held(lease)
        for event in fresh:
            source = event.source
            assert isinstance(source, Reservation)  # noqa: S101 -- a lease decides reservations
            copy = _copy(source)
            settled = _settling(event, copy, copy.uid, ())
            self._post(counters, settled)
            copy.state, copy.event = SETTLED, settled
            extra_of(copy).resolved_us = settled.at_us
            self.set_held(copy, ())
            self.add(copy)
            self.add_event(settled)
        kept = tuple(map(min, item.keep, lease.amounts))
        for counter in counters:
            counter.hold(kept[counter.measure] - lease.amounts[counter.measure])
        lease.amounts = (kept[0], kept[1], kept[2], kept[3])
        if any(kept[:3]):
            self.changed(lease, lease.state)
        else:
            self._finish(lease, RELEASED, item.at_us)
        return lease

    def _otherwise(self, known: UsageEvent, event: UsageEvent) -> UsageEvent | None:
        """Return what a call was settled with, where a report says something else of it."""
        reservation = self.find(known.tenant, event.key) if isinstance(event.key, int) else None
        extra = reservation.extra if reservation is not None else None
        latest = extra.exact if extra is not None and extra.exact is not None else known
        return None if _repeats(known, latest, event) else latest

    # -- approvals --------------------------------------------------------------------------

    def approve(self, item: Approve) -> Approval | Refusal | Reservation:
        """Judge the `deny` limits again in the current windows, and move the hold there.

        Returns the approval, or the reservation as a refusal when a `deny` limit would be crossed:
        it then stays pending where it was.
        """
        reservation, approval = self._approval(item.tenant, item.uid)
        if reservation is None or approval is None:
            return Unknown("approval", item.uid)
        self._lapse(reservation, item.at_us)
        if approval.state == "approved":
            return approval
        if approval.state != "pending":
            return refusals.answered(approval.id, approval.state)
        refusal = self._unplanned(item, reservation)
        if refusal is not None:
            return refusal
        candidate = _candidate(item.plan, reservation.final_tool)
        counters = self.counters(candidate.keys, item.at_us)
        self._give_back(reservation)
        amounts: Amounts = (*reservation.amounts[:3], 1)
        refused = _denies(candidate, counters, amounts)
        if refused is not None:
            for counter in self.held(reservation):
                counter.hold(reservation.amounts[counter.measure])
            return refused
        reservation.amounts = amounts
        reservation.counted_us = item.at_us
        reservation.expires_us = max(reservation.expires_us, item.expires_us)
        reservation.state = RESERVED
        self._hold(reservation, counters)
        approval.state, approval.by, approval.decided_at = "approved", item.by, from_us(item.at_us)
        approval.expires_at = from_us(reservation.expires_us)
        self.changed(reservation, PENDING)
        self._watch(candidate, counters, item.at_us)
        return approval

    def reject(self, item: Reject) -> Approval | Refusal:
        """Say no; the money is given back."""
        reservation, approval = self._approval(item.tenant, item.uid)
        if reservation is None or approval is None:
            return Unknown("approval", item.uid)
        self._lapse(reservation, item.at_us)
        if approval.state == "rejected":
            return approval
        if approval.state not in ("pending", "approved"):
            return refusals.answered(approval.id, approval.state)
        approval.state, approval.by, approval.reason = "rejected", item.by, item.reason
        approval.decided_at = from_us(item.at_us)
        if reservation.state in OPEN_STATES:
            self._give_back(reservation)
            self._finish(reservation, RELEASED, item.at_us)
        return approval

    def claim(self, item: Claim) -> Reservation | Refusal:
        """Take an approved reservation for its one run, or go on with that run."""
        reservation, approval = self._approval(item.tenant, item.uid)
        if reservation is None or approval is None:
            return Unknown("approval", item.uid)
        self._lapse(reservation, item.at_us)
        digest = reservation.extra.digest if reservation.extra is not None else None
        if digest != item.digest:
            return refusals.another_call(approval.id)
        if approval.state == "used" and approval.claim == item.claim:
            return reservation
        if approval.state == "pending" and item.after is None:
            return reservation
        free = approval.state == "approved" if item.after is None else item.after == approval.claim
        if not free or reservation.state != RESERVED:
            return refusals.answered(approval.id, approval.state)
        approval.state, approval.claim = "used", item.claim
        reservation.expires_us = item.expires_us
        reservation.decision = (
            "downgraded" if reservation.final_tool != reservation.requested_tool else "allowed"
        )
        self.changed(reservation, RESERVED)
        return reservation

    def _approval(self, tenant: str, uid: int) -> tuple[Reservation | None, Approval | None]:
        reservation = self.find(tenant, uid)
        if reservation is None or reservation.extra is None:
            return reservation, None
        return reservation, reservation.extra.approval

    def _lapse(self, reservation: Reservation, at_us: int) -> None:
        """Let an approval that nobody answered, or used, in time expire now."""
        if reservation.state in OPEN_STATES and at_us >= reservation.expires_us:
            self._expire_one(reservation, at_us)

    # -- expiry -----------------------------------------------------------------------------

    def expire(self, at_us: int, limit: int, on_expiry: str) -> Overdue:
        """End overdue reservations: give the money back, or settle at the expected cost."""
        late = self.overdue(None, at_us, limit)
        settled = sum(self._end(one, at_us, settle=on_expiry == "settle") for one in late)
        return Overdue(len(late) - settled, settled)

    def _expire_some(self, tenant: str, at_us: int, touched: Iterable[Sequence[Counter]]) -> bool:
        """End overdue holds, those in a reserve's way first; say whether there were any."""
        late = self.overdue(tenant, at_us, OVERDUE_LOOKED_AT_MAX)
        if len(late) > OVERDUE_PER_RESERVE_MAX:
            wanted = {id(counter) for counters in touched for counter in counters}
            late.sort(key=lambda one: not any(id(held) in wanted for held in self.held(one)))
        for reservation in late[:OVERDUE_PER_RESERVE_MAX]:
            self._end(reservation, at_us, settle=self.settle_on_expiry)
        return bool(late)

    def _end(self, reservation: Reservation, at_us: int, *, settle: bool) -> bool:
        """End one overdue reservation; say whether it was settled rather than released.

        One that waits for an approval, or for the run that was approved, was surely not charged;
        nor was a lease, whose calls are charged by themselves.
        """
        approval = reservation.extra.approval if reservation.extra is not None else None
        waits = approval is not None and approval.state in ("pending", "approved")
        leased = reservation._method == "lease"
        if settle and reservation.state == RESERVED and not waits and not leased:
            self._expire_settled(reservation, at_us)
            return True
        self._expire_one(reservation, at_us)
        return False

    #: What a reserve does with the overdue holds in its way; the governor's `on_expiry`.
    settle_on_expiry = False

    def _expire_one(self, reservation: Reservation, at_us: int) -> None:
        self._give_back(reservation)
        self._finish(reservation, EXPIRED, at_us)

    def _expire_settled(self, reservation: Reservation, at_us: int) -> None:
        self._give_back(reservation)
        event = UsageEvent(
            reservation.uid,
            reservation,
            reservation.model,
            reservation.expected_nanousd,
            reservation.need.expected_input_tokens + reservation.output_tokens,
            reservation.amounts[2],
            None,
            at_us,
            ("estimated", "expired"),
            None,
            "expired",
        )
        self._post(self.held(reservation), event)
        self._finish(reservation, SETTLED, at_us, event)
        self.add_event(event)

    # -- shared steps -----------------------------------------------------------------------

    def _post(self, counters: Sequence[Counter], event: UsageEvent) -> None:
        amounts = (event.cost_nanousd, event.tokens, event.requests, 0)
        counted_us = event.source.counted_us
        for counter in counters:
            if counter.measure != CONCURRENT:
                counter.turn(event.at_us)
                counter.post(amounts[counter.measure], counted_us)

    def _post_by_plan(self, plan: Plan | None, event: UsageEvent) -> None:
        """Add an event to every counter that counts it: open windows, and kept ended ones."""
        candidate = _candidate(plan, event.tool)
        found = []
        for key, end_us in candidate.keys:
            counter = self.counter(key)
            if counter is None and end_us > event.at_us:
                counter = self.open_counter(key, end_us, event.at_us)
            if counter is not None:
                found.append(counter)
        self._post(found, event)
        self._watch(candidate, found, event.at_us)

    def _finish(
        self,
        reservation: Reservation,
        state: str,
        at_us: int,
        event: UsageEvent | None = None,
    ) -> None:
        was = reservation.state
        reservation.state = state
        reservation.event = event
        extra = reservation.extra
        if extra is not None:
            extra.resolved_us = at_us
            approval = extra.approval
            if approval is not None and approval.state in ("pending", "approved"):
                # There is nothing left to say yes to: an answer would hold the money again.
                approval.state = "used" if state == SETTLED else "expired"
        self.changed(reservation, was)


def opened(key: CounterKey, end_us: int, sums: Iterable[tuple[int, int]], at_us: int) -> Counter:
    """Make a counter that starts with the given (counted_us, amount) pairs."""
    ring = ring_of(key)
    if ring is None:
        counter = Counter(key, end_us)
        if counter.measure != CONCURRENT:
            counter.committed = sum(amount for _, amount in sums)
        # One that opens at zero is kept only once something is held or posted there.
        counter.dirty = counter.committed != 0
        return counter
    state = RingState(ring, ring.bucket(at_us))
    counter = Counter(key, end_us, state)
    for counted_us, amount in sums:
        counter.post(amount, counted_us)
    return counter


def only_event(found: Iterable[UsageEvent]) -> UsageEvent | None:
    """Return the one event of an id that was looked up without a tenant.

    Raises:
        InvalidRequest: Several tenants have one.
    """
    events = list(islice(found, 2))
    if len(events) > 1:
        raise InvalidRequest(
            "event_id", "several tenants have an event of that id; say which with tenant="
        )
    return events[0] if events else None


def ring_of(key: CounterKey) -> Ring | None:
    """Return the ring of a rolling counter."""
    name, _, length = key.kind.partition(":")
    return Ring(int(length)) if name == "rolling" else None


def reaches_back_us(key: CounterKey, at_us: int) -> int:
    """Say from when on events count towards a counter."""
    ring = ring_of(key)
    if ring is None:
        return key.start_us
    return (ring.bucket(at_us) - ring.buckets) * ring.width_us


def extra_of(reservation: Reservation) -> ReservationExtra:
    """Return what only some reservations carry, made if need be."""
    if reservation.extra is None:
        reservation.extra = ReservationExtra()
    return reservation.extra


def fill(reservation: Reservation, ask: Ask, verdict: Verdict) -> None:
    """Write a verdict into the reservation that was asked for."""
    step = verdict.last
    reservation.decision = verdict.decision
    reservation.candidate = step.candidate
    need = ask.needs[step.candidate.index]
    assert need is not None  # noqa: S101 -- the rule judges only candidates that fit
    reservation.need = need
    reservation.amounts = step.amounts
    reservation.output_tokens = step.output_tokens
    reservation.verdict = verdict
    reservation.state = RESERVED
    if verdict.decision == "pending_approval":
        reservation.state = PENDING
        reservation.amounts = (*step.amounts[:3], 0)


def _gives_less(verdict: Verdict, ask: Ask) -> bool:
    """Say whether a limit stands in the way of all that was asked for."""
    step = verdict.last
    need = ask.needs[step.candidate.index]
    return step.acted is not None or (need is not None and step.is_shrunk(need))


def _repeats(first: UsageEvent, latest: UsageEvent, event: UsageEvent) -> bool:
    """Say whether a settlement tells what is known: the latest outcome, or one more estimate."""
    return event.outcome == latest.outcome or (
        "estimated" in event.flags and "estimated" in first.flags
    )


def _of(item: Settle, reservation: Reservation, *flags: str) -> UsageEvent:
    """Make the event that settles a stored reservation, from what the caller reported."""
    return _settling(item.event, reservation, item.uid, flags)


def _settling(
    event: UsageEvent, reservation: Reservation, uid: int, flags: tuple[str, ...]
) -> UsageEvent:
    if event.cost_nanousd > reservation.amounts[0] and "overrun" not in event.flags:
        flags = (*flags, "overrun")
    return UsageEvent(
        uid,
        reservation,
        event.model,
        event.cost_nanousd,
        event.tokens,
        event.requests,
        event.usage,
        event.at_us,
        (*event.flags, *flags),
        event.price_version,
        event.outcome,
    )


def _candidate(plan: Plan | None, tool: str) -> Candidate:
    assert plan is not None  # noqa: S101 -- _unplanned() asked for it
    return plan_candidate(plan, tool) or plan.candidates[0]


def _copy(reservation: Reservation) -> Reservation:
    copy = Reservation.rebuild(
        uid=reservation.uid,
        subject=reservation.subject,
        tool=reservation.final_tool,
        model=reservation.model,
        requested_tool=reservation.requested_tool,
        need=reservation.need,
        amounts=reservation.amounts,
        output_tokens=reservation.output_tokens,
        decision=reservation.decision,
        state=reservation.state,
        counted_us=reservation.counted_us,
        expires_us=reservation.expires_us,
        method=reservation._method,
        view=reservation._view,
    )
    copy.verdict, copy.candidate = reservation.verdict, reservation.candidate
    if reservation.verdict is None:
        copy._balances = reservation._balances
    extra = reservation.extra
    if extra is not None:
        copy.extra = ReservationExtra(key=extra.key, digest=extra.digest)
    return copy


def _denies(candidate: Candidate, counters: Sequence[Counter], amounts: Amounts) -> Conflict | None:
    for check in candidate.checks:
        if not check.denies:
            continue
        committed = counters[check.slot].committed if check.slot >= 0 else 0
        if committed + amounts[check.measure] > check.limit:
            return refusals.denied_still(check.policy_id, check.limit_type, check.scope)
    return None
