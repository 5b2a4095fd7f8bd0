"""What a call costs: prices, usage as providers report it, token counts before the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxai.core.estimates import CostLine, Estimate
    from fluxai.costs.book import PriceBook, RateSource
    from fluxai.costs.counting import TokenCount
    from fluxai.costs.estimator import Cost, CostEstimator
    from fluxai.costs.prices import Rates

__all__ = [
    "Cost",
    "CostEstimator",
    "CostLine",
    "Estimate",
    "PriceBook",
    "RateSource",
    "Rates",
    "TokenCount",
]

_HOMES = {
    "Cost": "fluxai.costs.estimator",
    "CostEstimator": "fluxai.costs.estimator",
    "CostLine": "fluxai.core.estimates",
    "Estimate": "fluxai.core.estimates",
    "PriceBook": "fluxai.costs.book",
    "RateSource": "fluxai.costs.book",
    "Rates": "fluxai.costs.prices",
    "TokenCount": "fluxai.costs.counting",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
