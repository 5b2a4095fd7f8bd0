"""What the SDKs really return: objects of their own classes settle like the JSON they came from."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from fluxai import Governor
from fluxai.testing import FakeClock
from tests.integration.stubs import daily

anthropic = pytest.importorskip("anthropic.types")
chat = pytest.importorskip("openai.types.chat")
responses = pytest.importorskip("openai.types.responses")
genai = pytest.importorskip("google.genai.types")
openai_types = pytest.importorskip("openai.types")


@pytest.fixture
def governor() -> Iterator[Governor]:
    """A governor with $5 a day."""
    governor = Governor(clock=FakeClock())
    governor.policies.put(daily("5"))
    yield governor
    assert governor.reservations("reserved") == []
    assert governor.verify().ok


def _chat_completion() -> Any:
    return chat.ChatCompletion.model_validate(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_768_478_400,
            "model": "gpt-4o-2024-08-06",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "hi"},
                }
            ],
            "usage": {
                "prompt_tokens": 1000,
                "completion_tokens": 100,
                "total_tokens": 1100,
                "prompt_tokens_details": {"cached_tokens": 400},
                "completion_tokens_details": {"reasoning_tokens": 60},
            },
        }
    )


def _response() -> Any:
    return responses.Response.model_validate(
        {
            "id": "resp_1",
            "object": "response",
            "created_at": 1_768_478_400,
            "status": "completed",
            "model": "gpt-4o-2024-08-06",
            "output": [],
            "parallel_tool_calls": False,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": 1000,
                "output_tokens": 100,
                "total_tokens": 1100,
                "input_tokens_details": {"cached_tokens": 400, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 60},
            },
        }
    )


def _message() -> Any:
    return anthropic.Message.model_validate(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-3-haiku-20240307",
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 1000,
                "output_tokens": 100,
                "cache_read_input_tokens": 400,
                "cache_creation_input_tokens": 200,
            },
        }
    )


def _gemini() -> Any:
    return genai.GenerateContentResponse.model_validate(
        {
            "modelVersion": "gemini-1.5-flash",
            "responseId": "r1",
            "candidates": [
                {"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP"}
            ],
            "usageMetadata": {
                "promptTokenCount": 1000,
                "candidatesTokenCount": 100,
                "totalTokenCount": 1100,
                "cachedContentTokenCount": 400,
            },
        }
    )


def _embedding() -> Any:
    return openai_types.CreateEmbeddingResponse.model_validate(
        {
            "object": "list",
            "model": "text-embedding-3-small",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
            "usage": {"prompt_tokens": 1000, "total_tokens": 1000},
        }
    )


OBJECTS: dict[str, tuple[Any, str, str, int]] = {
    # 600 × $2.50 + 400 × $1.25 + 100 × $10, per million
    "openai chat": (_chat_completion, "gpt-4o", "0.003", 1100),
    "openai responses": (_response, "gpt-4o", "0.003", 1100),
    # 1000 × $0.25 + 400 × $0.03 + 200 × $0.30 + 100 × $1.25
    "anthropic message": (_message, "claude-3-haiku", "0.000447", 1700),
    # 600 × $0.075 + 400 × $0.01875 + 100 × $0.30
    "gemini": (_gemini, "gemini-1.5-flash", "0.0000825", 1100),
    # 1000 × $0.02
    "openai embedding": (_embedding, "text-embedding-3-small", "0.00002", 1000),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_sdk_s_object_settles_exactly(governor: Governor, name: str) -> None:
    """Cached, written and thinking tokens are priced each at its own rate, from the object."""
    make, model, cost, tokens = OBJECTS[name]
    reservation = governor.reserve(tenant="acme", model=model, input_tokens=2000)
    settlement = governor.settle(reservation, make())
    assert (settlement.cost, settlement.tokens, settlement.flags) == (Decimal(cost), tokens, ())
    assert settlement.tool == reservation.final_tool


@pytest.mark.parametrize("name", OBJECTS)
def test_object_dict_and_text_are_one_bill(governor: Governor, name: str) -> None:
    """The same response in any form is the same outcome, so that a repeat is no conflict."""
    make, model, _, _ = OBJECTS[name]
    reservation = governor.reserve(tenant="acme", model=model, input_tokens=2000)
    first = governor.settle(reservation, make())
    for form in (make().model_dump(), make().model_dump_json(), make()):
        assert governor.settle(reservation, form).event_id == first.event_id


@pytest.mark.parametrize("name", OBJECTS)
def test_a_governed_function_may_return_one(governor: Governor, name: str) -> None:
    """The decorator reads what the client returned, and passes it on untouched."""
    make, model, cost, _ = OBJECTS[name]
    made = make()

    @governor.govern(model=model, tenant="acme")
    def ask(prompt: str) -> Any:
        return made

    assert ask("hi") is made
    (event,) = governor.events()
    assert (event.cost, event.estimated) == (Decimal(cost), False)


def _chat_chunks() -> list[Any]:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    deltas = [
        {**base, "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
    ] * 3
    last = {
        **base,
        "choices": [],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }
    return [chat.ChatCompletionChunk.model_validate(chunk) for chunk in (*deltas, last)]


def _message_events() -> list[Any]:
    message = _message().model_dump()
    message["content"] = []
    message["usage"].update({"output_tokens": 1})
    return [
        anthropic.RawMessageStartEvent.model_validate(
            {"type": "message_start", "message": message}
        ),
        anthropic.RawContentBlockDeltaEvent.model_validate(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "word " * 50},
            }
        ),
        anthropic.RawMessageDeltaEvent.model_validate(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 100},
            }
        ),
        anthropic.RawMessageStopEvent.model_validate({"type": "message_stop"}),
    ]


def _gemini_chunks() -> list[Any]:
    first = genai.GenerateContentResponse.model_validate(
        {
            "modelVersion": "gemini-1.5-flash",
            "candidates": [{"content": {"role": "model", "parts": [{"text": "word " * 50}]}}],
            "usageMetadata": {"promptTokenCount": 1000, "totalTokenCount": 1000},
        }
    )
    return [first, _gemini()]


STREAMS: dict[str, tuple[Any, str, str]] = {
    "openai chat": (_chat_chunks, "gpt-4o", "0.0035"),
    "anthropic message": (_message_events, "claude-3-haiku", "0.000447"),
    "gemini": (_gemini_chunks, "gemini-1.5-flash", "0.0000825"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_an_sdk_s_stream_settles_exactly(governor: Governor, name: str) -> None:
    """Chunks of the SDK's own classes, read to the end, are the exact bill."""
    make, model, cost = STREAMS[name]

    @governor.govern(model=model, tenant="acme")
    def ask(prompt: str) -> Iterator[Any]:
        yield from make()

    assert len(list(ask("hi"))) == len(make())
    (event,) = governor.events()
    assert (event.cost, event.estimated) == (Decimal(cost), False)


@pytest.mark.parametrize("name", STREAMS)
def test_an_sdk_s_stream_that_is_left_is_no_less_than_expected(
    governor: Governor, name: str
) -> None:
    """Left in the middle it is charged the estimate; left after its last usage it is exact."""
    make, model, cost = STREAMS[name]

    @governor.govern(model=model, tenant="acme")
    def ask(prompt: str, max_tokens: int = 100) -> Iterator[Any]:
        yield from make()

    stream = ask("hi")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    left, *_ = governor.events()
    assert left.estimated
    reservation = governor.explain(left.reservation_id or "")
    assert left.cost >= reservation.estimate.expected
    stream = ask("hi")
    for _ in range(len(make()) - (name == "anthropic message")):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    told = governor.events()[-1]
    assert (told.cost, told.estimated) == (Decimal(cost), False)


def test_a_completion_without_usage_is_estimated_by_its_text(governor: Governor) -> None:
    """Some servers leave the usage out: the text is counted, tool calls included."""
    completion = _chat_completion()
    completion.usage = None
    completion.choices[0].message.content = "word " * 200

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str, max_tokens: int = 1_000) -> Any:
        return completion

    ask("hi")
    (event,) = governor.events()
    assert event.estimated
    assert event.usage is not None
    assert 160 <= event.usage.output <= 400
