"""Prices for one tenant on top of everyone's, and names of one's own for models."""

from __future__ import annotations

import pytest

from fluxai import CostEstimator, ModelRegistry
from fluxai.core.errors import UnknownModel
from fluxai.models import Model

AT_US = 1_790_000_000_000_000
OPENAI = {"provider": "openai", "output_price": "8"}


def test_a_tenants_prices_hold_for_that_tenant_alone() -> None:
    """What one tenant negotiated is no one else's price, in any spelling of the model."""
    registry = ModelRegistry()
    acme = registry.for_tenant("acme")
    listed = registry.rates("gpt-4o", AT_US).base.input
    acme.put(Model(id="gpt-4o", input_price="2", **OPENAI))
    for spelling in ("gpt-4o", "openai/gpt-4o", "gpt-4o-2024-08-06", "GPT-4o"):
        assert acme.rates(spelling, AT_US).base.input == 2_000_000_000
        assert registry.rates(spelling, AT_US).base.input == listed
        assert registry.for_tenant("other").rates(spelling, AT_US).base.input == listed
    assert acme.get("gpt-4o").input_price == 2
    assert registry.for_tenant("acme") is acme


def test_what_is_put_for_everyone_reaches_every_tenant() -> None:
    """Also later, and where the tenant has asked before; the tenant's own price stays above."""
    registry = ModelRegistry()
    acme = registry.for_tenant("acme")
    with pytest.raises(UnknownModel):
        acme.rates("house-llm", AT_US)
    registry.put(Model(id="house-llm", input_price="1", output_price="1"))
    assert acme.rates("house-llm", AT_US).base.input == 1_000_000_000
    assert "house-llm" in {model.id for model in acme.list(provider="custom")}
    acme.put(Model(id="house-llm", input_price="3", output_price="3"))
    registry.put(Model(id="house-llm", input_price="2", output_price="2"))
    assert acme.rates("house-llm", AT_US).base.input == 3_000_000_000
    assert [m.input_price for m in acme.list(provider="custom")] == [3]
    acme.delete("house-llm")
    assert acme.rates("house-llm", AT_US).base.input == 2_000_000_000
    assert acme.get("house-llm").input_price == 2


def test_a_deployment_is_the_model_behind_it() -> None:
    """Azure's deployments, profiles and presets are priced as what they stand for."""
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
    registry = ModelRegistry(deployments={"prod-chat": "azure/gpt-4o"})
    registry.deploy(arn, "anthropic.claude-3-5-haiku-20241022-v1:0", provider="bedrock")
    assert registry.rates("Prod-Chat", AT_US).provider == "azure"
    assert registry.rates(arn, AT_US).provider == "aws"
    response = {
        "object": "chat.completion",
        "model": "prod-chat",
        "choices": [],
        "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000},
    }
    cost = CostEstimator(registry).cost(response)
    assert (cost.model, str(cost.total)) == ("gpt-4o", "2.50")


def test_a_deployment_of_nothing_is_refused() -> None:
    """A name can't stand for a model that has no price."""
    with pytest.raises(UnknownModel, match="gpt-4o"):
        ModelRegistry(deployments={"prod-chat": "gpt-4oo"})


def test_a_deployment_may_be_called_like_another_model() -> None:
    """Whatever a deployment is called, it is what it stands for; for one tenant, if so said."""
    registry = ModelRegistry()
    acme = registry.for_tenant("acme")
    acme.deploy("gpt-4", "gpt-4o-mini")
    assert acme.rates("gpt-4", AT_US).model == "gpt-4o-mini"
    assert registry.rates("gpt-4", AT_US).model == "gpt-4"
