"""`fluxai status`: where the money stands, on one screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fluxai.cli.figures import left, plural, span, until, usd
from fluxai.cli.screen import Block, Column, Meter, Section, Table, Text
from fluxai.cli.session import Answer, Session, command
from fluxai.cli.tenants import (
    OPEN_MAX,
    RECENT,
    known_tenants,
    latest_events,
    tenant_names,
    titled,
)
from fluxai.core.windows import from_us

if TYPE_CHECKING:
    from fluxai.analytics import Budget
    from fluxai.core.decisions import Reservation, UsageEvent
    from fluxai.governor import Governor

_SHOWN = 5


@command()
def status(session: Session) -> Answer:
    """Show one screen: spend, fullest budgets, what is held, who waits, the last calls."""
    with session.governor() as governor:
        seen = _look(governor)
    return Answer({"db": session.shown_db, **_document(seen)}, _sections(seen, session.shown_db))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """Everything that the screen shows.

    Attributes:
        names: Of the tenants that have one.
        spend: Today and this month, by tenant.
        accounts: Of the limits that refuse or ask, the fullest first.
        held: Open reservations, newest first; at most `OPEN_MAX`.
    """

    now: datetime
    policies: int
    names: dict[str, str]
    spend: dict[str, tuple[Decimal, Decimal]]
    accounts: list[tuple[str, Budget]]
    held: list[Reservation]
    waiting: list[str]
    events: list[UsageEvent]

    @property
    def held_usd(self) -> Decimal:
        return sum((reservation.estimate.highest for reservation in self.held), Decimal(0))

    @property
    def oldest(self) -> datetime | None:
        return min((reservation.counted_at for reservation in self.held), default=None)


def _look(governor: Governor) -> _Seen:
    tenants = known_tenants(governor)
    accounts = [
        (name, budget)
        for name in tenants
        for budget in governor.budgets(name)
        if budget.decision != "allow" and budget.mode == "enforce"
    ]
    return _Seen(
        now=from_us(governor.clock.now_us()),
        policies=len(governor.policies.list()),
        names=tenant_names(governor),
        spend={
            name: (
                governor.usage(name, period="day").total_cost,
                governor.usage(name, period="month").total_cost,
            )
            for name in tenants
        },
        accounts=sorted(accounts, key=lambda found: -_meter(found[1]).share),
        held=governor.reservations("reserved", limit=OPEN_MAX),
        waiting=[found.id for found in governor.approvals.list(state="pending", limit=OPEN_MAX)],
        events=latest_events(governor, RECENT),
    )


def _document(seen: _Seen) -> dict[str, Any]:
    return {
        "at": seen.now.isoformat(),
        "policies": seen.policies,
        "tenants": [
            {"tenant": name, "today": str(today), "month": str(month)}
            for name, (today, month) in seen.spend.items()
        ],
        "open_reservations": len(seen.held),
        "held": str(seen.held_usd),
        "oldest_reservation": None if seen.oldest is None else seen.oldest.isoformat(),
        "pending_approvals": seen.waiting,
        "fullest_budgets": [
            {"tenant": name, **budget.to_dict()} for name, budget in seen.accounts[:_SHOWN]
        ],
        "last_events": [event.to_dict() for event in seen.events[:_SHOWN]],
    }


def _sections(seen: _Seen, db: str) -> Iterator[Section]:
    yield Section("Status", _head(seen, db))
    rows = sorted(seen.spend.items(), key=lambda found: -found[1][1])
    if rows:
        columns = (
            Column("Tenant", fold=True),
            Column("Today", right=True),
            Column("This month", right=True),
        )
        shown = [
            (titled(name, seen.names), usd(today), usd(month)) for name, (today, month) in rows
        ]
        yield Section("Spend", [Table(columns, shown[: 2 * _SHOWN]), *_more(len(rows), 2 * _SHOWN)])
    if seen.accounts:
        table = _fullest(seen.accounts[:_SHOWN], seen.names, seen.now)
        yield Section("Fullest budgets", [table, *_more(len(seen.accounts), _SHOWN)])
    if seen.events:
        yield Section("Last calls", [_events(seen.events[:_SHOWN], seen.names, seen.now)])


def _head(seen: _Seen, db: str) -> list[Block]:
    more = "+" if len(seen.held) == OPEN_MAX else ""
    calls = f"{len(seen.held):,}{more} open, holding {usd(seen.held_usd)}"
    if seen.oldest is not None:
        calls += f", the oldest for {span(seen.now - seen.oldest)}"
    waiting = plural(len(seen.waiting), "call waits", "calls wait")
    return [
        f"Ledger     {db}",
        f"Policies   {seen.policies}",
        f"Calls      {calls}",
        Text(
            f"Approvals  {waiting} for an answer"
            + (": fluxai approvals list" if seen.waiting else ""),
            "warn" if seen.waiting else "",
        ),
    ]


def _more(number: int, shown: int) -> list[Text]:
    return [Text(f"and {number - shown:,} more", "dim")] if number > shown else []


def _fullest(accounts: list[tuple[str, Budget]], names: dict[str, str], now: datetime) -> Table:
    rows = []
    for tenant, budget in accounts:
        whose = "" if budget.scope_id is None else f" {budget.scope} {budget.scope_id}"
        meter = _meter(budget)
        rows.append(
            (
                f"{names.get(tenant, tenant)}: {budget.limit_type}{whose}",
                meter,
                Text(f"{meter.share:.0%}", meter.tone),
                left(budget.remaining, budget.measure),
                until(budget.resets_at, now),
            )
        )
    return Table(
        (
            Column("Budget", fold=True),
            Column("Used"),
            Column("", right=True),
            Column("Left", right=True),
            Column("Resets", right=True),
        ),
        rows,
    )


def _meter(budget: Budget) -> Meter:
    return Meter(budget.settled, budget.reserved, budget.limit)


def _events(events: Iterable[UsageEvent], names: dict[str, str], now: datetime) -> Table:
    return Table(
        (
            Column("Settled", right=True),
            Column("Tenant", fold=True),
            Column("User", fold=True),
            Column("What", fold=True),
            Column("Cost", right=True),
            Column("Flags", fold=True),
        ),
        [
            (
                until(event.at, now),
                names.get(event.tenant, event.tenant),
                "" if event.user is None else event.user,
                event.tool,
                usd(event.cost),
                Text(", ".join(event.flags), "dim"),
            )
            for event in events
        ],
    )
