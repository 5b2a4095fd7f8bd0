"""A gateway for tests: real parts, in this process, with what each test changes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp import Client

from fluxai import AsyncGovernor, Policy
from fluxai.mcp.gateway.config import GatewaySettings
from fluxai.mcp.gateway.links import ClientMaker, make_client
from fluxai.mcp.gateway.server import Gateway
from fluxai.mcp.identity import Identity

DOWNSTREAM = Path(__file__).with_name("gateway_downstream.py")
ACME = Identity(tenant="acme", user="alice")
WAIT_S = 30


@dataclass
class Downstream:
    """A server behind the gateway, and what has reached it."""

    url: str
    log: Path

    def reached(self, q: str) -> int:
        """Say how often a call with this argument has reached it."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return sum(line.endswith(f" {q}") for line in lines)


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[Downstream]:
    """Serve the downstream over HTTP, in a process of its own."""
    log, port = folder / "reached.txt", folder / "port.txt"
    command = [sys.executable, str(DOWNSTREAM), str(log), "--http", str(port), *arguments]
    process = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{wait_for_text(port, process)}/mcp"
        yield Downstream(url, log)
    finally:
        process.kill()
        process.wait()


def wait_for_text(path: Path, process: subprocess.Popen[Any]) -> str:
    """Wait until a process has written a file."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and (text := path.read_text(encoding="utf-8")):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path.name} was not written")


def stdio(log: Path, *arguments: str, **more: Any) -> dict[str, Any]:
    """Return the settings of the downstream as a command."""
    return {"command": [sys.executable, str(DOWNSTREAM), str(log), *arguments], **more}


@asynccontextmanager
async def gateway(
    folder: Path,
    servers: dict[str, Any],
    *policies: Policy,
    governor: AsyncGovernor | None = None,
    launch: Identity = ACME,
    state_key: str | None = None,
    make: ClientMaker = make_client,
    **settings: Any,
) -> AsyncIterator[tuple[Gateway, AsyncGovernor]]:
    """Open a gateway in this process."""
    raw = {"servers": servers, "pins_file": str(folder / "pins.json"), **settings}
    read = GatewaySettings.model_validate(raw)
    async with governor or AsyncGovernor() as held:
        for policy in policies:
            await held.policies.put(policy)
        opened = Gateway(read, held, launch=launch, state_key=state_key, make=make)
        async with opened.running():
            yield opened, held
        assert (await held.verify()).ok
        assert not await held.reservations("reserved")


def client(opened: Gateway, mode: str = "auto", **options: Any) -> Client:
    """Return a client of a gateway in this process."""
    return Client(opened.server, mode=mode, cache=None, **options)


def text_of(result: types.CallToolResult) -> str:
    """Return the text of a result."""
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


def decision_of(result: types.CallToolResult) -> dict[str, Any]:
    """Return what a result says of the decision about its call."""
    found: dict[str, Any] = dict(result.meta or {})["fluxai/decision"]
    return found


async def until(condition: Any) -> None:
    """Wait until something holds that another process brings about."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 -- another process can set no event of ours
            await asyncio.sleep(0.02)
