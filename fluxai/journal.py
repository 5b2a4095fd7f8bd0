"""The journal of leases: what a process has leased and settled by itself, and not reported yet."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from fluxai.core.decisions import Reservation, UsageEvent
from fluxai.core.errors import FluxAIError, StorageError
from fluxai.core.ids import uuid_int, uuid_text
from fluxai.spool import append_lines, lock_file, read_line, spool_line, sync_folder
from fluxai.storage.base import Settle
from fluxai.storage.combiner import Combiner

log = logging.getLogger("fluxai")

#: A journal is written afresh when so many of its lines, and most of them, count no more.
LINES_MAX: Final = 4_096


class Journal:
    """What this process has leased and settled, and not reported: a file that it alone writes.

    The file is locked while its process lives, so that another one can tell whether it may take it
    over. It is locked before it is there under its name, and gone from there before it is let go.
    """

    def __init__(self, path: Path) -> None:
        self._base = path
        self._writer: Combiner[str, None] = Combiner(self._write)
        self.reset()

    def reset(self) -> None:
        """Begin anew, as a forked child does: what was written is its parent's."""
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._file: Any = None
        self._written = 0
        #: The lines that count still: of leases by their ids, of settlements by their events'
        #: identity, for two threads may settle one call.
        self._leases: dict[int, str] = {}
        self._settled: dict[int, str] = {}

    def opened(self, tenant: str, uid: int) -> None:
        """Note that a slice is about to be taken."""
        line = _lease_line(tenant, uid)
        with self._lock:
            self._leases[uid] = line
        self._append(line)

    def settled(self, event: UsageEvent, item: Settle, known: Reservation) -> None:
        """Note a settlement, on the disk when this returns."""
        line = spool_line(item, known)
        with self._lock:
            self._settled[id(event)] = line
        try:
            self._append(line)
        except BaseException:
            # Perhaps it is in the file all the same: then it is settled there once more, by its id.
            with self._lock:
                self._settled.pop(id(event), None)
            raise

    def reported(self, events: Sequence[UsageEvent], ended: int | None) -> None:
        """Note that the store knows of these settlements, and that a lease has ended."""
        with self._lock:
            for event in events:
                self._settled.pop(id(event), None)
            if ended is not None:
                self._leases.pop(ended, None)
            alive = len(self._leases) + len(self._settled)
            if (events and not self._settled) or self._written > LINES_MAX + 2 * alive:
                try:
                    self._renew()
                except OSError as error:
                    # What is in the file too long is settled once more at worst, by its id.
                    log.warning("a journal of leases can't be shortened yet: %s", error)

    def _append(self, line: str) -> None:
        try:
            self._writer.submit(line)
        except OSError as error:
            raise StorageError(f"the journal of leases can't be written: {error}") from error

    def _write(self, lines: Sequence[str]) -> list[None]:
        with self._lock:
            if self._path is None:
                self._renew()
            else:
                append_lines(self._path, lines)
                self._written += len(lines)
        return [None] * len(lines)

    def _renew(self) -> None:
        """Begin a file with the lines that count, if any; then the old one goes."""
        lines = [*self._leases.values(), *self._settled.values()]
        path, file = None, None
        if lines:
            self._base.parent.mkdir(parents=True, exist_ok=True)
            name = f"{self._base.name}.{os.getpid()}-{os.urandom(4).hex()}.lease"
            path = self._base.with_name(name)
            fresh = path.with_name(f"{name}.new")
            file = fresh.open("ab")
            try:
                lock_file(file.fileno())
                append_lines(fresh, lines)
                fresh.rename(path)
                sync_folder(path.parent)
            except BaseException:
                file.close()
                fresh.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                raise
        (old_path, old_file), (self._path, self._file) = (self._path, self._file), (path, file)
        self._written = len(lines)
        if old_path is not None:
            old_path.unlink(missing_ok=True)
            old_file.close()

    def reject(self, item: Settle) -> None:
        """Put aside what no store will ever take, for a person to look at; as the spool does."""
        known = item.event.source
        assert isinstance(known, Reservation)  # noqa: S101 -- a lease decides reservations
        path = self._base.with_name(f"{self._base.name}.rejected")
        try:
            append_lines(path, [spool_line(item, known)])
        except OSError as error:
            raise StorageError(f"{path} can't be written: {error}") from error

    def left_behind(
        self,
    ) -> Iterator[tuple[list[Settle], list[tuple[str, int]], Callable[[], None]]]:
        """List the journals whose processes have died, each locked while it is looked at."""
        if not self._base.parent.is_dir():
            return
        for path in sorted(self._base.parent.glob(f"{self._base.name}.*.lease")):
            if path == self._path:
                continue
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                if not lock_file(file.fileno(), wait=False) or not path.exists():
                    # Its owner lives, or has just let go of it: then it counts no more.
                    continue
                items: list[Settle] = []
                leases: list[tuple[str, int]] = []
                for line in file.read().decode("utf-8", "replace").splitlines():
                    try:
                        row = json.loads(line)
                        if "lease" in row:
                            leases.append((row["lease"]["tenant"], uuid_int(row["lease"]["id"])))
                        else:
                            items.append(read_line(line))
                    except (ValueError, KeyError, TypeError, FluxAIError) as error:
                        # The last line of a process that died while it wrote.
                        log.warning("a line of %s can't be read: %s", path, error)
                yield items, leases, partial(path.unlink, missing_ok=True)

    def close(self) -> None:
        """Close the file, and remove it where nothing is left in it."""
        self._writer.close()
        with self._lock:
            if self._path is not None and not self._leases and not self._settled:
                self._renew()
            if self._file is not None:
                self._file.close()
            self._path = self._file = None


def _lease_line(tenant: str, uid: int) -> str:
    return json.dumps({"lease": {"tenant": tenant, "id": uuid_text(uid)}}, separators=(",", ":"))
