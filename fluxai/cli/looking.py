"""`fluxai status` and `fluxai budgets`: where the money stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from fluxai.cli.figures import amount, decision_word, plural, span, until, usd
from fluxai.cli.screen import Block, Cell, Column, Meter, Section, Table, Text
from fluxai.cli.session import Answer, Session, command
from fluxai.core.windows import from_us

if TYPE_CHECKING:
    from fluxai.analytics import Budget
    from fluxai.core.decisions import Reservation, UsageEvent
    from fluxai.governor import Governor

_SHOWN = 5
_RECENT = 200
_OPEN_MAX = 1_000


@command()
@click.argument("tenant", required=False)
@click.option("--user", metavar="ID", help="With a tenant: also the accounts of this user.")
def budgets(session: Session, *, tenant: str | None, user: str | None) -> Answer:
    """Show the running account of every limit, of one TENANT or of all."""
    if user is not None and tenant is None:
        raise click.UsageError("--user needs a TENANT: users are keyed by tenant")
    with session.governor() as governor:
        now = from_us(governor.clock.now_us())
        found = {
            name: governor.budgets(name, user)
            for name in ([tenant] if tenant is not None else known_tenants(governor))
        }
        names = tenant_names(governor)
    document = {
        "tenants": [
            {"tenant": name, "budgets": [budget.to_dict() for budget in accounts]}
            for name, accounts in found.items()
        ]
    }
    sections = [
        Section(titled(name, names), [budget_table(accounts, now)])
        for name, accounts in found.items()
        if accounts
    ]
    return Answer(document, sections or [_no_limits(tenant)])


def _no_limits(tenant: str | None) -> Section:
    whose = f"tenant {tenant!r}" if tenant is not None else "anybody"
    return Section(
        "", [f"No policy limits {whose}. Write some in a file and run: fluxai policies apply FILE"]
    )


def titled(tenant: str, names: dict[str, str]) -> str:
    """Write a tenant's name with its id."""
    return f"{names[tenant]} ({tenant})" if tenant in names else tenant


def tenant_names(governor: Governor) -> dict[str, str]:
    """Name the registered tenants that have a name."""
    return {tenant.id: tenant.name for tenant in governor.tenants.list() if tenant.name}


def budget_table(accounts: Sequence[Budget], now: datetime) -> Table:
    """Show accounts as bars: settled, held, and what is left."""
    held = any(budget.reserved for budget in accounts)
    rows: list[list[Cell]] = []
    for budget in accounts:
        unit = "" if budget.measure == "cost" else f" {budget.measure}"
        whose = budget.scope if budget.scope_id is None else f"{budget.scope} {budget.scope_id}"
        meter = Meter(budget.settled, budget.reserved, budget.limit)
        row: list[Cell] = [
            f"{budget.limit_type} {whose}",
            decision_word(budget.decision, budget.mode),
            meter,
            amount(budget.settled, budget.measure),
            amount(budget.reserved, budget.measure),
            f"{amount(budget.limit, budget.measure)}{unit}",
            Text(amount(budget.remaining, budget.measure), meter.tone),
            until(budget.resets_at, now),
        ]
        rows.append(row if held else row[:4] + row[5:])
    columns = (
        Column("Budget", fold=True),
        Column("Else"),
        Column("Used"),
        Column("Settled", right=True),
        Column("Held", right=True),
        Column("Limit", right=True),
        Column("Left", right=True),
        Column("Resets", right=True),
    )
    return Table(columns if held else columns[:4] + columns[5:], rows)


@command()
def status(session: Session) -> Answer:
    """Show one screen: spend, fullest budgets, what is held, who waits, the last calls."""
    with session.governor() as governor:
        now = from_us(governor.clock.now_us())
        tenants = known_tenants(governor)
        accounts = [
            (name, budget)
            for name in tenants
            for budget in governor.budgets(name)
            if budget.decision != "allow" and budget.mode == "enforce"
        ]
        accounts.sort(key=lambda found: -_meter(found[1]).share)
        held = governor.reservations("reserved", limit=_OPEN_MAX)
        waiting = governor.approvals.list(state="pending", limit=_OPEN_MAX)
        events = latest_events(governor, _RECENT)
        spend = {
            name: (
                governor.usage(name, period="day").total_cost,
                governor.usage(name, period="month").total_cost,
            )
            for name in tenants
        }
        names = tenant_names(governor)
        policies = len(governor.policies.list())
    oldest = min((reservation.counted_at for reservation in held), default=None)
    held_usd = sum((reservation.estimate.highest for reservation in held), Decimal(0))
    document = {
        "db": session.shown_db,
        "at": now.isoformat(),
        "policies": policies,
        "tenants": [
            {"tenant": name, "today": str(today), "month": str(month)}
            for name, (today, month) in spend.items()
        ],
        "open_reservations": len(held),
        "held": str(held_usd),
        "oldest_reservation": None if oldest is None else oldest.isoformat(),
        "pending_approvals": [approval.id for approval in waiting],
        "fullest_budgets": [
            {"tenant": name, **budget.to_dict()} for name, budget in accounts[:_SHOWN]
        ],
        "last_events": [event.to_dict() for event in events[:_SHOWN]],
    }
    return Answer(
        document,
        _status_sections(
            session.shown_db,
            now,
            policies,
            spend,
            names,
            accounts,
            held,
            held_usd,
            oldest,
            len(waiting),
            events,
        ),
    )


def _status_sections(
    db: str,
    now: datetime,
    policies: int,
    spend: dict[str, tuple[Decimal, Decimal]],
    names: dict[str, str],
    accounts: list[tuple[str, Budget]],
    held: list[Reservation],
    held_usd: Decimal,
    oldest: datetime | None,
    waiting: int,
    events: list[UsageEvent],
) -> Iterable[Section]:
    more = "+" if len(held) == _OPEN_MAX else ""
    open_text = f"{len(held):,}{more} open, holding {usd(held_usd)}"
    if oldest is not None:
        open_text += f", the oldest for {span(now - oldest)}"
    head: list[Block] = [
        f"Ledger     {db}",
        f"Policies   {policies}",
        f"Calls      {open_text}",
        Text(
            f"Approvals  {plural(waiting, 'call waits', 'calls wait')} for an answer"
            + (": fluxai approvals list" if waiting else ""),
            "warn" if waiting else "",
        ),
    ]
    yield Section("Status", head)
    rows = sorted(spend.items(), key=lambda found: -found[1][1])
    if rows:
        columns = (
            Column("Tenant", fold=True),
            Column("Today", right=True),
            Column("This month", right=True),
        )
        shown = [(titled(name, names), usd(today), usd(month)) for name, (today, month) in rows]
        yield Section("Spend", [Table(columns, shown[: 2 * _SHOWN]), *_more(len(rows), 2 * _SHOWN)])
    if accounts:
        yield Section(
            "Fullest budgets",
            [_fullest(accounts[:_SHOWN], names, now), *_more(len(accounts), _SHOWN)],
        )
    if events:
        yield Section("Last calls", [_events(events[:_SHOWN], names, now)])


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
                amount(budget.remaining, budget.measure),
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


def known_tenants(governor: Governor) -> list[str]:
    """List the tenants that are registered, limited, or have spent or held money lately."""
    found = {tenant.id: None for tenant in governor.tenants.list()}
    found |= {policy.tenant_id: None for policy in governor.policies.list()}
    found |= {
        reservation.subject.tenant: None
        for reservation in governor.reservations("reserved", limit=_OPEN_MAX)
    }
    found |= {event.tenant: None for event in latest_events(governor, _RECENT)}
    found.pop("*", None)
    return sorted(found)


def latest_events(governor: Governor, number: int) -> list[UsageEvent]:
    """Return the latest events of all tenants, newest first.

    Events are read forwards from a sequence number, so the last number is found by halving.
    """
    low, high = 0, 1
    while governor.events(after=high, limit=1):
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if governor.events(after=middle, limit=1):
            low = middle + 1
        else:
            high = middle
    return governor.events(after=max(0, high - number), limit=number)[::-1]
