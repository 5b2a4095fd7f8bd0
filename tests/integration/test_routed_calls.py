"""Where a certified downgrade meets what else decides about a call: nothing is lost between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluxai import Governor, Policy, StorageError, Usage
from fluxai.policy.promises import certificate_id
from fluxai.storage.base import Change
from fluxai.storage.memory import MemoryStorage
from fluxai.testing import FakeClock
from tests.integration.test_learning_outcomes import NONE_OF_IT, certified

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
    assert pending.approval_id is not None
    governor.approvals.approve(pending.approval_id, by="ann")
    assert not governor.reserve(**{**call, "prompt": "x"}, approval_id=pending.approval_id).allowed
    assert governor.reserve(**call, approval_id=pending.approval_id).id == pending.id


def test_check_says_what_reserve_does_where_the_cheaper_model_has_no_room(
    governor: Governor,
) -> None:
    """Both fall back to the model that was asked for."""
    governor.policies.put(NONE_OF_IT)
    decision, reservation = governor.check(**_CALL), governor.reserve(**_CALL)
    assert (decision.decision, decision.model) == ("allowed", "gpt-4o")
    assert (reservation.decision, reservation.model) == ("allowed", "gpt-4o")
    assert decision.estimate == reservation.estimate


@pytest.mark.parametrize("named", [False, True])
def test_a_call_is_compared_however_it_names_its_model(governor: Governor, *, named: bool) -> None:
    """By position or by name; a call that is drawn takes the arguments that it takes undrawn."""
    ran: list[tuple[str, str]] = []

    @governor.compare(cheap="gpt-4o-mini", judge=lambda *_: (1, 1), share=1.0, tenant="acme")
    def answer(prompt: str, model: str = "gpt-4o", /, style: str = "plain") -> str:
        ran.append((model, style))
        return model

    said = answer(_CALL["prompt"], "gpt-4o", "short") if named else answer(_CALL["prompt"])
    assert said == "gpt-4o"
    assert ran == [(model, "short" if named else "plain") for model in ("gpt-4o", "gpt-4o-mini")]
    assert governor.failed_comparisons == 0


def test_a_prompt_that_can_t_be_judged_is_answered_and_not_compared(governor: Governor) -> None:
    """The analyzer's failure is counted; the caller never meets it."""

    class Broken:
        def analyze(self, prompt: object) -> Any:
            raise RuntimeError("no idea")

    governor.analyzer = Broken()

    @governor.compare(cheap="gpt-4o-mini", judge=lambda *_: (1, 1), share=1.0, tenant="acme")
    def answer(prompt: str, model: str = "gpt-4o") -> str:
        return model

    assert answer("hello") == "gpt-4o"
    assert governor.failed_comparisons == 1


@pytest.mark.parametrize("full", ["gpt-4o", "gpt-4o-mini"])
@pytest.mark.parametrize("live", [False, True])
def test_a_call_that_ran_on_another_model_is_no_outcome(
    governor: Governor, full: str, *, live: bool
) -> None:
    """Where a budget led away from a model, its answer says nothing of that model."""
    cheaper = {"gpt-4o": "gpt-4o-mini", "gpt-4o-mini": "gpt-4.1-nano"}[full]
    governor.policies.put(
        Policy(
            tenant_id="acme",
            scope="tool",
            scope_id=full,
            limit_type="daily",
            limit_value=0,
            decision="downgrade",
            fallback_tool_id=cheaper,
            id="used-up",
        )
    )
    compared = governor.compare(
        cheap="gpt-4o-mini", judge=lambda *_: (1, 1), share=1.0, tenant="acme"
    )
    before = governor.routing.outcomes("acme")

    def answered(model: str) -> Any:
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        return {"object": "chat.completion", "model": model, "choices": [], "usage": usage}

    if live:

        @compared
        @governor.govern(tenant="acme")
        async def answer_later(prompt: str, model: str = "gpt-4o", max_tokens: int = 20) -> Any:
            return answered(model)

        said = asyncio.run(answer_later(_CALL["prompt"]))
    else:

        @compared
        @governor.govern(tenant="acme")
        def answer(prompt: str, model: str = "gpt-4o", max_tokens: int = 20) -> Any:
            return answered(model)

        said = answer(_CALL["prompt"])
    assert said["model"] == ("gpt-4o-mini" if full == "gpt-4o" else "gpt-4o")
    assert governor.routing.outcomes("acme") == before
    assert governor.failed_comparisons == 0
    assert governor.verify().ok


@pytest.mark.parametrize("kind", [{"limit_value": 0}, {"repeat_limit": 1}])
def test_nobody_is_asked_for_the_sake_of_saving(governor: Governor, kind: dict[str, Any]) -> None:
    """Where the cheaper model needs an approval, the call runs on the one that it asks for."""
    governor.policies.put(
        Policy(
            tenant_id="acme",
            scope="tool",
            scope_id="gpt-4o-mini",
            limit_type="daily",
            decision="require_approval",
            id="ask",
            **kind,
        )
    )
    for _ in range(3):
        call = governor.reserve(**_CALL)
        assert call.decision != "pending_approval"
        assert governor.check(**_CALL).decision != "pending_approval"
    assert (call.decision, call.model) == ("allowed", "gpt-4o")
    asked = governor.reserve(**{**_CALL, "model": "gpt-4o-mini"})
    assert (asked.decision == "pending_approval") == ("limit_value" in kind)


def test_an_approval_that_both_models_need_is_asked_for(governor: Governor) -> None:
    """Of the cheaper one, which is what will run."""
    governor.policies.put(
        Policy(
            tenant_id="acme",
            limit_type="daily",
            limit_value=0,
            decision="require_approval",
            id="ask",
        )
    )
    pending = governor.reserve(**_CALL)
    assert (pending.decision, pending.model) == ("pending_approval", "gpt-4o-mini")
    assert pending.approval_id is not None
    governor.approvals.approve(pending.approval_id, by="ann")
    governor.routing.reset("acme")
    assert governor.reserve(**_CALL, approval_id=pending.approval_id).id == pending.id


def test_a_certificate_that_shrinks_meanwhile_covers_no_more_than_it_says(
    governor: Governor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread replaces it between the look at the prompt and the plan for it."""
    governor.reserve(tenant="acme", model="gpt-4o", input_tokens=5, max_output_tokens=20)
    (found,) = governor.routing.certificates("acme")
    assert found.certified is not None
    smaller = replace(found, certified=found.certified._replace(threshold=-99.0))
    look = governor.planner.for_prompt

    def interrupted(*said: Any) -> Any:
        monkeypatch.setattr(governor.planner, "for_prompt", look)
        change = Change(kind="certificate", scope="acme", id=found.id, body=smaller.to_dict())
        governor.storage.apply([change])
        governor.planner.forget("acme")
        return look(*said)

    monkeypatch.setattr(governor.planner, "for_prompt", interrupted)
    reservation = governor.reserve(**_CALL)
    assert (reservation.decision, reservation.model) == ("allowed", "gpt-4o")
    assert reservation.routing is not None
    assert "does not cover" in reservation.routing.reason


def test_every_pair_and_promise_has_a_certificate_of_its_own() -> None:
    """Whatever the tools are called, and however little the promises differ."""
    names = {
        certificate_id("a to b", "c", 0.05, 0.9),
        certificate_id("a", "b to c", 0.05, 0.9),
        certificate_id("a", "b", 0.05, 0.9999996),
        certificate_id("a", "b", 0.05, 0.9999999),
        certificate_id("a", "b", 0.05, 0.9),
    }
    assert len(names) == 5


def test_a_call_of_unknown_cost_keeps_how_hard_its_prompt_was(tmp_path: Path) -> None:
    """Its event tells another process, which has feedback on it."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Governor(url) as governor, Governor(url) as later:
        certified(governor)
        settled = governor.settle_expected(governor.reserve(**_CALL))
        assert {"estimated", "asked=gpt-4o"} <= set(settled.flags)
        assert settled.reservation_id is not None
        score = governor.routing.score(_CALL["prompt"])
        assert later.feedback(settled.reservation_id, ok=True).score == score


class Restless(MemoryStorage):
    """A store whose rules change each time that somebody is about to have a call decided."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.changes = 0
        self._clock = clock

    def reserve_one(self, ask: Any) -> Any:
        """Change the rules, as long as there are changes left."""
        if self.changes:
            self.changes -= 1
            policy = Policy(
                tenant_id="acme", limit_type="daily", limit_value=100 + self.changes, id="day"
            )
            Governor(self, clock=self._clock).policies.put(policy)
        return super().reserve_one(ask)


@pytest.mark.parametrize("changes", range(7))
def test_rules_that_do_not_rest(changes: int) -> None:
    """However often they changed, a saving refuses nothing; too often is an error that says so."""
    clock = FakeClock()
    storage = Restless(clock)
    with Governor(storage, clock=clock) as governor:
        certified(governor)
        governor.policies.put(NONE_OF_IT)
        storage.changes = changes
        if changes <= 5:
            assert governor.reserve(**_CALL).model == "gpt-4o"
        else:
            with pytest.raises(StorageError, match="changed 5 times"):
                governor.reserve(**_CALL)
            assert governor.reservations(tenant="acme") == []
        assert governor.verify().ok
