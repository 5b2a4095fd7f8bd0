"""Recorded responses of real providers: read without loss, and priced as they were billed.

The recordings carry what a price library answered for each. That is a second opinion, not truth:
where ours differs, `tests.measure.agreement` names why, and a difference without a cause fails.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from anthropic.types import Message
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from fluxai.core.usage import Usage
from tests.measure.agreement import NOW, agrees, cause_of, price, recorded_at
from tests.measure.records import Record, body


def compare(
    records: tuple[Record, ...], opinion: str, at: Callable[[Record], datetime | None]
) -> tuple[int, Counter[str], list[Any]]:
    """Compare with one of the second opinion's costs: agreeing, causes, unexplained."""
    agreeing = 0
    causes: Counter[str] = Counter()
    unexplained = []
    for record in records:
        stated = (record.get("oracle") or {}).get(opinion)
        if stated is None:
            continue
        wanted = Decimal(stated)
        cost = price(record, at(record))
        if agrees(cost, wanted):
            agreeing += 1
            continue
        cause = cause_of(record, cost)
        if cause:
            causes[cause] += 1
        else:
            unexplained.append((record["id"], record["provider"], cost, stated))
    return agreeing, causes, unexplained


def test_every_response_is_read(recorded_responses: tuple[Record, ...]) -> None:
    """No recorded response raises, and each usage survives being written to a ledger."""
    for record in recorded_responses:
        usage = Usage.parse(body(record), record["provider"])
        assert Usage.from_dict(json.loads(json.dumps(usage.to_dict()))) == usage, record["id"]


def test_every_response_has_a_cost_or_an_unknown_model(
    recorded_responses: tuple[Record, ...],
) -> None:
    """A cost of zero says why; what has no price is unknown; and that is rare."""
    unknown = 0
    for record in recorded_responses:
        cost = price(record)
        if cost is None:
            unknown += 1
            continue
        assert cost.nanousd > 0 or cost.flags, record["id"]
        if record["status"] >= 400:
            assert (cost.nanousd, cost.flags) == (0, ("error",)), record["id"]
        if cost.priced and not cost.nanousd:
            assert set(cost.flags) & {
                "error",
                "token_count",
                "free_endpoint",
                "zero_usage",
                "free_model",
                "local_model",
                "provider_cost",
            }, record["id"]
    assert unknown < len(recorded_responses) / 100


def stated_total(usage: Mapping[str, Any]) -> int | None:
    """Return the total tokens that a usage object itself states, or the sum it is documented as."""
    for name in ("total_tokens", "totalTokens", "totalTokenCount"):
        if isinstance(usage.get(name), int):
            return int(usage[name])
    if "billed_units" in usage:
        return sum(n for kind, n in usage["billed_units"].items() if "token" in kind)
    names = {
        "input_tokens": ("cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"),
        "inputTokens": ("cacheReadInputTokenCount", "cacheWriteInputTokenCount", "outputTokens"),
        "prompt_eval_count": ("eval_count",),
        "inputTokenCount": ("outputTokenCount",),
    }
    for first, others in names.items():
        if first in usage:
            return sum(usage.get(name) or 0 for name in (first, *others))
    return None


#: Where the partition is meant to hold more or less than the usage object's own total.
TOTALS_DIFFER: dict[str, Callable[[Record, Usage], object]] = {
    "counting tokens uses none": lambda _, u: "token_count" in u.flags,
    "passes besides the messages are billed too": lambda _, u: "iterations" in u.flags,
    "Live's total leaves thoughts out": lambda r, u: (
        r["provider"].endswith("-realtime") and u.reasoning
    ),
    "several calls were reported": lambda _, u: len(u.parts) > 1,
    "the last usage was the image tool's": lambda r, _: str(r["usage_path"]).endswith(
        "tool_usage.image_gen"
    ),
}


def test_parts_sum_to_the_providers_total(recorded_responses: tuple[Record, ...]) -> None:
    """The kinds of the partition add up to the total that the provider states."""
    compared = 0
    for record in recorded_responses:
        stated = stated_total(record.get("usage_merged") or record.get("usage") or {})
        if stated is None:
            continue
        compared += 1
        usage = Usage.parse(body(record), record["provider"])
        assert usage.total == stated or any(
            holds(record, usage) for holds in TOTALS_DIFFER.values()
        ), (record["id"], usage, stated)
    assert compared > 2_900


def test_streams_end_in_their_last_usage(recorded_responses: tuple[Record, ...]) -> None:
    """Chunks in order of arrival give what overlaying their usage objects gives."""
    compared = 0
    for record in recorded_responses:
        final = record.get("usage_merged")
        if not final or record["usage_path"] not in {"usage", "usageMetadata", "response.usage"}:
            continue
        compared += 1
        name = "usageMetadata" if record["usage_path"] == "usageMetadata" else "usage"
        usage = Usage.parse(body(record), record["provider"])
        alone = Usage.parse({name: final}, record["provider"])
        for kind in ("input_total", "output_total", "cache_read", "cache_write", "reasoning"):
            assert getattr(usage, kind) == getattr(alone, kind), (record["id"], kind)
    assert compared > 200


def test_cost_now_agrees(recorded_responses: tuple[Record, ...]) -> None:
    """At present prices every difference from the second opinion has a cause, and few have one."""
    agreeing, causes, unexplained = compare(recorded_responses, "cost_now", lambda _: NOW)
    assert unexplained == []
    assert agreeing > 2_600
    assert sum(causes.values()) < 0.05 * agreeing


def test_cost_at_the_time_agrees(recorded_responses: tuple[Record, ...]) -> None:
    """At the prices of the day of recording, too."""
    agreeing, _, unexplained = compare(recorded_responses, "cost_at_time", recorded_at)
    assert unexplained == []
    assert agreeing > 1_900


@pytest.mark.parametrize("at", [lambda _: NOW, recorded_at], ids=["now", "then"])
def test_cost_at_the_tier_agrees(
    recorded_responses: tuple[Record, ...], at: Callable[[Record], datetime | None]
) -> None:
    """Flex, priority and batch prices are those of the second opinion, also before it had them."""
    agreeing, causes, unexplained = compare(recorded_responses, "cost_with_tier", at)
    assert unexplained == []
    assert not causes
    assert agreeing > 40


def test_cost_is_what_the_provider_reported(recorded_responses: tuple[Record, ...]) -> None:
    """Where a provider states the cost of a call, ours is within a percent of it."""
    compared = 0
    for record in recorded_responses:
        stated = (record.get("oracle") or {}).get("provider_reported_cost")
        if stated is None:
            continue
        cost = price(record)
        assert cost is not None, record["id"]
        if "byok" in cost.flags or len(cost.usage.parts) > 1:
            continue  # the user's own key pays the upstream besides; a batch reports several
        compared += 1
        wanted = Decimal(str(stated))
        assert abs(cost.total - wanted) <= max(Decimal("1e-9"), wanted / 100), record["id"]
    assert compared > 130


_TYPES: list[tuple[type[Any], Callable[[Any], object]]] = [
    (ChatCompletion, lambda b: b.get("object") == "chat.completion"),
    (Response, lambda b: b.get("object") == "response"),
    (Message, lambda b: b.get("type") == "message" and "input_tokens" in (b.get("usage") or {})),
    (GenerateContentResponse, lambda b: "usageMetadata" in b),
]


@pytest.mark.parametrize(("kind", "fits"), _TYPES, ids=[kind.__name__ for kind, _ in _TYPES])
def test_objects_of_the_sdks_are_read_like_json(
    recorded_responses: tuple[Record, ...], kind: type[Any], fits: Callable[[Any], object]
) -> None:
    """The SDK's object of a recorded response gives the same usage as its JSON."""
    compared = 0
    for record in recorded_responses:
        response = body(record)
        if not isinstance(response, dict) or not fits(response):
            continue
        try:
            made = kind.model_validate(response)
        except (ValueError, AttributeError):
            continue  # the recording left out what the SDK insists on
        compared += 1
        expected = Usage.parse(response, record["provider"])
        assert Usage.parse(made, record["provider"]) == expected, record["id"]
    assert compared > 50
