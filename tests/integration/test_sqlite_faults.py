"""What can be wrong with a file: each fault names the file, the problem and the remedy."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fluxai.core.decisions import Reservation
from fluxai.core.errors import ConfigurationError, StorageError
from fluxai.storage.sqlite import SqliteStorage
from tests.unit.storage.making import CENT, USD, Limit, Maker, plan_for

IMPATIENT_S = 0.05
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a store may be made."""
    return tmp_path / "ledger.db"


@pytest.fixture
def maker() -> Maker:
    """Return a maker of asks."""
    return Maker()


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStorage]:
    """Open a store."""
    store = SqliteStorage(path, busy_timeout_s=IMPATIENT_S)
    store.migrate()
    yield store
    store.close()


def opened(path: Path) -> SqliteStorage:
    """Open a store that is expected to refuse, impatiently."""
    store = SqliteStorage(path, busy_timeout_s=IMPATIENT_S)
    try:
        store.migrate()
    except BaseException:
        store.close()
        raise
    return store


def a_used_file(path: Path) -> None:
    """Make a file that holds something."""
    store = opened(path)
    maker, plan = Maker(), plan_for([Limit(amount=USD)])
    for _ in range(40):
        held = store.reserve_one(maker.ask(plan))
        assert isinstance(held, Reservation)
        store.resolve_one(maker.settle(held))
    store.close()


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder."""
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


# -- opening --------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_left_as_it_is(path: Path) -> None:
    """Whatever lies under the name is neither overwritten nor joined by other files."""
    path.write_text("my diary\n" * 1000)
    before = contents(path.parent)
    with pytest.raises(StorageError, match=r"ledger\.db is not a SQLite database; give another"):
        opened(path)
    assert contents(path.parent) == before


def test_another_programs_database_is_left_as_it_is(path: Path) -> None:
    """Tables of another program are not mixed with ours."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title)")
    connection.close()
    before = contents(path.parent)
    with pytest.raises(ConfigurationError, match=r"ledger\.db is another program's database"):
        opened(path)
    assert contents(path.parent) == before


def test_a_damaged_file_is_refused_on_open(path: Path) -> None:
    """Damage is found before anything relies on the file, and the remedy is named."""
    a_used_file(path)
    damaged = bytearray(path.read_bytes())
    for page in range(2, len(damaged) // 4096, 2):
        damaged[page * 4096 : page * 4096 + 64] = os.urandom(64)
    path.write_bytes(damaged)
    with pytest.raises(StorageError, match=r"ledger\.db is damaged; restore a backup"):
        opened(path)
    assert path.read_bytes() == bytes(damaged)


def test_a_truncated_file_is_refused_on_open(path: Path) -> None:
    """A file that lost its end is damaged too."""
    a_used_file(path)
    path.write_bytes(path.read_bytes()[: 3 * 4096])
    with pytest.raises(StorageError, match=r"ledger\.db is damaged"):
        opened(path)


def test_a_newer_schema_is_refused_unchanged(path: Path) -> None:
    """An older library doesn't touch what a newer one made."""
    a_used_file(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = contents(path.parent)
    with pytest.raises(StorageError, match=r"ledger\.db has schema version 999.*upgrade fluxai"):
        opened(path)
    assert contents(path.parent) == before


def test_a_missing_folder_and_a_folder_instead_of_a_file_are_named(tmp_path: Path) -> None:
    """A path that can't be a file is refused, and nothing is created."""
    with pytest.raises(StorageError, match=r"there is no folder .*missing; create it first"):
        opened(tmp_path / "missing" / "ledger.db")
    with pytest.raises(StorageError, match="is a folder; name a file in it"):
        opened(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_was_not_migrated_says_so(path: Path) -> None:
    """Verbs create no files; migrate() does."""
    store = SqliteStorage(path)
    with pytest.raises(StorageError, match=r"there is no file .*ledger\.db yet; migrate\(\)"):
        store.version("acme")
    with pytest.raises(StorageError, match="migrate"):
        store.reserve_one(Maker().ask(plan_for()))
    store.close()
    assert list(path.parent.iterdir()) == []


def test_an_existing_file_may_be_used_without_migrating_it_again(path: Path) -> None:
    """A process that finds the schema in place can go to work at once."""
    a_used_file(path)
    store = SqliteStorage(path)
    assert len(store.events(limit=100)) == 40
    store.close()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def anyones_folder() -> Iterator[Path]:
    """Return a folder that others can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_a_read_only_file_is_refused_on_open(anyones_folder: Path) -> None:
    """What can't be written to is refused before a call relies on it."""
    path = anyones_folder / "ledger.db"
    a_used_file(path)
    for file in anyones_folder.iterdir():
        file.chmod(0o666)
    path.chmod(0o444)
    with as_nobody(), pytest.raises(StorageError, match=r"ledger\.db can't be written.*permis"):
        opened(path)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
@pytest.mark.parametrize("exists", [True, False])
def test_a_read_only_folder_is_refused_on_open(anyones_folder: Path, *, exists: bool) -> None:
    """A folder in which no log can be kept is refused, with and without a file in it."""
    path = anyones_folder / "ledger.db"
    if exists:
        a_used_file(path)
        (anyones_folder / "ledger.db.lock").unlink()
        path.chmod(0o666)
    anyones_folder.chmod(0o555)
    with as_nobody(), pytest.raises(StorageError, match=r"ledger\.db.* (write|written)"):
        opened(path)


def test_a_network_file_system_is_refused(tmp_path: Path) -> None:
    """Where acknowledged data could be lost, nothing is kept."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    store = SqliteStorage(tmp_path / "ledger.db", mounts=mounts)
    with pytest.raises(ConfigurationError, match=r"network file system \(nfs4\).*local disk"):
        store.migrate()
    store.close()
    assert {entry.name for entry in tmp_path.iterdir()} == {"mounts"}


# -- at work --------------------------------------------------------------------------------


def test_another_programs_lock_is_waited_for_only_so_long(
    store: SqliteStorage, path: Path, maker: Maker
) -> None:
    """A verb that can't get the lock in time raises, holds nothing, and may be tried again."""
    ask = maker.ask(plan_for([Limit(amount=USD)]))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match=r"ledger\.db was locked by another .* 0\.05 s") as told:
        store.reserve_one(ask)
    assert isinstance(told.value.__cause__, sqlite3.OperationalError)
    with pytest.raises(StorageError, match="locked"):
        opened(path)
    other.execute("ROLLBACK")
    other.close()
    assert store.reservations() == []
    answer = store.reserve_one(ask)
    assert isinstance(answer, Reservation)
    assert answer.allowed


def test_a_file_that_cannot_be_tidied_up_harms_no_verb(
    store: SqliteStorage, path: Path, maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """What was acknowledged stays so; the failure is counted, logged, and tried again later."""
    ask = maker.ask(plan_for([Limit(amount=USD)]))
    assert isinstance(store.reserve_one(ask), Reservation)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._rows_untidy = 1_000_000
    store._tidy()
    other.execute("ROLLBACK")
    other.close()
    assert store.tidying_errors == 1
    assert "could not be tidied up" in caplog.text
    store._rows_untidy = 1_000_000
    store._tidy()
    assert store.tidying_errors == 1
    assert store.verify().ok


def test_another_stores_turn_is_waited_for_only_so_long(
    store: SqliteStorage, path: Path, maker: Maker
) -> None:
    """A process that hangs in the middle of its turn can't hang the others for ever."""
    other = SqliteStorage(path, busy_timeout_s=IMPATIENT_S)
    with other._file.writing():  # noqa: SIM117 -- one is inside the other's turn
        with pytest.raises(StorageError, match="locked"):
            store.reserve_one(maker.ask(plan_for()))
    other.close()
    assert store.verify().ok


def test_a_full_disk_acknowledges_nothing_and_loses_nothing(
    store: SqliteStorage, maker: Maker
) -> None:
    """When the file can't grow, the batch fails whole; with space again, work goes on."""
    plan = plan_for([Limit(amount=100 * USD, scope="user")])
    kept = [store.reserve_one(maker.ask(plan)) for _ in range(20)]
    writer = store._file._connected()
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    asks = [maker.ask(plan) for _ in range(50)]
    with pytest.raises(StorageError, match=r"ledger\.db can't grow: the disk is full") as told:
        store.reserve(asks)
    assert isinstance(told.value.__cause__, sqlite3.OperationalError)
    assert len(store.reservations()) == len(kept)
    assert store.verify().ok
    writer.execute("PRAGMA max_page_count = 1000000")
    assert all(isinstance(answer, Reservation) for answer in store.reserve(asks))
    (balance,) = store.balances(plan.candidates[0].keys, asks[0].reservation.counted_us)
    assert balance.reserved == (len(kept) + len(asks)) * CENT
    assert store.verify().ok


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_is_taken_away_is_not_written_to(
    store: SqliteStorage, path: Path, maker: Maker, *, replaced: bool
) -> None:
    """What would go into a file that nobody will find again is refused."""
    ask = maker.ask(plan_for())
    assert isinstance(store.reserve_one(ask), Reservation)
    moved = path.rename(path.with_name("moved.db"))
    if replaced:
        path.touch()
    with pytest.raises(StorageError, match=r"ledger\.db was removed or replaced"):
        store.reserve_one(maker.ask(plan_for()))
    with pytest.raises(StorageError, match="removed or replaced"):
        store.reservations()
    path.unlink(missing_ok=True)
    moved.rename(path)
    assert [found.uid for found in store.reservations()] == [ask.reservation.uid]
    assert isinstance(store.reserve_one(maker.ask(plan_for())), Reservation)


def test_an_item_that_no_file_could_hold_fails_alone(store: SqliteStorage, maker: Maker) -> None:
    """Text or numbers that SQLite can't store are refused, and change nothing."""
    plan = plan_for([Limit(amount=USD)])
    good, odd = maker.ask(plan), maker.ask(plan_for(user="lone surrogate \ud800"))
    huge = maker.record(plan, "huge", 1 << 70)
    with pytest.raises(StorageError) as told:
        store.reserve_one(odd)
    assert isinstance(told.value.__cause__, UnicodeEncodeError)
    with pytest.raises(StorageError):
        store.resolve_one(huge)
    with pytest.raises(StorageError):
        store.reserve([good, odd])
    assert store.reservations() == []
    assert store.verify().ok
    assert isinstance(store.reserve_one(good), Reservation)
    assert store.verify().ok


def test_odd_questions_have_storage_errors_for_answers(store: SqliteStorage) -> None:
    """Reading by what no file could hold raises the one error that stores raise."""
    for ask in (
        lambda: store.version("\ud800"),
        lambda: store.events(tenant="\ud800"),
        lambda: store.usage("acme", -(1 << 80), 1 << 80),
        lambda: store.expire(1 << 80, limit=1),
    ):
        with pytest.raises(StorageError, match=r"ledger\.db"):
            ask()
    assert store.verify().ok


def test_a_closed_store_refuses_every_verb(path: Path, maker: Maker) -> None:
    """After close() nothing is opened again behind the caller's back."""
    store = opened(path)
    store.close()
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.reserve_one(maker.ask(plan_for()))
    with pytest.raises(StorageError, match="closed"):
        store.reserve([maker.ask(plan_for())])
    with pytest.raises(StorageError, match="closed"):
        store.events()
    with pytest.raises(StorageError, match="closed"):
        store.migrate()
