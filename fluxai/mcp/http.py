"""MCP over HTTP: Streamable HTTP at `/mcp`, legacy SSE at `/sse`, `/health` and `/status`.

In this order, for every request: is it meant for this server (Host, Origin), who is it (token),
is it small enough; then the protocol. `/health` alone asks nothing, and says nothing.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from mcp.server.lowlevel import Server
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import (
    DEFAULT_MAX_REQUEST_BODY_SIZE,
    TransportSecurityMiddleware,
    TransportSecuritySettings,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fluxai.core.errors import ConfigurationError

log = logging.getLogger("fluxai.mcp")

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
_SESSION_IDLE_S: Final = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where the server listens, and whom it answers.

    Args:
        host: The address it binds.
        port: The port; 0 takes a free one.
        verifier: Verifies the token that each request must carry; None lets everybody on this
            machine in, and is refused on any other address.
        public_url: How clients reach it, such as `https://budgets.example.com/mcp`; its host and
            origin are allowed.
        allowed_hosts: Further values of the Host header; `name:*` takes any port.
        allowed_origins: Further values of the Origin header, which browsers send.
        issuers: Authorization servers whose tokens the verifier believes, for clients to discover.
        scopes: The scopes that there are, for clients to discover.
        body_bytes_max: The largest request body.
        sessions_max: How many sessions may be open at once, of each kind of transport.
        streamable: Serve `/mcp`.
        sse: Serve `/sse`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    verifier: TokenVerifier | None = None
    public_url: str | None = None
    allowed_hosts: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()
    issuers: Sequence[str] = ()
    scopes: Sequence[str] = ()
    body_bytes_max: int = DEFAULT_MAX_REQUEST_BODY_SIZE
    sessions_max: int = 1_000
    streamable: bool = True
    sse: bool = True
    _local: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Refuse what would leave the door open.

        Raises:
            ConfigurationError: Everybody would be let in from other machines, or no Host header
                could be told from a foreign one.
        """
        local = self.host in LOOPBACK
        object.__setattr__(self, "_local", local)
        named = bool(self.public_url or self.allowed_hosts)
        if self.verifier is None and (not local or named):
            raise ConfigurationError(
                "without authentication only this machine may be served: bind 127.0.0.1 and name no "
                "public URL or host, or give keys or a JWT issuer"
            )
        if not local and not named:
            raise ConfigurationError(
                f"bound to {self.host}, it must know its own names to refuse foreign ones: give a "
                f"public URL or allowed hosts"
            )
        if self.public_url is not None and not urlsplit(self.public_url).netloc:
            raise ConfigurationError(f"the public URL {self.public_url!r} names no host")

    def security(self) -> TransportSecuritySettings:
        """Return the Host and Origin values that are answered."""
        hosts, origins = list(self.allowed_hosts), list(self.allowed_origins)
        if self._local:
            for host in _LOOPBACK_HOSTS:
                hosts += [host, f"{host}:*"]
                origins += [f"http://{host}", f"http://{host}:*"]
        if self.public_url is not None:
            parts = urlsplit(self.public_url)
            hosts.append(parts.netloc)
            origins.append(f"{parts.scheme}://{parts.netloc}")
        return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


def http_app(
    server: Server[Any], settings: HttpSettings, *, status: Callable[[], Mapping[str, Any]]
) -> Starlette:
    """Make the ASGI application that serves an MCP server.

    Args:
        server: What answers the requests; `current_identity` tells it who sent them.
        settings: Whom it answers.
        status: What `/status` adds to the versions, as JSON. Runs for each request.
    """
    manager = StreamableHTTPSessionManager(
        server,
        # Its own check of Host and Origin is off: ours runs before anybody is asked for a token.
        security_settings=None,
        max_request_body_size=settings.body_bytes_max,
        max_sessions=settings.sessions_max,
        session_idle_timeout=_SESSION_IDLE_S,
    )
    transports: dict[str, ASGIApp] = {}
    if settings.streamable:
        transports["/mcp"] = StreamableHTTPASGIApp(manager)
    if settings.sse:
        legacy = _LegacySse(server, settings)
        transports |= {"/sse": legacy, "/messages": legacy.post}

    def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        answer = {
            "status": "ok",
            "server": {"name": server.name, "version": server.version},
            "protocol_versions": [
                *MODERN_PROTOCOL_VERSIONS,
                *reversed(HANDSHAKE_PROTOCOL_VERSIONS),
            ],
            "transports": [path for path in transports if path != "/messages"],
            **status(),
        }
        await JSONResponse(answer)(scope, receive, send)

    guard = _Guard(settings)
    routes: list[BaseRoute] = [
        Route("/health", health, methods=["GET"]),
        *(
            Mount(path, guard.around(app))
            if path == "/messages"
            else Route(path, guard.around(app))
            for path, app in (transports | {"/status": told}).items()
        ),
        *guard.metadata_routes(),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    return Starlette(routes=routes, lifespan=lifespan)


class _Guard:
    """What stands before every route that does or tells anything."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._security = TransportSecurityMiddleware(settings.security())
        self._resource = (
            AnyHttpUrl(settings.public_url)
            if settings.public_url is not None and settings.issuers
            else None
        )

    def around(self, app: ASGIApp) -> ASGIApp:
        verifier = self._settings.verifier
        if verifier is not None:
            metadata = (
                None if self._resource is None else build_resource_metadata_url(self._resource)
            )
            app = RequireAuthMiddleware(app, [], metadata)
            app = AuthContextMiddleware(app)
            app = AuthenticationMiddleware(app, backend=BearerAuthBackend(verifier))
        return _MeantForUs(app, self._security)

    def metadata_routes(self) -> list[Route]:
        """Return where clients read which authorization servers there are (RFC 9728)."""
        if self._resource is None:
            return []
        return create_protected_resource_routes(
            resource_url=self._resource,
            authorization_servers=[AnyHttpUrl(issuer) for issuer in self._settings.issuers],
            scopes_supported=list(self._settings.scopes) or None,
        )


class _MeantForUs:
    """Refuses a foreign Host (421) or Origin (403): a page in a browser must not reach the server."""

    def __init__(self, app: ASGIApp, security: TransportSecurityMiddleware) -> None:
        self._app = app
        self._security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = await self._security.validate_request(Request(scope))
        await (refusal or self._app)(scope, receive, send)


class _LegacySse:
    """The transport before Streamable HTTP: a stream of events, and a path to post to."""

    def __init__(self, server: Server[Any], settings: HttpSettings) -> None:
        self._server = server
        self._sessions_max = settings.sessions_max
        self._open = 0
        self._transport = SseServerTransport(
            "/messages/", max_request_body_size=settings.body_bytes_max
        )
        self.post: ASGIApp = self._transport.handle_post_message

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            await Response(status_code=405, headers={"Allow": "GET"})(scope, receive, send)
            return
        if self._open >= self._sessions_max:
            await Response("Too many open sessions", status_code=503)(scope, receive, send)
            return
        self._open += 1
        try:
            async with self._transport.connect_sse(scope, receive, send) as (reading, writing):
                options = self._server.create_initialization_options()
                await self._server.run(reading, writing, options)
        finally:
            self._open -= 1


async def serve_http(
    app: ASGIApp, settings: HttpSettings, *, started: Callable[[str], None]
) -> None:
    """Serve an application until the process is asked to stop.

    Args:
        app: What `http_app` made.
        settings: Where to listen.
        started: Called once with the URL that clients on this machine use.

    Raises:
        ConfigurationError: The address can't be bound.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=5,
    )
    try:
        listener = socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
            backlog=config.backlog,
        )
    except OSError as error:
        raise ConfigurationError(
            f"can't listen at {settings.host}:{settings.port}: {error.strerror}"
        ) from error
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    # asyncio sends small packets at once, which answers of several parts need, only on a socket that
    # says it is TCP. `create_server` leaves that open, and each answer would wait for 40 ms.
    kind = (listener.family, listener.type, socket.IPPROTO_TCP)
    with socket.socket(*kind, fileno=listener.detach()) as listener:
        # Bound and listening: whoever connects from now on is answered.
        started(f"http://{host}:{listener.getsockname()[1]}")
        await uvicorn.Server(config).serve(sockets=[listener])
