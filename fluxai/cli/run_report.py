"""What a program has cost, for people and as JSON."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fluxai.cli.figures import amount, count, plural, usd, usd_left
from fluxai.cli.program import Ending
from fluxai.cli.screen import Column, PlainScreen, Screen, Section, Table, Text
from fluxai.cli.session import Session
from fluxai.core.errors import Refused, StreamStopped

if TYPE_CHECKING:
    from fluxai.analytics import BlockBudget
    from fluxai.core.decisions import UsageEvent
    from fluxai.governor import Governor

#: Events that are read at a time.
_PAGE = 1_000


class Spent(NamedTuple):
    """What one model has cost."""

    calls: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)

    def with_event(self, event: UsageEvent) -> Spent:
        """Return the sum with one more event."""
        return Spent(self.calls + 1, self.tokens + event.tokens, self.cost + event.cost)


class Report:
    """Reads from the ledger what a program has cost.

    Args:
        governor: Holds the ledger.
        block: The program's budget.
        max_rate: How fast it may spend, as it was written.
    """

    def __init__(self, governor: Governor, block: BlockBudget, max_rate: str | None) -> None:
        self._max_rate = max_rate
        self._governor = governor
        self._block = block
        self._started_us = governor.clock.now_us()

    def why(self, refusal: Refused) -> str:
        """Say what stopped the program: its own budget in its own words."""
        if isinstance(refusal, StreamStopped):
            return str(refusal)
        run_id = self._block.label.partition("=")[2]
        limits = {f"budget:{run_id}": f"the budget of this run is {usd(self._block.limit)}"}
        if self._max_rate is not None:
            limits[f"run-{run_id}"] = f"this run may spend {self._max_rate}"
        for reason in refusal.decision.reasons:
            if reason.acted and reason.policy_id in limits:
                taken = amount(reason.settled + reason.reserved, reason.measure)
                requested = amount(reason.requested, reason.measure)
                return (
                    f"{limits[reason.policy_id]}; {taken} of that is used, and a call of "
                    f"{reason.tool} may take {requested}"
                )
        return str(refusal)

    def show(self, session: Session, ending: Ending, summary: str | None) -> None:
        """Write the summary where it is wanted."""
        # Streams that were left unread settle when they are collected.
        gc.collect()
        models = self._by_model()
        document = self._document(models, ending)
        if summary is not None:
            Path(summary).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        if session.as_json:
            click.echo(json.dumps(document, ensure_ascii=False))
        else:
            _screen(session).show(self._section(models))

    def _by_model(self) -> dict[str, Spent]:
        """Sum the program's events by model, the dearest first."""
        models: dict[str, Spent] = {}
        for event in self._events():
            name = event.model or event.tool
            models[name] = models.get(name, Spent()).with_event(event)
        return dict(sorted(models.items(), key=lambda found: -found[1].cost))

    def _events(self) -> Iterator[UsageEvent]:
        """Read the tenant's events since the start, newest first, and give the program's own."""
        key, _, value = self._block.label.partition("=")
        seen: set[str] = set()
        end_us = self._governor.clock.now_us() + 1
        while True:
            page = self._governor.storage.recent_events(
                self._block.tenant, self._started_us, end_us, user=None, limit=_PAGE
            )
            new = [event for event in page if event.id not in seen]
            seen.update(event.id for event in new)
            yield from (event for event in new if event.labels.get(key) == value)
            if len(page) < _PAGE or not new:
                return
            end_us = page[-1].source.counted_us + 1

    def _document(self, models: dict[str, Spent], ending: Ending) -> dict[str, Any]:
        block = self._block
        return {
            "exit_code": ending.code,
            "stopped": ending.refusal is not None,
            "message": None if ending.refusal is None else self.why(ending.refusal),
            "tenant": self._block.tenant,
            "budget": str(block.limit),
            "spent": str(block.spent),
            "reserved": str(block.reserved),
            "remaining": str(block.remaining),
            "calls": sum(spent.calls for spent in models.values()),
            "refused_calls": self._governor.refused_calls,
            "models": [
                {
                    "model": model,
                    "calls": spent.calls,
                    "tokens": spent.tokens,
                    "cost": str(spent.cost),
                }
                for model, spent in models.items()
            ],
        }

    def _section(self, models: dict[str, Spent]) -> Section:
        block = self._block
        blocks: list[str | Text | Table] = []
        if models:
            blocks.append(_table(models))
        said = f"{usd(block.spent)} of {usd(block.limit)} spent, {usd_left(block.remaining)} left"
        blocks.append(Text(said, "strong"))
        if block.reserved:
            blocks.append(
                Text(f"{usd(block.reserved)} is held by calls that have not ended", "warn")
            )
        refused = self._governor.refused_calls
        if refused:
            was = "was" if refused == 1 else "were"
            blocks.append(Text(f"{plural(refused, 'call')} {was} refused", "bad"))
        return Section("fluxai run", blocks)


def _table(models: dict[str, Spent]) -> Table:
    columns = (
        Column("Model", fold=True),
        Column("Calls", right=True),
        Column("Tokens", right=True),
        Column("Cost", right=True),
    )
    rows = [
        (model, count(spent.calls), count(spent.tokens), usd(spent.cost))
        for model, spent in models.items()
    ]
    return Table(columns, rows)


def _screen(session: Session) -> Screen:
    if not sys.stderr.isatty():
        return PlainScreen(sys.stderr)
    from rich.console import Console

    from fluxai.cli.rich_screen import RichScreen

    console = Console(stderr=True, no_color=not session.color, highlight=False)
    return RichScreen(color=session.color, console=console)
