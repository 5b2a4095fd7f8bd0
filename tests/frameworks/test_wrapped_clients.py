"""Each framework, given a wrapped client: no adapter, and every call of an agent is governed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest

from fluxai import BudgetExceeded, Governor, Policy
from fluxai.testing import FakeProvider, ToolCall
from tests.frameworks.conftest import COST, USAGE

pytest.importorskip("agents", reason="these have an environment of their own: tests frameworks")

import agents
import litellm
import openai
import pydantic_ai
from google import genai
from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.models import Gemini
from google.adk.runners import InMemoryRunner
from google.genai import types
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

litellm.suppress_debug_info = True


class Clients:
    """Wrapped clients of OpenAI, sync and async."""

    def __init__(self, governor: Governor, provider: FakeProvider) -> None:
        options: dict[str, Any] = {"api_key": "k", "base_url": provider.openai_url}
        self.sync = governor.wrap(openai.OpenAI(**options), tenant="acme")
        self.asynchronous = governor.wrap(openai.AsyncOpenAI(**options), tenant="acme")


#: Asks a question through a framework, as a stream or not, and returns what was said.
Ask = Callable[[Clients, bool], str]


def running(ask: Callable[[Clients, bool], Any]) -> Ask:
    """Run an async way of asking, and close its client in the loop that it was used in."""

    @functools.wraps(ask)
    def run(clients: Clients, stream: bool) -> str:
        async def all_of_it() -> str:
            try:
                return await ask(clients, stream)  # type: ignore[no-any-return]
            finally:
                await clients.asynchronous.close()

        return asyncio.run(all_of_it())

    return run


def agents_sdk(*, responses: bool) -> Ask:
    """Ask through the OpenAI Agents SDK, by either of OpenAI's APIs."""

    async def ask(clients: Clients, stream: bool) -> str:
        models = agents.OpenAIProvider(openai_client=clients.asynchronous, use_responses=responses)
        config = agents.RunConfig(model_provider=models, tracing_disabled=True)
        add = agents.function_tool(_add)
        agent = agents.Agent(name="adder", model="gpt-4o", tools=[add])
        if not stream:
            result = await agents.Runner.run(agent, "What is 1 + 2?", run_config=config)
            return str(result.final_output)
        streamed = agents.Runner.run_streamed(agent, "What is 1 + 2?", run_config=config)
        async for _ in streamed.stream_events():
            pass
        return str(streamed.final_output)

    return running(ask)


@running
async def through_pydantic_ai(clients: Clients, stream: bool) -> str:
    """Ask through Pydantic AI."""
    model = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=clients.asynchronous))
    agent = pydantic_ai.Agent(model, tools=[_add])
    if not stream:
        return str((await agent.run("What is 1 + 2?")).output)
    async with agent.run_stream("What is 1 + 2?") as streamed:
        return str(await streamed.get_output())


def _chat_openai(clients: Clients) -> Any:
    return ChatOpenAI(
        model="gpt-4o",
        api_key="k",
        root_client=clients.sync,
        client=clients.sync.chat.completions,
        root_async_client=clients.asynchronous,
        async_client=clients.asynchronous.chat.completions,
    )


def through_langchain(clients: Clients, stream: bool) -> str:
    """Ask through an agent of LangChain."""
    agent = create_agent(_chat_openai(clients), tools=[_add])
    asked = {"messages": [{"role": "user", "content": "What is 1 + 2?"}]}
    if not stream:
        return str(agent.invoke(asked)["messages"][-1].content)
    parts = [part for part, _ in agent.stream(asked, stream_mode="messages")]
    return "".join(part.content for part in parts if part.type == "AIMessageChunk")


@running
async def through_langchain_async(clients: Clients, stream: bool) -> str:
    """Ask through an agent of LangChain, in async code."""
    agent = create_agent(_chat_openai(clients), tools=[_add])
    asked = {"messages": [{"role": "user", "content": "What is 1 + 2?"}]}
    if not stream:
        return str((await agent.ainvoke(asked))["messages"][-1].content)
    parts = [part async for part, _ in agent.astream(asked, stream_mode="messages")]
    return "".join(part.content for part in parts if part.type == "AIMessageChunk")


def _add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


AGENTS = {
    "agents-sdk-responses": agents_sdk(responses=True),
    "agents-sdk-chat": agents_sdk(responses=False),
    "pydantic-ai": through_pydantic_ai,
    "langchain": through_langchain,
    "langchain-async": through_langchain_async,
}
every_agent = pytest.mark.parametrize("ask", AGENTS.values(), ids=AGENTS)
streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def _tool_then_text(provider: FakeProvider) -> None:
    provider.answer(tool_calls=[ToolCall(name="_add", arguments={"a": 1, "b": 2})], usage=USAGE)
    provider.answer("It is 3.", usage=USAGE)


@every_agent
@streamed_or_not
def test_every_model_call_of_a_run_is_settled_exactly(
    ask: Ask,
    stream: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """A run that calls a tool is two model calls, each at what its answer says."""
    _tool_then_text(provider)
    assert ask(Clients(governor, provider), stream) == "It is 3."
    events = governor.events()
    assert [str(event.cost) for event in events] == [COST["gpt-4o"]] * 2
    assert [event.flags for event in events] == [(), ()]
    assert len(provider.requests) == 2


@every_agent
@streamed_or_not
def test_a_refusal_sends_nothing_and_is_raised(
    ask: Ask,
    stream: bool,
    governor: Governor,
    provider: FakeProvider,
    limit: Callable[..., Policy],
) -> None:
    """Its own error comes out of the framework."""
    limit("0.000001")
    with pytest.raises(BudgetExceeded):
        ask(Clients(governor, provider), stream)
    assert provider.requests == []


@every_agent
def test_a_run_ends_where_its_budget_does(
    ask: Ask, governor: Governor, provider: FakeProvider
) -> None:
    """What its first call cost is counted before the second one is made."""
    provider.answer(
        tool_calls=[ToolCall(name="_add", arguments={"a": 1, "b": 2})],
        usage={"input": 1_000, "output": 9_000},
    )
    governor.policies.put(
        Policy(id="day", tenant_id="acme", limit_type="daily", limit_value="0.09")
    )
    with pytest.raises(BudgetExceeded):
        ask(Clients(governor, provider), False)
    assert len(provider.requests) == 1
    assert [str(event.cost) for event in governor.events()] == ["0.0925"]


@every_agent
@streamed_or_not
def test_a_downgrade_reaches_the_wire(
    ask: Ask,
    stream: bool,
    governor: Governor,
    provider: FakeProvider,
    limit: Callable[..., Policy],
) -> None:
    """The cheaper model is what is sent, and what is settled."""
    limit("0", decision="downgrade", fallback_tool_id="gpt-4o-mini")
    _tool_then_text(provider)
    assert ask(Clients(governor, provider), stream) == "It is 3."
    assert [request.json["model"] for request in provider.requests] == ["gpt-4o-mini"] * 2
    assert [str(event.cost) for event in governor.events()] == [COST["gpt-4o-mini"]] * 2


class TestLiteLLM:
    """LiteLLM takes a client too, and turns errors into its own."""

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked."""
        return {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Hello."}]}

    @streamed_or_not
    def test_calls_are_settled_exactly(
        self,
        stream: bool,
        governor: Governor,
        provider: FakeProvider,
    ) -> None:
        """Of a stream, its usage is asked for."""
        provider.answer("Good day.", usage=USAGE)
        clients = Clients(governor, provider)
        answer = litellm.completion(**self.asked, client=clients.sync, stream=stream)
        if stream:
            for _ in answer:
                pass
        (event,) = governor.events()
        assert (str(event.cost), event.flags) == (COST["gpt-4o"], ())

    @streamed_or_not
    def test_async_calls_are_settled_exactly(
        self,
        stream: bool,
        governor: Governor,
        provider: FakeProvider,
    ) -> None:
        """The async client is governed as the sync one is."""
        provider.answer("Good day.", usage=USAGE)

        @running
        async def ask(clients: Clients, stream: bool) -> str:
            answer = await litellm.acompletion(
                **self.asked, client=clients.asynchronous, stream=stream
            )
            if stream:
                async for _ in answer:
                    pass
            return ""

        ask(Clients(governor, provider), stream)
        (event,) = governor.events()
        assert (str(event.cost), event.flags) == (COST["gpt-4o"], ())

    def test_a_refusal_is_found_in_the_error_that_litellm_makes_of_it(
        self,
        governor: Governor,
        provider: FakeProvider,
        limit: Callable[..., Policy],
    ) -> None:
        """Nothing is sent; the refusal is in the chain of contexts."""
        limit("0.000001")
        clients = Clients(governor, provider)
        with pytest.raises(litellm.InternalServerError) as raised:
            litellm.completion(**self.asked, client=clients.sync)
        chain: list[type] = []
        error: BaseException | None = raised.value
        while error is not None:
            chain.append(type(error))
            error = error.__cause__ or error.__context__
        assert BudgetExceeded in chain
        assert provider.requests == []


class TestGoogleADK:
    """Google's ADK takes a client of google-genai."""

    @staticmethod
    def ask(governor: Governor, provider: FakeProvider, *, stream: bool) -> str:
        """Ask an agent with a tool; return what was said at last."""

        async def run() -> str:
            options = types.HttpOptions(base_url=provider.gemini_url)
            client = genai.Client(api_key="k", http_options=options)
            model = Gemini(model="gemini-2.5-pro", client=governor.wrap(client, tenant="acme"))
            runner = InMemoryRunner(
                agent=LlmAgent(name="adder", model=model, tools=[_add]), app_name="app"
            )
            session = await runner.session_service.create_session(app_name="app", user_id="u")
            asked = types.Content(role="user", parts=[types.Part(text="What is 1 + 2?")])
            mode = StreamingMode.SSE if stream else StreamingMode.NONE
            said = ""
            async for event in runner.run_async(
                user_id="u",
                session_id=session.id,
                new_message=asked,
                run_config=RunConfig(streaming_mode=mode),
            ):
                if event.is_final_response() and event.content:
                    said = event.content.parts[0].text
            await runner.close()
            return said

        return asyncio.run(run())

    @streamed_or_not
    def test_every_model_call_of_a_run_is_settled_exactly(
        self, stream: bool, governor: Governor, provider: FakeProvider
    ) -> None:
        """A run that calls a tool is two model calls, each at what its answer says."""
        _tool_then_text(provider)
        assert self.ask(governor, provider, stream=stream) == "It is 3."
        assert [str(event.cost) for event in governor.events()] == ["0.00325"] * 2
        assert [event.flags for event in governor.events()] == [(), ()]

    @streamed_or_not
    def test_a_refusal_sends_nothing_and_is_raised(
        self,
        stream: bool,
        governor: Governor,
        provider: FakeProvider,
        limit: Callable[..., Policy],
    ) -> None:
        """Its own error comes out of the framework."""
        limit("0.000001")
        with pytest.raises(BudgetExceeded):
            self.ask(governor, provider, stream=stream)
        assert provider.requests == []

    @streamed_or_not
    def test_a_downgrade_reaches_the_wire(
        self,
        stream: bool,
        governor: Governor,
        provider: FakeProvider,
        limit: Callable[..., Policy],
    ) -> None:
        """The cheaper model is what is asked."""
        limit("0", decision="downgrade", fallback_tool_id="gemini-2.5-flash")
        _tool_then_text(provider)
        assert self.ask(governor, provider, stream=stream) == "It is 3."
        assert all("/gemini-2.5-flash:" in request.path for request in provider.requests)
        assert {event.model for event in governor.events()} == {"gemini-2.5-flash"}
