"""The short way through a plain chat completion reads what the general one reads, or declines."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion

from fluxai import Governor, Policy
from fluxai.costs.quick import completion_of, message_of, quick_message, quick_usage
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
    quick = None
    if type(response) is dict:
        quick = quick_usage(response) or quick_message(response)
    if quick is None:
        return False
    short, general = read(response, provider), _read(response, provider)
    assert short.usage == general.usage
    assert (short.model, short.at_us, short.tier) == (general.model, general.at_us, general.tier)
    assert short.provider == general.provider
    return True


#: Fields that say of a message, or of its usage, that it is not plain.
MESSAGE_MARKS: list[tuple[str | None, str, Any]] = [
    (None, "message", {"usage": {"input_tokens": 1}}),
    (None, "service_tier", "priority"),
    (None, "custom_id", "r1"),
    (None, "provider", "Groq"),
    (None, "created", 1_768_478_400),
    ("usage", "service_tier", "batch"),
    ("usage", "speed", "fast"),
    ("usage", "inference_geo", "us"),
    ("usage", "cost", 0.5),
    ("usage", "server_tool_use", {"web_search_requests": 2}),
    ("usage", "output_tokens_details", {"thinking_tokens": 3}),
    ("usage", "iterations", [{"type": "message", "input_tokens": 1, "output_tokens": 1}]),
    ("usage", "cache_creation", {"ephemeral_5m_input_tokens": "3"}),
    ("usage", "input_tokens", -1),
    ("usage", "output_tokens", None),
]


def message(**usage: Any) -> dict[str, Any]:
    """Return a message as Anthropic writes it."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 20, "output_tokens": 30, "service_tier": "standard", **usage},
    }


CACHED: list[dict[str, Any]] = [
    {},
    {"cache_read_input_tokens": 7},
    {"cache_creation_input_tokens": 9},
    {"cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5}},
    {"cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 5}},
    {"cache_creation_input_tokens": 3, "cache_creation": {"ephemeral_5m_input_tokens": 5}},
    {"inference_geo": "global", "output_tokens": 0},
]


@pytest.mark.parametrize("usage", CACHED)
def test_a_plain_message_takes_the_short_way(usage: dict[str, Any]) -> None:
    """Whatever it read from a cache or wrote into one, as a dictionary and as an object."""
    response = message(**usage)
    assert same(response)
    plain = message_of(Message.construct(**response))
    assert plain is not None
    assert quick_message(plain) == quick_message(response)


@pytest.mark.parametrize(("where", "field", "value"), MESSAGE_MARKS)
def test_whatever_message_is_not_plain_is_read_the_general_way(
    where: str | None, field: str, value: Any
) -> None:
    """A field that may change what is billed makes the short way decline."""
    response = message()
    (response if where is None else response[where])[field] = value
    assert not same(response)


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


def test_a_message_of_the_sdk_is_read_like_its_dictionary(
    recorded_responses: tuple[Record, ...],
) -> None:
    """What the short way reads of a message is what the general one reads of it."""
    taken = 0
    for record in recorded_responses:
        response = body(record)
        if not isinstance(response, dict) or response.get("type") != "message":
            continue
        answer = Message.construct(**response)
        plain = message_of(answer)
        quick = None if plain is None else quick_message(plain)
        if quick is None:
            continue
        general = _read(answer, None)
        assert quick == (general.model, general.usage), record["id"]
        assert general.provider == "anthropic"
        assert (general.at_us, general.tier) == (None, None)
        taken += 1
    assert taken > 50


def test_recorded_responses_are_read_alike(recorded_responses: tuple[Record, ...]) -> None:
    """As they are, and with odd values in them."""
    chance = random.Random(5)
    taken = 0
    for record in recorded_responses:
        response = body(record)
        taken += same(response)
        if not isinstance(response, dict):
            continue
        if response.get("object") != "chat.completion" and response.get("type") != "message":
            continue
        odd = copy.deepcopy(response)
        container, key = chance.choice(list(places(odd)))
        container[key] = chance.choice(ODD)
        same(odd)
    assert taken > 300


SAID: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Name a river."}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Name a river."}]}]},
    {"messages": [{"role": "user", "content": "Name a river.", "name": "ann"}]},
    {
        "messages": [{"role": "user", "content": "Name a river."}],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
    },
    {"messages": "Name a river."},
]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("model", ["gpt-4o", "claude-haiku-4-5", "gemini-2.5-pro"])
def test_messages_are_reserved_at_what_check_says(model: str, said: dict[str, Any]) -> None:
    """The short way from messages to a hold holds what the general one does."""
    with Governor() as governor:
        ask: dict[str, Any] = {"tenant": "acme", "model": model, "max_output_tokens": 100, **said}
        decision = governor.check(**ask)
        reservation = governor.reserve(**ask)
        assert reservation.estimate == decision.estimate
        assert reservation.max_output_tokens == decision.max_output_tokens
        assert governor.settle_result(reservation, completion()).cost > 0


@pytest.mark.parametrize("tokens", [20, 10**6])
def test_an_answer_of_another_model_is_posted_where_its_money_was_held(tokens: int) -> None:
    """A server that answers with another model than asked for moves no money to other counters."""
    with Governor() as governor:
        for index in range(2):
            governor.policies.put(
                Policy(
                    id=f"p{index}",
                    tenant_id="acme",
                    scope=("tenant", "tool")[index],
                    scope_id=(None, "gpt-4o")[index],
                    limit_type="daily",
                    limit_value="1000",
                )
            )
        for _ in range(3):
            reservation = governor.reserve(
                tenant="acme", model="gpt-4o", prompt="Hi.", max_output_tokens=9
            )
            settled = governor.settle(reservation, completion("gpt-4o-mini", tokens_in=tokens))
            assert settled.model == "gpt-4o-mini"
            assert ("overrun" in settled.flags) == (settled.cost > reservation.estimate.highest)
        spent = sum(event.cost for event in governor.events())
        budgets = governor.budgets("acme")
        assert len(budgets) == 2
        assert {(budget.settled, budget.reserved) for budget in budgets} == {(spent, 0)}
