"""The pages about the MCP server name all of it, and the files for hosts are such as work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from fluxai.mcp.commands import app, serve
from fluxai.mcp.tools import TOOLS

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference" / "mcp.md").read_text(encoding="utf-8")
HOWTO = (ROOT / "docs" / "how-to" / "run-the-mcp-server.md").read_text(encoding="utf-8")
FILES = sorted((ROOT / "examples" / "mcp").glob("*.json"))


def test_the_reference_names_every_tool_and_argument() -> None:
    """A tool or argument that is added is written down."""
    for tool in TOOLS:
        assert f"`{tool.name}`" in REFERENCE
        if tool.name != "set_policy":  # its fields are those of a policy
            missing = [name for name in tool.arguments.model_fields if f"`{name}`" not in REFERENCE]
            assert missing == []


def _commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from _commands(command)
        else:
            yield command


def test_the_reference_names_every_option_and_variable() -> None:
    """An option that is added is written down, with its environment variable."""
    missing = []
    for command in _commands(app):
        for option in command.params:
            if not isinstance(option, click.Option):
                continue
            names = [*option.opts, *([option.envvar] if isinstance(option.envvar, str) else [])]
            missing += [name for name in names if not re.search(rf"`{name}[` ]", REFERENCE)]
    assert missing == []


def _starts(value: Any) -> Iterator[list[str]]:
    """Find what a host's file starts our program with."""
    if isinstance(value, dict):
        if value.get("command") == "fluxai-mcp":
            yield value["args"] if "args" in value else value["arguments"]
        for part in value.values():
            yield from _starts(part)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_hosts_file_can_be_used(file: Path) -> None:
    """It is JSON, is shown in the how-to, and starts the program with options that there are."""
    registered = json.loads(file.read_text(encoding="utf-8"))
    assert file.name in HOWTO
    starts = list(_starts(registered))
    assert starts or "https://budgets.example.com/mcp" in json.dumps(registered)
    for arguments in starts:
        context = serve.make_context("serve", list(arguments))
        assert context.params["transport"] == "stdio"


def test_the_page_shows_the_file_that_is_shipped() -> None:
    """What the how-to shows for Claude Desktop is the file in the examples."""
    shown = re.search(r"```json\n(.*?)```", HOWTO, re.DOTALL)
    assert shown is not None
    file = ROOT / "examples" / "mcp" / "claude_desktop_config.json"
    assert json.loads(shown[1]) == json.loads(file.read_text(encoding="utf-8"))
