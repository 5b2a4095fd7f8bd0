"""A process that is killed after `settle` returned: what it acknowledged is still there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from fluxai.cli.demo_scenes import Scene
from fluxai.cli.figures import usd
from fluxai.cli.screen import Column, Table, Text

_WAIT_S: Final = 30.0
_TENANT: Final = "crash-demo"


class Victim:
    """A process of ours that settles one call, holds money for another, and waits for its end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._process = subprocess.Popen(  # noqa: S603 -- our own module
            [sys.executable, "-m", "fluxai.cli.demo_crash", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def acknowledged(self) -> tuple[str, str]:
        """Wait for what it acknowledges: the ids of the settled and of the held call.

        Raises:
            RuntimeError: It ended without a word; says what it wrote.
        """
        assert self._process.stdout is not None  # noqa: S101 -- asked for above
        ids = [self._process.stdout.readline().strip() for _ in range(2)]
        if not all(ids):
            self._process.kill()
            _, said = self._process.communicate(timeout=_WAIT_S)
            raise RuntimeError(f"the process to be killed ended by itself: {said.strip()[-300:]}")
        return ids[0], ids[1]

    def kill(self) -> int:
        """End it at once, without a chance to tidy up; return its exit status."""
        self._process.kill()
        self._process.communicate(timeout=_WAIT_S)
        return self._process.returncode


@contextmanager
def victim() -> Iterator[Victim]:
    """Start a process on a SQLite file of its own; both are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="fluxai-demo-") as folder:
        started = Victim(f"sqlite:///{Path(folder, 'ledger.db').as_posix()}")
        try:
            yield started
        finally:
            started.kill()


def crash_safety(doomed: Victim) -> Scene:
    """Kill the process, open its file, and look for what it had acknowledged."""
    from fluxai.governor import Governor

    settled_id, held_id = doomed.acknowledged()
    status = doomed.kill()
    with Governor(doomed.url) as governor:
        survivors = {event.id: event for event in governor.events(tenant=_TENANT)}
        held = [found.id for found in governor.reservations("reserved", tenant=_TENANT)]
        report = governor.verify()
    later = datetime.now(UTC) + timedelta(hours=1)
    with Governor(doomed.url, clock=lambda: later) as governor:
        freed = governor.expire().released
    event = survivors.get(settled_id)
    ok = event is not None and held == [held_id] and report.ok and freed == 1
    return Scene(
        "crash-safety",
        "Killed in the middle of its work: nothing acknowledged is lost",
        ok,
        {
            "killed": True,
            "exit_status": status,
            "settled": settled_id,
            "survived": event is not None,
            "cost": None if event is None else str(event.cost),
            "held_after_kill": held,
            "books_balance": report.ok,
            "released_after_expiry": freed,
        },
        [
            (
                "Another process settles a call in a SQLite file, holds money for the next, and "
                "is killed (SIGKILL). Its file, opened again:"
            ),
            Table(
                (Column("What"), Column("Found", fold=True)),
                [
                    (
                        "the settled call",
                        Text("lost", "bad")
                        if event is None
                        else Text(f"there: {usd(event.cost)} on {event.tool}", "good"),
                    ),
                    ("the held call", "still held; its money is free again after 30 min"),
                    (
                        "the books",
                        Text("balance" if report.ok else "differ", "good" if report.ok else "bad"),
                    ),
                ],
            ),
        ],
    )


def _work(url: str) -> None:
    """Do what the doomed process does: settle, hold, say both, wait to be killed."""
    from fluxai.governor import Governor
    from fluxai.policy.records import Policy

    governor = Governor(url)
    governor.policies.put(
        Policy(id="crash-daily", tenant_id=_TENANT, limit_type="daily", limit_value="5.00")
    )
    call: dict[str, Any] = {
        "tenant": _TENANT,
        "model": "gpt-4o",
        "prompt": "Summarise this.",
    }
    first = governor.reserve(**call, max_output_tokens=800)
    settlement = governor.settle(
        first, {"model": "gpt-4o", "usage": {"prompt_tokens": 1_400, "completion_tokens": 620}}
    )
    second = governor.reserve(**call, max_output_tokens=800)
    sys.stdout.write(f"{settlement.event_id}\n{second.id}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _work(sys.argv[1])
