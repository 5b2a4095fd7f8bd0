"""`smart_complete` and `generate_image` over MCP, with a real SDK and a provider on the loopback."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult, ImageContent, TextContent
from openai import OpenAI

from fluxai import Governor, Policy
from fluxai.mcp.identity import Identity
from fluxai.mcp.server import make_server
from fluxai.testing import FakeProvider

pytestmark = pytest.mark.anyio
_ME = Identity(tenant="acme", user="alice")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider that answers on the loopback."""
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def governor(provider: FakeProvider) -> Iterator[Governor]:
    """A governor that asks it through OpenAI's client."""
    with (
        Governor() as governor,
        OpenAI(base_url=provider.openai_url, api_key="any", max_retries=0) as client,
    ):
        governor.providers(openai=client, anthropic=False, gemini=False)
        yield governor
        assert governor.verify().ok
        assert governor.reservations("reserved") == []


async def ask(governor: Governor, tool: str, **arguments: Any) -> CallToolResult:
    """Call a tool through the official client."""
    async with Client(make_server(governor, launch=_ME)) as client:
        answer = await client.call_tool(tool, arguments)
        assert isinstance(answer, CallToolResult)
        return answer


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_prompt_is_answered_and_charged(governor: Governor, provider: FakeProvider) -> None:
    """With the model, why it was chosen, and what it cost and saved."""
    provider.answer("Paris.", usage={"input": 1_000, "output": 100})
    answer = await ask(
        governor,
        "smart_complete",
        prompt="What is the capital of France?",
        preferences={"prefer_cost": True, "max_cost_per_request": 0.5},
        max_tokens=200,
    )
    found = answer.structured_content
    assert found is not None
    assert not answer.is_error
    assert (found["text"], found["provider"]) == ("Paris.", "openai")
    assert (found["input_tokens"], found["output_tokens"]) == (1_000, 100)
    (event,) = governor.events(tenant="acme")
    assert (event.user, event.cost, event.model) == (
        "alice",
        Decimal(found["cost"]),
        found["model"],
    )
    assert event.reservation_id == found["reservation_id"]
    assert Decimal(found["saved"]) > 0
    assert found["reason"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_picture_is_content(governor: Governor, provider: FakeProvider) -> None:
    """The image itself, and what it cost."""
    answer = await ask(governor, "generate_image", prompt="A fox in the snow")
    assert not answer.is_error, answer.content
    text, picture = answer.content
    assert isinstance(text, TextContent)
    assert isinstance(picture, ImageContent)
    found = answer.structured_content
    assert found is not None
    assert picture.mime_type == found["media_type"] == "image/png"
    assert len(base64.b64decode(picture.data)) == found["bytes"]
    (event,) = governor.events(tenant="acme")
    assert event.cost == Decimal(found["cost"])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_can_not_be_had_is_an_honest_error(
    governor: Governor, provider: FakeProvider
) -> None:
    """No money, no provider that answers, another tenant: each says why, and nothing is invented."""
    for _ in range(12):
        provider.fail(500, message="out of order")
    failed = await ask(governor, "smart_complete", prompt="What is the capital of France?")
    assert failed.is_error
    assert "AllProvidersFailed" in str(failed.content[0])
    governor.policies.put(Policy(tenant_id="acme", limit_type="daily", limit_value=0))
    sent = len(provider.requests)
    refused = await ask(governor, "smart_complete", prompt="What is the capital of France?")
    assert refused.is_error
    assert "Do not retry" in str(refused.content[0])
    other = await ask(governor, "smart_complete", prompt="Hello", tenant_id="bolt")
    assert other.is_error
    assert len(provider.requests) == sent
