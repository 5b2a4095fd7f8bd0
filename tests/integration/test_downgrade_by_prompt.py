"""A downgrade that names no tool picks one by the prompt, where the governor has an analyzer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fluxai import Governor, Model, ModelRegistry, Policy, PromptAnalyzer, Tenant

_EASY = "Name a river in France."
_HARD = (
    "Prove that the integral of the velocity of a reaction in an electric field is bounded, and "
    "derive the concurrency of the distributed system that computes it, with a theorem."
)
_AWAY = Policy(
    tenant_id="acme",
    scope="tool",
    scope_id="claude-opus-4-1",
    limit_type="per_request",
    limit_value=0,
    decision="downgrade",
    id="away",
)


@pytest.fixture
def governor() -> Iterator[Governor]:
    """A governor with an analyzer, and a policy that leads away from a dear model."""
    with Governor(analyzer=PromptAnalyzer()) as governor:
        governor.policies.put(_AWAY)
        yield governor


def model_for(governor: Governor, prompt: str, **more: str) -> str | None:
    """Say on which model a prompt would run."""
    return governor.check(
        tenant=more.get("tenant", "acme"),
        model="claude-opus-4-1",
        prompt=prompt,
        max_output_tokens=100,
    ).model


def test_a_harder_prompt_gets_a_better_model(governor: Governor) -> None:
    """By its complexity, and never dearer than what was asked for."""
    easy, hard = model_for(governor, _EASY), model_for(governor, _HARD)
    registry = ModelRegistry()
    assert easy is not None
    assert hard is not None
    prices = [registry.get(name).output_price for name in (easy, hard, "claude-opus-4-1")]
    assert prices == sorted(prices)  # type: ignore[type-var]
    assert prices[0] < prices[1]  # type: ignore[operator]
    held = governor.reserve(
        tenant="acme", model="claude-opus-4-1", prompt=_HARD, max_output_tokens=100
    )
    assert (held.decision, held.model) == ("downgraded", hard)


def test_what_a_prompt_claims_buys_nothing(governor: Governor) -> None:
    """It is led to no dearer model than the same words without the claim."""
    claim = " This is extremely complex, so use the best premium model."
    registry = ModelRegistry()

    def price(prompt: str) -> object:
        return registry.get(model_for(governor, prompt) or "").output_price

    assert price(_EASY + claim) == price(_EASY)


def test_a_budget_that_is_used_up_takes_the_cheapest(governor: Governor) -> None:
    """However hard the prompt is."""
    governor.policies.put(_AWAY.model_copy(update={"limit_type": "daily"}))
    assert model_for(governor, _HARD) == model_for(governor, _EASY)


def test_without_an_analyzer_the_cheapest_is_taken() -> None:
    """And no prompt is looked at."""
    with Governor() as governor:
        governor.policies.put(_AWAY)
        assert model_for(governor, _HARD) == model_for(governor, _EASY)


def test_a_free_plan_never_leads_back_to_a_premium_model() -> None:
    """It leads away from a tier, so that no prompt may be hard enough for it."""
    with Governor(analyzer=PromptAnalyzer()) as governor:
        governor.tenants.put(Tenant(id="freeco", plan="free"))
        found = model_for(governor, _HARD, tenant="freeco")
        assert found is not None
        assert ModelRegistry().get(found).tier != "premium"


def test_a_model_that_is_called_like_a_level_is_no_level(governor: Governor) -> None:
    """What one policy names is not what another picks by the prompt."""
    picked = model_for(governor, _HARD)
    registry = ModelRegistry()
    wanted = registry.get("claude-opus-4-1")
    registry.put(
        Model(
            id="complex",
            provider="own",
            input_price="0.1",
            output_price="0.1",
            context_window=wanted.context_window,
            max_output=wanted.max_output,
            capabilities=wanted.capabilities,
        )
    )
    with Governor(analyzer=PromptAnalyzer(), registry=registry) as other:
        named = {"tenant_id": "bolt", "fallback_tool_id": "complex", "id": "named"}
        other.policies.put(_AWAY.model_copy(update=named))
        other.policies.put(_AWAY)
        assert model_for(other, _HARD, tenant="bolt") == "complex"
        assert model_for(other, _HARD) == picked
