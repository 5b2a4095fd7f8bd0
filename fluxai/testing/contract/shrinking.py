"""A stated output cap that is too large is shrunk, where the limits in its way allow that."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from fluxai.core.decisions import Reservation
from fluxai.governor import Governor
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import (
    LARGE,
    SMALL,
    TENANT,
    TOOL,
    Case,
    acted,
    budget,
    dimes,
    limit,
)

LEAST = 256


def capped(governor: Governor, cap: int, **request: object) -> Reservation:
    """Reserve 100 tokens of input and a cap; a thousand tokens cost a dollar."""
    return governor.reserve(
        **{  # type: ignore[arg-type]
            "tenant": TENANT,
            "model": LARGE,
            "input_tokens": 100,
            "max_output_tokens": cap,
            **request,
        }
    )


class Shrinking(Case):
    """`shrink_output`: the largest cap that fits, down to a floor, and why."""

    def test_the_largest_cap_that_fits_is_granted(self, governor: Governor) -> None:
        """A call that only its cap takes over the limit gets what is left, to the last token."""
        limit(governor, "2", shrink_output=True)
        first = capped(governor, 900)
        held = capped(governor, 5_000)
        assert (first.max_output_tokens, first.shrunk, first.reasons) == (900, False, ())
        assert (held.decision, held.max_output_tokens, held.shrunk) == ("allowed", 900, True)
        assert held.estimate.highest == 1
        assert budget(governor).remaining == 0
        assert not capped(governor, 5_000).allowed

    @pytest.mark.parametrize("measure", ["cost", "tokens"])
    @pytest.mark.parametrize("limit_type", ["per_request", "daily", "rolling"])
    def test_every_window_and_both_measures_shrink(
        self, governor: Governor, limit_type: str, measure: str
    ) -> None:
        """Money and tokens, of one call or of a window, leave room for so much output."""
        value = {"cost": "0.500", "tokens": "500"}[measure]
        window = {"window": "1h"} if limit_type == "rolling" else {}
        limit(governor, value, limit_type=limit_type, measure=measure, shrink_output=True, **window)
        assert capped(governor, 1_000).max_output_tokens == 400

    def test_the_tightest_of_several_limits_decides(self, governor: Governor) -> None:
        """What is granted fits in every budget that applies."""
        limit(governor, "0.900", id="money", shrink_output=True)
        limit(governor, "500", id="tokens", measure="tokens", shrink_output=True)
        limit(governor, "5", id="wide")
        held = capped(governor, 1_000)
        assert held.max_output_tokens == 400
        assert {one.policy_id for one in held.reasons if one.shrank} == {"money", "tokens"}

    def test_a_limit_that_does_not_allow_it_refuses(self, governor: Governor) -> None:
        """One crossed `deny` limit without `shrink_output` is enough, whatever the others allow."""
        limit(governor, "0.900", id="soft", shrink_output=True)
        limit(governor, "0.950", id="firm", limit_type="daily")
        refused = capped(governor, 1_000)
        assert not refused.allowed
        assert "firm" in {one.policy_id for one in refused.reasons}
        assert capped(governor, 850).max_output_tokens == 800

    def test_the_floor_is_256_tokens_or_a_quarter_of_a_small_cap(self, governor: Governor) -> None:
        """An answer too short to be of use is refused instead, with what would fit."""
        limit(governor, "0.356", shrink_output=True, limit_type="per_request")
        assert capped(governor, 5_000).max_output_tokens == LEAST
        limit(governor, "0.355", shrink_output=True, limit_type="per_request")
        refused = capped(governor, 5_000)
        assert not refused.allowed
        assert refused.counter_offer is not None
        assert refused.counter_offer.max_output_tokens == LEAST - 1
        limit(governor, "0.125", shrink_output=True, limit_type="per_request")
        assert capped(governor, 100).max_output_tokens == 25
        assert not capped(governor, 101).allowed

    def test_input_that_does_not_fit_is_refused(self, governor: Governor) -> None:
        """Less output helps nobody whose input alone is too large; nor a tool paid by the unit."""
        limit(governor, "0.050", shrink_output=True)
        assert not capped(governor, 1_000).allowed
        assert not dimes(governor).allowed

    def test_the_decision_says_what_was_asked_and_why(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """Asked for so much, granted so much, because of that policy: also when explained later."""
        limit(governor, "0.500", limit_type="daily", shrink_output=True)
        held = capped(governor, 1_000)
        (reason,) = held.reasons
        assert (reason.policy_id, reason.shrank, reason.crossed, reason.acted) == (
            "limit",
            True,
            False,
            False,
        )
        assert reason.resets_at is not None
        assert reason.resets_at > clock.now
        assert "Asked for 1,000 output tokens, granted 400: the daily cost limit" in held.message
        assert "(policy limit) has room for no more" in held.message
        for shown in (governor.explain(held.id), Reservation.from_json(held.to_json())):
            assert shown.message == held.message
            assert shown.reasons == held.reasons
            assert (shown.max_output_tokens, shown.shrunk) == (400, True)
            assert [one.shrank for one in shown.looked_at] == [True]

    def test_check_says_what_reserve_would_grant(self, governor: Governor) -> None:
        """Looking shrinks as reserving does, and holds nothing."""
        limit(governor, "0.500", shrink_output=True)
        looked = governor.check(
            tenant=TENANT, model=LARGE, input_tokens=100, max_output_tokens=1_000
        )
        assert (looked.decision, looked.max_output_tokens) == ("allowed", 400)
        assert budget(governor).reserved == 0

    def test_what_is_downgraded_is_shrunk_on_its_fallback(self, governor: Governor) -> None:
        """After a downgrade the caller's own cap is tried again, at the fallback's price."""
        limit(governor, "0.10", id="move", decision="downgrade", fallback_tool_id=SMALL)
        limit(governor, "0.500", id="stop", shrink_output=True)
        held = capped(governor, 2_000)
        assert (held.decision, held.model, held.max_output_tokens) == ("downgraded", SMALL, 900)
        assert "granted 900" in held.message

    def test_a_smaller_call_still_waits_for_its_approval(self, governor: Governor) -> None:
        """Shrinking satisfies what denies; a human is asked for what is left."""
        limit(governor, "0.200", id="ask", decision="require_approval", limit_type="daily")
        limit(governor, "0.500", id="stop", shrink_output=True)
        held = capped(governor, 1_000)
        assert (held.decision, acted(held), held.max_output_tokens) == (
            "pending_approval",
            "ask",
            400,
        )

    def test_shadow_limits_shrink_nothing(self, governor: Governor) -> None:
        """What only watches reports that it would be crossed, and leaves the cap alone."""
        limit(governor, "0.500", shrink_output=True, mode="shadow")
        held = capped(governor, 1_000)
        assert (held.max_output_tokens, held.shrunk) == (1_000, False)
        assert [one.crossed for one in held.reasons] == [True]

    def test_overdue_holds_give_way_before_less_is_granted(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """Money that nobody will settle any more is given back first."""
        limit(governor, "1", shrink_output=True)
        capped(governor, 500, ttl="1m")
        clock.advance("2m")
        assert capped(governor, 900).max_output_tokens == 900

    def test_a_repeat_is_given_the_same_cap(self, governor: Governor) -> None:
        """An idempotency key returns the reservation that was shrunk, whatever is left now."""
        limit(governor, "0.800", shrink_output=True)
        first = capped(governor, 1_000, idempotency_key="k")
        again = capped(governor, 1_000, idempotency_key="k")
        assert (again.id, again.max_output_tokens) == (first.id, 700)

    def test_many_threads_never_share_out_more_than_there_is(self, governor: Governor) -> None:
        """Caps shrunk at the same moment add up to the limit and no further."""
        limit(governor, "3", shrink_output=True)
        with ThreadPoolExecutor(16) as pool:
            grants = list(pool.map(lambda _: capped(governor, 700), range(16)))
        held = sum(100 + one.output_tokens for one in grants if one.allowed)
        assert budget(governor).reserved == Decimal(held) / 1_000
        assert sorted(one.output_tokens for one in grants if one.allowed) == [500, 700, 700, 700]

    def test_stop_stream_is_known_of_a_reservation(self, governor: Governor) -> None:
        """It is true where an enforced policy that applies has it; also by id, and as JSON."""
        limit(governor, "5", id="stop", scope="tool", scope_id=LARGE, stop_stream=True)
        limit(governor, "5", id="watch", stop_stream=True, mode="shadow")
        held = capped(governor, 100)
        assert held.stop_stream is True
        assert governor.explain(held.id).stop_stream is True
        assert Reservation.from_json(held.to_json()).stop_stream is True
        found = governor.storage.find(TENANT, held.uid)
        assert found is not None
        assert found.stop_stream is True
        assert capped(governor, 100, model=SMALL).stop_stream is False
        assert governor.reserve(tenant=TENANT, tool=TOOL).stop_stream is False
