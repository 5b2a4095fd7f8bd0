"""fork(): a file, or a database, is shared by parent and child; a memory of one's own is not."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest

from fluxai import Governor
from tests.integration import workers
from tests.integration.conftest import empty_store
from tests.integration.ledger_worker import TENANT, TOOL, prepare

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store that processes can share."""
    return empty_store(request, tmp_path)


def test_parent_child_and_grandchild_pay_from_one_store(url: str) -> None:
    """Each process forked from a governor goes on paying from the same budget, to its end."""
    with Governor(url) as governor:
        prepare(governor, "1.05")
    with workers.started(url, "fork_and_pay", []) as processes:
        (said,) = workers.finished(processes)
    assert said == {
        "before": 3,
        "child": {"paid": 3, "grandchild": 3},
        "after": 1,
        "ok": True,
    }
    with Governor(url) as governor:
        (budget,) = governor.budgets(TENANT)
        assert (budget.settled, budget.reserved) == (Decimal("1.05"), 0)


def test_forked_while_other_threads_pay(url: str) -> None:
    """Forks in the middle of others' transactions: every dime of parents and children counts."""
    with Governor(url) as governor:
        prepare(governor, "10000")
    with workers.started(url, "fork_under_load", [6, 12]) as processes:
        (said,) = workers.finished(processes)
    assert said["children"] == [2] * 12
    assert said["ok"]
    with Governor(url) as governor:
        (budget,) = governor.budgets(TENANT)
        assert budget.settled == (24 + said["parents"]) * Decimal("0.10")
        assert budget.reserved == 0


def test_forked_while_another_thread_makes_its_first_record(tmp_path: Path) -> None:
    """No child waits for ever for a lock under which pydantic was getting itself ready."""
    with workers.started(
        f"sqlite:///{tmp_path}/ledger.db", "fork_at_first_use", [400]
    ) as processes:
        (said,) = workers.finished(processes)
    assert said == {"made": [TOOL] * 400}


def test_a_memory_is_not_shared_by_a_fork() -> None:
    """In a forked child every verb on memory is refused, and the parent counts on undisturbed."""
    with workers.started("memory://", "fork_in_memory", []) as processes:
        (said,) = workers.finished(processes)
    assert said == {"refused": [True] * 7, "paid": 9, "ok": True}
