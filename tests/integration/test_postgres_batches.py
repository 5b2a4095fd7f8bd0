"""Items of one batch do not touch each other: each is answered, and counted, as if it came alone."""

from __future__ import annotations

from typing import Any

from fluxai.core.decisions import UsageEvent
from fluxai.core.windows import HOUR_US
from fluxai.storage.base import Change, Conflict, Stale
from fluxai.storage.postgres import PostgresStorage
from tests.unit.storage.making import CENT, NOON_US, USD, Limit, Maker, plan_for

PLAN = plan_for([Limit(amount=USD)])
maker = Maker()


def states(answers: list[Any]) -> list[Any]:
    """Show what became of asks."""
    return [getattr(answer, "state", type(answer)) for answer in answers]


def test_an_ask_that_is_refused_takes_nothing_from_those_behind_it(
    postgres_store: PostgresStorage,
) -> None:
    """Where the first of a batch is refused, the others are held as they were asked for."""
    asks = [maker.ask(PLAN, cents * CENT) for cents in (101, 1, 102, 2)]
    assert states(postgres_store.reserve(asks)) == ["refused", "reserved", "refused", "reserved"]
    assert sorted(one.amounts[0] for one in postgres_store.reservations()) == [CENT, 2 * CENT]
    assert postgres_store.verify().ok


def test_a_repeated_settle_does_not_take_the_place_of_the_one_behind_it(
    postgres_store: PostgresStorage,
) -> None:
    """A batch that begins with a settle of the past writes one event for each, with its own cost."""
    bob = plan_for([Limit(amount=USD)], user="bob", at_us=NOON_US + 1)
    first, second = postgres_store.reserve([maker.ask(PLAN), maker.ask(bob, at_us=NOON_US + 1)])
    repeated = maker.settle(first, 3 * CENT, outcome="first")
    postgres_store.resolve([repeated])
    again = maker.settle(first, 3 * CENT, outcome="first")
    answers = postgres_store.resolve([again, maker.settle(second, 5 * CENT)])
    assert [type(answer) for answer in answers] == [UsageEvent, UsageEvent]
    found = [(event.source.uid, event.cost_nanousd) for event in postgres_store.events()]
    assert found == [(first.uid, 3 * CENT), (second.uid, 5 * CENT)]
    assert [event.source.subject.user for event in postgres_store.events()] == ["alice", "bob"]
    assert postgres_store.verify().ok


def test_a_settle_that_is_refused_does_not_take_the_place_of_the_one_behind_it(
    postgres_store: PostgresStorage,
) -> None:
    """The same where the first is a conflict, which writes nothing at all."""
    late = plan_for([Limit(amount=USD)], user="bob", at_us=NOON_US + HOUR_US)
    first, second = postgres_store.reserve(
        [maker.ask(PLAN), maker.ask(late, at_us=NOON_US + HOUR_US)]
    )
    postgres_store.resolve([maker.settle(first, 3 * CENT)])
    conflict, settled = postgres_store.resolve(
        [maker.settle(first, 4 * CENT), maker.settle(second, CENT)]
    )
    assert (type(conflict), type(settled)) == (Conflict, UsageEvent)
    assert [event.cost_nanousd for event in postgres_store.events()] == [3 * CENT, CENT]
    assert postgres_store.verify().ok


def test_a_stale_plan_in_front_moves_nobodys_money(postgres_store: PostgresStorage) -> None:
    """Counters that only a stale plan names are passed over; the others keep their own sums."""
    held = postgres_store.reserve(
        [maker.ask(plan_for([Limit(amount=USD, scope="user")], user="bob"))]
    )
    postgres_store.apply([Change(kind="policy", scope="acme", id="p", body={})])
    stale = plan_for([Limit(amount=USD, scope="user")], user="carol")
    fresh = plan_for([Limit(amount=USD), Limit(amount=USD, scope="tool")], version=(0, 1))
    run = [maker.settle(held[0], 7 * CENT), maker.ask(stale), maker.ask(fresh, 2 * CENT)]
    answers = postgres_store._carry_out_run(run)  # type: ignore[arg-type]
    assert [type(answer).__name__ for answer in answers] == ["UsageEvent", "Stale", "Reservation"]
    assert answers[1] == Stale((0, 1))
    report = postgres_store.verify()
    assert report.ok, report.differences
    sums = [
        (row.settled, row.reserved) for row in postgres_store.balances(fresh.first.keys, NOON_US)
    ]
    assert sums == [(7 * CENT, 2 * CENT), (7 * CENT, 2 * CENT)]
