"""Functions of the caller's between Anthropic's client and its requests: each attempt is a call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import anthropic
import pytest

from fluxai import CostEstimator, Governor, Tenant, UnknownModel, Usage
from fluxai.testing import FakeProvider
from tests.wrapped.surfaces import CAP, MESSAGES

middleware = pytest.importorskip("anthropic.lib.middleware", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")

USED = {"input_tokens": 12, "output_tokens": 5}
FIRST, SECOND = "claude-haiku-4-5", "claude-opus-4-1"
ASK: Mapping[str, Any] = {"model": FIRST, "messages": MESSAGES, "max_tokens": CAP}


def falling_back() -> Any:
    """Return what asks a second model where the first one declines."""
    return middleware.BetaRefusalFallbackMiddleware([{"model": SECOND}])


def ended(stop: str) -> dict[str, Any]:
    """Say why an answer ended."""
    if stop != "refusal":
        return {"stop_reason": stop}
    details = {"type": "refusal", "category": "bio", "fallback_credit_token": "t"}
    return {"stop_reason": stop, "stop_details": details}


def message(model: str, stop: str) -> dict[str, Any]:
    """Return an answer of a model."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": "Rhine"}],
        **ended(stop),
        "stop_sequence": None,
        "usage": USED,
    }


def events(model: str, stop: str) -> list[dict[str, Any]]:
    """Return the same as a stream."""
    whole = message(model, stop)
    return [
        {
            "type": "message_start",
            "message": {**whole, "content": [], "stop_reason": None, "stop_details": None},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Rhine"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended(stop), "usage": USED},
        {"type": "message_stop"},
    ]


def run(governor: Governor, provider: FakeProvider, *, is_async: bool, stream: bool) -> None:
    """Ask through a wrapped client that falls back, and read the answer to its end."""
    options: dict[str, Any] = {
        "base_url": provider.anthropic_url,
        "api_key": "k",
        "max_retries": 0,
        "middleware": [falling_back()],
    }
    if not is_async:
        with anthropic.Anthropic(**options) as client, middleware.BetaFallbackState():
            asking: Any = governor.wrap(client, tenant="acme").beta.messages
            answer = asking.create(**ASK, stream=stream)
            if stream:
                list(answer)
        return

    async def once() -> None:
        async with anthropic.AsyncAnthropic(**options) as client:
            with middleware.BetaFallbackState():
                asking: Any = governor.wrap(client, tenant="acme").beta.messages
                answer = await asking.create(**ASK, stream=stream)
                if stream:
                    assert [event async for event in answer]

    asyncio.run(once())


WAYS = pytest.mark.parametrize(
    ("is_async", "stream"), [(False, False), (False, True), (True, False), (True, True)]
)


@WAYS
def test_each_model_that_was_asked_is_held_and_paid(
    governor: Governor, provider: FakeProvider, *, is_async: bool, stream: bool
) -> None:
    """The one that declined was paid, too, and the other one is held at its own price."""
    made: Any = events if stream else message
    provider.replay(made(FIRST, "refusal"))
    provider.replay(made(SECOND, "end_turn"))
    run(governor, provider, is_async=is_async, stream=stream)
    prices = CostEstimator()
    assert {event.model: event.cost for event in governor.events()} == {
        model: prices.cost(Usage(input=12, output=5), model=model).total
        for model in (FIRST, SECOND)
    }
    assert {held.requested_tool for held in governor.reservations()} == {FIRST, SECOND}
    assert governor.reservations(state="reserved") == []


@WAYS
def test_a_model_that_is_not_allowed_is_not_asked(
    governor: Governor, provider: FakeProvider, *, is_async: bool, stream: bool
) -> None:
    """What a function puts in place of a request is judged like one."""
    governor.tenants.put(Tenant(id="acme", allowed_models=("claude-haiku-*",)))
    provider.replay((events if stream else message)(FIRST, "refusal"))
    refused = pytest.raises(UnknownModel, match="not among the tenant's allowed_models")
    # In the midst of a stream that function shows the answer that it has.
    with nullcontext() if stream else refused:
        run(governor, provider, is_async=is_async, stream=stream)
    assert len(provider.requests) == 1
    assert len(governor.events()) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_an_attempt_that_is_answered_with_an_error_is_released(
    governor: Governor, provider: FakeProvider, *, is_async: bool
) -> None:
    """Functions see the error as they would without a governor."""
    provider.fail(400)
    with pytest.raises(anthropic.BadRequestError):
        run(governor, provider, is_async=is_async, stream=False)
    assert [held.state for held in governor.reservations()] == ["released"]
    assert governor.events() == []
