"""Counting tokens before a call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.tokens import WHOLE_CHARACTERS_MAX, text_tokens
from fluxai.costs import CostEstimator
from fluxai.costs.counting import count
from fluxai.costs.framing import DEFAULT, framing_of

PROSE = "The committee met on Tuesday and agreed that the budget should not be raised again. "
CODE = "def add(a: int, b: int) -> int:\n    return a + b  # {'x': [1, 2, 3]}\n"
#: Tokens of o200k, the vocabulary that the weights were fitted to.
KNOWN = [(PROSE * 10, 160), (CODE * 10, 280), ("今天天气很好我们去公园散步吧" * 10, 110)]


@pytest.mark.parametrize(("text", "tokens"), KNOWN)
def test_texts_are_counted_roughly(text: str, tokens: int) -> None:
    """Prose, code and Chinese come within a third of the tokenizer's count."""
    assert 0.67 < text_tokens(text) / tokens < 1.5


@given(st.text(), st.text())
def test_longer_texts_are_never_fewer(one: str, two: str) -> None:
    """Any text counts, and adding to it never makes it cheaper, but for a token that joins both."""
    assert 0 <= text_tokens(one) <= text_tokens(one + two) + 1


@given(st.text(), st.sampled_from(["gpt-4o", "claude-opus-4-8", "gemini-3-pro", "unheard-of"]))
def test_upper_is_above_expected(text: str, model: str) -> None:
    """What is held is at least what is expected."""
    found = count(model, prompt=text)
    assert 0 < found.expected <= found.upper


def test_huge_texts_are_sampled_evenly() -> None:
    """A text of many megabytes is estimated from samples that are spread over all of it."""
    half = WHOLE_CHARACTERS_MAX // len(PROSE) + 1
    mixed = PROSE * half + CODE * half
    whole = (text_tokens(PROSE * 64) + text_tokens(CODE * 64)) / 64 * half
    assert abs(text_tokens(mixed) / whole - 1) < 0.02


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": PROSE}],
        [{"role": "user", "content": [{"type": "text", "text": PROSE}]}],
        [{"role": "user", "parts": [{"text": PROSE}]}],
        [{"role": "user", "content": [{"text": PROSE}]}],
        [SimpleNamespace(role="user", content=PROSE)],
        ({"type": "message", "role": "user", "content": PROSE},),
        PROSE,
    ],
)
def test_messages_in_any_providers_form(messages: Any) -> None:
    """The same text counts the same, however a provider wraps it."""
    assert count("gpt-4o", messages=messages).expected == count("gpt-4o", prompt=PROSE).expected


def test_tool_calls_and_results_count() -> None:
    """What tools were called with and what they returned is text too."""
    plain = count("gpt-4o", messages=[{"role": "assistant", "content": "x"}])
    call = {"function": {"name": "find", "arguments": '{"text": "a long argument"}'}}
    called = [{"role": "assistant", "content": "x", "tool_calls": [call]}]
    assert count("gpt-4o", messages=called).expected > plain.expected
    gemini = [{"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"a": "b c d"}}}]}]
    assert count("gemini-2.5-pro", messages=gemini).expected > 5


def test_tools_count_and_lower_the_confidence() -> None:
    """Tool definitions cost tokens, and are the less certain part."""
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tell the weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    plain = count("gpt-4o", prompt="hi")
    tooled = count("gpt-4o", prompt="hi", tools=[tool])
    assert tooled.expected > plain.expected + 20
    assert (plain.confidence, tooled.confidence) == ("high", "medium")
    assert count("gpt-4o", prompt="hi", tools=[test_tools_count_and_lower_the_confidence]).expected


def test_media_count_and_lower_the_confidence() -> None:
    """An image is not free, and its size is not known."""
    image = {"type": "image_url", "image_url": {"url": "data:…"}}
    found = count("gpt-4o", messages=[{"role": "user", "content": [image]}])
    assert found.expected > 1000
    assert found.confidence == "low"


@pytest.mark.parametrize(
    ("model", "square", "largest"),
    [
        ("gpt-4o", 765, 1_445),
        ("gpt-4o-mini", 25_501, 48_169),
        ("gpt-4.1-mini", 1_659, 2_488),
        ("gpt-4.1-nano", 2_519, 3_779),
        ("gpt-5-mini", 1_659, 2_488),
        ("gpt-5-nano", 2_519, 3_779),
        ("o4-mini", 1_761, 2_642),
    ],
)
def test_an_image_counts_as_many_tokens_as_the_model_makes_of_it(
    model: str, square: int, largest: int
) -> None:
    """OpenAI's guide: of 1024 pixels each way at high detail, and of the largest size."""
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    found = count(model, messages=[{"role": "user", "content": [image]}])
    assert square * 0.9 < found.expected < square * 1.6
    assert found.upper > largest


def test_an_unknown_model_is_counted_with_little_confidence() -> None:
    """A model that nothing is known of is counted too, and held more for."""
    found = count("house-llm", prompt=PROSE)
    assert found.confidence == "low"
    assert framing_of("house-llm") is DEFAULT
    assert found.upper > count("gpt-4o", prompt=PROSE).upper


def test_an_encoder_takes_the_place_of_the_estimate() -> None:
    """A tokenizer that the caller passes is used, and said to be."""
    estimator = CostEstimator(encoder=str.split)
    few = estimator.count("gpt-4o", prompt="one two three")
    many = estimator.count("gpt-4o", prompt="one two three " * 100)
    assert few.method == "encoder"
    assert 280 < many.expected - few.expected < 310


def test_deep_and_cyclic_messages_end() -> None:
    """Messages that contain themselves, or go on for ever, are counted without hanging."""
    cyclic: dict[str, Any] = {"role": "user"}
    cyclic["content"] = [cyclic]
    assert count("gpt-4o", messages=[cyclic]).expected > 0
    args: dict[str, Any] = {}
    args["args"] = args
    assert count("gpt-4o", messages=[{"parts": [{"functionCall": {"args": args}}]}]).expected > 0
