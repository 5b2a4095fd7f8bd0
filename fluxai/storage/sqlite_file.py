"""One SQLite file: its connections, its locks, and what can be wrong with it.

SQLAlchemy's engine owns the connections. One of them writes, under three locks in this order: the
threads' lock, a lock file between processes (which, unlike SQLite's own lock, need not be waited
for in growing naps), and SQLite's `BEGIN IMMEDIATE`, which also holds off other programs. The
others read, each from a snapshot, and wait for nobody.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import URL, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fluxai.core.errors import ConfigurationError, StorageError
from fluxai.storage.sqlite_place import (
    ITEM_FAULTS,
    fault_of,
    locked,
    path_of,
    require_local_place,
)
from fluxai.storage.sqlite_schema import examine, newest_version, upgrade

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.pool import PoolProxiedConnection

try:
    import fcntl
except ImportError:  # Windows: processes take turns by SQLite's own lock alone
    HAS_FLOCK = False
else:
    HAS_FLOCK = True

#: STRICT tables came with this version.
SQLITE_LEAST = (3, 37, 0)
#: The writer itself checkpoints only when nobody did it off the hot path for so many pages.
AUTOCHECKPOINT_PAGES = 4_000
WAL_BYTES_KEPT = 64 * 1024 * 1024
WRITER_CACHE_KB = 16_000
READERS_KEPT = 8
READERS_MAX = 64
BUSY_TIMEOUT_MAX_S = 3_600
LOCK_POLL_S = 0.000_5


class SqliteFile:
    """The connections to one file, and the right to write to it.

    Args:
        url: `sqlite:///file.db`, relative to the working folder or absolute, or a path.
        busy_timeout_s: How long to wait for another program's lock.
        mounts: Where the operating system lists its mounts; a missing file means none is known.

    Raises:
        ConfigurationError: The URL names no file, or SQLite is too old.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        busy_timeout_s: float = 5.0,
        mounts: Path = Path("/proc/mounts"),
    ) -> None:
        if sqlite3.sqlite_version_info < SQLITE_LEAST:
            least = ".".join(map(str, SQLITE_LEAST))
            raise ConfigurationError(
                f"SQLite {sqlite3.sqlite_version} is too old; {least} or newer is needed"
            )
        if (
            isinstance(busy_timeout_s, bool)
            or not isinstance(busy_timeout_s, (int, float))
            or not (0 <= busy_timeout_s <= BUSY_TIMEOUT_MAX_S)
        ):
            raise ConfigurationError(
                f"busy_timeout_s: must be seconds from 0 to {BUSY_TIMEOUT_MAX_S:,}, got "
                f"{busy_timeout_s!r:.40}"
            )
        self.path = path_of(url)
        self.busy_timeout_s = busy_timeout_s
        #: Transactions that were committed; verbs share them.
        self.commits = 0
        self._mounts = mounts
        self._identity: tuple[int, int] | None = None
        self._closed = False
        self._unusable: str | None = None
        self._abandoned: _Held | None = None
        self._held = _Held()
        self._make_locks()
        self._finalizer = weakref.finalize(self, self._held.let_go)
        _step_aside_for_forks(self)

    # -- transactions -----------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the one connection that may write, inside a transaction.

        Leaving it commits; an exception rolls back, so that nothing of it was ever there.

        Raises:
            StorageError: The file can't be written, or is locked for too long.
        """
        self._pass_gate()
        with self._lock, self._translated():
            connection = self._writer()
            with self._turn():
                self._require_same_file()
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    self._roll_back(connection)
                    raise
                self.commits += 1

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that sees one unchanging snapshot, and can't write.

        Raises:
            StorageError: The file can't be read.
        """
        with self._translated(), self._among_readers() as engine:
            self._require_same_file()
            pooled = engine.raw_connection()
            try:
                connection = _driver(pooled)
                try:
                    connection.execute("BEGIN")
                    yield connection
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            finally:
                pooled.close()

    def checkpoint(self) -> None:
        """Move what was committed into the database file, without keeping anyone waiting."""
        with self._translated(), self._among_readers() as engine:
            pooled = engine.raw_connection()
            try:
                _driver(pooled).execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            finally:
                pooled.close()

    def close(self) -> None:
        """Wait for those at work and let go of every connection. Repeats do nothing."""
        self._exclude_all()
        self._closed = True
        self._held.let_go()
        self._readmit()

    # -- opening ----------------------------------------------------------------------------

    def migrate(self) -> None:
        """Create the file or bring its schema up to date, after looking whether it is sound.

        Raises:
            ConfigurationError: The file is another program's, or lies on a network file system.
            StorageError: The file is damaged, newer than this library, or out of reach.
        """
        require_local_place(self.path, self._mounts)
        with self._lock, self._translated():
            connection = self._connected()
            examine(connection, self.path)
            with self._turn():
                upgrade(connection, self.path)
            self._adopt()

    def _adopt(self) -> None:
        """From here on this very file is ours; another one under its name would not be."""
        status = self.path.stat()
        self._identity = (status.st_dev, status.st_ino)

    def _require_same_file(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            raise StorageError(
                f"{self.path} was removed or replaced while it was in use; what is written to the "
                f"old file would be lost. Put it back, or open the new one"
            )

    # -- connections ------------------------------------------------------------------------

    def _writer(self) -> sqlite3.Connection:
        if self._identity is None:
            if not self.path.exists():
                raise StorageError(f"there is no file {self.path} yet; migrate() creates it")
            version = examine(self._connected(), self.path)
            if version < newest_version():
                raise StorageError(
                    f"{self.path} has schema version {version}, and this fluxai needs "
                    f"{newest_version()}; migrate() upgrades it"
                )
            self._adopt()
        return self._connected()

    def _connected(self) -> sqlite3.Connection:
        pooled = self._held.writer
        if pooled is None:
            with self._gate:
                engine = self._engine()
            pooled = engine.raw_connection()
            for pragma in ("query_only = OFF", f"cache_size = -{WRITER_CACHE_KB}"):
                _driver(pooled).execute(f"PRAGMA {pragma}")
            self._held.writer = pooled
        return _driver(pooled)

    def _engine(self) -> Engine:
        """Return the engine, made when it is needed; the gate's lock must be held."""
        if self._closed:
            raise StorageError(f"the store of {self.path} is closed; open a new one")
        if self._unusable is not None:
            raise StorageError(self._unusable)
        if self._held.engine is None:
            engine = create_engine(
                URL.create("sqlite", database=str(self.path)),
                connect_args={
                    "check_same_thread": False,
                    "isolation_level": None,
                    "timeout": self.busy_timeout_s,
                    "cached_statements": 256,
                },
                pool_size=READERS_KEPT,
                max_overflow=READERS_MAX - READERS_KEPT,
                pool_reset_on_return=None,
            )
            event.listen(engine, "connect", _prepare)
            self._held.engine = engine
        return self._held.engine

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            # Closing it rolls back for certain; the next transaction opens another.
            writer, self._held.writer = self._held.writer, None
            if writer is not None:
                writer.invalidate()

    # -- locks ------------------------------------------------------------------------------

    def _make_locks(self) -> None:
        self._excluding = threading.Lock()
        self._lock = threading.Lock()
        self._gate = threading.Condition()
        self._readers = 0
        self._shut = False
        self._alone = False

    def _exclude_all(self, *, timeout_s: float = -1) -> bool:
        """Keep all other threads out, once those inside have finished; say whether that worked."""
        if not self._excluding.acquire(timeout=timeout_s):
            return False
        with self._gate:
            # First of all, or those who write on and on might never leave the lock to this thread.
            self._shut = True
        if self._lock.acquire(timeout=timeout_s):
            with self._gate:
                if self._gate.wait_for(
                    lambda: self._readers == 0, timeout=None if timeout_s < 0 else timeout_s
                ):
                    return True
            self._lock.release()
        self._open_gate()
        return False

    def _readmit(self) -> None:
        self._alone = False
        self._lock.release()
        self._open_gate()

    def _open_gate(self) -> None:
        with self._gate:
            self._shut = False
            self._gate.notify_all()
        self._excluding.release()

    def _pass_gate(self) -> None:
        with self._gate:
            self._gate.wait_for(lambda: not self._shut)

    @contextmanager
    def _among_readers(self) -> Iterator[Engine]:
        if self._identity is None:
            with self._lock:
                self._writer()
        with self._gate:
            self._gate.wait_for(lambda: not self._shut)
            engine = self._engine()
            self._readers += 1
        try:
            yield engine
        finally:
            with self._gate:
                self._readers -= 1
                self._gate.notify_all()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Take turns with other processes."""
        if not HAS_FLOCK:
            yield
            return
        file = self._held.lock_file
        if file is None:
            file = self._held.lock_file = self._open_lock_file()
        try:
            self._wait_for_turn(file)
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def _wait_for_turn(self, file: int) -> None:
        deadline_s = time.monotonic() + self.busy_timeout_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise locked(self.path, busy_timeout_s=self.busy_timeout_s) from None
                time.sleep(LOCK_POLL_S)
            else:
                return

    def _open_lock_file(self) -> int:
        path = self.path.with_name(self.path.name + ".lock")
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StorageError(
                f"{path}, by which processes take turns, can't be opened: {error.strerror}; this "
                f"user must be able to write there"
            ) from error

    # -- fork -------------------------------------------------------------------------------
    #
    # SQLite's locks belong to a process, and its record of them to the memory that fork() copies:
    # a child would believe it holds locks that only its parent has, in connections of its own too.
    # When the parent then closes, the log that the child writes to is deleted. So nothing may be
    # open while a process forks.

    def _before_fork(self) -> None:
        # A verb may wait for two locks in turn. Longer than that takes only a fork in a signal
        # handler, which has interrupted a verb of its own thread.
        self._alone = self._exclude_all(timeout_s=3 * self.busy_timeout_s)
        if self._alone:
            self._held.let_go()

    def _after_fork_in_parent(self) -> None:
        if self._alone:
            self._readmit()

    def _after_fork_in_child(self) -> None:
        alone = self._alone
        self._make_locks()
        if not alone:
            self._finalizer.detach()
            self._abandoned, self._held = self._held, _Held()
            self._unusable = (
                f"the process forked while {self.path} was busy for long; use it in the parent, or "
                f"start the child by another way than fork()"
            )

    # -- faults -----------------------------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Let drivers' errors leave as `StorageError`, except those that are about one item."""
        try:
            yield
        except ITEM_FAULTS:
            raise
        except sqlite3.Error as error:
            raise self.fault(error) from error
        except SQLAlchemyError as error:
            # One that came while it connected is wrapped; what matters is the driver's own.
            cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
            raise self.fault(cause) from cause
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}") from error

    def fault(self, error: BaseException) -> StorageError:
        """Say which file, what is wrong with it, and what to do."""
        return fault_of(self.path, error, busy_timeout_s=self.busy_timeout_s)


class _Held:
    """What must be closed in the end, apart from its owner so that a finalizer can hold it."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.writer: PoolProxiedConnection | None = None
        self.lock_file: int | None = None

    def let_go(self) -> None:
        writer, self.writer = self.writer, None
        engine, self.engine = self.engine, None
        file, self.lock_file = self.lock_file, None
        if writer is not None:
            writer.close()
        if engine is not None:
            engine.dispose()
        if file is not None:
            os.close(file)


class _Forks(Protocol):
    def _before_fork(self) -> None: ...
    def _after_fork_in_parent(self) -> None: ...
    def _after_fork_in_child(self) -> None: ...


def _step_aside_for_forks(file: _Forks) -> None:
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(file)

    def call(method: str) -> None:
        alive = reference()
        if alive is not None:
            getattr(alive, method)()

    os.register_at_fork(
        before=lambda: call("_before_fork"),
        after_in_parent=lambda: call("_after_fork_in_parent"),
        after_in_child=lambda: call("_after_fork_in_child"),
    )


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    """Set up a connection; all of these hold for it alone, and change no file."""
    for pragma in (
        "query_only = ON",
        "synchronous = FULL",
        "fullfsync = ON",  # where fsync() alone leaves data in the disk's own memory
        f"wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}",
        f"journal_size_limit = {WAL_BYTES_KEPT}",
        "temp_store = MEMORY",
        "trusted_schema = OFF",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _driver(pooled: PoolProxiedConnection) -> sqlite3.Connection:
    connection: Any = pooled.driver_connection
    return connection  # type: ignore[no-any-return]
