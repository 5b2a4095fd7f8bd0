"""What a call costs whose model has no price: by a stated policy, and never nothing."""

from __future__ import annotations

from typing import Final, Literal

from fluxai.core.errors import InvalidRequest, UnknownModel
from fluxai.costs.book import BEGINNING_US, END_US, PriceBook
from fluxai.costs.prices import NANO_PER_MILLION, Rates

OnUnpriced = Literal["refuse", "ceiling", "warn"]

#: Flags of a call that was priced by a policy, for want of a price.
CEILING: Final = "unpriced_ceiling"
ASSUMED: Final = "unpriced_assumed"
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
        provider: Where it runs, if that is known.
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
    if provider is not None and book is not None:
        prices = book.dearest(provider, at_us) or prices
    return _rates(model_id, provider, ASSUMED, prices)


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
