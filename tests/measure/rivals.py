"""What else could decide which prompts need the dear model: scores to compare with."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from tests.measure import original_heuristic

Scorer = Callable[[str], float]

_TIERS: Final = ("SIMPLE", "MEDIUM", "COMPLEX", "REASONING")


#: What needs nothing installed.
PLAIN: Final[dict[str, Scorer]] = {
    "prompt length": len,
    "original heuristic, rebuilt": original_heuristic.complexity,
}


@cache
def rivals() -> dict[str, Scorer]:
    """Return scores by name; LiteLLM's where it is installed."""
    return {**PLAIN, **_litellm()}


def _litellm() -> dict[str, Scorer]:
    try:
        package: Any = importlib.import_module("litellm.router_strategy.complexity_router")
        predictor: Any = importlib.import_module(f"{package.__name__}.tier_predictor")
        kinds: Any = importlib.import_module("litellm.router_strategy.adaptive_router.classifier")
    except ImportError:
        return {}
    router = package.ComplexityRouter(
        model_name="router",
        litellm_router_instance=None,
        complexity_router_config={"tiers": dict.fromkeys(_TIERS, "some-model")},
    )
    second = predictor.TierSuccessPredictor(predictor.resolve_tier_artifact("ultrafeedback"))

    def heuristic(prompt: str) -> float:
        return float(router.classify(prompt)[1])

    def heuristic_v2(prompt: str) -> float:
        # The chance that its cheapest tier fails is finer than the tier it would choose.
        found = second.predict(prompt, kinds.classify_prompt(prompt))
        return 1 - float(min(found.probabilities.values()))

    return {"LiteLLM heuristic": heuristic, "LiteLLM heuristic_v2": heuristic_v2}
