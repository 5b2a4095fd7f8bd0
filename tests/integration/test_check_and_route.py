"""`check_and_route`, and the demo's scenarios through it: one verb that reserves and settles."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from fluxai import Governor, Policy, SettlementConflict, Tool
from fluxai.demo_data import (
    ENTERPRISELLC,
    ENTERPRISELLC_ADMIN,
    FREECO,
    FREECO_USER,
    PROCORP,
    PROCORP_ADMIN,
    PROCORP_USER,
    load_demo,
)
from fluxai.testing import FakeClock
from tests.integration.stubs import completion, open_governor, rows, spent


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor with the demo's data."""
    with open_governor(request.param, tmp_path, subjects="registered") as governor:
        load_demo(governor)
        yield governor
        assert governor.verify().ok


def test_the_demo_has_the_promised_ids(governor: Governor) -> None:
    """Tenants, users, tools, prices and limits are those that docs and tests speak of."""
    assert {tenant.id[0] * 8: tenant.name for tenant in governor.tenants.list()} == {
        "11111111": "FreeCo",
        "22222222": "ProCorp",
        "33333333": "EnterpriseLLC",
    }
    assert [
        (tenant.plan, tenant.soft_limit, tenant.hard_limit) for tenant in governor.tenants.list()
    ] == [("free", 1, 2), ("pro", 40, 50), ("enterprise", 400, 500)]
    assert {
        (user.id[0] * 8, user.email, user.role, user.tenant_id) for user in governor.users.list()
    } == {
        ("aaaaaaaa", "user@freeco.com", "member", FREECO),
        ("bbbbbbbb", "user@procorp.com", "member", PROCORP),
        ("cccccccc", "admin@procorp.com", "admin", PROCORP),
        ("dddddddd", "admin@enterprisellc.com", "admin", ENTERPRISELLC),
    }
    assert {tool.id: (f"{tool.cost_per_unit:f}", tool.unit) for tool in governor.tools.list()} == {
        "gpt-4": ("0.00003", "tokens"),
        "gpt-4-turbo": ("0.00001", "tokens"),
        "gpt-3.5-turbo": ("0.0000005", "tokens"),
        "claude-3-opus": ("0.000015", "tokens"),
        "claude-3-sonnet": ("0.000003", "tokens"),
        "claude-3-haiku": ("0.00000025", "tokens"),
        "search-api": ("0.001", "requests"),
        "vector-db": ("0.0001", "requests"),
    }
    assert len(governor.policies.list()) == 6


def test_loading_the_demo_twice_changes_nothing(governor: Governor) -> None:
    """The demo's records are put by id."""
    before = (governor.tenants.list(), governor.users.list(), governor.policies.list())
    load_demo(governor)
    assert before == (governor.tenants.list(), governor.users.list(), governor.policies.list())


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ("gpt-4", "gpt-3.5-turbo"),
        ("gpt-4-turbo", "gpt-3.5-turbo"),
        ("claude-3-opus", "claude-3-haiku"),
    ],
)
def test_a_free_tier_downgrade_is_priced_and_recorded(
    governor: Governor, asked: str, granted: str
) -> None:
    """FreeCo gets the cheaper model, and pays for it: nothing is free and nothing is forgotten."""
    route = governor.check_and_route(FREECO, FREECO_USER, asked, 1_000)
    price = governor.tools.get(granted).cost_per_unit
    assert (route.decision, route.final_tool_used) == ("downgraded", granted)
    assert route.cost_estimate == 1_000 * price > 0
    assert route.remaining_budget == 2 - route.cost_estimate
    assert asked in route.message
    assert granted in route.message
    (event,) = governor.events(tenant=FREECO)
    assert (event.tool, event.cost, event.decision) == (granted, 1_000 * price, "downgraded")
    assert (event.user, event.tokens, event.estimated) == (FREECO_USER, 1_000, True)


def test_the_downgrade_holds_for_every_spelling_and_for_tokens(governor: Governor) -> None:
    """The same rule counts whether units are routed or a model is called by any of its names."""
    for model in ("gpt-4", "gpt-4-0613", "openai/gpt-4"):
        reservation = governor.reserve(tenant=FREECO, model=model, prompt="hi")
        assert (reservation.decision, reservation.model) == ("downgraded", "gpt-3.5-turbo"), model
        settlement = governor.settle(reservation, completion("gpt-3.5-turbo"))
        assert settlement.tool == "gpt-3.5-turbo"
    assert {event.tool for event in governor.events(tenant=FREECO)} == {"gpt-3.5-turbo"}


def test_a_budget_is_exhausted_with_a_clear_message(governor: Governor) -> None:
    """FreeCo's $2 a day end in a refusal that says what, how much and until when."""
    while (
        route := governor.check_and_route(FREECO, FREECO_USER, "claude-3-sonnet", 100_000)
    ).decision == "allowed":
        assert route.reservation_id is not None
    assert spent(governor, FREECO) == Decimal("1.80")
    assert (route.decision, route.reservation_id) == ("denied", None)
    assert route.cost_estimate == Decimal("0.30")
    assert route.remaining_budget == Decimal("0.20")
    for word in ("daily", "$2.00", "$1.80", "$0.30", "2026-01-16 00:00:00 UTC", "freeco-daily"):
        assert word in route.message
    assert spent(governor, FREECO) == Decimal("1.80")


def test_pro_tier_succeeds_and_is_tracked(governor: Governor) -> None:
    """ProCorp's gpt-4 runs, and its cost is on the day's account."""
    route = governor.check_and_route(PROCORP, PROCORP_USER, "gpt-4", 1_000, {"prompt": "Hello"})
    assert (route.decision, route.final_tool_used) == ("allowed", "gpt-4")
    assert route.cost_estimate == Decimal("0.03")
    assert route.remaining_budget == Decimal("49.97")
    assert route.to_dict()["cost_estimate"] == "0.03"
    budget = rows(governor.budgets(PROCORP))["procorp-daily"]
    assert (budget.settled, budget.remaining) == (Decimal("0.03"), Decimal("49.97"))
    summary = governor.usage(PROCORP, user=PROCORP_USER)
    assert (summary.total_cost, summary.total_units) == (Decimal("0.03"), 1_000)
    assert governor.usage(PROCORP, user=PROCORP_ADMIN).total_cost == 0


def test_enterprise_asks_at_five_hundred_dollars(governor: Governor) -> None:
    """Beyond $500 a month EnterpriseLLC is asked, not refused; the approved call runs once."""
    who = (ENTERPRISELLC, ENTERPRISELLC_ADMIN)
    governor.record(tenant=who[0], user=who[1], tool="gpt-4", cost="499.99", id="before")
    asked = governor.check_and_route(*who, "gpt-4", 1_000, {"prompt": "Hello"})
    assert (asked.decision, asked.reservation_id) == ("pending_approval", asked.approval_id)
    assert asked.approval_id is not None
    assert spent(governor, ENTERPRISELLC) == Decimal("499.99")
    budget = rows(governor.budgets(ENTERPRISELLC))["enterprisellc-monthly"]
    assert budget.reserved == Decimal("0.03")
    waiting = governor.check_and_route(
        *who, "gpt-4", 1_000, {"prompt": "Hello", "approval_id": asked.approval_id}
    )
    assert waiting.decision == "pending_approval"
    governor.approvals.approve(asked.approval_id, by="admin@enterprisellc.com")
    approved = {"prompt": "Hello", "approval_id": asked.approval_id}
    other = governor.check_and_route(*who, "gpt-4", 1_000, {**approved, "prompt": "Other"})
    assert other.decision == "denied"
    assert "another call" in other.message
    run = governor.check_and_route(*who, "gpt-4", 1_000, approved)
    assert (run.decision, run.cost_estimate) == ("allowed", Decimal("0.03"))
    again = governor.check_and_route(*who, "gpt-4", 1_000, approved)
    assert again.decision == "denied"
    assert "used" in again.message
    assert spent(governor, ENTERPRISELLC) == Decimal("500.02")
    assert governor.reservations("reserved") == []
    assert governor.reservations("pending") == []


def test_enterprise_s_approval_through_reserve(governor: Governor) -> None:
    """The same from request to the one run, with reserve and settle."""
    governor.record(tenant=ENTERPRISELLC, model="gpt-4", cost="500", id="before")
    call = {
        "tenant": ENTERPRISELLC,
        "user": ENTERPRISELLC_ADMIN,
        "model": "gpt-4",
        "prompt": "hi",
        "max_output_tokens": 50,
    }
    asked = governor.reserve(**call)
    assert (asked.decision, asked.allowed, asked.state) == ("pending_approval", False, "pending")
    assert "enterprisellc-monthly" in asked.message
    assert asked.approval_id is not None
    governor.approvals.approve(asked.approval_id, by="boss")
    run = governor.reserve(**call, approval_id=asked.approval_id)
    assert (run.decision, run.id) == ("allowed", asked.id)
    assert governor.settle(run, completion("gpt-4")).cost > 0
    assert not governor.reserve(**call, approval_id=asked.approval_id).allowed


def test_hold_only_reserves(governor: Governor) -> None:
    """With hold=True nothing is charged until the reservation is settled."""
    route = governor.check_and_route(PROCORP, PROCORP_USER, "search-api", 10, hold=True)
    assert route.reservation_id is not None
    assert spent(governor, PROCORP) == 0
    assert rows(governor.budgets(PROCORP))["procorp-daily"].reserved == Decimal("0.01")
    settlement = governor.settle(route.reservation_id)
    assert (settlement.cost, settlement.requests, settlement.estimated) == (
        Decimal("0.01"),
        10,
        False,
    )
    assert governor.settle(route.reservation_id).event_id == settlement.event_id


def test_an_estimated_route_accepts_one_exact_settlement(governor: Governor) -> None:
    """What check_and_route estimated may be corrected once by what the provider says."""
    route = governor.check_and_route(PROCORP, PROCORP_USER, "gpt-4", 1_000)
    assert route.reservation_id is not None
    settlement = governor.settle(route.reservation_id, completion("gpt-4"))
    assert settlement.cost == Decimal("0.0024")
    assert spent(governor, PROCORP) == Decimal("0.0024")
    with pytest.raises(SettlementConflict):
        governor.settle(route.reservation_id, cost="1")


def test_tokens_of_a_tool_count_as_tokens_and_requests_as_requests(governor: Governor) -> None:
    """A thousand tokens are one request; ten searches are ten."""
    for measure in ("requests", "tokens"):
        governor.policies.put(
            Policy(
                id=measure,
                tenant_id=PROCORP,
                limit_type="daily",
                measure=measure,
                limit_value=Decimal(1_000_000),
            )
        )
    governor.check_and_route(PROCORP, PROCORP_USER, "gpt-4", 1_000)
    held = governor.check_and_route(PROCORP, PROCORP_USER, "gpt-4", 500, hold=True)
    governor.check_and_route(PROCORP, PROCORP_USER, "search-api", 10)
    budgets = rows(governor.budgets(PROCORP))
    assert (budgets["requests"].settled, budgets["requests"].reserved) == (11, 1)
    assert (budgets["tokens"].settled, budgets["tokens"].reserved) == (1_000, 500)
    assert held.reservation_id is not None
    governor.release(held.reservation_id)
    assert rows(governor.budgets(PROCORP))["tokens"].reserved == 0


def test_a_free_plan_moves_away_from_premium_tools_by_itself(governor: Governor) -> None:
    """Without any policy for it, a premium model of a free plan falls back to the cheapest able."""
    for policy in governor.policies.list(tenant=FREECO, scope="tool"):
        governor.policies.delete(policy.id)
    route = governor.check_and_route(FREECO, FREECO_USER, "gpt-4", 1_000)
    assert (route.decision, route.final_tool_used) == ("downgraded", "claude-3-haiku")
    assert "plan_free:gpt-4" in route.message
    reservation = governor.reserve(tenant=FREECO, model="gpt-4", prompt="hi", max_output_tokens=5)
    assert reservation.decision == "downgraded"
    premium = governor.reserve(tenant=PROCORP, model="gpt-4", prompt="hi", max_output_tokens=5)
    assert premium.decision == "allowed"


def test_a_dearer_fallback_is_none(governor: Governor) -> None:
    """A downgrade never costs more than what it replaces, nor another kind of unit."""
    for number, fallback in enumerate(("gpt-4", "search-api")):
        governor.policies.put(
            Policy(
                id=f"wrong-{number}",
                tenant_id=PROCORP,
                scope="tool",
                scope_id="gpt-3.5-turbo",
                limit_type="per_request",
                limit_value=Decimal(0),
                decision="downgrade",
                fallback_tool_id=fallback,
            )
        )
        route = governor.check_and_route(PROCORP, PROCORP_USER, "gpt-3.5-turbo", 100)
        assert route.decision == "denied", fallback
        governor.policies.delete(f"wrong-{number}")


def test_a_price_that_rises_counts_from_the_next_call(governor: Governor) -> None:
    """A tool's new price is held at once, also where an old plan is at hand."""
    governor.check_and_route(PROCORP, PROCORP_USER, "search-api", 1)
    governor.tools.put(Tool(id="search-api", cost_per_unit=Decimal("0.01")))
    route = governor.check_and_route(PROCORP, PROCORP_USER, "search-api", 1)
    assert route.cost_estimate == Decimal("0.01")
    governor.tools.put(Tool(id="search-api", cost_per_unit=Decimal("0.001"), unit="tokens"))
    route = governor.check_and_route(PROCORP, PROCORP_USER, "search-api", 7)
    assert governor.events(tenant=PROCORP)[-1].tokens == 7


def test_days_begin_anew(governor: Governor) -> None:
    """The next day FreeCo has its $2 again."""
    clock = governor.clock
    assert isinstance(clock, FakeClock)
    while governor.check_and_route(FREECO, FREECO_USER, "claude-3-sonnet", 100_000).reservation_id:
        pass
    clock.advance("12h")
    route = governor.check_and_route(FREECO, FREECO_USER, "claude-3-sonnet", 100_000)
    assert route.remaining_budget == Decimal("1.70")
