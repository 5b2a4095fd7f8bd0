"""The capability for Pydantic AI: it holds, names the run, prices tools, and ends a run well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fluxai import BudgetExceeded, ConfigurationError, Governor, Policy, Tool
from fluxai.testing import FakeProvider, ToolCall
from tests.frameworks.conftest import COST, USAGE

pytest.importorskip("agents", reason="these have an environment of their own: tests frameworks")

import openai
from pydantic_ai import Agent, BinaryContent, ImageUrl
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from fluxai.integrations.pydantic_ai import BudgetCapability

Work = Callable[[Callable[..., OpenAIChatModel]], Awaitable[Any]]


def search(text: str) -> str:
    """Search the web."""
    return f"nothing about {text}"


def run(provider: FakeProvider, governor: Governor | None, work: Work) -> Any:
    """Run async work with models on one client, which is wrapped where a governor is given."""

    async def all_of_it() -> Any:
        client = openai.AsyncOpenAI(api_key="k", base_url=provider.openai_url, max_retries=0)
        used = client if governor is None else governor.wrap(client)

        def model(name: str = "gpt-4o") -> OpenAIChatModel:
            return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=used))

        try:
            return await work(model)
        finally:
            await client.close()

    return asyncio.run(all_of_it())


def asking(capability: BudgetCapability, **more: Any) -> Work:
    """Return work that runs an agent once."""

    async def work(model: Callable[..., OpenAIChatModel]) -> Any:
        agent = Agent(model(), tools=[search], capabilities=[capability])
        return await agent.run("Who was here?", **more)

    return work


#: Whether the client is governed, or the capability reserves.
either = pytest.mark.parametrize("is_wrapped", [False, True], ids=["plain", "wrapped"])


def _search_then_text(provider: FakeProvider) -> None:
    provider.answer(tool_calls=[ToolCall(name="search", arguments={"text": "it"})], usage=USAGE)
    provider.answer("Nobody.", usage=USAGE)


@either
def test_each_model_call_is_charged_once(
    is_wrapped: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """A wrapped client and the capability around it do not count the same call twice."""
    _search_then_text(provider)
    capability = BudgetCapability(governor, tenant="acme", labels={"team": "red"})
    result = run(provider, governor if is_wrapped else None, asking(capability))
    assert result.output == "Nobody."
    events = governor.events()
    assert [str(event.cost) for event in events] == [COST["gpt-4o"]] * 2
    assert {(event.tenant, event.labels["team"]) for event in events} == {("acme", "red")}
    assert [event.flags for event in events] == [(), ()]


@either
def test_a_conversation_is_a_label(
    is_wrapped: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """A limit of a label holds for one conversation, and not for the next."""
    governor.policies.put(
        Policy(
            id="conversation",
            tenant_id="acme",
            scope="label",
            scope_id="conversation",
            limit_type="total",
            measure="requests",
            limit_value=2,
        )
    )
    capability = BudgetCapability(governor, tenant="acme")
    used = governor if is_wrapped else None
    for conversation in ("one", "two"):
        _search_then_text(provider)
        run(provider, used, asking(capability, conversation_id=conversation))
    with pytest.raises(BudgetExceeded):
        run(provider, used, asking(capability, conversation_id="one"))
    assert len(provider.requests) == 4


@either
def test_a_refusal_is_raised_before_anything_is_sent(
    is_wrapped: bool,
    governor: Governor,
    provider: FakeProvider,
    limit: Callable[..., Policy],
) -> None:
    """As everywhere else, unless the agent is to end gracefully."""
    limit("0.000001")
    capability = BudgetCapability(governor, tenant="acme")
    with pytest.raises(BudgetExceeded):
        run(provider, governor if is_wrapped else None, asking(capability))
    assert provider.requests == []


@either
def test_a_run_can_end_with_a_text_that_says_why(
    is_wrapped: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """What was done stays in the conversation; a program finds the decision in the details."""
    governor.policies.put(
        Policy(id="few", tenant_id="acme", limit_type="total", measure="requests", limit_value=1)
    )
    _search_then_text(provider)
    capability = BudgetCapability(governor, tenant="acme", on_refusal="end")
    result = run(provider, governor if is_wrapped else None, asking(capability))
    assert "policy few" in result.output
    last = result.all_messages()[-1]
    assert last.provider_details["fluxai"]["error"] == "BudgetExceeded"
    assert len(provider.requests) == 1


def test_an_output_that_is_no_text_can_only_be_refused(
    governor: Governor, provider: FakeProvider, limit: Callable[..., Policy]
) -> None:
    """A text in its place would be asked for again and again."""
    limit("0.000001")
    capability = BudgetCapability(governor, tenant="acme", on_refusal="end")

    async def work(model: Callable[..., OpenAIChatModel]) -> Any:
        agent = Agent(model(), output_type=int, capabilities=[capability])
        return await agent.run("How many?")

    with pytest.raises(BudgetExceeded):
        run(provider, None, work)


def test_a_tool_with_a_price_is_charged(governor: Governor, provider: FakeProvider) -> None:
    """It is known by its name in the governor's tools."""
    governor.tools.put(Tool(id="search", category="search", cost_per_unit="0.01"))
    _search_then_text(provider)
    run(provider, None, asking(BudgetCapability(governor, tenant="acme")))
    assert [(event.tool, str(event.cost)) for event in governor.events()] == [
        ("gpt-4o", COST["gpt-4o"]),
        ("search", "0.01"),
        ("gpt-4o", COST["gpt-4o"]),
    ]


def test_a_refused_tool_is_a_failure_that_the_model_sees(
    governor: Governor, provider: FakeProvider
) -> None:
    """The model can go on without it."""
    governor.tools.put(Tool(id="search", category="search", cost_per_unit="0.01"))
    governor.policies.put(
        Policy(
            id="no-search",
            tenant_id="acme",
            scope="tool",
            scope_id="search",
            limit_type="daily",
            limit_value="0.001",
        )
    )
    _search_then_text(provider)
    capability = BudgetCapability(governor, tenant="acme", on_refusal="end")
    result = run(provider, None, asking(capability))
    assert result.output == "Nobody."
    assert "no-search" in str(provider.requests[1].json["messages"][-1])


def test_a_downgrade_takes_a_model_that_is_given(
    governor: Governor, provider: FakeProvider, limit: Callable[..., Policy]
) -> None:
    """The capability moves a call to that model; without one the call is refused."""
    limit("0", decision="downgrade", fallback_tool_id="gpt-4o-mini")
    provider.answer("Nobody.", usage=USAGE)

    async def work(model: Callable[..., OpenAIChatModel]) -> Any:
        cheaper = {"gpt-4o-mini": model("gpt-4o-mini")}
        capability = BudgetCapability(governor, tenant="acme", models=cheaper)
        return await asking(capability)(model)

    run(provider, None, work)
    assert [request.json["model"] for request in provider.requests] == ["gpt-4o-mini"]
    assert [str(event.cost) for event in governor.events()] == [COST["gpt-4o-mini"]]
    with pytest.raises(BudgetExceeded):
        run(provider, None, asking(BudgetCapability(governor, tenant="acme")))
    assert len(provider.requests) == 1


def test_cached_input_is_charged_as_that(governor: Governor, provider: FakeProvider) -> None:
    """What was read from a cache is a part of the input, and costs half with this model."""
    provider.answer("Nobody.", usage={"input": 400, "cache_read": 600, "output": 200})
    run(provider, None, asking(BudgetCapability(governor, tenant="acme")))
    (event,) = governor.events()
    assert (event.usage.input, event.usage.cache_read, event.usage.output) == (400, 600, 200)


def test_the_granted_output_cap_is_sent(governor: Governor, provider: FakeProvider) -> None:
    """So that an answer can't cost more than what was held for it."""
    run(provider, None, asking(BudgetCapability(governor, tenant="acme")))
    (request,) = provider.requests
    assert request.json["max_completion_tokens"] > 0


def test_a_failure_gives_the_money_back(governor: Governor, provider: FakeProvider) -> None:
    """An error that the provider answers costs nothing."""
    provider.fail(400)
    with pytest.raises(ModelHTTPError):
        run(provider, None, asking(BudgetCapability(governor, tenant="acme")))
    assert governor.events() == []


def test_pictures_are_counted_as_pictures(governor: Governor, provider: FakeProvider) -> None:
    """Not as the text in which they are sent."""
    picture = BinaryContent(b"\x89PNG" + b"x" * 400_000, media_type="image/png")

    async def work(model: Callable[..., OpenAIChatModel]) -> Any:
        capability = BudgetCapability(governor, tenant="acme")
        agent = Agent(model(), capabilities=[capability], instructions="Be short.")
        linked = ImageUrl("https://example.org/it.png")
        return await agent.run(["What is this?", picture, linked])

    run(provider, None, work)
    (event,) = governor.events()
    (reservation,) = governor.reservations(state="settled")
    assert event.cost > 0
    assert reservation.estimate.input_tokens < 10_000


@either
def test_a_stream_is_settled_exactly(
    is_wrapped: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """The capability lasts as long as the stream does."""
    provider.answer("Nobody was here.", usage=USAGE)

    async def work(model: Callable[..., OpenAIChatModel]) -> Any:
        agent = Agent(model(), capabilities=[BudgetCapability(governor, tenant="acme")])
        async with agent.run_stream("Who was here?") as streamed:
            return await streamed.get_output()

    assert run(provider, governor if is_wrapped else None, work) == "Nobody was here."
    assert [str(event.cost) for event in governor.events()] == [COST["gpt-4o"]]


def test_a_stream_can_end_with_a_text_that_says_why(
    governor: Governor, provider: FakeProvider, limit: Callable[..., Policy]
) -> None:
    """Where it was refused before it began."""
    limit("0.000001")

    async def work(model: Callable[..., OpenAIChatModel]) -> Any:
        capability = BudgetCapability(governor, tenant="acme", on_refusal="end")
        agent = Agent(model(), capabilities=[capability])
        async with agent.run_stream("Who was here?") as streamed:
            return await streamed.get_output()

    assert "policy day" in run(provider, None, work)
    assert provider.requests == []


def test_anything_else_on_refusal_is_refused(governor: Governor) -> None:
    """A misspelt word must not leave an agent without its ending."""
    with pytest.raises(ConfigurationError, match="on_refusal"):
        BudgetCapability(governor, on_refusal="stop")  # type: ignore[arg-type]
