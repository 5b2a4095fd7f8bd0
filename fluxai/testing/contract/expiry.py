"""Overdue reservations: what becomes of them, and how a reserve makes room before it refuses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

from fluxai.core.usage import Usage
from fluxai.governor import Governor
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import (
    DIME,
    Case,
    add_prices,
    dimes,
    limit,
    state,
    sums,
    tokens,
)


class Expiry(Case):
    """Expiry gives the money back, or settles at what was expected."""

    def test_thirty_minutes_unless_said_otherwise(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A reservation lives for half an hour by default."""
        assert dimes(governor).expires_at == clock.now + timedelta(minutes=30)
        assert dimes(governor, ttl="45s").expires_at == clock.now + timedelta(seconds=45)

    def test_a_reserve_makes_room_before_it_refuses(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """Overdue holds in its way are ended first, so that nobody has to run a reaper."""
        limit(governor, "0.30")
        held = [dimes(governor, ttl="1m") for _ in range(3)]
        clock.advance("1m")
        assert dimes(governor).allowed
        assert {state(governor, one) for one in held} == {"expired"}
        assert sums(governor) == (0, DIME)

    def test_nothing_is_ended_while_there_is_room(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """An overdue hold that stands in nobody's way may still be settled in time."""
        limit(governor, "0.30")
        held = dimes(governor, ttl="1m")
        clock.advance("1h")
        assert dimes(governor).allowed
        assert state(governor, held) == "reserved"
        assert not governor.settle(held, cost="0.05").late

    def test_up_to_sixty_four_overdue_holds_are_ended_by_one_reserve(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """One reserve ends at most 64, oldest first; the next one goes on from there."""
        limit(governor, "7.00")
        for _ in range(70):
            dimes(governor, ttl="1m")
            clock.advance(timedelta(microseconds=1))
        clock.advance("1m")
        assert not dimes(governor, 65).allowed
        assert len(governor.reservations(state="expired")) == 64
        assert sums(governor) == (0, Decimal("0.60"))
        assert dimes(governor, 65).allowed
        assert len(governor.reservations(state="expired")) == 70

    def test_those_in_the_way_are_ended_first(self, governor: Governor, clock: FakeClock) -> None:
        """A user's own overdue hold is ended before a hundred older ones of others."""
        limit(governor, "0.10", scope="user")
        for other in range(100):
            dimes(governor, user=f"u{other}", ttl="1m")
        clock.advance("1s")
        mine = dimes(governor, user="alice", ttl="1m")
        clock.advance("2m")
        assert dimes(governor, user="alice").allowed
        assert state(governor, mine) == "expired"
        assert len(governor.reservations(state="expired")) <= 64

    def test_other_tenants_holds_are_left_alone(self, governor: Governor, clock: FakeClock) -> None:
        """A refusal in one tenant ends nothing in another."""
        limit(governor, "0.10", tenant_id="*")
        other = dimes(governor, tenant="globex", ttl="1m")
        dimes(governor)
        clock.advance("5m")
        assert not dimes(governor).allowed
        assert state(governor, other) == "reserved"

    def test_pending_calls_make_room_too(self, governor: Governor, clock: FakeClock) -> None:
        """An approval that nobody gave in time gives its money back before others are refused."""
        limit(governor, "0", decision="require_approval", scope="user", scope_id="alice")
        limit(governor, "0.10", id="stop")
        held = dimes(governor, user="alice")
        assert held.decision == "pending_approval"
        assert not dimes(governor, user="bob").allowed
        clock.advance("24h")
        assert dimes(governor, user="bob").allowed
        assert state(governor, held) == "expired"
        assert governor.approvals.get(held.id).state == "expired"

    def test_expiry_may_settle_at_what_was_expected(
        self, open_governor: Callable[..., Governor], clock: FakeClock
    ) -> None:
        """With `on_expiry="settle"` overdue money counts as spent, flagged, and may be corrected."""
        governor = open_governor(on_expiry="settle")
        add_prices(governor)
        for measure in ("cost", "tokens"):
            limit(governor, "1000", id=measure, measure=measure)
        held = tokens(governor, ttl="1m")
        clock.advance("1m")
        assert governor.expire() == (0, 1)
        assert sums(governor, "cost") == (DIME, 0)
        assert sums(governor, "tokens") == (100, 0)
        (event,) = governor.events()
        assert {"estimated", "expired"} <= set(event.flags)
        exact = governor.settle(held, usage=Usage(input=10, output=5))
        assert (exact.cost, exact.estimated) == (Decimal("0.015"), False)
        assert sums(governor, "cost") == (Decimal("0.015"), 0)
        assert sums(governor, "tokens") == (15, 0)

    def test_a_reserve_settles_what_is_in_its_way(
        self, open_governor: Callable[..., Governor], clock: FakeClock
    ) -> None:
        """With `on_expiry="settle"` an overdue hold makes no room, for it counts as spent."""
        governor = open_governor(on_expiry="settle")
        add_prices(governor)
        limit(governor, "0.10")
        held = dimes(governor, ttl="1m")
        clock.advance("1m")
        assert not dimes(governor).allowed
        assert state(governor, held) == "settled"
        assert sums(governor) == (DIME, 0)

    def test_what_never_ran_is_released_and_not_charged(
        self, open_governor: Callable[..., Governor], clock: FakeClock
    ) -> None:
        """Under `on_expiry="settle"` too, a call that waited for an approval, or for its run, is free."""
        governor = open_governor(on_expiry="settle")
        add_prices(governor)
        limit(governor, "0", decision="require_approval")
        dimes(governor)
        approved = dimes(governor)
        governor.approvals.approve(approved.id, by="bob")
        clock.advance("25h")
        assert governor.expire() == (2, 0)
        assert sums(governor) == (0, 0)
        assert governor.events() == []

    def test_expire_takes_the_oldest_first_and_says_how_many(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A bounded run ends the oldest of all tenants; the rest waits for the next."""
        held = [dimes(governor, tenant=f"t{n % 3}", ttl=timedelta(minutes=n + 1)) for n in range(6)]
        clock.advance("1h")
        assert governor.expire(limit=4) == (4, 0)
        assert [state(governor, one) for one in held] == ["expired"] * 4 + ["reserved"] * 2
        assert governor.expire() == (2, 0)
        assert governor.expire() == (0, 0)
