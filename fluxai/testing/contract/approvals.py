"""Approvals: the money waits for a human, and the call runs once."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from fluxai.core.decisions import Reservation
from fluxai.core.errors import ApprovalConflict, NotFound
from fluxai.governor import Governor
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import (
    CHEAP_TOOL,
    DIME,
    TENANT,
    Case,
    budget,
    dimes,
    limit,
    state,
    sums,
)

PENDING_MAX = 100


class Approvals(Case):
    """`require_approval`, from the question to the one run."""

    @pytest.fixture
    def asking(self, governor: Governor) -> Governor:
        """Return a governor under which every call of the tenant asks first."""
        limit(governor, "0", id="ask", decision="require_approval")
        return governor

    def test_from_the_question_to_the_one_run(self, asking: Governor) -> None:
        """Approved, the same call runs once, on the money that was held for it."""
        held = dimes(asking)
        assert sums(asking, "ask") == (0, DIME)
        waiting = dimes(asking, approval_id=held.id)
        assert (waiting.decision, waiting.id) == ("pending_approval", held.id)
        approval = asking.approvals.approve(held.id, by="bob")
        assert (approval.state, approval.by, approval.amount) == ("approved", "bob", DIME)
        assert approval.decided_at == approval.requested_at
        run = dimes(asking, approval_id=held.id)
        assert (run.id, run.decision, run.allowed) == (held.id, "allowed", True)
        assert sums(asking, "ask") == (0, DIME)
        asking.settle(run, cost="0.08")
        assert sums(asking, "ask") == (Decimal("0.08"), 0)
        assert asking.approvals.get(held.id).state == "used"

    def test_an_approval_is_used_once(self, asking: Governor) -> None:
        """A second run under the same approval is refused, during the first and after it."""
        held = dimes(asking)
        asking.approvals.approve(held.id, by="bob")
        run = dimes(asking, approval_id=held.id)
        assert not dimes(asking, approval_id=held.id).allowed
        asking.settle(run, cost="0.08")
        refused = dimes(asking, approval_id=held.id)
        assert not refused.allowed
        assert "used" in refused.message
        assert sums(asking, "ask") == (Decimal("0.08"), 0)

    def test_a_run_in_rounds_is_one_run(self, asking: Governor, clock: FakeClock) -> None:
        """Whoever has its claim goes on, once, on the one reservation; no other claim will do."""
        held = dimes(asking)
        asking.approvals.approve(held.id, by="bob")
        with pytest.raises(NotFound):
            asking.approvals.resume(held.id, claim=held.id, tenant="globex")
        begun = _claim(asking, dimes(asking, approval_id=held.id))
        with pytest.raises(ApprovalConflict):
            asking.approvals.resume(held.id, claim=held.id)
        clock.advance("20m")
        run = asking.approvals.resume(held.id, claim=begun, tenant=TENANT)
        assert (run.id, run.allowed, state(asking, run)) == (held.id, True, "reserved")
        assert run.expires_at == clock.now + timedelta(minutes=30)
        assert _claim(asking, run) != begun
        with pytest.raises(ApprovalConflict):
            asking.approvals.resume(held.id, claim=begun)
        assert not dimes(asking, approval_id=held.id).allowed
        assert sums(asking, "ask") == (0, DIME)
        asking.settle(asking.approvals.resume(held.id, claim=_claim(asking, run)), cost="0.08")
        with pytest.raises(ApprovalConflict):
            asking.approvals.resume(held.id, claim=_claim(asking, run))
        assert sums(asking, "ask") == (Decimal("0.08"), 0)

    @pytest.mark.parametrize("end", ["not approved", "not begun", "released", "expired"])
    def test_a_run_that_is_not_under_way_is_not_gone_on_with(
        self, asking: Governor, clock: FakeClock, end: str
    ) -> None:
        """It takes a person's yes, then a reserve; and what has ended stays so."""
        held = dimes(asking)
        claim = held.id
        if end != "not approved":
            asking.approvals.approve(held.id, by="bob")
        if end in ("released", "expired"):
            run = dimes(asking, approval_id=held.id)
            claim = _claim(asking, run)
        if end == "released":
            asking.release(run)
        elif end == "expired":
            clock.advance("30m")
        with pytest.raises(ApprovalConflict):
            asking.approvals.resume(held.id, claim=claim)
        assert sums(asking, "ask")[0] == 0

    @pytest.mark.parametrize(
        "other", [{"units": 2}, {"tool": CHEAP_TOOL}, {"user": "eve"}, {"labels": {"a": "b"}}]
    )
    def test_an_approval_is_for_that_very_call(
        self, asking: Governor, other: dict[str, Any]
    ) -> None:
        """Another amount, tool, user or label is another call; the approval stays unused."""
        held = dimes(asking)
        asking.approvals.approve(held.id, by="bob")
        assert not dimes(asking, approval_id=held.id, **other).allowed
        assert dimes(asking, approval_id=held.id).allowed

    def test_rejected_gives_the_money_back(self, asking: Governor) -> None:
        """A no ends the reservation; it can't be run, nor approved afterwards."""
        held = dimes(asking)
        approval = asking.approvals.reject(held.id, by="bob", reason="too dear")
        assert (approval.state, approval.by, approval.reason) == ("rejected", "bob", "too dear")
        assert approval.decided_at is not None
        assert asking.approvals.reject(held.id, by="bob").state == "rejected"
        assert (state(asking, held), sums(asking, "ask")) == ("released", (0, 0))
        with pytest.raises(ApprovalConflict):
            asking.approvals.approve(held.id, by="eve")
        assert not dimes(asking, approval_id=held.id).allowed

    def test_approving_twice_is_once(self, asking: Governor) -> None:
        """A repeated yes changes nothing."""
        held = dimes(asking)
        for _ in range(3):
            assert asking.approvals.approve(held.id, by="bob").state == "approved"
        assert sums(asking, "ask") == (0, DIME)

    def test_an_approved_call_can_still_be_rejected(self, asking: Governor) -> None:
        """Until it runs, a yes may be taken back."""
        held = dimes(asking)
        asking.approvals.approve(held.id, by="bob")
        assert asking.approvals.reject(held.id, by="bob").state == "rejected"
        assert sums(asking, "ask") == (0, 0)
        assert not dimes(asking, approval_id=held.id).allowed

    @pytest.mark.parametrize("approved", [False, True])
    def test_what_ended_otherwise_is_not_approved_nor_run(
        self, asking: Governor, *, approved: bool
    ) -> None:
        """A waiting call that its owner released or settled holds nothing any more."""
        for end in (asking.release, lambda held: asking.settle(held, cost="0.01")):
            held = dimes(asking)
            if approved:
                asking.approvals.approve(held.id, by="bob")
            end(held)
            with pytest.raises(ApprovalConflict):
                asking.approvals.approve(held.id, by="bob")
            assert not dimes(asking, approval_id=held.id).allowed
            assert state(asking, held) in ("released", "settled")
            assert budget(asking, "ask").reserved == 0
        assert asking.verify().ok

    def test_an_approval_expires(self, asking: Governor, clock: FakeClock) -> None:
        """Unanswered for a day it gives the money back, and is too late to answer."""
        held = dimes(asking)
        assert asking.approvals.get(held.id).expires_at == clock.now + timedelta(hours=24)
        clock.advance("24h")
        for answer in (asking.approvals.approve, asking.approvals.reject):
            with pytest.raises(ApprovalConflict, match="expired"):
                answer(held.id, by="bob")
        assert (state(asking, held), sums(asking, "ask")) == ("expired", (0, 0))

    def test_an_approved_call_that_nobody_runs_expires(
        self, asking: Governor, clock: FakeClock
    ) -> None:
        """A yes is good for the day on which it was asked for, not for ever."""
        held = dimes(asking)
        clock.advance("23h")
        asking.approvals.approve(held.id, by="bob")
        clock.advance("1h")
        assert not dimes(asking, approval_id=held.id).allowed
        assert (state(asking, held), sums(asking, "ask")) == ("expired", (0, 0))

    def test_approving_judges_the_deny_limits_again(self, asking: Governor) -> None:
        """Where a deny limit is full by now, the yes is refused and the call stays pending."""
        limit(asking, "0.10", id="stop", limit_type="daily", scope="tool")
        held = dimes(asking)
        asking.record(id="meanwhile", tenant=TENANT, tool="contract-tool", cost="0.05")
        with pytest.raises(ApprovalConflict, match="stop"):
            asking.approvals.approve(held.id, by="bob")
        assert state(asking, held) == "pending"
        assert sums(asking, "stop") == (Decimal("0.05"), DIME)
        asking.adjust("meanwhile", "-0.05", reason="undone", by="bob")
        assert asking.approvals.approve(held.id, by="bob").state == "approved"

    def test_approving_moves_the_hold_to_the_windows_of_now(
        self, asking: Governor, clock: FakeClock
    ) -> None:
        """Approved on the next day, it counts on that day."""
        limit(asking, "1", id="day", limit_type="daily")
        held = dimes(asking)
        clock.advance("13h")
        assert sums(asking, "day") == (0, 0)
        asking.approvals.approve(held.id, by="bob")
        assert sums(asking, "day") == (0, DIME)
        run = dimes(asking, approval_id=held.id)
        asking.settle(run, cost="0.08")
        assert sums(asking, "day") == (Decimal("0.08"), 0)
        assert asking.events()[0].counted_at == clock.now

    def test_waiting_calls_are_not_concurrent(self, asking: Governor) -> None:
        """A call counts as open from its approval on, and then keeps within the limit."""
        limit(asking, "1", id="open", limit_type="concurrent")
        first, second = dimes(asking), dimes(asking)
        assert second.decision == "pending_approval"
        assert sums(asking, "open") == (0, 0)
        asking.approvals.approve(first.id, by="bob")
        assert sums(asking, "open") == (0, 1)
        with pytest.raises(ApprovalConflict, match="open"):
            asking.approvals.approve(second.id, by="bob")
        asking.settle(dimes(asking, approval_id=first.id), cost="0.01")
        asking.approvals.approve(second.id, by="bob")
        assert sums(asking, "open") == (0, 1)

    def test_a_hundred_may_wait_at_once(self, asking: Governor, clock: FakeClock) -> None:
        """A tenant's hundred-and-first waiting call is refused, and says why; others' are not."""
        held = [dimes(asking) for _ in range(PENDING_MAX)]
        refused = dimes(asking)
        assert refused.decision == "denied"
        assert "waiting for approval" in refused.message
        assert budget(asking, "ask").reserved == 10
        limit(asking, "0", id="other", tenant_id="globex", decision="require_approval")
        assert dimes(asking, tenant="globex").decision == "pending_approval"
        asking.approvals.reject(held[0].id, by="bob")
        assert dimes(asking).decision == "pending_approval"
        clock.advance("24h")
        assert dimes(asking).decision == "pending_approval"

    def test_listed_by_state_and_tenant(self, asking: Governor, clock: FakeClock) -> None:
        """Who answers sees what waits, for how much, and what it is about; newest first."""
        held = []
        for user in ("alice", "bob", "carol"):
            held.append(dimes(asking, user=user, labels={"run": "7"}))
            clock.advance("1s")
        asking.approvals.approve(held[0].id, by="dave")
        assert [one.id for one in asking.approvals.list(state="pending")] == [
            held[2].id,
            held[1].id,
        ]
        (one,) = asking.approvals.list(state="approved", tenant=TENANT)
        assert (one.user, one.tool, one.amount, one.labels) == (
            "alice",
            "contract-tool",
            DIME,
            {"run": "7"},
        )
        assert asking.approvals.list(tenant="globex") == []

    def test_an_approval_id_nobody_knows(self, asking: Governor) -> None:
        """An unknown id, and another tenant's, are not found."""
        held = dimes(asking)
        for where in ({"tenant": "globex"}, {}):
            name = held.id if where else "0193b0a0-0000-7000-8000-00000000000a"
            with pytest.raises(NotFound):
                asking.approvals.approve(name, by="bob", **where)
        allowed = dimes(asking, tenant="globex")
        with pytest.raises(NotFound):
            asking.approvals.approve(allowed.id, by="bob")


def _claim(governor: Governor, run: Reservation) -> str:
    """Return the claim under which a run is under way."""
    claim = governor.approvals.get(run.id).claim
    assert claim is not None
    return claim
