"""What people look at: budgets, usage, routes. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fluxai.arguments import instant_us
from fluxai.core.decisions import Reservation, UsageEvent, measured
from fluxai.core.errors import InvalidRequest
from fluxai.core.ledger import BUDGET_LABEL, CALL_LABEL, MEASURES, CounterKey
from fluxai.core.money import to_decimal
from fluxai.core.windows import MAX_US, MIN_US, Window, from_us, window_at
from fluxai.policy.records import User

if TYPE_CHECKING:
    from fluxai.policy.catalog import ToolCatalog
    from fluxai.policy.compile import Rule, RuleSet
    from fluxai.storage.base import Balance, Storage, UsageRow

GROUPS = ("tool", "user", "model")
RECENT_EVENTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A policy's running account in its current window.

    `limit`, `granted`, `settled`, `reserved` and `remaining` are USD for the measure `cost`, counts
    otherwise. `limit` includes what was granted for a time, which `granted` shows.
    """

    policy_id: str
    scope: str
    scope_id: str | None
    measure: str
    limit_type: str
    decision: str
    mode: str
    limit: Decimal | int
    settled: Decimal | int
    reserved: Decimal | int
    remaining: Decimal | int
    window_start: datetime | None
    resets_at: datetime | None
    granted: Decimal | int = 0
    currency: str = "USD"

    def to_dict(self) -> dict[str, Any]:
        """The account, JSON-ready."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    return value.isoformat() if isinstance(value, datetime) else value


def budgets(
    storage: Storage,
    rules: RuleSet,
    canonical: Callable[[str], str],
    tenant: str,
    user: str | None,
    at_us: int,
) -> list[Budget]:
    """List the running accounts that concern a tenant; see `Governor.budgets`."""
    found: list[Budget] = []
    for rule in _all_rules(storage, rules, tenant, user):
        if rule.kind == "per_request" or rule.policy.limit_value is None:
            continue
        window = rules.window(rule.kind, at_us)
        found.extend(
            _budget(rule, window, balance, at_us)
            for balance in _balances(storage, rule, window, canonical, tenant, user, at_us)
        )
    return found


def _all_rules(storage: Storage, rules: RuleSet, tenant: str, user: str | None) -> Iterable[Rule]:
    explicit = [*rules.own.rules.values(), *rules.every.rules.values()]
    yield from sorted(explicit, key=lambda rule: rule.rank)
    rows = storage.records("user", scope=tenant, id=user, limit=1_000)
    yield from rules.derived([User.model_validate(row) for row in rows])


def _balances(
    storage: Storage,
    rule: Rule,
    window: Window,
    canonical: Callable[[str], str],
    tenant: str,
    user: str | None,
    at_us: int,
) -> Iterable[Balance]:
    """Read the accounts that a rule limits: the one it names, or those that have been opened."""
    policy = rule.policy
    scope, value = policy.scope, policy.scope_id
    measure = MEASURES[rule.measure]
    counted = "requests" if measure == "concurrent" else measure
    if scope == "tenant":
        value = tenant
    elif scope == "user":
        if user is not None and value not in (None, user):
            return []
        value = user if value is None else value
    elif scope == "tool" and value is not None:
        value = canonical(value)
    if value is not None and (scope != "label" or "=" in value):
        key = CounterKey(tenant, scope, value, counted, rule.kind, window.start_us)
        return storage.balances([(key, window.end_us)], at_us)
    return [
        balance
        for balance in storage.accounts(tenant, scope, counted, rule.kind, at_us)
        if _is_shown(balance.key, value)
    ]


def _is_shown(key: CounterKey, label: str | None) -> bool:
    if key.scope != "label":
        return True
    if label is not None:
        return key.value.startswith(f"{label}=")
    # The accounts of budget() blocks and of single calls are not those of a label anybody chose.
    return not key.value.startswith((BUDGET_LABEL, CALL_LABEL))


def _budget(rule: Rule, window: Window, balance: Balance, at_us: int) -> Budget:
    policy = rule.policy
    measure = MEASURES[rule.measure]
    limit, _ = rule.limit_at(at_us)
    return Budget(
        policy_id=rule.id,
        scope=policy.scope,
        scope_id=None if policy.scope == "tenant" else balance.key.value,
        measure=measure,
        limit_type=policy.limit_type,
        decision=policy.decision,
        mode=policy.mode,
        limit=measured(limit, measure),
        granted=measured(limit - rule.limit, measure),
        settled=measured(balance.settled, measure),
        reserved=measured(balance.reserved, measure),
        remaining=measured(max(0, limit - balance.settled - balance.reserved), measure),
        window_start=from_us(window.start_us) if window.start_us > MIN_US else None,
        resets_at=from_us(window.end_us) if window.end_us < MAX_US else None,
    )


class BlockBudget:
    """The account of a `governor.budget()` block."""

    def __init__(
        self, storage: Storage, tenant: str, value: str, limit: int, now: Callable[[], int]
    ) -> None:
        self._storage = storage
        self._key = CounterKey(tenant, "label", value, "cost", "total", MIN_US)
        self._limit = limit
        self._now = now

    @property
    def tenant(self) -> str:
        """Whose ledger it counts in."""
        return self._key.tenant

    @property
    def label(self) -> str:
        """What all calls inside carry, as `key=value`: a policy of scope `label` can name it."""
        return self._key.value

    @property
    def limit(self) -> Decimal:
        """USD."""
        return to_decimal(self._limit)

    @property
    def spent(self) -> Decimal:
        """USD settled inside."""
        return to_decimal(self._read()[0])

    @property
    def reserved(self) -> Decimal:
        """USD held by open reservations inside."""
        return to_decimal(self._read()[1])

    @property
    def remaining(self) -> Decimal:
        """USD that may still be reserved inside."""
        return to_decimal(max(0, self._limit - sum(self._read())))

    def _read(self) -> tuple[int, int]:
        (balance,) = self._storage.balances([(self._key, MAX_US)], self._now())
        return balance.settled, balance.reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageGroup:
    """Sums over one group of events."""

    cost: Decimal
    tokens: int
    units: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSummary:
    """What was settled in a period.

    Attributes:
        total_cost: USD.
        total_units: Requests, or units of tools; of a tool that is priced by the token, its tokens.
        by_tool: Sums per tool, dearest first.
        groups: Sums per group of `group_by`, keyed by a tuple in that order.
        recent_events: The latest few events of the period.
    """

    tenant: str
    user: str | None
    period: str
    start: datetime
    end: datetime
    total_cost: Decimal
    total_tokens: int
    total_units: int
    total_events: int
    by_tool: dict[str, UsageGroup]
    groups: dict[tuple[str | None, ...], UsageGroup]
    recent_events: tuple[UsageEvent, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The summary, JSON-ready."""
        return {
            "tenant": self.tenant,
            "user": self.user,
            "period": self.period,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "total_cost": str(self.total_cost),
            "total_tokens": self.total_tokens,
            "total_units": self.total_units,
            "total_events": self.total_events,
            "by_tool": {tool: _group_row(group) for tool, group in self.by_tool.items()},
            "groups": [
                {"key": list(key), **_group_row(group)} for key, group in self.groups.items()
            ],
            "recent_events": [event.to_dict() for event in self.recent_events],
        }


def _group_row(group: UsageGroup) -> dict[str, Any]:
    return {name: _plain(value) for name, value in asdict(group).items()}


def usage(
    storage: Storage,
    rules: RuleSet,
    catalog: ToolCatalog,
    tenant: str,
    *,
    user: str | None,
    period: str,
    start: datetime | None,
    end: datetime | None,
    group_by: Sequence[str],
    at_us: int,
) -> UsageSummary:
    """Sum what was settled; see `Governor.usage`."""
    if period not in ("day", "month"):
        raise InvalidRequest("period", f"must be 'day' or 'month', got {period!r:.60}")
    if isinstance(group_by, str):
        group_by = (group_by,)
    for name in group_by:
        if name not in GROUPS:
            raise InvalidRequest("group_by", f"{name!r:.60} is not one of {', '.join(GROUPS)}")
    pivot_us = at_us if start is None else instant_us("start", start)
    window = window_at("daily" if period == "day" else "monthly", pivot_us, rules.calendar)
    start_us = window.start_us if start is None else pivot_us
    end_us = window.end_us if end is None else instant_us("end", end)
    if end is not None and start is None:
        start_us = window_at(
            "daily" if period == "day" else "monthly", end_us - 1, rules.calendar
        ).start_us
    if end_us <= start_us:
        raise InvalidRequest("end", "must be after start")
    rows = [
        row for row in storage.usage(tenant, start_us, end_us) if user is None or row.user == user
    ]
    by_token = {row.tool for row in rows if catalog.unit(row.tool) == "tokens"}
    rows = [replace(row, requests=row.tokens) if row.tool in by_token else row for row in rows]
    groups = _grouped(rows, lambda row: tuple(getattr(row, name) for name in group_by))
    by_tool = _grouped(rows, lambda row: (row.tool,))
    return UsageSummary(
        tenant=tenant,
        user=user,
        period=period,
        start=from_us(start_us),
        end=from_us(end_us),
        total_cost=to_decimal(sum(row.cost_nanousd for row in rows)),
        total_tokens=sum(row.tokens for row in rows),
        total_units=sum(row.requests for row in rows),
        total_events=sum(row.events for row in rows),
        by_tool={str(tool): group for (tool,), group in by_tool.items()},
        groups=groups,
        recent_events=tuple(
            storage.recent_events(tenant, start_us, end_us, user=user, limit=RECENT_EVENTS)
        ),
    )


def _grouped(
    rows: Iterable[UsageRow], key: Callable[[UsageRow], tuple[str | None, ...]]
) -> dict[tuple[str | None, ...], UsageGroup]:
    sums: dict[tuple[str | None, ...], list[int]] = {}
    for row in rows:
        into = sums.setdefault(key(row), [0, 0, 0, 0])
        into[0] += row.cost_nanousd
        into[1] += row.tokens
        into[2] += row.requests
        into[3] += row.events
    return {
        name: UsageGroup(cost=to_decimal(cost), tokens=tokens, units=units, events=events)
        for name, (cost, tokens, units, events) in sorted(
            sums.items(), key=lambda found: -found[1][0]
        )
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteResult:
    """The answer of `check_and_route`.

    Attributes:
        decision: `allowed`, `downgraded`, `denied` or `pending_approval`.
        final_tool_used: The tool to use.
        cost_estimate: USD.
        remaining_budget: USD left in the tightest cost budget; None without one.
    """

    decision: str
    final_tool_used: str
    cost_estimate: Decimal
    remaining_budget: Decimal | None
    message: str
    reservation_id: str | None
    approval_id: str | None

    @classmethod
    def of(cls, reservation: Reservation) -> RouteResult:
        """Show a reservation as a route."""
        return cls(
            decision=reservation.decision,
            final_tool_used=reservation.final_tool,
            cost_estimate=reservation.estimate.highest,
            remaining_budget=reservation.remaining,
            message=reservation.message,
            reservation_id=None if reservation.state == "refused" else reservation.id,
            approval_id=reservation.approval_id,
        )

    def to_dict(self) -> dict[str, Any]:
        """The answer, JSON-ready."""
        return {name: _plain(value) for name, value in asdict(self).items()}
