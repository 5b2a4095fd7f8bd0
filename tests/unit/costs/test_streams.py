"""A stream's chunks become one response: overlaid in order, never summed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fluxai.core.usage import Usage
from fluxai.costs.reading import read

CHAT = [
    {"id": "c", "model": "gpt-4o", "choices": [{"delta": {"content": "hi"}}], "usage": None},
    {
        "id": "c",
        "model": "gpt-4o",
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    },
]
RESPONSES = [
    {"type": "response.created", "response": {"model": "o4-mini", "output": [], "usage": None}},
    {"type": "response.output_text.delta", "delta": "hi"},
    {
        "type": "response.incomplete",
        "response": {
            "model": "o4-mini",
            "service_tier": "flex",
            "created_at": 1_750_000_000,
            "output": [{"type": "web_search_call"}],
            "usage": {
                "input_tokens": 9,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 2,
                "total_tokens": 11,
            },
        },
    },
]
ANTHROPIC = [
    {
        "type": "message_start",
        "message": {
            "type": "message",
            "model": "claude-sonnet-4-5",
            "usage": {
                "input_tokens": 9,
                "cache_creation_input_tokens": 4,
                "cache_creation": {"ephemeral_1h_input_tokens": 4, "ephemeral_5m_input_tokens": 0},
                "cache_read_input_tokens": 5,
                "output_tokens": 1,
                "service_tier": "batch",
            },
        },
    },
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 12}},
    {"type": "message_stop"},
]
GEMINI = [
    {"modelVersion": "gemini-2.5-flash", "usageMetadata": {"promptTokenCount": 9}},
    {
        "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12},
    },
    {
        "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 8, "totalTokenCount": 17},
    },
]
CASES: dict[str, tuple[list[Any], str | None, dict[str, Any]]] = {
    "chat: a last chunk without choices": (CHAT, "gpt-4o", {"input": 9, "output": 2}),
    "responses: the last event carries it": (
        RESPONSES,
        "o4-mini",
        {"input": 9, "output": 2, "requests": {"web_search": 1}},
    ),
    "Anthropic: start and delta": (
        ANTHROPIC,
        "claude-sonnet-4-5",
        {"input": 9, "cache_read": 5, "cache_write_1h": 4, "output": 12},
    ),
    "Gemini: growing, the last wins": (GEMINI, "gemini-2.5-flash", {"input": 9, "output": 8}),
    "Groq: in x_groq": (
        [
            {"model": "llama", "choices": [], "x_groq": {"id": "r"}},
            {
                "model": "llama",
                "choices": [{}],
                "x_groq": {"id": "r", "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
            },
        ],
        "llama",
        {"input": 5, "output": 2},
    ),
    "Perplexity: growing in every chunk": (
        [
            {"model": "sonar", "usage": {"prompt_tokens": 5, "completion_tokens": 1}},
            {"model": "sonar", "usage": {"prompt_tokens": 5, "completion_tokens": 9}},
        ],
        "sonar",
        {"input": 5, "output": 9},
    ),
    "Cohere: message-end": (
        [
            {"type": "content-delta", "delta": {"message": {}}},
            {
                "type": "message-end",
                "delta": {"usage": {"billed_units": {"input_tokens": 5, "output_tokens": 2}}},
            },
        ],
        None,
        {"input": 5, "output": 2},
    ),
    "Cohere v1: stream-end": (
        [
            {"event_type": "text-generation", "text": "hi"},
            {
                "event_type": "stream-end",
                "response": {"meta": {"billed_units": {"input_tokens": 5, "output_tokens": 2}}},
            },
        ],
        None,
        {"input": 5, "output": 2},
    ),
    "Bedrock Converse: the metadata event": (
        [
            {"messageStart": {"role": "assistant"}},
            {"metadata": {"usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7}}},
        ],
        None,
        {"input": 5, "output": 2},
    ),
    "Bedrock InvokeModel: bytes in chunks": (
        [
            {"chunk": {"bytes": json.dumps(event).encode()}}
            for event in (
                *ANTHROPIC[:3],
                {
                    "type": "message_stop",
                    "amazon-bedrock-invocationMetrics": {
                        "inputTokenCount": 18,
                        "outputTokenCount": 12,
                    },
                },
            )
        ],
        "claude-sonnet-4-5",
        {"input": 9, "cache_read": 5, "cache_write_1h": 4, "output": 12},
    ),
    "Bedrock InvokeModel: metrics in the last chunk": (
        [
            {"outputText": "hi", "index": 0},
            {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 5, "outputTokenCount": 2}},
        ],
        None,
        {"input": 5, "output": 2},
    ),
    "Ollama: the last line": (
        [
            {"model": "llama3", "done": False},
            {"model": "llama3", "done": True, "prompt_eval_count": 5, "eval_count": 2},
        ],
        "llama3",
        {"input": 5, "output": 2},
    ),
}


@pytest.mark.parametrize(("chunks", "model", "expected"), CASES.values(), ids=CASES)
def test_last_statement_of_each_number_holds(
    chunks: list[Any], model: str | None, expected: dict[str, Any]
) -> None:
    """Chunks give the usage that the provider ended with, and the model that answered."""
    reading = read(chunks)
    assert reading.usage.to_dict() == expected
    assert reading.model == model
    assert read([*chunks, "[DONE]"]).usage.to_dict() == expected


@pytest.mark.parametrize("chunks", [CHAT, RESPONSES, ANTHROPIC, GEMINI])
def test_streams_as_text(chunks: list[Any]) -> None:
    """Server-sent events and lines of JSON are read like the chunks they hold."""
    expected = Usage.parse(chunks)
    events = "".join(f"event: x\ndata: {json.dumps(chunk)}\n\n" for chunk in chunks)
    assert Usage.parse(events + "data: [DONE]\n\n") == expected
    assert Usage.parse("\n".join(json.dumps(chunk) for chunk in chunks).encode()) == expected
    assert Usage.parse(json.dumps(chunks)) == expected


def test_a_stream_without_usage_says_so() -> None:
    """A stream that ended without usage is not taken for a free call."""
    assert read(CHAT[:1]).usage.flags == ("no_usage",)


def test_tier_and_time_come_from_the_stream() -> None:
    """What else the price depends on is read from the chunks too."""
    assert (read(RESPONSES).tier, read(RESPONSES).at_us) == ("flex", 1_750_000_000_000_000)
    assert read(ANTHROPIC).tier == "batch"


REALTIME = [
    {"type": "session.created", "session": {"model": "gpt-realtime"}},
    {
        "type": "response.done",
        "response": {"id": "a", "usage": {"input_tokens": 10, "output_tokens": 2}},
    },
    {
        "type": "conversation.item.input_audio_transcription.completed",
        "usage": {"type": "duration", "seconds": 3},
    },
    {
        "type": "response.done",
        "response": {"id": "b", "usage": {"input_tokens": 20, "output_tokens": 4}},
    },
]


def test_a_realtime_session_is_several_calls() -> None:
    """Each finished response of a session is billed, so here usages are summed."""
    usage = Usage.parse(REALTIME)
    assert (usage.input, usage.output, usage.seconds) == (30, 6, 3)
    assert [part.total for _, part in usage.parts] == [12, 0, 24]


def test_an_agents_trace_is_several_calls() -> None:
    """Each model invocation of a Bedrock agent is billed."""
    trace = [
        {
            "trace": {
                "orchestrationTrace": {
                    "modelInvocationOutput": {
                        "metadata": {"usage": {"inputTokens": n, "outputTokens": 1}}
                    }
                }
            }
        }
        for n in (10, 20)
    ]
    usage = Usage.parse([trace[0], {"trace": {"orchestrationTrace": {"rationale": {}}}}, trace[1]])
    assert (usage.input, usage.output) == (30, 2)


BATCHES: dict[str, Any] = {
    "OpenAI": [
        {
            "custom_id": str(n),
            "response": {
                "status_code": 200,
                "body": {
                    "model": "gpt-4o",
                    "usage": {"prompt_tokens": n, "completion_tokens": 1, "total_tokens": n + 1},
                },
            },
        }
        for n in (10, 20)
    ],
    "Anthropic": [
        {
            "custom_id": str(n),
            "result": {
                "type": "succeeded",
                "message": {
                    "type": "message",
                    "model": "gpt-4o",
                    "usage": {"input_tokens": n, "output_tokens": 1},
                },
            },
        }
        for n in (10, 20)
    ],
    "Gemini": {
        "name": "batches/1",
        "done": True,
        "response": {
            "inlinedResponses": {
                "inlinedResponses": [
                    {
                        "response": {
                            "modelVersion": "gpt-4o",
                            "usageMetadata": {"promptTokenCount": n, "candidatesTokenCount": 1},
                        }
                    }
                    for n in (10, 20)
                ]
            }
        },
    },
    "xAI": {
        "results": [
            {
                "batch_result": {
                    "response": {
                        "chat_get_completion": {
                            "model": "gpt-4o",
                            "usage": {"prompt_tokens": n, "completion_tokens": 1},
                        }
                    }
                }
            }
            for n in (10, 20)
        ]
    },
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_a_batch_is_several_calls_at_the_batch_tier(batch: Any) -> None:
    """Every result of a batch is counted, and priced as a batch."""
    reading = read(batch)
    assert (reading.usage.input, reading.usage.output) == (30, 2)
    assert (reading.tier, reading.model) == ("batch", "gpt-4o")


def test_a_batch_object_is_at_the_batch_tier() -> None:
    """OpenAI's batch object sums its usage itself."""
    batch = {"object": "batch", "usage": {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}}
    assert read(batch).tier == "batch"
