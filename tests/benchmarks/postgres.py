"""PostgreSQL and Supabase: many callers in common transactions, against one transaction per call.

The other side of each comparison is the same call by the same driver without company: a transaction
of its own for each verb, over a pool of 32 connections and as many callers as there are.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from fluxai import Governor, Policy, Usage
from fluxai.storage.base import Storage
from fluxai.storage.postgres import PostgresStorage
from fluxai.storage.supabase import SupabaseStorage
from tests.benchmarks import baseline
from tests.benchmarks.report import Figure, show
from tests.servers.postgres import PostgresServer, available
from tests.servers.postgrest import Postgrest, Unavailable
from tests.servers.supabase import create_supabase_database

CONNECTIONS: Final = 32
TENANTS: Final = 1_000
REPORTED: Final = Usage(input=92, output=50)
_TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Run(NamedTuple):
    """What one load showed: pairs of reserve and settle."""

    per_second: float
    #: Milliseconds that a pair took: p50, p95, p99.
    p50: float
    p95: float
    p99: float
    #: CPU of a pair in microseconds, of this process and of the server.
    client_us: float
    server_us: float

    def __str__(self) -> str:
        return (
            f"{self.per_second:,.0f} pairs/s; p50 {self.p50:.1f}, p95 {self.p95:.1f}, p99 "
            f"{self.p99:.1f} ms; CPU {self.client_us:.0f} + {self.server_us:.0f} µs"
        )


def _governor(storage: Storage) -> Governor:
    """Govern under three limits that apply to every call."""
    governor = Governor(storage, spool=Path(tempfile.mkdtemp()) / "spool")
    for scope, limit_type in (("tenant", "daily"), ("tenant", "monthly"), ("user", "daily")):
        governor.policies.put(
            Policy(tenant_id="*", scope=scope, limit_type=limit_type, limit_value="900000")  # type: ignore[arg-type]
        )
    return governor


def _alone(governor: Governor) -> None:
    """Send every verb as a batch of its own."""
    storage = governor.storage
    governor._reserve_one = lambda ask: storage.reserve((ask,))[0]
    governor._resolve_one = lambda item: storage.resolve((item,))[0]


def _load(
    governor: Governor, callers: int, pairs: int, tenants: int, server: PostgresServer
) -> Run:
    each = max(1, pairs // callers)
    start = threading.Barrier(callers + 1)
    took: list[list[float]] = [[] for _ in range(callers)]

    def call(number: int) -> None:
        start.wait()
        for turn in range(each):
            began = time.perf_counter()
            held = governor.reserve(
                tenant=f"t{(number * each + turn) % tenants}",
                user=f"u{number % 8}",
                model="gpt-4o",
                input_tokens=100,
                max_output_tokens=100,
            )
            assert held.allowed, held.message
            governor.settle(held, usage=REPORTED)
            took[number].append(time.perf_counter() - began)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    client, served = time.process_time(), _server_cpu(server)
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - began
    client, served = time.process_time() - client, _server_cpu(server) - served
    all_ms = sorted(1000 * seconds for own in took for seconds in own)
    done = len(all_ms)
    cuts = statistics.quantiles(all_ms, n=100)
    return Run(done / spent, cuts[49], cuts[94], cuts[98], 1e6 * client / done, 1e6 * served / done)


def _server_cpu(server: PostgresServer) -> float:
    """Return the CPU seconds of a server's processes, 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError):
        main = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
        total = 0.0
        for place in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = place.read_text().rpartition(")")[2].split()
                if int(fields[1]) == main or place.parent.name == str(main):
                    total += (int(fields[11]) + int(fields[12])) / _TICKS
                    if place.parent.name == str(main):
                        total += (int(fields[13]) + int(fields[14])) / _TICKS
        return total
    return 0.0


def _against(name: str, ours: Run, direct: Run, least: float) -> Figure:
    ratio = ours.per_second / direct.per_second
    return Figure(name, str(ours), f"{direct}: {ratio:.1f}×", f"≥ {least:g}×", ratio >= least)


def postgres() -> None:
    """Print rates of one hot tenant and of many, of leases, and of Supabase."""
    with PostgresServer.start(available()[0]) as server:
        with tempfile.TemporaryDirectory() as folder:
            fsync = baseline.fsync_p50_ms(folder)
        version = available()[0].version
        slow_disk = fsync >= 1
        title = f"PostgreSQL {version}, synchronous commit; fsync p50 of this disk {fsync:.3f} ms"
        show(title, [*_hot(server, slow_disk=slow_disk), *_many(server)])
        show("Leases: decisions of one process", list(_leases(server)))
        show("Supabase (PostgREST 12.0.2, supabase-py)", list(_supabase(server)))


@contextlib.contextmanager
def _both(server: PostgresServer) -> Iterator[tuple[Governor, Governor]]:
    """Open a combined governor, and one without company, each on a database of its own."""
    ours = _governor(PostgresStorage(server.create_database()))
    direct = _governor(
        PostgresStorage(server.create_database(), pool_size=CONNECTIONS, pool_timeout_s=600)
    )
    _alone(direct)
    try:
        yield ours, direct
    finally:
        ours.close()
        direct.close()


def _hot(server: PostgresServer, *, slow_disk: bool) -> Iterator[Figure]:
    with _both(server) as (ours, direct):
        for governor in (ours, direct):
            _load(governor, 1, 50, 1, server)
        lone, lone_direct = baseline.in_turn(
            lambda: _pair(ours), lambda: _pair(direct), rounds=20, each=10
        )
        yield Figure(
            "hot tenant, 1 caller (p50)",
            f"{lone:,.0f} µs",
            f"{lone_direct:,.0f} µs: {lone / lone_direct:.2f}×",
            "≤ 1.2×",
            lone / lone_direct <= 1.2,
        )
        for callers, pairs, least in (
            (32, 6_000, 8 if slow_disk else 3),
            (256, 20_000, 30 if slow_disk else 8),
        ):
            one = _load(ours, callers, pairs, 1, server)
            other = _load(direct, callers, pairs // 8, 1, server)
            yield _against(f"hot tenant, {callers} callers", one, other, least)
        ok = ours.verify().ok and direct.verify().ok
        yield Figure("verify() of both", "ok" if ok else "NOT OK", met=ok)


def _pair(governor: Governor) -> None:
    held = governor.reserve(
        tenant="t0", user="u0", model="gpt-4o", input_tokens=100, max_output_tokens=100
    )
    governor.settle(held, usage=REPORTED)


def _many(server: PostgresServer) -> Iterator[Figure]:
    with _both(server) as (ours, direct):
        for governor in (ours, direct):
            _load(governor, 32, TENANTS, TENANTS, server)
        for callers, pairs in ((32, 4_000), (256, 8_000)):
            one = _load(ours, callers, pairs, TENANTS, server)
            other = _load(direct, callers, pairs // 4, TENANTS, server)
            ratio = one.per_second / other.per_second
            yield Figure(f"1,000 tenants, {callers} callers", str(one), f"{other}: {ratio:.1f}×")


def _leases(server: PostgresServer) -> Iterator[Figure]:
    for name, url in (
        ("PostgreSQL", server.create_database()),
        ("SQLite", f"sqlite:///{tempfile.mkdtemp()}/leased.db"),
    ):
        governor = Governor(url, spool=Path(tempfile.mkdtemp()) / "spool")
        policy = Policy(tenant_id="t", limit_type="daily", limit_value="10000", lease="0.05")
        governor.policies.put(policy)
        rates = [_lease_rate(governor) for _ in range(3)]
        (seen,) = governor.budgets("t")
        within = seen.settled + seen.reserved <= seen.limit
        yield Figure(
            f"reserves/s out of a lease, {name}",
            f"{max(rates):,.0f}",
            "given back one by one",
            "≥ 50,000",
            max(rates) >= 50_000,
        )
        yield Figure(
            "the limit was not crossed, and verify()", str(within and governor.verify().ok)
        )
        governor.close()


def _lease_rate(governor: Governor, count: int = 50_000) -> float:
    spent = 0.0
    request: dict[str, Any] = {
        "tenant": "t",
        "model": "gpt-4o",
        "input_tokens": 100,
        "max_output_tokens": 10,
    }
    for _ in range(10):
        began = time.perf_counter()
        held = [governor.reserve(**request) for _ in range(count // 10)]
        spent += time.perf_counter() - began
        for one in held:
            assert one.allowed, one.message
            governor.release(one)
    return count / spent


def _supabase(server: PostgresServer) -> Iterator[Figure]:
    database = create_supabase_database(server)
    owner = PostgresStorage(database.owner_url)
    owner.migrate()
    owner.close()
    try:
        started = Postgrest.start(database, schemas=("fluxai_api",))
    except Unavailable as error:
        yield Figure("Supabase", f"not measured: {error}")
        return
    with started as api:
        ours = _governor(SupabaseStorage(api.url, key=api.service_key))
        direct = _governor(SupabaseStorage(api.url, key=api.service_key))
        _alone(direct)
        for callers, pairs in ((1, 200), (64, 3_000)):
            one = _load(ours, callers, pairs, 1, server)
            other = _load(direct, callers, max(callers, pairs // 10), 1, server)
            ratio = one.per_second / other.per_second
            yield Figure(f"hot tenant, {callers} callers", str(one), f"{other}: {ratio:.1f}×")
        ours.close()
        direct.close()
