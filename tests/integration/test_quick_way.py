"""The short way through a plain chat completion reads what the general one reads, or declines."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from fluxai.costs.quick import completion_of, quick_usage
from fluxai.costs.reading import _read, read
from tests.integration.stubs import completion
from tests.integration.test_recorded_mutations import ODD, places
from tests.measure.records import Record, body

#: Fields that say of a response, or of its usage, that it is another provider's or not plain.
MARKS: list[tuple[str | None, str, Any]] = [
    (None, "provider", "Groq"),
    (None, "x_groq", {"id": "r"}),
    (None, "service_tier", "flex"),
    (None, "serviceTier", "priority"),
    (None, "citations", ["x"]),
    (None, "custom_id", "r1"),
    (None, "usage_breakdown", {"models": []}),
    ("usage", "cost", 0.5),
    ("usage", "num_cached_tokens", 3),
    ("usage", "prompt_cache_hit_tokens", 3),
    ("usage", "prompt_audio_seconds", 3),
    ("usage", "speed", "fast"),
    ("usage", "prompt_tokens_details", {"cached_tokens": 4, "audio_tokens": 2}),
    ("usage", "completion_tokens_details", {"reasoning_tokens": 99}),
    ("usage", "total_tokens", 60),
]


def same(response: Any, provider: str | None = None) -> bool:
    """Compare both ways; say whether the short one was taken."""
    quick = quick_usage(response) if type(response) is dict else None
    if quick is None:
        return False
    short, general = read(response, provider), _read(response, provider)
    assert short.usage == general.usage
    assert (short.model, short.at_us, short.tier) == (general.model, general.at_us, general.tier)
    assert short.provider == general.provider
    return True


@pytest.mark.parametrize("provider", [None, "openai", "azure", "groq"])
def test_a_plain_completion_takes_the_short_way(provider: str | None) -> None:
    """Whoever it is from."""
    assert same(completion(), provider)


@pytest.mark.parametrize(("where", "field", "value"), MARKS)
def test_whatever_is_not_plain_is_read_the_general_way(
    where: str | None, field: str, value: Any
) -> None:
    """A field that may change what is billed makes the short way decline."""
    response = completion()
    (response if where is None else response[where])[field] = value
    assert not same(response)


def test_an_object_of_the_sdk_is_read_like_its_dictionary(
    recorded_responses: tuple[Record, ...],
) -> None:
    """What the short way reads of an object is what the general one reads of it."""
    taken = 0
    for record in recorded_responses:
        response = body(record)
        if not isinstance(response, dict) or response.get("object") != "chat.completion":
            continue
        answer = ChatCompletion.construct(**response)
        plain = completion_of(answer)
        quick = None if plain is None else quick_usage(plain)
        if quick is None:
            continue
        general = _read(answer, None)
        assert quick == (general.model, general.usage), record["id"]
        taken += 1
    assert taken > 300


def test_recorded_responses_are_read_alike(recorded_responses: tuple[Record, ...]) -> None:
    """As they are, and with odd values in them."""
    chance = random.Random(5)
    taken = 0
    for record in recorded_responses:
        response = body(record)
        taken += same(response)
        if not isinstance(response, dict) or response.get("object") != "chat.completion":
            continue
        odd = copy.deepcopy(response)
        container, key = chance.choice(list(places(odd)))
        container[key] = chance.choice(ODD)
        same(odd)
    assert taken > 300
