"""When windows begin and end, in the tenant's own calendar, and rolling ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from fluxai.governor import Governor
from fluxai.policy.records import Tenant
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import DIME, TENANT, Case, budget, dimes, limit, sums

INSTANT = timedelta(microseconds=1)


class Windows(Case):
    """Half-open windows; the instant of the reserve picks them."""

    @pytest.mark.parametrize(
        ("limit_type", "end"),
        [
            ("per_minute", datetime(2026, 1, 15, 12, 1, tzinfo=UTC)),
            ("hourly", datetime(2026, 1, 15, 13, tzinfo=UTC)),
            ("daily", datetime(2026, 1, 16, tzinfo=UTC)),
            ("weekly", datetime(2026, 1, 19, tzinfo=UTC)),
            ("monthly", datetime(2026, 2, 1, tzinfo=UTC)),
        ],
    )
    def test_a_window_ends_on_the_instant(
        self, governor: Governor, clock: FakeClock, limit_type: str, end: datetime
    ) -> None:
        """The last microsecond belongs to the window, its end to the next one."""
        limit(governor, "0.10", limit_type=limit_type)
        dimes(governor, ttl="60d")
        assert budget(governor).resets_at == end
        clock.set(end - INSTANT)
        refused = dimes(governor)
        assert not refused.allowed
        assert refused.reasons[0].resets_at == end
        clock.set(end)
        assert dimes(governor).allowed
        assert budget(governor).window_start == end

    def test_days_weeks_and_months_follow_the_tenant(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """Time zone, first day of the week and fiscal month move the windows."""
        governor.tenants.put(
            Tenant(
                id=TENANT,
                timezone="America/New_York",
                week_start="sunday",
                fiscal_month_start=10,
            )
        )
        for name in ("hourly", "daily", "weekly", "monthly"):
            limit(governor, "9", id=name, limit_type=name)
        clock.set(datetime(2026, 3, 8, 12, tzinfo=UTC))  # clocks spring forward on this day
        dimes(governor)
        expected = {
            "daily": (datetime(2026, 3, 8, 5, tzinfo=UTC), datetime(2026, 3, 9, 4, tzinfo=UTC)),
            "weekly": (datetime(2026, 3, 8, 5, tzinfo=UTC), datetime(2026, 3, 15, 4, tzinfo=UTC)),
            "monthly": (datetime(2026, 2, 10, 5, tzinfo=UTC), datetime(2026, 3, 10, 4, tzinfo=UTC)),
        }
        for name, (start, end) in expected.items():
            found = budget(governor, name)
            assert (found.window_start, found.resets_at, found.reserved) == (start, end, DIME)

    def test_a_settlement_lands_in_the_window_of_its_reserve(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A call that runs over midnight counts on the day on which it was reserved."""
        limit(governor, "1", limit_type="daily")
        held = dimes(governor, ttl="2d")
        clock.advance("12h")
        governor.settle(held, cost="0.40")
        assert sums(governor) == (0, 0)
        clock.advance(-INSTANT)
        day = governor.usage(TENANT, period="day", start=clock.now, end=clock.now + INSTANT)
        assert day.total_cost == 0
        start = datetime(2026, 1, 15, tzinfo=UTC)
        assert governor.usage(TENANT, start=start).total_cost == Decimal("0.40")

    def test_a_rolling_window_lets_go_of_what_is_old(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """Nothing leaves before the window's length is over, nor stays a bucket longer."""
        limit(governor, "0.10", limit_type="rolling", window="60m")
        clock.set(datetime(2026, 1, 15, 12, 0, 30, tzinfo=UTC))
        governor.settle(dimes(governor), cost="0.10")
        clock.advance(timedelta(minutes=60))
        assert not dimes(governor).allowed
        clock.set(datetime(2026, 1, 15, 13, 1, tzinfo=UTC))
        assert dimes(governor).allowed

    def test_an_open_hold_never_leaves_a_rolling_window(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """What is reserved counts in a rolling window until it ends, however long ago it began."""
        limit(governor, "0.10", limit_type="rolling", window="60m")
        held = dimes(governor, ttl="10d")
        clock.advance("5d")
        assert sums(governor) == (0, DIME)
        assert not dimes(governor).allowed
        governor.settle(held, cost="0.10")
        assert sums(governor) == (0, 0)  # it counts when it was reserved, and that has left

    def test_a_rolling_window_slides_over_several_calls(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """Ten minutes of room each: every call leaves on its own."""
        limit(governor, "0.60", limit_type="rolling", window="60m")
        for _ in range(6):
            governor.settle(dimes(governor), cost="0.10")
            clock.advance("10m")
        assert not dimes(governor).allowed
        clock.advance("1m")
        assert dimes(governor).allowed
        assert not dimes(governor).allowed

    def test_a_clock_that_steps_back_opens_no_second_window(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A process stays at the later time until its clock has caught up, so nothing is doubled."""
        limit(governor, "0.10", limit_type="daily")
        assert dimes(governor).allowed
        clock.advance(timedelta(days=-1))
        assert not dimes(governor).allowed
        limit(governor, "0.10", id="ring", limit_type="rolling", window="60m")
        clock.advance(timedelta(days=-30))
        assert not dimes(governor).allowed

    def test_a_governor_whose_clock_is_behind_is_under_the_rings_of_the_others(
        self, governor: Governor, clock: FakeClock, open_governor: object
    ) -> None:
        """A ring that was turned forward still counts what a slower clock reserves and settles."""
        limit(governor, "0.30", limit_type="rolling", window="60m")
        slow = open_governor(clock=FakeClock(clock.now - timedelta(minutes=5)))  # type: ignore[operator]
        governor.settle(dimes(governor), cost="0.10")
        for _ in range(2):
            slow.settle(dimes(slow), cost="0.10")
        assert not dimes(slow).allowed
        assert not dimes(governor).allowed
        assert sums(governor) == (Decimal("0.30"), 0)

    def test_a_grant_raises_a_limit_until_its_end(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """What is granted for a time counts exactly so long."""
        limit(governor, "0.10")
        governor.policies.grant("limit", "0.10", clock.now + timedelta(hours=1), "bob")
        assert budget(governor).limit == Decimal("0.20")
        held = dimes(governor, ttl="9h")
        assert dimes(governor, ttl="9h").allowed
        assert not dimes(governor).allowed
        clock.advance("1h")
        governor.release(held)
        assert not dimes(governor).allowed
        assert budget(governor).limit == DIME
