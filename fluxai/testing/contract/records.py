"""Money that was spent elsewhere, and corrections of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from fluxai.core.usage import Usage
from fluxai.governor import Governor
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import LARGE, TENANT, TOOL, Case, dimes, limit, sums


class Records(Case):
    """`record` is never refused by a limit; `adjust` counts where the money did."""

    def test_recorded_money_counts_beyond_the_limit(self, governor: Governor) -> None:
        """What was spent already is counted whatever the limits say, and refuses what follows."""
        limit(governor, "1")
        governor.record(id="e", tenant=TENANT, tool=TOOL, cost="5")
        assert sums(governor) == (5, 0)
        assert not dimes(governor).allowed

    def test_recorded_in_every_scope_and_measure(self, governor: Governor) -> None:
        """A record counts for its user, labels and model, in money, tokens and requests."""
        limit(governor, "9", id="user", scope="user")
        limit(governor, "9", id="label", scope="label", scope_id="run")
        limit(governor, "9000", id="tool", scope="tool", measure="tokens")
        limit(governor, "9", id="requests", measure="requests")
        usage = Usage(input=200, output=100)
        governor.record(
            id="e", tenant=TENANT, model=LARGE, user="alice", labels={"run": "7"}, usage=usage
        )
        assert sums(governor, "user") == (Decimal("0.30"), 0)
        assert sums(governor, "label") == (Decimal("0.30"), 0)
        assert sums(governor, "tool") == (300, 0)
        assert sums(governor, "requests") == (1, 0)

    def test_a_records_own_time_picks_its_windows(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """Money spent yesterday counts yesterday, this week and in total, not today."""
        for name in ("hourly", "daily", "weekly", "total"):
            limit(governor, "9", id=name, limit_type=name)
        limit(governor, "9", id="ring", limit_type="rolling", window="24h")
        dimes(governor)
        at = clock.now - timedelta(hours=20)
        governor.record(id="e", tenant=TENANT, tool=TOOL, cost="1", at=at)
        settled = {
            name: sums(governor, name)[0] for name in ("hourly", "daily", "weekly", "total", "ring")
        }
        assert settled == {"hourly": 0, "daily": 0, "weekly": 1, "total": 1, "ring": 1}
        (event,) = governor.events()
        assert (event.counted_at, event.at) == (at, clock.now)

    def test_recorded_into_a_window_before_it_is_opened(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """Records out of order are all there when a policy comes to need them."""
        for number, hours in enumerate((30, 2, 26, 1, 400, 3)):
            governor.record(
                id=f"e{number}",
                tenant=TENANT,
                tool=TOOL,
                cost="1",
                at=clock.now - timedelta(hours=hours),
            )
        limit(governor, "9", id="day", limit_type="daily")
        limit(governor, "9", id="month", limit_type="monthly")
        limit(governor, "9", id="ring", limit_type="rolling", window="28h")
        dimes(governor)
        assert sums(governor, "day")[0] == 3
        assert sums(governor, "month")[0] == 5
        assert sums(governor, "ring")[0] == 4

    def test_recorded_a_moment_ahead_is_in_the_window_that_it_belongs_to(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A record whose clock is a little ahead of midnight counts on the new day."""
        clock.set(datetime(2026, 1, 15, 23, 59, 58, tzinfo=UTC))
        midnight = datetime(2026, 1, 16, tzinfo=UTC)
        governor.record(id="e", tenant=TENANT, tool=TOOL, cost="1", at=midnight)
        clock.set(midnight)
        limit(governor, "9", limit_type="daily")
        dimes(governor)
        assert sums(governor)[0] == 1

    def test_an_adjustment_counts_where_the_money_did(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A refund of yesterday's call is yesterday's; the event itself never changes."""
        limit(governor, "9", id="day", limit_type="daily")
        limit(governor, "9", id="all", scope="user")
        settlement = governor.settle(dimes(governor, user="alice"), cost="1")
        clock.advance("1d")
        correction = governor.adjust(
            settlement.event_id, "-0.25", reason="refund", by="bob", tenant=TENANT
        )
        assert (correction.cost, correction.corrects) == (Decimal("-0.25"), settlement.event_id)
        assert correction.user == "alice"
        assert correction.note is not None
        assert "refund" in correction.note
        assert sums(governor, "day") == (0, 0)
        assert sums(governor, "all", user="alice") == (Decimal("0.75"), 0)
        assert [event.cost for event in governor.events()] == [1, Decimal("-0.25")]
        day = governor.usage(TENANT, start=clock.now - timedelta(days=1))
        assert day.total_cost == Decimal("0.75")

    def test_adjustments_make_room_and_take_it(self, governor: Governor) -> None:
        """A signed amount moves the balance both ways, below zero too."""
        limit(governor, "1")
        governor.record(id="e", tenant=TENANT, tool=TOOL, cost="1")
        assert not dimes(governor).allowed
        governor.adjust("e", "-1.50", reason="credit", by="bob")
        assert sums(governor) == (Decimal("-0.50"), 0)
        assert dimes(governor, 15).allowed
        governor.adjust("e", "0.10", reason="fee", by="bob")
        assert not dimes(governor).allowed

    def test_usage_adds_up_the_events(self, governor: Governor, clock: FakeClock) -> None:
        """Sums by tool, user and model equal the events of the period, to the cent."""
        governor.settle(dimes(governor, user="alice"), cost="0.11")
        governor.record(id="e", tenant=TENANT, model=LARGE, usage=Usage(input=7), user="bob")
        governor.adjust("e", "0.001", reason="fee", by="bob")
        governor.record(id="f", tenant="globex", tool=TOOL, cost="9")
        clock.advance("1d")
        governor.settle(dimes(governor, user="alice"), cost="0.40")
        month = governor.usage(TENANT, period="month", group_by=("user", "tool"))
        assert month.total_cost == Decimal("0.518")
        assert (month.total_events, month.total_tokens) == (4, 7)
        assert {key: group.cost for key, group in month.groups.items()} == {
            ("alice", TOOL): Decimal("0.51"),
            ("bob", LARGE): Decimal("0.008"),
        }
        assert governor.usage(TENANT).total_cost == Decimal("0.40")
        assert governor.usage(TENANT, user="bob", period="month").total_cost == Decimal("0.008")
        assert next(event.cost for event in month.recent_events) == Decimal("0.40")

    def test_events_are_read_in_order_page_by_page(self, governor: Governor) -> None:
        """Reading on from the last sequence number misses nothing and repeats nothing."""
        for number in range(25):
            tenant = TENANT if number % 2 else "globex"
            governor.record(id=f"e{number}", tenant=tenant, tool=TOOL, cost=number)
        pages, after = [], 0
        while page := governor.events(after=after, limit=4):
            pages.append(page)
            after = page[-1].seq
        assert [len(page) for page in pages] == [4] * 6 + [1]
        assert [event.cost for page in pages for event in page] == list(range(25))
        assert [event.cost for event in governor.events(tenant=TENANT)] == list(range(1, 25, 2))
