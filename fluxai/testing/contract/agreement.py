"""The store decides as the pure rule does, on plans that nobody thought of."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxai.core.decisions import Reservation
from fluxai.core.ids import Uuid7Source
from fluxai.core.ledger import (
    COST,
    MEASURES,
    REQUESTS,
    TOKENS,
    Balances,
    Candidate,
    Need,
    Subject,
    judge,
)
from fluxai.core.money import PER_MILLION
from fluxai.storage.base import Storage
from fluxai.testing.contract.case import Case
from fluxai.testing.contract.plans import (
    NOON_US,
    counter_key,
    make_ask,
    make_candidate,
    make_check,
    make_plan,
    settle_at,
)

_number = itertools.count()
_amounts = st.integers(0, 60)
_decisions = st.sampled_from(["deny", "downgrade", "require_approval", "allow"])
_needs = st.builds(
    Need,
    fixed=_amounts.map(lambda cents: cents * PER_MILLION),
    per_output=st.sampled_from([0, PER_MILLION // 2, PER_MILLION, 3 * PER_MILLION + 1]),
    input_tokens=_amounts,
    expected_input_tokens=st.just(0),
    cap=st.none() | st.integers(0, 40),
    output_max=st.sampled_from([0, 8, 300, 4096]),
    requests=st.integers(1, 3),
    expected_fixed=st.just(0),
).map(lambda need: need if need.output_max else need._replace(cap=0, per_output=0))


@st.composite
def _candidates(draw: Any, tenant: str) -> tuple[Candidate, ...]:
    """Draw one to three candidates: the same counters in any order, and checks of their own."""
    count = draw(st.integers(1, 3))
    made = []
    for index in range(count):
        keys = draw(
            st.permutations(
                [
                    counter_key(tenant, value, measure=measure, scope="label")
                    for value in ("a=1", "b=1")
                    for measure in (COST, TOKENS, REQUESTS)
                ]
            )
        )
        checks = []
        for number in range(draw(st.integers(0, 4))):
            slot = draw(st.integers(-1, len(keys) - 1))
            measure = MEASURES.index(keys[slot].measure) if slot >= 0 else draw(st.integers(0, 2))
            decision = draw(_decisions)
            checks.append(
                make_check(
                    f"p{number}",
                    limit=draw(st.integers(0, 200) | st.just(5_000)),
                    slot=slot,
                    measure=measure,
                    decision=decision,
                    mode=draw(st.sampled_from(["enforce"] * 4 + ["shadow"])),
                    fallback=draw(st.integers(-1, count - 1)) if decision == "downgrade" else -1,
                    limit_type="total" if slot >= 0 else "per_request",
                    shrinks=draw(st.booleans()),
                    rank=(draw(st.integers(-1, 1)), draw(st.integers(0, 3)), 0, f"p{number}"),
                )
            )
        made.append(make_candidate(checks, keys, index=index, tool=f"tool{index}"))
    return tuple(made)


class Agreement(Case):
    """Engine and store apply one rule."""

    @given(data=st.data())
    @settings(
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,  # each example has a tenant of its own
            HealthCheck.differing_executors,  # the suite is inherited by one class per store
            HealthCheck.too_slow,
        ],
        deadline=None,
    )
    def test_a_store_decides_what_the_rule_says(self, storage: Storage, data: Any) -> None:
        """For any plan, on any balances, the answer is `judge`'s: decision, candidate and amounts."""
        tenant, uid = f"tenant{next(_number)}", Uuid7Source()
        labels = (("a", "1"), ("b", "1"))
        candidates = data.draw(_candidates(tenant))
        plan = make_plan(Subject(tenant, None, labels), *candidates)
        for _ in range(data.draw(st.integers(1, 6))):
            needs = [data.draw(_needs)]
            needs += [data.draw(st.none() | _needs) for _ in candidates[1:]]
            balances: dict[int, Balances] = {}
            for candidate in candidates:
                read = storage.balances(candidate.keys, NOON_US)
                balances[candidate.index] = (
                    [balance.settled + balance.reserved for balance in read],
                    [balance.settled for balance in read],
                )
            expected = judge(plan, needs, balances)
            answer = storage.reserve_one(make_ask(plan, uid(NOON_US), needs, digest="d"))
            assert isinstance(answer, Reservation)
            last = expected.last
            assert answer.decision == expected.decision
            assert answer.final_tool == last.candidate.tool
            assert answer.output_tokens == last.output_tokens
            asked = needs[last.candidate.index]
            assert asked is not None
            assert answer.shrunk is last.is_shrunk(asked)
            pending = expected.decision == "pending_approval"
            assert answer.amounts == (*last.amounts[:3], 0 if pending else 1)
            assert [reason.policy_id for reason in answer.reasons if reason.acted] == [
                step.acted.policy_id for step in expected.steps if step.acted is not None
            ]
            if answer.allowed and data.draw(st.booleans()):
                cost = data.draw(_amounts)
                storage.resolve_one(settle_at(answer, cost))
        report = storage.verify()
        assert report.ok, report.differences
