"""`usage()`: what was settled, in the tenant's own days and months, by tool, user and model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fluxai import Governor, InvalidRequest, Tenant, Tool
from fluxai.testing import FakeClock
from tests.integration.stubs import ASK, completion, open_governor


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor at noon of 15 January 2026, UTC."""
    with open_governor(request.param, tmp_path) as governor:
        governor.tools.put(Tool(id="search", cost_per_unit=Decimal("0.01")))
        yield governor
        assert governor.verify().ok


def _at(day: int, hour: int = 0, minute: int = 0, month: int = 1, year: int = 2026) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


def _record(governor: Governor, at: datetime, cost: str = "1", **fields: Any) -> None:
    fields = {"tenant": "acme", "model": "gpt-4o", **fields}
    governor.record(cost=cost, at=at, id=f"{at.isoformat()}{sorted(fields.items())}", **fields)


def test_today_is_the_default(governor: Governor) -> None:
    """Without dates it is the tenant's today, up to its end."""
    _record(governor, _at(14, 23, 59))
    _record(governor, _at(15, 0, 0), "2")
    summary = governor.usage("acme")
    assert (summary.start, summary.end) == (_at(15), _at(16))
    assert (summary.total_cost, summary.total_events) == (Decimal(2), 1)
    assert (summary.tenant, summary.user, summary.period) == ("acme", None, "day")


def test_this_month(governor: Governor) -> None:
    """A month is the calendar's."""
    _record(governor, _at(31, 23, 59, month=12, year=2025))
    _record(governor, _at(1), "2")
    summary = governor.usage("acme", period="month")
    assert (summary.start, summary.end) == (_at(1), _at(1, month=2))
    assert summary.total_cost == 2


def test_days_are_those_of_the_tenant_s_zone(governor: Governor) -> None:
    """Tokyo's 15 January ends at 15:00 UTC; there, late evening in London is tomorrow."""
    governor.tenants.put(Tenant(id="acme", timezone="Asia/Tokyo"))
    for hour, cost in ((14, "1"), (15, "2")):
        _record(governor, _at(14, hour), cost)
    summary = governor.usage("acme")
    assert (summary.start, summary.end) == (_at(14, 15), _at(15, 15))
    assert summary.total_cost == 2


def test_months_follow_the_fiscal_start(governor: Governor) -> None:
    """A month that begins on the 20th reaches from 20 December to 20 January, in the zone."""
    governor.tenants.put(Tenant(id="acme", timezone="America/New_York", fiscal_month_start=20))
    summary = governor.usage("acme", period="month")
    assert summary.start == _at(20, 5, month=12, year=2025)
    assert summary.end == _at(20, 5)


def test_a_start_names_its_day_or_month(governor: Governor) -> None:
    """`start` alone runs to the end of its day or month, `end` alone begins its own."""
    assert governor.usage("acme", start=_at(3, 6)).end == _at(4)
    assert governor.usage("acme", period="month", start=_at(3, 6)).end == _at(1, month=2)
    assert governor.usage("acme", end=_at(4)).start == _at(3)
    both = governor.usage("acme", start=_at(3), end=_at(9))
    assert (both.start, both.end) == (_at(3), _at(9))
    with pytest.raises(InvalidRequest, match="end: must be after start"):
        governor.usage("acme", start=_at(9), end=_at(9))


@pytest.mark.parametrize("offset_minutes", [0, 1, 719, 1439])
def test_any_stretch_of_time_is_exact(governor: Governor, offset_minutes: int) -> None:
    """Whole days come from daily sums, the edges from events: no boundary loses or doubles."""
    for minute in range(0, 3 * 1440, 180):
        _record(
            governor,
            _at(10 + minute // 1440, minute % 1440 // 60),
            "0.01",
            labels={"n": str(minute)},
        )
    start = _at(10, offset_minutes // 60, offset_minutes % 60)
    end = _at(12, offset_minutes // 60, offset_minutes % 60)
    inside = [event for event in governor.events(limit=1_000) if start <= event.counted_at < end]
    assert governor.usage("acme", start=start, end=end).total_events == len(inside) > 0


def test_sums_by_tool_dearest_first(governor: Governor) -> None:
    """Each tool's cost, tokens, units and events; units are what the tool is priced by."""
    governor.settle(governor.reserve(**ASK), completion())
    governor.settle(governor.reserve(tenant="acme", tool="search", units=5))
    governor.tools.put(
        Tool(id="summariser", cost_per_unit=Decimal("0.001"), unit="tokens", category="llm")
    )
    governor.settle(governor.reserve(tenant="acme", tool="summariser", units=100))
    summary = governor.usage("acme")
    assert list(summary.by_tool) == ["summariser", "search", "gpt-4o"]
    model, search = summary.by_tool["gpt-4o"], summary.by_tool["search"]
    assert (model.cost, model.tokens, model.units, model.events) == (Decimal("0.00035"), 50, 1, 1)
    assert (search.cost, search.tokens, search.units, search.events) == (Decimal("0.05"), 0, 5, 1)
    assert summary.by_tool["summariser"].units == 100
    assert summary.total_units == 106
    assert summary.total_tokens == 150
    assert summary.total_cost == Decimal("0.15035")


def test_one_user_s_share(governor: Governor) -> None:
    """With a user, only theirs; the rest of the tenant stays out."""
    _record(governor, _at(15), "1", user="alice")
    _record(governor, _at(15), "2", user="bob")
    _record(governor, _at(15), "4")
    summary = governor.usage("acme", user="alice")
    assert (summary.total_cost, summary.user) == (Decimal(1), "alice")
    assert [event.user for event in summary.recent_events] == ["alice"]
    assert governor.usage("acme", user="nobody").total_cost == 0


def test_groups(governor: Governor) -> None:
    """Any combination of tool, user and model, also a single one given as text."""
    _record(governor, _at(15), "1", user="alice")
    _record(governor, _at(15), "2", user="alice", model="gpt-4")
    _record(governor, _at(15), "4")
    groups = governor.usage("acme", group_by=("user", "model")).groups
    assert {key: group.cost for key, group in groups.items()} == {
        (None, "gpt-4o"): 4,
        ("alice", "gpt-4"): 2,
        ("alice", "gpt-4o"): 1,
    }
    by_user = governor.usage("acme", group_by="user").groups
    assert {key: group.cost for key, group in by_user.items()} == {(None,): 4, ("alice",): 3}


def test_the_latest_events_come_along(governor: Governor) -> None:
    """Ten at most, newest first."""
    for hour in range(12):
        _record(governor, _at(15, hour), "0.01")
    recent = governor.usage("acme").recent_events
    assert [event.counted_at.hour for event in recent] == list(range(11, 1, -1))


def test_corrections_count_where_their_event_did(governor: Governor) -> None:
    """A correction entered today changes the day of what it corrects."""
    _record(governor, _at(14), "1")
    (event,) = governor.events()
    governor.adjust(event.id, "-0.25", reason="credit", by="ops")
    assert governor.usage("acme").total_cost == 0
    assert governor.usage("acme", start=_at(14), end=_at(15)).total_cost == Decimal("0.75")


def test_a_settlement_counts_when_its_call_was_reserved(governor: Governor) -> None:
    """A call that runs over midnight is on the day on which it began."""
    clock = governor.clock
    assert isinstance(clock, FakeClock)
    clock.set(_at(15, 23, 59))
    reservation = governor.reserve(**ASK)
    clock.advance("5m")
    governor.settle(reservation, cost="1")
    assert governor.usage("acme").total_cost == 0
    assert governor.usage("acme", start=_at(15), end=_at(16)).total_cost == 1


def test_tenants_do_not_see_each_other(governor: Governor) -> None:
    """A tenant's usage, events and budgets are its own."""
    _record(governor, _at(15), "1")
    _record(governor, _at(15), "2", tenant="globex")
    assert governor.usage("acme").total_cost == 1
    assert governor.usage("nobody").total_cost == 0
    assert [event.tenant for event in governor.events(tenant="globex")] == ["globex"]


def test_it_is_ready_for_json(governor: Governor) -> None:
    """Amounts are texts, so that no reader turns them into floats."""
    _record(governor, _at(15), "0.1", user="alice")
    document = json.loads(json.dumps(governor.usage("acme").to_dict()))
    assert document["total_cost"] == "0.10"
    assert document["by_tool"]["gpt-4o"]["cost"] == "0.10"
    assert document["recent_events"][0]["cost"] == "0.10"
    assert document["start"] == "2026-01-15T00:00:00+00:00"
