"""The commands of `fluxai-mcp`: `serve`, which a bare call means, and `keys`."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

import click

from fluxai import __version__
from fluxai.core.errors import ConfigurationError, FluxAIError, InvalidRequest
from fluxai.core.windows import parse_duration
from fluxai.mcp.options import (
    DEFAULT_DB,
    DEFAULT_KEYS,
    db_option,
    http_options,
    http_settings,
    identity_options,
    keys_option,
    launch_identity,
)

if TYPE_CHECKING:
    from fluxai.governor import Governor
    from fluxai.mcp.http import HttpSettings
    from fluxai.mcp.keys import Key

P = ParamSpec("P")


class _ServesByDefault(click.Group):
    """Takes a call that names no command, with or without options, for `serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = ("-h", "--help", "-V", "--version")
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ServesByDefault, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="fluxai-mcp")
def app() -> None:
    """FluxAI over MCP: budgets that an agent can ask.

    Without a command it serves over stdio, as hosts start it: fluxai-mcp --tenant acme.
    """


def said(function: Callable[P, None]) -> Callable[P, None]:
    """End a command whose setup can't work with one line that says what to do."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except FluxAIError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)

    return run


@app.command()
@db_option
@click.option(
    "--transport",
    type=click.Choice(["stdio", "http", "streamable-http", "sse"]),
    default="stdio",
    show_default=True,
    help="http, or streamable-http: that at /mcp, and the older SSE at /sse. sse: only that.",
)
@identity_options
@http_options
@click.option(
    "--subjects",
    type=click.Choice(["registered", "open"]),
    default="registered",
    show_default=True,
    help="open: tenants and users need no record.",
)
@click.option("--demo", is_flag=True, help="Load the demo's tenants; in memory, without --db.")
@click.option(
    "--log-level",
    type=click.Choice(["error", "warning", "info", "debug"]),
    default="warning",
    show_default=True,
    help="What goes to stderr; info says why tokens are refused.",
)
@said
def serve(
    *,
    db: str | None,
    transport: str,
    tenant: str | None,
    user: str | None,
    scopes: tuple[str, ...],
    subjects: Literal["registered", "open"],
    demo: bool,
    log_level: str,
    **http: Any,
) -> None:
    """Serve the tools over stdio or HTTP.

    Ends when the client closes it, or with Ctrl-C.
    """
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    if demo and tenant is None and (transport == "stdio" or http["no_auth"]):
        from fluxai.demo_data import PROCORP

        tenant = PROCORP
    settings = None
    if transport != "stdio":
        settings = http_settings(**http, streamable=transport != "sse")
        if settings.verifier is not None and (tenant or user or scopes):
            raise ConfigurationError(
                "--tenant, --user and --scope go with stdio or --no-auth; here the token says it"
            )
    from fluxai.governor import Governor

    url = db or ("memory://" if demo else DEFAULT_DB)
    with Governor(url, subjects=subjects) as governor:
        if demo:
            from fluxai.demo_data import load_demo

            load_demo(governor)
        _serve(governor, settings, tenant=tenant, user=user, scopes=scopes)


def _serve(governor: Governor, settings: HttpSettings | None, **launch: Any) -> None:
    import anyio

    from fluxai.mcp.server import make_server, serve_stdio

    local = settings is None or settings.verifier is None
    identity = launch_identity(governor, **launch) if local else None
    server = make_server(governor, launch=identity)
    if settings is None:
        anyio.run(serve_stdio, server)
        return
    from fluxai.mcp.http import http_app, serve_http

    subjects = "registered" if governor.planner.registered else "open"
    http = http_app(server, settings, status=lambda: {"subjects": subjects})

    def started(url: str) -> None:
        paths = " and ".join(
            f"{url}{path}"
            for path, on in (("/mcp", settings.streamable), ("/sse", settings.sse))
            if on
        )
        click.echo(f"FluxAI {__version__} serves {paths}", err=True)

    anyio.run(partial(serve_http, http, settings, started=started))


@app.group()
def keys() -> None:
    """Make, list and revoke the keys of an HTTP server."""


@keys.command("add")
@click.option("--tenant", required=True, metavar="ID", help="Whose budgets it reaches.")
@click.option("--user", metavar="ID", help="Which user it acts as; else any user of the tenant.")
@click.option(
    "--scope", "scopes", multiple=True, metavar="SCOPE", help="Such as fluxai:admin. Repeatable."
)
@click.option("--expires", metavar="SPAN", help="After a time such as 90d; else never.")
@keys_option
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")
@said
def add_key(
    *,
    tenant: str,
    user: str | None,
    scopes: tuple[str, ...],
    expires: str | None,
    keys: Path | None,
    as_json: bool,
) -> None:
    """Make a key, show it once, and keep its hash."""
    from fluxai.mcp.keys import KeyFile

    file = KeyFile(keys or DEFAULT_KEYS)
    ends = None if expires is None else int(time.time()) + _seconds(expires)
    key, shown = file.add(tenant=tenant, user=user, scopes=scopes, expires_at=ends)
    if as_json:
        click.echo(json.dumps({"key": shown, **_row(key)}, indent=2))
        return
    click.echo(f"Key {key.id} was added to {file.path}. It is shown this once:", err=True)
    click.echo(shown)


@keys.command("list")
@keys_option
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")
@said
def list_keys(*, keys: Path | None, as_json: bool) -> None:
    """List the keys: for whom they are, never the keys themselves."""
    from fluxai.mcp.keys import KeyFile

    found = KeyFile(keys or DEFAULT_KEYS).list()
    if as_json:
        click.echo(json.dumps({"keys": [_row(key) for key in found]}, indent=2))
        return
    for key in found:
        parts = [key.id, key.tenant, key.user or "-", " ".join(key.scopes) or "-"]
        if key.expires_at is not None:
            parts.append(f"until {datetime.fromtimestamp(key.expires_at, UTC):%Y-%m-%d %H:%M} UTC")
        click.echo("  ".join(parts))


@keys.command("revoke")
@click.argument("key_id")
@keys_option
@said
def revoke_key(*, key_id: str, keys: Path | None) -> None:
    """Revoke the key KEY_ID; running servers refuse it at once."""
    from fluxai.mcp.keys import KeyFile

    key = KeyFile(keys or DEFAULT_KEYS).revoke(key_id)
    click.echo(f"Key {key.id} of tenant {key.tenant} was revoked.")


def _seconds(span: str) -> int:
    try:
        return parse_duration(span) // 1_000_000
    except InvalidRequest as error:
        raise click.UsageError(f"--expires: {span!r:.40} is no time such as 90d or 12h") from error


def _row(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "user": key.user,
        "scopes": list(key.scopes),
        "expires_at": key.expires_at,
    }
