"""The spool: settlements that could not reach the store, kept on disk until they can.

A line per settlement, JSON, flushed to the disk before `keep` returns. Replaying is by id, so a
line that was settled all the same changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxai.core.decisions import Reservation, UsageEvent
from fluxai.core.errors import FluxAIError, InvalidRequest, StorageError
from fluxai.storage.base import Settle

if TYPE_CHECKING:
    from fluxai.storage.base import Storage

log = logging.getLogger("fluxai")


def open_spool(path: str | os.PathLike[str] | None, storage: Storage) -> Spool | None:
    """Choose the spool of a store: the given file, or one of its own. Memory needs none."""
    if path is not None:
        return Spool(Path(path))
    if not storage.capabilities.durable:
        return None
    place = getattr(storage, "spool_path", None)
    if place is not None:
        return Spool(Path(place))
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    url = getattr(storage, "url", None) or type(storage).__qualname__
    name = hashlib.sha256(str(url).encode()).hexdigest()[:16]
    return Spool(Path(home) / "fluxai" / f"{name}.spool")


class Spool:
    """An append-only file of settlements."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    @property
    def rejected_path(self) -> Path:
        """Where lines go that no store will ever take, for a person to look at."""
        return self.path.with_name(self.path.name + ".rejected")

    def keep(self, item: Settle, known: Reservation) -> None:
        """Write one settlement durably.

        Raises:
            StorageError: The disk refuses too; the settlement is in the error's text.
        """
        line = spool_line(item, known)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._alone():
                append_lines(self.path, [line])
        except OSError as error:
            raise StorageError(
                f"neither the store nor the spool {self.path} could take this settlement: {line}"
            ) from error

    def replay(self, settle: Callable[[Settle], None], *, limit: int = sys.maxsize) -> int:
        """Settle what was kept, in order, and take it out of the file.

        A line that can't be read, or that no store will take, is moved to `rejected_path`, so that
        it does not stand in the way of the others.

        Returns:
            How many were settled.

        Raises:
            StorageError: The store fails again, or the disk; what was not settled stays.
        """
        if not self.path.exists():
            return 0
        try:
            with self._alone():
                return self._replay(settle, limit)
        except OSError as error:
            raise StorageError(f"the spool {self.path} could not be read: {error}") from error

    def _replay(self, settle: Callable[[Settle], None], limit: int) -> int:
        if not self.path.exists():
            return 0
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        rejected: list[str] = []
        done = 0
        try:
            for line in lines[:limit]:
                try:
                    settle(read_line(line))
                except StorageError:
                    raise
                except FluxAIError as error:
                    log.error(  # noqa: TRY400 -- the error's text says it all
                        "a spooled settlement can't be settled; see %s: %s",
                        self.rejected_path,
                        error,
                    )
                    rejected.append(line)
                done += 1
        finally:
            if rejected:
                append_lines(self.rejected_path, rejected)
            self._leave(lines[done:])
        return done - len(rejected)

    def _leave(self, lines: Sequence[str]) -> None:
        """Let the file hold these lines only, by one atomic step."""
        if lines:
            fresh = self.path.with_name(self.path.name + ".new")
            fresh.unlink(missing_ok=True)
            append_lines(fresh, lines)
            fresh.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads and processes away from the file."""
        gate = self.path.with_name(self.path.name + ".lock")
        with self._lock, gate.open("a") as file:
            lock_file(file.fileno())
            yield


if sys.platform == "win32":

    def lock_file(number: int, *, wait: bool = True) -> bool:  # noqa: ARG001 -- see below
        """Do nothing: there, a file that is open can't be replaced by another process."""
        return wait

    def sync_folder(folder: Path) -> None:
        """Do nothing: there, folders can't be flushed."""

else:
    import fcntl

    def lock_file(number: int, *, wait: bool = True) -> bool:
        """Take the lock, which ends with the file's being closed; say whether it was to be had."""
        try:
            fcntl.flock(number, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def sync_folder(folder: Path) -> None:
        """Make a file's being there, or not, as durable as its content."""
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Write lines durably, after whatever a crash may have left of an earlier one."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        torn = b""
        if size:
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        file.write(torn + "".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())
    if not size:
        sync_folder(path.parent)


def spool_line(item: Settle, known: Reservation) -> str:
    """Write a settlement as a line."""
    event = item.event
    row = {
        "reservation": known.to_dict(),
        "event": {
            "model": event.model,
            "cost_nanousd": event.cost_nanousd,
            "tokens": event.tokens,
            "requests": event.requests,
            "usage": None if event.usage is None else event.usage.to_dict(),
            "at_us": event.at_us,
            "flags": list(event.flags),
            "price_version": event.price_version,
            "outcome": _plain(event.outcome),
        },
    }
    return json.dumps(row, separators=(",", ":"))


def _plain(outcome: Any) -> Any:
    """Write an outcome so that the repeat of the same call compares equal."""
    if outcome is None or isinstance(outcome, (str, int)):
        return outcome
    if isinstance(outcome, Decimal):
        return {"decimal": str(outcome)}
    if isinstance(outcome, (tuple, list)):
        return {"tuple": [_plain(part) for part in outcome]}
    return {"usage": outcome.to_dict()}


def _outcome(row: Any) -> Any:
    from fluxai.core.usage import Usage

    if not isinstance(row, dict):
        return row
    if "decimal" in row:
        return Decimal(row["decimal"])
    if "tuple" in row:
        return tuple(_outcome(part) for part in row["tuple"])
    return Usage.from_dict(row["usage"])


def read_line(line: str) -> Settle:
    """Read a line.

    Raises:
        InvalidRequest: It is none of ours, or was cut off by a crash.
    """
    try:
        row = json.loads(line)
        return _settle_of(Reservation.from_json(json.dumps(row["reservation"])), row["event"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest("line", f"is no spooled settlement: {error}") from error


def _settle_of(known: Reservation, event: dict[str, Any]) -> Settle:
    from fluxai.core.usage import Usage

    return Settle(
        known.subject.tenant,
        known.uid,
        UsageEvent(
            known.uid,
            known,
            event["model"],
            event["cost_nanousd"],
            event["tokens"],
            event["requests"],
            None if event["usage"] is None else Usage.from_dict(event["usage"]),
            event["at_us"],
            tuple(event["flags"]),
            event["price_version"],
            _outcome(event["outcome"]),
        ),
    )
