"""`governor.budget()`: one more limit around a block, counted in the ledger like any other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

import fluxai
from fluxai import BudgetExceeded, Governor, InvalidRequest, Policy, Tool
from tests.integration.stubs import ASK, open_governor, spent

DIME = {"tenant": "acme", "tool": "dime"}


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor with a tool of ten cents."""
    with open_governor(request.param, tmp_path) as governor:
        governor.tools.put(Tool(id="dime", cost_per_unit=Decimal("0.10")))
        yield governor
        assert governor.verify().ok


def _spend(governor: Governor, units: int = 1) -> bool:
    reservation = governor.reserve(tool="dime", units=units)
    if reservation.allowed:
        governor.settle(reservation)
    return reservation.allowed


def test_a_block_limits_what_is_spent_inside(governor: Governor) -> None:
    """Exactly the block's money can be spent in it; what is outside is free of it."""
    with governor.budget("0.50", tenant="acme", run="42") as block:
        assert block.limit == Decimal("0.50")
        assert [_spend(governor) for _ in range(7)] == [True] * 5 + [False] * 2
        assert (block.spent, block.reserved, block.remaining) == (Decimal("0.50"), 0, 0)
        refused = governor.reserve(tool="dime")
        assert "total cost limit of $0.50 for the budget() block" in refused.message
    assert governor.reserve(**DIME).allowed
    assert {event.labels["run"] for event in governor.events()} == {"42"}
    assert {event.tenant for event in governor.events()} == {"acme"}


def test_holds_count_until_they_are_given_back(governor: Governor) -> None:
    """The block shows what is held, and what is released can be held again."""
    with governor.budget("0.20", tenant="acme") as block:
        first = governor.reserve(tool="dime", units=2)
        assert (block.reserved, block.remaining) == (Decimal("0.20"), 0)
        assert not governor.reserve(tool="dime").allowed
        governor.release(first)
        assert block.remaining == Decimal("0.20")
        assert governor.reserve(tool="dime").allowed


def test_an_inner_block_never_exceeds_the_outer(governor: Governor) -> None:
    """A call counts in each block around it, whichever is the tighter."""
    with governor.budget("0.30", tenant="acme") as outer:
        with governor.budget("5.00") as inner:
            assert [_spend(governor) for _ in range(4)] == [True, True, True, False]
        assert (outer.spent, inner.spent) == (Decimal("0.30"), Decimal("0.30"))
    with governor.budget("5.00", tenant="acme") as outer:
        with governor.budget("0.10") as inner:
            assert [_spend(governor) for _ in range(2)] == [True, False]
        assert _spend(governor)
        assert (outer.spent, inner.spent) == (Decimal("0.20"), Decimal("0.10"))


def test_blocks_in_turn_begin_at_nothing(governor: Governor) -> None:
    """Each block is an account of its own."""
    for _ in range(3):
        with governor.budget("0.10", tenant="acme") as block:
            assert block.spent == 0
            assert _spend(governor)
            assert not _spend(governor)


def test_the_tenant_s_own_limits_still_hold(governor: Governor) -> None:
    """A block adds a limit; it lifts none."""
    governor.policies.put(
        Policy(tenant_id="acme", limit_type="daily", limit_value=Decimal("0.10"), id="day")
    )
    with governor.budget("9", tenant="acme"):
        assert _spend(governor)
        refused = governor.reserve(tool="dime")
    assert "policy day" in refused.message


def test_threads_and_tasks_of_a_block_count_in_it(governor: Governor) -> None:
    """Whoever makes the calls inside, exactly ten dimes fit into a dollar."""
    with governor.budget("1", tenant="acme") as block:
        with ThreadPoolExecutor(8) as pool:
            spent_by_pool = sum(pool.map(lambda _: _spend(governor), range(6)))
        threads = [threading.Thread(target=_spend, args=(governor,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        async def tasks() -> int:
            return sum(
                await asyncio.gather(
                    *(asyncio.to_thread(_spend, governor) for _ in range(8)),
                )
            )

        spent_by_tasks = asyncio.run(tasks())
        assert (spent_by_pool, spent_by_tasks) == (6, 2)
        assert block.spent == 1


def test_a_block_s_tenant_is_everybody_s_inside(governor: Governor) -> None:
    """Another tenant inside would count in another ledger, unseen: it is refused."""
    with governor.budget("1", tenant="acme"):
        with pytest.raises(InvalidRequest, match="'globex'"):
            governor.reserve(tenant="globex", tool="dime")
        with pytest.raises(InvalidRequest, match="'globex'"):
            governor.record(tenant="globex", tool="dime", cost="1", id="x")
        with pytest.raises(InvalidRequest, match="'globex'"), fluxai.subject(tenant="globex"):
            pytest.fail("the block ran")
        with pytest.raises(InvalidRequest, match="'globex'"), governor.budget("1", tenant="globex"):
            pytest.fail("the block ran")
        with fluxai.subject(tenant="acme", user="alice"):
            assert _spend(governor)
    assert governor.reserve(tenant="globex", tool="dime").allowed


def test_a_block_takes_its_tenant_from_the_subject_around_it(governor: Governor) -> None:
    """Without a tenant of its own it is the surrounding one's, or the default."""
    with fluxai.subject(tenant="acme", user="alice"), governor.budget("1"):
        assert _spend(governor)
    with governor.budget("1"):
        assert _spend(governor)
    assert [(event.tenant, event.user) for event in governor.events()] == [
        ("acme", "alice"),
        ("default", None),
    ]


def test_recorded_money_counts_in_the_block(governor: Governor) -> None:
    """What was spent elsewhere, recorded inside, leaves less for the rest."""
    with governor.budget("0.20", tenant="acme") as block:
        governor.record(tool="dime", cost="0.15", id="elsewhere")
        assert block.remaining == Decimal("0.05")
        assert not _spend(governor)


def test_guards_inside_are_refused_too(governor: Governor) -> None:
    """A guard in a block that is used up raises before its body."""
    with governor.budget("0.0000001", tenant="acme"), pytest.raises(BudgetExceeded):  # noqa: SIM117
        with governor.guard(**ASK):
            pytest.fail("the body ran")
    assert spent(governor) == 0


def test_a_block_s_accounts_are_not_shown_as_anybody_s_labels(governor: Governor) -> None:
    """A limit for each label value counts the labels that people chose, not the blocks' own."""
    governor.policies.put(
        Policy(
            id="each",
            tenant_id="acme",
            scope="label",
            limit_type="total",
            limit_value=Decimal("0.10"),
        )
    )
    with governor.budget("1", tenant="acme", run="42"):
        assert _spend(governor)
        assert not _spend(governor)
    with governor.budget("1", tenant="acme"):
        assert _spend(governor)
        assert _spend(governor)
    assert [budget.scope_id for budget in governor.budgets("acme")] == ["run=42"]


def test_a_late_settle_finds_its_block(governor: Governor) -> None:
    """Money that is settled after the block, or after its hold has ended, is on its account."""
    with governor.budget("1", tenant="acme") as block:
        held = governor.reserve(tool="dime")
        late = governor.reserve(tool="dime")
        governor.release(late)
    governor.settle(held)
    governor.settle(late)
    assert block.spent == Decimal("0.20")


def test_a_block_leaves_nothing_behind(governor: Governor) -> None:
    """Whatever its body raises, the surroundings are as before."""
    with pytest.raises(KeyError), governor.budget("1", tenant="acme"):
        raise KeyError
    assert governor.reserve(tool="dime").subject.tenant == "default"


def test_a_block_has_no_user_and_no_mapping_of_labels(governor: Governor) -> None:
    """A user would have become a label, and limits of that user would not have held."""
    for wrong, hint in (
        ({"user": "alice"}, "fluxai.subject"),
        ({"labels": {"team": "red"}}, "team='red'"),
    ):
        with (
            pytest.raises(InvalidRequest, match=hint),
            governor.budget("1", tenant="acme", **wrong),  # type: ignore[arg-type]
        ):
            pytest.fail("it ran")
