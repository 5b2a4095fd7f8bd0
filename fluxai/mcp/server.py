"""FluxAI's MCP server: lists the tools that a caller may use, and runs them for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, ValidationError

from fluxai import __version__
from fluxai.core.errors import FluxAIError, Refused, StorageError
from fluxai.mcp.identity import Identity, current_identity
from fluxai.mcp.tools import TOOLS, GovernorTool

if TYPE_CHECKING:
    from fluxai.governor import Governor

log = logging.getLogger("fluxai.mcp")

INSTRUCTIONS: Final = """\
FluxAI keeps the budgets for paid AI calls. Before a paid call ask check_and_route and do what it \
says: call final_tool_used, or stop when it is denied; do not retry a denial. With hold=true enter \
the real cost with settle_usage afterwards. list_budgets shows what is left, estimate_cost what a \
call would cost, list_models what is cheaper. The tenant is that of your credential: leave \
tenant_id out."""


def make_server(
    governor: Governor, *, launch: Identity | None, tools: Sequence[GovernorTool[Any]] = TOOLS
) -> Server[Any]:
    """Make the server, ready for any transport.

    Args:
        governor: Holds the budgets. It stays open as long as the server runs.
        launch: Who asks where requests carry no token; None where each must carry one.
        tools: What it offers; each is listed only to those who may use it.
    """
    by_name = {tool.name: tool for tool in tools}

    async def list_tools(
        _context: ServerRequestContext[Any], _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        who = current_identity(launch)
        return types.ListToolsResult(tools=[tool.published for tool in tools if _may(who, tool)])

    async def call_tool(
        _context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = by_name.get(params.name)
        if tool is None:
            raise MCPError(code=types.INVALID_PARAMS, message=f"Unknown tool: {params.name!r:.80}")
        who = current_identity(launch)
        return await _called(governor, who, tool, params.arguments or {})

    def input_schema(name: str) -> dict[str, Any] | None:
        tool = by_name.get(name)
        return None if tool is None else tool.input_schema

    return Server(
        "fluxai",
        title="FluxAI",
        version=__version__,
        description="Budgets for AI spending: checks, reserves and settles paid calls.",
        instructions=INSTRUCTIONS,
        get_tool_input_schema=input_schema,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _may(who: Identity, tool: GovernorTool[Any]) -> bool:
    return tool.scope is None or who.is_admin or tool.scope in who.scopes


async def _called(
    governor: Governor, who: Identity, tool: GovernorTool[Any], arguments: dict[str, Any]
) -> types.CallToolResult:
    """Run a tool. What the caller can mend is an answer for the model; a defect is logged."""
    try:
        if tool.scope is not None:
            who.require(tool.scope)
        asked = tool.arguments.model_validate(arguments)
        work = partial(tool.run, governor, who, asked)
        if tool.waits:
            result = await asyncio.to_thread(work)
        elif tool.undo is None:
            result = await governor.hops.run(work)
        else:
            result = await governor.hops.hold(work, partial(tool.undo, governor))
    except ValidationError as error:
        return _failed(_invalid(error))
    except Refused as refusal:
        return _failed(f"{str(refusal).rstrip('.')}. Do not retry the same call.")
    except StorageError as error:
        log.error("%s failed: %s", tool.name, error)  # noqa: TRY400 -- the line says it all
        kept = "was kept and will be entered later" if error.spooled else "was not done"
        return _failed(f"The budget store can't be reached; this {kept}. Try again later.")
    except FluxAIError as error:
        return _failed(f"{type(error).__name__}: {error}")
    except Exception:
        # The boundary to the client: it must learn nothing of our insides, the operator everything.
        log.exception("%s failed", tool.name)
        return _failed(f"{tool.name} failed inside the server; its log says why.")
    return _succeeded(result, [] if tool.blocks is None else tool.blocks(result))


def _succeeded(result: BaseModel, blocks: list[types.ContentBlock]) -> types.CallToolResult:
    text = types.TextContent(type="text", text=result.model_dump_json(indent=2))
    return types.CallToolResult(
        content=[text, *blocks],
        structured_content=result.model_dump(mode="json"),
    )


def _failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)


def _invalid(error: ValidationError) -> str:
    faults = [
        f"{'.'.join(str(part) for part in fault['loc']) or 'arguments'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_context=False)
    ]
    return f"Invalid arguments. {'; '.join(faults)}"


async def serve_stdio(server: Server[Any]) -> None:
    """Serve over this process's stdin and stdout until the client closes them."""
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())
