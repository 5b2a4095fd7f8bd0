"""Two gateways on one PostgreSQL, and many agents: a budget admits exactly what fits."""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal
from pathlib import Path
from typing import Final

from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from fluxai import Governor, Policy
from fluxai.mcp.keys import KeyFile
from tests.mcp_peers.programs import gateway

AGENTS: Final = 200
AT_ONCE: Final = 40
COST: Final = Decimal("0.01")
LIMIT: Final = Decimal("1.00")


async def _ask(url: str, token: str, mode: str) -> bool:
    """Be one agent with one call; say whether it was let through."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, cache=None) as client,
    ):
        answer = await client.call_tool("time__get_current_time", {"timezone": "UTC"})
        return not answer.is_error


def test_a_dollar_admits_a_hundred_of_two_hundred_agents(postgres_url: str, tmp_path: Path) -> None:
    """Both eras, both gateways, four users of a tenant; and the books agree to the cent."""
    keys = KeyFile(tmp_path / "keys.json")
    tokens = [keys.add(tenant="acme", user=f"user-{number}")[1] for number in range(4)]
    with Governor(postgres_url) as governor:
        governor.policies.put(
            Policy(tenant_id="acme", limit_type="total", limit_value=LIMIT, decision="deny")
        )
    time_server = f"[servers.time]\ncommand = ['{sys.executable}', '-m', 'mcp_server_time']\n"
    config, options = f'{time_server}cost = "{COST}"\n', ("--keys", str(keys.path))

    async def run(urls: list[str]) -> list[bool]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> bool:
            async with gate:
                mode = "legacy" if number % 4 < 2 else "auto"
                return await _ask(urls[number % 2], tokens[number // 2 % 4], mode)

        return await asyncio.gather(*(one(number) for number in range(AGENTS)))

    with (
        gateway(tmp_path, config, *options, database=postgres_url, name="one") as first,
        gateway(tmp_path, config, *options, database=postgres_url, name="two") as second,
    ):
        admitted = asyncio.run(run([first, second]))
    assert sum(admitted) == LIMIT / COST
    with Governor(postgres_url) as governor:
        assert governor.usage("acme").total_cost == LIMIT
        assert not governor.reservations("reserved")
        assert governor.verify().ok
