"""The client in front: what it can be asked for, and how it is asked in either era."""

from __future__ import annotations

from typing import Any, Final

import mcp_types as types
from mcp import MCPError
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from fluxai.mcp.gateway.catalog import Viewer
from fluxai.mcp.gateway.links import Capability
from fluxai.mcp.identity import Identity

Context = ServerRequestContext[Any, Any]

#: What belongs to one connection alone, and is not passed on to another.
_OWN_META: Final = ("io.modelcontextprotocol/", "progress")


def is_modern(ctx: Context) -> bool:
    """Whether the client is asked by an answer, not by a request of the server's."""
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def viewer_of(ctx: Context, identity: Identity) -> Viewer:
    """Return who asks, and what its client has declared that it can be asked for."""
    declared = ctx.session.client_capabilities
    able: set[Capability] = set()
    if declared is not None:
        if declared.elicitation is not None:
            able.add("elicitation")
        if declared.sampling is not None:
            able.add("sampling")
        if declared.roots is not None:
            able.add("roots")
    return Viewer(identity, "auto" if is_modern(ctx) else "legacy", frozenset(able))


def connection_of(ctx: Context) -> Connection:
    """Return the connection of the client, which lives as long as its session.

    The SDK has it in a private field; what it hands to a request lives no longer than that.
    """
    connection: Connection = ctx.session._connection
    return connection


def passed_meta(ctx: Context) -> Any:
    """Return what a client attached to a request and that concerns the server: such as a trace."""
    kept = {
        key: value
        for key, value in dict(ctx.meta or {}).items()
        if not key.startswith(_OWN_META) and not key.startswith("fluxai/")
    }
    return kept or None


def wants_progress(ctx: Context) -> bool:
    """Whether the client wants to hear how far a call is."""
    return "progress_token" in (ctx.meta or {})


class ClientInFront:
    """Passes a server's questions and lines of log on to the client whose call is under way."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def ask(self, request: types.InputRequest) -> types.InputResponse | types.ErrorData:
        """Put a server's question to the client, and return its answer."""
        kind: Any
        match request:
            case types.ElicitRequest():
                kind = types.ElicitResult
            case types.CreateMessageRequest(params=params):
                plain = params.tools is None and params.tool_choice is None
                kind = types.CreateMessageResult if plain else types.CreateMessageResultWithTools
            case types.ListRootsRequest():
                kind = types.ListRootsResult
        related = ServerMessageMetadata(related_request_id=self._ctx.request_id)
        try:
            answer: types.InputResponse = await self._ctx.session.send_request(
                request, kind, metadata=related
            )
        except MCPError as error:
            return error.error
        return answer

    async def tell(self, message: types.LoggingMessageNotificationParams) -> None:
        """Pass on a line of a server's log. The newer era has other means for it."""
        if not is_modern(self._ctx):
            await self._ctx.session.send_notification(
                types.LoggingMessageNotification(params=message),
                related_request_id=self._ctx.request_id,
            )
