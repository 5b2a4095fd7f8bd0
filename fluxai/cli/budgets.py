"""`fluxai budgets`: the running account of every limit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from fluxai.cli.figures import amount, decision_word, left, until
from fluxai.cli.screen import Cell, Column, Meter, Section, Table, Text
from fluxai.cli.session import Answer, Session, command
from fluxai.cli.tenants import known_tenants, tenant_names, titled
from fluxai.core.windows import from_us

if TYPE_CHECKING:
    from fluxai.analytics import Budget


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


def budget_table(accounts: Sequence[Budget], now: datetime) -> Table:
    """Show accounts as bars: settled, held, and what is left."""
    held = any(budget.reserved for budget in accounts)
    rows: list[list[Cell]] = []
    for budget in accounts:
        whose = budget.scope if budget.scope_id is None else f"{budget.scope} {budget.scope_id}"
        counts = "" if budget.measure in ("cost", "concurrent") else f" {budget.measure}"
        word = decision_word(budget.decision, budget.mode)
        meter = Meter(budget.settled, budget.reserved, budget.limit)
        row: list[Cell] = [
            f"{budget.limit_type}{counts} {whose}, else {word}",
            meter,
            amount(budget.settled, budget.measure),
            amount(budget.reserved, budget.measure),
            amount(budget.limit, budget.measure),
            Text(left(budget.remaining, budget.measure), meter.tone),
            until(budget.resets_at, now),
        ]
        rows.append(row if held else row[:3] + row[4:])
    columns = (
        Column("Budget", fold=True),
        Column("Used"),
        Column("Settled", right=True),
        Column("Held", right=True),
        Column("Limit", right=True),
        Column("Left", right=True),
        Column("Resets", right=True),
    )
    return Table(columns if held else columns[:3] + columns[4:], rows)
