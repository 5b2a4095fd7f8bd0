"""What the tests with others' servers and clients share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bootstrap import MCP
from tests.mcp_peers.programs import example_server, gateway


@pytest.fixture(scope="session", autouse=True)
def brought() -> None:
    """Skip where the servers and clients of others are not."""
    if Path(sys.prefix).resolve() != MCP.venv.resolve():
        pytest.skip("these have an environment of their own: python3 -m tests mcp")


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the example server of the SDK."""
    with example_server(tmp_path_factory.mktemp("example")) as url:
        yield url


@pytest.fixture(scope="session")
def example_behind(example: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a gateway before it, which has no policy and changes no name."""
    folder = tmp_path_factory.mktemp("gateway")
    with gateway(folder, f'[servers.example]\nurl = "{example}"\nprefix = ""\n') as url:
        yield url
