"""Asking a person: through the client where that is trusted, else apart from it.

A client's answer may come from a program, with no person at all. So by default a call waits in the
store until somebody decides it there; then the same call runs once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import mcp_types as types
from pydantic import BaseModel, TypeAdapter

from fluxai.core.decisions import Reservation
from fluxai.core.errors import ApprovalConflict
from fluxai.core.ids import uuid_int
from fluxai.governor import Governor
from fluxai.mcp.gateway.names import Target
from fluxai.mcp.identity import Identity

#: Under which key the gateway puts its own question beside those of servers.
QUESTION_KEY: Final = "fluxai-approval"
_RESPONSES: Final = TypeAdapter(types.InputResponses | None)
_OPEN_MAX: Final = 1_000
_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "approve": {
            "type": "boolean",
            "title": "Approve",
            "description": "Make this call, and pay for it",
        }
    },
    "required": ["approve"],
}


class State(BaseModel):
    """What a client carries from one round of a call to the next. Sealed on the way.

    Attributes:
        approval: The approval that the gateway asked for, or under which the call is under way.
        call: The digest of the call that it was asked for.
        claim: Who may go on with the call, once it was approved; good for one round.
        responses: What the client had answered to the server meanwhile.
        server_state: The server's own state, passed back as it was.
    """

    approval: str | None = None
    call: str | None = None
    claim: str | None = None
    responses: Any = None
    server_state: str | None = None

    @classmethod
    def of(cls, text: str | None) -> State:
        """Read what a client brought. The seal was verified; a text without one never comes here."""
        return cls() if text is None else cls.model_validate_json(text)

    def server_responses(self) -> types.InputResponses | None:
        """Return what the client had answered to the server."""
        return _RESPONSES.validate_python(self.responses)


@dataclass(frozen=True, slots=True)
class PaidCall:
    """One call, as an approval is bound to it."""

    identity: Identity
    target: Target
    name: str
    arguments: Mapping[str, Any]
    units: int

    def text(self) -> str:
        """Return server, tool and arguments, the same for the same call."""
        said = [self.target.server, self.target.name, self.arguments]
        return json.dumps(said, sort_keys=True, separators=(",", ":"))

    def digest(self, version: object = None) -> str:
        """Return the hash of the call, whose it is, and the version of the policies.

        Args:
            version: None for a call that was decided, which a change of the policies leaves be.
        """
        said = json.dumps([self.identity.tenant, self.identity.user, self.text(), repr(version)])
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


def question(reservation: Reservation, call: PaidCall) -> types.ElicitRequest:
    """Return what a person is asked."""
    highest = reservation.estimate.highest
    return types.ElicitRequest(
        params=types.ElicitRequestFormParams(
            message=(
                f"{call.identity.tenant}: may {call.target.server} run {call.target.name} for up "
                f"to ${highest}? {reservation.message}"
            ),
            requested_schema=_FORM,
        )
    )


def says_yes(answer: object) -> bool:
    """Say whether an answer is an explicit yes; anything else is none."""
    if not isinstance(answer, types.ElicitResult) or answer.action != "accept":
        return False
    return answer.content is not None and answer.content.get("approve") is True


def dump_responses(responses: types.InputResponses | None) -> Any:
    """Write a client's answers so that they can travel in the state."""
    return _RESPONSES.dump_python(responses, mode="json", by_alias=True, exclude_none=True)


def earlier(governor: Governor, asked: Reservation) -> tuple[str, str] | None:
    """Find an older approval of the very same call; return its id and whether it is approved yet.

    It is the call that is looked up, not what a client says of it, so that an agent need only make
    the same call again. Runs in a thread.
    """
    extra = asked.extra
    if extra is None or extra.digest is None:
        return None
    tenant = asked.subject.tenant
    for state in ("approved", "pending"):
        listed = governor.approvals.list(tenant=tenant, state=state, limit=_OPEN_MAX)
        for approval in reversed(listed):  # the oldest first: it is the one that stays
            if approval.id == asked.id or approval.tool != asked.requested_tool:
                continue
            found = governor.storage.find(tenant, uuid_int(approval.id))
            if found is None or found.extra is None or found.extra.digest != extra.digest:
                continue
            if state == "pending" and found.uid > asked.uid:
                # Calls made at once must not all give way to each other: the first goes on to wait.
                continue
            return approval.id, state
    return None


def next_round(call: PaidCall, granted: Reservation, server_state: str | None) -> State | None:
    """Return what lets an approved call go on, under its approval and on its reservation.

    None where nobody was asked: then the next round is decided anew.
    """
    approval = None if granted.extra is None else granted.extra.approval
    if approval is None:
        return None
    return State(
        approval=approval.id,
        call=call.digest(),
        claim=approval.claim,
        server_state=server_state,
    )


def withdraw(governor: Governor, asked: Reservation, why: str) -> None:
    """Give back what an approval holds that nobody waits for. Runs in a thread."""
    try:
        governor.approvals.reject(asked.id, by="gateway", reason=why, tenant=asked.subject.tenant)
    except ApprovalConflict:
        # Somebody has decided it meanwhile: then that stands.
        return


async def answered(answer: asyncio.Future[Any] | Any, timeout: float) -> Any:  # noqa: ASYNC109 -- ours
    """Wait for a person's answer; None where there is none in time."""
    try:
        async with asyncio.timeout(timeout):
            return await answer
    except TimeoutError:
        return None
