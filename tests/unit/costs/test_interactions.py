"""Gemini's interactions: their usage, in an answer and at the end of a stream."""

from __future__ import annotations

from typing import Any

from fluxai import CostEstimator, Usage

USAGE = {
    "total_tokens": 121,
    "total_input_tokens": 70,
    "input_tokens_by_modality": [
        {"modality": "text", "tokens": 50},
        {"modality": "audio", "tokens": 20},
    ],
    "total_cached_tokens": 10,
    "total_output_tokens": 30,
    "total_tool_use_tokens": 1,
    "total_thought_tokens": 20,
    "grounding_tool_count": [{"type": "google_search", "count": 2}],
}


def interaction(**more: Any) -> dict[str, Any]:
    """Return an answer."""
    return {"id": "i-1", "object": "interaction", "model": "gemini-2.5-flash", **more}


def test_usage_of_an_interaction() -> None:
    """The input includes what was cached; thoughts are beside the output."""
    usage = Usage.parse(interaction(status="completed", usage=USAGE))
    assert (usage.input, usage.cache_read, usage.audio_in) == (41, 10, 20)
    assert (usage.output, usage.reasoning, usage.total) == (30, 20, 121)
    assert usage.requests == {"grounding": 2}
    assert usage.flags == ()


def test_a_stream_costs_what_its_last_event_says() -> None:
    """The event that completes an interaction holds its usage and its model."""
    plain = {**USAGE, "grounding_tool_count": []}
    events = [
        {"event_type": "interaction.created", "interaction": interaction(status="in_progress")},
        {"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": "Rhine"}},
        {"event_type": "interaction.completed", "interaction": interaction(usage=plain)},
    ]
    cost = CostEstimator().cost(events)
    assert cost.total == CostEstimator().cost(interaction(usage=plain)).total > 0
    assert (cost.provider, cost.model) == ("google", "gemini-2.5-flash")
