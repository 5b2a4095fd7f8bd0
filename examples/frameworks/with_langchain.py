"""LangChain: wrapped clients govern the model; the middleware adds tools, threads and an ending."""

from __future__ import annotations

import os

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, OpenAI

from fluxai import Governor, Policy, Tool
from fluxai.integrations.langchain import BudgetMiddleware
from fluxai.testing import FakeProvider, ToolCall


def search(text: str) -> str:
    """Search the web."""
    return f"nothing about {text}"


def main(provider: FakeProvider) -> None:
    key = os.environ.get("OPENAI_API_KEY")
    url = None if key else provider.openai_url
    governor = Governor()
    governor.tools.put(Tool(id="search", category="search", cost_per_unit="0.005"))
    governor.policies.put(
        Policy(
            id="each-thread",
            tenant_id="acme",
            scope="label",
            scope_id="thread",
            limit_type="total",
            limit_value="0.02",
        )
    )
    client = governor.wrap(OpenAI(api_key=key or "none", base_url=url))
    async_client = governor.wrap(AsyncOpenAI(api_key=key or "none", base_url=url))
    model = ChatOpenAI(
        model="gpt-4o",
        api_key=key or "none",
        root_client=client,
        client=client.chat.completions,
        root_async_client=async_client,
        async_client=async_client.chat.completions,
    )
    middleware = BudgetMiddleware(governor, tenant="acme", on_refusal="end")
    agent = create_agent(model, tools=[search], middleware=[middleware])
    asked = {"messages": [{"role": "user", "content": "Who was here in 1925?"}]}
    answered = agent.invoke(asked, {"configurable": {"thread_id": "7"}})
    print(answered["messages"][-1].content)
    for event in governor.events():
        print(f"{event.tool}: ${event.cost}, thread {event.labels['thread']}")


with FakeProvider() as provider:
    # Without a key this answers: it searches, and that was most of what there is.
    provider.answer(
        tool_calls=[ToolCall(name="search", arguments={"text": "1925"})],
        usage={"input": 900, "output": 1_200},
    )
    main(provider)
