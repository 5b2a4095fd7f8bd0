"""One and the same call, made again and again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from fluxai.core.decisions import Reservation
from fluxai.core.usage import Usage
from fluxai.governor import Governor
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import (
    CHEAP_TOOL,
    LARGE,
    SMALL,
    TENANT,
    TOOL,
    Case,
    acted,
    budgets,
    limit,
    sums,
)


def repeats(governor: Governor, most: int = 2, **fields: Any) -> None:
    """Put a policy that only limits repeats, hour by hour where nothing else is said."""
    limit(
        governor,
        None,
        **{"limit_type": "hourly", "repeat_limit": most, **fields},
    )


def ask(governor: Governor, prompt: str = "the same again", **request: Any) -> Reservation:
    """Reserve a call with a prompt."""
    return governor.reserve(
        **{
            "tenant": TENANT,
            "user": "alice",
            "model": LARGE,
            "prompt": prompt,
            "max_output_tokens": 10,
            **request,
        }
    )


def done(governor: Governor, prompt: str = "the same again", **request: Any) -> Reservation:
    """Reserve such a call, and settle it where it is admitted."""
    held = ask(governor, prompt, **request)
    if held.allowed:
        governor.settle(held, usage=Usage(input=5, output=5))
    return held


class Loops(Case):
    """`repeat_limit`: so many times, then refused, counted like any other limit."""

    def test_the_same_call_is_admitted_so_often(self, governor: Governor) -> None:
        """The third time it is refused, in words that say why, settled or still open."""
        repeats(governor)
        first, second = done(governor), ask(governor)
        refused = ask(governor)
        assert (first.allowed, second.allowed, refused.allowed) == (True, True, False)
        (reason,) = refused.reasons
        assert (reason.policy_id, reason.measure, reason.limit) == ("limit", "requests", 2)
        assert (reason.settled, reason.reserved, reason.requested) == (1, 1, 1)
        assert reason.resets_at is not None
        assert (
            "the same call was made 2 times this hour; the agent may be in a loop"
            in refused.message
        )
        assert governor.explain(refused.id).message == refused.message

    @pytest.mark.parametrize(
        "other",
        [
            {"prompt": "something else"},
            {"model": SMALL},
            {"tools": [{"name": "search"}]},
            {"prompt": None, "messages": [{"role": "user", "content": "the same again"}]},
            {"prompt": None, "input_tokens": 7},
            {"tenant": "globex"},
        ],
        ids=str,
    )
    def test_another_call_is_another_matter(
        self, governor: Governor, other: dict[str, Any]
    ) -> None:
        """Model, prompt, messages and tools tell calls apart; each has its own count."""
        repeats(governor, 1)
        assert done(governor).allowed
        assert not done(governor).allowed
        assert done(governor, **{"prompt": "the same again", **other}).allowed

    @pytest.mark.parametrize(
        "other",
        [{"max_output_tokens": 99}, {"user": "bob"}, {"labels": {"run": "2"}}, {"ttl": "1m"}],
        ids=str,
    )
    def test_what_does_not_make_it_another_call(
        self, governor: Governor, other: dict[str, Any]
    ) -> None:
        """The cap, who makes it, and labels do not matter to a tenant's limit."""
        repeats(governor, 1)
        assert done(governor).allowed
        assert not done(governor, **other).allowed

    @pytest.mark.parametrize(
        ("fields", "same", "other"),
        [
            ({"scope": "user"}, {}, {"user": "bob"}),
            ({"scope": "user", "scope_id": "alice"}, {}, {"user": "bob"}),
            ({"scope": "tool", "scope_id": LARGE}, {"user": "bob"}, {"model": SMALL}),
            ({"scope": "label", "scope_id": "run"}, {"user": "bob"}, {"labels": {"run": "2"}}),
            ({"scope": "label", "scope_id": "run=1"}, {"user": "bob"}, {"labels": {"run": "2"}}),
            ({"scope": "label"}, {"user": "bob"}, {"labels": {"run": "2"}}),
            ({"tenant_id": "*"}, {"user": "bob"}, {"tenant": "globex"}),
        ],
        ids=str,
    )
    def test_calls_are_the_same_within_the_scope(
        self,
        governor: Governor,
        fields: dict[str, Any],
        same: dict[str, Any],
        other: dict[str, Any],
    ) -> None:
        """Each user, or label value, repeats for itself, as the policy's scope says."""
        repeats(governor, 1, **fields)
        labels: dict[str, Any] = {"labels": {"run": "1"}}
        assert done(governor, **labels).allowed
        assert not done(governor, **{**labels, **same}).allowed
        assert done(governor, **{**labels, **other}).allowed

    @pytest.mark.parametrize(
        ("fields", "until_over", "words"),
        [
            ({"limit_type": "per_minute"}, "1m", "2 times this minute"),
            ({"limit_type": "daily"}, "1d", "2 times today"),
            ({"limit_type": "rolling", "window": "10m"}, "11m", "2 times in the last 10m"),
            ({"limit_type": "total"}, None, "2 times so far"),
        ],
        ids=str,
    )
    def test_the_window_begins_anew(
        self,
        governor: Governor,
        clock: FakeClock,
        fields: dict[str, Any],
        until_over: str | None,
        words: str,
    ) -> None:
        """What was repeated in an earlier window is forgotten; also what is still in the plan."""
        repeats(governor, **fields)
        for _ in range(2):
            assert done(governor).allowed
        assert words in done(governor).message
        if until_over is None:
            clock.advance("400d")
            assert not done(governor).allowed
        else:
            for _ in range(2):
                clock.advance(until_over)
                assert done(governor).allowed

    def test_released_calls_do_not_count(self, governor: Governor) -> None:
        """A call that was not made is no repeat; nor is one that was refused."""
        repeats(governor, 1)
        for _ in range(3):
            governor.release(ask(governor))
        assert ask(governor).allowed
        for _ in range(3):
            assert not ask(governor).allowed

    def test_overdue_calls_give_way(self, governor: Governor, clock: FakeClock) -> None:
        """A repeat that nobody resolved in time counts no more."""
        repeats(governor, 1, limit_type="daily")
        assert ask(governor, ttl="1m").allowed
        clock.advance("2m")
        assert ask(governor).allowed

    def test_the_same_key_is_no_repeat(self, governor: Governor) -> None:
        """A retry by idempotency key returns the one reservation."""
        repeats(governor, 1)
        first = ask(governor, idempotency_key="k")
        assert ask(governor, idempotency_key="k").id == first.id
        assert not ask(governor, idempotency_key="l").allowed

    def test_a_human_may_be_asked(self, governor: Governor) -> None:
        """`require_approval` puts the repeat before a human, and its one run goes ahead."""
        repeats(governor, 1, decision="require_approval")
        done(governor)
        held = ask(governor)
        assert (held.decision, acted(held)) == ("pending_approval", "limit")
        assert "the agent may be in a loop" in governor.approvals.list()[0].message
        governor.approvals.approve(held.id, by="eve")
        run = ask(governor, approval_id=held.id)
        assert run.allowed
        governor.settle(run, usage=Usage(input=5, output=5))
        assert ask(governor).decision == "pending_approval"

    def test_it_may_move_to_another_model_or_only_report(self, governor: Governor) -> None:
        """A repeat is downgraded, or let through with a reason, as the decision says."""
        repeats(governor, 1, decision="downgrade", fallback_tool_id=SMALL)
        done(governor)
        moved = done(governor)
        assert (moved.decision, moved.model, acted(moved)) == ("downgraded", SMALL, "limit")
        repeats(governor, 1, decision="allow")
        held = done(governor)
        assert held.decision == "allowed"
        assert [one.crossed for one in held.reasons] == [True]
        repeats(governor, 1, mode="shadow")
        assert done(governor).allowed

    def test_beside_a_limit_of_money(self, governor: Governor) -> None:
        """One policy may limit both; the money is counted in one account as ever."""
        limit(governor, "1", limit_type="daily", repeat_limit=1)
        limit(governor, "0.011", id="each", limit_type="per_request", decision="allow")
        done(governor)
        assert not done(governor).allowed
        assert done(governor, "another").allowed
        assert sums(governor) == (Decimal("0.02"), 0)
        assert len(budgets(governor)) == 1
        refused = governor.reserve(
            tenant=TENANT, model=LARGE, prompt="dear", max_output_tokens=2_000
        )
        assert "the daily cost limit of $1.00" in refused.message

    def test_tools_repeat_by_their_parameters(self, governor: Governor) -> None:
        """A call by the unit counts once, whatever its units are, and params tell calls apart."""
        repeats(governor)
        for _ in range(2):
            assert (
                governor.check_and_route(TENANT, "alice", TOOL, 3, {"q": "cats"}).decision
                == "allowed"
            )
        refused = governor.check_and_route(TENANT, "alice", TOOL, 3, {"q": "cats"})
        assert refused.decision == "denied"
        assert "the same call was made 2 times this hour" in refused.message
        assert (
            governor.check_and_route(TENANT, "alice", TOOL, 3, {"q": "dogs"}).decision == "allowed"
        )
        assert (
            governor.check_and_route(TENANT, "alice", CHEAP_TOOL, 3, {"q": "cats"}).decision
            == "allowed"
        )

    def test_check_looks_at_repeats_too(self, governor: Governor) -> None:
        """Looking counts nothing, and says what a reserve would."""
        repeats(governor, 1)
        request = {"tenant": TENANT, "model": LARGE, "prompt": "p", "max_output_tokens": 10}
        for _ in range(3):
            assert governor.check(**request).allowed  # type: ignore[arg-type]
        governor.settle(governor.reserve(**request), cost="0.01")  # type: ignore[arg-type]
        assert not governor.check(**request).allowed  # type: ignore[arg-type]

    def test_a_share_of_repeats_is_announced_once(
        self, governor: Governor, alerts: list[Any]
    ) -> None:
        """An alert names the policy; a call that was made once announces nothing."""
        repeats(governor, alert_at=("0.5", "1"))
        done(governor, "once")
        assert alerts == []
        done(governor)
        done(governor)
        ask(governor)
        (alert,) = alerts
        assert (alert.policy_id, alert.limit, alert.share) == ("limit", 2, "1")

    def test_governors_count_together(
        self, governor: Governor, open_governor: Callable[..., Governor]
    ) -> None:
        """Whoever puts the policy, every governor on the store counts from the next call on."""
        second = open_governor()
        done(governor)
        done(second)
        repeats(governor, 2)
        for one in (second, governor):
            assert done(one).allowed
        for one in (second, governor):
            assert not done(one).allowed
            assert done(one, f"by {id(one)}").allowed

    def test_many_threads_repeat_no_oftener(self, governor: Governor) -> None:
        """The same call from many threads at once is admitted so many times, no more."""
        repeats(governor, 5)
        with ThreadPoolExecutor(16) as pool:
            held = list(pool.map(lambda _: done(governor), range(32)))
        assert sum(one.allowed for one in held) == 5

    def test_changed_rules_leave_the_sums_right(self, governor: Governor, clock: FakeClock) -> None:
        """Policies come, change their window and go while calls are open; nothing is miscounted."""
        repeats(governor, 3)
        repeats(governor, 3, id="other", scope="tool", scope_id=LARGE, limit_type="daily")
        first = ask(governor)
        repeats(governor, 3, limit_type="rolling", window="5m")
        second = ask(governor)
        assert governor.verify().ok
        governor.settle(first, usage=Usage(input=5, output=5))
        governor.policies.delete("limit")
        third = ask(governor)
        assert governor.verify().ok
        assert acted(ask(governor)) == "other"
        clock.advance("1h")
        governor.settle(second, usage=Usage(input=5, output=5))  # late: its time was over
        governor.release(third)
        assert ask(governor).allowed
        assert governor.verify().ok

    def test_a_downgraded_repeat_that_is_settled_late_counts(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """Money that is charged after its reservation expired counts under the call's name."""
        repeats(governor, 1, scope="tool", scope_id=LARGE, limit_type="daily")
        limit(
            governor,
            "0",
            id="move",
            limit_type="per_request",
            scope="tool",
            scope_id=LARGE,
            decision="downgrade",
            fallback_tool_id=SMALL,
        )
        held = ask(governor, ttl="1m")
        assert held.model == SMALL
        clock.advance("2m")
        governor.expire()
        governor.settle(held, usage=Usage(input=5, output=5))
        governor.adjust(held.id, "0.01", reason="billed more", by="eve")
        assert governor.verify().ok
