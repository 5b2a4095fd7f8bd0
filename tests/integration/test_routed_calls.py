"""Where a certified downgrade meets what else decides about a call: nothing is lost between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fluxai import Governor, Policy, Usage
from fluxai.testing import FakeClock
from tests.integration.test_learning_outcomes import certified

_CALL: dict[str, Any] = {
    "tenant": "acme",
    "model": "gpt-4o",
    "prompt": "Name a river in France.",
    "max_output_tokens": 20,
}


@pytest.fixture
def governor() -> Iterator[Governor]:
    """A governor in memory on which the cheaper model is certified."""
    with Governor(clock=FakeClock()) as governor:
        certified(governor)
        yield governor


def behind(governor: Governor, policy: Policy) -> None:
    """Have another governor of the same store change the rules, so that this one's are old."""
    Governor(governor.storage, clock=governor.clock).policies.put(policy)


@pytest.mark.parametrize("more", [{}, {"idempotency_key": "once"}])
def test_what_is_used_besides_tokens_is_held_when_rules_change(
    governor: Governor, more: dict[str, Any]
) -> None:
    """A call whose prompt is looked at again is held at the same cost as before."""
    call = {**_CALL, "beside": Usage(requests={"web_search": 2})}
    before = governor.reserve(**call)
    behind(governor, Policy(tenant_id="acme", limit_type="daily", limit_value=100, id="day"))
    after = governor.reserve(**call, **more)
    assert before.model == after.model == "gpt-4o-mini"
    assert after.estimate.highest == before.estimate.highest > 0


def test_a_repeat_is_counted_when_rules_change_meanwhile(governor: Governor) -> None:
    """What the call uses besides its tokens names it under the new rules as under the old."""
    call = {**_CALL, "beside": Usage(requests={"web_search": 2})}
    governor.reserve(**call)
    behind(governor, Policy(tenant_id="acme", limit_type="hourly", repeat_limit=1, id="loop"))
    assert governor.reserve(**call).allowed
    assert not governor.reserve(**call).allowed


def test_an_approval_that_only_new_rules_ask_for_can_be_used(governor: Governor) -> None:
    """The call is bound to its arguments, though it needed no approval when it was made."""
    call = {**_CALL, "tenant": "bolt"}
    governor.release(governor.reserve(**call))
    behind(
        governor,
        Policy(
            tenant_id="bolt",
            limit_type="daily",
            limit_value=0,
            decision="require_approval",
            id="ask",
        ),
    )
    pending = governor.reserve(**call)
    assert pending.decision == "pending_approval"
    governor.approvals.approve(pending.approval_id, by="ann")
    assert not governor.reserve(**{**call, "prompt": "x"}, approval_id=pending.approval_id).allowed
    assert governor.reserve(**call, approval_id=pending.approval_id).id == pending.id


def test_check_says_what_reserve_does_where_the_cheaper_model_has_no_room(
    governor: Governor,
) -> None:
    """Both fall back to the model that was asked for."""
    governor.policies.put(
        Policy(
            tenant_id="acme",
            scope="tool",
            scope_id="gpt-4o-mini",
            limit_type="daily",
            limit_value=0,
            id="none-of-it",
        )
    )
    decision, reservation = governor.check(**_CALL), governor.reserve(**_CALL)
    assert (decision.decision, decision.model) == ("allowed", "gpt-4o")
    assert (reservation.decision, reservation.model) == ("allowed", "gpt-4o")
    assert decision.estimate == reservation.estimate
