"""Searches that a provider runs are charged besides the tokens, and none is forgotten."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from fluxai import CostEstimator

AT = datetime(2026, 9, 1, tzinfo=UTC)


def responses_api(model: str, tool: str) -> dict[str, Any]:
    """Return a response that searched once."""
    return {
        "object": "response",
        "model": model,
        "output": [{"type": "web_search_call", "action": {"type": "search"}}],
        "tools": [{"type": tool}],
        "usage": {"input_tokens": 0, "output_tokens": 100, "total_tokens": 100},
    }


@pytest.mark.parametrize(
    ("model", "tool", "fee"),
    [
        ("gpt-5", "web_search", "0.01"),
        ("gpt-5", "web_search_preview_2025_03_11", "0.01"),
        ("gpt-4.1", "web_search", "0.01"),
        ("gpt-4.1", "web_search_preview", "0.025"),
    ],
)
def test_a_search_costs_what_its_tool_costs(model: str, tool: str, fee: str) -> None:
    """The preview of the tool is dearer for models that do not reason."""
    cost = CostEstimator().cost(responses_api(model, tool), at=AT)
    kinds = {line.kind: line.amount for line in cost.lines}
    assert kinds["web_search_preview" if "preview" in tool else "web_search"] == Decimal(fee)
    assert cost.total == sum(kinds.values())


@pytest.mark.parametrize(
    "model", ["gpt-4o-search-preview", "gpt-4o-mini-search-preview-2025-03-11"]
)
def test_models_that_always_search_have_a_fee(model: str) -> None:
    """Each request pays for its search, and a hold has room for it."""
    response = {
        "object": "chat.completion",
        "model": model,
        "choices": [],
        "usage": {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20},
    }
    estimator = CostEstimator()
    assert {line.kind: line.amount for line in estimator.cost(response, at=AT).lines}[
        "request"
    ] == Decimal("0.025")
    held = estimator.estimate(model=model, input_tokens=10, max_output_tokens=10, at=AT)
    assert held.highest >= estimator.cost(response, at=AT).total
    assert [line.kind for line in held.lines] == ["input", "output", "request"]


@pytest.mark.parametrize("streamed", [False, True])
def test_grounding_is_noticed(streamed: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    """Google's searches are free up to an account's allowance: a flag says they are left out."""
    body: dict[str, Any] = {
        "candidates": [{"groundingMetadata": {"webSearchQueries": ["budget"]}}],
        "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15},
    }
    first = {
        "candidates": [{"content": {"parts": [{"text": "a"}]}}],
        "modelVersion": "gemini-2.5-flash",
    }
    cost = CostEstimator().cost([first, body] if streamed else body, at=AT)
    assert dict(cost.usage.requests) == {"grounding": 1}
    assert "unpriced_fee" in cost.flags
    assert cost.usage.total == 15
