"""The spool: settlements that could not reach the store, kept on disk until they can.

A line per settlement, JSON, flushed to the disk before `keep` returns. Replaying is by id, so a
line that was settled all the same changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxai.core.decisions import Reservation, UsageEvent
from fluxai.core.errors import StorageError
from fluxai.storage.base import Settle

try:
    import fcntl
except ImportError:  # Windows: one process writes at a time by the thread lock alone
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fluxai.storage.base import Storage


def open_spool(path: str | None, storage: Storage) -> Spool | None:
    """Choose the spool of a store: the given file, or one of its own. Memory needs none."""
    if path is not None:
        return Spool(Path(path))
    if not storage.capabilities.durable:
        return None
    place = getattr(storage, "spool_path", None)
    if place is not None:
        return Spool(Path(place))
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    name = hashlib.sha256(str(getattr(storage, "url", storage)).encode()).hexdigest()[:16]
    return Spool(Path(home) / "fluxai" / f"{name}.spool")


class Spool:
    """An append-only file of settlements."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def keep(self, item: Settle, known: Reservation) -> None:
        """Write one settlement durably.

        Raises:
            StorageError: The disk refuses too; the settlement is in the error's text.
        """
        line = json.dumps(_row(item, known), separators=(",", ":"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._alone(), self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"neither the store nor the spool {self.path} could take this settlement: {line}"
            ) from error

    def replay(self, settle: Callable[[Settle], None]) -> int:
        """Settle what was kept, in order, then empty the file. Stops where the store fails again.

        Returns:
            How many were settled.
        """
        if not self.path.exists():
            return 0
        with self._alone(), self.path.open("r+", encoding="utf-8") as file:
            lines = file.readlines()
            done = 0
            try:
                for line in lines:
                    if line.endswith("\n"):
                        settle(_item(json.loads(line)))
                    done += 1
            finally:
                left = lines[done:]
                file.seek(0)
                file.writelines(left)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        return done

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads and processes away from the file."""
        with self._lock:
            if fcntl is None:
                yield
                return
            with self.path.with_name(self.path.name + ".lock").open("a") as gate:
                fcntl.flock(gate, fcntl.LOCK_EX)
                yield


def _row(item: Settle, known: Reservation) -> dict[str, Any]:
    event = item.event
    return {
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


def _item(row: dict[str, Any]) -> Settle:
    from fluxai.core.usage import Usage

    known = Reservation.from_json(json.dumps(row["reservation"]))
    event = row["event"]
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
