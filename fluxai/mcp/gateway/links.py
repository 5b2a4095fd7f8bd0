"""Connections to the servers behind the gateway: kept open, each owned by one task, apart by tenant.

An SDK client must be entered and left by the same task, so each connection has a task of its own;
calls only use it. A server that can't be reached delays nobody but those who call it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

import anyio
import mcp_types as types
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.session import ClientRequestContext, IncomingMessage
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from fluxai.core.errors import FluxAIError
from fluxai.mcp.gateway.config import Credentials, ServerSettings

log = logging.getLogger("fluxai.mcp")

Capability = Literal["elicitation", "sampling", "roots"]
_NO_LISTENER: Final = types.ErrorData(
    code=types.INVALID_REQUEST, message="nobody is there who could answer"
)


class Unreachable(FluxAIError):
    """The server can't be reached now, so nothing was sent to it."""


class Front(Protocol):
    """Whoever waits for an answer of a server, and may be asked something meanwhile."""

    async def ask(self, request: types.InputRequest) -> types.InputResponse | types.ErrorData:
        """Put a server's question to the client."""
        ...

    async def tell(self, message: types.LoggingMessageNotificationParams) -> None:
        """Pass on a line of a server's log."""
        ...


class LinkKey(NamedTuple):
    """Which connections may stand for each other.

    Attributes:
        server: The server.
        tenant: Whose credential and state it carries; empty where the server is shared.
        era: `legacy` is spoken to a client of that era; `auto` prefers the newer protocol.
        able: What the client has said that it can be asked for.
    """

    server: str
    tenant: str
    era: Literal["legacy", "auto"]
    able: frozenset[Capability]

    @property
    def view(self) -> str:
        """The kind of client that the server sees."""
        return "+".join(sorted(self.able)) or "plain"


@dataclass(eq=False)
class Link:
    """One open connection."""

    key: LinkKey
    client: Client
    #: Calls under way on it, and who waits for them.
    fronts: list[Front] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    used_at: float = 0.0
    #: Whether a server knows by it of subscriptions, which would end with it.
    carries: bool = False

    @property
    def is_modern(self) -> bool:
        """Whether the server asks by its answers, so that calls can't be mistaken for each other."""
        return self.client.protocol_version in MODERN_PROTOCOL_VERSIONS

    @property
    def has_ended(self) -> bool:
        """Whether the server has gone, so that nothing would reach it any more.

        The SDK says so only in a private field; without it, a call that meets a connection which
        ended meanwhile counts as perhaps run.
        """
        dispatcher = getattr(self.client.session, "_dispatcher", None)
        return self.closed.is_set() or bool(getattr(dispatcher, "_closed", False))

    @property
    def takes_another(self) -> bool:
        """Whether one more call may run on it at the same time.

        A server of the older era pushes its questions without saying which call they belong to. So
        where it may ask, it gets one call at a time.
        """
        return self.is_modern or not self.key.able or not self.fronts


def make_client(settings: ServerSettings, credential: Credentials, **options: Any) -> _Opening:
    """Return how to open a client of a server, with a credential of the gateway's own."""

    @asynccontextmanager
    async def opening() -> AsyncIterator[Client]:
        async with AsyncExitStack() as stack:
            if settings.command is not None:
                program, *arguments = settings.command
                transport: Any = StdioServerParameters(
                    command=program,
                    args=arguments,
                    env={**get_default_environment(), **credential.env},
                    cwd=settings.cwd,
                )
            else:
                http = create_mcp_http_client(headers=dict(credential.headers))
                await stack.enter_async_context(http)
                transport = streamable_http_client(settings.url or "", http_client=http)
            yield await stack.enter_async_context(Client(transport, cache=None, **options))

    return opening


_Opening = Callable[[], Any]
#: Makes clients; a test may pass its own.
ClientMaker = Callable[..., _Opening]


class Links:
    """All connections of a gateway.

    Args:
        servers: How to reach each server.
        connect_timeout: Seconds to wait for a connection.
        retry_pause: Seconds after which a server that could not be reached is tried again.
        make: Makes clients.
        clock: Seconds that only run forward.
    """

    def __init__(
        self,
        servers: dict[str, ServerSettings],
        *,
        connect_timeout: float,
        retry_pause: float,
        make: ClientMaker = make_client,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._connect_timeout = connect_timeout
        self._retry_pause = retry_pause
        self._make = make
        self._clock = clock
        self._links: dict[LinkKey, list[Link]] = {}
        self._opening: dict[LinkKey, asyncio.Future[Link]] = {}
        self._down_until: dict[tuple[str, str], tuple[float, str]] = {}
        self._connecting: set[anyio.CancelScope] = set()
        self._owners: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Condition()
        #: Called when a server says that one of its lists has changed, or a resource.
        self.on_notice: Callable[[LinkKey, types.ServerNotification], Awaitable[None]] | None = None

    def key(
        self, server: str, tenant: str, era: Literal["legacy", "auto"], able: frozenset[Capability]
    ) -> LinkKey:
        """Return which connections serve a tenant's client."""
        return LinkKey(server, "" if self._servers[server].shared else tenant, era, able)

    def status(self, tenant: str | None = None) -> dict[str, dict[str, Any]]:
        """Say of each server how many connections are open, and why it can't be reached if so.

        Args:
            tenant: Whose connections, beside the shared ones; None for everybody's.
        """
        found: dict[str, dict[str, Any]] = {}
        for server in self._servers:
            whose = [(server, ""), (server, tenant)]
            open_links = sum(
                len(links)
                for key, links in self._links.items()
                if key.server == server and (tenant is None or key[:2] in whose)
            )
            down = [
                why
                for where, (_, why) in self._down_until.items()
                if where[0] == server and (tenant is None or where in whose)
            ]
            found[server] = {"connections": open_links, "unreachable": down[0] if down else None}
        return found

    @asynccontextmanager
    async def use(self, key: LinkKey, front: Front | None = None) -> AsyncIterator[Link]:
        """Lend a connection for one request.

        Raises:
            Unreachable: There is none, and none can be opened now.
        """
        link = await self._take(key)
        if front is not None:
            link.fronts.append(front)
        link.used_at = self._clock()
        try:
            yield link
        finally:
            if front is not None:
                link.fronts.remove(front)
                if key.able:
                    asyncio.get_running_loop().call_soon(self._wake)

    def drop(self, link: Link) -> None:
        """Close a connection that has failed; the next call opens another."""
        kept = self._links.get(link.key, [])
        if link in kept:
            kept.remove(link)
        link.closed.set()

    async def close(self) -> None:
        """Close everything, and wait until it is closed."""
        for links in list(self._links.values()):
            for link in list(links):
                self.drop(link)
        for scope in list(self._connecting):
            scope.cancel()
        await asyncio.gather(*self._owners, return_exceptions=True)

    async def _take(self, key: LinkKey) -> Link:
        deadline = self._clock() + self._connect_timeout
        while True:
            links = self._links.setdefault(key, [])
            # The one used last first: what a server keeps by session stays with who uses it.
            for link in links[::-1]:
                if link.has_ended:
                    self.drop(link)
                elif link.takes_another:
                    return link
            if not self._full(key):
                return await self._open(key)
            left = deadline - self._clock()
            if left <= 0:
                raise Unreachable(f"all connections to server {key.server!r} are busy")
            try:
                async with asyncio.timeout(left), self._freed:
                    await self._freed.wait()
            except TimeoutError:
                continue

    def _full(self, key: LinkKey) -> bool:
        """Say whether a tenant holds all the connections that it may; close an idle one if so."""
        own = [
            link
            for other, links in self._links.items()
            if (other.server, other.tenant) == (key.server, key.tenant)
            for link in links
        ]
        if len(own) < self._servers[key.server].connections:
            return False
        idle = [link for link in own if not link.fronts and link.key != key]
        if idle:
            self.drop(min(idle, key=lambda link: (link.carries, link.used_at)))
            return False
        return True

    async def _open(self, key: LinkKey) -> Link:
        until, why = self._down_until.get((key.server, key.tenant), (0.0, ""))
        if self._clock() < until:
            raise Unreachable(f"server {key.server!r} can't be reached: {why}")
        opening = self._opening.get(key)
        if opening is None:
            opening = asyncio.get_running_loop().create_future()
            self._opening[key] = opening
            owner = asyncio.create_task(self._own(key, opening), name=f"mcp {key.server}")
            self._owners.add(owner)
            owner.add_done_callback(self._owners.discard)
        # One caller that leaves must not take the connection from the others.
        link = await asyncio.shield(opening)
        return link if link.takes_another else await self._take(key)

    async def _own(self, key: LinkKey, opening: asyncio.Future[Link]) -> None:
        """Hold one connection from its opening to its end."""
        settings = self._servers[key.server]
        link: Link | None = None
        options = self._options(key, lambda: link)
        scope = anyio.CancelScope(deadline=anyio.current_time() + self._connect_timeout)
        try:
            # A scope around all of it, whose deadline ends with the handshake. Cancelling the task
            # itself would keep the SDK from stopping the server's process.
            with scope:
                self._connecting.add(scope)
                credential = settings.credential(key.tenant)
                async with self._make(settings, credential, **options)() as client:
                    scope.deadline = float("inf")
                    self._connecting.discard(scope)
                    link = Link(key, client, used_at=self._clock())
                    self._links.setdefault(key, []).append(link)
                    self._down_until.pop((key.server, key.tenant), None)
                    self._opening.pop(key, None)
                    opening.set_result(link)
                    await link.closed.wait()
            if scope.cancelled_caught:
                self._went_down(key, "it did not answer in time")
        except Exception as error:  # noqa: BLE001 -- whatever a server or a transport does wrong
            why = _reason(error)
            if link is None:
                self._went_down(key, why)
            else:
                log.warning("a connection to server %r ended: %s", key.server, why)
        finally:
            self._opening.pop(key, None)
            self._connecting.discard(scope)
            if link is not None:
                self.drop(link)
            if not opening.done():
                why = self._down_until.get((key.server, key.tenant), (0.0, "it is being closed"))[1]
                opening.set_exception(Unreachable(f"server {key.server!r} can't be reached: {why}"))
                # Nobody may be left who waits for it.
                opening.exception()
            self._wake()

    def _went_down(self, key: LinkKey, why: str) -> None:
        """Leave a server alone for a while: it can't be reached."""
        self._down_until[key.server, key.tenant] = (self._clock() + self._retry_pause, why)
        log.warning("server %r can't be reached: %s", key.server, why)

    def _options(self, key: LinkKey, link: Callable[[], Link | None]) -> dict[str, Any]:
        """Say what a client of ours can be asked for: just what the client in front can."""

        def front() -> Front | None:
            here = link()
            # With several calls under way nobody can tell whose question it is.
            return here.fronts[0] if here is not None and len(here.fronts) == 1 else None

        async def elicit(
            _: ClientRequestContext, params: types.ElicitRequestParams
        ) -> types.ElicitResult | types.ErrorData:
            answer: types.ElicitResult | types.ErrorData = await _asked(
                front(), types.ElicitRequest(params=params), types.ElicitResult
            )
            return answer

        async def sample(_: ClientRequestContext, params: types.CreateMessageRequestParams) -> Any:
            return await _asked(
                front(),
                types.CreateMessageRequest(params=params),
                types.CreateMessageResult,
                types.CreateMessageResultWithTools,
            )

        async def roots(_: ClientRequestContext) -> types.ListRootsResult | types.ErrorData:
            answer: types.ListRootsResult | types.ErrorData = await _asked(
                front(), types.ListRootsRequest(), types.ListRootsResult
            )
            return answer

        async def logged(params: types.LoggingMessageNotificationParams) -> None:
            if (listener := front()) is not None:
                await listener.tell(params)

        async def noticed(message: IncomingMessage) -> None:
            if isinstance(message, Exception):
                log.debug("a connection to server %r complains: %r", key.server, message)
            elif self.on_notice is not None:
                await self.on_notice(key, message)

        return {
            "mode": key.era,
            "client_info": types.Implementation(name="fluxai-gateway", version=""),
            "elicitation_callback": elicit if "elicitation" in key.able else None,
            "sampling_callback": sample if "sampling" in key.able else None,
            "list_roots_callback": roots if "roots" in key.able else None,
            "logging_callback": logged,
            "message_handler": noticed,
        }

    def _wake(self) -> None:
        async def wake() -> None:
            async with self._freed:
                self._freed.notify_all()

        waking = asyncio.ensure_future(wake())
        self._owners.add(waking)
        waking.add_done_callback(self._owners.discard)


async def _asked(front: Front | None, request: types.InputRequest, *kinds: type) -> Any:
    if front is None:
        return _NO_LISTENER
    answer = await front.ask(request)
    if isinstance(answer, (types.ErrorData, *kinds)):
        return answer
    return types.ErrorData(code=types.INVALID_PARAMS, message="the answer fits another question")


def session_is_gone(error: MCPError) -> bool:
    """Say whether a server has forgotten a session, and so has not done what was asked in it."""
    said = error.message in ("Session terminated", "Session not found")
    return said and error.code == types.INVALID_REQUEST


def _reason(error: BaseException) -> str:
    """Say in a line why a connection failed, past the groups that task groups wrap around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".rstrip(": ")[:200]
