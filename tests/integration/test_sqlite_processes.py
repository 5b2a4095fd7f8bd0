"""Several processes on one file: limits hold, and nothing acknowledged is lost when they die."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxai.core.ids import uuid_int
from fluxai.storage.sqlite import SqliteStorage
from tests.unit.storage.making import CENT, NOON_US, USD, Limit, Maker, plan_for

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120

SHARED = """
import os, sys, threading
from fluxai.core.decisions import Reservation, UsageEvent
from fluxai.storage.sqlite import SqliteStorage
from tests.unit.storage.making import CENT, USD, Limit, Maker, plan_for

store = SqliteStorage(sys.argv[1], busy_timeout_s=30)
maker = Maker()

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""

ADMITTED = """
plan = plan_for([Limit(amount=USD)])

def hold():
    answer = store.reserve_one(maker.ask(plan, 10 * CENT))
    say(answer.state)

threads = [threading.Thread(target=hold) for _ in range(16)]
say("ready")
sys.stdin.readline()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
store.close()
"""

BUSY = """
plan = plan_for([Limit(amount=1000 * USD), Limit(amount=1000 * USD, scope="user")])

def work():
    while True:
        held = store.reserve_one(maker.ask(plan))
        say("reserved", held.id)
        event = store.resolve_one(maker.settle(held))
        assert type(event) is UsageEvent, event
        say("settled", event.id)

for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
sys.stdin.readline()
"""

FORKED = """
first = store.reserve_one(maker.ask(plan_for([Limit(amount=USD)])))
to_child, from_parent = os.pipe()
to_parent, from_child = os.pipe()
child = os.fork()
if child == 0:
    held = store.reserve_one(maker.ask(plan_for([Limit(amount=USD)])))
    os.write(from_child, b"x")
    os.read(to_child, 1)
    # The parent has closed the file by now; what is acknowledged here must survive.
    late = store.reserve_one(maker.ask(plan_for([Limit(amount=USD)])))
    say("child", held.id)
    say("child", late.id)
    os.kill(os.getpid(), 9)
os.read(to_parent, 1)
second = store.reserve_one(maker.ask(plan_for([Limit(amount=USD)])))
say("parent", first.id)
say("parent", second.id)
store.close()
os.write(from_parent, b"x")
os.waitpid(child, 0)
"""

BUSY_FORKS = """
plan = plan_for([Limit(amount=1000 * USD)])
stop = threading.Event()

def work():
    while not stop.is_set():
        held = store.reserve_one(maker.ask(plan))
        store.balances(plan.candidates[0].keys, held.counted_us)
        say("kept", held.id)

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        say("kept", store.reserve_one(maker.ask(plan)).id)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
for thread in threads:
    thread.join()
"""

FORKED_INSIDE = """
impatient = SqliteStorage(sys.argv[1], busy_timeout_s=0.05)
plan = plan_for([Limit(amount=USD)])
say("kept", impatient.reserve_one(maker.ask(plan)).id)
with impatient._file.writing():
    # As a signal handler might do that interrupts a verb.
    child = os.fork()
    if child == 0:
        try:
            impatient.reserve_one(maker.ask(plan))
        except Exception as error:
            os._exit(0 if "forked while" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
say("kept", impatient.reserve_one(maker.ask(plan)).id)
impatient.close()
"""

LEAVING = """
plan = plan_for([Limit(amount=1000 * USD)])
acknowledged = threading.Semaphore(0)

def work():
    while True:
        say("kept", store.reserve_one(maker.ask(plan)).id)
        acknowledged.release()

for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
for _ in range(100):
    acknowledged.acquire()
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStorage]:
    """Open a store whose file the processes share."""
    store = SqliteStorage(tmp_path / "ledger.db", busy_timeout_s=30)
    store.migrate()
    yield store
    store.close()


def start(store: SqliteStorage, program: str) -> subprocess.Popen[str]:
    """Start a process that works on the store's file."""
    path = store.url.removeprefix("sqlite:///")
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SHARED + program, path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> list[str]:
    """Let a process come to its end, and return what it wrote."""
    with process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    return output.splitlines()


def test_four_processes_admit_exactly_what_the_limit_allows(store: SqliteStorage) -> None:
    """Of 64 concurrent holds of $0.10 from four processes a limit of $1 admits exactly ten."""
    processes = [start(store, ADMITTED) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
    states = [state for process in processes for state in said(process)]
    assert len(states) == 64
    assert states.count("reserved") == 10
    assert states.count("refused") == 54
    (balance,) = store.balances(plan_for([Limit(amount=USD)]).candidates[0].keys, NOON_US)
    assert balance.reserved == USD
    assert store.verify().ok


@pytest.mark.parametrize("lines", [1, 50, 400])
def test_nothing_acknowledged_is_lost_when_processes_are_killed(
    store: SqliteStorage, lines: int
) -> None:
    """After kill -9 of two busy processes all acknowledged ids are there, and the sums exact."""
    processes = [start(store, BUSY) for _ in range(2)]
    acknowledged: list[str] = []
    for process in processes:
        assert process.stdout is not None
        acknowledged += [process.stdout.readline() for _ in range(lines)]
        assert all(acknowledged), f"a busy process ended by itself: {process.wait(PATIENCE_S)}"
    for process in processes:
        process.kill()
    for process in processes:
        with process:
            assert process.stdout is not None
            # Not by communicate(), which forgets what readline() has read ahead of its line.
            output = process.stdout.read()
        # A last line may have been cut off; then its verb was not acknowledged.
        acknowledged += [line for line in output.splitlines(keepends=True) if line.endswith("\n")]
    report = store.verify()
    assert report.ok, report.differences
    events = {event.id for event in store.events(limit=1_000_000)}
    reservations = {found.id for found in store.reservations(limit=1_000_000)}
    for line in acknowledged:
        what, uid = line.split()
        assert uid in (events if what == "settled" else reservations)
    # Those who come after can go on.
    assert set(said_states(store)) == {"reserved"}


def said_states(store: SqliteStorage) -> list[str]:
    """Let a process hold a little, and return how that went."""
    process = start(store, ADMITTED.replace("10 * CENT", "CENT").replace("=USD", "=1000 * USD"))
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return said(process)[1:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_forked_child_uses_the_store_of_its_parent(store: SqliteStorage) -> None:
    """Parent and child both go on with one object; neither loses anything when the other ends."""
    lines = [line.split() for line in said(start(store, FORKED))]
    assert sorted(who for who, _ in lines) == ["child", "child", "parent", "parent"]
    assert {uuid_int(uid) for _, uid in lines} == {found.uid for found in store.reservations()}
    (balance,) = store.balances(plan_for([Limit(amount=USD)]).candidates[0].keys, NOON_US)
    assert balance.reserved == 4 * CENT
    assert store.verify().ok


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_process_may_fork_while_its_threads_are_at_work(store: SqliteStorage) -> None:
    """Forks wait for the transactions in flight, and nothing of theirs is lost."""
    lines = said(start(store, BUSY_FORKS))
    kept = {uuid_int(line.split()[1]) for line in lines}
    assert kept == {found.uid for found in store.reservations(limit=1_000_000)}
    assert len(kept) == len(lines) >= 10
    assert store.verify().ok


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_child_forked_in_the_middle_of_a_verb_is_refused(store: SqliteStorage) -> None:
    """Where a fork could not wait, the child is told, rather than let loose on shared locks."""
    kept = {uuid_int(line.split()[1]) for line in said(start(store, FORKED_INSIDE))}
    assert kept == {found.uid for found in store.reservations()}
    assert len(kept) == 2
    assert store.verify().ok


def test_a_process_that_exits_finishes_what_its_threads_began(store: SqliteStorage) -> None:
    """Leaving with callers in the middle of verbs neither hangs nor harms the file."""
    lines = said(start(store, LEAVING))
    kept = {uuid_int(line.split()[1]) for line in lines if len(line) == len("kept ") + 36}
    assert len(kept) >= 100
    assert kept <= {found.uid for found in store.reservations(limit=1_000_000)}
    assert store.verify().ok


def test_what_another_process_wrote_counts_at_once(store: SqliteStorage, tmp_path: Path) -> None:
    """A store that keeps counters at hand lets go of them when somebody else has written."""
    maker, plan = Maker(), plan_for([Limit(amount=3 * CENT)])
    other = SqliteStorage(tmp_path / "ledger.db")
    answers = [which.reserve_one(maker.ask(plan)) for which in (store, other, store, other, store)]
    states = [getattr(answer, "state", None) for answer in answers]
    assert states == ["reserved", "reserved", "reserved", "refused", "refused"]
    other.close()
    assert store.verify().ok
