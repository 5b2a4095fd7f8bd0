"""Months come and go while others write, and no row is left behind or seen twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg

from fluxai.core.windows import DAY_US, HOUR_US, to_us
from fluxai.storage.postgres import PostgresStorage
from tests.unit.storage.making import CENT, USD, Limit, Maker, plan_for

OLD_US = to_us(datetime(2026, 1, 31, 12, tzinfo=UTC))
FAR_US = to_us(datetime(2031, 5, 6, tzinfo=UTC))


def until_waiting(url: str, blocker: psycopg.Connection[Any]) -> None:
    """Return once another session waits for what `blocker` has locked."""
    pid = blocker.info.backend_pid
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))",
                (pid,),
            ).fetchone()
            if row is not None and row[0]:
                return


def test_a_month_that_is_made_takes_what_was_being_written(
    ledger_url: str, postgres_store: PostgresStorage
) -> None:
    """Rows of a transaction that was still open when its month was made are in that month."""
    maker, plan = Maker(), plan_for([Limit(amount=USD)], at_us=FAR_US)
    (held,) = postgres_store.reserve([maker.ask(plan, at_us=FAR_US)])
    with psycopg.connect(ledger_url) as writer:
        writer.execute(
            "INSERT INTO fluxai.reservations SELECT (f).* FROM (SELECT jsonb_populate_record(r, "
            "jsonb_build_object('id', %s::text)) AS f FROM fluxai.reservations AS r) AS g",
            (maker.new_id(FAR_US).to_bytes(16).hex(),),
        )
        making = threading.Thread(
            target=postgres_store._call, args=("make_months",), kwargs={"now_us": FAR_US}
        )
        making.start()
        until_waiting(ledger_url, writer)
        writer.commit()
        making.join()
        count = "SELECT count(*) FROM fluxai."
        assert writer.execute(count + "reservations_2031_05").fetchone() == (2,)
        assert writer.execute(count + "reservations_other").fetchone() == (0,)
    assert postgres_store.find("acme", held.uid) is not None


def test_months_that_cannot_be_made_now_are_left_for_later(
    ledger_url: str, open_store: Callable[..., PostgresStorage]
) -> None:
    """While somebody reads for long, tidying up is given up for now, and counted."""
    with psycopg.connect(ledger_url) as reader:
        reader.execute("SELECT count(*) FROM fluxai.events")
        store = open_store(patience_s=0.1)
        store._latest_us = FAR_US
        store._items_untidy = 1_000_000
        store._tidy()
        assert store.tidying_errors == 1


def test_a_counter_opened_after_its_months_were_pruned_carries_every_day_of_them(
    postgres_store: PostgresStorage,
) -> None:
    """What was spent on the last day of a pruned month counts, and is said to be carried."""
    maker = Maker()
    plan = plan_for([Limit(amount=USD, kind="total")], at_us=OLD_US)
    postgres_store._call("make_months", now_us=OLD_US)
    later_us = OLD_US + 40 * DAY_US
    postgres_store.resolve([maker.record(plan, "old", 3 * CENT, at_us=OLD_US)])
    postgres_store.resolve(
        [maker.record(plan, "back", -3 * CENT, at_us=later_us, counted_us=later_us)]
    )
    with postgres_store.engine.connect() as connection:
        connection.exec_driver_sql("DELETE FROM fluxai.counters")
    assert postgres_store.prune(later_us) == ["2026_01", "2026_02"]
    now = plan_for([Limit(amount=USD, kind="total")], at_us=later_us + HOUR_US)
    postgres_store.reserve([maker.ask(now, CENT, at_us=later_us + HOUR_US)])
    (balance,) = postgres_store.balances(now.first.keys, later_us + HOUR_US)
    assert (balance.settled, balance.reserved, balance.carried) == (0, CENT, 3 * CENT)
    report = postgres_store.verify()
    assert report.ok, report.differences
