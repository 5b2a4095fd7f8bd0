"""`fluxai simulate --routing`: what certified routing would have made of the calls that were."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from fluxai.cli.figures import plural, usd
from fluxai.cli.progress import progress
from fluxai.cli.screen import Block, Cell, Column, Section, Table, Text
from fluxai.cli.session import Answer, Session, command
from fluxai.core.windows import from_us

if TYPE_CHECKING:
    from fluxai.replay import Replay, ReplayedLevel


@command()
@click.option("--routing", is_flag=True, help="Replay certified downgrades.")
@click.option("--tenant", metavar="ID", default="default", show_default=True, help="Whose calls.")
@click.option("--asked", metavar="MODEL", help="Try this pair: the model that is asked for,")
@click.option("--cheap", metavar="MODEL", help="and the cheaper one. Else what policies allow.")
@click.option("--risk", type=click.FloatRange(0, 0.5, min_open=True), help="Try this quality_risk.")
@click.option("--confidence", type=click.FloatRange(0.5, 1, max_open=True), help="Try this one.")
@click.option(
    "--days", type=click.IntRange(1, 3_660), default=30, show_default=True, help="Of traffic."
)
def simulate(
    session: Session,
    *,
    routing: bool,
    tenant: str,
    asked: str | None,
    cheap: str | None,
    risk: float | None,
    confidence: float | None,
    days: int,
) -> Answer:
    """Replay the stored calls of a tenant as if another rule had held. Changes nothing."""
    if not routing:
        raise click.UsageError("say what to simulate: --routing")
    if (asked is None) != (cheap is None):
        raise click.UsageError("--asked and --cheap go together")
    from fluxai.replay import replay

    with session.governor() as governor, progress("Reading events", None) as advance:
        found = replay(
            governor,
            tenant,
            asked=asked,
            cheap=cheap,
            risk=risk,
            confidence=confidence,
            start=from_us(governor.clock.now_us()) - timedelta(days=days),
            progress=lambda at: advance(at, f"{at:,}"),
        )
    document = {"tenant": tenant, "days": days, "routes": [one.to_dict() for one in found]}
    sections = [Section(f"{one.asked} to {one.cheap}", _blocks(one, days)) for one in found]
    nothing = (
        f"No policy of tenant {tenant!r} has a quality_risk. Name another with --tenant, or a pair to "
        f"try: --asked gpt-4o --cheap gpt-4o-mini"
    )
    return Answer(document, sections or [Section("", [nothing])])


def _blocks(one: Replay, days: int) -> list[Block]:
    certified = one.certified
    if certified is None:
        proved = Text(
            f"{plural(one.pairs, 'outcome')} of both models prove nothing at a risk of {one.risk:.1%} "
            f"and a confidence of {one.confidence:.0%}: no call would have been routed",
            "warn",
        )
    else:
        proved = Text(
            f"{certified.harmful} of {plural(one.pairs, 'outcome')} harmed, so at most "
            f"{certified.bound:.2%} of prompts at a confidence of {one.confidence:.0%}: those that "
            f"score up to {certified.threshold:.3f} would have been routed",
            "good",
        )
    levels = [level for level in one.levels if level.calls]
    if not levels:
        return [proved, f"No call of {one.asked} in {days} days."]
    columns = (
        Column("Prompts"),
        Column("Calls", right=True),
        Column(f"On {one.cheap}", right=True),
        Column("Cost", right=True),
        Column("Would cost", right=True),
        Column("Judged", right=True),
        Column("Quality", right=True),
    )
    total: list[Cell] = [
        "All",
        f"{sum(level.calls for level in levels):,}",
        f"{sum(level.routed for level in levels):,}",
        usd(sum((level.cost for level in levels), start=levels[0].cost * 0)),
        usd(sum((level.would_cost for level in levels), start=levels[0].cost * 0)),
        f"{sum(level.judged for level in levels):,}",
        "",
    ]
    blocks: list[Block] = [proved, Table(columns, [_row(level) for level in levels], total)]
    if any(level.complexity == "unknown" for level in levels):
        blocks.append(
            "Unknown: how hard the prompt was is kept only of calls that a policy with quality_risk "
            "applied to, also in mode shadow; or where feedback(…, prompt=…) told it."
        )
    return blocks


def _row(level: ReplayedLevel) -> list[Cell]:
    quality = "-"
    if level.quality is not None and level.would_quality is not None:
        quality = f"{level.quality:.3f} to {level.would_quality:.3f}"
    return [
        level.complexity,
        f"{level.calls:,}",
        f"{level.routed:,}",
        usd(level.cost),
        usd(level.would_cost),
        f"{level.judged:,}",
        quality,
    ]
