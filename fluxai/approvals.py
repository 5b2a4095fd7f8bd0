"""Approvals: calls that wait for a human, and the answers they get."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from fluxai.arguments import check_reason, check_text, count, ttl_us
from fluxai.core.errors import InvalidRequest, NotFound
from fluxai.core.ids import uuid_int, uuid_text
from fluxai.core.windows import to_us
from fluxai.storage.base import Approve, Claim, Reject

if TYPE_CHECKING:
    from datetime import timedelta

    from fluxai.core.decisions import Approval, Reservation
    from fluxai.governor import Governor

STATES = ("pending", "approved", "rejected", "used", "expired")
#: How often somebody who waits looks again.
WAITED_S = 0.2


class Approvals:
    """`governor.approvals`. What it returns are copies: they show a moment, and decide nothing."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor

    def list(
        self, *, tenant: str | None = None, state: str | None = None, limit: int = 1_000
    ) -> list[Approval]:
        """List approvals, newest first."""
        if state is not None and state not in STATES:
            raise InvalidRequest("state", f"{state!r:.60} is not one of {', '.join(STATES)}")
        found = self._governor.storage.approvals(
            tenant=tenant, state=state, limit=count("limit", limit, 1)
        )
        return [replace(approval) for approval in found]

    def get(self, approval_id: str, *, tenant: str | None = None) -> Approval:
        """Return one approval.

        Raises:
            NotFound: There is none under that id.
        """
        uid, owner = self._where(approval_id, tenant)
        found = self._governor.storage.find(owner, uid)
        if found is None or found.extra is None or found.extra.approval is None:
            raise NotFound(f"approval: no approval {approval_id!r}")
        return replace(found.extra.approval)

    def approve(self, approval_id: str, *, by: str, tenant: str | None = None) -> Approval:
        """Say yes: the `deny` limits are judged again, now, and the hold moves to these windows.

        The call may then run once, with `approval_id=`, until the approval expires.

        Raises:
            ApprovalConflict: It was answered otherwise, has expired, or a `deny` limit would be
                crossed now (it then stays pending).
            NotFound: There is none under that id.
        """
        check_text("by", by)
        governor = self._governor
        uid, owner = self._where(approval_id, tenant)
        at_us = governor._now()
        approval: Approval = governor._resolve(
            Approve(tenant=owner, uid=uid, at_us=at_us, by=by, expires_us=at_us)
        )
        return replace(approval)

    def reject(
        self, approval_id: str, *, by: str, reason: str | None = None, tenant: str | None = None
    ) -> Approval:
        """Say no: the money that was held is given back.

        Raises:
            ApprovalConflict: It was used, or has expired.
            NotFound: There is none under that id.
        """
        check_text("by", by)
        if reason is not None:
            check_reason("reason", reason)
        governor = self._governor
        uid, owner = self._where(approval_id, tenant)
        approval: Approval = governor._resolve(
            Reject(tenant=owner, uid=uid, at_us=governor._now(), by=by, reason=reason)
        )
        return replace(approval)

    def resume(
        self,
        approval_id: str,
        *,
        claim: str,
        ttl: timedelta | str | int = "30m",
        tenant: str | None = None,
    ) -> Reservation:
        """Go on with a run that was begun elsewhere, on the same reservation.

        For a call that is made in several rounds, each perhaps in another process. Only one can go
        on from a claim, which is good for nothing afterwards: the run has a new one from then on.

        Args:
            approval_id: Which approval.
            claim: The approval's `claim`, as whoever began the run has it.
            ttl: How long the reservation may stay open from now on.
            tenant: Whose it must be.

        Returns:
            The reservation, still to be settled or released.

        Raises:
            ApprovalConflict: Somebody has gone on from that claim, or the run has ended.
            NotFound: There is none under that id.
        """
        check_text("claim", claim)
        governor = self._governor
        uid, owner = self._where(approval_id, tenant)
        found = governor.storage.find(owner, uid)
        extra = None if found is None else found.extra
        at_us = governor._now()
        resumed: Reservation = governor._resolve(
            Claim(
                tenant=owner,
                uid=uid,
                at_us=at_us,
                digest=(None if extra is None else extra.digest) or "",
                claim=uuid_text(governor._ids(at_us)),
                expires_us=at_us + ttl_us(ttl),
                after=claim,
            )
        )
        return resumed

    def wait(
        self, approval_id: str, *, timeout: float | None = None, tenant: str | None = None
    ) -> Approval:
        """Wait until somebody answers, in this process or another.

        Args:
            approval_id: Which approval.
            timeout: Seconds; without one it waits until the approval expires.
            tenant: Whose it must be.

        Returns:
            The approval; still `pending` if nobody answered in time.
        """
        waited = threading.Event()
        left = timeout
        while True:
            approval = self.get(approval_id, tenant=tenant)
            if self.over(approval, left):
                return approval
            pause = WAITED_S if left is None else min(WAITED_S, left)
            waited.wait(pause)
            left = None if left is None else left - pause

    def over(self, approval: Approval, left: float | None) -> bool:
        """Say whether there is nothing more to wait for, with `left` seconds to go."""
        if approval.state != "pending" or (left is not None and left <= 0):
            return True
        return self._governor.clock.now_us() >= to_us(approval.expires_at)

    def _where(self, approval_id: str, tenant: str | None) -> tuple[int, str]:
        if not isinstance(approval_id, str):
            raise InvalidRequest("id", f"must be an id, got {type(approval_id).__name__}")
        try:
            uid = uuid_int(approval_id)
        except ValueError:
            raise NotFound(f"approval: no approval {approval_id!r:.60}") from None
        found = self._governor.storage.find(tenant, uid)
        if found is None:
            raise NotFound(f"approval: no approval {approval_id!r}")
        return uid, found.subject.tenant
