"""Every scope with every kind of limit and every measure."""

from __future__ import annotations

from typing import Any

import pytest

from fluxai.core.usage import Usage
from fluxai.governor import Governor
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import (
    LARGE,
    SMALL,
    Case,
    acted,
    budgets,
    dimes,
    limit,
    tokens,
)

#: Fields of a policy that concern the call below, and what makes another call none of its business.
SCOPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tenant": ({"scope": "tenant"}, {"tenant": "globex"}),
    "each user": ({"scope": "user"}, {"user": "bob"}),
    "one user": ({"scope": "user", "scope_id": "alice"}, {"user": "bob"}),
    "each tool": ({"scope": "tool"}, {"model": SMALL}),
    "one tool": ({"scope": "tool", "scope_id": LARGE}, {"model": SMALL}),
    "each label": ({"scope": "label", "scope_id": "team"}, {"labels": {"team": "blue"}}),
    "one label": ({"scope": "label", "scope_id": "team=red"}, {"labels": {"team": "blue"}}),
}
#: What two of the calls below add up to.
MEASURES = {"cost": "0.20", "tokens": "200", "requests": "2"}
#: After how long a window is over for certain.
WINDOWS: dict[str, tuple[dict[str, Any], str | None]] = {
    "per_minute": ({}, "1m"),
    "hourly": ({}, "1h"),
    "daily": ({}, "1d"),
    "weekly": ({}, "7d"),
    "monthly": ({}, "31d"),
    "rolling": ({"window": "24h"}, "25h"),
    "total": ({}, None),
}


def call(governor: Governor, **other: Any) -> Any:
    """Reserve 100 tokens for ten cents, as alice of the red team."""
    return tokens(governor, **{"user": "alice", "labels": {"team": "red"}, **other})


class Limits(Case):
    """Scopes × limit types × measures."""

    @pytest.mark.parametrize("measure", MEASURES)
    @pytest.mark.parametrize("limit_type", WINDOWS)
    @pytest.mark.parametrize("scope", SCOPES)
    def test_a_window_admits_up_to_its_limit_and_begins_anew(
        self, governor: Governor, clock: FakeClock, scope: str, limit_type: str, measure: str
    ) -> None:
        """Settled and reserved together reach the limit; others go on; the next window is empty."""
        fields, other = SCOPES[scope]
        window, until_over = WINDOWS[limit_type]
        limit(
            governor, MEASURES[measure], limit_type=limit_type, measure=measure, **fields, **window
        )
        governor.settle(call(governor), usage=Usage(input=50, output=50))
        second = call(governor)
        refused = call(governor)
        assert (second.allowed, refused.allowed) == (True, False)
        assert acted(refused) == "limit"
        assert call(governor, **other).allowed
        governor.settle(second, usage=Usage(input=50, output=50))
        assert not call(governor).allowed
        if until_over is None:
            clock.advance("3000d")
            assert not call(governor).allowed
        else:
            clock.advance(until_over)
            assert call(governor).allowed

    @pytest.mark.parametrize("scope", SCOPES)
    def test_concurrent_counts_what_is_open(self, governor: Governor, scope: str) -> None:
        """So many calls may be open at once, whatever they cost; each that ends makes room."""
        fields, other = SCOPES[scope]
        limit(governor, "2", limit_type="concurrent", **fields)
        first, second = call(governor), call(governor)
        assert not call(governor).allowed
        assert call(governor, **other).allowed
        governor.settle(first, usage=Usage(input=1))
        assert call(governor).allowed
        assert not call(governor).allowed
        governor.release(second)
        assert call(governor).allowed
        for one in budgets(governor, user="alice"):
            assert one.settled == 0

    @pytest.mark.parametrize("measure", MEASURES)
    @pytest.mark.parametrize("scope", SCOPES)
    def test_per_request_judges_each_call_alone(
        self, governor: Governor, scope: str, measure: str
    ) -> None:
        """A limit per request never adds up; a call above it is refused."""
        fields, other = SCOPES[scope]
        value = {"cost": "0.10", "tokens": "100", "requests": "1"}[measure]
        limit(governor, value, limit_type="per_request", measure=measure, **fields)
        for _ in range(3):
            assert call(governor).allowed
        if measure != "requests":
            assert not call(governor, count=102).allowed
            if not scope.startswith("each"):
                assert call(governor, **{"count": 102, **other}).allowed
        assert budgets(governor) == []

    @pytest.mark.parametrize(
        "window", [{"limit_type": "per_minute"}, {"limit_type": "rolling", "window": "1m"}], ids=str
    )
    def test_a_minute_of_money_limits_how_fast_it_is_spent(
        self, governor: Governor, clock: FakeClock, window: dict[str, Any]
    ) -> None:
        """Twenty cents a minute are two calls a minute, minute after minute."""
        limit(governor, "0.20", **window)
        for _ in range(5):
            for _ in range(2):
                governor.settle(call(governor), usage=Usage(input=50, output=50))
            refused = call(governor)
            assert acted(refused) == "limit"
            clock.advance("62s")

    def test_units_of_a_tool_count_as_requests(self, governor: Governor) -> None:
        """A tool's units are what a limit of requests counts."""
        limit(governor, "5", measure="requests")
        assert dimes(governor, 3).allowed
        assert not dimes(governor, 3).allowed
        assert dimes(governor, 2).allowed

    def test_a_call_without_the_scope_is_not_counted(self, governor: Governor) -> None:
        """Limits of users and labels leave calls alone that have no user or no such label."""
        limit(governor, "0", id="users", scope="user")
        limit(governor, "0", id="labels", scope="label", scope_id="team")
        assert tokens(governor).allowed
        assert tokens(governor, labels={"other": "red"}).allowed
        assert not call(governor).allowed

    def test_a_policy_for_each_gives_each_its_own_account(self, governor: Governor) -> None:
        """`scope_id=None` is one account per user, which `budgets` lists."""
        limit(governor, "0.10", scope="user")
        for user in ("alice", "bob", "carol"):
            assert dimes(governor, user=user).allowed
            assert not dimes(governor, user=user).allowed
        assert {one.scope_id for one in budgets(governor)} == {"alice", "bob", "carol"}

    def test_two_policies_share_one_account(self, governor: Governor) -> None:
        """A counter is keyed by what it counts, so policies that count the same agree on it."""
        limit(governor, "0.20", id="low", limit_type="daily")
        limit(governor, "5", id="high", limit_type="daily", decision="allow")
        dimes(governor)
        dimes(governor)
        assert not dimes(governor).allowed
        for name in ("low", "high"):
            (one,) = budgets(governor, name)
            assert str(one.reserved) == "0.20"

    def test_a_zero_limit_admits_only_what_is_free(self, governor: Governor) -> None:
        """A limit of nothing refuses every call that costs something."""
        limit(governor, "0")
        assert not tokens(governor, 2).allowed
        assert tokens(governor, 0).allowed

    def test_sixteen_labels_each_count(self, governor: Governor) -> None:
        """A call counts under every label that it carries."""
        limit(governor, "0.10", scope="label")
        labels = {f"k{n}": "v" for n in range(16)}
        assert dimes(governor, labels=labels).allowed
        for name in labels:
            assert not dimes(governor, labels={name: "v"}).allowed
        assert dimes(governor, labels={"k0": "w"}).allowed
