"""A process killed in the middle of its work loses nothing that it was told was settled."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from fluxai import Governor
from fluxai.testing import FakeClock
from tests.integration import workers
from tests.integration.conftest import empty_store
from tests.integration.ledger_worker import TENANT, TOOL, prepare


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store that processes can share."""
    return empty_store(request, tmp_path)


@pytest.mark.parametrize("acknowledged", [1, 40, 150])
def test_killed_under_load_every_acknowledged_settlement_is_there(
    url: str, acknowledged: int
) -> None:
    """Each id that came through the pipe after its settle returned is an event after kill -9."""
    with Governor(url) as governor:
        prepare(governor, "100000")
    with workers.started(url, "until_killed", *[[6]] * 2) as processes:
        ids: list[str] = []
        for process in processes:
            assert process.stdout is not None
            ids += [process.stdout.readline().strip() for _ in range(acknowledged)]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            assert process.stdout is not None
            lines = process.stdout.read().splitlines(keepends=True)
            ids += [line.strip() for line in lines if line.endswith("\n")]
            assert process.wait() == -signal.SIGKILL
    assert len(set(ids)) == len(ids) >= 2 * acknowledged

    workers.until_alone(url)
    clock = FakeClock(datetime.now(UTC))
    with Governor(url, clock=clock) as governor:
        assert governor.verify().ok
        events = {event.id: event.cost for event in governor.events(limit=100_000)}
        assert set(ids) <= set(events)
        # Two holds a thread may have been settled, or made, with nobody left to be told.
        assert len(events) - len(ids) <= 2 * 6
        (budget,) = governor.budgets(TENANT)
        assert budget.settled == sum(events.values()) == len(events) * Decimal("0.07")
        held = governor.reservations(state="reserved", limit=100_000)
        assert budget.reserved == len(held) * Decimal("0.10") > 0
        clock.advance(timedelta(hours=2))
        assert governor.expire(limit=100_000).released == len(held)
        (budget,) = governor.budgets(TENANT)
        assert (budget.settled, budget.reserved) == (sum(events.values()), 0)
        assert governor.reserve(tenant=TENANT, tool=TOOL).allowed
        assert governor.verify().ok


@pytest.mark.long
def test_killed_again_and_again_nothing_adds_up_to_anything_else(url: str) -> None:
    """Thirty kills of processes that share a store leave one ledger with every acknowledged id."""
    with Governor(url) as governor:
        prepare(governor, "100000")
    ids: set[str] = set()
    for kill in range(30):
        with workers.started(url, "until_killed", *[[4]] * 2) as processes:
            for process in processes:
                assert process.stdout is not None
                ids |= {process.stdout.readline().strip() for _ in range(1 + 3 * kill)}
                process.send_signal(signal.SIGKILL)
                lines = process.stdout.read().splitlines(keepends=True)
                ids |= {line.strip() for line in lines if line.endswith("\n")}
    workers.until_alone(url)
    with Governor(url) as governor:
        assert governor.verify().ok
        events = {event.id for event in governor.events(limit=1_000_000)}
        assert ids <= events
        assert len(events) - len(ids) <= 30 * 2 * 4
