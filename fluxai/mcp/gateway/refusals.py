"""What a client reads when a call was not forwarded, or what became of it is not known."""

from __future__ import annotations

from typing import Any, Final

import mcp_types as types

from fluxai.core.decisions import Decision, Reservation, Settlement

#: Where a result's `_meta` says what was decided about the call.
DECISION_KEY: Final = "fluxai/decision"
#: Where a server of the newer era names itself; to the client, the gateway is the server.
SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"


def refused(decision: Decision) -> types.CallToolResult:
    """Say that a policy refused a call; no server has heard of it."""
    offer = decision.counter_offer
    resets_at = None if offer is None else offer.resets_at
    when = (
        "Do not retry this call: it would be refused again"
        if resets_at is None
        else f"Do not retry this call before {resets_at:%Y-%m-%d %H:%M:%S} UTC, when the limit resets"
    )
    return _error(
        f"Refused by budget policy, and not forwarded: {decision.message} {when}.",
        _told(decision, resets_at=None if resets_at is None else resets_at.isoformat()),
    )


def waiting(decision: Decision, approval_id: str) -> types.CallToolResult:
    """Say that a person has to approve a call first."""
    return _error(
        f"Not forwarded yet: {decision.message} A person has to approve it, for example with "
        f"`fluxai approvals approve {approval_id} --by NAME`. Do not retry until it is approved; "
        f"then make the same call with the same arguments, and it runs once.",
        {**_told(decision), "decision": "pending_approval", "approval_id": approval_id},
    )


def declined(decision: Decision) -> types.CallToolResult:
    """Say that a person said no."""
    return _error(
        "Refused by a person, and not forwarded. Do not retry this call.",
        {**_told(decision), "decision": "denied"},
    )


def not_decided(why: str) -> types.CallToolResult:
    """Say that nobody could decide about a call, so that it was not forwarded."""
    return _error(f"Not forwarded: {why}. Do not retry at once.", {"decision": "denied"})


def not_understood(why: str) -> types.CallToolResult:
    """Say that a call can't be priced as it was made, so that it was not forwarded."""
    return _error(
        f"Not forwarded: {why}. Do not retry with the same arguments.", {"decision": "denied"}
    )


def unreachable(why: str) -> types.CallToolResult:
    """Say that the server can't be reached: the call was neither made nor charged."""
    return _error(
        f"Not forwarded, and not charged: {why}. Do not retry at once.", {"decision": "released"}
    )


def lost(why: str, settlement: Settlement | None) -> types.CallToolResult:
    """Say that nobody knows whether a call ran: it is charged at its estimate."""
    told: dict[str, Any] = {"decision": "allowed", "outcome": "unknown"}
    if settlement is not None:
        told |= {"cost": str(settlement.cost), "estimated": True}
    return _error(
        f"The outcome is not known: {why}. It may have run, and was charged at its estimate. Do not "
        f"retry unless running it twice does no harm.",
        told,
    )


def told_with(
    result: types.CallToolResult, reservation: Reservation, settlement: Settlement | None
) -> types.CallToolResult:
    """Add to a result what was decided about its call, and what it cost."""
    remaining = reservation.remaining
    told = {
        "decision": reservation.decision,
        "tool": reservation.final_tool,
        "reservation_id": reservation.id,
        "cost": None if settlement is None else str(settlement.cost),
        "remaining": None if remaining is None else str(remaining),
    }
    meta = {key: value for key, value in (result.meta or {}).items() if key != SERVER_KEY}
    return result.model_copy(update={"meta": {**meta, DECISION_KEY: told}})


def _told(decision: Decision, **more: Any) -> dict[str, Any]:
    return {
        "decision": decision.decision,
        "tool": decision.requested_tool,
        "reservation_id": decision.id,
        "message": decision.message,
        "reasons": [
            {"policy_id": reason.policy_id, "message": str(reason)}
            for reason in decision.reasons
            if reason.acted
        ],
        **more,
    }


def _error(text: str, told: dict[str, Any]) -> types.CallToolResult:
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)],
        is_error=True,
        _meta={DECISION_KEY: told},
    )
