"""The gateway as an MCP server: its lists, reads and calls, in both eras of the protocol."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import mcp_types as types
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity

import fluxai
from fluxai.async_governor import AsyncGovernor
from fluxai.core.errors import ConfigurationError, NotFound
from fluxai.mcp.gateway.calls import Calls
from fluxai.mcp.gateway.catalog import Catalog, Viewer
from fluxai.mcp.gateway.config import GatewaySettings, Terms
from fluxai.mcp.gateway.fronts import (
    ClientInFront,
    Context,
    connection_of,
    passed_meta,
    viewer_of,
)
from fluxai.mcp.gateway.links import ClientMaker, Link, LinkKey, Links, Unreachable, make_client
from fluxai.mcp.gateway.pins import PinFile
from fluxai.mcp.gateway.subscriptions import Subscriptions
from fluxai.mcp.identity import Identity, current_identity
from fluxai.policy.records import Tool

log = logging.getLogger("fluxai.mcp")

T = TypeVar("T")

NAME: Final = "fluxai-gateway"
_STATE_TTL_S: Final = 600.0


class Gateway:
    """Stands between MCP clients and MCP servers.

    Args:
        settings: The servers and their terms.
        governor: Holds the budgets.
        launch: Who asks where requests carry no token; None where each must carry one.
        state_key: The secret that seals what clients carry between the rounds of a call. Gateways
            that serve the same clients share it; without one a key of this process is used.
        make: Makes clients of servers.

    Raises:
        ConfigurationError: The pins can't be read, or the key is too short.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        governor: AsyncGovernor,
        *,
        launch: Identity | None = None,
        state_key: str | None = None,
        make: ClientMaker = make_client,
    ) -> None:
        self._settings = settings
        self._governor = governor
        self._launch = launch
        self._links = Links(
            dict(settings.servers),
            connect_timeout=settings.connect_timeout,
            retry_pause=settings.retry_pause,
            make=make,
        )
        self._links.on_notice = self._noticed
        self._catalog = Catalog(settings, self._links, pin_file(settings), on_tools=self._priced)
        self._calls = Calls(governor, self._catalog, self._links, settings)
        self._subscriptions = Subscriptions(self._links, check_every=settings.retry_pause)
        self._recorded: set[str] = set()
        self.server = self._make_server(state_key)

    def _make_server(self, state_key: str | None) -> Server[Any]:
        server: Server[Any] = Server(
            NAME,
            version=fluxai.__version__,
            instructions=(
                "Tools of several servers, under one budget. A result that was refused says so, and "
                "when to try again: until then do not retry it."
            ),
            # Else the SDK would list all tools for each call, to compare its headers with them.
            get_tool_input_schema=self._catalog.input_schema,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._unsubscribe,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
            on_completion=self._complete,
        )
        # Not by the constructor, which warns: clients of the older era still send it.
        server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, self._set_level)
        try:
            security = (
                RequestStateSecurity.ephemeral(ttl=_STATE_TTL_S)
                if state_key is None
                else RequestStateSecurity(keys=[state_key], ttl=_STATE_TTL_S)
            )
        except ValueError as error:
            raise ConfigurationError(f"{self._settings.state_key_env}: {error}") from error
        server.middleware.append(RequestStateBoundary(security, default_audience=NAME))
        return server

    def status(self) -> dict[str, Any]:
        """Say how the servers are that the one who asks may use; their names are for admins."""
        who = current_identity(self._launch)
        seen = {
            name: server
            for name, server in self._links.status(None if who.reaches_all else who.tenant).items()
            if who.reaches_all or self._catalog.may(who, self._settings.servers[name])
        }
        down = sum(server["unreachable"] is not None for server in seen.values())
        counts = {"server_count": len(seen), "unreachable_count": down}
        return {**counts, "servers": seen} if who.is_admin else counts

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold the connections for the body of an `async with` block."""
        try:
            yield
        finally:
            await self._subscriptions.close()
            await self._links.close()

    def _viewer(self, ctx: Context) -> Viewer:
        return viewer_of(ctx, current_identity(self._launch))

    # -- tools --------------------------------------------------------------------------------

    async def _list_tools(
        self, ctx: Context, _: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        # Never kept by a client for others: another identity sees other tools.
        return types.ListToolsResult(
            tools=await self._catalog.tools(self._viewer(ctx)), cache_scope="private"
        )

    async def _call_tool(
        self, ctx: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        return await self._calls.call(ctx, params, self._viewer(ctx))

    async def _priced(self, tools: dict[str, Terms]) -> None:
        """See that each tool has a record, at the price that the configuration gives it."""
        for name, terms in tools.items():
            if name in self._recorded:
                continue
            try:
                known = await self._governor.tools.get(name)
            except NotFound:
                known = None
            if known is None:
                wanted = Tool(
                    id=name, cost_per_unit=terms.cost or 0, fallback_tool_id=terms.fallback
                )
            else:
                price = known.cost_per_unit if terms.cost is None else terms.cost
                fallback = terms.fallback or known.fallback_tool_id
                wanted = known.model_copy(
                    update={"cost_per_unit": price, "fallback_tool_id": fallback}
                )
            if wanted != known:
                await self._governor.tools.put(wanted)
            self._recorded.add(name)

    # -- resources and prompts ----------------------------------------------------------------

    async def _list_resources(
        self, ctx: Context, _: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        found = await self._catalog.resources(self._viewer(ctx))
        return types.ListResourcesResult(resources=found, cache_scope="private")

    async def _list_templates(
        self, ctx: Context, _: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        found = await self._catalog.templates(self._viewer(ctx))
        return types.ListResourceTemplatesResult(resource_templates=found, cache_scope="private")

    async def _list_prompts(
        self, ctx: Context, _: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        found = await self._catalog.prompts(self._viewer(ctx))
        return types.ListPromptsResult(prompts=found, cache_scope="private")

    async def _read_resource(
        self, ctx: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult | types.InputRequiredResult:
        uri = str(params.uri)
        key = await self._resource(ctx, uri)
        return await self._asked(
            ctx,
            key,
            lambda link: link.client.session.read_resource(
                uri,
                input_responses=params.input_responses,
                request_state=params.request_state,
                meta=passed_meta(ctx),
                allow_input_required=True,
            ),
        )

    async def _subscribe(
        self, ctx: Context, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        uri = str(params.uri)
        key = await self._resource(ctx, uri)
        try:
            await self._subscriptions.add(key, uri, connection_of(ctx))
        except Unreachable as error:
            raise MCPError(types.INTERNAL_ERROR, str(error)) from error
        return types.EmptyResult()

    async def _unsubscribe(
        self, ctx: Context, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        uri = str(params.uri)
        key = await self._resource(ctx, uri)
        await self._subscriptions.remove(key, uri, connection_of(ctx))
        return types.EmptyResult()

    async def _resource(self, ctx: Context, uri: str) -> LinkKey:
        key = await self._catalog.resource(uri, self._viewer(ctx))
        if key is None:
            raise MCPError(types.INVALID_PARAMS, f"Resource not found: {uri}", {"uri": uri})
        return key

    async def _get_prompt(
        self, ctx: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult | types.InputRequiredResult:
        found = await self._catalog.prompt(params.name, self._viewer(ctx))
        if found is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
        key, name = found
        return await self._asked(
            ctx,
            key,
            lambda link: link.client.session.get_prompt(
                name,
                params.arguments,
                input_responses=params.input_responses,
                request_state=params.request_state,
                meta=passed_meta(ctx),
                allow_input_required=True,
            ),
        )

    async def _complete(
        self, ctx: Context, params: types.CompleteRequestParams
    ) -> types.CompleteResult:
        viewer, ref = self._viewer(ctx), params.ref
        key: LinkKey | None
        if isinstance(ref, types.PromptReference):
            found = await self._catalog.prompt(ref.name, viewer)
            key = None if found is None else found[0]
            if found is not None:
                ref = ref.model_copy(update={"name": found[1]})
        else:
            key = await self._catalog.template(ref.uri, viewer)
        if key is None:
            raise MCPError(types.INVALID_PARAMS, "Unknown prompt or resource")
        arguments = {params.argument.name: params.argument.value}
        context = None if params.context is None else params.context.arguments
        return await self._asked(
            ctx,
            key,
            lambda link: link.client.session.complete(
                ref=ref,
                argument={"name": params.argument.name, "value": arguments[params.argument.name]},
                context_arguments=context,
            ),
        )

    async def _set_level(
        self, ctx: Context, params: types.SetLevelRequestParams
    ) -> types.EmptyResult:
        """Pass on how much a client of the older era wants to hear, to the servers that can tell."""
        viewer = self._viewer(ctx)
        for name, server in self._settings.servers.items():
            if not self._catalog.may(viewer.identity, server):
                continue
            try:
                async with self._links.use(self._catalog.key(name, viewer)) as link:
                    if link.client.server_capabilities.logging is not None:
                        await link.client.session.send_request(
                            types.SetLevelRequest(params=params), types.EmptyResult
                        )
            except (Unreachable, MCPError) as error:
                log.info("server %r was not told a level of its log: %s", name, error)
        return types.EmptyResult()

    async def _asked(self, ctx: Context, key: LinkKey, ask: Callable[[Link], Awaitable[T]]) -> T:
        """Pass one request on that costs nothing."""
        try:
            async with self._links.use(key, ClientInFront(ctx)) as link:
                try:
                    return await ask(link)
                except MCPError as error:
                    if error.code == types.CONNECTION_CLOSED:
                        self._links.drop(link)
                    raise
        except Unreachable as error:
            raise MCPError(types.INTERNAL_ERROR, str(error)) from error

    async def _noticed(self, key: LinkKey, message: types.ServerNotification) -> None:
        """Take in that a server has changed what it offers."""
        match message:
            case types.ToolListChangedNotification():
                self._catalog.forget(key, "tools")
            case types.PromptListChangedNotification():
                self._catalog.forget(key, "prompts")
            case types.ResourceListChangedNotification():
                self._catalog.forget(key, "resources")
                self._catalog.forget(key, "templates")
            case types.ResourceUpdatedNotification(params=params):
                await self._subscriptions.updated(key, str(params.uri))
            case _:
                log.debug("server %r tells of %s", key.server, type(message).__name__)


def pin_file(settings: GatewaySettings) -> PinFile:
    """Return the pins of a gateway.

    Raises:
        ConfigurationError: They can't be read.
    """
    return PinFile(settings.pins_file or Path("servers.pins.json"), settings.pins)


def open_gateway(
    settings: GatewaySettings, *, database: str | None, launch: Identity | None
) -> tuple[Gateway, AsyncGovernor]:
    """Open a gateway and its store.

    Args:
        settings: What `read_settings` returned.
        database: The store's URL; by default the configuration's own, else `fluxai.db` here.
        launch: Who asks where requests carry no token.
    """
    url = database or settings.database or "sqlite:///fluxai.db"
    subjects: Literal["open", "registered"] = settings.subjects
    governor = AsyncGovernor(url, subjects=subjects)
    try:
        key = os.environ.get(settings.state_key_env)
        return Gateway(settings, governor, launch=launch, state_key=key), governor
    except BaseException:
        governor.governor.close()
        raise
