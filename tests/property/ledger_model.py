"""A small model of the ledger, written from its promises alone: lists, and sums over them.

It knows no counters. What a limit has used is added up anew, each time, from all events and all
open reservations; so whatever a store keeps at hand can be held against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

SECOND = 1_000_000
RING_BUCKETS = 60
LEAST_OUTPUT = 256
DEFAULT_OUTPUT = 4_096
EXPIRED_BY_ONE_RESERVE = 64
WAITING_AT_ONCE = 100

#: Nano-USD a unit, or a token.
UNIT, CHEAP, LARGE, SMALL = "m-unit", "m-cheap", "m-large", "m-small"
PRICES = {UNIT: 100_000_000, CHEAP: 50_000_000, LARGE: 1_000_000, SMALL: 500_000}
UNITS = (UNIT, CHEAP)
#: What may stand in where a policy names it, and where it names nothing.
ABLE = {(UNIT, CHEAP), (LARGE, SMALL)}
NEXT_BEST = {LARGE: SMALL}

_SCOPES = ("tool", "label", "user", "tenant")
_DECISIONS = ("deny", "require_approval", "downgrade", "allow")


@dataclass(frozen=True)
class Who:
    """Who spends."""

    tenant: str
    user: str | None
    team: str | None


@dataclass(frozen=True)
class Call:
    """What is asked for: units of a tool, or tokens of a model, with a cap or without."""

    tool: str
    units: int = 1
    input: int = 0
    cap: int | None = None

    @property
    def by_unit(self) -> bool:
        return self.tool in UNITS

    def amounts(self, tool: str, output: int) -> dict[str, int]:
        """Say what it takes of each measure on a tool, with so much output."""
        if self.by_unit:
            return {"cost": PRICES[tool] * self.units, "tokens": 0, "requests": self.units}
        tokens = self.input + output
        return {"cost": PRICES[tool] * tokens, "tokens": tokens, "requests": 1}


@dataclass(frozen=True)
class Rule:
    """A policy, with its limit in nano-USD or in counts."""

    id: str
    tenant: str
    scope: str
    scope_id: str | None
    kind: str
    measure: str
    limit: int
    decision: str
    fallback: str | None = None
    shadow: bool = False
    priority: int = 0
    ring: int = 0
    shrinks: bool = False

    @property
    def order(self) -> tuple[Any, ...]:
        return (
            -self.priority,
            _SCOPES.index(self.scope),
            _DECISIONS.index(self.decision),
            self.id,
        )

    def value(self, who: Who, tool: str) -> str | None:
        """Name the account of a call under this rule; None where it is none of its business."""
        if self.tenant not in ("*", who.tenant):
            return None
        own = {
            "tenant": who.tenant,
            "user": who.user,
            "tool": tool,
            "label": None if who.team is None else f"team={who.team}",
        }[self.scope]
        if own is None:
            return None
        key = own.partition("=")[0] if self.scope == "label" else None
        return own if self.scope_id in (None, own, key) else None


@dataclass
class Event:
    """Money that was spent, or a correction."""

    id: str
    who: Who
    tool: str
    counted: int
    cost: int
    tokens: int
    requests: int


@dataclass
class Held:
    """A reservation, in whatever state."""

    id: str
    who: Who
    call: Call
    tool: str
    output: int
    amounts: dict[str, int]
    state: str
    counted: int
    expires: int
    key: str | None = None
    approval: str | None = None
    outcome: Any = None
    first: Event | None = None
    estimated: bool = False
    exact: Event | None = None
    resolved: int | None = None

    @property
    def open(self) -> bool:
        return self.state in ("reserved", "pending")


@dataclass
class Verdict:
    """What the rule says of a call."""

    decision: str
    tool: str
    output: int
    amounts: dict[str, int]
    acted: list[str] = field(default_factory=list)


class Model:
    """The ledger, as anyone could keep it on paper."""

    def __init__(self, start: datetime, *, settle_on_expiry: bool) -> None:
        self.now = int(start.timestamp()) * SECOND
        self.settle_on_expiry = settle_on_expiry
        self.zones: dict[str, str] = {}
        self.rules: dict[str, Rule] = {}
        self.held: dict[str, Held] = {}
        self.events: list[Event] = []

    # -- sums -------------------------------------------------------------------------------

    def window(self, kind: str, at: int, tenant: str) -> tuple[int, int]:
        """Find the calendar window that holds an instant, where no clock is changed."""
        local = datetime.fromtimestamp(at // SECOND, ZoneInfo(self.zones.get(tenant, "UTC")))
        minute = local.replace(second=0, microsecond=0)
        hour = minute.replace(minute=0)
        day = hour.replace(hour=0)
        week = day - timedelta(days=day.weekday())
        month = day.replace(day=1)
        start, end = {
            "per_minute": (minute, minute + timedelta(minutes=1)),
            "hourly": (hour, hour + timedelta(hours=1)),
            "daily": (day, day + timedelta(days=1)),
            "weekly": (week, week + timedelta(days=7)),
            "monthly": (month, (month + timedelta(days=32)).replace(day=1)),
        }[kind]
        return int(start.timestamp()) * SECOND, int(end.timestamp()) * SECOND

    def counts(self, rule: Rule, tenant: str, counted: int) -> bool:
        """Say whether something counted at an instant is in a rule's present window."""
        if rule.kind in ("total", "concurrent"):
            return True
        if rule.kind == "rolling":
            width = -(-rule.ring // RING_BUCKETS)
            return counted // width >= self.now // width - RING_BUCKETS
        start, end = self.window(rule.kind, self.now, tenant)
        return start <= counted < end

    def sums(self, rule: Rule, tenant: str, value: str) -> tuple[int, int]:
        """Add up what a rule's account has settled and reserved."""
        settled = sum(
            getattr(event, rule.measure)
            for event in self.events
            if event.who.tenant == tenant
            and rule.value(event.who, event.tool) == value
            and self.counts(rule, tenant, event.counted)
        )
        mine = [
            held
            for held in self.held.values()
            if held.open and held.who.tenant == tenant and rule.value(held.who, held.tool) == value
        ]
        if rule.kind == "concurrent":
            return 0, sum(held.state == "reserved" for held in mine)
        reserved = sum(
            held.amounts[rule.measure]
            for held in mine
            if rule.kind == "rolling" or self.counts(rule, tenant, held.counted)
        )
        return settled, reserved

    # -- the rule ---------------------------------------------------------------------------

    def decide(self, call: Call, who: Who) -> Verdict:
        """Say what becomes of a call, ending overdue holds before it is refused."""
        verdict = self._decide(call, who)
        less = call.cap is not None and not call.by_unit and verdict.output < call.cap
        if less or verdict.decision in ("denied", "pending_approval"):
            overdue = [held for held in self._overdue() if held.who.tenant == who.tenant]
            for held in overdue[:EXPIRED_BY_ONE_RESERVE]:
                self._expire(held, settle=self.settle_on_expiry)
            if overdue:
                verdict = self._decide(call, who)
        waiting = [held for held in self.held.values() if held.state == "pending"]
        mine = sum(held.who.tenant == who.tenant for held in waiting)
        if verdict.decision == "pending_approval" and mine >= WAITING_AT_ONCE:
            verdict.decision = "denied"
        return verdict

    def _decide(self, call: Call, who: Who) -> Verdict:
        leads = {
            rule.id: self._lead(rule, call.tool)
            for rule in self.rules.values()
            if rule.decision == "downgrade" and not rule.shadow and rule.value(who, call.tool)
        }
        tool, moved, all_acted = call.tool, False, []
        while True:
            output = self._output(call, who, tool, leads)
            crossed = self._crossed(call, who, tool, output, leads)
            denying = [rule for rule in crossed if rule.decision == "deny"]
            if call.cap and denying and all(rule.shrinks for rule in denying):
                output = self._largest(call, who, tool, leads)
                crossed = self._crossed(call, who, tool, output, leads)
            amounts = call.amounts(tool, output)
            if not crossed:
                decision = "downgraded" if moved else "allowed"
                return Verdict(decision, tool, output, amounts, all_acted)
            acted = crossed[0]
            all_acted.append(acted.id)
            lead = leads.get(acted.id)
            if acted.decision == "downgrade" and not moved and lead not in (None, tool):
                tool, moved = str(lead), True
                continue
            denied = acted.decision != "require_approval" or any(
                rule.decision == "deny" for rule in crossed
            )
            return Verdict(
                "denied" if denied else "pending_approval", tool, output, amounts, all_acted
            )

    def _crossed(
        self, call: Call, who: Who, tool: str, output: int, leads: dict[str, str | None]
    ) -> list[Rule]:
        """List the rules that act on so much output."""
        amounts = call.amounts(tool, output)
        return [
            rule
            for rule, used in self._applying(who, tool)
            if used + self._asked(rule, amounts) > rule.limit and _acts(rule, tool, leads)
        ]

    def _largest(self, call: Call, who: Who, tool: str, leads: dict[str, str | None]) -> int:
        """Find the largest cap that nothing denies, by trying; the caller's own if all is too small."""
        cap = call.cap or 0
        for output in range(cap - 1, -1, -1):
            if 4 * output < min(cap, 4 * LEAST_OUTPUT):
                break
            crossed = self._crossed(call, who, tool, output, leads)
            if not any(rule.decision == "deny" for rule in crossed):
                return output
        return cap

    def _applying(self, who: Who, tool: str) -> list[tuple[Rule, int]]:
        """List the rules on a call, in the order in which they act, with what each has used."""
        found = []
        for rule in sorted(self.rules.values(), key=lambda rule: rule.order):
            value = rule.value(who, tool)
            if value is not None:
                used = 0 if rule.kind == "per_request" else sum(self.sums(rule, who.tenant, value))
                found.append((rule, used))
        return found

    @staticmethod
    def _asked(rule: Rule, amounts: dict[str, int]) -> int:
        return 1 if rule.kind == "concurrent" else amounts[rule.measure]

    @staticmethod
    def _lead(rule: Rule, tool: str) -> str | None:
        """Name the tool that a crossed downgrade leads to."""
        if rule.fallback is None:
            return NEXT_BEST.get(tool)
        if rule.fallback == tool or (tool, rule.fallback) in ABLE:
            return rule.fallback
        return None

    def _output(self, call: Call, who: Who, tool: str, leads: dict[str, str | None]) -> int:
        """Choose how much output a call is granted."""
        if call.by_unit:
            return 0
        if call.cap is not None:
            return call.cap
        room = 10**30
        for rule, used in self._applying(who, tool):
            if not _acts(rule, tool, leads) or rule.kind == "concurrent":
                continue
            left = rule.limit - used
            if rule.measure == "cost":
                room = min(room, left // PRICES[tool] - call.input)
            elif rule.measure == "tokens":
                room = min(room, left - call.input)
        beyond = max(0, (room - LEAST_OUTPUT) // 4)
        return min(DEFAULT_OUTPUT, LEAST_OUTPUT + beyond)

    # -- verbs ------------------------------------------------------------------------------

    def hold(
        self, name: str, call: Call, who: Who, verdict: Verdict, ttl: int, key: str | None
    ) -> None:
        """Keep what was granted, or what waits for an approval."""
        pending = verdict.decision == "pending_approval"
        self.held[name] = Held(
            name,
            who,
            call,
            verdict.tool,
            verdict.output,
            verdict.amounts,
            "pending" if pending else "reserved",
            self.now,
            self.now + (24 * 3600 * SECOND if pending else ttl),
            key,
            "pending" if pending else None,
        )

    def known(self, tenant: str, key: str) -> Held | None:
        """Find the reservation that a key still names."""
        for held in reversed(self.held.values()):
            if (held.who.tenant, held.key) == (tenant, key):
                old = held.resolved is not None and self.now - held.resolved > 24 * 3600 * SECOND
                return None if old else held
        return None

    def settle(self, held: Held, cost: int, *, estimated: bool, correction: str) -> str | int:
        """Settle; return what it costs now, or the name of the conflict."""
        outcome = ("cost", cost)
        if held.state != "settled":
            tokens = 0 if held.call.by_unit else held.call.input + held.output
            event = Event(
                held.id,
                held.who,
                held.tool,
                held.counted,
                cost,
                tokens,
                held.amounts["requests"],
            )
            held.first, held.outcome, held.estimated = event, outcome, estimated
            self.events.append(event)
            self._end(held, "settled")
            return cost
        assert held.first is not None
        total = held.first.cost + (held.exact.cost if held.exact is not None else 0)
        if outcome == held.outcome or (estimated and held.estimated):
            return total
        if held.exact is not None or not held.estimated:
            return "conflict"
        # The tokens that an expiry or an estimate counted are those that a cost alone counts too.
        held.exact = replace(held.first, id=correction, cost=cost - total, tokens=0, requests=0)
        held.outcome = outcome
        self.events.append(held.exact)
        return cost

    def release(self, held: Held) -> str:
        """Release; return the state, or the name of the conflict."""
        if held.state == "settled":
            return "conflict"
        if held.open:
            self._end(held, "released")
        return held.state

    def extend(self, held: Held, ttl: int) -> str:
        """Extend; return the state."""
        if held.state == "reserved":
            held.expires = max(held.expires, self.now + ttl)
        return held.state

    def expire(self) -> tuple[int, int]:
        """End what is overdue; return how many were released and settled."""
        ways = [self._expire(held, settle=self.settle_on_expiry) for held in self._overdue()]
        return ways.count("released"), ways.count("settled")

    def _overdue(self) -> list[Held]:
        late = [held for held in self.held.values() if held.open and held.expires <= self.now]
        return sorted(late, key=lambda held: held.expires)

    def _expire(self, held: Held, *, settle: bool) -> str:
        if settle and held.state == "reserved" and held.approval in (None, "used"):
            self.settle(held, held.amounts["cost"], estimated=True, correction="")
            held.outcome = "expired"
            return "settled"
        self._end(held, "expired")
        return "released"

    def _end(self, held: Held, state: str) -> None:
        held.state, held.resolved = state, self.now
        if held.approval in ("pending", "approved"):
            held.approval = "used" if state == "settled" else "expired"

    def approve(self, held: Held) -> str:
        """Approve; return the approval's state, or the name of the conflict."""
        self._lapse(held)
        if held.approval == "approved":
            return "approved"
        if held.approval != "pending":
            return "conflict"
        held.state, before = "away", held.state
        denied = any(
            used + self._asked(rule, held.amounts) > rule.limit
            for rule, used in self._applying(held.who, held.tool)
            if rule.decision == "deny" and not rule.shadow
        )
        held.state = before
        if denied:
            return "conflict"
        held.state, held.approval, held.counted = "reserved", "approved", self.now
        return "approved"

    def reject(self, held: Held) -> str:
        """Reject; return the approval's state, or the name of the conflict."""
        self._lapse(held)
        if held.approval == "rejected":
            return "rejected"
        if held.approval not in ("pending", "approved"):
            return "conflict"
        held.approval = "rejected"
        self._end(held, "released")
        return "rejected"

    def run(self, held: Held, ttl: int) -> str:
        """Run what was approved; return `pending`, `used`, or the name of the conflict."""
        self._lapse(held)
        if held.approval == "pending":
            return "pending"
        if held.approval != "approved":
            return "conflict"
        held.approval, held.expires = "used", self.now + ttl
        return "used"

    def _lapse(self, held: Held) -> None:
        if held.open and self.now >= held.expires:
            self._end(held, "expired")

    def record(self, name: str, who: Who, tool: str, cost: int, counted: int) -> None:
        """Enter money that was spent elsewhere."""
        self.events.append(Event(name, who, tool, counted, cost, 0, 1))

    def adjust(self, name: str, event: Event, amount: int) -> None:
        """Enter a correction, in the windows of what it corrects."""
        self.events.append(replace(event, id=name, cost=amount, tokens=0, requests=0))


def _acts(rule: Rule, tool: str, leads: dict[str, str | None]) -> bool:
    """Say whether a crossed rule changes anything for a call on a tool."""
    if rule.shadow or rule.decision == "allow":
        return False
    return not (rule.decision == "downgrade" and leads.get(rule.id) == tool)


START = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
