"""`fluxai routing`: which calls run on a cheaper model by themselves, and what proves that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from fluxai.cli.commands import Commands
from fluxai.cli.figures import plural, stamp, usd
from fluxai.cli.progress import progress
from fluxai.cli.screen import Block, Cell, Column, Section, Table, Text, Tone
from fluxai.cli.session import Answer, Session, command
from fluxai.cli.tenants import known_tenants, tenant_names, titled
from fluxai.core.windows import from_us

if TYPE_CHECKING:
    from fluxai.governor import Governor
    from fluxai.learning import RouteReport
    from fluxai.routing import Abilities

_STATES: dict[str, Tone] = {"valid": "good", "revoked": "bad", "none": "warn", "expired": "warn"}
_NO_ROUTES = (
    "No policy has a quality_risk, so that nothing is downgraded for its prompt. Write one for a "
    "model: limit_type per_request, limit_value 0, decision downgrade, quality_risk 0.05."
)


@click.group(cls=Commands)
def routing() -> None:
    """See which calls run on a cheaper model by themselves, and what proves that they may."""


@command(routing, "report")
@click.argument("tenant", required=False)
@click.option(
    "--days", type=click.IntRange(1, 3_660), default=30, show_default=True, help="Of traffic."
)
def report(session: Session, *, tenant: str | None, days: int) -> Answer:
    """Show each certificate, the traffic it moved, the money it saved, and the harm measured.

    Of one TENANT, or of all.
    """
    with session.governor() as governor:
        start = from_us(governor.clock.now_us()) - timedelta(days=days)
        names = tenant_names(governor)
        tenants = [tenant] if tenant is not None else known_tenants(governor)
        with progress("Reading events", None) as advance:
            found = {
                name: _of(governor, name, start, lambda at: advance(at, f"{at:,}"))
                for name in tenants
            }
    document = {
        "days": days,
        "tenants": [
            {
                "tenant": name,
                "routes": [route.to_dict() for route in routes],
                "abilities": _abilities_row(abilities),
            }
            for name, (routes, abilities) in found.items()
        ],
    }
    sections = [
        Section(titled(name, names), [*_blocks(routes, days), *_abilities(abilities)])
        for name, (routes, abilities) in found.items()
        if routes or abilities.models
    ]
    return Answer(document, sections or [Section("", [_NO_ROUTES])])


def _of(
    governor: Governor, tenant: str, start: datetime, advance: Any
) -> tuple[list[RouteReport], Abilities]:
    learned = governor.routing
    return learned.report(tenant, start=start, progress=advance), learned.abilities(tenant)


def _blocks(routes: Sequence[RouteReport], days: int) -> list[Block]:
    if not routes:
        return [_NO_ROUTES]
    blocks: list[Block] = []
    for route in routes:
        certificate = route.certificate
        state = "not looked at yet" if certificate is None else certificate.state
        said = f"{route.asked} to {route.cheap}: {state}"
        blocks.append(Text(said, _STATES.get(state, "dim")))
        blocks.append(
            f"At most {route.risk:.1%} of prompts harmed, at confidence {route.confidence:.0%} "
            f"(policy {route.policy_id})."
        )
        if certificate is None:
            blocks.append(
                f"{plural(route.pairs, 'outcome')} of both models; a first look needs about "
                f"{_first_look(route)}. Compare some calls: governor.compare(…)."
            )
            continue
        blocks.append(f"{certificate.reason[:1].upper()}{certificate.reason[1:]}.")
        blocks.append(f"Looked at {stamp(certificate.at)}; {_until(route)}")
        if route.calls:
            blocks.append(
                f"{plural(route.calls, 'call')} in {days} days, {route.routed:,} "
                f"({route.routed / route.calls:.0%}) on {route.cheap}: saved {usd(route.saved)}."
            )
        if route.harm_bound is not None:
            blocks.append(
                f"Since then {route.harmful:,} of {plural(route.checked, 'compared prompt')} would "
                f"have been harmed (the true share is below {route.harm_bound:.1%})."
            )
    return blocks


def _until(route: RouteReport) -> str:
    certificate = route.certificate
    if certificate is None or certificate.state != "valid" or certificate.certified is None:
        return f"calls run on {route.asked}."
    return (
        f"prompts that score up to {certificate.certified.threshold:.3f} run on {route.cheap} until "
        f"{stamp(from_us(certificate.expires_us))}."
    )


def _first_look(route: RouteReport) -> int:
    from fluxai.routing.certificates import first_look

    return first_look(route.risk, route.confidence)


def _abilities(abilities: Abilities) -> list[Block]:
    if not abilities.models:
        return []
    rows: list[list[Cell]] = [
        [
            model,
            f"{ability.value + abilities.offset:+.2f}",
            f"{ability.outcomes:,}" if ability.trusted else f"{ability.outcomes:,} (few)",
        ]
        for model, ability in abilities.models.items()
    ]
    columns = (
        Column("Model"),
        Column("Ability, log-odds", right=True),
        Column("Outcomes", right=True),
    )
    return [Table(columns, rows)]


def _abilities_row(abilities: Abilities) -> dict[str, Any]:
    return {
        "offset": abilities.offset,
        "slope": abilities.slope,
        "models": {
            model: {"ability": one.value, "outcomes": one.outcomes, "trusted": one.trusted}
            for model, one in abilities.models.items()
        },
    }
