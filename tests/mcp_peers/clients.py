"""Clients of others, each put to the same use: list the tools, and call one of them some times over."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.bootstrap import MCP_LANGCHAIN
from tests.mcp_peers.programs import environment, node

_HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Use:
    """What a client is to do: where, as whom, and which tool it calls how often."""

    url: str
    token: str
    tool: str
    arguments: dict[str, Any]
    times: int

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def words(self) -> list[str]:
        """The same for a program."""
        return [self.url, self.token, self.tool, json.dumps(self.arguments), str(self.times)]


@dataclass(frozen=True)
class Seen:
    """What a client saw: the tools, each answer's text and whether it was an error, and the version it spoke."""

    tools: list[str]
    answers: list[tuple[str, bool]]
    version: str | None = None


async def official(use: Use, mode: str) -> Seen:
    """The Python SDK."""
    async with (
        create_mcp_http_client(headers=use.headers) as http,
        Client(streamable_http_client(use.url, http_client=http), mode=mode, cache=None) as client,
    ):
        tools = [tool.name for tool in (await client.list_tools()).tools]
        results = [await client.call_tool(use.tool, use.arguments) for _ in range(use.times)]
        return Seen(tools, [_answer(result) for result in results], client.protocol_version)


async def fastmcp(use: Use) -> Seen:
    """The client of FastMCP."""
    from fastmcp import Client as FastClient

    async with FastClient(use.url, auth=use.token) as client:
        tools = [tool.name for tool in await client.list_tools()]
        results = [await client.call_tool_mcp(use.tool, use.arguments) for _ in range(use.times)]
        return Seen(tools, [_answer(result) for result in results])


async def openai_agents(use: Use) -> Seen:
    """The OpenAI Agents SDK."""
    from agents.mcp import MCPServerStreamableHttp

    params: Any = {"url": use.url, "headers": use.headers}
    async with MCPServerStreamableHttp(params, client_session_timeout_seconds=30) as server:
        tools = [tool.name for tool in await server.list_tools()]
        results = [await server.call_tool(use.tool, use.arguments) for _ in range(use.times)]
        return Seen(tools, [_answer(result) for result in results])


async def pydantic_ai(use: Use) -> Seen:
    """Pydantic AI, with an agent whose model calls the tool and then is done."""
    from pydantic_ai import Agent
    from pydantic_ai.mcp import MCPToolset
    from pydantic_ai.messages import (
        ModelMessage,
        ModelRequest,
        ModelResponse,
        RetryPromptPart,
        TextPart,
        ToolCallPart,
        ToolReturnPart,
    )
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    tools: list[str] = []

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        tools[:] = [tool.name for tool in info.function_tools]
        if sum(isinstance(message, ModelResponse) for message in messages) < use.times:
            return ModelResponse(parts=[ToolCallPart(use.tool, use.arguments)])
        return ModelResponse(parts=[TextPart("done")])

    agent = Agent(FunctionModel(model), toolsets=[MCPToolset(use.url, headers=use.headers)])
    run = await agent.run("go")
    parts = [p for m in run.all_messages() if isinstance(m, ModelRequest) for p in m.parts]
    answers = [
        (str(part.content), isinstance(part, RetryPromptPart) or part.outcome != "success")
        for part in parts
        if isinstance(part, (ToolReturnPart, RetryPromptPart))
    ]
    return Seen(tools, answers)


async def typescript(use: Use, which: str) -> Seen:
    """The SDK for TypeScript: `client-2-auto`, `client-2` or `sdk-1`."""
    script = (_HERE / "node_client.mjs").read_text(encoding="utf-8")
    return _read(await asyncio.to_thread(node, "-", which, *use.words, stdin=script))


async def langchain(use: Use) -> Seen:
    """LangChain's adapters, on the older SDK for Python."""
    command = [str(MCP_LANGCHAIN.python), str(_HERE / "langchain_client.py"), *use.words]
    return _read(
        await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, env=environment(), timeout=120
        )
    )


CLIENTS: Final[dict[str, Callable[[Use], Coroutine[Any, Any, Seen]]]] = {
    "mcp-2026": lambda use: official(use, "auto"),
    "mcp-2025": lambda use: official(use, "legacy"),
    "typescript-2-2026": lambda use: typescript(use, "client-2-auto"),
    "typescript-2-2025": lambda use: typescript(use, "client-2"),
    "typescript-1": lambda use: typescript(use, "sdk-1"),
    "fastmcp": fastmcp,
    "openai-agents": openai_agents,
    "pydantic-ai": pydantic_ai,
    "langchain": langchain,
}


def _answer(result: Any) -> tuple[str, bool]:
    refused = result.is_error if hasattr(result, "is_error") else result.isError
    return result.content[0].text, bool(refused)


def _read(run: subprocess.CompletedProcess[str]) -> Seen:
    assert run.returncode == 0, run.stdout + run.stderr
    said = json.loads(run.stdout)
    answers = [(answer["text"], answer["refused"]) for answer in said["answers"]]
    return Seen(said["tools"], answers, said["version"])
