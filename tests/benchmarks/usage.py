"""`usage()` over a month of a million events."""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fluxai import Governor, Tenant, Usage
from fluxai.core.decisions import Posting, UsageEvent
from fluxai.core.ledger import Subject
from fluxai.core.windows import to_us
from fluxai.storage.base import Record
from tests.benchmarks.report import Figure, show

EVENTS = 1_000_000
BATCH = 5_000
USERS, TOOLS = 100, ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-flash", "o3")
MONTH = datetime(2026, 10, 1, tzinfo=UTC)
ASSUMED = Usage(input=92, output=50)


def _fill(governor: Governor, events: int) -> None:
    chance = random.Random(7)
    start_us = to_us(MONTH)
    span_us = 31 * 86_400_000_000
    plans: dict[tuple[str, str, int], object] = {}
    for first in range(0, events, BATCH):
        items = []
        for number in range(first, min(first + BATCH, events)):
            counted_us = start_us + span_us * number // events
            subject = Subject("acme", f"user-{chance.randrange(USERS)}")
            tool = chance.choice(TOOLS)
            posting = Posting(subject=subject, final_tool=tool, model=tool, counted_us=counted_us)
            event = UsageEvent(
                f"e{number}",
                posting,
                tool,
                1_230_000,
                142,
                1,
                ASSUMED,
                counted_us,
                (),
                None,
                number,
            )
            key = (subject.user or "", tool, counted_us // 86_400_000_000)
            plan = plans.get(key)
            if plan is None:
                plan = plans[key] = governor.planner.post_plan(posting)
            items.append(Record(event=event, plan=plan))
        governor.storage.resolve(items)
        if sys.stderr.isatty():
            print(f"\r  {first + BATCH:,} of {events:,} events", end="", file=sys.stderr)


def _p50_ms(governor: Governor) -> float:
    times = []
    for _ in range(9):
        start = time.perf_counter()
        summary = governor.usage("acme", period="month", start=MONTH)
        times.append((time.perf_counter() - start) * 1e3)
        assert summary.total_events == EVENTS
    return statistics.median(times)


def month() -> None:
    """Print how long a month's sums take, in UTC and in a zone whose days start elsewhere."""
    from fluxai.testing import FakeClock

    figures = []
    clock = FakeClock(MONTH + timedelta(days=31, hours=12))
    with tempfile.TemporaryDirectory() as folder:
        for url in ("memory://", f"sqlite:///{Path(folder) / 'month.db'}"):
            governor = Governor(url, clock=clock)
            _fill(governor, EVENTS)
            took = _p50_ms(governor)
            name = url.split(":", maxsplit=1)[0]
            figures.append(
                Figure(
                    f"usage() of a month, {name}",
                    f"{took:.1f} ms",
                    f"{EVENTS:,} events",
                    "≤ 50 ms",
                    took <= 50,
                )
            )
            if name == "sqlite":
                governor.tenants.put(Tenant(id="acme", timezone="Asia/Kolkata"))
                end = MONTH + timedelta(days=31)
                start = time.perf_counter()
                governor.usage("acme", start=MONTH + timedelta(hours=5, minutes=30), end=end)
                took = (time.perf_counter() - start) * 1e3
                figures.append(Figure("… between instants that no day begins at", f"{took:.1f} ms"))
            governor.close()
    show("usage()", figures)
