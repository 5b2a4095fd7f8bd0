"""Is a call as fast, and a month's `usage()` still quick, when millions of events are stored?

The history is made by set-based SQL: 100 tenants over twelve months, with users, models and labels,
daily sums and resolved reservations; the measured calls go through a `Governor`.
"""

from __future__ import annotations

import os
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fluxai import Governor, Policy, Tool
from fluxai.storage.postgres import PostgresStorage
from fluxai.testing import FakeClock
from tests.benchmarks.report import Figure, show
from tests.servers.months import make_months
from tests.servers.postgres import PostgresServer

#: How many events to store, one after the other: `FLUXAI_BENCH_EVENTS=10000000` for more.
_STEPS: Final = (0, 100_000, 1_000_000)
_VARIABLE: Final = "FLUXAI_BENCH_EVENTS"
_EACH: Final = 500_000
_PAIRS: Final = 300
_YEAR: Final = 2025
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_MONTH_US: Final = 31 * 86_400_000_000

_FILL: Final = """
WITH made AS MATERIALIZED (
    SELECT g AS n, 't' || (g %% %(tenants)s) AS tenant, 'u' || (g / 100 %% 50) AS "user",
        (ARRAY['gpt-4o', 'o3', 'sonnet', 'flash', 'search'])[1 + g / 7 %% 5] AS tool,
        %(start)s + ((g - %(first)s)::numeric * %(span)s / %(count)s)::bigint AS counted_us,
        jsonb_build_object('team', 'team-' || (g %% 7)) AS labels,
        1000000 + g %% 977 AS cost, 100 + g %% 89 AS tokens
    FROM generate_series(%(first)s, %(first)s + %(count)s - 1) AS g
),
named AS MATERIALIZED (
    SELECT m.*, (lpad(to_hex(m.counted_us / 1000), 12, '0') || '7000'
        || lpad(to_hex((1::bigint << 62) + m.n), 16, '0'))::uuid AS id FROM made AS m
),
spent AS (
    INSERT INTO fluxai.events
    SELECT nextval('fluxai.event_seq'), tenant, id::text, id, counted_us, counted_us, "user", tool,
        tool, cost, tokens, 1, '{"input": 90, "output": 50}', labels, 'allowed', '[]', 'v1',
        '["usage", 90, 50]' FROM named
    RETURNING seq, tenant, counted_us, cost, tokens, labels
),
labelled AS (
    INSERT INTO fluxai.labels
    SELECT tenant, 'team=' || (labels->>'team'), counted_us, seq, cost, tokens, 1 FROM spent
),
held AS (
    INSERT INTO fluxai.reservations
    SELECT id, tenant, "user", labels, tool, tool, tool, 'allowed', 'settled', counted_us,
        counted_us + 1800000000, counted_us, cost, tokens, 1, 1, 50, '[0, 0, 90, 90, 50, 50, 1, 0]',
        'exact', NULL, NULL, NULL, '{}', NULL, '[]' FROM named
)
INSERT INTO fluxai.days AS d
SELECT tenant, counted_us / 86400000000, "user", tool, tool, sum(cost), sum(tokens), count(*), count(*)
FROM named GROUP BY 1, 2, 3, 4, 5
ON CONFLICT (tenant, day, "user", tool, model) DO UPDATE SET
    cost = d.cost + excluded.cost, tokens = d.tokens + excluded.tokens,
    requests = d.requests + excluded.requests, events = d.events + excluded.events
"""


def _fill(
    governor: Governor, first: int, count: int, *, start: int, span: int, tenants: int = 100
) -> None:
    storage = governor.storage
    assert isinstance(storage, PostgresStorage)
    with storage._pool.connection(unlimited=True) as connection:
        for low in range(first, first + count, _EACH):
            here = min(_EACH, first + count - low)
            at = start + span * (low - first) // count
            connection.execute(
                _FILL,
                {
                    "first": low,
                    "count": here,
                    "start": at,
                    "span": span * here // count,
                    "tenants": tenants,
                },
            )


def _server_cpu_s(governor: Governor) -> float:
    """Say what the ledger's connections have used of the server's processors; nothing off Linux."""
    storage = governor.storage
    assert isinstance(storage, PostgresStorage)
    with storage._pool.connection() as connection:
        pids = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'fluxai'"
        ).fetchall()
    ticks = 0
    for (pid,) in pids:
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            fields = stat.read_text(encoding="ascii").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _pair_us(governor: Governor, tenants: int) -> tuple[float, float]:
    """Return the median of a pair by the clock, and what one takes of the server's processors."""
    took = []
    before = _server_cpu_s(governor)
    for number in range(_PAIRS):
        began = time.perf_counter()
        held = governor.reserve(
            tenant=f"t{number % tenants}",
            user=f"u{number % 50}",
            tool="search",
            labels={"team": f"team-{number % 7}"},
        )
        assert held.allowed, held.message
        governor.settle(held)
        took.append(time.perf_counter() - began)
    cpu = _server_cpu_s(governor) - before
    return statistics.median(took[_PAIRS // 10 :]) * 1e6, cpu / _PAIRS * 1e6


def _usage_ms(governor: Governor, tenant: str, *, off_us: int = 0) -> tuple[float, int]:
    took, events = [], 0
    start_us = int(_NOW.timestamp() * 1e6) - _MONTH_US - off_us
    for _ in range(9):
        began = time.perf_counter()
        rows = governor.storage.usage(tenant, start_us, start_us + _MONTH_US)
        took.append(time.perf_counter() - began)
        events = sum(row.events for row in rows)
    return statistics.median(took) * 1e3, events


def _usage_figure(took: float, events: int, what: str = "") -> Figure:
    return Figure(
        f"usage() of a month{what}, {events:,} events in it",
        f"{took:.1f} ms",
        target="≤ 100 ms",
        met=took <= 100,
    )


class _Said(list[Figure]):
    """Figures, each shown at once: the whole may take half an hour, and may be broken off."""

    def append(self, figure: Figure) -> None:
        super().append(figure)
        print("  " + "; ".join(filter(None, figure[:4])), flush=True)


def growth() -> None:
    """Print what a call takes with 0, 100,000, 1,000,000 … events, and `usage()` of the last month."""
    most = int(os.environ.get(_VARIABLE, "0"))
    steps = [step for step in _STEPS if not most or step < most] + ([most] if most else [])
    settings = {"fsync": "off", "shared_buffers": "512MB", "max_wal_size": "4GB"}
    figures = _Said()
    clock = FakeClock(_NOW)
    with PostgresServer.start(settings=settings) as server:
        url = server.create_database()
        with Governor(PostgresStorage(url), clock=clock) as governor:
            for month in range(1, 13):
                make_months(url, datetime(_YEAR, month, 1, tzinfo=UTC))
            governor.tools.put(Tool(id="search", cost_per_unit="0.001"))
            for scope in ("tenant", "user", "tool", "label"):
                named = {"scope_id": "team"} if scope == "label" else {}
                for kind in ("daily", "monthly"):
                    governor.policies.put(
                        Policy(
                            tenant_id="*",
                            scope=scope,
                            limit_type=kind,
                            limit_value="90000",
                            **named,
                        )
                    )
            stored = 0
            base = 0.0
            year_us = int(datetime(_YEAR, 1, 1, tzinfo=UTC).timestamp() * 1e6)
            for step in steps:
                _fill(governor, stored, step - stored, start=year_us, span=365 * 86_400_000_000)
                stored = step
                _pair_us(governor, 100)  # counters are opened, and plans made
                pair, cpu = _pair_us(governor, 100)
                base = base or cpu
                took, events = _usage_ms(governor, "t1")
                figures.append(
                    Figure(
                        f"reserve + settle, {step:,} events stored: server CPU",
                        f"{cpu:,.0f} µs",
                        f"empty {base:,.0f} µs: {cpu / base:.2f}×; by the clock {pair:,.0f} µs",
                        "≤ 1.25×",
                        cpu / base <= 1.25,
                    )
                )
                figures.append(_usage_figure(took, events))
            # All in one month, of one tenant.
            start_us = int(_NOW.timestamp() * 1e6) - _MONTH_US
            _fill(governor, stored, stored, start=start_us, span=_MONTH_US, tenants=1)
            took, events = _usage_ms(governor, "t0")
            figures.append(_usage_figure(took, events))
            took, events = _usage_ms(governor, "t0", off_us=19_800_000_000)
            figures.append(
                _usage_figure(took, events, " between instants that no UTC day begins at")
            )
            began = time.perf_counter()
            found = governor.storage.prune(
                int(datetime(_YEAR, 2, 15, tzinfo=UTC).timestamp() * 1e6)
            )  # type: ignore[attr-defined]
            figures.append(
                Figure(
                    f"pruning {', '.join(found.months)}",
                    f"{time.perf_counter() - began:.2f} s",
                    f"{stored // 12:,} events",
                )
            )
    show("PostgreSQL: growth (fsync off: what is measured is the work, not the disk)", figures)
