"""`fluxai-mcp gateway` and `fluxai-mcp pins`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fluxai.core.errors import ConfigurationError
from fluxai.mcp.commands import said
from fluxai.mcp.options import (
    DEFAULT_TENANT,
    db_option,
    http_options,
    http_settings,
    identity_options,
)

if TYPE_CHECKING:
    from fluxai.mcp.gateway.config import GatewaySettings
    from fluxai.mcp.http import HttpSettings
    from fluxai.mcp.identity import Identity

_CONFIG: Final = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("servers.toml"),
    show_default=True,
    help="The servers behind the gateway.",
)


@click.command()
@_CONFIG
@db_option
@click.option(
    "--transport",
    type=click.Choice(["stdio", "http"]),
    default="stdio",
    show_default=True,
    help="http: Streamable HTTP at /mcp.",
)
@identity_options
@http_options
@said
def gateway(
    *,
    config: Path,
    db: str | None,
    transport: str,
    tenant: str | None,
    user: str | None,
    scopes: tuple[str, ...],
    **http: Any,
) -> None:
    """Put a budget in front of other MCP servers.

    Each tool call is reserved, forwarded and settled.
    """
    from fluxai.mcp.gateway.config import read_settings
    from fluxai.mcp.identity import Identity

    settings = read_settings(config)
    served = None if transport == "stdio" else http_settings(**http, sse=False)
    launch = None
    if served is None or served.verifier is None:
        launch = Identity(tenant=tenant or DEFAULT_TENANT, user=user, scopes=frozenset(scopes))
    elif tenant or user or scopes:
        raise ConfigurationError(
            "--tenant, --user and --scope go with stdio or --no-auth; here the token says it"
        )
    try:
        asyncio.run(_serve(settings, db, launch, served))
    except KeyboardInterrupt:
        return


async def _serve(
    settings: GatewaySettings,
    db: str | None,
    launch: Identity | None,
    http: HttpSettings | None,
) -> None:
    from fluxai.mcp.gateway.server import open_gateway

    opened, governor = open_gateway(settings, database=db, launch=launch)
    async with governor, opened.running():
        if http is None:
            from mcp.server.stdio import stdio_server

            server = opened.server
            async with stdio_server() as (reading, writing):
                await server.run(reading, writing, server.create_initialization_options())
            return
        from fluxai.mcp.http import http_app, serve_http

        app = http_app(opened.server, http, status=opened.status)
        await serve_http(
            app, http, started=lambda url: click.echo(f"Serving MCP at {url}/mcp", err=True)
        )


@click.group()
def pins() -> None:
    """Show the tools behind the gateway, and trust those that wait."""


@pins.command("list")
@_CONFIG
@said
def list_pins(config: Path) -> None:
    """Show which tools are trusted, and which wait."""
    from fluxai.mcp.gateway.config import read_settings
    from fluxai.mcp.gateway.server import pin_file

    for server, kept in sorted(pin_file(read_settings(config)).read().servers.items()):
        for name in sorted(kept.tools.keys() | kept.quarantined.keys()):
            state = "waits" if name in kept.quarantined else "trusted"
            click.echo(f"{state:8} {server} {name}")


@pins.command("approve")
@_CONFIG
@click.argument("server")
@click.argument("tools", nargs=-1)
@said
def approve_pins(config: Path, server: str, tools: tuple[str, ...]) -> None:
    """Trust what waits of a SERVER: all of it, or the TOOLS named."""
    from fluxai.mcp.gateway.config import read_settings
    from fluxai.mcp.gateway.server import pin_file

    trusted = pin_file(read_settings(config)).approve(server, tools or None)
    if not trusted:
        raise ConfigurationError(f"nothing of that name waits of server {server!r}")
    for name in trusted:
        click.echo(f"trusted {server} {name}")
