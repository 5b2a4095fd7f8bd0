"""Starts the programs that the tests here put together: gateways, servers and clients."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bootstrap import ROOT
from tests.mcp_peers.bringing import EXAMPLE, NODE

FLUXAI_MCP: Final = (sys.executable, "-c", "from fluxai.mcp.cli import main; main()")
_MODULES: Final = NODE / "node_modules"
#: Node, and not the one of the machine, which may be too old for them.
NODE_PROGRAM: Final = str(_MODULES / ".bin" / "node")
#: A real server, as a command that speaks over stdio.
EVERYTHING: Final = (NODE_PROGRAM, str(_MODULES / ".bin" / "mcp-server-everything"))
_WAIT_S: Final = 60


@contextmanager
def started(
    folder: Path,
    name: str,
    command: Sequence[str],
    says: str,
    *,
    cwd: Path = ROOT,
    variables: Mapping[str, str] | None = None,
) -> Iterator[re.Match[str]]:
    """Run a program for a block, once it has said what is searched for; gives what was found."""
    said = folder / f"{name}.log"
    with said.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, cwd=cwd, env=environment(**variables or {})
        )
    try:
        deadline = time.monotonic() + _WAIT_S
        while (found := re.search(says, said.read_text(encoding="utf-8"))) is None:
            text = said.read_text(encoding="utf-8")
            assert process.poll() is None, f"{name} ended: {text}"
            assert time.monotonic() < deadline, f"{name} does not start: {text}"
            time.sleep(0.05)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(**variables: str) -> dict[str, str]:
    """Return this process's variables without settings of ours, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLUXAI_")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


@contextmanager
def example_server(folder: Path) -> Iterator[str]:
    """Serve the example of the SDK; gives its URL."""
    port = _free_port()
    command = [sys.executable, "-m", "mcp_everything_server", "--port", str(port)]
    here = {"PYTHONPATH": str(EXAMPLE)}
    with started(folder, "example", command, "Uvicorn running", variables=here):
        yield f"http://127.0.0.1:{port}/mcp"


@contextmanager
def everything_server(folder: Path) -> Iterator[str]:
    """Serve the reference server for Node over HTTP; gives its URL."""
    port = str(_free_port())
    command = [*EVERYTHING, "streamableHttp"]
    with started(folder, "everything", command, "listening on port", variables={"PORT": port}):
        yield f"http://127.0.0.1:{port}/mcp"


@contextmanager
def gateway(
    folder: Path, servers: str, *options: str, database: str = "memory://", name: str = "gateway"
) -> Iterator[str]:
    """Serve a gateway over HTTP, to this machine without a token unless options say more."""
    config = folder / f"{name}.toml"
    config.write_text(f'database = "{database}"\n{servers}', encoding="utf-8")
    command = [*FLUXAI_MCP, "gateway", "--config", str(config)]
    command += ["--transport", "http", "--port", "0"]
    command += options or ("--no-auth", "--tenant", "acme")
    with started(folder, name, command, r"Serving MCP at (\S+)") as found:
        yield found[1]


@contextmanager
def server(folder: Path, *options: str) -> Iterator[str]:
    """Serve FluxAI's own tools over HTTP."""
    command = [*FLUXAI_MCP, "serve", "--transport", "http", "--port", "0", *options]
    with started(folder, "server", command, r"serves (\S+/mcp)") as found:
        yield found[1]


def node(
    program: str, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of Node's packages to its end, or with `-` the script in `stdin`."""
    what = ["--input-type=module", "-"] if program == "-" else [str(_MODULES / ".bin" / program)]
    return subprocess.run(
        [NODE_PROGRAM, *what, *arguments],
        capture_output=True,
        text=True,
        check=False,
        # Where a script's imports are looked up.
        cwd=NODE,
        # Some keep files at home, and it should not be the user's.
        env=environment(HOME=str(NODE)),
        timeout=300,
        **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
