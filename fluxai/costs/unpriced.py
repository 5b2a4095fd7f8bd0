"""What a call costs whose model has no price: by a stated policy, and never nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from fluxai.core.errors import InvalidRequest, UnknownModel
from fluxai.costs.book import BEGINNING_US, END_US, PriceBook, RateSource
from fluxai.costs.prices import ASSUMED, CEILING, NANO_PER_MILLION, Rates

OnUnpriced = Literal["refuse", "ceiling", "warn"]

#: Given (what the look-up raised, model id, instant in microseconds, provider): the rates instead.
Instead = Callable[[UnknownModel, str, int, str | None], Rates]
#: USD per million tokens where nothing is known of the provider either: what the dearest models of
#: the last years cost. Nano-USD.
_DEAREST_INPUT: Final = 15_000_000_000
_DEAREST_OUTPUT: Final = 75_000_000_000


def unpriced(
    unknown: UnknownModel,
    model_id: str,
    *,
    policy: OnUnpriced = "refuse",
    ceiling_nanousd: int | None = None,
    provider: str | None = None,
    book: PriceBook | None = None,
    at_us: int = 0,
) -> Rates:
    """Return the rates of a model that has no price.

    Args:
        unknown: What the look-up raised; it names similar ids.
        model_id: As it was asked for.
        policy: `refuse` raises; `ceiling` charges each call a fixed sum; `warn` charges what the
            dearest model of the provider would cost, or of all where the provider is unknown too.
        ceiling_nanousd: The fixed sum, for `ceiling`.
        provider: Where it runs, if that is known; else the id may show who made it.
        book: Knows the provider's models, for `warn`.
        at_us: When; microseconds since the epoch.

    Returns:
        Rates whose `version` is the flag that the event of the call carries.

    Raises:
        UnknownModel: The policy is `refuse`.
        InvalidRequest: `ceiling` without a sum above zero, or another policy.
    """
    if policy == "refuse":
        raise unknown
    if policy == "ceiling":
        if ceiling_nanousd is None or ceiling_nanousd <= 0:
            raise InvalidRequest(
                "unpriced_ceiling", "must be above 0 with on_unpriced='ceiling': nothing is free"
            )
        return _rates(model_id, provider, CEILING, {"request": ceiling_nanousd * NANO_PER_MILLION})
    if policy != "warn":
        raise InvalidRequest("on_unpriced", f"must be refuse, ceiling or warn, got {policy!r:.40}")
    prices = {"input": _DEAREST_INPUT, "output": _DEAREST_OUTPUT}
    if book is not None:
        provider = provider or book.home(model_id)
        if provider is not None:
            prices = book.dearest(provider, at_us) or prices
    return _rates(model_id, provider, ASSUMED, prices)


class Stated:
    """Prices where there are any, and what is stated in their place where there are none.

    Args:
        prices: Knows prices.
        instead: Returns the rates of a model that has none, or raises what it was given.
    """

    def __init__(self, prices: RateSource, instead: Instead) -> None:
        self._prices = prices
        self._instead = instead

    def rates(
        self, model_id: str, at_us: int, *, provider: str | None = None, tier: str | None = None
    ) -> Rates:
        """Return the rates in force, or those stated instead; see `RateSource`."""
        try:
            return self._prices.rates(model_id, at_us, provider=provider, tier=tier)
        except UnknownModel as unknown:
            return self._instead(unknown, model_id, at_us, provider)


def _rates(model_id: str, provider: str | None, version: str, prices: dict[str, int]) -> Rates:
    return Rates(
        model=model_id,
        provider=provider or "unknown",
        version=version,
        valid_from_us=BEGINNING_US,
        valid_until_us=END_US,
        prices=prices,
        guessed=True,
    )
