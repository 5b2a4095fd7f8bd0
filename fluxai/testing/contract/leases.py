"""Leases: what a process decides by itself is within the limit, and is all accounted for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fluxai.core.decisions import Reservation
from fluxai.core.errors import InvalidRequest, SettlementConflict
from fluxai.core.usage import Usage
from fluxai.governor import Governor
from fluxai.policy.records import Policy
from fluxai.storage.base import Storage
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import (
    DIME,
    LARGE,
    TENANT,
    Case,
    add_prices,
    budget,
    limit,
    sums,
    tokens,
)

#: Ten tokens of the large model.
CENT = Decimal("0.01")


def cent(governor: Governor, **request: Any) -> Reservation:
    """Reserve ten tokens of the large model, half of them output: a cent."""
    return tokens(governor, 10, **request)


def stored(governor: Governor, reservation: Reservation) -> str | None:
    """Say which state the store itself knows of a reservation."""
    found = governor.storage.find(TENANT, reservation.uid)
    return None if found is None else found.state


class Leases(Case):
    """What stores that grant leases have to do; the others leave `lease=` without effect."""

    @pytest.fixture
    def leasing(
        self, storage: Storage, open_governor: Callable[..., Governor], tmp_path: Path
    ) -> Iterator[Callable[[], Governor]]:
        """Return a function that makes a governor with a journal of its own."""
        if not storage.capabilities.lease:
            pytest.skip("this store grants no leases")
        opened: list[Governor] = []

        def open_one() -> Governor:
            governor = open_governor(spool=tmp_path / f"spool{len(opened)}")
            if not opened:
                add_prices(governor)
            opened.append(governor)
            return governor

        yield open_one
        for governor in opened:
            assert governor.leases is not None
            governor.leases.close()

    @pytest.fixture
    def lessee(self, leasing: Callable[[], Governor]) -> Governor:
        """Return a governor under a leased limit of ten dollars a day."""
        governor = leasing()
        limit(governor, "10", limit_type="daily", lease="0.1")
        return governor

    def test_a_call_is_decided_out_of_the_slice(self, lessee: Governor) -> None:
        """The slice is held in the store, the calls out of it are not; both end in the sums."""
        calls = [cent(lessee) for _ in range(3)]
        assert all(call.allowed and call.remaining is not None for call in calls)
        assert sums(lessee) == (0, 1)
        assert [stored(lessee, call) for call in calls] == [None] * 3
        settlement = lessee.settle(calls[0], usage=Usage(input=5, output=2))
        assert settlement.cost == Decimal("0.007")
        assert sums(lessee) == (Decimal("0.007"), Decimal("0.993"))
        assert stored(lessee, calls[0]) == "settled"
        (event,) = lessee.events(tenant=TENANT)
        assert (event.id, event.flags, event.tokens) == (calls[0].id, (), 7)
        lessee.release(calls[1])
        assert lessee.usage(TENANT).total_cost == Decimal("0.007")
        assert lessee.verify().ok

    def test_repeats_are_answered_alike_before_and_after_the_report(self, lessee: Governor) -> None:
        """The same outcome is the same settlement, another is a conflict, wherever it is kept."""
        call = cent(lessee)
        first = lessee.settle(call, cost="0.004")
        assert lessee.settle(call, cost="0.004") == first
        with pytest.raises(SettlementConflict):
            lessee.settle(call, cost="0.005")
        assert len(lessee.events()) == 1
        assert lessee.settle(call, cost="0.004").cost == first.cost
        with pytest.raises(SettlementConflict):
            lessee.settle(call, cost="0.005")
        with pytest.raises(SettlementConflict):
            lessee.release(call)
        assert sums(lessee)[0] == Decimal("0.004")

    def test_what_was_settled_otherwise_elsewhere_is_put_aside_and_counted(
        self, lessee: Governor, leasing: Callable[[], Governor], tmp_path: Path
    ) -> None:
        """The first settlement stands; one out of the lease that differs is kept for a person."""
        elsewhere, calls = leasing(), [cent(lessee) for _ in range(3)]
        for call in calls[:2]:
            elsewhere.settle(Reservation.from_json(call.to_json()), cost="0.004")
        for call, cost in zip(calls, ("0.004", "0.006", "0.002"), strict=True):
            lessee.settle(call, cost=cost)
        costs = {event.id: event.cost for event in lessee.events()}
        expected = ("0.004", "0.004", "0.002")
        assert costs == {call.id: Decimal(cost) for call, cost in zip(calls, expected, strict=True)}
        (line,) = (tmp_path / "spool0.rejected").read_text(encoding="utf-8").splitlines()
        assert calls[1].id in line
        assert '"cost_nanousd":6000000,' in line
        assert lessee.rejected_settlements == 1
        assert sums(lessee)[0] == Decimal("0.010")
        assert lessee.verify().ok

    def test_a_call_that_was_recorded_by_its_id_is_not_charged_again(
        self, lessee: Governor
    ) -> None:
        """Money that was entered under the call's id stands, and the settlement is put aside."""
        call = cent(lessee)
        lessee.record(id=call.id, tenant=TENANT, model=LARGE, cost="0.004")
        lessee.settle(call, cost="0.006")
        assert [event.cost for event in lessee.events()] == [Decimal("0.004")]
        assert lessee.rejected_settlements == 1
        assert lessee.verify().ok

    def test_the_exact_cost_corrects_an_estimate_from_elsewhere(
        self, lessee: Governor, leasing: Callable[[], Governor]
    ) -> None:
        """Whichever comes first, the exact cost is the one that counts, and nothing is put aside."""
        elsewhere, calls = leasing(), [cent(lessee) for _ in range(2)]
        guesses, exact = (elsewhere, lessee), (lessee, elsewhere)
        for call, governor in zip(calls, guesses, strict=True):
            told = call if governor is lessee else Reservation.from_json(call.to_json())
            governor.settle(told, cost="0.02", estimated=True)
        for call, governor in zip(calls, exact, strict=True):
            told = call if governor is lessee else Reservation.from_json(call.to_json())
            governor.settle(told, cost="0.003")
        assert sums(lessee)[0] == Decimal("0.006")
        assert lessee.rejected_settlements == elsewhere.rejected_settlements == 0
        assert lessee.verify().ok

    def test_an_estimate_is_corrected(self, lessee: Governor) -> None:
        """An exact settlement after an estimated one counts, whether reported or not."""
        for reported in (False, True):
            call = cent(lessee)
            lessee.settle(call, cost="0.02", estimated=True)
            if reported:
                lessee.events()
            assert lessee.settle(call, cost="0.003").cost == Decimal("0.003")
        assert sums(lessee)[0] == Decimal("0.006")

    def test_a_settlement_is_corrected_and_listed_at_once(self, lessee: Governor) -> None:
        """Whoever names an event that is not reported yet finds it."""
        settlement = lessee.settle(cent(lessee), cost="0.004")
        lessee.adjust(settlement.id, "-0.001", reason="refund", by="me", tenant=TENANT)
        call = cent(lessee)
        lessee.settle(call, cost="0.002")
        assert call.id in [found.id for found in lessee.reservations(state="settled")]
        assert sums(lessee)[0] == Decimal("0.005")

    def test_an_open_call_is_found_by_its_id(self, lessee: Governor) -> None:
        """Settle, release and extend take the bare id too."""
        first, second = cent(lessee), cent(lessee)
        assert lessee.extend(first.id, ttl="2h").expires_us > second.expires_us
        assert lessee.settle(first.id, cost="0.002", tenant=TENANT).cost == Decimal("0.002")
        assert lessee.release(second.id).state == "released"
        assert sums(lessee)[0] == Decimal("0.002")

    def test_an_overrun_is_recorded_and_leaves_the_slice_smaller(self, lessee: Governor) -> None:
        """What cost more than was held is charged in full, flagged, and taken off the slice."""
        settlement = lessee.settle(cent(lessee), cost="0.50")
        assert settlement.overrun
        assert sums(lessee) == (Decimal("0.50"), Decimal("0.50"))
        (event,) = lessee.events()
        assert event.flags == ("tokens_estimated", "overrun")

    def test_the_limit_is_reached_and_not_crossed(self, leasing: Callable[[], Governor]) -> None:
        """Several holders of slices give out exactly what there is, and not a cent more."""
        governors = [leasing() for _ in range(3)]
        limit(governors[0], "3", limit_type="daily", lease="0.1")
        admitted = 0
        while True:
            answers = [cent(governor) for governor in governors]
            for answer, governor in zip(answers, governors, strict=True):
                if answer.allowed:
                    admitted += 1
                    governor.settle(answer, cost="0.01")
            if not any(answer.allowed for answer in answers):
                break
            seen = budget(governors[0])
            assert seen.settled + seen.reserved <= 3
        assert admitted == 300
        assert sums(governors[0]) == (3, 0)

    def test_threads_of_several_holders_stay_within_the_limit(
        self, leasing: Callable[[], Governor]
    ) -> None:
        """Sixteen threads on four governors admit what the limit allows, settled to the cent."""
        governors = [leasing() for _ in range(4)]
        limit(governors[0], "2", limit_type="total", lease="0.05")
        start = threading.Barrier(16)

        def work(number: int) -> int:
            governor, done = governors[number % 4], 0
            start.wait()
            for _ in range(40):
                call = cent(governor)
                if call.allowed:
                    governor.settle(call, cost="0.01")
                    done += 1
            return done

        with ThreadPoolExecutor(16) as pool:
            admitted = sum(pool.map(work, range(16)))
        for governor in governors:
            governor.events()
        assert governors[0].usage(TENANT).total_cost == admitted * CENT
        assert admitted <= 200
        for governor in governors:
            while cent(governor).allowed:
                admitted += 1
        assert admitted == 200

    def test_changed_rules_hold_at_once_here_and_in_ten_seconds_elsewhere(
        self, leasing: Callable[[], Governor], clock: FakeClock
    ) -> None:
        """A lowered limit ends the leases of its governor, and others' with their ten seconds."""
        here, there = leasing(), leasing()
        limit(here, "10", lease="0.1")
        assert cent(here).allowed
        assert cent(there).allowed
        limit(here, "0", lease="0.1")
        assert not cent(here).allowed
        assert cent(there).allowed
        clock.advance("11s")
        assert not cent(there).allowed

    def test_a_slice_that_is_not_needed_is_given_back(
        self, lessee: Governor, clock: FakeClock
    ) -> None:
        """After its ten seconds a lease holds only what is open, then nothing."""
        call = cent(lessee)
        clock.advance("11s")
        lessee.expire()
        assert sums(lessee) == (0, CENT)
        lessee.settle(call, cost="0.004")
        assert sums(lessee) == (Decimal("0.004"), 0)
        assert lessee.verify().ok

    def test_a_call_that_nobody_resolves_gives_its_money_back(
        self, lessee: Governor, clock: FakeClock
    ) -> None:
        """An open call of a lease ends with its ttl, like any other."""
        cent(lessee, ttl="1m")
        clock.advance("2m")
        lessee.expire()
        assert sums(lessee) == (0, 0)

    def test_a_slice_that_expires_is_not_charged(
        self, lessee: Governor, open_governor: Callable[..., Governor], clock: FakeClock
    ) -> None:
        """Where expiry settles, calls are decided by the store, and lost slices given back."""
        cent(lessee)
        other = open_governor(on_expiry="settle")
        call = cent(other, ttl="1m")
        assert stored(other, call) == "reserved"
        clock.advance("8d")
        done = other.expire()
        assert (done.released, done.settled) == (1, 1)
        past = clock.now - timedelta(days=9)
        assert other.usage(TENANT, start=past, end=clock.now).total_cost == CENT
        assert other.verify().ok

    def test_a_lease_ends_with_its_window(self, lessee: Governor, clock: FakeClock) -> None:
        """Yesterday's slice pays for no call of today; yesterday's calls settle into yesterday."""
        clock.set(clock.now.replace(hour=23, minute=59, second=55))
        call = cent(lessee)
        clock.advance("6s")
        cent(lessee)
        lessee.settle(call, cost="0.004")
        assert sums(lessee)[0] == 0
        midnight = clock.now.replace(hour=0, minute=0, second=0)
        assert lessee.usage(TENANT, start=midnight.replace(day=15)).total_cost == Decimal("0.004")
        assert lessee.verify().ok

    def test_a_limit_that_is_not_leased_keeps_the_store_deciding(self, lessee: Governor) -> None:
        """Only where every limit that applies is leased does a process decide by itself."""
        limit(lessee, "5", id="strict", scope="user", limit_type="daily")
        call = cent(lessee, user="alice")
        assert stored(lessee, call) == "reserved"
        assert stored(lessee, cent(lessee)) is None

    def test_single_requests_keep_their_own_limit(self, lessee: Governor) -> None:
        """A limit of one request is applied to each call out of a slice, not to the slice."""
        limit(lessee, "0.02", id="single", limit_type="per_request")
        assert stored(lessee, cent(lessee)) is None
        refused = tokens(lessee, 30)
        assert (refused.allowed, [reason.policy_id for reason in refused.reasons]) == (
            False,
            ["single"],
        )

    def test_a_key_is_remembered_by_the_store(self, lessee: Governor) -> None:
        """A call with an idempotency key is the store's to decide, and to repeat."""
        first = cent(lessee, idempotency_key="k")
        assert stored(lessee, first) == "reserved"
        assert cent(lessee, idempotency_key="k").id == first.id

    def test_a_call_without_a_cap_gets_a_share_of_the_slice(self, lessee: Governor) -> None:
        """The output that is granted fits into the slice."""
        cent(lessee)
        call = lessee.reserve(tenant=TENANT, model=LARGE, input_tokens=5)
        assert call.allowed
        assert call.max_output_tokens is not None
        assert 256 <= call.max_output_tokens <= 1_000
        assert call.estimate.highest <= 10 * DIME

    def test_a_slice_leaves_shrinking_to_the_store(self, leasing: Callable[[], Governor]) -> None:
        """A call too large for a slice is granted in full while the budget has room for it."""
        governor = leasing()
        limit(governor, "100", lease="0.1", shrink_output=True)
        assert cent(governor).allowed
        assert tokens(governor, 50_000).max_output_tokens == 25_000
        held = tokens(governor, 80_000)
        assert held.shrunk
        assert held.max_output_tokens is not None
        assert 9_000 <= held.max_output_tokens <= 10_000

    @pytest.mark.parametrize(
        "fields",
        [
            {"lease": "0.9"},
            {"lease": "0"},
            {"lease": "0.1", "decision": "require_approval"},
            {"lease": "0.1", "limit_type": "concurrent"},
            {"lease": "0.1", "limit_type": "per_request"},
        ],
    )
    def test_what_can_t_be_leased_is_refused(self, fields: dict[str, str]) -> None:
        """A share out of range, or a limit that no slice can stand for, names the field."""
        with pytest.raises((ValueError, InvalidRequest), match="lease"):
            Policy(**{"tenant_id": "a", "limit_type": "daily", "limit_value": "1", **fields})  # type: ignore[arg-type]
