"""The life of a reservation: which state follows which, and what each does to the balances."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from fluxai.core.decisions import Reservation
from fluxai.core.errors import ReservationNotFound, SettlementConflict
from fluxai.core.usage import Usage
from fluxai.governor import Governor
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import (
    DIME,
    LARGE,
    TENANT,
    Case,
    dimes,
    limit,
    state,
    sums,
    tokens,
)


class Lifecycle(Case):
    """`pending → reserved | released | expired`, `reserved → settled | released | expired`."""

    def test_reserve_then_settle(self, governor: Governor) -> None:
        """What a call really cost replaces what was held for it."""
        limit(governor, "1")
        held = dimes(governor)
        assert (held.state, sums(governor)) == ("reserved", (0, DIME))
        settlement = governor.settle(held, cost="0.04")
        assert (settlement.cost, settlement.flags) == (Decimal("0.04"), ())
        assert (state(governor, held), sums(governor)) == ("settled", (Decimal("0.04"), 0))

    def test_reserve_then_release(self, governor: Governor) -> None:
        """A call that was not made gives its money back, its request included."""
        limit(governor, "1")
        limit(governor, "1", id="requests", measure="requests")
        held = dimes(governor)
        assert sums(governor, "requests") == (0, 1)
        assert governor.release(held).state == "released"
        assert sums(governor) == (0, 0)
        assert sums(governor, "requests") == (0, 0)
        assert governor.events() == []

    def test_an_overdue_reservation_expires(self, governor: Governor, clock: FakeClock) -> None:
        """What nobody resolved in time gives its money back, at its time and not before."""
        limit(governor, "1")
        held = dimes(governor, ttl="10m")
        clock.advance(timedelta(minutes=10, microseconds=-1))
        assert governor.expire() == (0, 0)
        clock.advance(timedelta(microseconds=1))
        assert governor.expire() == (1, 0)
        assert (state(governor, held), sums(governor)) == ("expired", (0, 0))

    @pytest.mark.parametrize("end", ["released", "expired"])
    def test_what_was_charged_after_the_end_is_recorded(
        self, governor: Governor, clock: FakeClock, end: str
    ) -> None:
        """A settlement after release or expiry counts in the same windows, flagged `late`."""
        limit(governor, "1", limit_type="daily")
        held = dimes(governor, ttl="10m")
        _end(governor, clock, held, end)
        settlement = governor.settle(held, cost="0.06")
        assert settlement.late
        assert (state(governor, held), sums(governor)) == ("settled", (Decimal("0.06"), 0))
        assert governor.settle(held, cost="0.06").event_id == settlement.event_id
        with pytest.raises(SettlementConflict):
            governor.settle(held, cost="0.07")
        assert sums(governor) == (Decimal("0.06"), 0)

    def test_a_late_settlement_counts_where_the_reserve_was(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """The day of the reserve picks the window, not the day of the settlement."""
        limit(governor, "1", limit_type="daily")
        held = dimes(governor, ttl="10m")
        clock.advance("1d")
        governor.expire()
        governor.settle(held, cost="0.06")
        assert sums(governor) == (0, 0)
        (event,) = governor.events()
        assert event.at - event.counted_at == timedelta(days=1)

    def test_a_pending_reservation_that_was_charged_is_recorded(self, governor: Governor) -> None:
        """Settling what still waits for an approval counts, is late, and ends the approval."""
        limit(governor, "0", decision="require_approval")
        held = dimes(governor)
        assert governor.settle(held, cost="0.06").late
        assert sums(governor) == (Decimal("0.06"), 0)
        assert governor.approvals.get(held.id).state not in ("pending", "approved")

    def test_an_exact_settlement_corrects_an_estimated_one(self, governor: Governor) -> None:
        """After an estimate one exact settle is accepted; the difference is an event of its own."""
        limit(governor, "1")
        held = dimes(governor)
        first = governor.settle(held, cost="0.10", estimated=True)
        assert first.estimated
        exact = governor.settle(held, cost="0.04")
        assert (exact.cost, exact.estimated, exact.event_id) == (
            Decimal("0.04"),
            False,
            first.event_id,
        )
        assert sums(governor) == (Decimal("0.04"), 0)
        event, correction = governor.events()
        assert (event.cost, correction.cost) == (DIME, Decimal("-0.06"))
        assert correction.corrects == event.id
        assert "correction" in correction.flags

    def test_a_correction_counts_in_the_windows_of_what_it_corrects(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A correction on the next day leaves that day alone."""
        limit(governor, "1", limit_type="daily")
        held = dimes(governor)
        governor.settle(held, cost="0.10", estimated=True)
        clock.advance("1d")
        governor.settle(held, cost="0.50")
        assert sums(governor) == (0, 0)
        clock.advance(timedelta(days=-1))
        assert governor.usage(
            TENANT, start=clock.now, end=clock.now + timedelta(hours=1)
        ).total_cost == (Decimal("0.50"))

    def test_only_one_exact_settlement_follows_an_estimate(self, governor: Governor) -> None:
        """The exact cost may come again, but not another one; nor does the estimate come back."""
        limit(governor, "1")
        held = dimes(governor)
        governor.settle(held, cost="0.10", estimated=True)
        governor.settle(held, cost="0.04")
        for again in (
            governor.settle(held, cost="0.04"),
            governor.settle(held, cost="0.10", estimated=True),
        ):
            assert again.cost == Decimal("0.04")
        with pytest.raises(SettlementConflict):
            governor.settle(held, cost="0.05")
        assert sums(governor) == (Decimal("0.04"), 0)
        assert len(governor.events()) == 2

    def test_the_exact_usage_corrects_every_measure(self, governor: Governor) -> None:
        """A correction brings tokens in line as well as money, and leaves the request counted."""
        for measure in ("cost", "tokens", "requests"):
            limit(governor, "1000", id=measure, measure=measure)
        held = tokens(governor)
        governor.settle(held, cost="0.05", estimated=True)
        governor.settle(held, usage=Usage(input=50, output=10))
        assert sums(governor, "cost") == (Decimal("0.06"), 0)
        assert sums(governor, "tokens") == (60, 0)
        assert sums(governor, "requests") == (1, 0)

    def test_settled_by_cost_alone_the_tokens_count_as_expected(self, governor: Governor) -> None:
        """A settlement without usage counts the expected tokens, and says so."""
        limit(governor, "1000", measure="tokens")
        settlement = governor.settle(tokens(governor), cost="0.05")
        assert "tokens_estimated" in settlement.flags
        assert sums(governor) == (100, 0)

    def test_extend_lets_it_live_longer_and_never_shorter(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """An extended reservation outlives its first time; a shorter ttl changes nothing."""
        limit(governor, "1")
        held = dimes(governor, ttl="10m")
        clock.advance("9m")
        extended = governor.extend(held, ttl="10m")
        assert extended.expires_at == clock.now + timedelta(minutes=10)
        assert governor.extend(held, ttl="1m").expires_at == extended.expires_at
        clock.advance(timedelta(minutes=10, microseconds=-1))
        assert governor.expire().released == 0
        clock.advance(timedelta(microseconds=1))
        assert governor.expire().released == 1

    @pytest.mark.parametrize("end", ["settled", "released", "expired"])
    def test_what_has_ended_can_not_be_extended(
        self, governor: Governor, clock: FakeClock, end: str
    ) -> None:
        """Extending what is not reserved any more is an error that says so."""
        limit(governor, "1")
        held = dimes(governor, ttl="10m")
        _end(governor, clock, held, end)
        with pytest.raises(ReservationNotFound, match=end):
            governor.extend(held, ttl="1h")

    def test_a_refusal_holds_nothing_and_can_not_be_settled(self, governor: Governor) -> None:
        """A refused call is in no balance and no list; settling it is an error."""
        limit(governor, "0.05")
        refused = dimes(governor)
        assert (refused.allowed, refused.state) == (False, "refused")
        with pytest.raises(ReservationNotFound):
            governor.settle(refused, cost="0.05")
        assert governor.reservations() == []
        assert sums(governor) == (0, 0)

    def test_settled_by_its_id_alone(self, governor: Governor) -> None:
        """An id is enough to settle, release and extend what the store holds."""
        limit(governor, "1")
        first, second = dimes(governor), dimes(governor)
        governor.extend(first.id, ttl="2h", tenant=TENANT)
        assert governor.settle(first.id, cost="0.03").reservation_id == first.id
        governor.release(second.id)
        assert sums(governor) == (Decimal("0.03"), 0)

    def test_settled_after_a_journey_as_json(self, governor: Governor) -> None:
        """A reservation that crossed to another process as text settles like the original."""
        limit(governor, "1")
        held = tokens(governor)
        travelled = Reservation.from_json(held.to_json())
        assert (travelled.id, travelled.model) == (held.id, LARGE)
        settlement = governor.settle(travelled, usage=Usage(input=10, output=20))
        assert settlement.cost == Decimal("0.03")
        assert sums(governor) == (Decimal("0.03"), 0)

    def test_lists_by_state(self, governor: Governor, clock: FakeClock) -> None:
        """Each of the five states lists its own reservations, newest first."""
        limit(governor, "0.50")
        ends = {"settled": [], "released": [], "expired": []}  # type: dict[str, list[str]]
        for end, ids in ends.items():
            held = dimes(governor, ttl="1s")
            _end(governor, clock, held, end)
            ids.append(held.id)
        clock.advance("1s")
        ends["reserved"] = [dimes(governor).id]
        limit(governor, "0", decision="require_approval", id="ask", priority=9)
        clock.advance("1s")
        ends["pending"] = [dimes(governor).id]
        for name, ids in ends.items():
            assert [one.id for one in governor.reservations(state=name)] == ids
        newest_first = [one.counted_at for one in governor.reservations(tenant=TENANT)]
        assert newest_first == sorted(newest_first, reverse=True)
        assert len(newest_first) == 5


def _end(governor: Governor, clock: FakeClock, held: Reservation, end: str) -> None:
    """Bring a reservation to its end."""
    if end == "settled":
        governor.settle(held, cost="0.01")
    elif end == "released":
        governor.release(held)
    else:
        assert held.expires_at is not None
        clock.set(held.expires_at)
        governor.expire()
