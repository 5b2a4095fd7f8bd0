"""The ledger's arithmetic: rings, the choice of output, and the one rule that decides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.ledger import (
    COST,
    DEFAULT_OUTPUT_TOKENS,
    MIN_OUTPUT_TOKENS,
    REQUESTS,
    TOKENS,
    Candidate,
    Check,
    Counter,
    CounterKey,
    Need,
    Plan,
    RingState,
    Subject,
    Verdict,
    amounts_of,
    judge,
    largest_output,
    pick_output,
)
from fluxai.core.money import PER_MILLION
from fluxai.core.windows import MAX_US, Ring

SECOND = 1_000_000
KEY = CounterKey("acme", "tenant", "acme", "cost", "rolling:60000000", 0)


def check(limit: int, **fields: Any) -> Check:
    """Make a check, of money that denies where nothing else is said."""
    values: dict[str, Any] = {
        "policy_id": "p",
        "scope": "tenant",
        "scope_id": None,
        "limit_type": "total",
        "measure": COST,
        "limit": limit,
        "decision": "deny",
        "mode": "enforce",
        "slot": 0,
        "fallback": -1,
        "end_us": MAX_US,
        "alert_at": (),
        "rank": (0, 3, 0, "p"),
        **fields,
    }
    return Check(**values)


def decide(
    *candidates: list[Check], needs: list[Need | None] | None = None, used: int = 0
) -> Verdict:
    """Judge candidates that have one counter each, all as full."""
    made = tuple(
        Candidate(
            index=index,
            tool=f"tool{index}",
            model=None,
            requested_tool="tool0",
            rates=None,
            unit_rate=None,
            max_output=0,
            checks=tuple(checks),
        )
        for index, checks in enumerate(candidates)
    )
    plan = Plan(subject=Subject("acme"), version=(0, 0), start_us=0, end_us=MAX_US, candidates=made)
    if needs is None:
        needs = [costing(10 - index) for index in range(len(made))]
    return judge(plan, needs, {index: ([used], [used]) for index in range(len(made))})


def costing(amount: int) -> Need:
    """Make the need of a call that costs so many nano-USD."""
    return Need(amount * PER_MILLION, 0, 0, 0, 0, 0)


# -- rings ----------------------------------------------------------------------------------


@given(
    st.integers(SECOND, 100 * SECOND),
    st.integers(1, 7),
    st.lists(
        st.tuples(st.integers(0, 400 * SECOND), st.integers(0, 99), st.booleans()), max_size=40
    ),
)
def test_a_ring_counts_its_window_and_less_than_a_bucket_more(
    length_us: int, buckets: int, steps: list[tuple[int, int, bool]]
) -> None:
    """Whatever comes in which order: all of the last window counts, nothing older than a bucket."""
    ring = Ring(length_us, buckets)
    counter = Counter(KEY, MAX_US, RingState(ring, 0))
    latest, posted = 0, []
    for at_us, amount, late in steps:
        now_us = max(latest, at_us)
        # A late one counts where it was reserved, however long ago.
        counted_us = at_us if late else now_us
        latest = now_us
        counter.turn(now_us)
        counter.post(amount, counted_us)
        posted.append((counted_us, amount))
        least = sum(one for at, one in posted if at > latest - length_us)
        most = sum(one for at, one in posted if at > latest - length_us - 2 * ring.width_us)
        assert least <= counter.settled <= most
        assert counter.settled == sum(counter.ring.buckets.values())  # type: ignore[union-attr]


def test_a_ring_never_turns_backwards() -> None:
    """A clock that is behind changes nothing of what a ring has let go or still counts."""
    counter = Counter(KEY, MAX_US, RingState(Ring(60 * SECOND), 0))
    counter.post(5, 0)
    counter.turn(200 * SECOND)
    counter.post(7, 200 * SECOND)
    counter.turn(10 * SECOND)
    counter.post(9, 10 * SECOND)
    assert (counter.settled, counter.committed) == (7, 7)


def test_a_hold_does_not_age_with_the_ring() -> None:
    """What is reserved stays, whatever the buckets let go."""
    counter = Counter(KEY, MAX_US, RingState(Ring(60 * SECOND), 0))
    counter.hold(3)
    counter.post(5, 0)
    counter.turn(1_000 * SECOND)
    assert (counter.settled, counter.reserved, counter.committed) == (0, 3, 3)


# -- the choice of output -------------------------------------------------------------------

needs = st.builds(
    Need,
    fixed=st.integers(0, 10**9),
    per_output=st.sampled_from([0, 1, 999_999, PER_MILLION, 7 * PER_MILLION + 3]),
    input_tokens=st.integers(0, 500),
    expected_input_tokens=st.just(0),
    cap=st.none(),
    output_max=st.sampled_from([1, 100, 256, 300, 4_096, 100_000]),
)
checks = st.lists(
    st.builds(
        check,
        st.integers(0, 20_000),
        measure=st.sampled_from([COST, TOKENS]),
        slot=st.sampled_from([0, 1, -1]),
        mode=st.sampled_from(["enforce", "enforce", "shadow"]),
    ),
    max_size=4,
)
balances = st.lists(st.integers(0, 20_000), min_size=2, max_size=2)


def crosses(one: Check, need: Need, output: int, committed: list[int]) -> bool:
    """Say whether a check would be crossed with so much output."""
    used = committed[one.slot] if one.slot >= 0 else 0
    return used + amounts_of(need, output)[one.measure] > one.limit


@given(needs, checks, balances)
def test_the_largest_output_fits_and_one_more_does_not(
    need: Need, limits: list[Check], committed: list[int]
) -> None:
    """A counter-offer is the largest cap under which every acting limit holds."""
    acting = [one for one in limits if one.acts]
    most = largest_output(limits, need, committed)
    if most >= 0:
        assert not any(crosses(one, need, most, committed) for one in acting)
    if most < need.output_max:
        assert any(crosses(one, need, max(0, most + 1), committed) for one in acting)
    else:
        assert most == need.output_max


@given(needs, checks, balances)
def test_a_grant_is_the_least_and_a_quarter_of_what_is_beyond(
    need: Need, limits: list[Check], committed: list[int]
) -> None:
    """At least 256, at most the model's maximum, and three quarters of the rest stay for others."""
    acting = [one for one in limits if one.acts]
    granted = pick_output(limits, need, committed)
    least = min(MIN_OUTPUT_TOKENS, need.output_max)
    assert least <= granted <= need.output_max
    if granted > least:
        # Four times what was taken beyond the least would have fitted as well.
        assert not any(
            crosses(one, need, least + 4 * (granted - least), committed) for one in acting
        )
    if granted < need.output_max:
        assert any(
            crosses(one, need, least + 4 * (granted - least + 1), committed) for one in acting
        )


def test_a_grant_without_limits_is_all_that_may_be_granted() -> None:
    """Where nothing limits a call, a share of the headroom is no bound."""
    need = Need(0, PER_MILLION, 0, 0, None, DEFAULT_OUTPUT_TOKENS)
    assert pick_output([], need, []) == DEFAULT_OUTPUT_TOKENS


def test_a_cap_is_taken_as_it_is() -> None:
    """The caller's own cap is neither raised nor cut; the limits judge it."""
    need = Need(0, PER_MILLION, 0, 0, 9, DEFAULT_OUTPUT_TOKENS)
    assert pick_output([check(0)], need, [0]) == 9


@given(st.integers(0, 10**12), st.integers(0, 10**7), st.integers(0, 10**6))
def test_a_hold_is_rounded_up_once(fixed: int, per_output: int, output: int) -> None:
    """Input, output and fees are added before they are rounded."""
    cost, *_ = amounts_of(Need(fixed, per_output, 0, 0, output, output), output)
    exact = fixed + per_output * output
    assert exact <= cost * PER_MILLION < exact + PER_MILLION


# -- the rule -------------------------------------------------------------------------------


def test_reaching_a_limit_is_not_crossing_it() -> None:
    """Settled + reserved + requested may equal the limit, and be no more."""
    assert decide([check(25)], used=15).decision == "allowed"
    assert decide([check(24)], used=15).decision == "denied"


@pytest.mark.parametrize("fields", [{"mode": "shadow"}, {"decision": "allow"}, {"forgiven": True}])
def test_what_only_reports_decides_nothing(fields: dict[str, Any]) -> None:
    """A shadow limit, a warning, and a fallback's own limit are crossed without effect."""
    verdict = decide([check(0, **fields)])
    assert verdict.decision == "allowed"
    assert len(verdict.last.crossed) == 1


def test_the_first_of_the_crossed_limits_decides() -> None:
    """Checks stand in the order in which they act; one that holds is passed over."""
    first, second = check(5, policy_id="first"), check(3, policy_id="second")
    assert decide([check(99), first, second]).last.acted is first


def test_an_approval_forgives_no_deny() -> None:
    """A deny that is crossed as well refuses, wherever it stands; one in shadow does not."""
    ask = check(0, decision="require_approval")
    assert decide([ask]).decision == "pending_approval"
    assert decide([ask, check(0)]).decision == "denied"
    assert decide([ask, check(0, mode="shadow")]).decision == "pending_approval"


def test_a_downgrade_moves_once() -> None:
    """The fallback is judged by its own checks, and leads nowhere else."""
    move = check(0, decision="downgrade", fallback=1)
    assert decide([move], []).decision == "downgraded"
    assert decide([move], [check(0)]).decision == "denied"
    assert decide([move], [check(0, decision="require_approval")]).decision == "pending_approval"
    again = check(0, decision="downgrade", fallback=2)
    verdict = decide([move], [again], [])
    assert verdict.decision == "denied"
    assert [step.candidate.index for step in verdict.steps] == [0, 1]


def test_a_downgrade_without_an_able_fallback_refuses() -> None:
    """Neither a missing fallback nor one that the request does not fit is run."""
    assert decide([check(0, decision="downgrade")]).decision == "denied"
    move = check(0, decision="downgrade", fallback=1)
    assert decide([move], [], needs=[costing(1), None]).decision == "denied"


def test_a_limit_of_requests_counts_units() -> None:
    """What a hold adds to the measure of requests is what the request said."""
    need = costing(0)._replace(requests=3)
    assert decide([check(3, measure=REQUESTS)], needs=[need]).decision == "allowed"
    assert decide([check(2, measure=REQUESTS)], needs=[need]).decision == "denied"
