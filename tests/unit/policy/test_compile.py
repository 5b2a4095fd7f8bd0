"""From policies to a plan: which checks apply, in which order, on which counters, until when."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from fluxai import Grant, Policy, Tenant, Tool
from fluxai.core.ledger import CounterKey, Plan, Subject
from fluxai.core.windows import DAY_US, HOUR_US, MAX_US, MIN_US, MINUTE_US, to_us
from fluxai.models import ModelRegistry
from fluxai.policy.catalog import ToolCatalog
from fluxai.policy.compile import (
    Extra,
    RuleIndex,
    RuleSet,
    alerts_of,
    compile_plan,
    fed_by,
    find_cycle,
)

REGISTRY = ModelRegistry()
NOON_US = to_us(datetime(2026, 1, 15, 12, tzinfo=UTC))
MIDNIGHT_US = NOON_US - 12 * HOUR_US


def _policy(**fields: Any) -> Policy:
    return Policy.model_validate(
        {"id": "p", "tenant_id": "acme", "limit_type": "daily", "limit_value": "1", **fields}
    )


def _plan(
    *policies: Policy,
    subject: Subject | None = None,
    tool: str = "dime",
    tenant: Tenant | None = None,
    grants: tuple[Grant, ...] = (),
    at_us: int = NOON_US,
    **options: Any,
) -> Plan:
    tools = {
        "dime": Tool(id="dime", cost_per_unit=Decimal("0.10")),
        "nickel": Tool(id="nickel", cost_per_unit=Decimal("0.05")),
    }
    catalog = ToolCatalog(REGISTRY, tools)
    nothing = RuleIndex((), (), catalog.canonical)
    rules = RuleSet(
        tenant_id="acme",
        tenant=tenant,
        version=(1, 2),
        every=nothing,
        own=RuleIndex(policies, grants, catalog.canonical),
    )
    return compile_plan(
        rules,
        subject or Subject("acme", "alice", (("run", "1"),)),
        catalog.any(tool, at_us),
        catalog,
        at_us=at_us,
        **options,
    )


def _checks(plan: Plan) -> list[str]:
    return [check.policy_id for check in plan.candidates[0].checks]


def test_a_plan_names_its_counters() -> None:
    """One counter per account, window and measure, however many policies point at it."""
    plan = _plan(
        _policy(id="deny"),
        _policy(id="warn", decision="allow", limit_value="0.5"),
        _policy(id="tokens", measure="tokens", limit_value=5),
        _policy(id="user", scope="user"),
        _policy(id="rolling", limit_type="rolling", window="24h"),
        _policy(id="call", limit_type="per_request"),
    )
    keys = dict(plan.candidates[0].keys)
    tomorrow = MIDNIGHT_US + DAY_US
    assert keys == {
        CounterKey("acme", "tenant", "acme", "cost", "daily", MIDNIGHT_US): tomorrow,
        CounterKey("acme", "tenant", "acme", "tokens", "daily", MIDNIGHT_US): tomorrow,
        CounterKey("acme", "user", "alice", "cost", "daily", MIDNIGHT_US): tomorrow,
        CounterKey("acme", "tenant", "acme", "cost", f"rolling:{DAY_US}", MIN_US): MAX_US,
    }
    slots = {check.policy_id: check.slot for check in plan.candidates[0].checks}
    assert slots["deny"] == slots["warn"] >= 0
    assert slots["call"] == -1
    assert plan.version == (1, 2)


@pytest.mark.parametrize(
    ("kind", "start_us", "end_us"),
    [
        ("per_minute", NOON_US, NOON_US + MINUTE_US),
        ("hourly", NOON_US, NOON_US + HOUR_US),
        ("daily", MIDNIGHT_US, MIDNIGHT_US + DAY_US),
        ("monthly", MIDNIGHT_US, MIDNIGHT_US + DAY_US),
        ("total", MIDNIGHT_US, MIDNIGHT_US + DAY_US),
    ],
)
def test_a_plan_holds_while_its_windows_do(kind: str, start_us: int, end_us: int) -> None:
    """It ends with its first window, and at the latest with the UTC day, by which sums are kept."""
    plan = _plan(_policy(limit_type=kind))
    assert (plan.start_us, plan.end_us) == (start_us, end_us)


def test_a_plan_ends_with_a_grant() -> None:
    """The moment a grant ends the plan is compiled again, without it."""
    until = datetime(2026, 1, 15, 15, tzinfo=UTC)
    grant = Grant(
        id="g", policy_id="p", tenant_id="acme", amount=Decimal(2), until=until, by="boss"
    )
    plan = _plan(_policy(), grants=(grant,))
    assert plan.candidates[0].checks[0].limit == 3_000_000_000
    assert plan.end_us == to_us(until)
    later = _plan(_policy(), grants=(grant,), at_us=plan.end_us)
    assert later.candidates[0].checks[0].limit == 1_000_000_000


def test_who_is_concerned() -> None:
    """A policy applies to whom and what it names, and to nobody else."""
    policies = (
        _policy(id="tenant"),
        _policy(id="each user", scope="user"),
        _policy(id="alice", scope="user", scope_id="alice"),
        _policy(id="bob", scope="user", scope_id="bob"),
        _policy(id="each tool", scope="tool"),
        _policy(id="dime", scope="tool", scope_id="dime"),
        _policy(id="nickel", scope="tool", scope_id="nickel"),
        _policy(id="run", scope="label", scope_id="run"),
        _policy(id="run=1", scope="label", scope_id="run=1"),
        _policy(id="run=2", scope="label", scope_id="run=2"),
        _policy(id="each label", scope="label"),
    )
    assert set(_checks(_plan(*policies))) == {
        "tenant",
        "each user",
        "alice",
        "each tool",
        "dime",
        "run",
        "run=1",
        "each label",
    }
    assert set(_checks(_plan(*policies, subject=Subject("acme")))) == {
        "tenant",
        "each tool",
        "dime",
    }


def test_a_block_s_limit_is_one_more_check() -> None:
    """It denies, on an account of its own, which limits for each label do not count."""
    label = ("budget.1", "x")
    plan = _plan(
        _policy(id="each label", scope="label"),
        subject=Subject("acme", None, (label,)),
        extras=(Extra("budget.1=x", 7),),
    )
    (check,) = plan.candidates[0].checks
    assert (check.policy_id, check.limit, check.decision) == ("budget:x", 7, "deny")
    assert plan.candidates[0].keys[check.slot][0].value == "budget.1=x"


def test_fallbacks_are_candidates() -> None:
    """A downgrade leads to its fallback, once each; a fixed tool has none."""
    down = {"scope": "tool", "scope_id": "dime", "decision": "downgrade"}
    policies = (
        _policy(id="a", **down, fallback_tool_id="nickel"),
        _policy(id="b", limit_type="monthly", **down, fallback_tool_id="nickel"),
    )
    plan = _plan(*policies)
    assert [found.tool for found in plan.candidates] == ["dime", "nickel"]
    assert [check.fallback for check in plan.candidates[0].checks] == [1, 1]
    fixed = _plan(*policies, fixed_tool=True)
    assert [found.tool for found in fixed.candidates] == ["dime"]
    assert [check.fallback for check in fixed.candidates[0].checks] == [-1, -1]


def test_a_downgrade_s_own_fallback_is_not_judged_by_it() -> None:
    """A limit of the tenant that downgrades does not refuse the tool that it leads to."""
    plan = _plan(_policy(decision="downgrade", fallback_tool_id="nickel"))
    first, second = (found.checks[0] for found in plan.candidates)
    assert (first.acts, second.acts) == (True, False)
    own = _plan(_policy(decision="downgrade", fallback_tool_id="nickel"), tool="nickel")
    assert [check.acts for check in own.candidates[0].checks] == [False]


def test_windows_follow_the_tenant() -> None:
    """The tenant's record decides where its days begin."""
    plan = _plan(_policy(), tenant=Tenant(id="acme", timezone="Asia/Tokyo"))
    key, end_us = plan.candidates[0].keys[0]
    assert (key.start_us, end_us) == (MIDNIGHT_US - 9 * HOUR_US, MIDNIGHT_US + 15 * HOUR_US)


def test_shares_are_rounded_up() -> None:
    """An alert is never raised before its share is reached."""
    assert alerts_of(_policy(alert_at=("0.333",)), 10) == ((4, "0.333"),)
    assert alerts_of(_policy(), 0) == ((0, "0.8"), (0, "1.0"))


@pytest.mark.parametrize(
    ("fields", "fed"),
    [
        ({}, True),
        ({"tenant_id": "*"}, True),
        ({"tenant_id": "globex"}, False),
        ({"measure": "tokens"}, False),
        ({"limit_type": "monthly"}, False),
        ({"scope": "user"}, False),
        ({"mode": "shadow"}, True),
        ({"decision": "allow"}, True),
    ],
    ids=str,
)
def test_what_feeds_a_counter(fields: dict[str, Any], fed: bool) -> None:  # noqa: FBT001
    """A policy feeds the counters of its scope, measure and window, whatever it decides."""
    key = CounterKey("acme", "tenant", "acme", "cost", "daily", MIDNIGHT_US)
    assert fed_by(_policy(**fields)).fits(key) is fed


@pytest.mark.parametrize(
    ("scope_id", "value", "fed"),
    [
        ("run", "run=1", True),
        ("run=1", "run=1", True),
        ("run=2", "run=1", False),
        (None, "a=b", True),
    ],
)
def test_what_feeds_a_label_s_counter(scope_id: str | None, value: str, *, fed: bool) -> None:
    """`key` feeds every value's counter, `key=value` that one, none feeds all."""
    key = CounterKey("acme", "label", value, "cost", "daily", MIDNIGHT_US)
    assert fed_by(_policy(scope="label", scope_id=scope_id)).fits(key) is fed


@pytest.mark.parametrize(
    ("edges", "cycle"),
    [
        ({}, None),
        ({"a": ["b"], "b": ["c"]}, None),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"]}, None),
        ({"a": ["a"]}, ["a", "a"]),
        ({"a": ["b"], "b": ["a"]}, ["a", "b", "a"]),
        ({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}, ["a", "b", "c", "a"]),
    ],
    ids=str,
)
def test_cycles_are_found(edges: dict[str, list[str]], cycle: list[str] | None) -> None:
    """Fallbacks that come back to where they began are found, wherever one starts."""
    assert find_cycle(edges) == cycle
