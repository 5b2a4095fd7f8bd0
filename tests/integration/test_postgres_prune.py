"""PostgreSQL: old months go whole, and nothing that anybody can ask for changes by it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fluxai import FluxAIError, Governor, ReservationNotFound, StorageError, Tenant
from fluxai.core.windows import to_us
from fluxai.storage.base import Conflict
from fluxai.storage.functions import Pruned
from fluxai.storage.postgres import PostgresStorage
from fluxai.testing import FakeClock
from tests.servers.months import at, balances, ledger, limit, make_months, partitions, query, spend
from tests.servers.postgres import Databases
from tests.unit.storage.making import Maker, plan_for

_KINDS: tuple[dict[str, Any], ...] = (
    {"limit_type": "total"},
    {"limit_type": "total", "measure": "requests"},
    {"limit_type": "total", "scope": "user", "scope_id": "ada"},
    {"limit_type": "total", "scope": "tool", "scope_id": "search"},
    {"limit_type": "total", "scope": "label", "scope_id": "team=red"},
    {"limit_type": "monthly"},
    {"limit_type": "weekly", "scope": "user", "scope_id": "ada"},
    {"limit_type": "rolling", "window": "7d"},
    {"limit_type": "concurrent", "limit_value": "50"},
)


def prune(governor: Governor, before: datetime) -> Pruned:
    """Prune what ended before an instant."""
    storage = governor.storage
    assert isinstance(storage, PostgresStorage)
    return storage.prune(to_us(before))


@contextmanager
def grown(
    url: str, *, policies: tuple[dict[str, Any], ...] = _KINDS
) -> Iterator[tuple[Governor, FakeClock]]:
    """Open a ledger with a call on each third day from January to May 2028; it is 20 May."""
    with ledger(url, at(2028, 1, 1)) as (governor, clock):
        for fields in policies:
            limit(governor, **fields)
        while clock.now < at(2028, 5, 20, 12):
            if clock.now.day <= 3:
                make_months(url, clock.now)
            spend(governor, labels={"team": "red"})
            clock.advance(timedelta(days=3, hours=1))
        clock.set(at(2028, 5, 20, 12))
        yield governor, clock
        assert governor.verify().ok, governor.verify()


def test_old_months_go_and_every_balance_stays(postgres_url: str) -> None:
    """Limits in total still count what was pruned, and the partitions are gone."""
    with grown(postgres_url) as (governor, _):
        before, usage = balances(governor), _spent(governor)
        spent = len(governor.events(limit=1_000))
        assert prune(governor, at(2028, 4, 15)) == Pruned(months=("2028-01", "2028-02", "2028-03"))
        assert balances(governor) == before
        assert _spent(governor) == usage
        assert not {
            name
            for name in partitions(postgres_url)
            if name.endswith(("_01", "_02", "_03")) and "2028" in name
        }
        assert len(governor.events(limit=1_000)) < spent / 2
        assert governor.verify().ok
        assert prune(governor, at(2028, 4, 15)) == Pruned(months=())


def test_a_limit_still_refuses_by_what_was_pruned(postgres_url: str) -> None:
    """What was spent before the horizon is not to be had again."""
    with grown(postgres_url, policies=({"limit_type": "total", "limit_value": "5"},)) as (
        governor,
        _,
    ):
        (left,) = [one.remaining for one in governor.budgets("acme")]
        prune(governor, at(2028, 4, 15))
        for _ in range(int(left / Decimal("0.10"))):
            spend(governor)
        assert not governor.reserve(tenant="acme", tool="search").allowed


def test_no_id_or_time_before_the_horizon_is_taken_again(postgres_url: str) -> None:
    """A repeat of what was pruned can't be told from something new, so it is refused."""
    with ledger(postgres_url, at(2028, 1, 31, 23, 59)) as (governor, clock):
        make_months(postgres_url, clock.now)
        old = spend(governor, idempotency_key="k")
        open_then = governor.reserve(tenant="acme", tool="search")
        governor.release(open_then)
        named = str(uuid.UUID(old.id))
        governor.record(id="r", tenant="acme", tool="search", cost="1")
        clock.set(at(2028, 2, 1))
        kept = spend(governor)
        clock.set(at(2028, 4, 1))
        assert prune(governor, at(2028, 2, 20)).months == ("2028-01",)
        spent = governor.usage("acme", start=at(2028, 1), end=at(2028, 4)).total_cost

        for again in (old, open_then):
            again.state = "reserved"
            with pytest.raises(FluxAIError):
                governor.settle(again)
            with pytest.raises(ReservationNotFound):
                governor.settle(again.id, cost="1")
        with pytest.raises(FluxAIError, match="older"):
            governor.record(
                id="r", tenant="acme", tool="search", cost="1", at=at(2028, 1, 31, 23, 59)
            )
        with pytest.raises(FluxAIError, match="older"):
            governor.record(id=named, tenant="acme", tool="search", cost="1")
        plan = plan_for(version=governor.storage.version("acme"))
        again = Maker().ask(plan, uid=old.uid, at_us=to_us(clock.now))
        answer = governor.storage.reserve_one(again)
        assert isinstance(answer, Conflict)
        assert "the id is older" in answer.message
        governor.settle(kept)
        assert governor.usage("acme", start=at(2028, 1), end=at(2028, 4)).total_cost == spent
        assert governor.verify().ok


@pytest.mark.parametrize("scope", ["tenant", "user", "tool"])
def test_a_counter_that_is_opened_later_counts_what_was_pruned(
    postgres_url: str, scope: str
) -> None:
    """A policy that is new after pruning finds the same sums that it would have found before."""
    whose = {"tenant": None, "user": "ada", "tool": "search"}[scope]
    with grown(postgres_url, policies=()) as (governor, clock):
        governor.tenants.put(Tenant(id="acme", timezone="Europe/Berlin"))
        total = governor.usage("acme", start=at(2028, 1), end=clock.now).total_cost
        prune(governor, at(2028, 4, 15))
        limit(governor, limit_type="total", scope=scope, scope_id=whose)
        spend(governor)
        ((settled, carried),) = query(
            postgres_url, "SELECT settled, carried FROM fluxai.counters WHERE kind = 'total'"
        )
        assert Decimal(settled) / 10**9 == total + Decimal("0.10")
        assert 0 < carried < settled
        assert governor.verify().ok
        assert prune(governor, at(2028, 5, 15)).months == ("2028-04",)


def test_a_label_that_is_limited_later_counts_what_is_left(postgres_url: str) -> None:
    """Daily sums know no labels: a limit on one, put after pruning, begins with what was kept."""
    with grown(postgres_url, policies=()) as (governor, _):
        prune(governor, at(2028, 4, 15))
        kept = len(governor.events(limit=1_000))
        limit(governor, limit_type="total", scope="label", scope_id="team=red", measure="requests")
        spend(governor, labels={"team": "red"})
        (budget,) = governor.budgets("acme")
        assert budget.settled == kept + 1


def test_a_month_stays_while_it_is_needed(postgres_url: str) -> None:
    """Open reservations and windows that roll keep their months, and the reason is told."""
    with ledger(postgres_url, at(2028, 1, 30)) as (governor, clock):
        make_months(postgres_url, clock.now)
        limit(governor, limit_type="rolling", window="90d")
        held = governor.reserve(tenant="acme", tool="search", ttl="100d")
        clock.set(at(2028, 4, 15))
        assert prune(governor, at(2028, 4, 1)) == Pruned(
            months=(), stays="2028-01", because="a reservation of it is open"
        )
        governor.settle(held)
        assert prune(governor, at(2028, 4, 1)).because == "a rolling window counts it"
        clock.set(at(2028, 6, 15))
        assert prune(governor, at(2028, 6, 10)).months == ("2028-01", "2028-02")


def test_a_window_that_nobody_feeds_any_more_keeps_nothing(postgres_url: str) -> None:
    """A rolling window stands where its last call left it; what has left it meanwhile may go."""
    with ledger(postgres_url, at(2028, 1, 30)) as (governor, clock):
        make_months(postgres_url, clock.now)
        limit(governor, limit_type="rolling", window="7d")
        spend(governor)
        clock.set(at(2028, 4, 15))
        assert prune(governor, at(2028, 3, 10)).months == ("2028-01", "2028-02")
        assert governor.verify().ok
        spend(governor)
        assert [one.settled for one in governor.budgets("acme")] == [Decimal("0.10")]


def test_days_that_were_pruned_are_counted_once_in_every_zone(postgres_url: str) -> None:
    """Months of a tenant begin elsewhere than UTC days do; together they still are everything."""
    with grown(postgres_url, policies=()) as (governor, _):
        governor.tenants.put(Tenant(id="acme", timezone="Asia/Kolkata"))
        months = [at(2028, month) - timedelta(hours=5, minutes=30) for month in range(1, 7)]

        def each() -> list[int]:
            return [
                sum(row.events for row in governor.storage.usage("acme", to_us(low), to_us(high)))
                for low, high in pairwise(months)
            ]

        before = each()
        prune(governor, at(2028, 4, 15))
        assert sum(each()) == sum(before)
        assert each()[4:] == before[4:]


def test_a_month_whose_sums_are_wrong_is_kept_until_they_are_rebuilt(postgres_url: str) -> None:
    """What daily sums do not say would be lost with the events."""
    with grown(postgres_url) as (governor, _):
        before = balances(governor)
        query(postgres_url, "UPDATE fluxai.days SET cost = cost + 1 WHERE day % 2 = 0 RETURNING 1")
        query(postgres_url, "UPDATE fluxai.counters SET settled = settled + 7 RETURNING 1")
        query(postgres_url, "DELETE FROM fluxai.labels WHERE seq % 2 = 0 RETURNING 1")
        held = governor.reserve(tenant="acme", tool="search", user="ada")
        found = prune(governor, at(2028, 4, 15))
        assert found.stays == "2028-01"
        assert "rebuild" in str(found.because)
        assert not governor.verify().ok
        assert isinstance(governor.storage, PostgresStorage)
        governor.storage.rebuild()
        assert governor.verify().ok
        governor.release(held)
        assert balances(governor) == before
        assert len(prune(governor, at(2028, 4, 15)).months) == 3
        # And with sums that are carried.
        query(
            postgres_url,
            "UPDATE fluxai.counters SET settled = settled + 7, reserved = 5 RETURNING 1",
        )
        held = governor.reserve(tenant="acme", tool="search", user="ada")
        governor.storage.rebuild()
        assert governor.verify().ok
        governor.release(held)
        assert balances(governor) == before


def test_months_are_pruned_while_others_spend(postgres_url: str) -> None:
    """Old tenants and new ones go on, nobody waits in a circle, and no money moves."""
    with grown(postgres_url) as (governor, clock):
        stores = [Governor(PostgresStorage(postgres_url), clock=clock) for _ in range(3)]
        failed: list[BaseException] = []
        done, enough = threading.Event(), threading.Barrier(len(stores) + 1)

        def write(own: Governor, number: int) -> None:
            try:
                for turn in range(400):
                    if turn == 5:
                        enough.wait(60)
                    if turn > 20 and done.is_set():
                        return
                    tenant = ("acme", f"new-{number}-{turn}")[turn % 2]
                    spend(own, tenant=tenant, user=f"user-{turn}", labels={"team": "red"})
                    own.usage("acme", start=at(2028, 1), end=clock.now)
                    if turn % 10 == 0:
                        assert own.verify().ok
            except BaseException as error:  # noqa: BLE001 -- told below
                failed.append(error)

        threads = [threading.Thread(target=write, args=(own, n)) for n, own in enumerate(stores)]
        for thread in threads:
            thread.start()
        enough.wait(60)
        try:
            months = prune(governor, at(2028, 5, 1)).months
            assert [month for month in months if month >= "2028"] == [
                f"2028-0{n}" for n in range(1, 5)
            ]
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert not failed, failed
        for own in stores:
            own.close()


def test_pruning_gives_way_and_says_so(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who reads for long is not cut off, and writers do not queue up behind both."""
    monkeypatch.setattr("fluxai.storage.functions.PRUNING_PATIENCE_S", 0)
    with grown(postgres_url, policies=()) as (governor, _):
        with psycopg.connect(postgres_url) as reader:
            reader.execute("SELECT count(*) FROM fluxai.events")
            with pytest.raises(StorageError, match="prune it later"):
                prune(governor, at(2028, 4, 15))
            spend(governor)
        assert len(prune(governor, at(2028, 4, 15)).months) == 3


def test_an_ask_that_waited_for_pruning_knows_of_it(postgres_url: str) -> None:
    """An id that was pruned while its repeat waited is refused as well."""
    with ledger(postgres_url, at(2028, 1, 15)) as (governor, clock):
        make_months(postgres_url, clock.now)
        old = spend(governor)
        clock.set(at(2028, 4, 1))
        plan = plan_for(version=governor.storage.version("acme"))
        again = Maker().ask(plan, uid=old.uid, at_us=to_us(clock.now))
        answers: list[Any] = []
        with psycopg.connect(postgres_url) as pruning:
            pruning.execute("SELECT fluxai.prune(%s)", (to_us(at(2028, 2, 20)),))
            asking = threading.Thread(
                target=lambda: answers.append(governor.storage.reserve_one(again))
            )
            asking.start()
            while not query(
                postgres_url,
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND query LIKE '%carry_out%' AND datname = current_database()",
            ):
                pass
        asking.join()
        assert isinstance(answers[0], Conflict)


_CALLS = st.lists(
    st.tuples(
        st.integers(0, 150 * 24 * 60),  # minutes after the start
        st.sampled_from(["ada", "bob"]),
        st.sampled_from(["red", "blue", None]),
        st.sampled_from(["settle", "settle", "record", "release", "hold"]),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])
@given(
    calls=_CALLS,
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Kiritimati"]),
    keep_days=st.integers(35, 120),
)
def test_pruning_changes_no_balance_and_no_verdict(
    postgres_server: Databases,
    calls: list[tuple[int, str, str | None, str]],
    zone: str,
    keep_days: int,
) -> None:
    """Whatever the history and the moment, all is decided as if nothing had been pruned."""
    url = postgres_server.create_database()
    start = at(2028, 1)
    with ledger(url, start) as (governor, clock):
        governor.tenants.put(Tenant(id="acme", timezone=zone, fiscal_month_start=15))
        for fields in _KINDS:
            limit(governor, **{"limit_value": "2", **fields})
        for number, (minutes, user, team, what) in enumerate(sorted(calls)):
            clock.set(max(clock.now, start + timedelta(minutes=minutes)))
            if number % 3 == 0:
                make_months(url, clock.now)
            labels = {"team": team} if team else None
            if what == "record":
                governor.record(
                    id=f"r{number}",
                    tenant="acme",
                    user=user,
                    tool="search",
                    units=1,
                    labels=labels,
                    at=clock.now - timedelta(days=number),
                )
                continue
            held = governor.reserve(
                tenant="acme",
                user=user,
                tool="search",
                labels=labels,
                ttl="200d" if what == "hold" else None,
            )
            if held.allowed and what != "hold":
                (governor.settle if what == "settle" else governor.release)(held)
        before, spent = balances(governor), _spent(governor)
        prune(governor, clock.now - timedelta(days=keep_days))
        assert governor.verify().ok
        assert balances(governor) == before
        assert _spent(governor) == spent
        assert governor.storage.rebuild() is None  # type: ignore[attr-defined]
        assert governor.verify().ok
        assert balances(governor) == before
    postgres_server.drop_database(url)


def _spent(governor: Governor) -> list[tuple[Any, ...]]:
    found = governor.storage.usage("acme", to_us(at(2027, 1)), to_us(at(2029, 1)))
    return sorted((str(r.user), r.tool, r.cost_nanousd, r.requests, r.events) for r in found)
