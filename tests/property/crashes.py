"""Bringing a SQLite store down around its commit, as a process that is killed would be."""

from __future__ import annotations

import sqlite3
from typing import Any

from fluxai.storage.base import Storage
from fluxai.storage.sqlite import SqliteStorage


class Crash(BaseException):
    """The process is gone; nothing in it may handle this."""


class CrashingConnection:
    """A connection that goes down at its next commit; all else goes on to the real one."""

    def __init__(self, connection: sqlite3.Connection, *, before: bool) -> None:
        self._connection = connection
        self._before = before

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == "COMMIT":
            if not self._before:
                self._connection.execute(sql)
            raise Crash
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def crash_at_next_commit(storage: Storage, *, before: bool) -> None:
    """Let the store die just before, or just after, the next transaction it commits.

    What it has in memory is worth nothing from then on: close it, and open the file again.
    """
    assert isinstance(storage, SqliteStorage)
    file = storage._file
    with file._lock:
        connection = CrashingConnection(file._writer(), before=before)
    file._writer = lambda: connection  # type: ignore[assignment, method-assign, return-value]
