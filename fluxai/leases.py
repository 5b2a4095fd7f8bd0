"""Leases: a slice of a budget that this process gives out by itself, in microseconds.

A slice is a reservation in the store, so all slices together can't exceed the limit, whoever holds
them. Calls are decided out of the slice without asking the store; what they cost is written to a
journal on this machine's disk before `settle` returns, and reported to the store in batches. A
lease is good for ten seconds; then it is reported, and renewed under the rules as they are.

Near a limit, where a slice would be worth few calls, and before any refusal, the store itself
decides. A process that dies leaves its slices held, and its journal: the next governor on this
machine settles what is in it, and gives the rest back.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fluxai.core.decisions import RELEASED, RESERVED, SETTLED, Reservation, UsageEvent
from fluxai.core.errors import FluxAIError, StorageError
from fluxai.core.ids import IdSource
from fluxai.core.ledger import (
    COST,
    REQUESTS,
    TOKENS,
    Amounts,
    Candidate,
    Check,
    Need,
    Plan,
    amounts_of,
    pick_output,
)
from fluxai.core.money import PER_MILLION
from fluxai.journal import Journal
from fluxai.storage import refusals
from fluxai.storage.base import (
    Ask,
    Conflict,
    Extend,
    Refusal,
    Release,
    Report,
    Resolution,
    Settle,
    Stale,
    Storage,
    Unknown,
)

log = logging.getLogger("fluxai")

#: How long a lease is good for without asking the store again.
LEASE_US: Final = 10_000_000
#: How long the store keeps what a dead process held, for its journal to be found.
KEPT_US: Final = 7 * 24 * 3600 * 1_000_000
#: A slice that is worth fewer calls than this is not taken: the store decides each.
CALLS_MIN: Final = 20
#: After so many settlements a lease is reported.
REPORT_MAX: Final = 256
#: So long the store decides directly after a slice was too small.
DIRECT_US: Final = 250_000
DIRECT_REMEMBERED_MAX: Final = 10_000


class Lease:
    """A slice of the budgets of one plan."""

    __slots__ = (
        "balances",
        "free",
        "lock",
        "open",
        "plan",
        "retired",
        "spent",
        "tenant",
        "uid",
        "until_us",
    )

    def __init__(self, plan: Plan, uid: int, amounts: Amounts, balances: bytes, at_us: int) -> None:
        self.plan = plan
        self.tenant = plan.subject.tenant
        self.uid = uid
        self.until_us = min(at_us + LEASE_US, plan.end_us)
        #: What may still be given out: cost, tokens, requests.
        self.free = list(amounts[:3])
        #: As the slice was taken: what decisions out of it show.
        self.balances = balances
        self.open: dict[int, Reservation] = {}
        #: Settled here, and not yet reported.
        self.spent: list[UsageEvent] = []
        #: Nothing more is given out; what is open is still to be resolved.
        self.retired = False
        self.lock = threading.Lock()

    def keep(self) -> Amounts:
        """Say what has to stay held: what is open, and what may be given out."""
        kept = [0, 0, 0] if self.retired else [max(0, free) for free in self.free]
        for reservation in self.open.values():
            for measure in (COST, TOKENS, REQUESTS):
                kept[measure] += reservation.amounts[measure]
        return (kept[0], kept[1], kept[2], 1 if any(kept) else 0)


class Leases:
    """Decides out of leases where every budget that applies allows it; else asks the store.

    Args:
        storage: The store.
        journal: The path of this process's journal, but for its ending.
        ids: Makes ids.
        now: Tells the time, in microseconds.
        settle_lost: Settles what the store can take only on its own.
    """

    def __init__(
        self,
        storage: Storage,
        journal: Path,
        *,
        ids: IdSource,
        now: Callable[[], int],
        settle_lost: Callable[[Settle], Any],
    ) -> None:
        self._storage = storage
        self._ids = ids
        self._settle_lost = settle_lost
        self._now = now
        #: How often a lease could not be reported at once. Nothing is lost by that.
        self.report_errors = 0
        self._journal = Journal(journal)
        self._reset()
        _reset_after_fork(self)

    def _reset(self) -> None:
        #: One for each of so many groups of plans, so that renewals seldom wait for each other.
        self._locks = [threading.Lock() for _ in range(64)]
        self._leases: dict[int, Lease] = {}
        #: Those that give out nothing more, by their ids, until the store knows that they ended.
        self._retired: dict[int, Lease] = {}
        self._keeper = _Keeper(self)
        #: Where calls were decided that are open, or not yet reported.
        self._where: dict[int, Lease] = {}
        self._direct_until_us: dict[int, int] = {}

    # -- reserve ----------------------------------------------------------------------------

    def reserve_one(self, ask: Ask) -> Reservation | Refusal:
        """Decide one ask: here, if it is under leases alone and its slice has room for it."""
        plan = ask.plan
        if plan.lease is None or ask.reservation.extra is not None:
            return self._storage.reserve_one(ask)
        lease = self._leases.get(id(plan))
        if lease is not None and _give(lease, ask):
            self._where[ask.reservation.uid] = lease
            return ask.reservation
        return self._otherwise(ask, lease)

    def _otherwise(self, ask: Ask, lease: Lease | None) -> Reservation | Refusal:
        """Take a slice, or a new one, and decide out of it; else let the store decide."""
        plan, at_us = ask.plan, ask.reservation.counted_us
        place = id(plan)
        with self._lock_of(place):
            current = self._leases.get(place)
            if current is not None and current is not lease and _give(current, ask):
                self._where[ask.reservation.uid] = current
                return ask.reservation
            if current is not None:
                self._retire(place, current, at_us)
            if at_us >= self._direct_until_us.get(place, 0):
                fresh = self._take(plan, ask, at_us)
                if fresh is not None:
                    self._leases[place] = fresh
                    self._keeper.wake()
                    if _give(fresh, ask):
                        self._where[ask.reservation.uid] = fresh
                        return ask.reservation
                if len(self._direct_until_us) > DIRECT_REMEMBERED_MAX:
                    self._direct_until_us.clear()
                self._direct_until_us[place] = at_us + DIRECT_US
        return self._storage.reserve_one(ask)

    def _lock_of(self, place: int) -> threading.Lock:
        return self._locks[(place >> 4) % len(self._locks)]

    def _take(self, plan: Plan, ask: Ask, at_us: int) -> Lease | None:
        """Reserve a slice in the store; None where it would be worth too few calls."""
        first, need = plan.first, ask.needs[0]
        assert need is not None  # noqa: S101 -- the requested tool always has a need
        assert plan.lease is not None  # noqa: S101 -- looked at by the caller
        balances = self._storage.balances(list(first.keys), at_us)
        typical = amounts_of(need, need.output_max if need.cap is None else need.cap)
        amounts = [0, 0, 0]
        for measure in (COST, TOKENS, REQUESTS):
            room = [
                check.limit - balances[check.slot].settled - balances[check.slot].reserved
                for check in first.checks
                if check.slot >= 0 and check.acts and check.measure == measure
            ]
            if room:
                numerator, denominator = plan.lease.as_integer_ratio()
                amounts[measure] = min(room) * numerator // denominator
                if amounts[measure] < CALLS_MIN * typical[measure]:
                    return None
        slice_plan = _without_single_limits(plan)
        uid = self._ids(at_us)
        held = Reservation()
        held.uid = uid
        held.subject = plan.subject
        held.decision = "allowed"
        held.verdict = None
        held._offers, held._view, held._method = (), None, "lease"
        held.counted_us = at_us
        held.expires_us = at_us + KEPT_US
        held.state, held.event, held.extra = RESERVED, None, None
        whole = Need(amounts[0] * PER_MILLION, 0, amounts[1], amounts[1], 0, 0, amounts[2], 0)
        try:
            # First the journal: a slice that nobody knows of would stay held.
            self._journal.opened(plan.subject.tenant, uid)
            answer = self._storage.reserve_one(Ask(held, slice_plan, (whole,), 0))
        except BaseException:
            # Perhaps it is held all the same: then it is given back.
            lost = Lease(plan, uid, (0, 0, 0, 0), b"", at_us)
            lost.retired = True
            self._retired[uid] = lost
            self._keeper.wake()
            raise
        if not isinstance(answer, Reservation) or not answer.allowed:
            self._journal.reported((), uid)
            return None
        committed = [
            balance.settled + balance.reserved + (*answer.amounts[:3], 0)[measure]
            for balance, measure in zip(balances, first.counts, strict=True)
        ]
        reserved = [now - balance.settled for now, balance in zip(committed, balances, strict=True)]
        shown = array("q", [*committed, *reserved]).tobytes()
        return Lease(plan, uid, answer.amounts, shown, at_us)

    # -- resolve ----------------------------------------------------------------------------

    def resolve_one(self, item: Resolution) -> Any:
        """Resolve one item: here, if it is of a call that was decided here."""
        if type(item) is Settle:
            lease = self._where.get(item.uid)
            if lease is not None and lease.tenant == item.tenant:
                return self._settle(lease, item)
        elif isinstance(item, (Release, Extend)):
            lease = self._where.get(item.uid)
            if lease is not None and lease.tenant == item.tenant:
                return self._end(lease, item)
        return self._storage.resolve_one(item)

    def _settle(self, lease: Lease, item: Settle) -> Any:
        with lease.lock:
            known = lease.open.get(item.uid)
            if known is None:
                return self._settled_before(lease, item)
        event = item.event
        flags = event.flags
        if event.cost_nanousd > known.amounts[COST]:
            flags = (*flags, "overrun")
        settled = UsageEvent(
            item.uid,
            known,
            event.model,
            event.cost_nanousd,
            event.tokens,
            event.requests,
            event.usage,
            event.at_us,
            flags,
            event.price_version,
            event.outcome,
        )
        # On the disk before it is acknowledged.
        self._journal.settled(settled, Settle(item.tenant, item.uid, event), known)
        with lease.lock:
            if lease.open.pop(item.uid, None) is None:
                # Another thread settled it at the same time.
                self._journal.reported((settled,), None)
                return self._settled_before(lease, item)
            known.state, known.event = SETTLED, settled
            actual = (settled.cost_nanousd, settled.tokens, settled.requests)
            for measure in (COST, TOKENS, REQUESTS):
                lease.free[measure] += known.amounts[measure] - actual[measure]
            lease.spent.append(settled)
            if len(lease.spent) >= REPORT_MAX or (lease.retired and not lease.open):
                self._report_later_if_need_be(lease, settled.at_us)
        return settled

    def _report_later_if_need_be(self, lease: Lease, at_us: int) -> None:
        """Report a lease; what the store can't take now is in the journal, and comes later."""
        try:
            self._report(lease, at_us)
        except StorageError as error:
            self.report_errors += 1
            log.warning("a lease could not be reported yet: %s", error)

    def _settled_before(self, lease: Lease, item: Settle) -> Any:
        """Answer a repeat: what was settled here before, if it was not reported meanwhile."""
        for event in lease.spent:
            if event.key == item.uid:
                known = event.source
                first = known.event if isinstance(known, Reservation) else None
                if first is not None and first.outcome == item.event.outcome:
                    return first
                if first is not None and not first.estimated:
                    return refusals.settled_otherwise(first.id, first.cost)
                # An exact cost after an estimate: the store corrects what it has.
                self._report(lease, item.event.at_us)
                break
        return self._storage.resolve_one(item)

    def _end(self, lease: Lease, item: Release | Extend) -> Any:
        with lease.lock:
            known = lease.open.get(item.uid)
            if known is not None and isinstance(item, Extend):
                known.expires_us = max(known.expires_us, item.expires_us)
                return known
            if known is not None:
                del lease.open[item.uid]
                self._where.pop(item.uid, None)
                known.state = RELEASED
                for measure in (COST, TOKENS, REQUESTS):
                    lease.free[measure] += known.amounts[measure]
                if lease.retired and not lease.open:
                    self._report_later_if_need_be(lease, item.at_us)
                return known
            self._report(lease, item.at_us)
        return self._storage.resolve_one(item)

    def find(self, tenant: str | None, uid: int) -> Reservation | None:
        """Return a reservation: a call that was decided here and is open, else what is stored."""
        lease = self._where.get(uid)
        if lease is not None and tenant in (None, lease.tenant):
            known = lease.open.get(uid)
            if known is not None:
                return known
            self.report()
        return self._storage.find(tenant, uid)

    def report(self) -> None:
        """Tell the store what was settled here.

        Raises:
            StorageError: The store is out of reach; it is told later.
        """
        for lease in [*self._leases.values(), *self._retired.values()]:
            with lease.lock:
                if lease.spent:
                    self._report(lease, self._now())

    # -- reports ----------------------------------------------------------------------------

    def _retire(self, place: int, lease: Lease, at_us: int) -> None:
        """Give out nothing more of a lease, and report it. Its place is locked."""
        with lease.lock:
            lease.retired = True
            self._retired[lease.uid] = lease
            self._leases.pop(place, None)
            self._end_overdue(lease, at_us)
            self._report(lease, at_us)

    def _end_overdue(self, lease: Lease, at_us: int) -> bool:
        """Give back the money of calls that nobody resolved in time, as the store does it."""
        overdue = [uid for uid, known in lease.open.items() if at_us >= known.expires_us]
        for uid in overdue:
            del lease.open[uid]
            self._where.pop(uid, None)
        return bool(overdue)

    def _report(self, lease: Lease, at_us: int) -> None:
        """Tell the store what was spent, and what stays held. The lease is locked.

        Raises:
            StorageError: The store is out of reach; nothing is lost, and it is told later.
        """
        events = lease.spent
        report = Report(
            tenant=lease.tenant,
            uid=lease.uid,
            at_us=at_us,
            version=lease.plan.version,
            events=events,
            keep=lease.keep(),
        )
        answer = self._storage.resolve_one(report)
        if isinstance(answer, (Stale, Unknown, Conflict)):
            # Other rules count now, or the slice is gone: each event finds its own counters.
            for event in events:
                self._settle_alone(Settle(lease.tenant, int(event.key), event))
            report.events = ()
            self._storage.resolve_one(report)
        lease.spent = []
        for event in events:
            self._where.pop(int(event.key), None)
        ended = lease.retired and not lease.open
        if ended:
            self._retired.pop(lease.uid, None)
        self._journal.reported(events, lease.uid if ended else None)

    def _settle_alone(self, item: Settle) -> None:
        """Settle what no lease stands for; what no store will ever take is put aside."""
        try:
            self._settle_lost(item)
        except StorageError:
            raise
        except FluxAIError:
            log.exception("a settlement of a lease can't be settled")
            self._journal.reject(item)

    def sweep(self) -> None:
        """Report the leases that are good no more, and give back what they do not need."""
        self._let_go(lambda lease, at_us: at_us >= lease.until_us)
        for lease in list(self._retired.values()):
            at_us = self._now()
            with lease.lock:
                if self._end_overdue(lease, at_us) or lease.spent or not lease.open:
                    self._report_later_if_need_be(lease, at_us)

    def forget(self, scope: str) -> None:
        """Let leases go whose rules have changed; `"*"` means everybody's."""
        self._let_go(lambda lease, _: scope in ("*", lease.tenant))
        self._direct_until_us.clear()

    def _let_go(self, whether: Callable[[Lease, int], bool]) -> None:
        leases = list(self._leases.items())
        if not leases:
            return
        at_us = self._now()
        for place, lease in leases:
            if whether(lease, at_us):
                with self._lock_of(place):
                    if self._leases.get(place) is lease:
                        try:
                            self._retire(place, lease, at_us)
                        except StorageError as error:
                            self.report_errors += 1
                            log.warning("a lease could not be reported yet: %s", error)

    @property
    def idle(self) -> bool:
        """Whether no slice is held."""
        return not self._leases and not self._retired

    def close(self) -> None:
        """Report everything, and give back what is not needed for open calls."""
        self._let_go(lambda *_: True)
        for lease in list(self._retired.values()):
            with lease.lock:
                self._report_later_if_need_be(lease, self._now())
        self._journal.close()

    def recover(self) -> int:
        """Settle what processes that died have left in their journals, and give back their slices.

        Returns:
            How many settlements there were.

        Raises:
            StorageError: The store is out of reach; the journals stay.
        """
        done = 0
        for items, leases, forget in self._journal.left_behind():
            for item in items:
                self._settle_alone(item)
                done += 1
            for tenant, uid in leases:
                self._storage.resolve_one(
                    Report(
                        tenant=tenant,
                        uid=uid,
                        at_us=self._now(),
                        version=(0, 0),
                        events=(),
                        keep=(0, 0, 0, 0),
                    )
                )
            forget()
        return done


class _Keeper:
    """Sees to it that a process which has fallen silent still lets its leases go in time.

    A thread of its own, which is there only while leases are.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = weakref.ref(leases)
        self._lock = threading.Lock()
        self._running = False

    def wake(self) -> None:
        """See to the leases from now on."""
        with self._lock:
            if not self._running:
                self._running = True
                threading.Thread(target=self._keep, name="fluxai-leases", daemon=True).start()

    def _keep(self) -> None:
        while True:
            time.sleep(LEASE_US / 2_000_000)
            leases = self._leases()
            if leases is not None:
                try:
                    leases.sweep()
                except Exception:
                    log.exception("leases could not be seen to; it is tried again")
            with self._lock:
                if leases is None or leases.idle:
                    self._running = False
                    return
            del leases


def _give(lease: Lease, ask: Ask) -> bool:
    """Decide an ask out of a lease; False where the store has to be asked."""
    reservation = ask.reservation
    need = ask.needs[0]
    candidate = ask.plan.first
    if need is None or reservation.counted_us >= lease.until_us:
        return False
    with lease.lock:
        if lease.retired:
            return False
        free = lease.free
        # To the rule, the slice is all that the limits have room for.
        committed = [0] * len(candidate.keys)
        for check in candidate.checks:
            if check.slot >= 0 and check.acts:
                at_least = check.limit - free[check.measure]
                if at_least > committed[check.slot]:
                    committed[check.slot] = at_least
        output_tokens = pick_output(candidate.checks, need, committed)
        amounts = amounts_of(need, output_tokens)
        for check in candidate.checks:
            held = committed[check.slot] if check.slot >= 0 else 0
            if check.acts and held + amounts[check.measure] > check.limit:
                return False
        free[COST] -= amounts[COST]
        free[TOKENS] -= amounts[TOKENS]
        free[REQUESTS] -= amounts[REQUESTS]
        lease.open[reservation.uid] = reservation
    reservation.candidate = candidate
    reservation.need = need
    reservation.amounts = amounts
    reservation.output_tokens = output_tokens
    reservation._balances = lease.balances
    reservation.state = RESERVED
    return True


def _without_single_limits(plan: Plan) -> Plan:
    """Return a plan without the limits of single requests, which a slice is not."""
    first = plan.first
    checks: tuple[Check, ...] = tuple(check for check in first.checks if check.slot >= 0)
    if len(checks) == len(first.checks):
        return plan
    return Plan(
        subject=plan.subject,
        version=plan.version,
        start_us=plan.start_us,
        end_us=plan.end_us,
        candidates=(
            Candidate(
                index=0,
                tool=first.tool,
                model=first.model,
                requested_tool=first.requested_tool,
                rates=first.rates,
                unit_rate=first.unit_rate,
                max_output=first.max_output,
                checks=checks,
                keys=first.keys,
                counts=first.counts,
            ),
        ),
    )


def _reset_after_fork(leases: Leases) -> None:
    """Give a forked child no leases: those it inherits are its parent's."""
    if sys.platform == "win32":
        return
    reference = weakref.ref(leases)

    def reset() -> None:
        alive = reference()
        if alive is not None:
            alive._reset()
            alive._journal.reset()

    os.register_at_fork(after_in_child=reset)
