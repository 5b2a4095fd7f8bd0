"""Where a SQLite file may lie, and what to say when something is wrong with it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from fluxai.core.errors import ConfigurationError, StorageError

#: Where two machines may see one file, and neither the other's locks or shared memory.
NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    }
)
DAMAGED = "is damaged; restore a backup, or save what is left with `sqlite3 FILE .recover`"
_REMEDIES = {
    "SQLITE_NOTADB": "is not a SQLite database; give another path, or move that file away",
    "SQLITE_CORRUPT": DAMAGED,
    "SQLITE_FULL": "can't grow: the disk is full. Nothing of this call was kept; free some space "
    "and try again",
    "SQLITE_READONLY": "can't be written: the file or its folder is read-only for this user; "
    "change the permissions, or give another path",
    "SQLITE_PERM": "can't be opened: this user has no permission; change it, or give another path",
    "SQLITE_CANTOPEN": "can't be opened: this user must be able to read and write the file and its "
    "folder; change the permissions, or give another path",
    "SQLITE_IOERR": "met an error of the disk; look at the system's log, and try again",
}
#: These tell of one item that the database can't take, not of a database that can't work.
ITEM_FAULTS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
    sqlite3.ProgrammingError,
)


def path_of(url: str | os.PathLike[str]) -> Path:
    """Find the file that a URL or a path names.

    Args:
        url: `sqlite:///file.db`, relative to the working folder or absolute, or a path.

    Raises:
        ConfigurationError: It names no file.
    """
    text = os.fspath(url)
    if "://" in text or text.startswith("sqlite:"):
        try:
            parsed = make_url(text)
        except ArgumentError:
            parsed = None
        if parsed is None or parsed.drivername not in ("sqlite", "sqlite+pysqlite") or parsed.host:
            raise ConfigurationError(
                f"storage: {text!r} is no SQLite URL; write sqlite:///file.db, or "
                f"sqlite:////absolute/path/file.db"
            )
        if parsed.query:
            raise ConfigurationError(
                f"storage: {text!r} has options after '?'; a SQLite URL is only a path"
            )
        text = parsed.database or ""
    if text in ("", ":memory:") or text.startswith("file:"):
        raise ConfigurationError(
            "storage: SQLite needs a file, such as sqlite:///fluxai.db; to keep all in memory use "
            "memory://"
        )
    return Path(text).absolute()


def require_local_place(path: Path, mounts_file: Path) -> None:
    """Refuse a place where no file can be, or where its locks would mean nothing.

    Args:
        path: Absolute; need not exist.
        mounts_file: Where the operating system lists its mounts; if missing, none are known.

    Raises:
        ConfigurationError: It lies on a network file system.
        StorageError: There is no such folder, or the path is one.
    """
    if not path.parent.is_dir():
        raise StorageError(f"{path}: there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise StorageError(f"{path} is a folder; name a file in it")
    try:
        mounts = mounts_file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: nothing to ask
        return
    kind = file_system_of(path.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{path} lies on a network file system ({kind}), where SQLite can lose data that it "
            f"acknowledged; use a local disk, or a database server"
        )


def file_system_of(path: Path, mounts: str) -> str | None:
    """Name the kind of file system that a path lies on.

    Args:
        path: Absolute.
        mounts: The text of `/proc/mounts`: device, mount point and kind on each line, with the
            octal codes of spaces in a path.
    """
    best, kind = -1, None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(fields[1].encode().decode("unicode_escape"))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def fault_of(path: Path, error: BaseException, *, busy_timeout_s: float) -> StorageError:
    """Say which file, what is wrong with it, and what to do."""
    name: str = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return locked(path, busy_timeout_s=busy_timeout_s)
    for prefix, remedy in _REMEDIES.items():
        if name.startswith(prefix):
            return StorageError(f"{path} {remedy} ({error})")
    return StorageError(f"{path}: {error}")


def locked(path: Path, *, busy_timeout_s: float) -> StorageError:
    """Say that somebody else kept the file for too long."""
    return StorageError(
        f"{path} was locked by another program for more than {busy_timeout_s:g} s; find it "
        f"(`fuser {path}`), or wait longer with busy_timeout_s="
    )
