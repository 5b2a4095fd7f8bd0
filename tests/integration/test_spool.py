"""The spool: a settlement that can't reach the store is on disk, and settled once it can."""

from __future__ import annotations

import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fluxai import Governor, Reservation, SettlementConflict, StorageError, Usage
from fluxai.testing import FakeClock
from tests.integration.stubs import ASK, BrokenStorage, completion, daily, spent


@pytest.fixture
def storage(tmp_path: Path) -> BrokenStorage:
    """A store that can be out of reach, with a spool of its own."""
    return BrokenStorage(spool_path=tmp_path / "spool" / "ledger.spool")


@pytest.fixture
def governor(storage: BrokenStorage) -> Governor:
    """A governor on that store."""
    governor = Governor(storage, clock=FakeClock())
    governor.policies.put(daily("5"))
    return governor


def _spool(storage: BrokenStorage) -> Path:
    assert storage.spool_path is not None
    return storage.spool_path


def _spooled(
    governor: Governor, storage: BrokenStorage, *, reserved: Reservation | None = None, **how: Any
) -> Reservation:
    """Settle while the store is down; what was reserved before, or a call of its own."""
    reservation = reserved or governor.reserve(**ASK)
    storage.down = True
    with pytest.raises(StorageError) as caught:
        governor.settle(reservation, **how)
    storage.down = False
    assert caught.value.spooled
    assert isinstance(caught.value.__cause__, StorageError)
    assert str(_spool(storage)) in str(caught.value)
    return reservation


@pytest.mark.parametrize(
    ("how", "cost"),
    [
        ({"response": completion()}, "0.00035"),
        ({"usage": Usage(input=20, output=30, flags=("clamped",))}, "0.00035"),
        ({"cost": "0.0123"}, "0.0123"),
        ({"cost": Decimal("0.5"), "usage": Usage(input=1)}, "0.5"),
    ],
    ids=["response", "usage", "cost", "both"],
)
def test_what_was_spooled_is_settled_once_the_store_is_back(
    governor: Governor, storage: BrokenStorage, how: dict[str, Any], cost: str
) -> None:
    """The line on disk becomes the same event, and the repeat of the call agrees with it."""
    reservation = _spooled(governor, storage, **how)
    assert _spool(storage).exists()
    assert governor.replay_spool() == 1
    assert not _spool(storage).exists()
    (event,) = governor.events()
    assert event.cost == Decimal(cost)
    assert governor.settle(reservation, **how).event_id == event.event_id
    with pytest.raises(SettlementConflict):
        governor.settle(reservation, cost="3")
    assert governor.reservations("reserved") == []
    assert governor.verify().ok


def test_it_is_settled_by_the_next_verb_that_succeeds(
    governor: Governor, storage: BrokenStorage
) -> None:
    """Nobody has to ask for it: the store's next answer is enough."""
    _spooled(governor, storage, cost="0.01")
    governor.settle(governor.reserve(**ASK), cost="0.02")
    assert spent(governor) == Decimal("0.03")
    assert not _spool(storage).exists()


def test_it_is_settled_by_the_next_governor(governor: Governor, storage: BrokenStorage) -> None:
    """A process that died with a spool leaves it to the next one that opens the store."""
    _spooled(governor, storage, cost="0.01")
    Governor(storage, clock=FakeClock())
    assert spent(governor) == Decimal("0.01")


def test_replaying_twice_counts_once(governor: Governor, storage: BrokenStorage) -> None:
    """A line that comes back after a crash changes nothing the second time."""
    _spooled(governor, storage, cost="0.01")
    kept = _spool(storage).read_bytes()
    assert governor.replay_spool() == 1
    _spool(storage).write_bytes(kept)
    assert governor.replay_spool() == 1
    assert spent(governor) == Decimal("0.01")


def test_a_lost_answer_is_no_second_charge(governor: Governor, storage: BrokenStorage) -> None:
    """Where the store had settled and only its answer was lost, the replay finds it done."""
    reservation = governor.reserve(**ASK)
    resolve = storage.resolve_one

    def answer_lost(item: Any) -> Any:
        resolve(item)
        raise StorageError("the answer was lost")

    governor._resolve_one = answer_lost  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="answer was lost"):
        governor.settle(reservation, cost="0.01")
    governor._resolve_one = resolve  # type: ignore[method-assign]
    assert governor.replay_spool() == 1
    assert spent(governor) == Decimal("0.01")


def test_a_store_that_fails_again_keeps_the_rest(
    governor: Governor, storage: BrokenStorage
) -> None:
    """What could not be settled stays, in order, and nothing is settled twice."""
    for n, reserved in enumerate([governor.reserve(**ASK) for _ in range(5)]):
        _spooled(governor, storage, reserved=reserved, cost=f"0.0{n + 1}")
    storage.answers_left = 2
    with pytest.raises(StorageError, match="out of reach"):
        governor.replay_spool()
    assert len(_spool(storage).read_text().splitlines()) == 3
    storage.answers_left = 100
    assert governor.replay_spool() == 3
    assert spent(governor) == Decimal("0.15")


def test_a_store_that_is_still_down_does_not_keep_a_governor_from_opening(
    governor: Governor, storage: BrokenStorage
) -> None:
    """Spooled settlements wait for it; what works without the store works."""
    _spooled(governor, storage, cost="0.01")
    storage.down = True
    late = Governor(storage, clock=FakeClock())
    storage.down = False
    late.settle(late.reserve(**ASK), cost="0.02")
    assert spent(governor) == Decimal("0.03")


@pytest.mark.parametrize(
    "rubbish",
    [b"not json\n", b"{}\n", b"[1]\n", b"\xff\xfe\n", b'{"reservation":{"id":"x"}}\n', b"\n"],
    ids=["text", "empty", "list", "bytes", "half", "blank"],
)
def test_a_line_that_can_not_be_read_does_not_block_the_others(
    governor: Governor, storage: BrokenStorage, rubbish: bytes
) -> None:
    """It is put aside for a person to look at; the settlements around it are settled."""
    _spooled(governor, storage, cost="0.01")
    first = _spool(storage).read_bytes()
    _spool(storage).write_bytes(rubbish + first)
    assert governor.replay_spool() == 1
    assert spent(governor) == Decimal("0.01")
    aside = _spool(storage).with_name("ledger.spool.rejected")
    assert aside.read_bytes().count(b"\n") == 1
    assert Governor(storage, clock=FakeClock()).replay_spool() == 0


def test_a_line_torn_by_a_crash_does_not_spoil_the_next(
    governor: Governor, storage: BrokenStorage
) -> None:
    """A settlement is written on a line of its own, whatever stands before it."""
    later = governor.reserve(**ASK)
    _spooled(governor, storage, cost="0.01")
    whole = _spool(storage).read_bytes()
    _spool(storage).write_bytes(whole + whole[:40])
    _spooled(governor, storage, reserved=later, cost="0.02")
    assert governor.replay_spool() == 2
    assert spent(governor) == Decimal("0.03")


@pytest.mark.parametrize("estimated", [False, True], ids=["exact", "estimated"])
def test_a_line_of_a_call_that_was_settled_otherwise_meanwhile_is_put_aside(
    governor: Governor,
    storage: BrokenStorage,
    estimated: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """What came first stands; the other is kept and counted, unless it was but an estimate."""
    reservation = _spooled(governor, storage, cost="0.01", estimated=estimated)
    kept = _spool(storage).read_bytes()
    governor.settle(reservation, cost="0.02")
    assert spent(governor) == Decimal("0.02")
    assert governor.verify().ok
    aside = _spool(storage).with_name("ledger.spool.rejected")
    if estimated:
        assert not aside.exists()
        assert governor.rejected_settlements == 0
    else:
        assert aside.read_bytes() == kept
        assert governor.rejected_settlements == 1


def test_a_hold_that_ended_meanwhile_is_settled_late(
    governor: Governor, storage: BrokenStorage
) -> None:
    """A long outage lets the hold expire; the money is recorded all the same."""
    _spooled(governor, storage, cost="0.01")
    clock = governor.clock
    assert isinstance(clock, FakeClock)
    clock.advance("1h")
    assert governor.expire().released == 1
    (event,) = governor.events()
    assert (event.late, event.cost) == (True, Decimal("0.01"))
    assert governor.verify().ok


def test_threads_share_one_spool(governor: Governor, storage: BrokenStorage) -> None:
    """Settlements of many threads are kept whole, each on its own line."""
    reservations = [governor.reserve(**ASK) for _ in range(32)]
    storage.down = True

    def settle(reservation: Reservation) -> None:
        with pytest.raises(StorageError):
            governor.settle(reservation, cost="0.01")

    threads = [threading.Thread(target=settle, args=(found,)) for found in reservations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    storage.down = False
    assert governor.replay_spool() == 32
    assert spent(governor) == Decimal("0.32")


def test_without_a_spool_the_error_says_that_nothing_was_kept() -> None:
    """A store in memory has nowhere to keep it: the caller is told."""
    storage = BrokenStorage()
    storage.capabilities = storage.capabilities.__class__(
        durable=False, shared=False, blocking=False
    )
    governor = Governor(storage, clock=FakeClock())
    reservation = governor.reserve(**ASK)
    storage.down = True
    with pytest.raises(StorageError) as caught:
        governor.settle(reservation, cost="0.01")
    assert not caught.value.spooled


def test_a_disk_that_refuses_too_puts_the_settlement_into_the_error(
    storage: BrokenStorage, tmp_path: Path
) -> None:
    """When neither store nor disk take it, the caller holds all there is to record it by."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    governor = Governor(storage, clock=FakeClock(), spool=blocked / "spool")
    reservation = governor.reserve(**ASK)
    storage.down = True
    with pytest.raises(StorageError) as caught:
        governor.settle(reservation, cost="0.0123")
    assert not caught.value.spooled
    assert reservation.id in str(caught.value)
    assert "12300000" in str(caught.value)


def test_a_sqlite_file_has_its_spool_beside_it(tmp_path: Path) -> None:
    """Whoever moves or backs up the file finds the spool."""
    with Governor(f"sqlite:///{tmp_path}/ledger.db") as governor:
        spool = governor._spool_file()
        assert spool is not None
        assert spool.path.parent == tmp_path
        assert spool.path.name.startswith("ledger.db")
