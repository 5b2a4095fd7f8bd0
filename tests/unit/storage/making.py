"""Hand-made plans, asks and resolutions: what a governor would send to a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fluxai.core.decisions import Posting, Reservation, ReservationExtra, UsageEvent
from fluxai.core.ids import Uuid7Source
from fluxai.core.ledger import (
    CONCURRENT,
    MEASURES,
    Candidate,
    Check,
    CounterKey,
    Need,
    Plan,
    Subject,
)
from fluxai.core.windows import DAY_US, MAX_US, MIN_US, to_us
from fluxai.storage.base import Ask, Record, Settle

CENT = 10_000_000
USD = 100 * CENT
NOON_US = to_us(datetime(2026, 3, 4, 12, tzinfo=UTC))
TTL_US = 30 * 60 * 1_000_000
TOOL = "model-a"

_DECISIONS = {"deny": 0, "require_approval": 1, "downgrade": 2, "allow": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A policy, as far as a store sees it."""

    amount: int
    scope: str = "tenant"
    value: str = ""
    measure: str = "cost"
    kind: str = "daily"
    decision: str = "deny"
    alert_at: tuple[tuple[int, str], ...] = ()


def window_of(kind: str, at_us: int) -> tuple[int, int]:
    """Find a window, in UTC, as an engine would."""
    if kind == "daily":
        start_us = at_us - at_us % DAY_US
        return start_us, start_us + DAY_US
    if kind == "per_minute":
        start_us = at_us - at_us % 60_000_000
        return start_us, start_us + 60_000_000
    if kind.startswith("rolling"):
        return 0, MAX_US
    return MIN_US, MAX_US


def key_of(limit: Limit, subject: Subject, tool: str, at_us: int) -> tuple[CounterKey, int] | None:
    """Find the counter that a limit reads for a subject, or None where it does not apply."""
    labels = {f"{name}={value}" for name, value in subject.labels}
    value = {"tenant": subject.tenant, "user": subject.user, "tool": tool}.get(limit.scope)
    if limit.scope == "label":
        value = limit.value if limit.value in labels else None
    if value is None or (limit.value and limit.value != value):
        return None
    start_us, end_us = window_of(limit.kind, at_us)
    return CounterKey(subject.tenant, limit.scope, value, limit.measure, limit.kind, start_us), (
        end_us
    )


def plan_for(
    limits: Sequence[Limit] = (),
    *,
    tenant: str = "acme",
    user: str | None = "alice",
    labels: tuple[tuple[str, str], ...] = (),
    tool: str = TOOL,
    at_us: int = NOON_US,
    version: tuple[int, int] = (0, 0),
) -> Plan:
    """Compile a plan of one candidate."""
    subject = Subject(tenant, user, labels)
    keys: list[tuple[CounterKey, int]] = []
    checks = []
    for number, limit in enumerate(limits):
        key = key_of(limit, subject, tool, at_us)
        if key is None:
            continue
        if key not in keys:
            keys.append(key)
        measure = CONCURRENT if limit.kind == "concurrent" else MEASURES.index(limit.measure)
        checks.append(
            Check(
                policy_id=f"policy-{number}",
                scope=limit.scope,
                scope_id=None if limit.scope == "tenant" else key[0].value,
                limit_type=limit.kind.partition(":")[0],
                measure=measure,
                limit=limit.amount,
                decision=limit.decision,
                mode="enforce",
                slot=keys.index(key),
                fallback=-1,
                end_us=key[1],
                alert_at=limit.alert_at,
                rank=(0, 0, _DECISIONS[limit.decision], f"policy-{number}"),
            )
        )
    checks.sort(key=lambda check: check.rank)
    candidate = Candidate(
        index=0,
        tool=tool,
        model=tool,
        requested_tool=tool,
        rates=None,
        unit_rate=None,
        max_output=0,
        checks=tuple(checks),
        keys=tuple(keys),
        counts=tuple(
            CONCURRENT if key.kind == "concurrent" else MEASURES.index(key.measure)
            for key, _ in keys
        ),
    )
    return Plan(
        subject=subject,
        version=version,
        start_us=MIN_US,
        end_us=MAX_US,
        candidates=(candidate,),
    )


class Maker:
    """Makes asks and resolutions with ids of its own."""

    def __init__(self, seed: int | None = None) -> None:
        self.new_id = Uuid7Source(seed)

    def ask(
        self,
        plan: Plan,
        cost_nanousd: int = CENT,
        *,
        tokens: int = 10,
        at_us: int = NOON_US,
        ttl_us: int = TTL_US,
        uid: int | None = None,
        key: str | None = None,
        digest: str | None = None,
    ) -> Ask:
        """Ask for a hold of a cost."""
        reservation = Reservation.__new__(Reservation)
        reservation.uid = self.new_id(at_us) if uid is None else uid
        reservation.subject = plan.subject
        reservation.decision = "allowed"
        reservation.verdict = None
        reservation._method = "exact"
        reservation._balances = None
        reservation._offers = ()
        reservation._view = None
        reservation.counted_us = at_us
        reservation.expires_us = at_us + ttl_us
        reservation.state = "reserved"
        reservation.event = None
        reservation.holds = None
        reservation.extra = None
        if key is not None or digest is not None:
            reservation.extra = ReservationExtra(key=key, digest=digest)
        need = Need(cost_nanousd * 1_000_000, 0, tokens, tokens, 0, 0)
        return Ask(reservation, plan, (need,), at_us + DAY_US)

    @staticmethod
    def settle(
        reservation: Reservation,
        cost_nanousd: int = CENT,
        *,
        at_us: int = NOON_US,
        tokens: int = 10,
        outcome: object = None,
        flags: tuple[str, ...] = (),
        by_id: bool = False,
        plan: Plan | None = None,
        correction_uid: int = 0,
    ) -> Settle:
        """Settle a reservation at a cost."""
        source: Reservation | Posting = reservation
        if by_id:
            source = Posting(
                subject=reservation.subject,
                final_tool=reservation.final_tool,
                model=reservation.model,
                counted_us=reservation.counted_us,
            )
        event = UsageEvent(
            reservation.uid,
            source,
            reservation.model,
            cost_nanousd,
            tokens,
            1,
            None,
            at_us,
            flags,
            "prices-1",
            cost_nanousd if outcome is None else outcome,
        )
        return Settle(reservation.subject.tenant, reservation.uid, event, plan, correction_uid)

    @staticmethod
    def record(
        plan: Plan,
        event_id: int | str,
        cost_nanousd: int = CENT,
        *,
        at_us: int = NOON_US,
        counted_us: int | None = None,
        tokens: int = 10,
        model: str | None = TOOL,
    ) -> Record:
        """Enter money that was spent already."""
        source = Posting(
            subject=plan.subject,
            final_tool=plan.candidates[0].tool,
            model=model,
            counted_us=at_us if counted_us is None else counted_us,
        )
        event = UsageEvent(
            event_id, source, model, cost_nanousd, tokens, 1, None, at_us, (), None, cost_nanousd
        )
        return Record(event=event, plan=plan)
