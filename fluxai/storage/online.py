"""Migrations that run while others write: indexes are built without a lock that stops them.

A migration whose first line is `-- online` is run statement by statement, each committed by itself,
and counts as done when all of them are. So each must do no harm when it is run again: after a crash
the next `migrate` begins anew, and goes on where something is missing. `CREATE INDEX IF NOT EXISTS`
on a table of the schema is built concurrently, partition by partition where there are such; anything
else is run as it stands.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final

from fluxai.core.errors import StorageError
from fluxai.storage.statements import split_script

if TYPE_CHECKING:
    import psycopg

_MARK: Final = "-- online\n"
_INDEX: Final = re.compile(
    r"CREATE (?P<unique>UNIQUE )?INDEX IF NOT EXISTS (?P<name>\w+) ON fluxai\.(?P<table>\w+) "
    r"(?P<what>.+?);?",
    re.DOTALL,
)
_PARTITIONS: Final = """
SELECT c.relname FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = %s::regclass AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_index AS x JOIN pg_catalog.pg_inherits AS h ON h.inhrelid = x.indexrelid
    WHERE x.indrelid = c.oid AND x.indisvalid AND h.inhparent = to_regclass(%s))
ORDER BY 1
"""
#: An index's own name is cut at 63 characters, so a partition's part of it comes first.
_NAME_MAX: Final = 63
_PAUSE_S: Final = 0.1


def is_online(script: str) -> bool:
    """Say whether a migration may run while others write."""
    return script.startswith(_MARK)


def run_online(connection: psycopg.Connection[Any], script: str) -> None:
    """Run a migration's statements, each committed by itself.

    Args:
        connection: Commits each statement by itself, and has no time-out.
        script: Begins with `-- online`.

    Raises:
        StorageError: Partitions were added faster than indexed, which is no normal use.
    """
    for statement in split_script(script):
        text = "\n".join(
            line for line in statement.splitlines() if not line.startswith("--")
        ).strip()
        index = _INDEX.fullmatch(text)
        if index is not None:
            _build(connection, **index.groupdict())
        elif text:
            connection.execute(text.encode())


def _build(
    connection: psycopg.Connection[Any], *, unique: str | None, name: str, table: str, what: str
) -> None:
    create = f"CREATE {unique or ''}INDEX"
    row = connection.execute(
        "SELECT relkind FROM pg_catalog.pg_class WHERE oid = %s::regclass", (f"fluxai.{table}",)
    ).fetchone()
    if row is None or row[0] not in ("p", b"p"):
        _build_one(connection, create, name, table, what)
        return
    # First the parent's: from here on a new partition brings its own.
    _briefly(connection, f"{create} IF NOT EXISTS {name} ON ONLY fluxai.{table} {what}")
    for _ in range(3):
        missing = connection.execute(_PARTITIONS, (f"fluxai.{table}", f"fluxai.{name}")).fetchall()
        if not missing:
            return
        for (partition,) in missing:
            own = f"{partition}_{name}"[:_NAME_MAX]
            _build_one(connection, create, own, partition, what)
            _briefly(connection, f"ALTER INDEX fluxai.{name} ATTACH PARTITION fluxai.{own}")
    raise StorageError(f"the index {name} lacks partitions of {table}; migrate again")


def _build_one(
    connection: psycopg.Connection[Any], create: str, name: str, table: str, what: str
) -> None:
    """Build an index concurrently; what an interrupted try left behind is dropped first."""
    row = connection.execute(
        "SELECT indisvalid FROM pg_catalog.pg_index WHERE indexrelid = to_regclass(%s)",
        (f"fluxai.{name}",),
    ).fetchone()
    if row is not None and row[0]:
        return
    if row is not None:
        connection.execute(f"DROP INDEX CONCURRENTLY fluxai.{name}".encode())
    connection.execute(f"{create} CONCURRENTLY {name} ON fluxai.{table} {what}".encode())


def _briefly(connection: psycopg.Connection[Any], statement: str) -> None:
    """Run what locks writers out for a moment; whoever is in the way goes first.

    While it waited, everybody who comes would queue up behind it.
    """
    import psycopg

    while True:
        try:
            with connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '250ms'")
                connection.execute(statement.encode())
        except psycopg.errors.LockNotAvailable:
            time.sleep(_PAUSE_S)
        else:
            return
