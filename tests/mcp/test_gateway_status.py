"""`/status` of the gateway: each sees what it may use, and names are for admins."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from mcp import Client

from fluxai.mcp.http import HttpSettings, http_app
from fluxai.mcp.identity import ADMIN, ADMIN_ALL, Identity, access_token
from tests.mcp.gateway_downstream import make
from tests.mcp.gateway_setup import client, gateway

if TYPE_CHECKING:
    from mcp.server.auth.provider import AccessToken

SERVERS: dict[str, Any] = {
    "everybodys": {"command": ["in-process"]},
    "ours": {"command": ["gone"], "tenants": ["acme"]},
    "theirs": {"command": ["in-process"], "tenants": ["globex"]},
}


class _Tokens:
    """Tokens as they are verified: `tenant scope…`."""

    async def verify_token(self, token: str) -> AccessToken | None:
        """Read who a token stands for."""
        tenant, *scopes = token.split()
        return access_token(Identity(tenant=tenant, scopes=frozenset(scopes)), token)


def _making(folder: Path) -> Any:
    """Make clients of servers in this process, but for the one that is gone."""
    server = make(folder / "log.txt")

    def making(settings: Any, _: Any, **options: Any) -> Any:
        if "gone" in settings.command:
            raise ConnectionError("it is gone")
        return lambda: Client(server, cache=None, **options)

    return making


def test_names_of_servers_are_for_admins(tmp_path: Path) -> None:
    """Of what their tenant may use, and its own connections; others are told how many."""

    async def run() -> None:
        async with gateway(tmp_path, SERVERS, make=_making(tmp_path)) as (opened, _):
            async with client(opened) as user:
                await user.list_tools()
            app = http_app(opened.server, HttpSettings(verifier=_Tokens()), status=opened.status)
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://127.0.0.1:8000"
            ) as http:

                async def status(token: str) -> Any:
                    bearer = {"authorization": f"Bearer {token}"}
                    return (await http.get("/status", headers=bearer)).json()

                member = await status("acme")
                assert (member["server_count"], member["unreachable_count"]) == (2, 1)
                assert "servers" not in member
                admin = await status(f"acme {ADMIN}")
                assert admin["servers"].keys() == {"everybodys", "ours"}
                assert admin["servers"]["everybodys"] == {"connections": 1, "unreachable": None}
                assert "it is gone" in admin["servers"]["ours"]["unreachable"]
                other = await status(f"globex {ADMIN}")
                assert (other["server_count"], other["unreachable_count"]) == (2, 0)
                assert other["servers"].keys() == {"everybodys", "theirs"}
                assert other["servers"]["everybodys"]["connections"] == 0
                of_all = await status(f"globex {ADMIN_ALL}")
                assert of_all["servers"].keys() == SERVERS.keys()
                assert of_all["servers"]["everybodys"]["connections"] == 1
                assert of_all["unreachable_count"] == 1
                assert (await http.get("/status")).status_code == 401
                assert (await http.get("/health")).json() == {"status": "ok"}

    asyncio.run(run())
