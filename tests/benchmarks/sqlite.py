"""The SQLite store at full durability: group commit against one commit per call."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fluxai import Governor, Policy, Usage
from tests.benchmarks import baseline
from tests.benchmarks.report import Figure, show

CALLERS = 64
PAIRS_EACH = 40
ASSUMED = Usage(input=92, output=50)


def _governor(folder: str, name: str) -> Governor:
    governor = Governor(f"sqlite:///{Path(folder) / name}")
    for limit_type in ("daily", "monthly", "total"):
        governor.policies.put(Policy(tenant_id="t", limit_type=limit_type, limit_value="900000"))
    return governor


def _uncombined(governor: Governor) -> None:
    """Send every verb as a batch of its own: one transaction and one commit per call."""
    storage = governor.storage
    governor._reserve_one = lambda ask: storage.reserve((ask,))[0]
    governor._resolve_one = lambda item: storage.resolve((item,))[0]


def _pairs(governor: Governor, count: int) -> None:
    for _ in range(count):
        reservation = governor.reserve(
            tenant="t", user="alice", model="gpt-4o", input_tokens=100, max_output_tokens=100
        )
        assert reservation.allowed
        governor.settle(reservation, usage=ASSUMED)


def _together(work: Callable[[], None], callers: int) -> float:
    start = threading.Barrier(callers + 1)

    def run() -> None:
        start.wait()
        work()

    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def group_commit() -> None:
    """Print rates with 64 callers and with one, combined and not."""
    with tempfile.TemporaryDirectory() as folder:
        fsync = baseline.fsync_p50_ms(folder)
        combined, alone = _governor(folder, "combined.db"), _governor(folder, "alone.db")
        _uncombined(alone)
        for governor in (combined, alone):
            _pairs(governor, 20)
        before = combined.storage.commits
        spent = _together(lambda: _pairs(combined, PAIRS_EACH), CALLERS)
        commits = combined.storage.commits - before
        verbs = CALLERS * PAIRS_EACH * 2
        spent_alone = _together(lambda: _pairs(alone, PAIRS_EACH // 4), CALLERS)
        rate, rate_alone = verbs / spent, verbs / 4 / spent_alone
        lone, lone_alone = baseline.in_turn(
            lambda: _pairs(combined, 1), lambda: _pairs(alone, 1), rounds=20, each=10
        )
        ok = combined.verify().ok and alone.verify().ok
        combined.close()
        alone.close()
    least = 10 if fsync >= 1 else 1
    show(
        f"SQLite, synchronous FULL; fsync p50 of this disk {fsync:.3f} ms",
        [
            Figure(
                "verbs/s, 64 callers",
                f"{rate:,.0f}",
                f"one commit per call {rate_alone:,.0f}: {rate / rate_alone:.1f}×",
                f"≥ {least}×",
                rate / rate_alone >= least,
            ),
            Figure(
                "verbs per commit, 64 callers",
                f"{verbs / commits:.1f}",
                f"{commits:,} commits",
                "≥ 16",
                verbs / commits >= 16,
            ),
            Figure(
                "reserve + settle, one caller (p50)",
                f"{lone:.0f} µs",
                f"uncombined {lone_alone:.0f} µs: {lone / lone_alone:.2f}×",
                "≤ 1.2×",
                lone / lone_alone <= 1.2,
            ),
            Figure("verify() of both", "ok" if ok else "NOT OK", met=ok),
        ],
    )
