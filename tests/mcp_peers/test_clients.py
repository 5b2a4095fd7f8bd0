"""Clients of others, through the gateway to a real server: they list, they call, and they are refused."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from fluxai import Governor, Policy
from fluxai.mcp.keys import KeyFile
from tests.mcp_peers.clients import CLIENTS, Use
from tests.mcp_peers.programs import gateway

_COST: Final = Decimal("0.001")
_NOON: Final = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
#: Which version each client is known to speak; the others don't say.
_VERSIONS: Final = {
    "mcp-2026": "2026-07-28",
    "mcp-2025": "2025-11-25",
    "typescript-2-2026": "2026-07-28",
    "typescript-2-2025": "2025-11-25",
    "typescript-1": "2025-11-25",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the keys and the ledger."""
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def ledger(place: Path) -> str:
    """The store of the gateway."""
    return f"sqlite:///{place / 'ledger.db'}"


@pytest.fixture(scope="module")
def url(place: Path, ledger: str) -> Iterator[str]:
    """The URL of a gateway in front of a server that tells the time."""
    server = f"[servers.time]\ncommand = ['{sys.executable}', '-m', 'mcp_server_time']\n"
    keys = str(place / "keys.json")
    with gateway(place, f'{server}cost = "{_COST}"\n', "--keys", keys, database=ledger) as found:
        yield found


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_lists_and_calls_and_is_told_when_its_budget_is_used_up(
    name: str, url: str, place: Path, ledger: str
) -> None:
    """Two calls fit, the third is refused in words, and the books have just the two."""
    _, token = KeyFile(place / "keys.json").add(tenant=name, user="alice")
    with Governor(ledger) as governor:
        governor.policies.put(
            Policy(tenant_id=name, limit_type="total", limit_value=2 * _COST, decision="deny")
        )
    use = Use(url, token, "time__convert_time", _NOON, times=3)
    seen = asyncio.run(CLIENTS[name](use))
    assert sorted(seen.tools) == ["time__convert_time", "time__get_current_time"]
    assert [refused for _, refused in seen.answers] == [False, False, True]
    assert ["21:00" in text for text, _ in seen.answers] == [True, True, False]
    assert "do not retry" in seen.answers[2][0].lower()
    assert seen.version == _VERSIONS.get(name)
    with Governor(ledger) as governor:
        assert governor.usage(name).total_cost == 2 * _COST
        assert not governor.reservations("reserved")
        assert governor.verify().ok
