"""Tools for approvals: calls that wait for a person, and the answers they get."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fluxai.core.errors import InvalidRequest
from fluxai.mcp.identity import ADMIN
from fluxai.mcp.tools.tool import Arguments, GovernorTool, Result, ShownAmount

if TYPE_CHECKING:
    from fluxai.core.decisions import Approval
    from fluxai.governor import Governor
    from fluxai.mcp.identity import Identity

_LISTED_MAX = 1_000


class ListApprovals(Arguments):
    """Arguments of `list_approvals`."""

    state: Literal["pending", "approved", "rejected", "used", "expired"] | None = "pending"
    limit: Annotated[int, Field(ge=1, le=_LISTED_MAX)] = 100


class ApprovalView(Result):
    """A call that waits, or waited, for a person; `amount` is at most what it costs, in USD."""

    id: str
    tenant: str
    user: str | None
    tool: str
    amount: ShownAmount
    state: str
    requested_at: datetime
    expires_at: datetime
    message: str
    labels: dict[str, str]
    by: str | None
    reason: str | None
    decided_at: datetime | None


class ApprovalList(Result):
    """Approvals, newest first."""

    approvals: tuple[ApprovalView, ...]


def _list_approvals(governor: Governor, who: Identity, asked: ListApprovals) -> ApprovalList:
    found = governor.approvals.list(
        tenant=who.tenant_of(asked.tenant_id), state=asked.state, limit=_LISTED_MAX
    )
    seen = [approval for approval in found if who.sees(approval.user)]
    return ApprovalList(approvals=tuple(_view(approval) for approval in seen[: asked.limit]))


class DecideApproval(Arguments):
    """Arguments of `decide_approval`."""

    approval_id: str
    decision: Literal["approve", "reject"]
    reason: Annotated[str | None, Field(description="With reject: why.")] = None


def _decide_approval(governor: Governor, who: Identity, asked: DecideApproval) -> ApprovalView:
    who.require(ADMIN)
    tenant = who.tenant_of(asked.tenant_id)
    if asked.decision == "reject":
        return _view(
            governor.approvals.reject(
                asked.approval_id, by=who.name, reason=asked.reason, tenant=tenant
            )
        )
    if asked.reason is not None:
        raise InvalidRequest("reason", "goes with decision=reject")
    return _view(governor.approvals.approve(asked.approval_id, by=who.name, tenant=tenant))


def _view(approval: Approval) -> ApprovalView:
    return ApprovalView.model_validate(approval)


APPROVING: tuple[GovernorTool[Any], ...] = (
    GovernorTool(
        name="list_approvals",
        title="List approvals",
        description="List the calls that wait for a person to approve them, or how they were "
        "decided. An approved call runs once: repeat it with its approval_id.",
        arguments=ListApprovals,
        result=ApprovalList,
        run=_list_approvals,
        reads_only=True,
    ),
    GovernorTool(
        name="decide_approval",
        title="Approve or reject a call",
        description="Approve or reject a paid call that waits for a person. Only on the explicit "
        "word of that person. Admins only.",
        arguments=DecideApproval,
        result=ApprovalView,
        run=_decide_approval,
        scope=ADMIN,
        idempotent=True,
    ),
)
