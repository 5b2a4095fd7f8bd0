"""Google ADK: given a wrapped client, an agent's dear model is moved to a cheaper one in time."""

from __future__ import annotations

import asyncio
import os

from google import genai
from google.adk.agents import LlmAgent
from google.adk.models import Gemini
from google.adk.runners import InMemoryRunner
from google.genai import types

from fluxai import Governor, Policy
from fluxai.testing import FakeProvider, ToolCall


def order(item: str) -> str:
    """Order something."""
    return f"ordered: {item}"


async def main(provider: FakeProvider) -> None:
    key = os.environ.get("GEMINI_API_KEY")
    governor = Governor()
    governor.policies.put(
        Policy(
            id="slow-down",
            tenant_id="acme",
            limit_type="daily",
            limit_value="0.05",
            decision="downgrade",
            fallback_tool_id="gemini-2.5-flash",
        )
    )
    options = None if key else types.HttpOptions(base_url=provider.gemini_url)
    client = governor.wrap(genai.Client(api_key=key or "none", http_options=options), tenant="acme")
    agent = LlmAgent(
        name="buyer",
        model=Gemini(model="gemini-2.5-pro", client=client),
        instruction="Order it.",
        tools=[order],
        generate_content_config=types.GenerateContentConfig(max_output_tokens=4_000),
    )
    runner = InMemoryRunner(agent=agent, app_name="shop")
    session = await runner.session_service.create_session(app_name="shop", user_id="ana")
    said = types.Content(role="user", parts=[types.Part(text="Two pencils, please.")])
    async for event in runner.run_async(user_id="ana", session_id=session.id, new_message=said):
        if event.is_final_response() and event.content and event.content.parts:
            print(event.content.parts[0].text)
    await runner.close()
    for settled in governor.events():
        print(f"{settled.model}: ${settled.cost}")


with FakeProvider() as provider:
    # Without a key this answers: a tool call that cost a good part of what there is.
    provider.answer(
        tool_calls=[ToolCall(name="order", arguments={"item": "two pencils"})],
        usage={"input": 400, "output": 2_500},
    )
    provider.answer("They are on their way.")
    asyncio.run(main(provider))
