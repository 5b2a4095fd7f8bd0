"""`Model` and `ModelRegistry`: what there is, what it costs, and what can stand in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from fluxai.core.errors import UnknownModel
from fluxai.core.usage import Usage
from fluxai.models import Model, ModelRegistry, cheapest_able

NOW = 1_795_305_600_000_000


@pytest.fixture(scope="module")
def registry() -> ModelRegistry:
    """Return a registry of the bundled models."""
    return ModelRegistry()


def test_get_by_any_spelling(registry: ModelRegistry) -> None:
    """A model is the same record however it is spelled, with prices per million tokens."""
    model = registry.get("openai/gpt-4o-2024-08-06")
    assert (model.id, model.provider, model.category) == ("gpt-4o", "openai", "llm")
    assert (model.input_price, model.output_price) == (Decimal("2.5"), Decimal(10))
    assert (model.context_window, model.max_output) == (128_000, 16_384)
    assert {"text", "tools", "image"} <= model.capabilities
    assert model.enabled


def test_get_of_an_unknown_model(registry: ModelRegistry) -> None:
    """An unknown id raises with near spellings."""
    with pytest.raises(UnknownModel, match="gpt-4o"):
        registry.get("gpt-4oo")


@pytest.mark.parametrize(
    ("model", "tier"),
    [
        ("gpt-4o", "balanced"),
        ("gpt-4o-mini", "fast"),
        ("gpt-4", "premium"),
        ("o1", "premium"),
        ("claude-opus-4-1", "premium"),
        ("claude-sonnet-4-5", "balanced"),
        ("claude-haiku-4-5", "fast"),
        ("gemini-2.5-pro", "balanced"),
        ("gemini-2.5-flash", "fast"),
    ],
)
def test_tiers(registry: ModelRegistry, model: str, tier: str) -> None:
    """Models are placed by what they cost."""
    assert registry.get(model).tier == tier


@pytest.mark.parametrize(
    ("model", "has", "lacks"),
    [
        ("gpt-4o", {"text", "image", "tools"}, {"reasoning", "embedding"}),
        ("o3", {"text", "reasoning"}, {"embedding"}),
        ("claude-sonnet-4-5", {"text", "image", "reasoning"}, set()),
        ("text-embedding-3-small", {"embedding"}, {"text"}),
        ("gpt-image-1", {"image_generation"}, {"text"}),
        ("gpt-4o-mini-tts", {"audio"}, {"image_generation", "text"}),
        ("mistral-ocr-2512", {"image"}, {"image_generation", "text"}),
        ("whisper-1", {"audio"}, {"text"}),
        ("gpt-audio", {"audio", "text"}, set()),
        ("gemini-2.5-flash-image", {"image_generation"}, set()),
    ],
)
def test_capabilities(registry: ModelRegistry, model: str, has: set[str], lacks: set[str]) -> None:
    """What a model can do is read from its name and its prices."""
    found = registry.get(model).capabilities
    assert has <= found
    assert not lacks & found


def test_list_filters_and_sorts(registry: ModelRegistry) -> None:
    """A list holds only what was asked for, the cheapest first."""
    models = registry.list(provider="claude", tier="premium", capability="text", enabled=True)
    assert models
    assert {model.provider for model in models} == {"anthropic"}
    assert {model.tier for model in models} == {"premium"}
    costs = [3 * (m.input_price or 0) + (m.output_price or 0) for m in models]
    assert costs == sorted(costs)
    assert not registry.list(provider="anthropic", enabled=False)
    assert not registry.list(provider="no-such-provider")


def test_every_bundled_model_is_a_valid_record(registry: ModelRegistry) -> None:
    """Each line of the table with a price makes a record, and none is free by omission."""
    models = registry.list()
    assert len(models) > 2_000
    for model in models:
        priced = any(value for name, value in model if "price" in name)
        assert priced or model.free or model.prices()


def test_put_prices_of_every_unit() -> None:
    """A model of one's own may cost by token, call, second, image, character, page or search."""
    registry = ModelRegistry()
    registry.put(
        Model(
            id="house",
            provider="acme",
            input_price="1",
            output_price="2",
            cache_read_price="0.1",
            price_per_call="0.01",
            price_per_second="0.001",
            price_per_image="0.05",
            price_per_character="0.00001",
            price_per_page="0.002",
            price_per_search="0.005",
            context_window=1000,
            max_output=100,
        )
    )
    rates = registry.rates("house", NOW)
    usage = Usage(
        input=1_000_000,
        cache_read=1_000_000,
        output=500_000,
        seconds=2,
        characters=100,
        requests={"image": 1, "page": 3, "web_search": 2},
    )
    dollars = Decimal("2.1") + Decimal("0.01") + Decimal("0.002") + Decimal("0.05")
    dollars += Decimal("0.001") + Decimal("0.006") + Decimal("0.01")
    assert rates.cost(usage) == dollars * 10**9
    assert (rates.context_window, rates.max_output, rates.version) == (1000, 100, "own")
    assert (rates.request_fee, rates.valid_until_us > NOW) == (10_000_000, True)


def test_put_replaces_and_delete_brings_back() -> None:
    """A negotiated price replaces the bundled one, until it is taken out."""
    registry = ModelRegistry()
    list_price = registry.rates("gpt-4o", NOW).base.input
    registry.put(Model(id="gpt-4o", provider="openai", input_price="2", output_price="8"))
    assert registry.rates("gpt-4o-2024-08-06", NOW).base.input == 2_000_000_000
    assert registry.get("gpt-4o").input_price == 2
    assert [m.input_price for m in registry.list(provider="openai") if m.id == "gpt-4o"] == [2]
    assert registry.delete("gpt-4o", provider="openai")
    assert not registry.delete("gpt-4o", provider="openai")
    assert registry.rates("gpt-4o", NOW).base.input == list_price


def test_put_normalizes_the_provider() -> None:
    """Another name of a provider is that provider."""
    stored = ModelRegistry().put(Model(id="x", provider="bedrock", input_price="1"))
    assert stored.provider == "aws"


def test_a_disabled_model_is_listed_as_such() -> None:
    """A model that was switched off is still priced, and says so."""
    registry = ModelRegistry()
    registry.put(Model(id="gpt-4o", provider="openai", input_price="1", enabled=False))
    assert not registry.get("gpt-4o").enabled
    assert [m.id for m in registry.list(enabled=False)] == ["gpt-4o"]


def test_a_free_model_says_so() -> None:
    """A model that costs nothing has to be declared free, and is flagged as such."""
    registry = ModelRegistry()
    registry.put(Model(id="mine", free=True))
    rates = registry.rates("mine", NOW)
    assert (rates.free, rates.reason, rates.cost(Usage(input=5))) == (True, "free_model", 0)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"input_price": 0.5},
        {"input_price": "-1"},
        {"input_price": "NaN"},
        {"input_price": "1", "context_window": 0},
        {"input_price": "1", "tier": "gold"},
        {"input_price": "1", "colour": "red"},
    ],
)
def test_wrong_records_are_refused(bad: dict[str, Any]) -> None:
    """No price, a float, a negative or unknown field: refused with pydantic's own message."""
    with pytest.raises(ValidationError):
        Model(id="m", **bad)


def test_names_fill_each_other() -> None:
    """A record has a name to show, whichever was given."""
    assert Model(id="m", input_price="1").display_name == "m"
    assert Model(id="m", name="M", input_price="1").display_name == "M"
    assert Model(id="m", display_name="The M", input_price="1").name == "The M"


@pytest.mark.parametrize("model", ["gpt-4o", "claude-opus-4-1", "gemini-2.5-pro", "gpt-4"])
def test_cheapest_able_is_able_and_never_dearer(registry: ModelRegistry, model: str) -> None:
    """What stands in can do the same, holds as much, and costs less."""
    wanted = registry.get(model)
    found = cheapest_able(registry, model)
    assert found is not None
    assert found.provider == wanted.provider
    assert found.capabilities >= wanted.capabilities
    assert (found.context_window or 0) >= (wanted.context_window or 0)
    assert found.input_price is not None
    assert wanted.input_price is not None
    assert 0 < found.input_price <= wanted.input_price
    assert (found.output_price or 0) <= (wanted.output_price or 0)
    assert not found.free


def test_cheapest_able_may_be_nothing() -> None:
    """Where nothing cheaper is able, nothing stands in."""
    registry = ModelRegistry()
    registry.put(Model(id="only", provider="acme", input_price="1", output_price="1"))
    assert cheapest_able(registry, "only") is None
    registry.put(Model(id="off", provider="acme", input_price="0.1", enabled=False))
    assert cheapest_able(registry, "only") is None
    registry.put(Model(id="twin", provider="acme", input_price="1", output_price="1"))
    assert cheapest_able(registry, "only") is None
    registry.put(Model(id="small", provider="acme", input_price="0.1", output_price="1"))
    assert cheapest_able(registry, "only", context_needed=10) is None
    found = cheapest_able(registry, "only")
    assert found is not None
    assert found.id == "small"


def test_embeddings_have_no_stand_in(registry: ModelRegistry) -> None:
    """The vectors of another model do not fit those that were stored."""
    assert cheapest_able(registry, "text-embedding-3-large") is None


def test_cheapest_able_takes_the_same_parameters(registry: ModelRegistry) -> None:
    """A call that was written for one model must not be refused by the one that stands in."""
    found = cheapest_able(registry, "gpt-4o")
    assert found is not None
    assert found.id == "gpt-4.1-nano"
    reasoning = cheapest_able(registry, "o1")
    assert reasoning is not None
    assert "reasoning" in reasoning.capabilities


@pytest.mark.parametrize(
    ("model", "maker"),
    [
        ("openrouter/anthropic/claude-sonnet-4.5", "anthropic/"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", ""),
    ],
)
def test_cheapest_able_stays_with_the_maker(
    registry: ModelRegistry, model: str, maker: str
) -> None:
    """A reseller's cheapest model by somebody else is another product."""
    found = cheapest_able(registry, model)
    assert found is not None
    assert found.id.startswith(maker)
    assert "claude" in found.id
    assert not found.id.startswith("regional.")
    assert registry.rates(found.id, NOW).provider == found.provider or maker


def test_cheapest_able_of_an_unknown_model(registry: ModelRegistry) -> None:
    """An unknown model has no stand-in, and raises."""
    with pytest.raises(UnknownModel):
        cheapest_able(registry, "no-such-model")


def test_a_price_that_was_put_is_seen_by_every_thread() -> None:
    """After `put` returns no lookup in any thread gives the old price."""
    registry = ModelRegistry()
    registry.put(Model(id="house", input_price="1"))
    wrong: list[int] = []
    for price in range(2, 30):
        stop = threading.Event()

        def look(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                registry.rates("house", NOW)

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        registry.put(Model(id="house", input_price=price))
        if registry.rates("house", NOW).base.input != price * 10**9:
            wrong.append(price)
        stop.set()
        for thread in threads:
            thread.join()
        assert registry.rates("house", NOW).base.input == price * 10**9
    assert not wrong


def test_nothing_more_is_allowed_while_the_allowed_models_are_replaced() -> None:
    """A thread that asks meanwhile goes by the old patterns: a plan made of more would stay."""
    registry = ModelRegistry()
    seen = []

    class Patterns(tuple[str, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[str]:
            seen.append(registry.get("gpt-4o").enabled)
            return super().__iter__()

    registry.allow(["claude-*"])
    registry.allow(Patterns(["gemini-*"]))
    assert seen
    assert not any(seen)
    assert not registry.get("gpt-4o").enabled
