"""Counters that are needed later than their money: new policies, changed windows, deleted rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from fluxai.core.usage import Usage
from fluxai.governor import Governor
from fluxai.policy.records import Tenant, User
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import (
    DIME,
    LARGE,
    SMALL,
    TENANT,
    TOOL,
    Case,
    budget,
    budgets,
    dimes,
    limit,
    sums,
    tokens,
)

SCOPES: list[dict[str, Any]] = [
    {"scope": "tenant"},
    {"scope": "user", "scope_id": "alice"},
    {"scope": "tool", "scope_id": LARGE},
    {"scope": "label", "scope_id": "team=red"},
]


def spend(governor: Governor) -> None:
    """Settle 0.30 and hold 0.10 for alice's red team on the large model, and as much elsewhere."""
    mine: dict[str, Any] = {"user": "alice", "labels": {"team": "red"}}
    others: dict[str, Any] = {"user": "bob", "labels": {"team": "blue"}, "model": SMALL}
    for who in (mine, others):
        governor.settle(tokens(governor, **who), usage=Usage(input=100, output=100))
        governor.settle(tokens(governor, **who), usage=Usage(input=50, output=50))
        tokens(governor, **who)


class Reopening(Case):
    """Editing, deleting or recreating a policy keeps what was spent."""

    @pytest.mark.parametrize("limit_type", ["hourly", "daily", "weekly", "monthly", "total"])
    @pytest.mark.parametrize("fields", SCOPES, ids=lambda fields: fields["scope"])
    def test_a_new_policy_counts_what_was_there_before(
        self, governor: Governor, fields: dict[str, Any], limit_type: str
    ) -> None:
        """A counter needed later is opened from the events and open reservations that match it."""
        spend(governor)
        for measure in ("cost", "tokens", "requests"):
            limit(governor, "1000", id=measure, limit_type=limit_type, measure=measure, **fields)
        limit(governor, "1000", id="open", limit_type="concurrent", **fields)
        tokens(governor, user="alice", labels={"team": "red"})
        both = fields["scope"] == "tenant"
        money = Decimal("0.45") if both else Decimal("0.30")
        held = Decimal("0.25") if both else Decimal("0.20")
        assert sums(governor, "cost") == (money, held)
        assert sums(governor, "tokens") == ((600, 300) if both else (300, 200))
        assert sums(governor, "requests") == ((4, 3) if both else (2, 2))
        assert sums(governor, "open") == (0, 3 if both else 2)

    def test_a_new_policy_shows_its_account_before_any_call(self, governor: Governor) -> None:
        """`budgets` tells what a policy would count, though no counter was opened yet."""
        spend(governor)
        limit(governor, "1", limit_type="daily")
        assert sums(governor) == (Decimal("0.45"), Decimal("0.15"))
        assert governor.verify().ok

    def test_a_new_rolling_policy_counts_what_is_still_in_its_window(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A ring opened later has each event in the bucket of its own time, and all open holds."""
        for _ in range(3):
            governor.settle(dimes(governor), cost="0.10")
            clock.advance("30m")
        dimes(governor, ttl="10h")
        limit(governor, "0.40", limit_type="rolling", window="60m")
        assert not dimes(governor, 2).allowed
        assert sums(governor) == (Decimal("0.20"), DIME)
        clock.advance("30m")
        assert sums(governor) == (DIME, DIME)

    def test_what_a_later_counter_holds_settles_there_too(self, governor: Governor) -> None:
        """A reservation older than a policy is settled, or released, in that policy's counter."""
        first, second = dimes(governor), dimes(governor)
        limit(governor, "1")
        third = dimes(governor)
        assert sums(governor) == (0, Decimal("0.30"))
        governor.settle(first, cost="0.05")
        governor.release(second)
        governor.settle(third, cost="0.01")
        assert sums(governor) == (Decimal("0.06"), 0)

    def test_settled_before_the_counter_is_opened(self, governor: Governor) -> None:
        """What ends between a policy's making and its first use is counted once."""
        first = dimes(governor)
        limit(governor, "1")
        governor.settle(first, cost="0.05")
        dimes(governor)
        assert sums(governor) == (Decimal("0.05"), DIME)

    def test_an_edited_limit_applies_from_the_next_reserve(self, governor: Governor) -> None:
        """Raising or lowering a limit keeps the account; holds stay even above a lowered one."""
        limit(governor, "0.20", limit_type="daily")
        dimes(governor)
        held = dimes(governor)
        assert not dimes(governor).allowed
        limit(governor, "0.30", limit_type="daily")
        assert dimes(governor).allowed
        limit(governor, "0.05", limit_type="daily")
        assert sums(governor) == (0, Decimal("0.30"))
        assert budget(governor).remaining == 0
        assert not dimes(governor).allowed
        assert governor.settle(held, cost="0.10").cost == DIME

    def test_a_policy_deleted_and_made_again_forgives_nothing(self, governor: Governor) -> None:
        """What is spent and held while there is no policy counts when it is back, under any id."""
        limit(governor, "1", limit_type="daily")
        held = dimes(governor)
        governor.settle(dimes(governor), cost="0.30")
        governor.policies.delete("limit")
        governor.settle(held, cost="0.20")
        governor.settle(dimes(governor), cost="0.30")
        dimes(governor)
        limit(governor, "1", id="again", limit_type="daily")
        assert not dimes(governor, 2).allowed
        assert sums(governor, "again") == (Decimal("0.80"), DIME)

    @pytest.mark.parametrize(
        "other",
        [
            {"limit_type": "weekly"},
            {"measure": "requests", "limit_value": "100"},
            {"scope": "user", "scope_id": "alice"},
            {"scope": "label", "scope_id": "team"},
            {"limit_type": "rolling", "window": "3h"},
        ],
    )
    def test_a_policy_changed_and_changed_back_forgives_nothing(
        self, governor: Governor, other: dict[str, Any]
    ) -> None:
        """A policy that counted something else for a while knows all when it is itself again."""
        limit(governor, "1", limit_type="daily")
        governor.settle(dimes(governor, user="alice"), cost="0.30")
        limit(governor, "1", **{"limit_type": "daily", **other})
        governor.settle(dimes(governor, user="bob", labels={"team": "red"}), cost="0.20")
        limit(governor, "1", limit_type="daily")
        assert not dimes(governor, 6).allowed
        assert sums(governor) == (Decimal("0.50"), 0)

    def test_a_policy_moved_to_every_tenant_and_back(self, governor: Governor) -> None:
        """Under `"*"` and under its own name a tenant's account is the same."""
        limit(governor, "1")
        governor.settle(dimes(governor), cost="0.30")
        limit(governor, "1", tenant_id="*")
        governor.settle(dimes(governor), cost="0.20")
        assert sums(governor) == (Decimal("0.50"), 0)
        limit(governor, "1")
        assert not dimes(governor, 6).allowed
        assert sums(governor) == (Decimal("0.50"), 0)

    @pytest.mark.parametrize("registered", [True, False])
    def test_a_changed_time_zone_opens_its_windows_from_the_events(
        self, governor: Governor, clock: FakeClock, *, registered: bool
    ) -> None:
        """A new zone moves the day's bounds; the events decide what is inside."""
        if registered:
            governor.tenants.put(Tenant(id=TENANT))
        limit(governor, "1", limit_type="daily")
        clock.set(datetime(2026, 1, 15, 3, tzinfo=UTC))
        governor.settle(dimes(governor), cost="0.10")  # the day before in New York
        clock.set(datetime(2026, 1, 15, 6, tzinfo=UTC))
        governor.settle(dimes(governor), cost="0.20")
        held = dimes(governor)
        governor.tenants.put(Tenant(id=TENANT, timezone="America/New_York"))
        dimes(governor)
        assert sums(governor) == (Decimal("0.20"), Decimal("0.20"))
        governor.settle(held, cost="0.30")
        assert sums(governor) == (Decimal("0.50"), DIME)
        assert governor.verify().ok
        governor.tenants.put(Tenant(id=TENANT, timezone="Asia/Tokyo"))
        assert sums(governor) == (Decimal("0.60"), DIME)
        dimes(governor)
        governor.tenants.delete(TENANT)
        assert sums(governor) == (Decimal("0.60"), Decimal("0.20"))

    def test_what_settles_after_a_zone_change_counts_in_the_new_windows(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A late settlement and a correction find the windows by the calendar of now."""
        limit(governor, "1", limit_type="daily")
        clock.set(datetime(2026, 1, 15, 3, tzinfo=UTC))
        late, estimated = dimes(governor), dimes(governor)
        governor.release(late)
        governor.settle(estimated, cost="0.10", estimated=True)
        governor.tenants.put(Tenant(id=TENANT, timezone="America/New_York"))
        dimes(governor)
        governor.settle(late, cost="0.20")
        governor.settle(estimated, cost="0.25")
        assert sums(governor) == (Decimal("0.45"), DIME)
        clock.set(datetime(2026, 1, 15, 6, tzinfo=UTC))
        assert sums(governor) == (0, 0)

    def test_limits_on_records_count_like_policies(self, governor: Governor) -> None:
        """A hard limit or a personal cap given later counts what was spent before."""
        governor.settle(dimes(governor, user="alice"), cost="0.30")
        governor.tenants.put(Tenant(id=TENANT, hard_limit="1", limit_period="daily"))
        governor.users.put(User(id="alice", tenant_id=TENANT, personal_cap="0.35"))
        assert not dimes(governor, user="alice").allowed
        assert dimes(governor, user="bob").allowed
        governor.users.put(User(id="alice", tenant_id=TENANT))
        assert dimes(governor, user="alice").allowed
        governor.users.put(User(id="alice", tenant_id=TENANT, personal_cap="0.45"))
        assert not dimes(governor, user="alice").allowed
        governor.tenants.put(Tenant(id=TENANT, hard_limit="1", limit_period="monthly"))
        governor.tenants.put(Tenant(id=TENANT, hard_limit="0.55", limit_period="daily"))
        assert not dimes(governor).allowed
        assert {one.policy_id for one in governor.budgets(TENANT)} >= {f"hard_limit:{TENANT}"}

    def test_a_plan_made_before_a_change_is_not_used_after_it(
        self, open_governor: Any, governor: Governor
    ) -> None:
        """Another governor's change of the rules holds for the very next call of this one."""
        other = open_governor()
        assert dimes(governor).allowed
        limit(other, "0.15")
        assert not dimes(governor).allowed
        other.policies.delete("limit")
        assert dimes(governor).allowed
        assert budgets(governor) == []

    def test_a_price_raised_by_another_governor_holds_for_the_next_call(
        self, open_governor: Any, governor: Governor
    ) -> None:
        """The hold that follows a change of price is made at the new price."""
        limit(governor, "1")
        dimes(governor)
        other = open_governor()
        tool = other.tools.get(TOOL)
        other.tools.put(tool.model_copy(update={"cost_per_unit": Decimal("0.50")}))
        assert dimes(governor).estimate.highest == Decimal("0.50")
        assert sums(governor) == (0, Decimal("0.60"))

    def test_an_ended_window_stays_right_for_what_settles_late(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """Yesterday's holds settle into yesterday, however many windows have come since."""
        limit(governor, "5", limit_type="hourly", scope="user")
        held = dimes(governor, user="u0", ttl="30d")
        for hour in range(1, 80):
            clock.advance("1h")
            governor.settle(dimes(governor, user=f"u{hour}"), cost="0.01")
        governor.settle(held, cost="0.20")
        assert governor.verify().ok
        clock.advance(timedelta(hours=-79))
        day = clock.now.replace(hour=0)
        assert governor.usage(TENANT, start=day).total_cost == Decimal("0.31")
