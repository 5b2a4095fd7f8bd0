"""The middleware for LangChain: it holds, names the run, prices tools, and ends a run well."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from fluxai import BudgetExceeded, ConfigurationError, Governor, Policy, Tool, subject
from fluxai.testing import FakeProvider, ToolCall
from tests.frameworks.conftest import COST, USAGE

pytest.importorskip("agents", reason="these have an environment of their own: tests frameworks")

import openai
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_openai import ChatOpenAI

from fluxai.integrations.langchain import BudgetMiddleware


def plain(provider: FakeProvider, model: str = "gpt-4o", **more: Any) -> ChatOpenAI:
    """Return a model whose client nobody wrapped."""
    return ChatOpenAI(model=model, api_key="k", base_url=provider.openai_url, **more)


def wrapped(provider: FakeProvider, governor: Governor) -> ChatOpenAI:
    """Return a model whose clients are wrapped."""
    options: dict[str, Any] = {"api_key": "k", "base_url": provider.openai_url}
    one = governor.wrap(openai.OpenAI(**options))
    other = governor.wrap(openai.AsyncOpenAI(**options))
    return ChatOpenAI(
        model="gpt-4o",
        api_key="k",
        root_client=one,
        client=one.chat.completions,
        root_async_client=other,
        async_client=other.chat.completions,
    )


def search(text: str) -> str:
    """Search the web."""
    return f"nothing about {text}"


def run(model: Any, middleware: BudgetMiddleware, *, is_async: bool, **config: Any) -> list[Any]:
    """Run an agent with a tool; return its messages."""
    agent = create_agent(model, tools=[search], middleware=[middleware])
    asked: Any = {"messages": [{"role": "user", "content": "Who was here?"}]}
    if not is_async:
        return agent.invoke(asked, config)["messages"]  # type: ignore[no-any-return, arg-type]
    done = asyncio.run(agent.ainvoke(asked, config))  # type: ignore[arg-type]
    return done["messages"]  # type: ignore[no-any-return]


both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
#: A model whose client is governed, and one for which the middleware reserves.
either = pytest.mark.parametrize(
    "model_of", [lambda p, _: plain(p), wrapped], ids=["plain", "wrapped"]
)
ModelOf = Callable[[FakeProvider, Governor], ChatOpenAI]


def _search_then_text(provider: FakeProvider) -> None:
    provider.answer(tool_calls=[ToolCall(name="search", arguments={"text": "it"})], usage=USAGE)
    provider.answer("Nobody.", usage=USAGE)


@both
@either
def test_each_model_call_is_charged_once(
    model_of: ModelOf,
    is_async: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """A wrapped client and the middleware around it do not count the same call twice."""
    _search_then_text(provider)
    middleware = BudgetMiddleware(governor, tenant="acme", labels={"team": "red"})
    messages = run(model_of(provider, governor), middleware, is_async=is_async)
    assert messages[-1].content == "Nobody."
    events = governor.events()
    assert [str(event.cost) for event in events] == [COST["gpt-4o"]] * 2
    assert {(event.tenant, event.labels["team"]) for event in events} == {("acme", "red")}
    assert [event.flags for event in events] == [(), ()]


def test_a_wrapped_client_that_is_not_seen_is_not_counted_twice(
    governor: Governor, provider: FakeProvider
) -> None:
    """The middleware reserves where it can't be sure, and the client lets the call pass."""
    provider.answer("Nobody.", usage=USAGE)
    options: dict[str, Any] = {"api_key": "k", "base_url": provider.openai_url}
    client = openai.OpenAI(**options)
    model = plain(provider, root_client=client, client=governor.wrap(client).chat.completions)
    run(model, BudgetMiddleware(governor, tenant="acme"), is_async=False)
    (event,) = governor.events()
    assert (str(event.cost), event.tenant) == (COST["gpt-4o"], "acme")


@both
@either
def test_the_run_and_its_thread_are_labels(
    model_of: ModelOf,
    is_async: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """A limit of a label holds for one conversation, and not for the next."""
    governor.policies.put(
        Policy(
            id="thread",
            tenant_id="acme",
            scope="label",
            scope_id="thread",
            limit_type="total",
            measure="requests",
            limit_value=2,
        )
    )
    middleware = BudgetMiddleware(governor, tenant="acme")
    model = model_of(provider, governor)
    for thread in ("one", "two"):
        _search_then_text(provider)
        run(model, middleware, is_async=is_async, configurable={"thread_id": thread})
    with pytest.raises(BudgetExceeded):
        run(model, middleware, is_async=is_async, configurable={"thread_id": "one"})
    assert len(provider.requests) == 4


@both
@either
def test_a_refusal_is_raised_before_anything_is_sent(
    model_of: ModelOf,
    is_async: bool,
    governor: Governor,
    provider: FakeProvider,
    limit: Callable[..., Policy],
) -> None:
    """As everywhere else, unless the agent is to end gracefully."""
    limit("0.000001")
    with pytest.raises(BudgetExceeded):
        run(
            model_of(provider, governor),
            BudgetMiddleware(governor, tenant="acme"),
            is_async=is_async,
        )
    assert provider.requests == []


@both
@either
def test_a_run_can_end_with_a_message_that_says_why(
    model_of: ModelOf,
    is_async: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """What was done stays in the conversation; a program finds the decision in the metadata."""
    governor.policies.put(
        Policy(
            id="few",
            tenant_id="acme",
            limit_type="total",
            measure="requests",
            limit_value=1,
        )
    )
    _search_then_text(provider)
    middleware = BudgetMiddleware(governor, tenant="acme", on_refusal="end")
    messages = run(model_of(provider, governor), middleware, is_async=is_async)
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert "policy few" in messages[-1].content
    assert messages[-1].response_metadata["fluxai"]["error"] == "BudgetExceeded"
    assert len(provider.requests) == 1


@both
def test_a_tool_with_a_price_is_charged(
    is_async: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """It is known by its name in the governor's tools."""
    governor.tools.put(Tool(id="search", category="search", cost_per_unit="0.01"))
    _search_then_text(provider)
    middleware = BudgetMiddleware(governor, tenant="acme")
    run(plain(provider), middleware, is_async=is_async)
    assert [(event.tool, str(event.cost)) for event in governor.events()] == [
        ("gpt-4o", COST["gpt-4o"]),
        ("search", "0.01"),
        ("gpt-4o", COST["gpt-4o"]),
    ]


@both
def test_a_refused_tool_is_an_error_that_the_model_sees(
    is_async: bool,
    governor: Governor,
    provider: FakeProvider,
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
    middleware = BudgetMiddleware(governor, tenant="acme", on_refusal="end")
    messages = run(plain(provider), middleware, is_async=is_async)
    refused = messages[2]
    assert isinstance(refused, ToolMessage)
    assert (refused.status, "no-search" in refused.content) == ("error", True)
    assert messages[-1].content == "Nobody."


@both
def test_a_downgrade_takes_a_model_that_is_given(
    is_async: bool,
    governor: Governor,
    provider: FakeProvider,
    limit: Callable[..., Policy],
) -> None:
    """The middleware moves a call to that model; without one the call is refused."""
    limit("0", decision="downgrade", fallback_tool_id="gpt-4o-mini")
    provider.answer("Nobody.", usage=USAGE)
    cheaper = {"gpt-4o-mini": plain(provider, "gpt-4o-mini")}
    run(
        plain(provider),
        BudgetMiddleware(governor, tenant="acme", models=cheaper),
        is_async=is_async,
    )
    assert [request.json["model"] for request in provider.requests] == ["gpt-4o-mini"]
    assert [str(event.cost) for event in governor.events()] == [COST["gpt-4o-mini"]]
    with pytest.raises(BudgetExceeded):
        run(plain(provider), BudgetMiddleware(governor, tenant="acme"), is_async=is_async)
    assert len(provider.requests) == 1


@both
def test_the_granted_output_cap_is_sent(
    is_async: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """So that an answer can't cost more than what was held for it."""
    run(plain(provider), BudgetMiddleware(governor, tenant="acme"), is_async=is_async)
    (request,) = provider.requests
    (event,) = governor.events()
    assert request.json["max_completion_tokens"] > 0
    assert event.cost > 0


@both
def test_a_failure_gives_the_money_back(
    is_async: bool,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """An error that the provider answers costs nothing."""
    provider.fail(400)
    with pytest.raises(openai.BadRequestError):
        run(plain(provider), BudgetMiddleware(governor, tenant="acme"), is_async=is_async)
    assert governor.events() == []


def test_a_stream_of_an_agent_is_settled(governor: Governor, provider: FakeProvider) -> None:
    """Streamed tokens pass the middleware; the answer's usage settles it."""
    provider.answer("Nobody was here.", usage=USAGE)
    agent = create_agent(
        plain(provider, stream_usage=True), middleware=[BudgetMiddleware(governor, tenant="acme")]
    )
    asked: Any = {"messages": [{"role": "user", "content": "Who was here?"}]}
    parts = [part for part, _ in agent.stream(asked, stream_mode="messages")]
    assert len(parts) > 2
    assert [str(event.cost) for event in governor.events()] == [COST["gpt-4o"]]


def test_a_block_around_the_run_says_who_spends(governor: Governor, provider: FakeProvider) -> None:
    """Without a tenant of its own the middleware takes that of the block."""
    with subject(tenant="bolt", user="ana"):
        run(plain(provider), BudgetMiddleware(governor), is_async=False)
    assert [(event.tenant, event.user) for event in governor.events()] == [("bolt", "ana")]


def test_anything_else_on_refusal_is_refused(governor: Governor) -> None:
    """A misspelt word must not leave an agent without its ending."""
    with pytest.raises(ConfigurationError, match="on_refusal"):
        BudgetMiddleware(governor, on_refusal="stop")  # type: ignore[arg-type]


def test_a_run_has_the_id_that_it_was_given(governor: Governor, provider: FakeProvider) -> None:
    """LangGraph tells the id of a run where its caller gave one."""
    given = uuid.uuid4()
    run(
        plain(provider),
        BudgetMiddleware(governor, tenant="acme"),
        is_async=False,
        run_id=given,
        configurable={"thread_id": "t"},
    )
    (event,) = governor.events()
    assert event.labels == {"run": str(given), "thread": "t"}


def test_the_ending_is_an_answer(governor: Governor, provider: FakeProvider) -> None:
    """An agent's caller gets a message as from any run."""
    governor.policies.put(
        Policy(id="none", tenant_id="acme", limit_type="daily", limit_value="0.000001")
    )
    middleware = BudgetMiddleware(governor, tenant="acme", on_refusal="end")
    assert isinstance(run(plain(provider), middleware, is_async=False)[-1], AIMessage)
