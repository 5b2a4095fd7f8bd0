"""`fluxai approvals`: calls that wait for a human, and the answers they get."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from fluxai.cli.commands import Commands
from fluxai.cli.figures import stamp, until, usd
from fluxai.cli.screen import Column, Section, Table, Text, Tone
from fluxai.cli.session import Answer, Session, command
from fluxai.core.windows import from_us

if TYPE_CHECKING:
    from fluxai.core.decisions import Approval

_STATES = ("pending", "approved", "rejected", "used", "expired")
_TONES: dict[str, Tone] = {"pending": "warn", "approved": "good", "rejected": "bad"}


@click.group(cls=Commands)
def approvals() -> None:
    """See the calls that wait for a human's answer, and answer them."""


@command(approvals, "list")
@click.option("--tenant", metavar="ID", help="Only this tenant's.")
@click.option("--state", type=click.Choice([*_STATES, "all"]), default="pending", show_default=True)
def list_approvals(session: Session, *, tenant: str | None, state: str) -> Answer:
    """List the calls that wait, or those in another state."""
    with session.governor() as governor:
        now = from_us(governor.clock.now_us())
        found = governor.approvals.list(tenant=tenant, state=None if state == "all" else state)
    document = {"approvals": [_row(approval) for approval in found]}
    if not found:
        return Answer(
            document,
            [Section("", [f"No approval is {state}." if state != "all" else "No approvals."])],
        )
    return Answer(document, [_shown(approval, now) for approval in found])


@command(approvals, "approve")
@click.argument("approval_id", metavar="ID")
@click.option("--by", required=True, metavar="WHO", help="Who says so; kept with the approval.")
def approve(session: Session, *, approval_id: str, by: str) -> Answer:
    """Say yes to the call ID: it may then run once, with this approval id."""
    with session.governor() as governor:
        approval = governor.approvals.approve(approval_id, by=by)
    return _answered(
        approval, f"Approved: {usd(approval.amount)} on {approval.tool}, to be run once"
    )


@command(approvals, "reject")
@click.argument("approval_id", metavar="ID")
@click.option("--by", required=True, metavar="WHO", help="Who says so; kept with the approval.")
@click.option("--reason", metavar="TEXT", help="Why; kept with the approval.")
def reject(session: Session, *, approval_id: str, by: str, reason: str | None) -> Answer:
    """Say no to the call ID: the money that it held is free again."""
    with session.governor() as governor:
        approval = governor.approvals.reject(approval_id, by=by, reason=reason)
    return _answered(approval, f"Rejected: {usd(approval.amount)} on {approval.tool} is free again")


def _answered(approval: Approval, said: str) -> Answer:
    text = f"{said} (by {approval.by}"
    text += f", until {stamp(approval.expires_at)})." if approval.state == "approved" else ")."
    tone = _TONES.get(approval.state, "")
    return Answer({"approval": _row(approval)}, [Section("", [Text(text, tone)])])


def _shown(approval: Approval, now: datetime) -> Section:
    whose = approval.tenant if approval.user is None else f"{approval.tenant} / {approval.user}"
    rows: list[tuple[str, str | Text]] = [
        ("state", Text(approval.state, _TONES.get(approval.state, ""))),
        ("who", whose),
        ("what", f"{approval.tool}, at most {usd(approval.amount)}"),
        ("why", approval.message),
        ("asked", until(approval.requested_at, now)),
        ("expires", until(approval.expires_at, now)),
    ]
    if approval.by is not None:
        rows.append(("by", approval.by))
    if approval.reason is not None:
        rows.append(("reason", approval.reason))
    return Section(approval.id, [Table((Column(""), Column("", fold=True)), rows)])


def _row(approval: Approval) -> dict[str, Any]:
    return {name: _plain(value) for name, value in asdict(approval).items() if name != "claim"}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    return value.isoformat() if isinstance(value, datetime) else value
