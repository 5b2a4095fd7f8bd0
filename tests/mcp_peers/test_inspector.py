"""The protocol's Inspector, from the command line: with the server and the gateway, over stdio and HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from fluxai import Governor, Tool
from fluxai.mcp.keys import KeyFile
from tests.mcp_peers.programs import node, server

_CALL: Final = (
    *("--method", "tools/call", "--tool-name", "check_and_route"),
    *("--tool-arg", "tool_id=search", "estimated_units=2"),
)
_LIST: Final = ("--method", "tools/list", "--strict")
_AUTH_REQUIRED: Final = 3
_TOOL_ERROR: Final = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger that knows one tool."""
    folder = tmp_path_factory.mktemp("inspector")
    with Governor(_ledger(folder)) as governor:
        governor.tools.put(Tool(id="search", cost_per_unit="0.01"))
    return folder


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[list[str]]:
    """The Inspector's options for the server over HTTP; the last two are the token."""
    keys = place / "keys.json"
    _, token = KeyFile(keys).add(tenant="acme", user="alice")
    options = ("--db", _ledger(place), "--subjects", "open", "--keys", str(keys))
    with server(place, *options) as url:
        reached = ["--transport", "http", "--server-url", url]
        yield [*reached, "--header", f"Authorization: Bearer {token}"]


def _ledger(folder: Path) -> str:
    return f"sqlite:///{folder}/ledger.db"


def _stdio(folder: Path) -> list[str]:
    program = str(Path(sys.executable).with_name("fluxai-mcp"))
    return [program, "serve", "--db", _ledger(folder), "--subjects", "open", "--tenant", "acme"]


def _inspect(*options: str) -> subprocess.CompletedProcess[str]:
    return node("mcp-inspector", "--cli", *options)


def _answer(run: subprocess.CompletedProcess[str]) -> Any:
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)


def test_it_lists_and_calls_over_stdio(place: Path) -> None:
    """It starts the server itself, as a host does."""
    listed = _answer(_inspect(*_stdio(place), *_LIST))
    assert "check_and_route" in {tool["name"] for tool in listed["tools"]}
    called = _answer(_inspect(*_stdio(place), *_CALL))
    assert called["structuredContent"]["decision"] == "allowed"
    assert called["structuredContent"]["cost_estimate"] == "0.02"


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_it_lists_and_calls_over_http_with_a_token(era: str, served: list[str]) -> None:
    """Its check of the tools' schemas finds nothing either."""
    reached = [*served, "--protocol-era", era]
    listed = _answer(_inspect(*reached, *_LIST))
    assert "check_and_route" in {tool["name"] for tool in listed["tools"]}
    called = _answer(_inspect(*reached, *_CALL))
    assert called["structuredContent"]["decision"] == "allowed"


def test_without_a_token_it_is_told_to_authenticate(served: list[str]) -> None:
    """It ends with the exit code that it has for this, and with no answer."""
    run = _inspect(*served[:-2], *_LIST)
    assert run.returncode == _AUTH_REQUIRED, run.stdout + run.stderr


def test_an_error_of_a_tool_is_its_exit_code(served: list[str]) -> None:
    """A tool without a price is an error that says so, and no decision."""
    unknown = ("--tool-arg", "tool_id=unheard_of", "estimated_units=1")
    run = _inspect(*served, *_CALL[:-3], *unknown)
    assert run.returncode == _TOOL_ERROR, run.stdout + run.stderr
    assert "unheard_of" in run.stdout


def test_it_lists_and_calls_through_the_gateway(example_behind: str) -> None:
    """The server behind it is the SDK's example."""
    reached = ("--transport", "http", "--server-url", example_behind)
    listed = _answer(_inspect(*reached, "--method", "tools/list"))
    assert "test_simple_text" in {tool["name"] for tool in listed["tools"]}
    call = ("--method", "tools/call", "--tool-name", "test_simple_text")
    assert _answer(_inspect(*reached, *call))["content"][0]["type"] == "text"
