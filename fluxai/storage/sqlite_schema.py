"""The schema of a SQLite file: which version it has, and how it gets the newest."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fluxai.core.errors import ConfigurationError, StorageError
from fluxai.storage.sqlite_place import DAMAGED
from fluxai.storage.statements import load_migrations, split_script

#: "FLUX": tells a file of ours from another program's.
APPLICATION_ID = 0x464C5558
#: Every page of files up to this size is looked at on open.
CHECKED_BYTES_MAX = 16 * 1024 * 1024


def newest_version() -> int:
    """Say which version this library makes."""
    return max(load_migrations("sqlite"))


def examine(connection: sqlite3.Connection, path: Path) -> int:
    """Look whether a file is ours, sound, and not newer than this library. Changes nothing.

    Returns:
        The version of its schema, 0 for an empty file.

    Raises:
        ConfigurationError: It is another program's.
        StorageError: It is damaged, or newer.
    """
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID and (tables or version or application):
        raise ConfigurationError(
            f"{path} is another program's database; give FluxAI a file of its own"
        )
    if version > newest_version():
        raise StorageError(
            f"{path} has schema version {version}, and this fluxai knows versions up to "
            f"{newest_version()}; upgrade fluxai"
        )
    if path.stat().st_size <= CHECKED_BYTES_MAX:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StorageError(f"{path} {DAMAGED} ({found})")
    return int(version)


def upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date, in one transaction.

    Args:
        connection: One that may write; outside of a transaction.
        path: What errors name.

    Raises:
        StorageError: The file system can't carry SQLite's log.
        sqlite3.Error: The file can't be written.
    """
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StorageError(
            f"{path}: this file system does not support SQLite's write-ahead log (it offers "
            f"{mode!r}); use a local disk"
        )
    try:
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have been faster.
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for number, script in load_migrations("sqlite").items():
            if number > version:
                for statement in split_script(script):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        # Changes nothing, but only a file that can be written to lets it be tried.
        connection.execute("DELETE FROM versions WHERE 0")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
