"""The catalogue: one id for every spelling, prices, and stand-ins that are able and not dearer."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from fluxai import Model, NotFound, Tool, UnknownModel
from fluxai.core.windows import to_us
from fluxai.costs.book import PriceBook
from fluxai.costs.table import PriceTable
from fluxai.models import ModelRegistry
from fluxai.policy.catalog import ToolCatalog

NOW_US = to_us(datetime(2026, 1, 15, 12, tzinfo=UTC))
REGISTRY = ModelRegistry()


def _tool(tool_id: str, cost: str = "0.01", **fields: Any) -> Tool:
    return Tool.model_validate({"id": tool_id, "cost_per_unit": cost, **fields})


def _catalog(*tools: Tool) -> ToolCatalog:
    return ToolCatalog(REGISTRY, {tool.id: tool for tool in tools})


@pytest.mark.parametrize("spelling", ["gpt-4", "openai/gpt-4", "gpt-4-0613"])
def test_every_spelling_is_one_tool(spelling: str) -> None:
    """A model's names are counted under its record's id, else under the registry's."""
    assert _catalog().canonical(spelling) == "gpt-4"
    assert _catalog(_tool("openai/gpt-4")).canonical(spelling) == "openai/gpt-4"


def test_unknown_ids_are_their_own() -> None:
    """What nobody knows is counted as it was written."""
    assert _catalog().canonical("my-agent-tool") == "my-agent-tool"


def test_a_record_prices_units_and_the_model_prices_tokens() -> None:
    """Also where both share an id."""
    catalog = _catalog(_tool("gpt-4", "0.00003", unit="tokens", category="llm", tier="cheap"))
    priced = catalog.priced("gpt-4-0613", NOW_US)
    assert (priced.id, priced.model, priced.premium) == ("gpt-4", "gpt-4-0613", False)
    assert priced.unit_rate == 30_000 * 1_000_000
    assert priced.rates.base.input == 30_000_000_000
    by_unit = catalog.tool("openai/gpt-4")
    assert (by_unit.id, by_unit.rates, by_unit.unit_rate) == ("gpt-4", None, priced.unit_rate)
    assert catalog.unit("gpt-4-0613") == "tokens"
    assert catalog.unit("anything") == "requests"


def test_what_has_no_price_is_refused() -> None:
    """With the remedy, and what there is."""
    catalog = _catalog(_tool("search"))
    with pytest.raises(UnknownModel):
        catalog.priced("no-such-model-xyz", NOW_US)
    with pytest.raises(NotFound, match=r"tools\.put.*search"):
        catalog.tool("no-such-tool")
    assert catalog.priced("search", NOW_US).unit_rate is not None
    assert catalog.any("search", NOW_US).id == "search"


@pytest.mark.parametrize(
    ("tool", "named", "found"),
    [
        ("gpt-4", "gpt-3.5-turbo", "gpt-3.5-turbo"),
        ("gpt-4", "openai/gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-3.5-turbo", "gpt-4", None),
        ("gpt-4", "text-embedding-3-small", None),
        ("gpt-4", "no-such-model-xyz", None),
        ("gpt-4", "search", None),
        ("search", "lookup", "lookup"),
        ("lookup", "search", None),
        ("search", "gpt-4", None),
        ("search", "words", None),
    ],
)
def test_a_named_stand_in_is_able_and_not_dearer(tool: str, named: str, found: str | None) -> None:
    """What is dearer, of another kind, or paid by another unit, is none."""
    catalog = _catalog(
        _tool("search", "0.02"), _tool("lookup", "0.01"), _tool("words", "0.001", unit="tokens")
    )
    stand_in = catalog.fallback(catalog.any(tool, NOW_US), named, NOW_US)
    assert (None if stand_in is None else stand_in.id) == found


def test_an_unnamed_stand_in_is_the_cheapest_able() -> None:
    """For a model another of its provider, for a model by the unit one with such a record."""
    catalog = _catalog(
        _tool("gold", "9", tier="premium", category="llm"),
        _tool("silver", "2", category="llm"),
        _tool("tin", "1", category="llm"),
        _tool("diamond", "0.5", tier="premium", category="llm"),
        _tool("words", "0.1", unit="tokens", category="llm"),
        _tool("search", "0.1"),
    )
    model = catalog.priced("claude-3-opus", NOW_US)
    found = catalog.fallback(model, None, NOW_US)
    assert found is not None
    assert found.rates.provider == "anthropic"
    assert found.rates.base.input < model.rates.base.input
    assert catalog.cheaper_models("claude-3-opus") == [found.id]
    tin = catalog.fallback(catalog.tool("gold"), None, NOW_US)
    assert tin is not None
    assert tin.id == "tin"
    assert catalog.fallback(catalog.tool("tin"), None, NOW_US) is None
    assert catalog.fallback(catalog.tool("search"), None, NOW_US) is None


def test_a_disabled_model_is_neither_asked_for_nor_a_stand_in() -> None:
    """Switched off is switched off."""
    registry = ModelRegistry()
    registry.put(Model(id="off", provider="openai", input_price=Decimal(0), enabled=False))
    catalog = ToolCatalog(registry, {})
    with pytest.raises(UnknownModel, match="disabled"):
        catalog.priced("off", NOW_US)
    assert catalog.fallback(catalog.priced("gpt-4", NOW_US), "off", NOW_US) is None


def test_caches_do_not_grow_with_what_callers_send() -> None:
    """Any number of unknown ids is answered in bounded memory."""
    # Without models: an unknown id is compared with the names of all.
    table = PriceTable('{"format":1,"source":"nobody","compiled":"2026-01-01"}\n')
    catalog = ToolCatalog(ModelRegistry(PriceBook(table)), {})
    for number in range(5_000):
        assert catalog.canonical(f"unknown-{number}") == f"unknown-{number}"
    assert len(catalog._ids) <= 4_096
