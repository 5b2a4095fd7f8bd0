"""A server as operators run it: `fluxai-mcp` in a process of its own, with keys and an issuer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2
import jwt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from fluxai import Governor
from fluxai.demo_data import FREECO, PROCORP, PROCORP_ADMIN, PROCORP_USER, load_demo
from fluxai.mcp.commands import app
from fluxai.mcp.identity import ADMIN, ADMIN_ALL
from fluxai.mcp.keys import KeyFile

Mode = Literal["auto", "legacy"]
ISSUER = "https://login.example.com"
AUDIENCE = "https://budgets.example.com/mcp"
PROGRAM = (sys.executable, "-c", "from fluxai.mcp.cli import main; main()")


@dataclass(frozen=True)
class Issuer:
    """Somebody who issues JWTs, and publishes its keys in a file."""

    jwks: Path
    private: Any = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def publish(self) -> None:
        public = json.loads(RSAAlgorithm.to_jwk(self.private.public_key()))
        self.jwks.write_text(json.dumps({"keys": [public | {"kid": "one", "use": "sig"}]}))

    def token(self, *, without: tuple[str, ...] = (), **claims: Any) -> str:
        """Sign a token that is right but for what a test says."""
        whole = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "exp": int(time.time()) + 600,
            "sub": PROCORP_USER,
            "tenant": PROCORP,
        }
        kept = {name: value for name, value in (whole | claims).items() if name not in without}
        return jwt.encode(kept, self.private, algorithm="RS256", headers={"kid": "one"})


@dataclass(frozen=True)
class Serving:
    """A running server: where it is, which store it has, and keys that it knows."""

    url: str
    db: str
    keys: KeyFile
    issuer: Issuer
    freeco: str
    member: str
    admin: str
    root: str

    def connect(
        self, token: str, mode: Mode, kind: Literal["http", "sse"] = "http"
    ) -> AbstractAsyncContextManager[Client]:
        """Connect the official client, over either transport, in either era."""
        return _connected(self.url, token, mode, kind)


@asynccontextmanager
async def _connected(
    url: str, token: str, mode: Mode, kind: Literal["http", "sse"]
) -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {token}"}
    if kind == "sse":
        async with Client(sse_client(f"{url}/sse", headers=headers), mode=mode) as client:
            yield client
        return
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Serve the demo's tenants over HTTP, as two keys' tenants, an issuer, and admins."""
    folder = tmp_path_factory.mktemp("mcp")
    db = f"sqlite:///{folder}/ledger.db"
    with Governor(db) as governor:
        load_demo(governor)
    keys = KeyFile(folder / "keys.json")
    issuer = Issuer(folder / "jwks.json")
    issuer.publish()
    made = {
        "freeco": keys.add(tenant=FREECO)[1],
        "member": keys.add(tenant=PROCORP, user=PROCORP_USER)[1],
        "admin": keys.add(tenant=PROCORP, user=PROCORP_ADMIN, scopes=[ADMIN])[1],
        "root": keys.add(tenant=PROCORP, scopes=[ADMIN_ALL])[1],
    }
    options = ["--transport=http", "--port=0", f"--db={db}", f"--keys={keys.path}"]
    options += [f"--jwt-issuer={ISSUER}", f"--jwt-audience={AUDIENCE}"]
    options += [f"--jwt-jwks={issuer.jwks}"]
    with _Served(*options) as url:
        yield Serving(url=url, db=db, keys=keys, issuer=issuer, **made)


class _Served:
    """Run `fluxai-mcp` with options; gives the URL that it says it serves."""

    def __init__(self, *options: str) -> None:
        self._options = options

    def __enter__(self) -> str:
        self._process = subprocess.Popen(
            [*PROGRAM, *self._options], stderr=subprocess.PIPE, text=True, env=environment()
        )
        assert self._process.stderr is not None
        said = ""
        for line in self._process.stderr:
            said += line
            if found := re.search(r"serves (http://\S+?)/(?:mcp|sse)", line):
                return found[1]
        self.__exit__()
        raise AssertionError(f"the server ended: {said}")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.stderr is not None
        self._process.stderr.read()
        self._process.wait(timeout=30)
        self._process.stderr.close()


def environment() -> dict[str, str]:
    """Give a process our path, and none of our own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLUXAI_")}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[2])}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `fluxai-mcp` to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(),
    )


@pytest.fixture(scope="session")
def program() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line."""
    return run


@pytest.fixture
def serve() -> type[_Served]:
    """Serve with the options given for as long as a block lasts; gives the URL."""
    return _Served


@pytest.fixture
def main() -> Callable[..., tuple[int, str]]:
    """Run a command in this process; gives its exit code and all that it said."""

    def called(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, arguments)
        return result.exit_code, result.output

    return called


@pytest.fixture
def stdio() -> Callable[..., AbstractAsyncContextManager[Client]]:
    """The official client, talking to a `fluxai-mcp` that it starts with the options given."""

    @asynccontextmanager
    async def connect(*options: str, mode: Mode = "auto") -> AsyncIterator[Client]:
        command = StdioServerParameters(
            command=PROGRAM[0], args=[*PROGRAM[1:], *options], env=environment()
        )
        async with Client(stdio_client(command), mode=mode) as client:
            yield client

    return connect


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The loop that the governor's threads know."""
    return "asyncio"
