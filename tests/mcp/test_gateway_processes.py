"""Gateways as processes of their own: many agents, several tokens, one ledger, and a crash."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from fluxai import Governor, Policy
from fluxai.mcp.keys import KeyFile
from tests.mcp.gateway_setup import Downstream, served, text_of, until

AGENTS = 200
COST = Decimal("0.01")
FITS = 100


@pytest.fixture(scope="module")
def downstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Downstream]:
    """One server behind all gateways."""
    with served(tmp_path_factory.mktemp("downstream")) as found:
        yield found


@contextmanager
def gateways(folder: Path, downstream: Downstream, count: int) -> Iterator[list[Any]]:
    """Start gateways on one ledger; yields each process and its URL."""
    config = folder / "servers.toml"
    config.write_text(
        f'database = "sqlite:///{folder / "ledger.db"}"\n'
        f'[servers.s]\nurl = "{downstream.url}"\ncost = "{COST}"\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-c", "from fluxai.mcp.cli import main; main()", "gateway"]
    command += ["--config", str(config), "--transport", "http", "--port", "0"]
    command += ["--keys", str(folder / "keys.json")]
    started: list[Any] = []
    try:
        for _ in range(count):
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            started.append((process, ""))
        for number, (process, _) in enumerate(started):
            line = process.stderr.readline()
            found = re.search(r"http://\S+", line)
            assert found is not None, line + process.stderr.read()
            started[number] = (process, found[0])
        yield started
    finally:
        for process, _ in started:
            process.kill()
            process.wait()
            process.stderr.close()


@asynccontextmanager
async def agent(url: str, key: str, mode: str) -> AsyncIterator[Client]:
    """Connect as an agent that holds a key."""
    async with create_mcp_http_client(headers={"Authorization": f"Bearer {key}"}) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, cache=None) as client:
            yield client


def _keys(folder: Path, tenants: Sequence[str]) -> list[str]:
    file = KeyFile(folder / "keys.json")
    return [file.add(tenant=tenant, user=f"user-{n}")[1] for n, tenant in enumerate(tenants)]


def test_a_budget_admits_exactly_what_fits_from_all_agents_and_gateways(
    tmp_path: Path, downstream: Downstream
) -> None:
    """200 agents with four tokens of one tenant, and one of another, through two gateways."""
    keys = _keys(tmp_path, ["acme"] * 4)
    (other,) = _keys(tmp_path, ["globex"])
    with Governor(f"sqlite:///{tmp_path / 'ledger.db'}") as governor:
        governor.policies.put(
            Policy(tenant_id="acme", limit_type="total", limit_value="1.00", decision="deny")
        )

    async def run(urls: list[str]) -> list[bool]:
        gate = asyncio.Semaphore(50)

        async def one(number: int) -> bool:
            async with gate:
                mode = "legacy" if number % 5 == 4 else "auto"
                url, key = urls[number % 2], keys[number % 4]
                async with agent(url, key, mode) as client:
                    answer = await client.call_tool("s__search", {"q": f"agent-{number}"})
                    return not answer.is_error

        admitted = await asyncio.gather(*(one(number) for number in range(AGENTS)))
        async with agent(urls[0], other, "auto") as client:
            assert not (await client.call_tool("s__search", {"q": "another-tenant"})).is_error
        return admitted

    with gateways(tmp_path, downstream, 2) as started:
        admitted = asyncio.run(run([url for _, url in started]))
    assert sum(admitted) == FITS
    reached = [downstream.reached(f"agent-{number}") for number in range(AGENTS)]
    assert reached == [int(yes) for yes in admitted]
    with Governor(f"sqlite:///{tmp_path / 'ledger.db'}") as governor:
        assert governor.usage("acme").total_cost == Decimal("1.00")
        assert governor.usage("globex").total_cost == COST
        assert governor.verify().ok


def test_a_gateway_that_is_killed_in_mid_call_loses_nothing_that_was_settled(
    tmp_path: Path, downstream: Downstream
) -> None:
    """What was answered is in the books, and what was under way is still held."""
    (key,) = _keys(tmp_path, ["acme"])

    async def run(process: Any, url: str) -> None:
        async with agent(url, key, "auto") as client:
            for number in range(5):
                answer = await client.call_tool("s__search", {"q": f"settled-{number}"})
                assert text_of(answer) == f"search: settled-{number}"
            lost = asyncio.create_task(client.call_tool("s__slow", {"q": "killed"}))
            await until(lambda: downstream.reached("killed"))
            process.kill()
            await lost

    gone = False
    with gateways(tmp_path, downstream, 1) as ((process, url),):
        try:
            asyncio.run(run(process, url))
        except* (httpx2.HTTPError, MCPError):
            gone = True
    assert gone
    with Governor(f"sqlite:///{tmp_path / 'ledger.db'}") as governor:
        assert governor.usage("acme").total_cost == 5 * COST
        (held,) = governor.reservations("reserved")
        assert held.final_tool == "s__slow"
        assert governor.verify().ok
