"""The database server crashes in the middle of the work: what was acknowledged is there, once."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fluxai import Governor
from tests.integration import workers
from tests.integration.ledger_worker import TENANT, TOOL, prepare
from tests.servers.postgres import PostgresServer

PROCESSES = 2
THREADS = 4


@pytest.mark.parametrize("acknowledged", [5, 60])
def test_a_crash_of_the_server_loses_nothing_acknowledged_and_doubles_nothing(
    stoppable_postgres: PostgresServer, postgres_url: str, acknowledged: int
) -> None:
    """Clients go on through a crash; every id they were told is one event, and the sums are exact.

    The ids are kept by this process, which gets each only after its settle has returned.
    """
    with Governor(postgres_url) as governor:
        prepare(governor, "100000")
    ids: list[str] = []
    with workers.started(postgres_url, "through_crashes", *[[THREADS]] * PROCESSES) as processes:
        for crash in ("immediate", "kill", None):
            for process in processes:
                assert process.stdout is not None
                ids += [process.stdout.readline().strip() for _ in range(acknowledged)]
            if crash == "kill":
                stoppable_postgres.kill()
                stoppable_postgres.start_again()
            elif crash is not None:
                stoppable_postgres.restart("immediate")
        for process in processes:
            assert process.stdout is not None
            process.kill()
            lines = process.stdout.read().splitlines(keepends=True)
            ids += [line.strip() for line in lines if line.endswith("\n")]
    workers.until_alone(postgres_url)
    assert all(ids), "a client gave up"
    assert len(set(ids)) == len(ids) >= 3 * PROCESSES * acknowledged
    with Governor(postgres_url) as governor:
        report = governor.verify()
        assert report.ok, report.differences
        events = [event.id for event in governor.events(limit=100_000)]
        assert len(set(events)) == len(events)
        assert set(ids) <= set(events)
        # The last of each thread may have been settled with nobody left to be told.
        assert len(events) - len(ids) <= PROCESSES * THREADS
        (budget,) = governor.budgets(TENANT)
        assert budget.settled == len(events) * Decimal("0.07")
        held = governor.reservations("reserved", limit=100_000)
        assert budget.reserved == len(held) * Decimal("0.10")
        assert governor.reserve(tenant=TENANT, tool=TOOL).allowed
