"""Many threads on one store: they share commits, and money is counted right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fluxai.core.decisions import Reservation, UsageEvent
from fluxai.storage.combiner import Withdrawn
from fluxai.storage.sqlite import SqliteStorage
from tests.unit.storage.making import CENT, NOON_US, USD, Limit, Maker, plan_for
from tests.unit.storage.test_combiner import until

PATIENCE_S = 60
CALLERS = 64


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStorage]:
    """Open a store."""
    store = SqliteStorage(tmp_path / "ledger.db")
    store.migrate()
    yield store
    store.close()


def together(work: Callable[[int], None], count: int = CALLERS) -> None:
    """Let threads do the same at the same time; raise what any of them raised."""
    start = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 -- raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_concurrent_holds_admit_exactly_what_the_limit_allows(store: SqliteStorage) -> None:
    """Of 64 concurrent holds of $0.10 a limit of $1 admits exactly ten."""
    maker, plan = Maker(), plan_for([Limit(amount=USD)])
    states: list[str] = []

    def hold(_: int) -> None:
        answer = store.reserve_one(maker.ask(plan, 10 * CENT))
        assert isinstance(answer, Reservation)
        states.append(answer.state)

    together(hold)
    assert sorted(set(states)) == ["refused", "reserved"]
    assert states.count("reserved") == 10
    assert store.verify().ok


def test_callers_share_commits(store: SqliteStorage) -> None:
    """With 64 callers at full durability there is at most one commit per 16 verbs."""
    maker = Maker()
    before, rounds = store.commits, 20

    def work(number: int) -> None:
        plan = plan_for([Limit(amount=USD, scope="user")], user=f"user {number % 8}")
        for _ in range(rounds):
            held = store.reserve_one(maker.ask(plan))
            assert isinstance(held, Reservation)
            assert isinstance(store.resolve_one(maker.settle(held, 0)), UsageEvent)

    together(work)
    assert (store.commits - before) * 16 <= 2 * rounds * CALLERS
    assert len(store.events(limit=10_000)) == rounds * CALLERS
    assert store.verify().ok


def test_a_lone_caller_commits_each_verb_at_once(store: SqliteStorage) -> None:
    """Nobody waits for company that doesn't come."""
    maker, plan = Maker(), plan_for()
    before = store.commits
    for _ in range(5):
        store.reserve_one(maker.ask(plan))
    assert store.commits - before == 5


def test_the_ledger_proves_itself_while_it_is_at_work(store: SqliteStorage) -> None:
    """verify() and every balance read are right at any moment, and never over the limit."""
    maker, limit = Maker(), Limit(amount=40 * CENT)
    plan = plan_for(
        [limit, Limit(amount=USD, scope="label", value="run=1")], labels=(("run", "1"),)
    )
    stop = threading.Event()

    def work(number: int) -> None:
        while not stop.is_set():
            held = store.reserve_one(maker.ask(plan, 9 * CENT))
            if isinstance(held, Reservation) and held.allowed:
                if number % 2:
                    store.resolve_one(maker.settle(held, 0))
                else:
                    store.resolve_one(maker.settle(held, 0, by_id=True))

    def watch(_: int) -> None:
        try:
            for _ in range(30):
                (balance, _) = store.balances(plan.candidates[0].keys, NOON_US)
                assert balance.settled + balance.reserved <= limit.amount
                report = store.verify()
                assert report.ok, report.differences
        finally:
            stop.set()

    together(lambda number: watch(number) if number == 0 else work(number), 9)
    assert store.verify().ok


def test_repeats_of_one_call_hold_and_settle_once(store: SqliteStorage) -> None:
    """Concurrent repeats of one reserve, and of one settle, count once and answer the same."""
    maker, plan = Maker(), plan_for([Limit(amount=USD)])
    uid = maker.new_id(NOON_US)
    held: list[Reservation] = []

    def hold(_: int) -> None:
        answer = store.reserve_one(maker.ask(plan, uid=uid))
        assert isinstance(answer, Reservation)
        held.append(answer)

    together(hold, 16)
    assert {one.uid for one in held} == {uid}
    settled: list[UsageEvent] = []
    together(lambda number: settled.append(store.resolve_one(maker.settle(held[number], 5))), 16)
    assert len({(event.id, event.cost_nanousd, event.seq) for event in settled}) == 1
    (balance,) = store.balances(plan.candidates[0].keys, NOON_US)
    assert (balance.settled, balance.reserved) == (5, 0)
    assert store.verify().ok


def test_an_ask_that_still_waits_can_be_withdrawn(store: SqliteStorage, tmp_path: Path) -> None:
    """A cancelled caller's ask is never decided if it is taken back in time."""
    maker, plan = Maker(), plan_for([Limit(amount=USD)])
    other = SqliteStorage(tmp_path / "ledger.db")
    first, second = maker.ask(plan), maker.ask(plan)
    got: list[object] = []

    def call(ask_first: int) -> None:
        try:
            got.append(store.reserve_one(second if ask_first else first))
        except Withdrawn as error:
            got.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    with other._file.writing():
        threads[0].start()
        until(lambda: store._combiner._flight != [])
        threads[1].start()
        until(lambda: store._combiner.waiting == 1)
        assert store.withdraw(second)
        assert not store.withdraw(first)
    for thread in threads:
        thread.join(PATIENCE_S)
    other.close()
    assert [type(answer) for answer in got] == [Withdrawn, Reservation]
    assert [found.uid for found in store.reservations()] == [first.reservation.uid]
