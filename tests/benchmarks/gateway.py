"""What the gateway adds to a tool call, beside a gateway that only passes calls on, in the same run."""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from mcp import Client

from tests.benchmarks.report import Figure, show
from tests.mcp.gateway_setup import Downstream, served

CALLS = 60
ROUNDS = 5
AGENTS = 32
BURST = 320
GOVERNED = ("governed, in memory", "governed, SQLite", "governed, SQLite, leased")
MORE_MS_MAX = 2.0
SHARE_MIN = 0.70

PASS_ON = """
import asyncio, sys
import mcp_types as types
from mcp import Client
from mcp.server.lowlevel import Server
from fluxai.mcp.http import HttpSettings, http_app, serve_http

async def main():
    async with Client(sys.argv[1], cache=None) as behind:
        async def call(ctx, params):
            return await behind.session.call_tool(params.name, params.arguments)
        listed = await behind.session.list_tools()
        async def tools(ctx, params):
            return listed
        server = Server("pass-on", version="1", on_call_tool=call, on_list_tools=tools)
        settings = HttpSettings(port=0, sse=False)
        app = http_app(server, settings, status=dict)
        started = lambda url: print(f"{url}/mcp", file=sys.stderr, flush=True)
        await serve_http(app, settings, started=started)

asyncio.run(main())
"""


@contextmanager
def _started(*arguments: str) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, line + process.stderr.read()
        yield found[0]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextmanager
def _governed(folder: Path, downstream: Downstream, database: str, **policy: Any) -> Iterator[str]:
    """Start the gateway with a budget, which each call is held in where it outlives the process."""
    from fluxai import Governor, Policy

    with Governor(database) as governor:
        governor.policies.put(
            Policy(tenant_id="default", limit_type="daily", limit_value="10000", **policy)
        )
    config = folder / f"{re.sub(r'[^a-z]+', '-', database)}.toml"
    config.write_text(
        f'database = "{database}"\n[servers.s]\nurl = "{downstream.url}"\ncost = "0.001"\n',
        encoding="utf-8",
    )
    main = "from fluxai.mcp.cli import main; main()"
    options = ("--config", str(config), "--transport", "http", "--port", "0", "--no-auth")
    with _started("-c", main, "gateway", *options) as url:
        yield url


async def _calls(client: Client, tool: str, count: int) -> list[float]:
    took = []
    for _ in range(count):
        start = time.perf_counter()
        answer = await client.session.call_tool(tool, {"q": "x"})
        took.append((time.perf_counter() - start) * 1e3)
        assert not answer.is_error
    return took


async def _burst(clients: list[Client], tool: str) -> float:
    """Return calls a second with all clients calling at once."""
    start = time.perf_counter()
    await asyncio.gather(*(_calls(client, tool, BURST // len(clients)) for client in clients))
    return BURST / (time.perf_counter() - start)


@asynccontextmanager
async def _clients(url: str, count: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Client(url, cache=None)) for _ in range(count)]


async def _measured(ways: dict[str, tuple[str, str]]) -> tuple[dict[str, float], dict[str, float]]:
    alone: dict[str, list[float]] = {name: [] for name in ways}
    together: dict[str, list[float]] = {name: [] for name in ways}
    # In turns, so that a busy machine is busy for all of them.
    for _ in range(ROUNDS):
        for name, (url, tool) in ways.items():
            async with _clients(url, 1) as (client,):
                await _calls(client, tool, 5)
                alone[name] += await _calls(client, tool, CALLS)
    for _ in range(ROUNDS):
        for name, (url, tool) in ways.items():
            async with _clients(url, AGENTS) as clients:
                together[name].append(await _burst(clients, tool))
    middle: Callable[[Any], float] = statistics.median
    return (
        {name: middle(took) for name, took in alone.items()},
        {name: middle(rates) for name, rates in together.items()},
    )


def overhead() -> None:
    """Measure calls over HTTP: direct, through a gateway that only passes on, and governed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            served(folder) as downstream,
            _started("-c", PASS_ON, downstream.url) as passing,
            _governed(folder, downstream, "memory://") as in_memory,
            _governed(folder, downstream, f"sqlite:///{folder / 'ledger.db'}") as on_disk,
            _governed(
                folder, downstream, f"sqlite:///{folder / 'leased.db'}", lease="0.1"
            ) as leased,
        ):
            ways = {
                "direct": (downstream.url, "search"),
                "passed on": (passing, "search"),
                "governed, in memory": (in_memory, "s__search"),
                "governed, SQLite": (on_disk, "s__search"),
                "governed, SQLite, leased": (leased, "s__search"),
            }
            ms, rate = asyncio.run(_measured(ways))
    figures = []
    for name, took in ms.items():
        more = took - ms["passed on"]
        judged = (f"passed on: {more:+.2f} ms", f"≤ +{MORE_MS_MAX} ms", more <= MORE_MS_MAX)
        figures.append(
            Figure(
                f"{name}, one at a time", f"{took:.2f} ms", *(judged if name in GOVERNED else ())
            )
        )
    for name, calls in rate.items():
        share = calls / rate["passed on"]
        judged = (f"passed on: {share:.0%}", f"≥ {SHARE_MIN:.0%}", share >= SHARE_MIN)
        figures.append(
            Figure(
                f"{name}, {AGENTS} at once",
                f"{calls:.0f} calls/s",
                *(judged if name in GOVERNED else ()),
            )
        )
    show(f"a tool call over HTTP; medians of {ROUNDS * CALLS} calls and {ROUNDS} bursts", figures)
