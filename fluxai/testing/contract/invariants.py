"""The seven invariants of the ledger, one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from fluxai.core.decisions import Reservation
from fluxai.core.errors import ReservationNotFound, SettlementConflict
from fluxai.governor import Governor
from fluxai.storage.base import Storage
from fluxai.testing.contract.case import (
    DIME,
    LARGE,
    TENANT,
    TOOL,
    Case,
    add_prices,
    budget,
    dimes,
    limit,
    state,
    sums,
    tokens,
)

CALLERS = 64


class Invariants(Case):
    """What holds in every interleaving."""

    def test_a_deny_limit_is_reached_to_the_cent_and_not_crossed(self, governor: Governor) -> None:
        """Calls are admitted up to exactly the limit; the next one is refused."""
        limit(governor, "1.00")
        admitted = [dimes(governor).allowed for _ in range(12)]
        assert admitted == [True] * 10 + [False] * 2
        assert sums(governor) == (0, Decimal("1.00"))

    def test_threads_together_get_no_more_than_the_limit(self, governor: Governor) -> None:
        """Of 64 concurrent ten-cent calls on a budget of a dollar exactly ten are admitted."""
        limit(governor, "1.00")
        start = threading.Barrier(CALLERS)

        def call(_: int) -> Reservation:
            start.wait()
            return dimes(governor)

        with ThreadPoolExecutor(CALLERS) as pool:
            answers = list(pool.map(call, range(CALLERS)))
        assert sum(answer.allowed for answer in answers) == 10
        assert sums(governor) == (0, Decimal("1.00"))

    def test_threads_that_settle_at_once_lose_no_cent(self, governor: Governor) -> None:
        """Every settlement of many threads is in the balance, and nothing stays reserved."""
        limit(governor, "100")
        start = threading.Barrier(16)

        def call(thread: int) -> None:
            start.wait()
            for turn in range(4):
                held = dimes(governor, user=f"u{thread}")
                governor.settle(held, cost=f"0.{thread + 1:02}{turn}")

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(call, range(16)))
        expected = sum(
            Decimal(f"0.{thread + 1:02}{turn}") for thread in range(16) for turn in range(4)
        )
        assert sums(governor) == (expected, 0)
        assert sum(event.cost for event in governor.events(limit=100)) == expected

    @pytest.mark.parametrize("measure", ["cost", "tokens", "requests"])
    def test_every_measure_has_its_limit_kept(self, governor: Governor, measure: str) -> None:
        """A limit of tokens or requests is kept as strictly as one of money."""
        value = {"cost": "0.30", "tokens": "300", "requests": "3"}[measure]
        limit(governor, value, measure=measure)
        assert [tokens(governor).allowed for _ in range(4)] == [True, True, True, False]

    def test_an_approval_limit_is_exceeded_only_by_calls_that_wait_for_one(
        self, governor: Governor
    ) -> None:
        """Beyond a `require_approval` limit nothing runs; it waits, with its money held."""
        limit(governor, "0.20", decision="require_approval")
        decisions = [dimes(governor).decision for _ in range(4)]
        assert decisions == ["allowed", "allowed", "pending_approval", "pending_approval"]
        assert sums(governor) == (0, Decimal("0.40"))

    def test_a_downgrade_limit_is_exceeded_only_by_its_own_fallback(
        self, governor: Governor
    ) -> None:
        """Beyond a `downgrade` limit only the fallback runs, and it counts there as well."""
        limit(governor, "0.20", decision="downgrade", fallback_tool_id="contract-cheap-tool")
        tools = [dimes(governor).final_tool for _ in range(4)]
        assert tools == [TOOL, TOOL, "contract-cheap-tool", "contract-cheap-tool"]
        assert sums(governor) == (0, Decimal("0.30"))

    def test_money_that_was_charged_is_recorded_beyond_every_limit(
        self, governor: Governor
    ) -> None:
        """A settlement above its reservation, and above the limit, is recorded and flagged."""
        limit(governor, "1.00")
        settlement = governor.settle(dimes(governor), cost="7.5")
        assert settlement.cost == Decimal("7.5")
        assert settlement.overrun
        assert sums(governor) == (Decimal("7.5"), 0)
        assert not dimes(governor).allowed

    def test_what_was_settled_is_in_the_events(self, governor: Governor) -> None:
        """Once `settle` and `record` have returned, their events are there with every figure."""
        held = tokens(governor, user="alice", labels={"run": "7"})
        settlement = governor.settle(held, cost="0.0123")
        governor.record(id="past", tenant=TENANT, tool=TOOL, units=2)
        first, second = governor.events(tenant=TENANT)
        assert (first.id, first.reservation_id) == (settlement.event_id, held.id)
        assert (first.user, first.labels, first.model) == ("alice", {"run": "7"}, LARGE)
        assert (first.cost, first.tokens, first.requests) == (Decimal("0.0123"), 100, 1)
        assert (second.id, second.cost, second.requests) == ("past", Decimal("0.20"), 2)

    def test_a_durable_store_opened_again_has_everything(
        self,
        storage: Storage,
        make_storage: Callable[[], Storage],
        open_governor: Callable[..., Governor],
        governor: Governor,
    ) -> None:
        """Another handle on a durable store sees the same money, events and open reservations."""
        if not storage.capabilities.durable:
            pytest.skip("this store keeps nothing")
        limit(governor, "1.00")
        governor.settle(dimes(governor), cost="0.07")
        held = dimes(governor)
        again = open_governor(storage=make_storage())
        assert sums(again) == (Decimal("0.07"), DIME)
        assert [event.cost for event in again.events()] == [Decimal("0.07")]
        assert [one.id for one in again.reservations(state="reserved")] == [held.id]
        assert again.verify().ok
        again.close()

    def test_every_verb_said_twice_counts_once(self, governor: Governor) -> None:
        """Repeating settle, release, record and adjust by id changes nothing."""
        limit(governor, "5")
        settled, released = dimes(governor), dimes(governor)
        for _ in range(3):
            governor.settle(settled, cost="0.04")
            governor.release(released)
            governor.record(id="r", tenant=TENANT, tool=TOOL, cost="1")
            governor.adjust("r", "-0.5", reason="refund", by="bob", id="a")
        assert sums(governor) == (Decimal("0.54"), 0)
        assert len(governor.events()) == 3

    def test_a_reservation_resolves_once(self, governor: Governor) -> None:
        """A settled reservation can be neither released nor settled otherwise."""
        limit(governor, "1")
        held = dimes(governor)
        governor.settle(held, cost="0.04")
        with pytest.raises(SettlementConflict):
            governor.settle(held, cost="0.05")
        with pytest.raises(SettlementConflict):
            governor.release(held)
        assert state(governor, held) == "settled"
        assert sums(governor) == (Decimal("0.04"), 0)

    def test_balances_are_what_events_and_open_reservations_add_up_to(
        self, governor: Governor
    ) -> None:
        """`verify` proves each counter on one snapshot, and says how much it compared."""
        limit(governor, "5")
        limit(governor, "5", id="each", scope="user", limit_type="daily")
        governor.settle(dimes(governor, user="alice"), cost="0.31")
        dimes(governor, 2, user="alice")
        report = governor.verify()
        assert report.ok
        assert (report.counters, report.events, report.reservations) == (2, 1, 1)

    def test_a_reservation_holds_everywhere_or_nowhere(self, governor: Governor) -> None:
        """A call that one limit refuses leaves no trace in the others."""
        limit(governor, "5", id="tenant")
        limit(governor, "5", id="tool", scope="tool")
        limit(governor, "0.10", id="user", scope="user")
        assert dimes(governor, user="alice").allowed
        assert not dimes(governor, user="alice").allowed
        for name in ("tenant", "tool", "user"):
            assert budget(governor, name, user="alice").reserved == DIME

    def test_tenants_have_accounts_of_their_own(
        self, open_governor: Callable[..., Governor]
    ) -> None:
        """One tenant's spending changes nothing for another, under the same policy for all."""
        governor = open_governor()
        add_prices(governor)
        limit(governor, "0.10", tenant_id="*")
        assert dimes(governor, tenant="one").allowed
        assert not dimes(governor, tenant="one").allowed
        held = dimes(governor, tenant="two")
        assert held.allowed
        with pytest.raises(ReservationNotFound):
            governor.settle(held.id, cost="0.01", tenant="one")
        assert sums(governor, tenant="two") == (0, DIME)
