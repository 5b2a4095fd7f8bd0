"""PostgreSQL: months are made ahead, and rows that came before their month move into it."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from datetime import datetime, timedelta

import psycopg
import pytest

from fluxai import Governor
from fluxai.core.windows import from_us, to_us
from fluxai.storage import functions
from fluxai.storage.postgres import PostgresStorage
from tests.servers.months import (
    TABLES,
    at,
    count,
    ledger,
    limit,
    make_months,
    migrate,
    part_of,
    partitions,
    query,
    rows,
    spend,
    write_while_a_month_is_made,
)

_INSTANT = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("zone", "moment", "months"),
    [
        ("UTC", at(2027, 12, 31, 23, 59), ["2027_12", "2028_01", "2028_02"]),
        ("Pacific/Kiritimati", at(2027, 12, 31, 23, 59), ["2027_12", "2028_01", "2028_02"]),
        ("Pacific/Marquesas", at(2028, 1, 1), ["2028_01", "2028_02", "2028_03"]),
        ("Europe/Berlin", at(2028, 3, 26, 1), ["2028_03", "2028_04", "2028_05"]),
        # Where the first of October 2028 begins at one o'clock.
        ("America/Asuncion", at(2028, 10, 1, 4), ["2028_10", "2028_11", "2028_12"]),
    ],
)
def test_a_month_and_two_more_are_made_as_utc_has_them(
    postgres_url: str, zone: str, moment: datetime, months: list[str]
) -> None:
    """Whatever a session's time zone, partitions are named after UTC months, and end with them."""
    with ledger(postgres_url, moment) as (governor, clock):
        before = partitions(postgres_url)
        assert make_months(postgres_url, moment, zone=zone) == [1] * 9 + [0]
        made = partitions(postgres_url) - before
        assert made == {f"{table}_{month}" for table in TABLES for month in months}
        first = at(int(months[1][:4]), int(months[1][5:]))
        for number, moment_ in enumerate((first - _INSTANT, first)):
            clock.set(moment_)
            spend(governor, labels={"team": "red"})
            for table in TABLES:
                name = part_of(postgres_url, table, to_us(moment_))
                # An id knows milliseconds, so a reservation is no later than its event.
                assert name == f"fluxai.{table}_{months[number]}"
        assert governor.verify().ok


def test_without_an_instant_the_clock_of_the_server_counts(postgres_url: str) -> None:
    """A new ledger has the server's month, by the time it says itself, and the two after it."""
    migrate(postgres_url)
    ((month,),) = query(postgres_url, "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
    assert f"events_{month}" in partitions(postgres_url)
    assert query(postgres_url, "SELECT fluxai.make_months(NULL)") == [(0,)]


def test_rows_of_a_month_that_is_made_later_move_there_whole(postgres_url: str) -> None:
    """Nothing is lost, doubled or changed by a move, and a repeat still finds what it repeats."""
    with ledger(postgres_url, at(2029, 5, 31, 23, 59)) as (governor, clock):
        limit(governor, limit_type="total")
        settled = [spend(governor, labels={"team": "red"}) for _ in range(3)]
        clock.set(at(2029, 6, 1))
        settled.append(spend(governor, labels={"team": "blue"}))
        held = governor.reserve(tenant="acme", tool="search", idempotency_key="k1")
        clock.set(at(2029, 6, 2))
        governor.record(
            id="r1", tenant="acme", tool="search", cost="2", at=at(2029, 6, 2) - _INSTANT
        )
        before = rows(postgres_url)
        assert make_months(postgres_url, at(2029, 5, 31))[-1] == 0
        assert rows(postgres_url) == before
        for table in TABLES:
            assert count(postgres_url, f"{table}_other") == 0
            assert count(postgres_url, f"{table}_2029_05") == 3
        for one in settled:
            governor.settle(one)
        again = governor.reserve(tenant="acme", tool="search", idempotency_key="k1")
        assert again.id == held.id
        governor.settle(again)
        governor.record(
            id="r1", tenant="acme", tool="search", cost="2", at=at(2029, 6, 2) - _INSTANT
        )
        assert len(governor.events(limit=100)) == 6
        assert governor.verify().ok


def test_what_was_entered_for_the_past_gets_its_months_when_the_store_tidies_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is entered month by month does not end in one heap."""
    monkeypatch.setattr(functions, "ITEMS_PER_TIDYING", 10)
    with ledger(postgres_url, at(2028, 6, 15)) as (governor, _):
        for number in range(60):
            moment = at(2027, 1 + number // 10, 1 + number % 10)
            governor.record(id=f"r{number}", tenant="acme", tool="search", cost="1", at=moment)
        assert {f"events_2027_0{month}" for month in range(1, 6)} <= partitions(postgres_url)
        assert governor.verify().ok


def test_a_month_is_made_while_others_write_into_it(postgres_url: str) -> None:
    """Neither side fails, nor waits for the other in a circle, and no money moves."""
    with ledger(postgres_url, at(2029, 7, 15)) as (governor, _), ExitStack() as opened:
        limit(governor, limit_type="total")
        limit(governor, limit_type="total", scope="label", scope_id="team=red")
        spend(governor)
        stores = [governor]
        for _ in range(2):
            own = Governor(PostgresStorage(postgres_url), clock=governor.clock)
            stores.append(opened.enter_context(own))
        failed: list[BaseException] = []
        made, enough = threading.Event(), threading.Barrier(len(stores) + 1)

        def write(own: Governor, number: int) -> None:
            try:
                for turn in range(400):
                    if turn == 10:
                        enough.wait(60)
                    if turn > 20 and made.is_set():
                        return
                    spend(
                        own,
                        user=f"user-{turn}",
                        labels={"team": "red"},
                        tenant=("acme", "bolt")[turn % 2],
                    )
                    own.record(id=f"{number}-{turn}", tenant="acme", tool="search", cost="1")
            except BaseException as error:  # noqa: BLE001 -- told below
                failed.append(error)

        threads = [
            threading.Thread(target=write, args=pair)
            for pair in zip(stores, range(9), strict=False)
        ]
        for thread in threads:
            thread.start()
        enough.wait(60)
        make_months(postgres_url, at(2029, 7, 15))
        made.set()
        for thread in threads:
            thread.join()
        assert not failed, failed
        for table in TABLES:
            assert count(postgres_url, f"{table}_other") == 0
        assert governor.verify().ok
        ((events, ids),) = query(
            postgres_url, "SELECT count(*), count(DISTINCT (tenant, id)) FROM fluxai.events"
        )
        assert events == ids


def test_a_row_on_its_way_while_its_month_is_made_is_written_again(postgres_url: str) -> None:
    """It was to go where nothing of its month may be any more: nobody hears of that."""
    moment = at(2029, 7, 15)
    with ledger(postgres_url, moment) as (governor, _):
        spend(governor)
        held = governor.reserve(tenant="bolt", tool="search")
        write_while_a_month_is_made(postgres_url, moment, lambda: governor.settle(held))
        assert governor.storage.retries == 1
        assert count(postgres_url, "events_2029_07") == 2
        assert governor.verify().ok


def test_making_a_month_gives_way_to_whoever_uses_the_table(postgres_url: str) -> None:
    """A long reader is not waited for: writers go on, and the next call makes what is missing."""
    with ledger(postgres_url, at(2030, 1, 15)) as (governor, _):
        with psycopg.connect(postgres_url) as reader:
            reader.execute("SELECT count(*) FROM fluxai.reservations_other")
            assert make_months(postgres_url, at(2030, 1, 15), patient=False) == [-1]
            spend(governor)
            governor.storage.migrate()
        assert make_months(postgres_url, at(2030, 1, 15)) == [1] * 9 + [0]
        assert governor.verify().ok


def test_two_that_make_months_do_not_wait_for_each_other(postgres_url: str) -> None:
    """Whoever comes second leaves it to the first."""
    migrate(postgres_url)
    with psycopg.connect(postgres_url) as first:
        first.execute("SELECT fluxai.make_months(%s)", (to_us(at(2031, 1)),))
        assert make_months(postgres_url, at(2031, 1), patient=False) == [-1]
    assert make_months(postgres_url, at(2031, 1)) == [1] * 8 + [0]


def test_months_are_made_ahead_by_use(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that runs for years never reaches the end of its partitions."""
    monkeypatch.setattr(functions, "ITEMS_PER_TIDYING", 2)
    with ledger(postgres_url, at(2027, 1, 15)) as (governor, clock):
        for _ in range(14):
            spend(governor)
            clock.advance(timedelta(days=28))
        months = {name[-7:] for name in partitions(postgres_url) if name.startswith("events_2")}
        latest = from_us(clock.now_us()) + timedelta(days=31)
        assert f"{latest:%Y_%m}" in months
