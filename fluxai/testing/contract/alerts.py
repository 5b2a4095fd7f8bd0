"""Alerts: once per window and share, when a balance comes to it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from fluxai.core.usage import Usage
from fluxai.governor import Governor
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import LARGE, TENANT, TOOL, Case, dimes, limit, tokens


def said(alerts: list[Any]) -> list[tuple[str, str]]:
    """Return (policy, share) of what was announced."""
    return [(alert.policy_id, alert.share) for alert in alerts]


class Alerts(Case):
    """Crossing a share of a limit is said once."""

    def test_each_share_is_said_once(self, governor: Governor, alerts: list[Any]) -> None:
        """At 80 % and at 100 % of the limit, however often it is crossed again."""
        limit(governor, "1", limit_type="daily")
        held = [dimes(governor) for _ in range(8)]
        assert said(alerts) == [("limit", "0.8")]
        governor.release(held.pop())
        held += [dimes(governor) for _ in range(3)]
        assert said(alerts) == [("limit", "0.8"), ("limit", "1.0")]
        governor.release(held.pop())
        dimes(governor)
        dimes(governor)
        assert len(alerts) == 2

    def test_a_new_window_says_it_again(
        self, governor: Governor, alerts: list[Any], clock: FakeClock
    ) -> None:
        """Each window has alerts of its own."""
        limit(governor, "0.10", limit_type="daily")
        dimes(governor)
        clock.advance("1d")
        dimes(governor)
        assert said(alerts) == [("limit", "0.8"), ("limit", "1.0")] * 2

    def test_shares_of_ones_own(self, governor: Governor, alerts: list[Any]) -> None:
        """A policy names its shares, above the limit too; those that only report alert as well."""
        limit(governor, "1", decision="allow", alert_at=("0.5", "1.2"))
        for units in (4, 1, 6, 1, 5):
            dimes(governor, units)
        assert said(alerts) == [("limit", "0.5"), ("limit", "1.2")]
        assert [alert.committed for alert in alerts] == [Decimal("0.50"), Decimal("1.20")]
        assert {alert.limit for alert in alerts} == {Decimal(1)}

    def test_every_way_to_spend_is_watched(self, governor: Governor, alerts: list[Any]) -> None:
        """Overruns, late settlements, corrections, records and adjustments are announced too."""

        def held(user: str) -> Any:
            return tokens(governor, user=user)

        late, estimated = held("late"), held("estimated")
        governor.release(late)
        limit(governor, "10", scope="user", alert_at=("1",))
        for _ in range(3):
            governor.settle(held("overrun"), usage=Usage(input=1))
        governor.settle(held("overrun"), cost="20")
        governor.settle(late, cost="20")
        governor.settle(estimated, cost="0.1", estimated=True)
        governor.settle(estimated, cost="20")
        governor.record(id="r", tenant=TENANT, user="recorded", tool=TOOL, cost="20")
        governor.record(id="a", tenant=TENANT, user="adjusted", model=LARGE, cost="1")
        governor.adjust("a", "19", reason="fee", by="bob")
        assert [alert.key.value for alert in alerts] == [
            "overrun",
            "late",
            "estimated",
            "recorded",
            "adjusted",
        ]

    def test_one_share_after_another_by_settlements_alone(
        self, governor: Governor, alerts: list[Any]
    ) -> None:
        """Two settlements in a row cross two shares, with no reserve in between."""
        limit(governor, "10", alert_at=("0.5", "0.8", "1"))
        for _ in range(3):
            governor.settle(tokens(governor), usage=Usage(input=1))
        held = [tokens(governor) for _ in range(3)]
        for one, cost in zip(held, ("6", "2.5", "3"), strict=True):
            governor.settle(one, cost=cost)
        assert [alert.share for alert in alerts] == ["0.5", "0.8", "1"]

    def test_a_refused_call_is_no_spending(self, governor: Governor, alerts: list[Any]) -> None:
        """What was refused was not spent, so it crosses no share."""
        limit(governor, "1")
        assert not dimes(governor, 30).allowed
        assert alerts == []

    def test_a_lowered_limit_is_announced_with_the_next_call(
        self, governor: Governor, alerts: list[Any]
    ) -> None:
        """Where a limit comes down upon its balance, the call that it refuses says so."""
        limit(governor, "5")
        dimes(governor, 10)
        limit(governor, "1")
        assert alerts == []
        assert not dimes(governor).allowed
        assert said(alerts) == [("limit", "0.8"), ("limit", "1.0")]

    def test_an_outbox_keeps_what_was_said(self, governor: Governor, alerts: list[Any]) -> None:
        """Alerts can be read again in order, from any point on."""
        limit(governor, "0.10", tenant_id="*")
        for tenant in ("one", "two"):
            dimes(governor, tenant=tenant)
        kept = governor.storage.outbox()
        assert [alert.tenant for _, alert in kept] == ["one", "one", "two", "two"]
        assert [alert for _, alert in kept] == alerts
        assert governor.storage.outbox(after=kept[1][0], limit=1) == kept[2:3]

    def test_a_sink_that_fails_costs_nothing(self, open_governor: Any, governor: Governor) -> None:
        """A sink that raises is counted, and the call goes on with its money held."""

        def broken(_alert: object) -> None:
            raise RuntimeError("the pager is down")

        limit(governor, "0.10")
        other = open_governor(sinks=[broken])
        assert dimes(other).allowed
        assert other.sink_errors == 2
