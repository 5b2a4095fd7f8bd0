"""A small real MCP server for the gateway to stand in front of: `python gateway_downstream.py LOG`.

It writes each call that it runs to the file LOG, so that a test knows what has reached it. With
`--http PORT-FILE` it serves Streamable HTTP, on the port `--port` if given, and writes its port
there; else stdio.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp.server.lowlevel import Server

LONG = "a_tool_with_a_name_that_is_much_longer_than_clients_will_take_" + "x" * 20


def _tool(name: str, description: str) -> types.Tool:
    return types.Tool(name=name, description=description, input_schema={"type": "object"})


def make(log: Path, description: str = "Searches") -> Server[Any]:
    """Return the server."""
    # Under a tool that comes and goes, so that a test can have a server change its mind.
    subscribers: set[Any] = set()
    tools = {
        "search": description,
        "search_cheap": "Searches for less",
        "slow": "Answers after a long while",
        "report": "Reports what it cost",
        "fails": "Answers with an error result",
        "dies": "Ends the server",
        "asks": "Asks its user something",
        "writes": "Changes the notes, and tells who has subscribed to them",
        "whoami": "Says with which credential it was reached",
        LONG: "Has a long name",
    }

    async def list_tools(_: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_tool(*row) for row in tools.items()])

    async def call_tool(
        ctx: Any, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        arguments = params.arguments or {}
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{params.name} {arguments.get('q', '')}\n")
        meta: dict[str, Any] = {}
        text = f"{params.name}: {arguments.get('q', '')}"
        match params.name:
            case "slow":
                await asyncio.sleep(float(arguments.get("seconds", 30)))
            case "report":
                meta["example.com/cost"] = arguments.get("cost")
            case "writes":
                for connection in subscribers:
                    await connection.send_resource_updated("notes://all")
            case "dies":
                os._exit(3)
            case "whoami":
                token = os.environ.get("TOKEN", "none")
                request = ctx.request
                text = token if request is None else request.headers.get("authorization", "none")
            case "asks":
                question = types.ElicitRequest(
                    params=types.ElicitRequestFormParams(
                        message="Which one?",
                        requested_schema={
                            "type": "object",
                            "properties": {"which": {"type": "string"}},
                        },
                    )
                )
                asked = int(params.request_state or 0)
                if asked < arguments.get("rounds", 1) and ctx.protocol_version >= "2026":
                    return types.InputRequiredResult(
                        input_requests={"q": question}, request_state=str(asked + 1)
                    )
                if params.input_responses is None:
                    answer = await ctx.session.elicit_form(
                        "Which one?",
                        {"type": "object", "properties": {"which": {"type": "string"}}},
                        ctx.request_id,
                    )
                else:
                    answer = params.input_responses["q"]
                text = f"asks: {answer.action} {answer.content}"
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=text)],
            is_error=params.name == "fails",
            _meta=meta or None,
        )

    async def list_resources(_: Any, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(
            resources=[types.Resource(name="notes", uri="notes://all", mime_type="text/plain")]
        )

    async def read_resource(
        _: Any, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=str(params.uri), text="all notes")]
        )

    async def subscribe(ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        subscribers.add(ctx.session._connection)
        with log.open("a", encoding="utf-8") as file:
            file.write("subscribed\n")
        return types.EmptyResult()

    async def unsubscribe(ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        subscribers.discard(ctx.session._connection)
        with log.open("a", encoding="utf-8") as file:
            file.write("unsubscribed\n")
        return types.EmptyResult()

    async def list_prompts(_: Any, params: Any) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[types.Prompt(name="greet")])

    async def get_prompt(_: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        content = types.TextContent(type="text", text=f"Say hello: {params.name}")
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])

    async def complete(_: Any, params: types.CompleteRequestParams) -> types.CompleteResult:
        return types.CompleteResult(completion=types.Completion(values=[params.argument.value]))

    return Server(
        "downstream",
        version="1",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
    )


async def _stdio(server: Server[Any]) -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


async def _http(server: Server[Any], port: int, started: Callable[[int], object]) -> None:
    import uvicorn

    app = server.streamable_http_app()
    # By its protocol, so that asyncio sends small packets at once.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(512)
        started(listener.getsockname()[1])
        await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve(sockets=[listener])


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("--description", default="Searches")
    parser.add_argument("--http", type=Path)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = make(options.log, options.description)
    if options.http is None:
        asyncio.run(_stdio(server))
    else:
        asyncio.run(_http(server, options.port, lambda port: options.http.write_text(str(port))))


if __name__ == "__main__":
    main()
