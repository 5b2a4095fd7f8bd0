"""The PostgreSQL store: a pool of connections of one's own."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from fluxai.core.errors import ConfigurationError, StorageError
from fluxai.storage.batches import encode
from fluxai.storage.functions import FunctionStorage, RefusedData, Unreachable
from fluxai.storage.online import is_online, run_online
from fluxai.storage.statements import load_migrations

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy

log = logging.getLogger("fluxai")

#: The first two characters of SQLSTATE say of which class an error is.
BAD_DATA: Final = ("22",)
_READ_ONLY: Final = "25006"
#: The transaction was rolled back for what may pass: a lost connection, a server that stops or
#: starts, too many connections, a deadlock, a serialisation failure, a lock or a statement that
#: waited too long, a primary that has become a standby.
PASSING: Final = (
    *("08", "53300", "57P01", "57P02", "57P03", "40001", "40P01", "55P03", "57014"),
    _READ_ONLY,
)
#: A row was on its way to the partition for what has no month, and its month was made meanwhile.
CHECK_VIOLATION: Final = "23514"
#: What the URL may say otherwise. A server that has vanished is noticed within half a minute.
_CONNECTING: Final[Mapping[str, str | int]] = {
    "application_name": "fluxai",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg")
#: Of two that migrate at once, one waits for this.
_MIGRATING: Final = 0x464C5558
_MIGRATING_PAUSE_S: Final = 0.2
_DONE: Final = "INSERT INTO fluxai.migrations (version) VALUES (%s)"


class PostgresStorage(FunctionStorage):
    """Keep the ledger in a PostgreSQL database, 15 or newer, through psycopg 3.

    Args:
        url: `postgresql://user:password@host:port/database`. What it leaves out is taken from
            libpq's environment variables (`PGHOST`, `PGPASSWORD`, …) and files.
        pool_size: Connections kept open. Verbs need one at a time; readers take others.
        pool_timeout_s: How long to wait for a free one.
        statement_timeout_s: After how long the server gives a statement up, which is then tried
            again. `verify`, `migrate`, `prune` have no such limit.
        patience_s: How long a call is tried again while the server is out of reach.

    Raises:
        ConfigurationError: The URL is wrong, or psycopg is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 5,
        pool_timeout_s: float = 5.0,
        statement_timeout_s: float = 5.0,
        patience_s: float = 10.0,
    ) -> None:
        self._pool = PooledCaller(
            url,
            pool_size=pool_size,
            pool_timeout_s=pool_timeout_s,
            statement_timeout_s=statement_timeout_s,
        )
        super().__init__(self._pool, patience_s=patience_s)

    @property
    def url(self) -> str:
        """Where the database is, without the password."""
        return self._pool.place

    @property
    def engine(self) -> sqlalchemy.Engine:
        """The engine, for reports of your own on the tables of the schema `fluxai`."""
        return self._pool.engine

    def migrate(self) -> None:
        """Create the schema, or bring it up to date.

        Raises:
            StorageError: The schema is newer than this library, or the server refuses.
        """
        with self._pool.connection(unlimited=True) as connection:
            version = _version(connection)
            for number, script in _missing(version):
                if is_online(script):
                    _migrate_online(connection, number, script)
                else:
                    _migrate(connection, number, script)
            version = _version(connection)
        self.check_version(version)
        self._make_months(None)

    def pending_sql(self) -> str:
        """Write the SQL that `migrate` would run, for whoever may; empty where nothing is missing.

        It is for a fresh connection that stops at errors, such as `psql -v ON_ERROR_STOP=1`.
        """
        with self._pool.connection() as connection:
            version = _version(connection)
        return "\n".join(
            f"{script.rstrip()}\nINSERT INTO fluxai.migrations (version) VALUES ({number});\n"
            for number, script in _missing(version)
        )


def _migrate(connection: psycopg.Connection[Any], number: int, script: str) -> None:
    """Run a migration in a transaction of its own, unless another process was faster.

    The lock is the transaction's, since a pooler may lend each one another session. Nobody waits for
    it inside a statement: an index that is built concurrently would wait for that in turn.
    """
    while True:
        with connection.transaction():
            row = connection.execute(
                "SELECT pg_try_advisory_xact_lock(%s)", (_MIGRATING,)
            ).fetchone()
            if row is not None and row[0]:
                if _version(connection) < number:
                    connection.execute(script.encode())
                    connection.execute(_DONE, (number,))
                return
        time.sleep(_MIGRATING_PAUSE_S)


def _migrate_online(connection: psycopg.Connection[Any], number: int, script: str) -> None:
    """Run a migration statement by statement, unless another process was faster."""
    while True:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_MIGRATING,)).fetchone()
        if row is not None and row[0]:
            break
        time.sleep(_MIGRATING_PAUSE_S)
    try:
        if _version(connection) < number:
            run_online(connection, script)
            connection.execute(_DONE, (number,))
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (_MIGRATING,))


def _missing(version: int) -> list[tuple[int, str]]:
    """List the migrations after a version."""
    return [
        (number, script)
        for number, script in sorted(load_migrations("postgres").items())
        if number > version
    ]


def _version(connection: psycopg.Connection[Any]) -> int:
    """Say which version of the schema the database has, 0 for none."""
    row = connection.execute("SELECT to_regclass('fluxai.migrations') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return 0
    found = connection.execute("SELECT coalesce(max(version), 0) FROM fluxai.migrations").fetchone()
    return 0 if found is None else int(found[0])


class PooledCaller:
    """Calls functions over connections of a pool, each call a statement that commits by itself."""

    def __init__(
        self, url: str, *, pool_size: int, pool_timeout_s: float, statement_timeout_s: float
    ) -> None:
        scheme, separator, rest = url.partition("://")
        if scheme not in _SCHEMES or not separator:
            raise ConfigurationError(
                f"storage: {scheme!r:.40} is no scheme of PostgreSQL; use postgresql://, which "
                f"goes through psycopg 3"
            )
        try:
            import psycopg
            import sqlalchemy
            from sqlalchemy.exc import ArgumentError
        except ImportError as error:
            raise ConfigurationError(
                f"storage: postgresql:// needs psycopg: pip install 'fluxai[postgres]' ({error})"
            ) from error
        self._psycopg = psycopg
        self._sqlalchemy = sqlalchemy
        self._timeout_ms = int(statement_timeout_s * 1000)
        try:
            self._url = sqlalchemy.make_url(f"postgresql+psycopg://{rest}")
        except ArgumentError:
            raise ConfigurationError(
                "storage: the URL can't be read; write "
                "postgresql://user:password@host:port/database, with special characters of the "
                "password as %XX"
            ) from None
        self.place = self._url.set(drivername="postgresql").render_as_string(hide_password=True)
        self.engine = sqlalchemy.create_engine(
            self._url,
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_s,
            # A call leaves no transaction open, so nothing is to be rolled back on return.
            pool_reset_on_return=None,
            connect_args={
                name: value for name, value in _CONNECTING.items() if name not in self._url.query
            },
        )
        sqlalchemy.event.listen(self.engine, "connect", self._connected)
        _reset_after_fork(self.engine)
        self._statements: dict[tuple[str, ...], str] = {}

    def _connected(self, connection: psycopg.Connection[Any], _: Any) -> None:
        with connection.cursor() as cursor:
            # The functions wait for locks, and then look again: a snapshot from before won't do.
            # And before version 18 a plan that may not read whole tables looks dear enough to be
            # compiled wherever it has to: four fifths of the time of a call.
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, false), "
                "set_config('lock_timeout', %s, false), "
                "set_config('default_transaction_isolation', 'read committed', false), "
                "set_config('jit', 'off', false)",
                (str(self._timeout_ms), str(self._timeout_ms)),
            )

    @contextmanager
    def connection(self, *, unlimited: bool = False) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection that commits each statement by itself.

        Args:
            unlimited: For statements that may take long.
        """
        with self._faults():
            lent = self.engine.raw_connection()
            driver: Any = lent.driver_connection
            try:
                if unlimited:
                    self._limit(driver, 0)
                yield driver
                if unlimited:
                    self._limit(driver, self._timeout_ms)
            except self._psycopg.Error as error:
                if driver.closed or unlimited or error.sqlstate == _READ_ONLY:
                    lent.invalidate()
                raise
            except BaseException:
                # An interrupt: in what state it is, nobody knows.
                lent.invalidate()
                raise
            finally:
                lent.close()

    @staticmethod
    def _limit(driver: psycopg.Connection[Any], milliseconds: int) -> None:
        driver.execute(
            "SELECT set_config('statement_timeout', %s, false), "
            "set_config('lock_timeout', %s, false)",
            (str(milliseconds), str(milliseconds)),
        )

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function; see `Caller`."""
        shape = (function, *arguments)
        statement = self._statements.get(shape)
        if statement is None:
            named = ", ".join(f"{name} => %s" for name in arguments)
            statement = self._statements[shape] = f"SELECT fluxai.{function}({named})"
        values = [
            encode(value) if isinstance(value, (list, dict, tuple)) else value
            for value in arguments.values()
        ]
        with self.connection(unlimited=function in _UNLIMITED) as connection:
            row = connection.execute(statement, values).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Let the driver's errors leave as ours."""
        try:
            yield
        except self._sqlalchemy.exc.TimeoutError as error:
            raise Unreachable(
                f"{self.place}: every connection of the pool is in use; raise pool_size, or look "
                f"for calls that hang"
            ) from error
        except self._sqlalchemy.exc.DBAPIError as error:
            raise self._fault(error.orig or error) from error
        except self._psycopg.Error as error:
            raise self._fault(error) from error

    def _fault(self, error: Any) -> Exception:
        state = getattr(error, "sqlstate", None) or ""
        said = " ".join(str(error).split())[:500]
        if state.startswith(BAD_DATA):
            return RefusedData(said)
        if state.startswith(PASSING) or (
            not state and isinstance(error, (self._psycopg.OperationalError,))
        ):
            kind = StorageError if _hopeless(said) else Unreachable
            return kind(f"{self.place} is out of reach: {said}")
        # Our own checks have names; that of a partition has none.
        if state == CHECK_VIOLATION and error.diag.constraint_name is None:
            return Unreachable(f"{self.place} made a month meanwhile: {said}")
        return StorageError(f"{self.place}: {_explained(state, said)}")

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


#: What may take long.
_UNLIMITED: Final = frozenset({"verify", "prune", "rebuild", "make_months", "drop_ended"})


def _hopeless(said: str) -> bool:
    """Say whether trying again can't help: libpq gives no code while it connects."""
    return any(
        part in said
        for part in (
            "password authentication failed",
            "no password supplied",
            "does not exist",
            "no pg_hba.conf entry",
            "could not translate host name",
            "failed to resolve host",
            "permission denied for database",
            "invalid connection option",
        )
    )


def _explained(state: str, said: str) -> str:
    if state == "42501":
        return f"{said}; the role needs rights to the schema fluxai (see docs/production.md)"
    if state in ("42P01", "42883", "3F000"):
        return f"{said}; its schema is not complete: run fluxai db migrate"
    return said


def _reset_after_fork(engine: sqlalchemy.Engine) -> None:
    """Let a forked child open its own connections; its parent's stay the parent's."""
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(engine)

    def reset() -> None:
        alive = reference()
        if alive is not None:
            alive.dispose(close=False)

    os.register_at_fork(after_in_child=reset)
