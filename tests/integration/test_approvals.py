"""Approvals: a call that waits for a human, its money held, its answer bound to it alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import fluxai
from fluxai import ApprovalConflict, ApprovalRequired, Governor, Reservation, Tenant
from fluxai.testing import FakeClock
from tests.integration.stubs import ASK, Provider, daily, open_governor, spent


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor that asks before anything is spent."""
    with open_governor(request.param, tmp_path) as governor:
        governor.policies.put(daily("0", decision="require_approval"))
        yield governor
        assert governor.verify().ok


def _asked(governor: Governor, **changes: Any) -> Reservation:
    reservation = governor.reserve(**{**ASK, **changes})
    assert reservation.decision == "pending_approval"
    assert reservation.approval_id == reservation.id
    return reservation


def _clock(governor: Governor) -> FakeClock:
    assert isinstance(governor.clock, FakeClock)
    return governor.clock


def test_what_waits_is_listed_with_all_that_a_human_needs(governor: Governor) -> None:
    """Who, what, how much, why and until when, newest first."""
    first = _asked(governor, user="alice", labels={"run": "42"})
    _clock(governor).advance("1m")
    second = _asked(governor, user="bob")
    newest, oldest = governor.approvals.list(tenant="acme", state="pending")
    assert (newest.id, oldest.id) == (second.id, first.id)
    assert (oldest.tenant, oldest.user, oldest.tool) == ("acme", "alice", "gpt-4o")
    assert oldest.labels == {"run": "42"}
    assert oldest.amount == first.estimate.highest
    assert "daily cost limit of $0.00" in oldest.message
    assert (oldest.expires_at - oldest.requested_at).total_seconds() == 24 * 3600
    assert governor.approvals.get(first.id) == oldest
    assert governor.approvals.list(tenant="globex") == []


def test_its_money_is_held_meanwhile(governor: Governor) -> None:
    """Nobody else can spend what waits for an answer."""
    asked = _asked(governor)
    (budget,) = governor.budgets("acme")
    assert budget.reserved == asked.estimate.highest
    governor.approvals.reject(asked.id, by="boss")
    (budget,) = governor.budgets("acme")
    assert budget.reserved == 0


def test_an_approved_call_runs_exactly_once(governor: Governor) -> None:
    """From the request to the one run; a second run is refused and says why."""
    asked = _asked(governor)
    waiting = governor.reserve(**ASK, approval_id=asked.id)
    assert waiting.decision == "pending_approval"
    approval = governor.approvals.approve(asked.id, by="boss")
    assert (approval.state, approval.by, approval.decided_at) == (
        "approved",
        "boss",
        _clock(governor).now,
    )
    run = governor.reserve(**ASK, approval_id=asked.id)
    assert (run.allowed, run.id, run.max_output_tokens) == (True, asked.id, 100)
    assert governor.approvals.get(asked.id).state == "used"
    governor.settle(run, cost="0.001")
    again = governor.reserve(**ASK, approval_id=asked.id)
    assert (again.allowed, again.decision) == (False, "denied")
    assert "used" in again.message
    assert governor.explain(again.id).message == again.message
    assert spent(governor) == Decimal("0.001")


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "Say something else."},
        {"max_output_tokens": 101},
        {"model": "gpt-4"},
        {"user": "mallory"},
        {"labels": {"run": "43"}},
        {"tools": [{"name": "shell"}]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_approval_is_bound_to_its_call(governor: Governor, changes: dict[str, Any]) -> None:
    """Another subject, tool, argument or amount can't run under it."""
    asked = _asked(governor)
    governor.approvals.approve(asked.id, by="boss")
    other = governor.reserve(**{**ASK, **changes}, approval_id=asked.id)
    assert not other.allowed
    assert "another call" in other.message
    assert other.remaining is None
    assert governor.reserve(**ASK, approval_id=asked.id).allowed


def test_another_tenant_can_not_use_it(governor: Governor) -> None:
    """Approvals are the tenant's own."""
    asked = _asked(governor)
    governor.approvals.approve(asked.id, by="boss")
    with pytest.raises(fluxai.NotFound):
        governor.reserve(**{**ASK, "tenant": "globex"}, approval_id=asked.id)
    with pytest.raises(fluxai.NotFound):
        governor.approvals.get(asked.id, tenant="globex")


def test_a_rejected_call_does_not_run(governor: Governor) -> None:
    """The reason is kept, and the money is back."""
    asked = _asked(governor)
    rejected = governor.approvals.reject(asked.id, by="boss", reason="too dear")
    assert (rejected.state, rejected.by, rejected.reason) == ("rejected", "boss", "too dear")
    refused = governor.reserve(**ASK, approval_id=asked.id)
    assert not refused.allowed
    assert "rejected" in refused.message
    with pytest.raises(ApprovalConflict, match="rejected"):
        governor.approvals.approve(asked.id, by="boss")


def test_answers_may_be_repeated(governor: Governor) -> None:
    """Approving twice, or rejecting twice, is once."""
    yes, no = _asked(governor), _asked(governor)
    assert governor.approvals.approve(yes.id, by="boss") == (
        governor.approvals.approve(yes.id, by="other")
    )
    assert governor.approvals.reject(no.id, by="boss") == (
        governor.approvals.reject(no.id, by="other")
    )


def test_an_approval_may_be_taken_back_before_it_is_used(governor: Governor) -> None:
    """Until the call runs, a human may think better of it."""
    asked = _asked(governor)
    governor.approvals.approve(asked.id, by="boss")
    governor.approvals.reject(asked.id, by="boss")
    assert not governor.reserve(**ASK, approval_id=asked.id).allowed
    assert governor.reservations("reserved") == []


@pytest.mark.parametrize("answered", [False, True])
def test_after_a_day_it_expires(governor: Governor, *, answered: bool) -> None:
    """Neither an unanswered nor an unused approval lives for ever, and nothing stays held."""
    asked = _asked(governor)
    if answered:
        governor.approvals.approve(asked.id, by="boss")
    _clock(governor).advance("24h")
    if not answered:
        with pytest.raises(ApprovalConflict, match="expired"):
            governor.approvals.approve(asked.id, by="boss")
    late = governor.reserve(**ASK, approval_id=asked.id)
    assert not late.allowed
    assert "expired" in late.message
    assert governor.approvals.get(asked.id).state == "expired"
    assert governor.reservations("pending") == governor.reservations("reserved") == []


def test_approving_judges_the_deny_limits_again(governor: Governor) -> None:
    """No approval overrides a deny limit that has been reached meanwhile."""
    governor.policies.put(daily("1", id="hard", limit_type="monthly"))
    asked = _asked(governor)
    governor.record(tenant="acme", model="gpt-4o", cost="1", id="meanwhile")
    with pytest.raises(ApprovalConflict, match="hard"):
        governor.approvals.approve(asked.id, by="boss")
    assert governor.approvals.get(asked.id).state == "pending"
    governor.policies.put(daily("2", id="hard", limit_type="monthly"))
    governor.approvals.approve(asked.id, by="boss")
    assert governor.reserve(**ASK, approval_id=asked.id).allowed


def test_approving_moves_the_hold_to_the_day_of_the_answer(governor: Governor) -> None:
    """A call approved after midnight is held in, and charged to, the new day."""
    asked = _asked(governor)
    _clock(governor).advance("13h")
    governor.approvals.approve(asked.id, by="boss")
    (today,) = governor.budgets("acme")
    assert today.reserved == asked.estimate.highest
    run = governor.reserve(**ASK, approval_id=asked.id)
    settlement = governor.settle(run, cost="0.001")
    assert settlement.counted_at == _clock(governor).now


def test_a_deny_limit_is_never_asked_about(governor: Governor) -> None:
    """Where a deny limit is crossed as well, the call is refused at once."""
    governor.policies.put(daily("0", id="hard", limit_type="monthly"))
    assert governor.reserve(**ASK).decision == "denied"
    assert governor.approvals.list() == []


def test_a_hundred_may_wait(governor: Governor) -> None:
    """A flood of requests is refused with a message, rather than held for ever."""
    for _ in range(100):
        _asked(governor)
    refused = governor.reserve(**ASK)
    assert refused.decision == "denied"
    assert "100" in refused.message
    assert len(governor.approvals.list(state="pending")) == 100


def test_guards_and_functions_ask_and_then_run(governor: Governor) -> None:
    """`ApprovalRequired` carries the id with which the same call then runs once."""
    provider = Provider()
    with pytest.raises(ApprovalRequired) as asked, governor.guard(**ASK):
        pytest.fail("the body ran")
    governor.approvals.approve(asked.value.approval_id, by="boss")
    with governor.guard(**ASK, approval_id=asked.value.approval_id) as call:
        call.settle(provider.answer(model=call.model))
    with pytest.raises(fluxai.Refused, match="used"):  # noqa: SIM117
        with governor.guard(**ASK, approval_id=asked.value.approval_id):
            pytest.fail("the body ran twice")
    assert spent(governor) == provider.charged


def test_a_subject_block_carries_the_approval(governor: Governor) -> None:
    """A governed function, whose arguments say nothing of approvals, runs under the block's."""
    provider = Provider()

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str, max_tokens: int = 100) -> dict[str, Any]:
        return provider.answer(model="gpt-4o", prompt=prompt, max_tokens=max_tokens)

    with pytest.raises(ApprovalRequired) as asked:
        ask("hi")
    governor.approvals.approve(asked.value.approval_id, by="boss")
    with fluxai.subject(approval_id=asked.value.approval_id):
        ask("hi")
        with pytest.raises(ApprovalRequired):
            ask("something else")
    assert len(provider.calls) == 1


def test_a_call_inside_a_budget_block_can_be_approved(governor: Governor) -> None:
    """The block's own limit does not stand in the way of its approval."""
    with governor.budget("5", tenant="acme") as block:
        asked = _asked(governor)
        governor.approvals.approve(asked.id, by="boss")
        run = governor.reserve(**ASK, approval_id=asked.id)
        assert run.allowed
        governor.settle(run, cost="0.001")
        assert block.spent == Decimal("0.001")


def test_waiting_ends_with_the_answer(governor: Governor) -> None:
    """`wait` returns what was answered, also from another thread; and not before its time."""
    asked = _asked(governor)
    assert governor.approvals.wait(asked.id, timeout=0).state == "pending"
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(governor.approvals.wait(asked.id, timeout=60).state)
    )
    thread.start()
    governor.approvals.approve(asked.id, by="boss")
    thread.join(timeout=60)
    assert answers == ["approved"]
    expired = _asked(governor)
    _clock(governor).advance("25h")
    assert governor.approvals.wait(expired.id, timeout=60).id == expired.id


def test_what_is_returned_decides_nothing(governor: Governor) -> None:
    """Changing an approval that was read changes nothing in the ledger."""
    asked = _asked(governor)
    for seen in (governor.approvals.get(asked.id), governor.approvals.list()[0]):
        seen.state = "approved"
    assert governor.approvals.get(asked.id).state == "pending"
    assert governor.reserve(**ASK, approval_id=asked.id).decision == "pending_approval"


def test_pending_calls_do_not_count_as_concurrent(governor: Governor) -> None:
    """A call that waits for a human does not take the place of one that runs."""
    governor.policies.put(daily("1", id="one", limit_type="concurrent"))
    governor.tenants.put(Tenant(id="acme"))
    first, second = _asked(governor), _asked(governor)
    governor.approvals.approve(first.id, by="boss")
    with pytest.raises(ApprovalConflict, match="one"):
        governor.approvals.approve(second.id, by="boss")
    governor.release(governor.reserve(**ASK, approval_id=first.id))
    governor.approvals.approve(second.id, by="boss")
