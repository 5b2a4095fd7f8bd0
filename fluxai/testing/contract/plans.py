"""Plans made by hand: what a store is asked, without a governor that compiles it."""

from __future__ import annotations

from collections.abc import Sequence

from fluxai.core.decisions import Posting, Reservation, ReservationExtra, UsageEvent
from fluxai.core.ledger import COST, MEASURES, Candidate, Check, CounterKey, Need, Plan, Subject
from fluxai.core.money import PER_MILLION
from fluxai.core.windows import MAX_US, MIN_US, to_us
from fluxai.storage.base import Ask, Record, Settle
from fluxai.testing.clock import FakeClock

HOUR_US = 3_600_000_000
NOON_US = to_us(FakeClock().now)
#: Rules that nobody has changed yet.
UNCHANGED = (0, 0)


def counter_key(
    tenant: str, value: str = "", *, measure: int = COST, scope: str = "tenant"
) -> CounterKey:
    """Name the total counter of a tenant, or of another value."""
    return CounterKey(tenant, scope, value or tenant, MEASURES[measure], "total", MIN_US)


def make_check(policy_id: str = "p", *, limit: int, slot: int = 0, **fields: object) -> Check:
    """Make a check: a deny limit of cost, where nothing else is said."""
    values: dict[str, object] = {
        "policy_id": policy_id,
        "scope": "tenant",
        "scope_id": None,
        "limit_type": "total",
        "measure": COST,
        "limit": limit,
        "decision": "deny",
        "mode": "enforce",
        "slot": slot,
        "fallback": -1,
        "end_us": MAX_US,
        "alert_at": (),
        "rank": (0, 3, 0, policy_id),
        **fields,
    }
    return Check(**values)  # type: ignore[arg-type]


def make_candidate(
    checks: Sequence[Check], keys: Sequence[CounterKey], *, index: int = 0, tool: str = "tool"
) -> Candidate:
    """Make a candidate with counters in the order of their slots."""
    return Candidate(
        index=index,
        tool=tool,
        model=None,
        requested_tool="tool",
        rates=None,
        unit_rate=None,
        max_output=0,
        checks=tuple(sorted(checks, key=lambda check: check.rank)),
        keys=tuple((key, MAX_US) for key in keys),
        counts=tuple(MEASURES.index(key.measure) for key in keys),
    )


def make_plan(
    subject: Subject, *candidates: Candidate, version: tuple[int, int] = UNCHANGED
) -> Plan:
    """Make a plan that is good for a day around noon."""
    return Plan(
        subject=subject,
        version=version,
        start_us=NOON_US - 12 * HOUR_US,
        end_us=NOON_US + 12 * HOUR_US,
        candidates=candidates,
    )


def one_limit(tenant: str, limit: int, *, version: tuple[int, int] = UNCHANGED) -> Plan:
    """Make the plan of a tenant with one total limit."""
    candidate = make_candidate([make_check(limit=limit)], [counter_key(tenant)])
    return make_plan(Subject(tenant), candidate, version=version)


def cost_of(nanousd: int) -> Need:
    """Make the need of a call that costs so much."""
    return Need(nanousd * PER_MILLION, 0, 0, 0, 0, 0, 1, 0)


def make_ask(
    plan: Plan,
    uid: int,
    needs: Need | Sequence[Need | None],
    *,
    at_us: int = NOON_US,
    ttl_us: int = HOUR_US,
    key: str | None = None,
    digest: str | None = None,
) -> Ask:
    """Make one reserve."""
    reservation = Reservation()
    reservation.uid = uid
    reservation.subject = plan.subject
    reservation.decision = "allowed"
    reservation.verdict = None
    reservation._method = "exact"
    reservation._offers = ()
    reservation._view = None
    reservation.counted_us = at_us
    reservation.expires_us = at_us + ttl_us
    reservation.state = "reserved"
    reservation.event = None
    reservation.extra = None
    reservation.trace = None
    if key is not None or digest is not None:
        reservation.extra = ReservationExtra(key=key, digest=digest)
    several = (needs,) if isinstance(needs, Need) else tuple(needs)
    return Ask(reservation, plan, several, at_us + 24 * HOUR_US)


def settle_at(
    reservation: Reservation, cost: int, *, at_us: int = NOON_US, plan: Plan | None = None
) -> Settle:
    """Make one settlement of a reservation."""
    event = UsageEvent(
        reservation.uid, reservation, None, cost, 0, 1, None, at_us, (), None, f"cost {cost}"
    )
    return Settle(reservation.subject.tenant, reservation.uid, event, plan)


def record_of(plan: Plan, name: str, cost: int, *, at_us: int = NOON_US) -> Record:
    """Make one record of money spent on the plan's first candidate."""
    source = Posting(subject=plan.subject, final_tool="tool", model=None, counted_us=at_us)
    event = UsageEvent(name, source, None, cost, 0, 1, None, at_us, (), None, f"cost {cost}")
    return Record(event=event, plan=plan)
