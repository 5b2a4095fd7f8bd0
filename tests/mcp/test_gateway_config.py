"""`servers.toml`: what is wrong is named, secrets come from the environment."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from fluxai import ConfigurationError
from fluxai.mcp.gateway.config import read_settings
from fluxai.mcp.gateway.costs import units_of

GOOD = """
[servers.search]
url = "https://search.example/mcp"
cost = "0.01"
tenants = ["acme", "globex"]
headers = { Authorization = "Bearer ${SEARCH_TOKEN}" }

[servers.search.credentials.globex]
headers = { Authorization = "Bearer ${GLOBEX_TOKEN}" }

[servers.search.tools.deep]
cost = "0.25"
units = "pages"
fallback = "search__plain"
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "servers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_tool_has_its_own_terms_over_those_of_its_server(tmp_path: Path) -> None:
    """What the tool does not say, the server says."""
    variables = {"SEARCH_TOKEN": "one", "GLOBEX_TOKEN": "two"}
    settings = read_settings(_write(tmp_path, GOOD), variables)
    server = settings.servers["search"]
    deep, other = server.terms("deep"), server.terms("other")
    assert (deep.cost, deep.fallback, deep.tenants) == (
        Decimal("0.25"),
        "search__plain",
        ("acme", "globex"),
    )
    assert (other.cost, other.units) == (Decimal("0.01"), None)
    assert server.credential("acme").headers == {"Authorization": "Bearer one"}
    assert server.credential("globex").headers == {"Authorization": "Bearer two"}
    assert settings.pins_file == tmp_path / "servers.pins.json"


@pytest.mark.parametrize(
    ("arguments", "units"),
    [
        ({"pages": 3}, 3),
        ({"pages": ["a", "b"]}, 2),
        ({"pages": -1}, 1),
        ({}, 1),
        ({"pages": 1.2}, 2),
    ],
)
def test_units_may_come_from_an_argument(
    tmp_path: Path, arguments: dict[str, object], units: int
) -> None:
    """A number counts, a list counts its items, and nonsense is one unit."""
    variables = {"SEARCH_TOKEN": "one", "GLOBEX_TOKEN": "two"}
    settings = read_settings(_write(tmp_path, GOOD), variables)
    assert units_of(settings.servers["search"].terms("deep"), arguments, {}) == units


def _two(one: str, other: str) -> str:
    return f'[servers.a]\ncommand = ["x"]\n{one}\n[servers.b]\ncommand = ["y"]\n{other}'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[servers]", "servers"),
        ("[servers.a]", "servers.a: .*either command or url"),
        ('[servers.a]\nurl = "x"', "servers.a: .*http"),
        (
            '[servers.a]\ncommand = "py x.py"',
            r"servers.a.command: .*list, such as \['py', 'x.py'\]",
        ),
        ('[servers.a]\ncommand = ["x"]\ncost = 0.1', "servers.a.cost: .*quotes"),
        ('[servers.a]\ncommand = ["x"]\nprize = "1"', "servers.a.prize: Extra"),
        ('[servers.a__b]\ncommand = ["x"]', "a__b"),
        ('[servers.a]\nurl = "https://x"\nheaders = { A = "${NOT_SET}" }', "headers.A: .*NOT_SET"),
        (_two('prefix = "x"', 'prefix = "x"'), "same prefix"),
        (_two('prefix = ""', 'prefix = ""'), "same prefix"),
        (_two("", 'prefix = "a__b"'), "prefix 'a__b' must be like"),
        (_two('prefix = ""', 'prefix = "a"'), "prefix of 'b' is the name of another"),
        ("servers = ", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    """The message leads to the field."""
    with pytest.raises(ConfigurationError, match=named):
        read_settings(_write(tmp_path, text), {})
