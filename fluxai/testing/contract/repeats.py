"""Repeats: idempotency keys, ids, and acknowledgements that got lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from fluxai.core.errors import IdempotencyConflict, NotFound
from fluxai.governor import Governor
from fluxai.testing.clock import FakeClock
from fluxai.testing.contract.case import (
    DIME,
    LARGE,
    SMALL,
    TENANT,
    TOOL,
    Case,
    dimes,
    limit,
    sums,
    tokens,
)


class Repeats(Case):
    """Nothing twice."""

    def test_a_key_said_again_gives_the_same_reservation(self, governor: Governor) -> None:
        """A repeat under the same key holds nothing more, and shows the state as it is now."""
        limit(governor, "1")
        first = dimes(governor, idempotency_key="k")
        assert dimes(governor, idempotency_key="k").id == first.id
        assert sums(governor) == (0, DIME)
        governor.settle(first, cost="0.03")
        again = dimes(governor, idempotency_key="k")
        assert (again.id, again.state) == (first.id, "settled")
        assert sums(governor) == (Decimal("0.03"), 0)

    @pytest.mark.parametrize(
        "other",
        [
            {"units": 2},
            {"tool": "contract-cheap-tool"},
            {"user": "alice"},
            {"labels": {"run": "1"}},
        ],
    )
    def test_a_key_with_other_arguments_is_a_conflict(
        self, governor: Governor, other: dict[str, Any]
    ) -> None:
        """A key names one call: other units, tool, user or labels are refused."""
        limit(governor, "1")
        dimes(governor, idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            dimes(governor, **{"idempotency_key": "k", **other})
        assert sums(governor) == (0, DIME)

    def test_a_key_compares_what_the_caller_said(self, governor: Governor) -> None:
        """Another prompt, cap, model or count of tokens under one key is a conflict."""
        limit(governor, "100")
        call = {"tenant": TENANT, "model": LARGE, "prompt": "hello", "idempotency_key": "k"}
        first = governor.reserve(**call)  # type: ignore[arg-type]
        assert governor.reserve(**call).id == first.id  # type: ignore[arg-type]
        for other in ({"prompt": "Hello"}, {"max_output_tokens": 9}, {"model": SMALL}):
            with pytest.raises(IdempotencyConflict):
                governor.reserve(**{**call, **other})  # type: ignore[arg-type]

    def test_a_repeat_is_the_same_under_changed_balances_windows_and_limits(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A repeat compares arguments, not what was derived: it is answered in any window."""
        limit(governor, "10", limit_type="daily")
        call = {"tenant": TENANT, "model": LARGE, "input_tokens": 10, "idempotency_key": "k"}
        first = governor.reserve(**call, ttl="3d")  # type: ignore[arg-type]
        clock.advance("1d")
        limit(governor, "0.01", limit_type="daily")
        again = governor.reserve(**call)  # type: ignore[arg-type]
        assert (again.id, again.max_output_tokens) == (first.id, first.max_output_tokens)
        assert sums(governor) == (0, 0)

    def test_keys_are_per_tenant(self, governor: Governor) -> None:
        """Two tenants may use one key for calls of their own."""
        one = dimes(governor, tenant="one", idempotency_key="k")
        two = dimes(governor, 2, tenant="two", idempotency_key="k")
        assert one.id != two.id

    def test_a_key_is_remembered_for_a_day_after_its_end(
        self, governor: Governor, clock: FakeClock
    ) -> None:
        """A key is free again 24 hours after its reservation was resolved, not before."""
        limit(governor, "1")
        first = dimes(governor, idempotency_key="k")
        clock.advance("10m")
        governor.settle(first, cost="0.03")
        clock.advance("24h")
        assert dimes(governor, idempotency_key="k").id == first.id
        clock.advance(timedelta(microseconds=1))
        second = dimes(governor, 2, idempotency_key="k")
        assert second.id != first.id
        assert dimes(governor, 2, idempotency_key="k").id == second.id
        assert sums(governor) == (Decimal("0.03"), Decimal("0.20"))

    def test_an_open_key_is_never_forgotten(self, governor: Governor, clock: FakeClock) -> None:
        """A key whose reservation is still open stays taken, however long ago that was."""
        first = dimes(governor, idempotency_key="k", ttl="30d")
        clock.advance("20d")
        assert dimes(governor, idempotency_key="k").id == first.id

    def test_a_refusal_does_not_take_the_key(self, governor: Governor) -> None:
        """A refused key may be tried again, with other arguments too, once there is room."""
        limit(governor, "0.10")
        held = dimes(governor)
        assert not dimes(governor, 1, idempotency_key="k").allowed
        governor.release(held)
        assert dimes(governor, 1, idempotency_key="k").allowed

    def test_many_threads_with_one_key_hold_once(self, governor: Governor) -> None:
        """Concurrent repeats of one call share one reservation."""
        limit(governor, "10")
        with ThreadPoolExecutor(16) as pool:
            calls = pool.map(lambda _: dimes(governor, idempotency_key="k"), range(32))
            assert len({call.id for call in calls}) == 1
        assert sums(governor) == (0, DIME)

    def test_many_threads_settling_one_reservation_count_once(self, governor: Governor) -> None:
        """Concurrent repeats of one settlement share one event."""
        limit(governor, "10")
        held = dimes(governor)
        with ThreadPoolExecutor(16) as pool:
            done = pool.map(lambda _: governor.settle(held, cost="0.07"), range(32))
            assert {one.cost for one in done} == {Decimal("0.07")}
        assert sums(governor) == (Decimal("0.07"), 0)
        assert len(governor.events()) == 1

    def test_a_reservation_the_store_has_lost_is_taken_in(
        self, open_governor: Callable[..., Governor], governor: Governor
    ) -> None:
        """An object settles even where the store never saw it: charged money is recorded, once."""
        limit(governor, "1")
        elsewhere = open_governor(storage="memory://")
        elsewhere.tools.put(governor.tools.get(TOOL))
        held = dimes(elsewhere)
        settlement = governor.settle(held, cost="0.03")
        assert settlement.late
        assert governor.settle(held, cost="0.03").event_id == settlement.event_id
        assert sums(governor) == (Decimal("0.03"), 0)
        assert len(governor.events()) == 1

    def test_the_key_of_a_lost_reservation_is_taken_in_with_it(
        self, open_governor: Callable[..., Governor], governor: Governor
    ) -> None:
        """A call that was settled here can't be made again under its key, wherever it was held."""
        limit(governor, "1")
        elsewhere = open_governor(storage="memory://")
        elsewhere.tools.put(governor.tools.get(TOOL))
        held = dimes(elsewhere, idempotency_key="k")
        governor.settle(held, cost="0.03")
        again = dimes(governor, idempotency_key="k")
        assert (again.id, again.state) == (held.id, "settled")
        with pytest.raises(IdempotencyConflict):
            dimes(governor, 2, idempotency_key="k")
        assert sums(governor) == (Decimal("0.03"), 0)

    def test_recorded_ids_name_one_event(self, governor: Governor) -> None:
        """The same id with the same arguments is the same event; with others, a conflict."""
        limit(governor, "10")
        first = governor.record(id="e", tenant=TENANT, tool=TOOL, cost="1")
        assert (
            governor.record(id="e", tenant=TENANT, tool=TOOL, cost="1").event_id == first.event_id
        )
        for other in ({"cost": "2"}, {"user": "bob"}, {"labels": {"a": "b"}}):
            with pytest.raises(IdempotencyConflict):
                governor.record(**{"id": "e", "tenant": TENANT, "tool": TOOL, "cost": "1", **other})  # type: ignore[arg-type]
        assert governor.record(id="e", tenant="other", tool=TOOL, cost="2").cost == Decimal(2)
        assert sums(governor) == (Decimal(1), 0)

    def test_an_id_is_either_a_reservation_or_a_record(self, governor: Governor) -> None:
        """What was reserved is settled, not recorded: its id can't bring its cost in twice."""
        limit(governor, "10")
        held = dimes(governor)
        with pytest.raises(IdempotencyConflict):
            governor.record(id=held.id, tenant=TENANT, tool=TOOL, cost="0.10")
        governor.settle(held, cost="0.10")
        with pytest.raises(IdempotencyConflict):
            governor.record(id=held.id, tenant=TENANT, tool=TOOL, cost="0.10")
        assert sums(governor) == (DIME, 0)

    def test_adjustments_are_idempotent_by_id(self, governor: Governor) -> None:
        """An adjustment's id names one correction; without an id each one counts."""
        limit(governor, "10")
        governor.record(id="e", tenant=TENANT, tool=TOOL, cost="1")
        for _ in range(2):
            governor.adjust("e", "0.5", reason="fee", by="bob", id="fix")
        with pytest.raises(IdempotencyConflict):
            governor.adjust("e", "0.6", reason="fee", by="bob", id="fix")
        for _ in range(2):
            governor.adjust("e", "0.1", reason="fee", by="bob")
        assert sums(governor) == (Decimal("1.7"), 0)
        held = dimes(governor)
        with pytest.raises(IdempotencyConflict):
            governor.adjust("e", "0.1", reason="fee", by="bob", id=held.id)
        with pytest.raises(NotFound):
            governor.adjust("never", "0.1", reason="fee", by="bob")

    def test_ids_that_look_like_uuids_are_ids_like_others(self, governor: Governor) -> None:
        """An event recorded under a UUID of one's own is found, adjusted and repeated by it."""
        name = "0193b0a0-0000-7000-8000-00000000000a"
        limit(governor, "10")
        for _ in range(2):
            governor.record(id=name, tenant=TENANT, tool=TOOL, cost="1")
        governor.adjust(name, "-0.25", reason="refund", by="bob", id=name[:-1] + "b")
        assert sums(governor) == (Decimal("0.75"), 0)
        assert governor.events()[0].id == name

    def test_a_repeat_after_a_downgrade_is_the_same_downgrade(self, governor: Governor) -> None:
        """A repeat of a downgraded call is compared by what was asked for, not what was given."""
        limit(governor, "0", decision="downgrade", fallback_tool_id=SMALL)
        first = tokens(governor, idempotency_key="k")
        assert first.decision == "downgraded"
        again = tokens(governor, idempotency_key="k")
        assert (again.id, again.decision, again.model) == (first.id, "downgraded", SMALL)
