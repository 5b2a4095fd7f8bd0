"""`budgets()`: the running accounts of limits, in the tenant's calendar, with grants and records."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fluxai import Governor, Policy, Tenant, Tool, User
from fluxai.testing import FakeClock
from tests.integration.stubs import ASK, completion, daily, open_governor, rows


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor at noon of Thursday, 15 January 2026, UTC, with a tool of ten cents."""
    with open_governor(request.param, tmp_path) as governor:
        governor.tools.put(Tool(id="dime", cost_per_unit=Decimal("0.10")))
        yield governor
        assert governor.verify().ok


def _clock(governor: Governor) -> FakeClock:
    assert isinstance(governor.clock, FakeClock)
    return governor.clock


def _utc(month: int, day: int, hour: int = 0, year: int = 2026) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


def _policy(limit_type: str, **fields: Any) -> Policy:
    return daily("5", **{"id": limit_type, "limit_type": limit_type, **fields})


def _spend(governor: Governor, cost: str = "1", **fields: Any) -> None:
    fields = {"tenant": "acme", "model": "gpt-4o", **fields}
    number = len(governor.events(limit=10_000))
    governor.record(cost=cost, id=f"spend-{number}", **fields)


WINDOWS = {
    "per_minute": (
        datetime(2026, 1, 15, 12, 0, tzinfo=UTC),
        datetime(2026, 1, 15, 12, 1, tzinfo=UTC),
    ),
    "hourly": (_utc(1, 15, 12), _utc(1, 15, 13)),
    "daily": (_utc(1, 14, 15), _utc(1, 15, 15)),
    "weekly": (_utc(1, 10, 15), _utc(1, 17, 15)),
    "monthly": (_utc(12, 19, 15, 2025), _utc(1, 19, 15)),
    "total": (None, None),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_follow_the_tenant_s_calendar(governor: Governor, kind: str) -> None:
    """Tokyo, weeks from Sunday, months from the 20th: each window begins and ends there."""
    governor.tenants.put(
        Tenant(id="acme", timezone="Asia/Tokyo", week_start="sunday", fiscal_month_start=20)
    )
    governor.policies.put(_policy(kind))
    _spend(governor)
    (budget,) = governor.budgets("acme")
    assert (budget.window_start, budget.resets_at) == WINDOWS[kind]
    assert (budget.limit, budget.settled, budget.reserved, budget.remaining) == (5, 1, 0, 4)
    assert (budget.policy_id, budget.scope, budget.scope_id) == (kind, "tenant", None)
    assert (budget.measure, budget.limit_type, budget.decision, budget.mode, budget.currency) == (
        "cost",
        kind,
        "deny",
        "enforce",
        "USD",
    )


@pytest.mark.parametrize("kind", [kind for kind in WINDOWS if kind != "total"])
def test_a_window_that_ends_begins_at_nothing(governor: Governor, kind: str) -> None:
    """At the reset the account is empty, not a moment before."""
    governor.policies.put(_policy(kind))
    _spend(governor, "5")
    assert not governor.check(**ASK).allowed
    resets_at = governor.budgets("acme")[0].resets_at
    assert resets_at is not None
    clock = _clock(governor)
    clock.set(resets_at.fromtimestamp(resets_at.timestamp() - 0.001, UTC))
    assert governor.budgets("acme")[0].settled == 5
    clock.set(resets_at)
    (budget,) = governor.budgets("acme")
    assert (budget.settled, budget.window_start) == (0, resets_at)
    assert governor.check(**ASK).allowed


def test_a_day_of_23_hours(governor: Governor) -> None:
    """When New York's clocks go forward, the day's budget lasts 23 hours."""
    _clock(governor).set(_utc(3, 8, 12))
    governor.tenants.put(Tenant(id="acme", timezone="America/New_York"))
    governor.policies.put(daily("5"))
    (budget,) = governor.budgets("acme")
    assert (budget.window_start, budget.resets_at) == (_utc(3, 8, 5), _utc(3, 9, 4))


def test_a_rolling_window_lets_go_bit_by_bit(governor: Governor) -> None:
    """What was spent leaves when the window has passed over it, not at midnight."""
    governor.policies.put(_policy("rolling", window="24h"))
    _spend(governor, "3")
    _clock(governor).advance("13h")
    _spend(governor, "1")
    (budget,) = governor.budgets("acme")
    assert (budget.settled, budget.limit_type, budget.resets_at) == (4, "rolling", None)
    _clock(governor).advance("12h")
    assert governor.budgets("acme")[0].settled == 1


def test_measures_and_concurrency(governor: Governor) -> None:
    """Tokens and requests are counts; `concurrent` counts what is open."""
    for measure in ("tokens", "requests"):
        governor.policies.put(daily("1000", id=measure, measure=measure))
    governor.policies.put(_policy("concurrent", limit_value="2"))
    governor.settle(governor.reserve(**ASK), completion())
    governor.reserve(**ASK)
    budgets = rows(governor.budgets("acme"))
    assert (budgets["tokens"].settled, budgets["tokens"].limit) == (50, 1000)
    assert budgets["tokens"].reserved > 100
    assert (budgets["requests"].settled, budgets["requests"].reserved) == (1, 1)
    running = budgets["concurrent"]
    assert (running.measure, running.settled, running.reserved, running.remaining) == (
        "concurrent",
        0,
        1,
        1,
    )


def test_a_rule_about_one_call_has_no_account(governor: Governor) -> None:
    """`per_request` limits count nothing, so there is nothing to show."""
    governor.policies.put(_policy("per_request"))
    governor.reserve(**ASK)
    assert governor.budgets("acme") == []


def test_each_user_tool_and_label_value_has_its_account(governor: Governor) -> None:
    """A limit for each shows the accounts that were opened; one that is named, its own."""
    governor.policies.put(daily("5", id="each-user", scope="user"))
    governor.policies.put(daily("5", id="alice", scope="user", scope_id="alice"))
    governor.policies.put(daily("5", id="each-tool", scope="tool"))
    governor.policies.put(daily("5", id="each-run", scope="label", scope_id="run"))
    governor.policies.put(daily("5", id="run-1", scope="label", scope_id="run=1"))
    for user, run in (("alice", "1"), ("bob", "2")):
        reservation = governor.reserve(tenant="acme", user=user, tool="dime", labels={"run": run})
        governor.settle(reservation)
    shown = {(b.policy_id, b.scope_id, str(b.settled)) for b in governor.budgets("acme")}
    assert shown == {
        ("each-user", "alice", "0.10"),
        ("each-user", "bob", "0.10"),
        ("alice", "alice", "0.10"),
        ("each-tool", "dime", "0.20"),
        ("each-run", "run=1", "0.10"),
        ("each-run", "run=2", "0.10"),
        ("run-1", "run=1", "0.10"),
    }
    bobs = {(b.policy_id, b.scope_id) for b in governor.budgets("acme", "bob") if b.scope == "user"}
    assert bobs == {("each-user", "bob")}
    carols = [b for b in governor.budgets("acme", "carol") if b.scope == "user"]
    assert [(b.scope_id, b.settled) for b in carols] == [("carol", 0)]


def test_a_tool_is_found_by_any_spelling(governor: Governor) -> None:
    """A limit on a model counts, and shows, the calls made under its other names."""
    governor.policies.put(daily("5", scope="tool", scope_id="openai/gpt-4o"))
    for model in ("gpt-4o", "gpt-4o-2024-08-06", "openai/gpt-4o"):
        governor.settle(governor.reserve(**{**ASK, "model": model}), cost="1")
    (budget,) = governor.budgets("acme")
    assert (budget.scope_id, budget.settled) == ("gpt-4o", 3)


def test_policies_for_every_tenant_show_the_tenant_s_own_account(governor: Governor) -> None:
    """`"*"` gives each tenant an account of its own."""
    governor.policies.put(daily("5", tenant_id="*"))
    _spend(governor, "1")
    _spend(governor, "2", tenant="globex")
    assert [b.settled for b in governor.budgets("acme")] == [1]
    assert [b.settled for b in governor.budgets("globex")] == [2]
    assert [b.settled for b in governor.budgets("nobody")] == [0]


def test_a_grant_raises_a_limit_for_a_time(governor: Governor) -> None:
    """It is visible in `budgets`, counts at once, and ends by itself."""
    governor.policies.put(daily("1"))
    _spend(governor, "1")
    assert not governor.check(**ASK).allowed
    until = _utc(1, 15, 18)
    grant = governor.policies.grant("daily", "0.50", until, "boss")
    assert (grant.amount, grant.until, grant.by) == (Decimal("0.50"), until, "boss")
    (budget,) = governor.budgets("acme")
    assert (budget.limit, budget.granted, budget.remaining) == (
        Decimal("1.50"),
        Decimal("0.50"),
        Decimal("0.50"),
    )
    assert governor.check(**ASK).allowed
    assert governor.reserve(**ASK).allowed
    _clock(governor).set(until)
    (budget,) = governor.budgets("acme")
    assert (budget.limit, budget.granted) == (1, 0)
    assert not governor.reserve(**ASK).allowed


def test_grants_add_up_and_count_any_measure(governor: Governor) -> None:
    """Two raises are two raises; of a limit on requests they are whole requests."""
    governor.policies.put(daily("1", measure="requests"))
    governor.policies.grant("daily", 2, _utc(1, 15, 18), "boss")
    governor.policies.grant("daily", 3, _utc(1, 15, 20), "boss")
    assert governor.budgets("acme")[0].limit == 6
    _clock(governor).set(_utc(1, 15, 19))
    assert governor.budgets("acme")[0].limit == 4


def test_grants_end_with_their_policy(governor: Governor) -> None:
    """A policy that is made again under the same id begins without the old grants."""
    governor.policies.put(daily("1"))
    governor.policies.grant("daily", "5", _utc(1, 16), "boss")
    governor.policies.delete("daily")
    governor.policies.put(daily("1"))
    assert governor.budgets("acme")[0].limit == 1


def test_limits_on_records_are_enforced_and_shown(governor: Governor) -> None:
    """Hard limit and personal cap refuse, a soft limit only warns; each has an id to explain it."""
    governor.tenants.put(
        Tenant(id="acme", soft_limit=Decimal(1), hard_limit=Decimal(3), limit_period="daily")
    )
    governor.users.put(User(id="alice", tenant_id="acme", personal_cap=Decimal(2)))
    _spend(governor, "1.5", user="alice")
    budgets = rows(governor.budgets("acme"))
    assert {(b.policy_id, b.decision, b.limit) for b in budgets.values()} == {
        ("hard_limit:acme", "deny", 3),
        ("soft_limit:acme", "allow", 1),
        ("personal_cap:alice", "deny", 2),
    }
    over = governor.reserve(**ASK, user="alice")
    assert over.allowed
    assert [reason.policy_id for reason in over.reasons] == ["soft_limit:acme"]
    governor.release(over)
    _spend(governor, "0.5", user="alice")
    refused = governor.reserve(**ASK, user="alice")
    assert "personal_cap:alice" in refused.message
    assert governor.reserve(**ASK, user="bob").allowed
    _spend(governor, "1", user="bob")
    assert "hard_limit:acme" in governor.reserve(**ASK, user="bob").message


def test_limits_on_records_are_monthly_by_default(governor: Governor) -> None:
    """Without a period they count over the month."""
    governor.tenants.put(Tenant(id="acme", hard_limit=Decimal(3)))
    (budget,) = governor.budgets("acme")
    assert (budget.limit_type, budget.window_start) == ("monthly", _utc(1, 1))


def test_an_explicit_policy_replaces_the_derived_one(governor: Governor) -> None:
    """Same scope, measure, window and value: EnterpriseLLC asks at $500 instead of refusing."""
    governor.tenants.put(Tenant(id="acme", soft_limit=Decimal(400), hard_limit=Decimal(500)))
    governor.users.put(User(id="alice", tenant_id="acme", personal_cap=Decimal(10)))
    governor.policies.put(_policy("monthly", limit_value="500", decision="require_approval"))
    governor.policies.put(
        _policy("monthly", id="alice", scope="user", scope_id="alice", limit_value="20")
    )
    shown = {b.policy_id for b in governor.budgets("acme")}
    assert shown == {"monthly", "alice", "soft_limit:acme"}
    _spend(governor, "500")
    assert governor.reserve(**ASK).decision == "pending_approval"
    looked_at = {reason.policy_id for reason in governor.check(**ASK, user="alice").looked_at}
    assert looked_at == shown


@pytest.mark.parametrize(
    "other",
    [
        {"limit_type": "daily"},
        {"measure": "tokens"},
        {"mode": "shadow"},
        {"decision": "allow"},
        {"tenant_id": "*"},
        {"scope": "user"},
        {"scope": "user", "scope_id": "alice"},
    ],
    ids=["window", "measure", "shadow", "warning", "every tenant", "each user", "a user"],
)
def test_nothing_else_lifts_a_hard_limit(governor: Governor, other: dict[str, Any]) -> None:
    """A policy about something else, or that does not act, leaves the hard limit in force."""
    governor.tenants.put(Tenant(id="acme", hard_limit=Decimal(1)))
    rule = {"id": "other", "limit_type": "monthly", **other}
    governor.policies.put(daily("1000000", **rule))
    assert "hard_limit:acme" in {b.policy_id for b in governor.budgets("acme")}
    _spend(governor, "1", user="alice")
    refused = governor.reserve(**ASK, user="alice")
    assert "hard_limit:acme" in refused.message


@pytest.mark.parametrize(
    "other", [{"scope_id": None}, {"scope_id": None, "tenant_id": "*"}], ids=["each", "everywhere"]
)
def test_a_rule_for_each_user_does_not_lift_one_s_cap(
    governor: Governor, other: dict[str, Any]
) -> None:
    """A general allowance is no exception for the one whose cap is lower."""
    governor.tenants.put(Tenant(id="acme"))
    governor.users.put(User(id="alice", tenant_id="acme", personal_cap=Decimal(1)))
    governor.policies.put(_policy("monthly", scope="user", limit_value="100", **other))
    _spend(governor, "1", user="alice")
    assert "personal_cap:alice" in governor.reserve(**ASK, user="alice").message


def test_a_warning_of_one_s_own_replaces_the_soft_limit(governor: Governor) -> None:
    """Nobody is warned twice about one account."""
    governor.tenants.put(Tenant(id="acme", soft_limit=Decimal(1)))
    governor.policies.put(_policy("monthly", decision="allow", limit_value="2"))
    assert [b.policy_id for b in governor.budgets("acme")] == ["monthly"]


def test_a_policy_that_is_changed_keeps_what_was_spent(governor: Governor) -> None:
    """Editing, deleting and recreating a limit, or moving it under another id, loses nothing."""
    governor.policies.put(daily("5"))
    _spend(governor, "2")
    governor.policies.put(daily("3"))
    assert governor.budgets("acme")[0].remaining == 1
    governor.policies.delete("daily")
    assert governor.budgets("acme") == []
    _spend(governor, "1")
    governor.policies.put(daily("4", id="other"))
    assert governor.budgets("acme")[0].settled == 3


def test_a_calendar_that_is_changed_moves_the_windows(governor: Governor) -> None:
    """In the new zone's day there is what was spent in it, and nothing else."""
    governor.policies.put(daily("5"))
    _clock(governor).set(_utc(1, 15, 1))
    _spend(governor, "1")
    _clock(governor).set(_utc(1, 15, 12))
    _spend(governor, "2")
    assert governor.budgets("acme")[0].settled == 3
    governor.tenants.put(Tenant(id="acme", timezone="America/New_York"))
    (budget,) = governor.budgets("acme")
    assert (budget.window_start, budget.settled) == (_utc(1, 15, 5), 2)
    governor.tenants.delete("acme")
    assert governor.budgets("acme")[0].settled == 3


def test_budgets_are_ready_for_json(governor: Governor) -> None:
    """Amounts are texts, times ISO 8601."""
    governor.policies.put(daily("5"))
    row = governor.budgets("acme")[0].to_dict()
    assert (row["limit"], row["settled"]) == ("5.00", "0.00")
    assert row["resets_at"] == "2026-01-16T00:00:00+00:00"
