"""The memory store keeps so many events; what it folds away stays in every sum."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fluxai import Governor, Policy, Tool
from fluxai.core.windows import Calendar, to_us, window_at
from fluxai.storage.memory import MemoryStorage
from fluxai.testing import FakeClock

KEPT = 40
DIME = Decimal("0.10")
#: A counter of each kind, as (policy, what it counts).
KINDS: dict[str, dict[str, Any]] = {
    "total": {"limit_type": "total"},
    "daily": {"limit_type": "daily"},
    "hourly": {"limit_type": "hourly", "scope": "tool"},
    "monthly of alice": {"limit_type": "monthly", "scope": "user", "scope_id": "alice"},
    "rolling": {"limit_type": "rolling", "window": "6h"},
    "tokens": {"limit_type": "total", "measure": "requests"},
    "label": {"limit_type": "total", "scope": "label", "scope_id": "run=1"},
}

steps = st.lists(
    st.tuples(
        st.sampled_from(["settle", "settle", "record", "late", "fix"]),
        st.integers(1, 12),
        st.sampled_from([1, 60, 1_800, 7_200]),
        st.sampled_from([None, "alice", "bob"]),
        st.sampled_from([None, *KINDS]),
    ),
    min_size=10,
    max_size=40,
)


def put(governor: Governor, name: str) -> None:
    """Put a policy of that kind whose limit nothing reaches."""
    governor.policies.put(
        Policy(id=name, tenant_id="acme", limit_value=Decimal(10**6), **KINDS[name])
    )


class Spent:
    """What was spent when, kept apart from the store."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._spent: list[tuple[int, str | None, Decimal, int]] = []

    def add(self, at_us: int, user: str | None, cost: Decimal, requests: int = 1) -> None:
        self._spent.append((at_us, user, cost, requests))

    def counted(self, name: str) -> Decimal:
        """Add up what a policy counts now."""
        kind = KINDS[name]
        now_us = self._clock.now_us()
        if kind["limit_type"] == "rolling":
            width_us = 6 * 3_600_000_000 // 60
            start_us = (now_us // width_us - 60) * width_us
        else:
            start_us = window_at(kind["limit_type"], now_us, Calendar.UTC).start_us
        return sum(
            (
                Decimal(requests) if name == "tokens" else cost
                for at_us, user, cost, requests in self._spent
                if at_us >= start_us and ("alice" not in name or user == "alice")
            ),
            Decimal(0),
        )


@given(steps)
def test_folding_keeps_every_cent(plan: list[tuple[str, int, int, str | None, str | None]]) -> None:
    """However few events are kept, each account that was there from the start is exact."""
    _spend(plan, edits=False)


@given(steps)
def test_accounts_opened_after_folding_are_never_too_low(
    plan: list[tuple[str, int, int, str | None, str | None]],
) -> None:
    """A policy that comes, or comes back, after events were folded counts at least what it should."""
    _spend(plan, edits=True)


def _spend(plan: list[tuple[str, int, int, str | None, str | None]], *, edits: bool) -> None:
    clock = FakeClock()
    storage = MemoryStorage(memory_events=KEPT)
    governor = Governor(storage, clock=clock)
    governor.tools.put(Tool(id="tool", cost_per_unit=DIME))
    spent = Spent(clock)
    there = set(KINDS)
    for name in KINDS:
        put(governor, name)
    request = {"tenant": "acme", "tool": "tool", "labels": {"run": "1"}}
    for number, (way, times, pause, user, edited) in enumerate(plan):
        clock.advance(timedelta(seconds=pause))
        if edits and edited is not None and edited != "label":
            if edited in there:
                governor.policies.delete(edited)
                there.remove(edited)
            else:
                put(governor, edited)
                there.add(edited)
        for turn in range(times):
            at_us = clock.now_us()
            if way == "record":
                at = clock.now - timedelta(seconds=turn)
                name = f"{number}.{turn}"
                recorded = governor.record(id=name, user=user, cost=DIME, **request, at=at)  # type: ignore[arg-type]
                spent.add(to_us(at), user, recorded.cost)
                continue
            held = governor.reserve(user=user, **request)  # type: ignore[arg-type]
            if way == "late":
                governor.release(held)
            settlement = governor.settle(held, cost="0.07")
            spent.add(at_us, user, Decimal("0.07"))
            if way == "fix":
                governor.adjust(settlement.event_id, "0.01", reason="fee", by="eve", tenant="acme")
                spent.add(at_us, user, Decimal("0.01"), 0)
        held = governor.reserve(user="alice", **request)  # type: ignore[arg-type]
        governor.release(held)
        found = {one.policy_id: Decimal(one.settled) for one in governor.budgets("acme")}
        for name in there:
            expected = spent.counted(name)
            assert found[name] >= expected, name
            if not edits:
                assert found[name] == expected, name
        report = governor.verify()
        assert report.ok, report.differences
    assert len(storage.events(limit=10_000)) < KEPT + 40
