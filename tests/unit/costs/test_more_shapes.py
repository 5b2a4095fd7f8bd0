"""Shapes that are documented by providers and their SDKs, and seldom met."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types.beta import BetaMessage
from anthropic.types.messages import MessageBatchIndividualResponse
from google.genai import types as genai
from openai.types.realtime import ResponseDoneEvent

from fluxai import CostEstimator, Usage

CHAT = {
    "object": "chat.completion",
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [],
    "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
}
OPENAI_LINE = {
    "id": "batch_req_1",
    "custom_id": "r1",
    "response": {"status_code": 200, "request_id": "x", "body": CHAT},
    "error": None,
}
CLAUDE_LINE = {
    "custom_id": "a",
    "result": {
        "type": "succeeded",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": "claude-sonnet-4-5-20250929",
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1000, "output_tokens": 500},
        },
    },
}


@pytest.mark.parametrize(
    ("line", "total"),
    [
        (OPENAI_LINE, "0.0000225"),
        ([OPENAI_LINE], "0.0000225"),
        (json.dumps(OPENAI_LINE).encode(), "0.0000225"),
        ([OPENAI_LINE, OPENAI_LINE], "0.000045"),
        (CLAUDE_LINE, "0.00525"),
        (MessageBatchIndividualResponse.model_validate(CLAUDE_LINE), "0.00525"),
        ([CLAUDE_LINE, {"custom_id": "b", "result": {"type": "expired"}}], "0.00525"),
    ],
    ids=["OpenAI", "a list of one", "bytes", "two", "Anthropic", "as an object", "one expired"],
)
def test_a_line_of_a_batch_is_priced_as_batch(line: Any, total: str) -> None:
    """Also when the lines of a results file are handed over one by one."""
    assert f"{CostEstimator().cost(line).total:f}".rstrip("0") == total


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": "r1", "response": None, "error": {"code": "x", "message": "y"}},
        {"custom_id": "a", "result": {"type": "errored", "error": {"type": "api_error"}}},
        {"custom_id": "a", "result": {"type": "expired"}},
        {"custom_id": "a", "result": {"type": "canceled"}},
    ],
)
def test_a_request_of_a_batch_that_did_not_run_is_free(line: dict[str, Any]) -> None:
    """The provider charges nothing for it, and the flag says that this is why."""
    cost = CostEstimator().cost(line)
    assert (cost.nanousd, cost.flags, cost.priced) == (0, ("error",), True)


SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Bedrock's metrics say more than the chunk they end": (
        [
            {"generation": "a"},
            {
                "generation": "b",
                "generation_token_count": 5,
                "amazon-bedrock-invocationMetrics": {"inputTokenCount": 9, "outputTokenCount": 5},
            },
        ],
        {"input": 9, "output": 5},
    ),
    "Bedrock's headers state cached tokens apart": (
        {
            "ResponseMetadata": {
                "HTTPHeaders": {
                    "x-amzn-bedrock-input-token-count": "8",
                    "x-amzn-bedrock-output-token-count": "3",
                    "x-amzn-bedrock-cache-read-input-token-count": "40",
                    "x-amzn-bedrock-cache-write-input-token-count": "7",
                }
            }
        },
        {"input": 8, "cache_read": 40, "cache_write_5m": 7, "output": 3},
    ),
    "Moonshot's streams state usage with the choice": (
        [
            {"model": "kimi-k2", "choices": [{"delta": {"content": "hi"}}]},
            {
                "model": "kimi-k2",
                "choices": [
                    {
                        "delta": {},
                        "finish_reason": "stop",
                        "usage": {
                            "prompt_tokens": 100,
                            "completion_tokens": 5,
                            "total_tokens": 105,
                            "cached_tokens": 60,
                        },
                    }
                ],
            },
        ],
        {"input": 40, "cache_read": 60, "output": 5},
    ),
    "Perplexity's research reasons beside the completion": (
        {
            "model": "sonar-deep-research",
            "usage": {
                "prompt_tokens": 19,
                "completion_tokens": 498,
                "total_tokens": 517,
                "citation_tokens": 100,
                "num_search_queries": 48,
                "reasoning_tokens": 95_305,
            },
        },
        {
            "input": 19,
            "output": 498,
            "reasoning": 95_305,
            "requests": {"web_search": 48, "citation": 100},
        },
    ),
    "the Gemini SDK's images": (
        genai.GenerateImagesResponse(
            generated_images=[
                genai.GeneratedImage(image=genai.Image(image_bytes=b"x")),
                genai.GeneratedImage(rai_filtered_reason="unsafe"),
            ]
        ),
        {"requests": {"image": 1}},
    ),
    "images of models on Bedrock": ({"images": ["aGk=", "aGk="]}, {"requests": {"image": 2}}),
    "Stability's images": ({"artifacts": [{"base64": "aGk="}]}, {"requests": {"image": 1}}),
    "Gemini Live, as an object": (
        genai.LiveServerMessage.model_validate(
            {
                "usageMetadata": {
                    "promptTokenCount": 100,
                    "responseTokenCount": 50,
                    "totalTokenCount": 150,
                    "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 80}],
                    "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 50}],
                }
            }
        ),
        {"input": 20, "audio_in": 80, "audio_out": 50},
    ),
    "a realtime event, as an object": (
        ResponseDoneEvent.model_validate(
            {
                "type": "response.done",
                "event_id": "e",
                "response": {
                    "usage": {
                        "total_tokens": 253,
                        "input_tokens": 132,
                        "output_tokens": 121,
                        "input_token_details": {
                            "text_tokens": 119,
                            "audio_tokens": 13,
                            "cached_tokens": 64,
                            "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 4},
                        },
                        "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
                    }
                },
            }
        ),
        {
            "input": 59,
            "cache_read": 64,
            "output": 30,
            "audio_in": 9,
            "audio_out": 91,
            "details": {"cache_read_audio": 4},
        },
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_documented_shape_is_read(name: str) -> None:
    """Each kind of token is where the provider's documentation puts it."""
    response, expected = SHAPES[name]
    assert Usage.parse(response).to_dict() == expected


def _fallback(*, within: bool) -> dict[str, Any]:
    """Return an answer of a fallback model, whose last pass is in the totals or beside them."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-sonnet-4-5",
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 1000 + 1000 * within,
            "output_tokens": 10 + 100 * within,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "iterations": [
                {
                    "type": "message",
                    "model": "claude-opus-4-1",
                    "input_tokens": 1000,
                    "output_tokens": 10,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 0,
                },
                {
                    "type": "fallback_message",
                    "model": "claude-sonnet-4-5",
                    "input_tokens": 1000,
                    "output_tokens": 100,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 0,
                },
            ],
        },
    }


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("form", [dict, BetaMessage.model_validate])
def test_a_fallback_pays_each_pass_at_its_own_model(form: Any, within: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    """What was declined is billed at the model that was asked, the rest at the one that answered."""
    cost = CostEstimator().cost(form(_fallback(within=within)), "anthropic")
    assert (cost.usage.input, cost.usage.output) == (2000, 110)
    # 1000 × $15 + 10 × $75 + 1000 × $3 + 100 × $15, per million
    assert f"{cost.total:f}".rstrip("0") == "0.02025"
