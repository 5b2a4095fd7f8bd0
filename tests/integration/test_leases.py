"""Leases where things go wrong: the process dies, the store is away, a child is forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from fluxai import Governor, Policy, ReservationNotFound, StorageError, Tool
from fluxai.leases import Lease
from fluxai.spool import lock_file
from fluxai.storage.base import Settle, Storage
from fluxai.storage.postgres import PostgresStorage
from fluxai.storage.sqlite import SqliteStorage
from fluxai.testing.clock import FakeClock
from tests.servers.tcp_proxy import TcpProxy

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="leases need flock")

#: Settles calls out of a lease, says each id once it was acknowledged, and waits to be killed.
_WORKER = """
import sys
from fluxai import Governor
governor = Governor(sys.argv[1], spool=sys.argv[2])
for number in range(40):
    held = governor.reserve(tenant="acme", tool="t")
    assert held.allowed
    governor.settle(held, cost="0.01")
    print(held.id, flush=True)
open_call = governor.reserve(tenant="acme", tool="t")
print("open", open_call.id, flush=True)
sys.stdin.read()
"""


def govern(url: str | Storage, spool: Path) -> Governor:
    """Open a governor with a leased limit of ten dollars."""
    governor = Governor(url, spool=spool)
    governor.tools.put(Tool(id="t", cost_per_unit="0.01"))
    governor.policies.put(
        Policy(tenant_id="acme", limit_type="total", limit_value="10", lease="0.1")
    )
    return governor


def account(governor: Governor) -> tuple[Decimal | int, Decimal | int]:
    """Return what the limit has (settled, reserved)."""
    (found,) = governor.budgets("acme")
    return found.settled, found.reserved


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty store that processes share."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.db"
    else:
        yield request.getfixturevalue("postgres_url")


def test_what_a_killed_process_settled_is_in_its_journal(url: str, tmp_path: Path) -> None:
    """After kill -9 every acknowledged settlement is settled once, and the slice is given back."""
    spool = tmp_path / "spool"
    govern(url, spool).close()
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, url, str(spool)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        acknowledged = [worker.stdout.readline().strip() for _ in range(40)]
        assert worker.stdout.readline().startswith("open ")
        watcher = Governor(url, spool=tmp_path / "another")
        # Alive, its slice is its own: whoever opens the same spool leaves its journal alone.
        beside = Governor(url, spool=spool)
        assert account(beside) == (0, 1)
        beside.close()
        os.kill(worker.pid, signal.SIGKILL)
    assert account(watcher) == (0, 1)
    again = Governor(url, spool=spool)
    assert account(again) == (Decimal("0.40"), 0)
    assert {event.reservation_id for event in again.events(limit=100)} == set(acknowledged)
    assert again.verify().ok
    assert not list(tmp_path.glob("spool.*.lease"))
    again.close()
    watcher.close()


def test_a_settlement_needs_no_store(
    postgres_url: str, postgres_proxy: TcpProxy, tmp_path: Path
) -> None:
    """While the server is away calls go on within the slice, and are reported when it is back."""
    store = PostgresStorage(postgres_proxy.through(postgres_url), patience_s=0.2)
    governor = govern(store, tmp_path / "spool")
    first = governor.reserve(tenant="acme", tool="t")
    postgres_proxy.stop_accepting()
    postgres_proxy.cut()
    second = governor.reserve(tenant="acme", tool="t")
    assert second.allowed
    for held in (first, second):
        governor.settle(held, cost="0.01")
    with pytest.raises(StorageError):
        governor.budgets("acme")
    postgres_proxy.heal()
    assert account(governor) == (Decimal("0.02"), Decimal("0.98"))
    assert governor.verify().ok
    governor.close()


def test_a_forked_child_has_no_leases(url: str, tmp_path: Path) -> None:
    """Parent and child each decide out of slices of their own, and the sums are exact."""
    governor = govern(url, tmp_path / "spool")
    held = governor.reserve(tenant="acme", tool="t")
    child = os.fork()
    if child == 0:
        try:
            for _ in range(3):
                governor.settle(governor.reserve(tenant="acme", tool="t"), cost="0.01")
            governor.close()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    governor.settle(held, cost="0.01")
    assert account(governor)[0] == Decimal("0.04")
    assert governor.verify().ok
    governor.close()


def test_a_report_whose_answer_was_lost_counts_once(
    postgres_url: str, postgres_proxy: TcpProxy, tmp_path: Path
) -> None:
    """The server has entered the settlements, and is told them again."""
    governor = govern(postgres_proxy.through(postgres_url), tmp_path / "spool")
    for _ in range(5):
        governor.settle(governor.reserve(tenant="acme", tool="t"), cost="0.01")
    postgres_proxy.lose_answer_to(b'"verb":"report"')
    assert account(governor) == (Decimal("0.05"), Decimal("0.95"))
    assert postgres_proxy.losses
    assert governor.verify().ok
    governor.close()


def test_a_torn_line_of_a_journal_is_left_out(url: str, tmp_path: Path) -> None:
    """What a process was writing when it died was not acknowledged; the lines before it count."""
    spool = tmp_path / "spool"
    governor = govern(url, spool)
    held = governor.reserve(tenant="acme", tool="t")
    governor.settle(held, cost="0.01")
    (journal,) = tmp_path.glob("spool.*.lease")
    lines = journal.read_bytes()
    governor.close()
    (tmp_path / "spool.1-dead.lease").write_bytes(lines + lines[: len(lines) // 2])
    again = Governor(url, spool=spool)
    assert account(again) == (Decimal("0.01"), 0)
    assert len(again.events()) == 1
    again.close()


def test_a_store_that_grants_no_leases_takes_the_field(tmp_path: Path) -> None:
    """In memory every decision is local already, so the field changes nothing."""
    governor = govern("memory://", tmp_path / "spool")
    assert governor.leases is None
    governor.settle(governor.reserve(tenant="acme", tool="t"), cost="0.01")
    assert account(governor) == (Decimal("0.01"), 0)


def test_a_disk_that_refuses_the_journal_refuses_the_settlement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written is not acknowledged, and can be settled again."""
    governor = govern(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "spool")
    held = governor.reserve(tenant="acme", tool="t")
    synced: Callable[[int], None] = os.fsync

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="could take this settlement"):
        governor.settle(held, cost="0.01")
    monkeypatch.setattr(os, "fsync", synced)
    assert governor.settle(held, cost="0.01").cost == Decimal("0.01")
    assert account(governor) == (Decimal("0.01"), Decimal("0.99"))
    governor.close()


def test_a_spooled_settlement_and_another_of_the_same_call_are_both_accounted_for(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Settled otherwise after its journal failed, a call costs what came first, and says so."""
    governor = govern(url, tmp_path / "spool")
    held = governor.reserve(tenant="acme", tool="t")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fluxai.journal.append_lines", full)
    with pytest.raises(StorageError) as caught:
        governor.settle(held, cost="0.01")
    assert caught.value.spooled
    monkeypatch.undo()
    assert governor.settle(held, cost="0.02").cost == Decimal("0.02")
    assert account(governor)[0] == Decimal("0.01")
    (line,) = (tmp_path / "spool.rejected").read_text().splitlines()
    assert held.id in line
    assert '"cost_nanousd":20000000,' in line
    assert governor.rejected_settlements == 1
    assert "already settled at 0.01 USD" in caplog.text
    assert governor.verify().ok
    governor.close()


def test_events_that_the_lease_can_t_take_are_settled_by_themselves(tmp_path: Path) -> None:
    """Where somebody has ended the slice, what was settled out of it is recorded all the same."""
    store = SqliteStorage(f"sqlite:///{tmp_path}/ledger.db")
    governor = Governor(store, spool=tmp_path / "spool")
    governor.tools.put(Tool(id="t", cost_per_unit="0.01"))
    governor.policies.put(
        Policy(tenant_id="acme", limit_type="total", limit_value="10", lease="0.1")
    )
    governor.settle(governor.reserve(tenant="acme", tool="t"), cost="0.01")
    (slice_,) = store.reservations(state="reserved")
    other = Governor(f"sqlite:///{tmp_path}/ledger.db", spool=tmp_path / "other")
    other.release(slice_.id)
    assert account(governor)[0] == Decimal("0.01")
    (event,) = governor.events()
    assert event.late
    assert governor.verify().ok
    other.close()
    governor.close()


def test_a_call_that_outlives_its_lease_still_ends_with_its_ttl(tmp_path: Path) -> None:
    """After its lease was reported an abandoned call holds its money for as long as any other."""
    clock = FakeClock()
    governor = Governor(f"sqlite:///{tmp_path}/ledger.db", spool=tmp_path / "spool", clock=clock)
    governor.tools.put(Tool(id="t", cost_per_unit="0.01"))
    governor.policies.put(
        Policy(tenant_id="acme", limit_type="total", limit_value="10", lease="0.1")
    )
    governor.reserve(tenant="acme", tool="t")
    clock.advance("11s")
    governor.expire()
    assert account(governor) == (0, Decimal("0.01"))
    clock.advance("31m")
    governor.expire()
    assert account(governor) == (0, 0)
    governor.close()


def test_a_last_report_that_failed_is_made_up_for(tmp_path: Path) -> None:
    """A lease that ended while the store was away is given back with the next look at leases."""
    clock = FakeClock()
    store = SqliteStorage(f"sqlite:///{tmp_path}/ledger.db")
    governor = Governor(store, spool=tmp_path / "spool", clock=clock)
    governor.tools.put(Tool(id="t", cost_per_unit="0.01"))
    governor.policies.put(
        Policy(tenant_id="acme", limit_type="total", limit_value="10", lease="0.1")
    )
    held = governor.reserve(tenant="acme", tool="t")
    clock.advance("11s")
    governor.expire()
    resolve_one = store.resolve_one

    def away(_: object) -> None:
        raise StorageError("the store is away")

    store.resolve_one = away  # type: ignore[method-assign, assignment]
    governor.release(held)
    store.resolve_one = resolve_one  # type: ignore[method-assign]
    governor.expire()
    assert account(governor) == (0, 0)
    governor.close()


def test_a_slice_whose_answer_was_lost_is_given_back(url: str, tmp_path: Path) -> None:
    """The store holds a slice that its process knows nothing of: it does not stay so."""
    governor = govern(url, tmp_path / "spool")
    reserve_one = governor.storage.reserve_one

    def lost(ask: object) -> None:
        reserve_one(ask)  # type: ignore[arg-type]
        raise StorageError("the answer was lost")

    governor.storage.reserve_one = lost  # type: ignore[method-assign, assignment]
    with pytest.raises(StorageError, match="the answer was lost"):
        governor.reserve(tenant="acme", tool="t")
    governor.storage.reserve_one = reserve_one  # type: ignore[method-assign]
    assert account(governor) == (0, 1)
    governor.expire()
    assert account(governor) == (0, 0)
    governor.close()
    assert not list(tmp_path.glob("spool.*.lease"))


def test_a_settle_that_garbage_collection_asks_for_waits_for_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Collected in the midst of a decision, a stream is settled after it, not within its lock."""
    governor = govern(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "spool")
    held = governor.reserve(tenant="acme", tool="t")
    keep, ran = Lease.keep, []

    def collect(lease: Lease) -> object:
        assert lease.lock.locked()
        governor.when_free(lambda: ran.append(governor.release(held)))
        assert not ran
        return keep(lease)

    monkeypatch.setattr(Lease, "keep", collect)
    assert governor.leases is not None
    governor.settle(governor.reserve(tenant="acme", tool="t"), cost="0.01")
    governor.leases.report()
    monkeypatch.undo()
    governor.settle(governor.reserve(tenant="acme", tool="t"), cost="0.01")
    assert [call.state for call in ran] == ["released"]
    governor.close()


def test_a_journal_stays_short_under_constant_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was reported leaves the file, though something unreported is always in it."""
    monkeypatch.setattr("fluxai.leases.REPORT_MAX", 4)
    monkeypatch.setattr("fluxai.journal.LINES_MAX", 8)
    url = f"sqlite:///{tmp_path}/ledger.db"
    governor = govern(url, tmp_path / "spool")
    governor.policies.put(
        Policy(tenant_id="beta", limit_type="total", limit_value="10", lease="0.1")
    )
    governor.settle(governor.reserve(tenant="beta", tool="t"), cost="0.01")
    for _ in range(60):
        governor.settle(governor.reserve(tenant="acme", tool="t"), cost="0.01")
        (journal,) = tmp_path.glob("spool.*.lease")
        assert len(journal.read_bytes().splitlines()) < 30
    (tmp_path / "dead.1-1.lease").write_bytes(journal.read_bytes())
    again = Governor(url, spool=tmp_path / "dead")
    assert again.usage("beta").total_cost == Decimal("0.01")
    again.close()
    assert account(governor)[0] == Decimal("0.60")
    assert governor.verify().ok
    governor.close()
    assert not list(tmp_path.glob("spool.*.lease*"))


def test_a_journal_is_locked_whenever_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A governor that is opened at the worst moment takes nothing over from one that lives."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    governor = govern(url, tmp_path / "spool")
    seen: list[Path] = []

    def lock_late(number: int, *, wait: bool = True) -> bool:
        if wait:
            seen.extend(tmp_path.glob("spool.*.lease"))
        return lock_file(number, wait=wait)

    monkeypatch.setattr("fluxai.journal.lock_file", lock_late)
    held = governor.reserve(tenant="acme", tool="t")
    assert not seen
    (journal,) = tmp_path.glob("spool.*.lease")
    old = tmp_path / "spool.1-old.lease"
    old.write_bytes(journal.read_bytes())

    def let_go(number: int, *, wait: bool = True) -> bool:
        # Its owner has begun another one, since this one was opened.
        old.unlink(missing_ok=True)
        return lock_file(number, wait=wait)

    monkeypatch.setattr("fluxai.journal.lock_file", let_go)
    Governor(url, spool=tmp_path / "spool").close()
    assert account(governor) == (0, 1)
    monkeypatch.undo()
    governor.settle(held, cost="0.01")
    governor.close()


def test_a_journal_that_waited_for_the_store_is_taken_over_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A governor that opens while the store fails settles the dead's journal once it answers."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    governor = govern(url, tmp_path / "spool")
    governor.settle(governor.reserve(tenant="acme", tool="t"), cost="0.01")
    (journal,) = tmp_path.glob("spool.*.lease")
    (tmp_path / "dead.1-1.lease").write_bytes(journal.read_bytes())
    replay_one, away = Governor._replay_one, [True]

    def replay(self: Governor, item: Settle) -> None:
        if away:
            raise StorageError("the store is away")
        replay_one(self, item)

    monkeypatch.setattr(Governor, "_replay_one", replay)
    again = Governor(url, spool=tmp_path / "dead")
    assert list(tmp_path.glob("dead.*.lease"))
    away.clear()
    again.settle(again.reserve(tenant="other", tool="t"), cost="0.01")
    assert not list(tmp_path.glob("dead.*.lease"))
    assert len(again.events(tenant="acme")) == 1
    again.close()
    governor.close()


def test_what_no_store_takes_keeps_no_governor_from_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of a dead process's journal that can't be settled is put aside, the rest counts."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    governor = govern(url, tmp_path / "spool")
    calls = [governor.reserve(tenant="acme", tool="t") for _ in range(2)]
    for call in calls:
        governor.settle(call, cost="0.01")
    (journal,) = tmp_path.glob("spool.*.lease")
    (tmp_path / "dead.1-1.lease").write_bytes(journal.read_bytes())
    replay_one = Governor._replay_one

    def pruned(self: Governor, item: Settle) -> None:
        if item.uid == calls[0].uid:
            raise ReservationNotFound("it is older than what was pruned")
        replay_one(self, item)

    monkeypatch.setattr(Governor, "_replay_one", pruned)
    again = Governor(url, spool=tmp_path / "dead")
    assert [event.reservation_id for event in again.events()] == [calls[1].id]
    assert calls[0].id in (tmp_path / "dead.rejected").read_text()
    assert not list(tmp_path.glob("dead.*.lease"))
    again.close()
    governor.close()
