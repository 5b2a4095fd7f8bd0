"""Many callers, one batch: who goes when, who gets what, and nobody is left waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from fluxai.core.errors import StorageError
from fluxai.storage.combiner import Combiner, Withdrawn

PATIENCE_S = 30


def until(condition: Callable[[], bool]) -> None:
    """Let other threads run until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        os.sched_yield()


class Desk:
    """Executes batches; the first one waits at a gate, so that callers can queue behind it."""

    def __init__(self) -> None:
        self.batches: list[list[object]] = []
        self.gate = threading.Event()
        self.busy = threading.Event()
        self.fails: dict[object, BaseException] = {}

    def __call__(self, items: Sequence[object]) -> list[object]:
        """Carry out a batch."""
        self.batches.append(list(items))
        self.busy.set()
        if len(self.batches) == 1:
            assert self.gate.wait(PATIENCE_S)
        for item in items:
            if item in self.fails:
                raise self.fails[item]
        return [f"{item} done" for item in items]


class Callers:
    """Threads that submit one item each, and what they got."""

    def __init__(self, combiner: Combiner[object, object]) -> None:
        self.combiner = combiner
        self.got: dict[object, object] = {}
        self.threads: list[threading.Thread] = []

    def start(self, item: object, *, urgent: bool = False, name: str | None = None) -> None:
        """Let a thread submit an item; return once it is queued behind the first."""
        before = self.combiner.waiting

        def call() -> None:
            try:
                self.got[item] = self.combiner.submit(item, urgent=urgent, name=name)
            except BaseException as error:  # noqa: BLE001 -- what is raised is what is tested
                self.got[item] = error

        thread = threading.Thread(target=call)
        self.threads.append(thread)
        thread.start()
        if len(self.threads) > 1:
            until(lambda: self.combiner.waiting == before + 1)

    def join(self) -> None:
        """Wait until everyone has an answer."""
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a caller was left waiting"


@pytest.fixture
def desk() -> Desk:
    """Return a desk whose first batch waits."""
    return Desk()


def behind_a_batch(desk: Desk, combiner: Combiner[object, object]) -> Callers:
    """Return callers who find a batch in flight, led by `first`."""
    callers = Callers(combiner)
    callers.start("first")
    assert desk.busy.wait(PATIENCE_S)
    return callers


def test_a_lone_caller_carries_out_its_item_in_its_own_thread() -> None:
    """A lone caller is served at once, by itself, in a batch of one."""
    seen: list[tuple[int, list[int]]] = []

    def execute(items: list[int]) -> list[int]:
        seen.append((threading.get_ident(), items))
        return [item * 2 for item in items]

    combiner = Combiner(execute)
    assert [combiner.submit(3), combiner.submit(4)] == [6, 8]
    assert seen == [(threading.get_ident(), [3]), (threading.get_ident(), [4])]


def test_callers_who_wait_share_the_next_batch(desk: Desk) -> None:
    """Whoever comes while a batch is in flight is in the next one, first come first served."""
    combiner: Combiner[object, object] = Combiner(desk)
    callers = behind_a_batch(desk, combiner)
    for item in range(20):
        callers.start(item)
    desk.gate.set()
    callers.join()
    assert desk.batches == [["first"], list(range(20))]
    assert all(callers.got[item] == f"{item} done" for item in range(20))


def test_urgent_items_go_first_and_leave_room_for_the_others(desk: Desk) -> None:
    """Resolutions go before reserves, but a full batch still takes some of those."""
    combiner: Combiner[object, object] = Combiner(desk, batch_max=8)
    callers = behind_a_batch(desk, combiner)
    for number in range(4):
        callers.start(f"reserve {number}")
    for number in range(9):
        callers.start(f"settle {number}", urgent=True)
    desk.gate.set()
    callers.join()
    settles = [f"settle {number}" for number in range(9)]
    reserves = [f"reserve {number}" for number in range(4)]
    assert desk.batches[1] == [*settles[:6], *reserves[:2]]
    assert desk.batches[2] == [*settles[6:], *reserves[2:]]


def test_items_of_one_name_share_one_answer(desk: Desk) -> None:
    """The repeats of one call in a batch are carried out once, and all get its answer."""
    combiner: Combiner[object, object] = Combiner(desk)
    callers = behind_a_batch(desk, combiner)
    callers.start("a", name="same")
    callers.start("b")
    callers.start("c", name="same")
    desk.gate.set()
    callers.join()
    assert desk.batches[1] == ["a", "b"]
    assert callers.got["c"] == callers.got["a"] == "a done"


@pytest.mark.parametrize("poisonous", [0, 5, 11])
def test_an_item_that_breaks_its_batch_fails_alone(desk: Desk, poisonous: int) -> None:
    """A batch that fails is cut up until the one item that causes it stands alone."""
    desk.fails[poisonous] = ValueError("poison")
    combiner: Combiner[object, object] = Combiner(desk)
    callers = behind_a_batch(desk, combiner)
    for item in range(12):
        callers.start(item)
    desk.gate.set()
    callers.join()
    assert isinstance(callers.got.pop(poisonous), ValueError)
    assert callers.got.pop("first") == "first done"
    assert callers.got == {item: f"{item} done" for item in range(12) if item != poisonous}


def test_a_store_that_is_out_of_reach_fails_everyone_in_the_batch_once(desk: Desk) -> None:
    """When the disk fails, all callers hear of it with the cause, and nothing is tried again."""
    fault = StorageError("the disk is full")
    fault.__cause__ = OSError("no space")
    desk.fails[3] = fault
    combiner: Combiner[object, object] = Combiner(desk)
    callers = behind_a_batch(desk, combiner)
    for item in range(6):
        callers.start(item)
    desk.gate.set()
    callers.join()
    errors = [callers.got[item] for item in range(6)]
    assert len(desk.batches) == 2
    assert {str(error) for error in errors} == {"the disk is full"}
    assert {type(getattr(error, "__cause__", None)) for error in errors} == {OSError}
    assert len({id(error) for error in errors}) == 6, "no two threads raise one object"


def test_an_interrupted_leader_does_not_strand_the_others(desk: Desk) -> None:
    """An interrupt ends only the call of the caller who leads; the others are carried out."""
    desk.fails["b"] = KeyboardInterrupt()
    combiner: Combiner[object, object] = Combiner(desk)
    callers = behind_a_batch(desk, combiner)
    for item in "bacd":
        callers.start(item)
    desk.gate.set()
    callers.join()
    assert isinstance(callers.got.pop("b"), KeyboardInterrupt)
    assert callers.got == {item: f"{item} done" for item in ("first", "a", "c", "d")}


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_an_interrupted_caller_takes_its_item_along(desk: Desk) -> None:
    """A caller who is interrupted while waiting leaves the queue, even as the one to lead next."""
    combiner: Combiner[object, object] = Combiner(desk)
    callers = behind_a_batch(desk, combiner)
    main = threading.get_ident()

    def interrupt() -> None:
        until(lambda: combiner.waiting == 1)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        combiner.submit("interrupted")
    thread.join()
    assert combiner.waiting == 0
    callers.start("after")
    desk.gate.set()
    callers.join()
    assert desk.batches == [["first"], ["after"]]


def test_a_withdrawn_item_is_never_carried_out(desk: Desk) -> None:
    """An item can be taken back until a batch takes it; its caller is told."""
    combiner: Combiner[object, object] = Combiner(desk)
    callers = behind_a_batch(desk, combiner)
    callers.start("kept")
    callers.start("unwanted")
    assert combiner.withdraw("unwanted")
    assert not combiner.withdraw("first"), "it is being carried out"
    assert not combiner.withdraw("never came")
    desk.gate.set()
    callers.join()
    assert desk.batches == [["first"], ["kept"]]
    assert isinstance(callers.got["unwanted"], Withdrawn)


def test_close_carries_out_what_is_queued_and_refuses_what_comes_later(desk: Desk) -> None:
    """Closing waits for everyone who came in time."""
    combiner: Combiner[object, object] = Combiner(desk)
    callers = behind_a_batch(desk, combiner)
    callers.start("queued")
    closing = threading.Thread(target=combiner.close)
    closing.start()

    until(lambda: combiner._closed)
    with pytest.raises(StorageError, match="closed"):
        combiner.submit("late")
    assert closing.is_alive()
    desk.gate.set()
    closing.join(PATIENCE_S)
    callers.join()
    assert callers.got == {"first": "first done", "queued": "queued done"}
    combiner.close()


def test_every_caller_gets_its_own_answer_under_load() -> None:
    """Among many callers and failures, each item is carried out, and answered to its caller."""
    done: list[int] = []

    def execute(items: list[int]) -> list[int]:
        if any(item % 97 == 0 for item in items):
            raise ValueError(items)
        done.extend(items)
        return [-item for item in items]

    combiner: Combiner[int, int] = Combiner(execute, batch_max=7)
    wrong: list[object] = []

    def call(first: int) -> None:
        for item in range(first, first + 100):
            try:
                if combiner.submit(item, urgent=item % 3 == 0) != -item:
                    wrong.append(item)
            except ValueError:
                if item % 97:
                    wrong.append(item)

    threads = [threading.Thread(target=call, args=(first,)) for first in range(1, 1601, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not wrong
    assert sorted(done) == [item for item in range(1, 1601) if item % 97]


FORKING = """
import os, threading
from fluxai.storage.combiner import Combiner

busy, gate = threading.Event(), threading.Event()

def execute(items):
    if items == ["slow"]:
        busy.set()
        gate.wait(30)
    return items

combiner = Combiner(execute)
thread = threading.Thread(target=combiner.submit, args=("slow",))
thread.start()
busy.wait(30)
child = os.fork()
if child == 0:
    os._exit(0 if combiner.submit("child") == "child" and combiner.waiting == 0 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
gate.set()
thread.join(30)
assert combiner.submit("parent") == "parent"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_forked_child_begins_with_nobody_leading() -> None:
    """A child that was forked while a batch was in flight isn't kept waiting for it."""
    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
    subprocess.run(program, check=True, timeout=PATIENCE_S * 2)
