"""Objects of the providers' SDKs are read like the JSON they came from."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic.types import Message, RawMessageDeltaEvent, RawMessageStartEvent
from google.genai.types import CountTokensResponse, GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from fluxai.core.usage import Usage
from fluxai.costs.reading import read

CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1_750_000_000,
    "model": "gpt-4o",
    "choices": [],
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "cost": 0.001,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 20},
    },
}
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 10,
        "cache_creation_input_tokens": 9,
        "cache_read_input_tokens": 5,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 6},
        "output_tokens": 7,
        "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
        "service_tier": "batch",
    },
}
CONTENT = {
    "candidates": [],
    "modelVersion": "gemini-2.5-flash",
    "createTime": "2026-05-01T10:00:00Z",
    "usageMetadata": {
        "promptTokenCount": 30,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 4,
        "totalTokenCount": 39,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 10},
            {"modality": "AUDIO", "tokenCount": 20},
        ],
    },
}


def _same(one: Any, two: Any) -> None:
    first, second = read(one), read(two)
    assert first.usage == second.usage
    assert first.usage.total
    for name in ("provider", "model", "at_us", "tier"):
        assert getattr(first, name) == getattr(second, name)


def test_openai_chat_completion() -> None:
    """A chat completion object, with the fields that OpenRouter adds."""
    _same(ChatCompletion.model_validate(CHAT), CHAT)
    assert Usage.parse(ChatCompletion.model_validate(CHAT)).provider_cost is not None


def test_openai_stream() -> None:
    """Chunk objects of a chat completion stream."""
    chunk = {**CHAT, "object": "chat.completion.chunk"}
    _same([ChatCompletionChunk.model_validate(chunk)] * 2, [chunk] * 2)


def test_openai_response() -> None:
    """A Responses API object with a server tool in its output."""
    body = {
        "id": "r",
        "object": "response",
        "created_at": 1_750_000_000.0,
        "model": "gpt-5",
        "output": [
            {
                "type": "web_search_call",
                "id": "w",
                "status": "completed",
                "action": {"type": "search", "query": "x", "queries": None, "sources": None},
            }
        ],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 14,
        },
    }
    response = Response.model_validate(body)
    _same(response, body)
    assert Usage.parse(response).requests == {"web_search": 1}


def test_anthropic_message_and_stream() -> None:
    """A message object, and the events of a stream."""
    _same(Message.model_validate(MESSAGE), MESSAGE)
    start = {"type": "message_start", "message": MESSAGE}
    delta = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 42},
    }
    events = [
        RawMessageStartEvent.model_validate(start),
        RawMessageDeltaEvent.model_validate(delta),
    ]
    _same(events, [start, delta])
    assert Usage.parse(events).output == 42


def test_gemini_response() -> None:
    """google-genai's objects, with names in the other spelling and enumerations."""
    response = GenerateContentResponse.model_validate(CONTENT)
    _same(response, CONTENT)
    assert Usage.parse([response, response]).audio_in == 20


def test_gemini_token_count_uses_nothing() -> None:
    """The answer of a counting endpoint is not a usage."""
    counted = CountTokensResponse(total_tokens=12)
    assert Usage.parse(counted).flags == ("token_count",)


class _Enumeration:
    def __init__(self, names: dict[int, str]) -> None:
        self.values_by_number = {n: SimpleNamespace(name=name) for n, name in names.items()}


class _Field:
    def __init__(self, name: str, enum_type: _Enumeration | None = None) -> None:
        self.name = name
        self.enum_type = enum_type


_TOOLS = _Enumeration({1: "SERVER_SIDE_TOOL_WEB_SEARCH", 7: "SERVER_SIDE_TOOL_MCP"})


class _XaiUsage:
    """What a protobuf message looks like: described fields, and no `__dict__`."""

    __slots__ = ()

    DESCRIPTOR = SimpleNamespace(
        fields=[
            _Field("prompt_tokens"),
            _Field("completion_tokens"),
            _Field("reasoning_tokens"),
            _Field("total_tokens"),
            _Field("server_side_tools_used", _TOOLS),
        ]
    )
    prompt_tokens = 10
    completion_tokens = 2
    reasoning_tokens = 5
    total_tokens = 17
    server_side_tools_used = (1, 7, 99)


def test_protobuf_messages() -> None:
    """Protobuf messages, as the SDK of xAI returns, have numbers for enumerations."""
    usage = Usage.parse(SimpleNamespace(usage=_XaiUsage(), model="grok-4"))
    assert usage.to_dict() == {
        "input": 10,
        "output": 2,
        "reasoning": 5,
        "requests": {"web_search": 1},
    }


class _ProtoPlus:
    """What proto-plus, and so the legacy Gemini package, wraps a message in."""

    def __init__(self, **values: Any) -> None:
        described = [_Field(name) for name in values]
        self._pb = SimpleNamespace(DESCRIPTOR=SimpleNamespace(fields=described), **values)


class _LegacyResponse:
    """The legacy Gemini package's response: its fields are properties."""

    @property
    def usage_metadata(self) -> _ProtoPlus:
        return _ProtoPlus(
            prompt_token_count=10,
            candidates_token_count=5,
            total_token_count=20,
            cached_content_token_count=0,
        )

    @property
    def text(self) -> str:
        raise ValueError("no candidates")


def test_legacy_gemini_response() -> None:
    """The legacy package is read too, and a property that fails does no harm."""
    usage = Usage.parse(_LegacyResponse())
    assert (usage.input, usage.output, usage.reasoning) == (10, 5, 5)


@dataclass(slots=True)
class _Counts:
    input_tokens: int = 7
    output_tokens: int = 3


def test_plain_objects() -> None:
    """Dataclasses and namespaces are objects like any other."""
    assert Usage.parse(SimpleNamespace(usage=_Counts())) == Usage(input=7, output=3)


class _Unset:
    """A placeholder that some SDKs put where nothing was sent."""


def test_placeholders_are_no_numbers() -> None:
    """A field that was not sent is zero and not odd."""
    usage = Usage.parse({"usage": {"prompt_tokens": 3, "completion_tokens": _Unset()}})
    assert usage == Usage(input=3)


def test_raw_http_response() -> None:
    """A raw response is read through its body."""
    raw = SimpleNamespace(
        status_code=200, content=b'{"usage": {"prompt_tokens": 3, "completion_tokens": 1}}'
    )
    assert Usage.parse(raw) == Usage(input=3, output=1)


class _Broken:
    @property
    def usage(self) -> object:
        raise RuntimeError("connection lost")


def test_an_object_that_fails_is_no_usage() -> None:
    """An object whose properties fail is flagged, and raises nothing."""
    assert Usage.parse(_Broken()).flags == ("no_usage",)


@pytest.mark.parametrize("provider", [None, "openai", "azure", "no-such-provider"])
def test_provider_hint_does_not_change_numbers(provider: str | None) -> None:
    """Whose response it is said to be changes the price, not the usage."""
    assert Usage.parse(CHAT, provider=provider) == Usage.parse(CHAT)
