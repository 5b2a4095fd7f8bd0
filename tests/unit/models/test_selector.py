"""A model for a prompt: able, allowed, within the limits, and with its reason."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fluxai import InvalidRequest, Model, ModelRegistry, PromptAnalysis, UnknownModel
from fluxai.models.selector import ModelSelector

PLAIN = {"text", "code", "tools"}


def _model(name: str, tier: str, price: str, **more: Any) -> Model:
    return Model(
        **{
            "id": name,
            "provider": "own",
            "tier": tier,
            "input_price": price,
            "output_price": price,
            "capabilities": PLAIN,
            "context_window": 100_000,
            **more,
        }
    )


@pytest.fixture(scope="module")
def selector() -> ModelSelector:
    """A small family of models of one provider."""
    return ModelSelector(_registry(), providers=["own"])


def _registry() -> ModelRegistry:
    registry = ModelRegistry()
    for model in (
        _model("tiny-one", "fast", "1"),
        _model("quick-one", "fast", "2", capabilities=PLAIN | {"image"}),
        _model("middle-one", "balanced", "5"),
        _model("great-one", "premium", "20"),
        _model("deep-one", "premium", "30", capabilities=PLAIN | {"reasoning"}),
        _model("wide-one", "balanced", "9", context_window=1_000_000),
        _model("painter", "fast", "1", capabilities={"image_generation"}, price_per_image="0.04"),
        _model("switched-off", "fast", "0.1", enabled=False),
    ):
        registry.put(model)
    return registry


def _analysis(complexity: Any = "simple", task_type: Any = "text", **more: Any) -> PromptAnalysis:
    values = {
        "cheap_ok": 0.8,
        "confidence": 0.9,
        "tokens": 1_000,
        "language": "en",
        "script": "latin",
        "needs": frozenset(),
        "gain": 0.1,
        "reasons": (),
        **more,
    }
    return PromptAnalysis(complexity=complexity, task_type=task_type, **values)


@pytest.mark.parametrize(
    ("analysis", "options", "wanted"),
    [
        (_analysis("simple"), {}, "tiny-one"),
        (_analysis("medium"), {}, "middle-one"),
        (_analysis("complex"), {}, "great-one"),
        (_analysis("complex", "reasoning"), {}, "deep-one"),
        (_analysis("complex"), {"prefer": "cost"}, "tiny-one"),
        (_analysis("complex"), {"prefer": "speed"}, "tiny-one"),
        (_analysis("simple"), {"prefer": "quality"}, "great-one"),
        (_analysis("simple", needs=frozenset({"image"})), {}, "quick-one"),
        (_analysis("simple", "image", needs=frozenset({"image_generation"})), {}, "painter"),
        (_analysis("simple", tokens=200_000), {}, "wide-one"),
        (_analysis("complex"), {"used": 0.5}, "middle-one"),
        (_analysis("complex"), {"used": 0.95}, "tiny-one"),
        (_analysis("complex"), {"asked": "middle-one"}, "middle-one"),
        (_analysis("complex"), {"allowed": ["tiny-one", "middle-one"]}, "middle-one"),
        (_analysis("complex"), {"max_cost": "0.01"}, "middle-one"),
    ],
)
def test_the_choice(
    selector: ModelSelector, analysis: PromptAnalysis, options: dict[str, Any], wanted: str
) -> None:
    """By level, task, needs, window, preference, pressure, what was asked for, and limits."""
    choice = selector.select(analysis, **options)
    assert choice.model == wanted
    assert choice.record is not None
    assert wanted in choice.reason
    assert wanted not in choice.alternatives


def test_what_it_costs_and_what_was_second_is_told(selector: ModelSelector) -> None:
    """1,000 tokens in and 500 out, at $1 a million."""
    choice = selector.select(_analysis("simple"))
    assert choice.cost == Decimal("0.0015")
    assert choice.alternatives[0] == "quick-one"
    assert "next is quick-one (fast, $0.003)" in choice.reason


def test_a_tier_that_has_nothing_able_is_not_claimed(selector: ModelSelector) -> None:
    """A choice out of another tier says that it is a makeshift."""
    limited = selector.select(_analysis("complex"), max_cost="0.01")
    assert limited.model == "middle-one"
    assert "the premium tier, where none is able within the limits" in limited.reason
    assert "none is able" not in selector.select(_analysis("complex")).reason
    assert "none is able" not in selector.select(_analysis("complex"), "cost").reason


@pytest.mark.parametrize("claim", ["simple", "medium", "complex"])
@pytest.mark.parametrize("prefer", [None, "cost", "speed", "quality"])
def test_nothing_is_dearer_than_what_was_asked_for(
    selector: ModelSelector, claim: Any, prefer: Any
) -> None:
    """Whatever a prompt looks like, and whatever is preferred."""
    for asked, limit in (("tiny-one", 1), ("middle-one", 5), ("great-one", 20)):
        record = selector.select(_analysis(claim), prefer, asked=asked).record
        assert record is not None
        assert record.input_price is not None
        assert record.input_price <= limit


def test_a_model_of_one_s_own_for_a_level(selector: ModelSelector) -> None:
    """It wins where it is able and within the limits; else the others are looked at."""
    own = ModelSelector(_registry(), providers=["own"], by_complexity={"simple": "wide-one"})
    chosen = own.select(_analysis("simple"))
    assert chosen.model == "wide-one"
    assert "configured for simple prompts; next" in chosen.reason
    assert own.select(_analysis("simple"), max_cost="0.005").model == "tiny-one"
    assert own.select(_analysis("medium")).model == "middle-one"


@pytest.mark.parametrize(
    ("analysis", "options", "why"),
    [
        (_analysis(tokens=5_000_000), {}, "no model at hand is able"),
        (_analysis(), {"allowed": ["painter"]}, "no model at hand is able"),
        (_analysis(), {"allowed": ["switched-off"]}, "no model at hand is able"),
        (_analysis(), {"max_cost": "0.0001"}, "the cheapest able model costs $0.0015"),
    ],
)
def test_no_choice_is_a_value_with_its_reason(
    selector: ModelSelector, analysis: PromptAnalysis, options: dict[str, Any], why: str
) -> None:
    """Nothing is invented where nothing fits."""
    choice = selector.select(analysis, **options)
    assert (choice.model, choice.record, choice.cost, choice.alternatives) == (None, None, None, ())
    assert why in choice.reason


def test_the_bundled_models_are_all_of_the_providers_at_hand() -> None:
    """Names of providers in any spelling; nothing that is free, deprecated or for one purpose."""
    choice = ModelSelector(ModelRegistry(), providers=["gemini"]).select(_analysis("complex"))
    assert choice.record is not None
    assert choice.record.provider == "google"
    assert not choice.record.deprecated


def test_mistakes_are_told(selector: ModelSelector) -> None:
    """A float is no amount of money, and an unknown model has no price to compare with."""
    with pytest.raises(InvalidRequest, match="max_cost"):
        selector.select(_analysis(), max_cost=0.5)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="max_cost"):
        selector.select(_analysis(), max_cost="much")
    with pytest.raises(UnknownModel):
        selector.select(_analysis(), asked="no-such-model")
