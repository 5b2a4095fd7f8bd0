"""What a crossed limit does, and which one decides where several are crossed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fluxai.governor import Governor
from fluxai.testing.contract.case import (
    CHEAP_TOOL,
    DIME,
    LARGE,
    SMALL,
    TOOL,
    Case,
    acted,
    budgets,
    dimes,
    limit,
    sums,
    tokens,
)


class Decisions(Case):
    """`deny`, `downgrade`, `require_approval`, `allow`, shadow mode, and their order."""

    def test_deny_says_why_and_what_would_fit(self, governor: Governor) -> None:
        """A refusal carries the balances it was judged on, and a cap that would be granted."""
        limit(governor, "0.15", limit_type="daily")
        governor.settle(dimes(governor), cost="0.05")
        refused = tokens(governor, 200)
        (reason,) = refused.reasons
        assert (reason.policy_id, reason.limit) == ("limit", Decimal("0.15"))
        assert (reason.settled, reason.reserved) == (Decimal("0.05"), 0)
        assert reason.requested == Decimal("0.20")
        assert reason.resets_at is not None
        offer = refused.counter_offer
        assert offer is not None
        assert offer.max_output_tokens is None  # the input alone would cross it
        refused = tokens(governor, 120)
        assert refused.counter_offer is not None
        assert refused.counter_offer.max_output_tokens == 40
        assert tokens(governor, 120, max_output_tokens=40).allowed

    def test_allow_only_reports(self, governor: Governor) -> None:
        """A crossed `allow` limit lets the call run, counts it, and names itself as a reason."""
        limit(governor, "0.05", decision="allow")
        held = dimes(governor)
        assert held.decision == "allowed"
        assert [(one.policy_id, one.crossed, one.acted) for one in held.reasons] == [
            ("limit", True, False)
        ]
        assert sums(governor) == (0, DIME)

    @pytest.mark.parametrize("decision", ["deny", "require_approval", "downgrade"])
    def test_shadow_only_reports(self, governor: Governor, decision: str) -> None:
        """A limit in shadow mode counts and reports like the real one, and decides nothing."""
        limit(governor, "0.05", decision=decision, mode="shadow")
        held = dimes(governor)
        assert (held.decision, held.final_tool) == ("allowed", TOOL)
        assert [one.mode for one in held.reasons] == ["shadow"]
        assert sums(governor) == (0, DIME)

    def test_downgrade_runs_on_its_fallback(self, governor: Governor) -> None:
        """A crossed `downgrade` limit holds the fallback's price, and says what was asked for."""
        limit(governor, "0.05", decision="downgrade", fallback_tool_id=SMALL)
        held = tokens(governor)
        assert (held.decision, held.requested_tool, held.final_tool) == ("downgraded", LARGE, SMALL)
        assert held.allowed
        assert held.estimate.highest == Decimal("0.05")
        assert sums(governor) == (0, Decimal("0.05"))

    def test_a_fallback_that_would_fit_no_longer_is_refused(self, governor: Governor) -> None:
        """A downgrade moves once; a deny limit crossed by the fallback refuses it."""
        limit(
            governor,
            "0.01",
            id="move",
            decision="downgrade",
            fallback_tool_id=CHEAP_TOOL,
            priority=1,
            limit_type="daily",
        )
        limit(governor, "0.05", id="stop")
        assert dimes(governor).final_tool == CHEAP_TOOL
        refused = dimes(governor)
        assert refused.decision == "denied"
        # Each policy that acted, with the tool that it was judged on.
        assert {(one.policy_id, one.tool) for one in refused.reasons if one.acted} == {
            ("move", TOOL),
            ("stop", CHEAP_TOOL),
        }

    def test_a_downgrade_without_a_fallback_is_refused(self, governor: Governor) -> None:
        """Where nothing able can stand in, a crossed `downgrade` limit refuses."""
        limit(governor, "0.05", decision="downgrade")
        refused = dimes(governor)
        assert (refused.decision, acted(refused)) == ("denied", "limit")

    def test_a_caller_that_can_not_change_the_tool_is_refused(self, governor: Governor) -> None:
        """With `fixed_tool` there is no downgrade."""
        limit(governor, "0.05", decision="downgrade", fallback_tool_id=CHEAP_TOOL)
        assert dimes(governor, fixed_tool=True).decision == "denied"

    def test_a_fallback_called_by_name_is_under_its_limit_too(self, governor: Governor) -> None:
        """The fallback itself may exceed the limit that leads to it: it is its own way out."""
        limit(governor, "0.05", decision="downgrade", fallback_tool_id=CHEAP_TOOL)
        for _ in range(3):
            held = dimes(governor, tool=CHEAP_TOOL)
            assert held.allowed
        assert sums(governor) == (0, Decimal("0.15"))

    def test_require_approval_holds_the_money_and_waits(self, governor: Governor) -> None:
        """A crossed `require_approval` limit makes the call pending, with its money held."""
        limit(governor, "0.05", decision="require_approval")
        held = dimes(governor)
        assert (held.decision, held.allowed, held.state) == ("pending_approval", False, "pending")
        assert held.approval_id == held.id
        assert sums(governor) == (0, DIME)

    def test_no_policy_forgives_another_policys_deny(self, governor: Governor) -> None:
        """Where a deny limit is crossed as well, there is nothing to approve."""
        limit(governor, "0.05", id="ask", decision="require_approval", priority=10)
        limit(governor, "0.05", id="stop")
        refused = dimes(governor)
        assert refused.decision == "denied"
        assert {one.policy_id for one in refused.reasons} == {"ask", "stop"}
        assert sums(governor, "stop") == (0, 0)

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ({"priority": 1, "scope": "tenant"}, {"priority": 0, "scope": "tool"}),
            ({"scope": "tool"}, {"scope": "label"}),
            ({"scope": "label"}, {"scope": "user"}),
            ({"scope": "user"}, {"scope": "tenant"}),
            ({"decision": "deny"}, {"decision": "require_approval"}),
            ({"decision": "require_approval"}, {"decision": "downgrade"}),
            ({"id": "a"}, {"id": "b"}),
        ],
    )
    def test_the_order_in_which_crossed_limits_act(
        self, governor: Governor, first: dict[str, Any], second: dict[str, Any]
    ) -> None:
        """Priority, then tool, label, user, tenant, then deny, approval, downgrade, then the id."""
        for name, fields in (("zz", second), ("z", first)):
            limit(
                governor,
                "0.05",
                **{"id": name, "limit_type": "daily" if name == "z" else "total", **fields},
            )
        decided = dimes(governor, user="alice", labels={"team": "red"})
        assert acted(decided) == first.get("id", "z")

    def test_the_highest_priority_decides_first(self, governor: Governor) -> None:
        """A downgrade of higher priority moves the call before a deny would refuse it."""
        limit(governor, "0.07", id="stop")
        limit(
            governor,
            "0.05",
            id="move",
            decision="downgrade",
            fallback_tool_id=CHEAP_TOOL,
            priority=1,
            limit_type="daily",
        )
        held = dimes(governor)
        assert (held.decision, held.final_tool) == ("downgraded", CHEAP_TOOL)
        assert sums(governor, "stop") == (0, Decimal("0.05"))

    def test_check_looks_and_holds_nothing(self, governor: Governor) -> None:
        """`check` decides like `reserve`, and changes neither balances nor lists."""
        limit(governor, "0.15")
        assert governor.check(tenant="acme", tool=TOOL).decision == "allowed"
        dimes(governor)
        looked = governor.check(tenant="acme", tool=TOOL)
        assert (looked.decision, acted(looked)) == ("denied", "limit")
        assert sums(governor) == (0, DIME)
        assert len(governor.reservations()) == 1

    def test_remaining_is_what_the_tightest_budget_has_left(self, governor: Governor) -> None:
        """`remaining` counts this call, over the cost budgets that can refuse."""
        limit(governor, "5", id="wide")
        limit(governor, "1", id="tight", limit_type="daily")
        limit(governor, "3", id="tokens", measure="tokens")
        assert dimes(governor).remaining == Decimal("0.90")
        assert dimes(governor, tenant="globex").remaining is None
        assert [str(one.remaining) for one in budgets(governor, "tight")] == ["0.90"]

    def test_explain_shows_every_policy_that_was_looked_at(self, governor: Governor) -> None:
        """A stored decision names all limits with the numbers they were judged on, in order."""
        limit(governor, "1", id="user", scope="user")
        limit(governor, "2", id="tenant")
        held = dimes(governor, user="alice")
        shown = governor.explain(held.id)
        assert [(one.policy_id, one.limit, one.reserved) for one in shown.looked_at] == [
            ("user", 1, 0),
            ("tenant", 2, 0),
        ]
        assert shown.decision == "allowed"
