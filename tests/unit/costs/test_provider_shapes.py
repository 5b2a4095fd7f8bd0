"""Every provider's usage is read into the same partition."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from fluxai.core.usage import Usage

Case = tuple[str, Any, dict[str, Any]]

OPENAI: list[Case] = [
    (
        "chat: details are inside the totals",
        {
            "object": "chat.completion",
            "model": "gpt-4o",
            "choices": [],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 5},
            },
        },
        {
            "input": 50,
            "cache_read": 40,
            "audio_in": 10,
            "output": 25,
            "reasoning": 20,
            "audio_out": 5,
        },
    ),
    (
        "responses: other names, and written cache",
        {
            "object": "response",
            "usage": {
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
                "output_tokens": 9,
                "output_tokens_details": {"reasoning_tokens": 4},
                "total_tokens": 109,
            },
        },
        {"input": 50, "cache_read": 30, "cache_write_5m": 20, "output": 5, "reasoning": 4},
    ),
    (
        "embeddings: input only",
        {"object": "list", "data": [{}], "usage": {"prompt_tokens": 12, "total_tokens": 12}},
        {"input": 12},
    ),
    (
        "images: output is images, said or not",
        {
            "data": [{"b64_json": "…"}],
            "usage": {
                "input_tokens": 30,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 20},
                "output_tokens": 272,
                "total_tokens": 302,
            },
        },
        {"input": 10, "image_in": 20, "image_out": 272},
    ),
    (
        "images: text and images out",
        {
            "data": [{"b64_json": "…"}],
            "usage": {
                "input_tokens": 30,
                "input_tokens_details": {"text_tokens": 30, "image_tokens": 0},
                "output_tokens": 415,
                "output_tokens_details": {"text_tokens": 143, "image_tokens": 272},
                "total_tokens": 445,
            },
        },
        {"input": 30, "output": 143, "image_out": 272},
    ),
    (
        "images without usage: counted",
        {"created": 1, "data": [{"url": "…"}, {"url": "…"}]},
        {"requests": {"image": 2}},
    ),
    (
        "transcription by tokens",
        {
            "text": "hi",
            "usage": {
                "type": "tokens",
                "input_tokens": 37,
                "input_token_details": {"text_tokens": 0, "audio_tokens": 37},
                "output_tokens": 12,
                "total_tokens": 49,
            },
        },
        {"audio_in": 37, "output": 12},
    ),
    (
        "transcription by duration",
        {"text": "hi", "usage": {"type": "duration", "seconds": 4}},
        {"seconds": 4},
    ),
    (
        "verbose transcription: a length is all it says",
        {"text": "hi", "task": "transcribe", "duration": 8.47, "segments": []},
        {"seconds": 9},
    ),
    (
        "speech: output is audio",
        {
            "type": "speech.audio.done",
            "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115},
        },
        {"input": 14, "audio_out": 101},
    ),
    (
        "realtime: singular details, cached audio apart",
        {
            "type": "response.done",
            "response": {
                "object": "realtime.response",
                "usage": {
                    "total_tokens": 200,
                    "input_tokens": 139,
                    "output_tokens": 61,
                    "input_token_details": {
                        "text_tokens": 43,
                        "audio_tokens": 96,
                        "image_tokens": 0,
                        "cached_tokens": 64,
                        "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 64},
                    },
                    "output_token_details": {"text_tokens": 18, "audio_tokens": 43},
                },
            },
        },
        {
            "input": 43,
            "cache_read": 64,
            "details": {"cache_read_audio": 64},
            "audio_in": 32,
            "output": 18,
            "audio_out": 43,
        },
    ),
    (
        "server tools are in the output, not in the usage",
        {
            "object": "response",
            "output": [
                {"type": "web_search_call", "action": {"type": "search"}},
                {"type": "web_search_call", "action": {"type": "open_page"}},
                {"type": "file_search_call"},
                {"type": "message"},
            ],
            "usage": {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11},
        },
        {"input": 5, "output": 6, "requests": {"web_search": 1, "file_search": 1}},
    ),
    (
        "a hosted image tool's own usage is added, as its own model",
        {
            "object": "response",
            "output": [{"type": "image_generation_call", "quality": "low", "size": "1024x1024"}],
            "tools": [{"type": "image_generation", "model": "gpt-image-1.5"}],
            "tool_usage": {
                "image_gen": {
                    "input_tokens": 10,
                    "input_tokens_details": {"image_tokens": 4, "text_tokens": 6},
                    "output_tokens": 272,
                    "output_tokens_details": {"image_tokens": 272, "text_tokens": 0},
                    "total_tokens": 282,
                },
                "web_search": {"num_requests": 2},
            },
            "usage": {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11},
        },
        {
            "input": 11,
            "output": 6,
            "image_in": 4,
            "image_out": 272,
            "requests": {"web_search": 2},
            "parts": [
                [None, {"input": 5, "output": 6, "requests": {"web_search": 2}}],
                ["gpt-image-1.5", {"input": 6, "image_in": 4, "image_out": 272}],
            ],
        },
    ),
    (
        "a hosted image tool without a usage is counted by what it made",
        {
            "object": "response",
            "output": [{"type": "image_generation_call", "quality": "high", "size": "1024x1024"}],
            "tools": [{"type": "image_generation"}],
            "usage": {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11},
        },
        {
            "input": 5,
            "output": 6,
            "requests": {"image_high_1024x1024": 1},
            "parts": [
                [None, {"input": 5, "output": 6}],
                ["gpt-image-1", {"requests": {"image_high_1024x1024": 1}}],
            ],
        },
    ),
    (
        "cached images: what does not fit beside the cached tokens is among them",
        {
            "usage": {
                "prompt_tokens": 504,
                "completion_tokens": 91,
                "total_tokens": 595,
                "prompt_tokens_details": {"cached_tokens": 370, "image_tokens": 256},
            }
        },
        {"cache_read": 370, "details": {"cache_read_image": 122}, "image_in": 134, "output": 91},
    ),
    (
        "a usage given without its response",
        {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
        {"input": 7, "output": 2},
    ),
]

ANTHROPIC: list[Case] = [
    (
        "messages: input excludes the cache, output includes thinking",
        {
            "type": "message",
            "usage": {
                "input_tokens": 10,
                "cache_creation_input_tokens": 30,
                "cache_read_input_tokens": 200,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 10,
                    "ephemeral_1h_input_tokens": 20,
                },
                "output_tokens": 50,
                "output_tokens_details": {"thinking_tokens": 15},
                "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
            },
        },
        {
            "input": 10,
            "cache_read": 200,
            "cache_write_5m": 10,
            "cache_write_1h": 20,
            "output": 35,
            "reasoning": 15,
            "requests": {"web_search": 2, "web_fetch": 1},
        },
    ),
    (
        "a write without a stated time is for five minutes",
        {"usage": {"input_tokens": 1, "cache_creation_input_tokens": 9, "output_tokens": 1}},
        {"input": 1, "cache_write_5m": 9, "output": 1},
    ),
    (
        "iterations: an advisor is billed besides, as its own model",
        {
            "type": "message",
            "usage": {
                "input_tokens": 30,
                "output_tokens": 9,
                "output_tokens_details": {"thinking_tokens": 5},
                "server_tool_use": {"web_search_requests": 1},
                "iterations": [
                    {"type": "message", "input_tokens": 10, "output_tokens": 4},
                    {
                        "type": "advisor_message",
                        "model": "claude-opus-4-8",
                        "input_tokens": 40,
                        "output_tokens": 7,
                    },
                    {"type": "message", "input_tokens": 20, "output_tokens": 5},
                ],
            },
        },
        {
            "input": 70,
            "output": 11,
            "reasoning": 5,
            "requests": {"web_search": 1},
            "flags": ["iterations"],
            "parts": [
                [None, {"input": 10, "reasoning": 4, "requests": {"web_search": 1}}],
                [None, {"input": 20, "output": 4, "reasoning": 1}],
                ["claude-opus-4-8", {"input": 40, "output": 7}],
            ],
        },
    ),
    (
        "iterations: compaction may sit in the cache fields",
        {
            "usage": {
                "input_tokens": 9,
                "output_tokens": 5,
                "iterations": [
                    {
                        "type": "compaction",
                        "input_tokens": 100,
                        "cache_creation_input_tokens": 5000,
                        "output_tokens": 60,
                    },
                    {"type": "message", "input_tokens": 9, "output_tokens": 5},
                ],
            }
        },
        {
            "input": 109,
            "cache_write_5m": 5000,
            "output": 65,
            "flags": ["iterations"],
            "parts": [
                [None, {"input": 9, "output": 5}],
                [None, {"input": 100, "cache_write_5m": 5000, "output": 60}],
            ],
        },
    ),
    (
        "a large search loop is split, so that no pass is judged by the sum",
        {
            "usage": {
                "input_tokens": 300_000,
                "output_tokens": 10,
                "server_tool_use": {"web_search_requests": 2},
            }
        },
        {
            "input": 300_000,
            "output": 10,
            "requests": {"web_search": 2},
            "flags": ["search_loop"],
            "parts": [
                [None, {"input": 100_000, "output": 10, "requests": {"web_search": 2}}],
                [None, {"input": 100_000}],
                [None, {"input": 100_000}],
            ],
        },
    ),
    ("counting tokens uses none", {"input_tokens": 14}, {"flags": ["token_count"]}),
]

GOOGLE: list[Case] = [
    (
        "prompt includes cached, candidates exclude thoughts, tool results come on top",
        {
            "usageMetadata": {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 60,
                "candidatesTokenCount": 20,
                "thoughtsTokenCount": 30,
                "toolUsePromptTokenCount": 11,
                "totalTokenCount": 161,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 70},
                    {"modality": "AUDIO", "tokenCount": 20},
                    {"modality": "AUDIO", "tokenCount": 10},
                ],
                "cacheTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 50},
                    {"modality": "AUDIO", "tokenCount": 10},
                ],
            }
        },
        {
            "input": 31,
            "cache_read": 60,
            "details": {"cache_read_audio": 10},
            "audio_in": 20,
            "output": 20,
            "reasoning": 30,
        },
    ),
    (
        "Vertex states a modality by number",
        {
            "usage_metadata": {
                "prompt_token_count": 50,
                "candidates_token_count": 5,
                "total_token_count": 55,
                "prompt_tokens_details": [
                    {"modality": 1, "token_count": 20},
                    {"modality": 2, "token_count": 10},
                    {"modality": 3, "token_count": 15},
                    {"modality": 4, "token_count": 5},
                ],
            }
        },
        {"input": 20, "image_in": 25, "details": {"video_in": 15}, "audio_in": 5, "output": 5},
    ),
    (
        "images and video out",
        {
            "usageMetadata": {
                "promptTokenCount": 5,
                "candidatesTokenCount": 1300,
                "totalTokenCount": 1305,
                "candidatesTokensDetails": [
                    {"modality": "IMAGE", "tokenCount": 1290},
                    {"modality": "TEXT", "tokenCount": 10},
                ],
            }
        },
        {"input": 5, "output": 10, "image_out": 1290},
    ),
    (
        "Live says response",
        {
            "serverContent": {"turnComplete": True},
            "usageMetadata": {
                "promptTokenCount": 32,
                "responseTokenCount": 87,
                "totalTokenCount": 119,
                "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 75}],
            },
        },
        {"input": 32, "output": 12, "audio_out": 75},
    ),
    (
        "the legacy package leaves thoughts out, but its total has them",
        {
            "usage_metadata": {
                "prompt_token_count": 10,
                "candidates_token_count": 5,
                "total_token_count": 45,
            }
        },
        {"input": 10, "output": 5, "reasoning": 30, "flags": ["reasoning_inferred"]},
    ),
    (
        "candidates may be absent",
        {"usageMetadata": {"promptTokenCount": 10, "totalTokenCount": 10}},
        {"input": 10},
    ),
    (
        "a context cache that was made",
        {"name": "cachedContents/1", "usageMetadata": {"totalTokenCount": 5000}},
        {"input": 5000},
    ),
    ("a blocked prompt used nothing", {"usageMetadata": {"trafficType": "ON_DEMAND"}}, {}),
    (
        "Vertex embeddings state their own tokens",
        {
            "predictions": [
                {"embeddings": {"statistics": {"token_count": 12}, "values": [0.1]}},
                {"embeddings": {"statistics": {"token_count": 3}, "values": [0.1]}},
            ],
            "metadata": {"billableCharacterCount": 62},
        },
        {"input": 15},
    ),
    (
        "Imagen",
        {"predictions": [{"bytesBase64Encoded": "…", "mimeType": "image/png"}]},
        {"requests": {"image": 1}},
    ),
    ("counting tokens uses none", {"totalTokens": 8}, {"flags": ["token_count"]}),
]

BEDROCK: list[Case] = [
    (
        "Converse: input excludes the cache, and names that appear twice count once",
        {
            "output": {"message": {}},
            "usage": {
                "inputTokens": 10,
                "outputTokens": 20,
                "totalTokens": 130,
                "cacheReadInputTokens": 60,
                "cacheReadInputTokenCount": 60,
                "cacheWriteInputTokens": 40,
                "cacheWriteInputTokenCount": 40,
                "cacheDetails": [
                    {"ttl": "5m", "inputTokens": 15},
                    {"ttl": "1h", "inputTokens": 25},
                ],
            },
        },
        {
            "input": 10,
            "cache_read": 60,
            "cache_write_5m": 15,
            "cache_write_1h": 25,
            "output": 20,
        },
    ),
    (
        "InvokeModel's metrics",
        {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 8, "outputTokenCount": 9}},
        {"input": 8, "output": 9},
    ),
    (
        "Titan",
        {"inputTextTokenCount": 5, "results": [{"tokenCount": 30, "outputText": "…"}]},
        {"input": 5, "output": 30},
    ),
    (
        "Llama",
        {"generation": "…", "prompt_token_count": 6, "generation_token_count": 11},
        {"input": 6, "output": 11},
    ),
    (
        "embeddings that state their tokens in a header only",
        {
            "ResponseMetadata": {"HTTPHeaders": {"x-amzn-bedrock-input-token-count": "7"}},
            "body": "…",
        },
        {"input": 7},
    ),
]

OTHERS: list[Case] = [
    (
        "xAI over gRPC: reasoning is beside the completion",
        {
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "reasoning_tokens": 40,
                "total_tokens": 145,
                "prompt_text_tokens": 80,
                "prompt_image_tokens": 20,
                "cached_prompt_text_tokens": 60,
                "cost_in_usd_ticks": "12345600",
                "server_side_tools_used": ["SERVER_SIDE_TOOL_WEB_SEARCH", "SERVER_SIDE_TOOL_MCP"],
            }
        },
        {
            "input": 20,
            "cache_read": 60,
            "image_in": 20,
            "output": 5,
            "reasoning": 40,
            "requests": {"web_search": 1},
            "provider_cost": "0.00123456",
        },
    ),
    (
        "xAI's voice bills seconds",
        {
            "type": "response.done",
            "usage": {
                "input_tokens": 7,
                "input_token_details": {"text_tokens": 7, "audio_tokens": 0},
                "output_tokens": 84,
                "output_token_details": {"text_tokens": 7, "audio_tokens": 77},
                "total_tokens": 91,
                "billable_audio_seconds": 1,
            },
        },
        {"input": 7, "output": 7, "audio_out": 77, "seconds": 1},
    ),
    (
        "Grok at a reseller: cached exceeds the prompt, and its zero cost says nothing",
        {
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 3,
                "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 161},
                "cost_in_usd_ticks": 0,
            }
        },
        {"cache_read": 10, "output": 3, "flags": ["clamped"]},
    ),
    (
        "Mistral",
        {
            "usage": {
                "prompt_tokens": 64,
                "completion_tokens": 6,
                "total_tokens": 70,
                "num_cached_tokens": 32,
            }
        },
        {"input": 32, "cache_read": 32, "output": 6},
    ),
    (
        "Mistral's transcription: audio is beside the prompt",
        {
            "usage": {
                "prompt_audio_seconds": 3,
                "prompt_tokens": 5,
                "completion_tokens": 11,
                "total_tokens": 391,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 375},
            }
        },
        {"input": 5, "audio_in": 375, "output": 11, "seconds": 3},
    ),
    (
        "Mistral's document processing",
        {"pages": [], "usage_info": {"pages_processed": 2, "doc_size_bytes": 999}},
        {"requests": {"page": 2}},
    ),
    (
        "Groq's compound systems: each model of the breakdown is a part",
        {
            "model": "groq/compound",
            "choices": [],
            "usage": {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40},
            "usage_breakdown": {
                "models": [
                    {"model": "a", "usage": {"prompt_tokens": 10, "completion_tokens": 4}},
                    {"model": "b", "usage": {"prompt_tokens": 20, "completion_tokens": 6}},
                ]
            },
        },
        {
            "input": 30,
            "output": 10,
            "parts": [["a", {"input": 10, "output": 4}], ["b", {"input": 20, "output": 6}]],
        },
    ),
    (
        "DeepSeek: cache hits are inside the prompt",
        {
            "usage": {
                "prompt_tokens": 50,
                "completion_tokens": 5,
                "total_tokens": 55,
                "prompt_cache_hit_tokens": 30,
                "prompt_cache_miss_tokens": 20,
            }
        },
        {"input": 20, "cache_read": 30, "output": 5},
    ),
    (
        "Cohere bills what it calls billed units",
        {
            "usage": {
                "billed_units": {"input_tokens": 7.0, "output_tokens": 2.0},
                "tokens": {"input_tokens": 70, "output_tokens": 9},
            }
        },
        {"input": 7, "output": 2},
    ),
    (
        "Cohere's searches",
        {"results": [], "meta": {"billed_units": {"search_units": 1}}},
        {"requests": {"rerank": 1}},
    ),
    (
        "Cohere v1",
        {"text": "…", "meta": {"billed_units": {"input_tokens": 5, "output_tokens": 6}}},
        {"input": 5, "output": 6},
    ),
    (
        "Together",
        {
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "total_tokens": 10,
                "cached_tokens": 4,
            }
        },
        {"input": 5, "cache_read": 4, "output": 1},
    ),
    ("Voyage", {"object": "list", "usage": {"total_tokens": 8}}, {"input": 8}),
    (
        "OpenRouter",
        {
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "total_tokens": 10,
                "cost": 0.00123,
                "is_byok": False,
                "cost_details": {"upstream_inference_cost": None},
                "prompt_tokens_details": {"cached_tokens": 0, "video_tokens": 3},
            }
        },
        {
            "input": 6,
            "image_in": 3,
            "details": {"video_in": 3},
            "output": 1,
            "provider_cost": "0.00123",
        },
    ),
    (
        "OpenRouter with the user's own key: the upstream charges besides",
        {
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "total_tokens": 10,
                "cost": 0.0001,
                "is_byok": True,
                "cost_details": {"upstream_inference_cost": 0.004},
            }
        },
        {"input": 9, "output": 1, "provider_cost": "0.0041", "flags": ["byok"]},
    ),
    (
        "Perplexity",
        {
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "total_tokens": 10,
                "search_context_size": "low",
                "cost": {"request_cost": 0.005, "total_cost": 0.00507},
            }
        },
        {
            "input": 9,
            "output": 1,
            "requests": {"request_low": 1},
            "provider_cost": "0.00507",
        },
    ),
    ("Ollama", {"prompt_eval_count": 5, "eval_count": 7}, {"input": 5, "output": 7}),
    ("Replicate", {"status": "succeeded", "metrics": {"predict_time": 2.5}}, {"seconds": "2.5"}),
    (
        "LangChain's messages",
        {
            "usage_metadata": {
                "input_tokens": 10,
                "output_tokens": 4,
                "total_tokens": 14,
                "input_token_details": {"cache_read": 6},
                "output_token_details": {"reasoning": 1},
            }
        },
        {"input": 4, "cache_read": 6, "output": 3, "reasoning": 1},
    ),
    ("an error", {"error": {"message": "no", "code": 401}}, {"flags": ["error"]}),
    ("Bedrock's error", {"message": "The provided model is invalid."}, {"flags": ["error"]}),
    ("Mistral's error", {"detail": "Invalid API Key"}, {"flags": ["error"]}),
    ("moderation is free", {"id": "modr-1", "results": []}, {"flags": ["free_endpoint"]}),
    ("an upload is free", {"object": "file", "id": "file-1"}, {"flags": ["free_endpoint"]}),
    (
        "a list of models is free",
        {"object": "list", "data": [{"object": "model", "id": "x"}]},
        {"flags": ["free_endpoint"]},
    ),
    ("nothing said", {"object": "chat.completion", "choices": []}, {"flags": ["no_usage"]}),
]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        pytest.param(response, expected, id=f"{family}: {name}")
        for family, cases in {
            "OpenAI": OPENAI,
            "Anthropic": ANTHROPIC,
            "Google": GOOGLE,
            "Bedrock": BEDROCK,
            "others": OTHERS,
        }.items()
        for name, response, expected in cases
    ],
)
def test_usage_is_what_the_provider_says(response: Any, expected: dict[str, Any]) -> None:
    """Each shape gives its own numbers, as a dict, as JSON text and as bytes."""
    assert Usage.parse(response).to_dict() == expected
    assert Usage.parse(json.dumps(response)).to_dict() == expected
    assert Usage.parse(json.dumps(response).encode()).to_dict() == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [pytest.param(response, expected, id=name) for name, response, expected in ANTHROPIC],
)
def test_parts_make_up_the_whole(response: Any, expected: dict[str, Any]) -> None:
    """The parts of a call sum to its usage: nothing is priced twice, nothing is left out."""
    usage = Usage.parse(response)
    if usage.parts:
        total = usage.parts[0][1]
        for _, part in usage.parts[1:]:
            total = total + part
        assert total.to_dict() == {k: v for k, v in expected.items() if k not in {"parts", "flags"}}


@pytest.mark.parametrize("response", [None, 7, "hello", b"\x00\xff", [], {}, [None, "[DONE]"]])
def test_what_is_no_response_is_flagged(response: object) -> None:
    """A thing without any recognisable shape is no usage, and says so."""
    assert Usage.parse(response).flags == ("no_usage",)


def test_numbers_in_any_writing() -> None:
    """Whole floats and numeric text are numbers; what is not a number is clamped and flagged."""
    usage = Usage.parse({"usage": {"prompt_tokens": "12", "completion_tokens": 3.0}})
    assert usage == Usage(input=12, output=3)
    odd = Usage.parse({"usage": {"prompt_tokens": -5, "completion_tokens": float("inf")}})
    assert odd.flags == ("clamped",)
    assert odd.input == 0
    assert odd.output == 10**12
    assert Usage.parse({"usage": {"prompt_tokens": True, "completion_tokens": 1}}).input == 0


def test_a_usage_is_itself() -> None:
    """Parsing what was parsed changes nothing."""
    usage = Usage(input=3, provider_cost=Decimal("0.1"))
    assert Usage.parse(usage) is usage
