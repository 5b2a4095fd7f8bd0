"""Servers of others behind the gateway: what they offer and answer comes through as it is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.mcp_peers.programs import EVERYTHING, environment, everything_server, gateway

_MODES: Final = ("auto", "legacy")
_TIME: Final = (sys.executable, "-m", "mcp_server_time")
_SUM: Final = {"a": 2, "b": 40}


@pytest.fixture(scope="module")
def everything_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The reference server for Node, over HTTP."""
    with everything_server(tmp_path_factory.mktemp("everything")) as url:
        yield url


@pytest.fixture(scope="module")
def url(everything_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway in front of three servers: two over stdio, one over HTTP."""
    servers = (
        f"[servers.time]\ncommand = {list(_TIME)}\n"
        f"[servers.local]\ncommand = {[*EVERYTHING, 'stdio']}\n"
        f'[servers.remote]\nurl = "{everything_url}"\n'
    )
    with gateway(tmp_path_factory.mktemp("gateway"), servers) as found:
        yield found


@asynccontextmanager
async def _direct(
    server: str, everything_url: str, mode: str, **able: Any
) -> AsyncIterator[Client]:
    command = {"time": _TIME, "local": (*EVERYTHING, "stdio")}.get(server)
    target: Any = (
        streamable_http_client(everything_url)
        if command is None
        else StdioServerParameters(command=command[0], args=list(command[1:]), env=environment())
    )
    async with Client(target, mode=mode, cache=None, **able) as client:
        yield client


async def _answering(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "Ada"})


async def _sampling(_: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    said = types.TextContent(type="text", text="sampled by the client")
    return types.CreateMessageResult(role="assistant", content=said, model="none")


def _bare(tool: types.Tool, mode: str) -> dict[str, Any]:
    # Whether it may run as a task is said in the older protocol alone.
    return tool.model_dump(exclude={"name", "execution"} if mode == "auto" else {"name"})


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("server", ["time", "local", "remote"])
def test_the_tools_of_a_server_are_the_same_through_the_gateway(
    server: str, mode: str, url: str, everything_url: str
) -> None:
    """Names apart from their prefix, descriptions, schemas and annotations."""

    async def run() -> tuple[list[types.Tool], list[types.Tool]]:
        async with _direct(server, everything_url, mode) as client:
            direct = (await client.list_tools()).tools
        async with Client(streamable_http_client(url), mode=mode, cache=None) as client:
            through = (await client.list_tools()).tools
        return direct, through

    direct, through = asyncio.run(run())
    mine = {tool.name: tool for tool in through if tool.name.startswith(f"{server}__")}
    assert direct
    assert set(mine) == {f"{server}__{tool.name}" for tool in direct}
    for tool in direct:
        assert _bare(mine[f"{server}__{tool.name}"], mode) == _bare(tool, mode)


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize(
    ("server", "tool", "arguments"),
    [
        ("time", "convert_time", {"source_timezone": "UTC", "time": "12:00", "target_timezone": "UTC"}),
        ("local", "get-sum", _SUM),
        ("remote", "get-sum", _SUM),
        ("local", "get-structured-content", {"location": "Chicago"}),
        ("remote", "get-tiny-image", {}),
        ("remote", "get-annotated-message", {"messageType": "error", "includeImage": True}),
        ("local", "get-resource-links", {"count": 3}),
    ],
)  # fmt: skip
def test_an_answer_is_the_same_through_the_gateway(
    server: str, tool: str, arguments: dict[str, Any], mode: str, url: str, everything_url: str
) -> None:
    """Text, images, links and structured content."""

    async def run() -> tuple[types.CallToolResult, types.CallToolResult]:
        async with _direct(server, everything_url, mode) as client:
            direct = await client.call_tool(tool, arguments)
        async with Client(streamable_http_client(url), mode=mode, cache=None) as client:
            return direct, await client.call_tool(f"{server}__{tool}", arguments)

    direct, through = asyncio.run(run())
    assert not direct.is_error
    assert through.model_dump(exclude={"meta"}) == direct.model_dump(exclude={"meta"})
    assert (through.meta or {})["fluxai/decision"]["decision"] == "allowed"


@pytest.mark.parametrize("server", ["local", "remote"])
def test_progress_questions_and_samples_reach_the_client_whose_call_it_is(
    server: str, url: str
) -> None:
    """The server is of the older era, which pushes them while the call is under way."""
    steps: list[float] = []

    async def stepped(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async def run() -> list[str]:
        able: dict[str, Any] = {
            "elicitation_callback": _answering,
            "sampling_callback": _sampling,
        }
        target = streamable_http_client(url)
        async with Client(target, mode="legacy", cache=None, **able) as client:
            texts = []
            for tool, arguments in (
                ("trigger-long-running-operation", {"duration": 0.2, "steps": 2}),
                ("trigger-elicitation-request", {}),
                ("trigger-sampling-request", {"prompt": "hello"}),
            ):
                result = await client.call_tool(
                    f"{server}__{tool}", arguments, progress_callback=stepped
                )
                assert not result.is_error
                texts.append(result.model_dump_json())
            return texts

    _, elicited, sampled = asyncio.run(run())
    assert steps == [1, 2]
    assert "Ada" in elicited
    assert "sampled by the client" in sampled


@pytest.mark.parametrize("mode", _MODES)
def test_resources_prompts_and_completions_come_through(mode: str, url: str) -> None:
    """Each from the server that has it."""

    async def run() -> None:
        async with Client(streamable_http_client(url), mode=mode, cache=None) as client:
            resources = (await client.list_resources()).resources
            read = await client.read_resource(resources[0].uri)
            assert read.contents
            templates = (await client.list_resource_templates()).resource_templates
            assert templates
            prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
            assert {"local__args-prompt", "remote__args-prompt"} <= prompts
            got = await client.get_prompt("remote__args-prompt", {"city": "Oslo"})
            assert "Oslo" in got.model_dump_json()
            reference = types.PromptReference(type="ref/prompt", name="local__completable-prompt")
            argument = {"name": "department", "value": "E"}
            completed = await client.complete(reference, argument)
            assert completed.completion.values == ["Engineering"]

    asyncio.run(run())


def test_an_update_of_a_resource_reaches_the_client_that_has_subscribed(url: str) -> None:
    """Over HTTP, on the stream that the client holds open for what nobody asked for."""
    uri = "demo://resource/dynamic/text/1"

    async def run() -> None:
        updated = asyncio.Event()

        async def heard(message: Any) -> None:
            if isinstance(message, types.ResourceUpdatedNotification):
                assert str(message.params.uri) == uri
                updated.set()

        target = streamable_http_client(url)
        async with Client(target, mode="legacy", cache=None, message_handler=heard) as client:
            wanted = types.SubscribeRequest(params=types.SubscribeRequestParams(uri=uri))
            await client.session.send_request(wanted, types.EmptyResult)
            await client.call_tool("local__toggle-subscriber-updates", {})
            async with asyncio.timeout(30):
                await updated.wait()

    asyncio.run(run())
