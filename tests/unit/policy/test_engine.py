"""`PolicyEngine`: the ledger's rule on balances that are handed in, without a store or a clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai import (
    Governor,
    Grant,
    InvalidRequest,
    NotFound,
    Policy,
    PolicyEngine,
    PolicyRequest,
    Tenant,
    Tool,
    UnknownModel,
    User,
)
from fluxai.models import ModelRegistry
from fluxai.testing import FakeClock

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
DIME = Tool(id="dime", cost_per_unit=Decimal("0.10"))
NICKEL = Tool(id="nickel", cost_per_unit=Decimal("0.05"))
#: Shared, so that the price table is read once.
REGISTRY = ModelRegistry()


def _policy(**fields: Any) -> Policy:
    return Policy.model_validate(
        {"id": "p", "tenant_id": "acme", "limit_type": "daily", "limit_value": "1", **fields}
    )


def _engine(*policies: Policy, **more: Any) -> PolicyEngine:
    return PolicyEngine(policies, tools=[DIME, NICKEL], registry=REGISTRY, **more)


def _ask(**fields: Any) -> dict[str, Any]:
    return {"tenant": "acme", "tool": "dime", **fields}


def test_a_request_within_its_limits_is_allowed() -> None:
    """The decision shows what a governor's would: estimate, remaining, tool, message."""
    decision = _engine(_policy()).evaluate(_ask(units=2), {"p": ("0.50", "0.25")}, at=NOON)
    assert (decision.decision, decision.allowed, decision.final_tool) == ("allowed", True, "dime")
    assert decision.estimate.highest == Decimal("0.20")
    assert decision.remaining == Decimal("0.05")
    assert decision.reasons == ()
    assert "dime" in decision.message


def test_the_limit_itself_may_be_reached() -> None:
    """Crossed means above: settled + reserved + requested > limit."""
    engine = _engine(_policy())
    assert engine.evaluate(_ask(), {"p": ("0.90", 0)}, at=NOON).allowed
    refused = engine.evaluate(_ask(), {"p": ("0.900000001", 0)}, at=NOON)
    assert refused.decision == "denied"
    (reason,) = refused.reasons
    assert (reason.policy_id, reason.settled, reason.acted) == ("p", Decimal("0.900000001"), True)
    assert reason.resets_at == datetime(2026, 1, 16, tzinfo=UTC)


def test_it_is_pure() -> None:
    """The same question has the same answer, and asking changes no argument."""
    engine, balances = _engine(_policy()), {"p": ("0.95", "0")}
    request = _ask(labels={"run": "1"})
    first = engine.evaluate(request, balances, at=NOON).to_dict()
    assert engine.evaluate(request, balances, at=NOON).to_dict() == first
    assert (request, balances) == (_ask(labels={"run": "1"}), {"p": ("0.95", "0")})
    assert first["id"] == "00000000-0000-0000-0000-000000000000"


def test_a_request_is_a_value_or_a_mapping() -> None:
    """Both say the same; the value is frozen."""
    request = PolicyRequest(tenant="acme", tool="dime", units=3)
    engine = _engine(_policy())
    assert (
        engine.evaluate(request, at=NOON).to_dict()
        == engine.evaluate(_ask(units=3), at=NOON).to_dict()
    )
    with pytest.raises(FrozenInstanceError):
        request.tenant = "globex"  # type: ignore[misc]


def test_models_are_priced_by_the_token() -> None:
    """Input and output tokens at the model's prices, by any spelling; without a cap a fair one."""
    engine = _engine(_policy(limit_value="0.01256"))
    ask = {"tenant": "acme", "model": "openai/gpt-4o"}
    capped = engine.evaluate({**ask, "input_tokens": 1000, "max_output_tokens": 100}, at=NOON)
    assert capped.estimate.highest == Decimal("0.0035")
    assert capped.estimate.method == "exact"
    assert engine.evaluate(ask, at=NOON).max_output_tokens == 256 + 1000 // 4
    refused = engine.evaluate({**ask, "max_output_tokens": 10_000}, at=NOON)
    assert refused.counter_offer is not None
    assert refused.counter_offer.max_output_tokens == 1256
    assert refused.counter_offer.models


@pytest.mark.parametrize(
    ("fields", "decision", "tool"),
    [
        ({"decision": "deny"}, "denied", "dime"),
        ({"decision": "require_approval"}, "pending_approval", "dime"),
        ({"decision": "allow"}, "allowed", "dime"),
        ({"decision": "deny", "mode": "shadow"}, "allowed", "dime"),
        ({"decision": "downgrade", "fallback_tool_id": "nickel"}, "downgraded", "nickel"),
        ({"decision": "downgrade"}, "denied", "dime"),
    ],
    ids=["deny", "ask", "warn", "shadow", "downgrade", "downgrade to nothing"],
)
def test_what_a_crossed_limit_does(fields: dict[str, Any], decision: str, tool: str) -> None:
    """Each decision of a policy, crossed, has its effect; what only reports is reported."""
    rule = _policy(scope="tool", scope_id="dime", **fields)
    found = _engine(rule).evaluate(_ask(), {"p": (1, 0)}, at=NOON)
    assert (found.decision, found.final_tool) == (decision, tool)
    assert [reason.policy_id for reason in found.reasons] == ["p"]
    assert found.approval_id is None


def test_no_policy_forgives_another_s_deny() -> None:
    """Of what is crossed, priority and scope decide who acts; but a deny always denies."""
    ask = _policy(id="ask", decision="require_approval", priority=9)
    deny = _policy(id="deny", limit_type="monthly")
    found = _engine(ask, deny).evaluate(_ask(), {"ask": (1, 0), "deny": (1, 0)}, at=NOON)
    assert found.decision == "denied"
    assert _engine(ask, deny).evaluate(_ask(), {"ask": (1, 0)}, at=NOON).decision == (
        "pending_approval"
    )


def test_priority_then_scope_then_decision() -> None:
    """Tool > label > user > tenant; deny > require_approval > downgrade; then by id."""
    rules = [
        _policy(id="tenant", limit_value=0),
        _policy(id="user", scope="user", limit_value=0),
        _policy(id="label", scope="label", scope_id="run", limit_value=0),
        _policy(id="tool-z", scope="tool", limit_value=0),
        _policy(id="tool-a", scope="tool", limit_value=0),
        _policy(id="tool-asks", scope="tool", limit_value=0, decision="require_approval"),
        _policy(id="first", limit_value=0, priority=1),
    ]
    found = _engine(*rules).evaluate(_ask(user="alice", labels={"run": "1"}), at=NOON)
    assert [reason.policy_id for reason in found.looked_at] == [
        "first",
        "tool-a",
        "tool-z",
        "tool-asks",
        "label",
        "user",
        "tenant",
    ]


def test_balances_may_be_given_per_account() -> None:
    """A limit for each user or label has an account per value; one figure may serve for all."""
    each = _policy(id="each", scope="user")
    run = _policy(id="run", scope="label", scope_id="run")
    engine = _engine(each, run)
    ask = _ask(user="alice", labels={"run": "1"})
    for balances, allowed in (
        ({("each", "alice"): (1, 0)}, False),
        ({("each", "bob"): (1, 0)}, True),
        ({("run", "run=1"): (1, 0)}, False),
        ({("run", "run=2"): (1, 0)}, True),
        ({"each": (1, 0)}, False),
        ({}, True),
    ):
        assert engine.evaluate(ask, balances, at=NOON).allowed is allowed, balances


def test_policies_of_one_account_share_its_balance() -> None:
    """Two limits on one account see the same figures, and contradicting ones are an error."""
    warn = _policy(id="warn", decision="allow", limit_value="0.5")
    engine = _engine(_policy(), warn)
    found = engine.evaluate(_ask(), {"p": ("0.45", 0)}, at=NOON)
    assert [reason.policy_id for reason in found.reasons] == ["warn"]
    engine.evaluate(_ask(), {"p": ("0.45", 0), "warn": ("0.45", 0)}, at=NOON)
    with pytest.raises(InvalidRequest, match="same account"):
        engine.evaluate(_ask(), {"p": ("0.45", 0), "warn": ("0.46", 0)}, at=NOON)


def test_measures_are_counted_in_their_units() -> None:
    """USD for cost, whole numbers for tokens, requests and what runs at once."""
    tokens = _policy(id="tokens", measure="tokens", limit_value=1000)
    requests = _policy(id="requests", measure="requests", limit_value=10)
    running = _policy(id="running", limit_type="concurrent", limit_value=2)
    engine = _engine(tokens, requests, running)
    ask = {"tenant": "acme", "model": "gpt-4o", "input_tokens": 10, "max_output_tokens": 10}
    assert engine.evaluate(ask, {"tokens": (980, 0)}, at=NOON).allowed
    assert not engine.evaluate(ask, {"tokens": (980, 1)}, at=NOON).allowed
    assert not engine.evaluate(ask, {"requests": (10, 0)}, at=NOON).allowed
    assert engine.evaluate(ask, {"running": (99, 1)}, at=NOON).allowed
    assert not engine.evaluate(ask, {"running": (0, 2)}, at=NOON).allowed
    units = engine.evaluate(_ask(units=11), at=NOON)
    assert [reason.policy_id for reason in units.reasons] == ["requests"]


def test_records_bring_their_limits() -> None:
    """Hard and soft limits, personal caps, plans and calendars count as in a governor."""
    tenant = Tenant(
        id="acme",
        plan="free",
        soft_limit=Decimal("0.5"),
        hard_limit=Decimal(1),
        limit_period="daily",
        timezone="Asia/Tokyo",
    )
    user = User(id="alice", tenant_id="acme", personal_cap=Decimal("0.2"))
    premium = Tool(id="gold", cost_per_unit=Decimal(9), tier="premium", category="llm")
    cheap = Tool(id="tin", cost_per_unit=Decimal("0.01"), tier="cheap", category="llm")
    engine = PolicyEngine(
        tenants=[tenant], users=[user], tools=[premium, cheap, DIME], registry=REGISTRY
    )
    refused = engine.evaluate(_ask(), {"hard_limit:acme": ("0.95", 0)}, at=NOON)
    assert not refused.allowed
    assert refused.reasons[0].resets_at == datetime(2026, 1, 15, 15, tzinfo=UTC)
    warned = engine.evaluate(_ask(), {"soft_limit:acme": ("0.45", 0)}, at=NOON)
    assert (warned.decision, warned.reasons[0].policy_id) == ("allowed", "soft_limit:acme")
    capped = engine.evaluate(_ask(user="alice"), {"personal_cap:alice": ("0.15", 0)}, at=NOON)
    assert capped.reasons[0].policy_id == "personal_cap:alice"
    downgraded = engine.evaluate(_ask(tool="gold"), at=NOON)
    assert (downgraded.decision, downgraded.final_tool) == ("downgraded", "tin")


def test_grants_raise_until_their_end() -> None:
    """A grant counts at an instant before its end, and not at it."""
    grant = Grant(
        id="g",
        policy_id="p",
        tenant_id="acme",
        amount=Decimal(1),
        until=datetime(2026, 1, 15, 18, tzinfo=UTC),
        by="boss",
    )
    engine = _engine(_policy(), grants=[grant])
    assert engine.evaluate(_ask(), {"p": (1, 0)}, at=NOON).allowed
    assert not engine.evaluate(_ask(), {"p": (1, 0)}, at=grant.until).allowed


def test_policies_without_ids_get_some() -> None:
    """Policies that were never stored can be judged; they are numbered as given."""
    policies = [_policy(id=None), _policy(id=None, limit_type="monthly", limit_value=0)]
    found = _engine(*policies).evaluate(_ask(), {"policy_1": (0, 0)}, at=NOON)
    assert [reason.policy_id for reason in found.reasons] == ["policy_2"]
    with pytest.raises(InvalidRequest, match="two policies"):
        _engine(_policy(), _policy())


def test_every_tenant_s_policies_count_too() -> None:
    """`"*"` concerns whoever asks; another tenant's policies do not."""
    engine = _engine(_policy(id="all", tenant_id="*"), _policy(id="other", tenant_id="globex"))
    assert not engine.evaluate(_ask(), {"all": (1, 0), "other": (0, 0)}, at=NOON).allowed
    assert engine.evaluate(_ask(), {"other": (1, 0)}, at=NOON).allowed


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"tenant": "acme"}, "model"),
        ({"tool": "dime", "model": "gpt-4o"}, "model"),
        ({"tool": "dime", "colour": "red"}, "colour"),
        ({"tool": ""}, "tool"),
        ({"tool": 5}, "tool"),
        ({"tool": "dime", "tenant": None}, "tenant"),
        ({"tool": "dime", "units": 0}, "units"),
        ({"tool": "dime", "units": 1.5}, "units"),
        ({"model": "gpt-4o", "input_tokens": -1}, "input_tokens"),
        ({"model": "gpt-4o", "max_output_tokens": True}, "max_output_tokens"),
        ({"tool": "dime", "labels": {"run": 1}}, "labels"),
        ({"tool": "dime", "labels": ["run"]}, "labels"),
        ("dime", "request"),
    ],
    ids=str,
)
def test_wrong_requests_are_named(request_: Any, field: str) -> None:
    """The error says which field, and what would be right."""
    with pytest.raises(InvalidRequest) as caught:
        _engine(_policy()).evaluate(request_, at=NOON)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "balance",
    [("0.5",), 5, (0.5, 0), ("NaN", 0), ("1", "-1"), (1, 2, 3), None, ("x", "y")],
    ids=repr,
)
def test_wrong_balances_are_named(balance: Any) -> None:
    """Balances are two exact amounts."""
    with pytest.raises(InvalidRequest, match="balances"):
        _engine(_policy()).evaluate(_ask(), {"p": balance}, at=NOON)
    counting = _policy(measure="requests", limit_value=5)
    with pytest.raises(InvalidRequest, match="balances"):
        _engine(counting).evaluate(_ask(), {"p": ("1", 0)}, at=NOON)


def test_unknown_prices_and_naive_times_are_refused() -> None:
    """Nothing is priced at zero, and no time without a zone is taken for one."""
    with pytest.raises(UnknownModel):
        _engine().evaluate({"model": "no-such-model-xyz"}, at=NOON)
    with pytest.raises(NotFound):
        _engine().evaluate({"tool": "no-such-tool"}, at=NOON)
    with pytest.raises(InvalidRequest, match="time zone"):
        _engine().evaluate(_ask(), at=datetime(2026, 1, 15))  # noqa: DTZ001 -- the point


dollars = st.decimals(0, 3, places=2)


@given(
    limits=st.lists(
        st.tuples(
            st.sampled_from(["daily", "monthly", "total", "per_request"]),
            dollars,
            st.sampled_from(["deny", "require_approval", "allow", "downgrade"]),
            st.sampled_from(["tenant", "user", "tool"]),
            st.integers(0, 1),
        ),
        max_size=5,
    ),
    spent=dollars,
    units=st.integers(1, 20),
)
def test_engine_and_governor_agree(
    limits: list[tuple[str, Decimal, str, str, int]], spent: Decimal, units: int
) -> None:
    """On the same rules and balances, `evaluate`, `check` and `reserve` decide alike."""
    policies = [
        _policy(
            id=f"p{n}",
            limit_type=kind,
            limit_value=value,
            decision=decision,
            scope=scope,
            priority=priority,
            fallback_tool_id="nickel" if decision == "downgrade" else None,
        )
        for n, (kind, value, decision, scope, priority) in enumerate(limits)
    ]
    governor = Governor(registry=REGISTRY, clock=FakeClock(NOON))
    governor.tools.put(DIME)
    governor.tools.put(NICKEL)
    for policy in policies:
        governor.policies.put(policy)
    if spent:
        governor.record(tenant="acme", user="alice", tool="dime", cost=spent, id="before")
    ask = {"tenant": "acme", "user": "alice", "tool": "dime", "units": units}
    look = governor.check(**ask)
    balances: Mapping[str | tuple[str, str], tuple[Any, Any]] = {
        (budget.policy_id, budget.scope_id or ""): (budget.settled, budget.reserved)
        for budget in governor.budgets("acme", "alice")
    }
    found = _engine(*policies).evaluate(ask, balances, at=NOON)
    held = governor.reserve(**ask)
    for decision in (look, held):
        assert decision.decision == found.decision
        assert decision.final_tool == found.final_tool
        assert decision.remaining == found.remaining
        assert decision.looked_at == found.looked_at
    assert governor.verify().ok
