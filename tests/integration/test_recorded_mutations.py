"""Recorded responses with something wrong in them: read all the same, never priced below zero."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

from fluxai.core.errors import UnknownModel
from fluxai.core.usage import MAX_COUNT, TOKEN_KINDS, Usage
from fluxai.costs import CostEstimator
from tests.measure.agreement import NOW
from tests.measure.records import Record, body, model_asked_for

#: What a broken proxy, a hand-made response or a new version of an API might put anywhere.
ODD: list[Any] = [
    None,
    -1,
    -(10**15),
    10**15,
    10**400,
    math.nan,
    math.inf,
    1.5,
    True,
    "",
    "12",
    "twelve",
    "9" * 5000,
    [],
    [None],
    [[1], {"a": 2}],
    {},
    {"tokens": -3},
    b"bytes",
]
#: Fields that every parser of their provider has to read.
READ = (
    "prompt_tokens",
    "completion_tokens",
    "promptTokenCount",
    "candidatesTokenCount",
    "inputTokens",
    "outputTokens",
)
ESTIMATOR = CostEstimator()


def places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yield every container with each of its keys."""
    if depth > 12:
        return
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key], depth + 1)


def check(response: Any, record: Record) -> Usage:
    """Read and price it, and return the usage."""
    usage = Usage.parse(response, record["provider"])
    assert all(0 <= getattr(usage, kind) <= 4 * MAX_COUNT for kind in TOKEN_KINDS)
    try:
        cost = ESTIMATOR.cost(response, record["provider"], model=model_asked_for(record), at=NOW)
    except UnknownModel:
        return usage
    assert cost.nanousd >= 0
    assert all(line.amount >= 0 for line in cost.lines)
    return usage


@pytest.mark.parametrize("seed", range(3))
def test_anything_may_be_anywhere(recorded_responses: tuple[Record, ...], seed: int) -> None:
    """Whatever value stands in whatever place, or is missing, nothing raises but `UnknownModel`."""
    chance = random.Random(seed)
    for record in recorded_responses[seed::3]:
        response = copy.deepcopy(body(record))
        for _ in range(chance.randint(1, 4)):
            found = list(places(response))
            if not found:
                break
            # Usage is small beside the rest of a response; most faults should hit it.
            counts = [
                place for place in found if "oken" in str(place[1]) or "usage" in str(place[1])
            ]
            container, key = chance.choice(counts if counts and chance.random() < 0.8 else found)
            if chance.random() < 0.2 and isinstance(container, dict):
                del container[key]
            else:
                container[key] = copy.deepcopy(chance.choice(ODD))
        check(response, record)


@pytest.mark.parametrize("odd", [-5, 10**15, math.nan, "twelve"])
def test_what_can_not_be_right_is_flagged(
    recorded_responses: tuple[Record, ...], odd: object
) -> None:
    """A count that no provider could mean is clamped, and the usage says so."""
    changed = 0
    for record in recorded_responses:
        response = body(record)
        usage = (
            response.get("usage") or response.get("usageMetadata")
            if isinstance(response, dict)
            else None
        )
        field = next((name for name in READ if isinstance(usage, dict) and name in usage), None)
        if field is None or record["status"] >= 400 or "x_groq" in response:
            continue
        response = copy.deepcopy(response)
        (response.get("usage") or response.get("usageMetadata"))[field] = odd
        changed += 1
        assert "clamped" in check(response, record).flags, (record["id"], field)
    assert changed > 1_000
