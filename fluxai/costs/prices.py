"""What one model costs while its prices hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Final

from fluxai.core.usage import DETAIL_OF, Usage

NANO_PER_MILLION: Final = 1_000_000

#: In the place of a price's source, and as the flag of a call: a policy said what it costs, for want
#: of a price.
CEILING: Final = "unpriced_ceiling"
ASSUMED: Final = "unpriced_assumed"
_STATED: Final = (CEILING, ASSUMED)

#: Where a kind has no price of its own, the one that applies instead, in order.
_FALLBACKS: Final[Mapping[str, tuple[str, ...]]] = {
    # A model that only prices images or audio bills all its tokens at that.
    "input": ("image_in", "audio_in"),
    "output": ("image_out", "audio_out"),
    "cache_read": ("input", "image_in", "audio_in"),
    "cache_write_5m": ("input",),
    "cache_write_1h": ("cache_write_5m", "input"),
    "reasoning": ("output", "image_out", "audio_out"),
    "audio_in": ("input",),
    "audio_out": ("output",),
    "image_in": ("input",),
    "image_out": ("output",),
    "cache_read_audio": ("cache_read", "audio_in", "input"),
    "cache_read_image": ("cache_read", "image_in", "input"),
    "video_in": ("input",),
    "video_out": ("output",),
}
#: Kinds in the order that `Step` takes them.
_STEP_KINDS: Final = (
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_in",
    "audio_out",
    "image_in",
    "image_out",
)


class Step:
    """The rates of one price step: nano-USD per million tokens, for every kind."""

    __slots__ = (*_STEP_KINDS, "details", "highest_output", "start")

    def __init__(self, start: int, rates: Mapping[str, int]) -> None:
        self.start = start
        self.input = _rate(rates, "input")
        self.cache_read = _rate(rates, "cache_read")
        self.cache_write_5m = _rate(rates, "cache_write_5m")
        self.cache_write_1h = _rate(rates, "cache_write_1h")
        self.output = _rate(rates, "output")
        self.reasoning = _rate(rates, "reasoning")
        # Where seconds are billed, the same audio is not billed as tokens too.
        self.audio_in = rates.get("audio_in", 0) if "seconds" in rates else _rate(rates, "audio_in")
        self.audio_out = _rate(rates, "audio_out")
        self.image_in = _rate(rates, "image_in")
        self.image_out = _rate(rates, "image_out")
        self.highest_output = max(self.output, self.reasoning)
        # A finer kind is counted in its parent too, so only the difference is added.
        self.details = {
            kind: _rate(rates, kind) - _rate(rates, parent) for kind, parent in DETAIL_OF.items()
        }


def _rate(rates: Mapping[str, int], kind: str) -> int:
    rate = rates.get(kind)
    if rate is None:
        for other in _FALLBACKS[kind]:
            rate = rates.get(other)
            if rate is not None:
                break
    return rate or 0


class Rates:
    """The prices of one model at one provider, and the interval in which they hold.

    Attributes:
        model: The model's id at that provider.
        provider: The provider, as the price table calls it.
        tier: The service tier these are for: `batch`, `flex`, `priority`, `fast`; else `None`.
        version: Where the prices come from, with date.
        valid_from_us: Microseconds since the epoch (UTC) from which they hold.
        valid_until_us: The instant at which they no longer do.
        base: Rates up to the first step.
        steps: Rates of larger requests. A request whose input exceeds `start` tokens pays the
            step's rates for all its tokens, as providers bill it.
        fees: Nano-USD per million units, of whatever is not a token.
        request_fee: Nano-USD that each call costs besides its tokens.
        context_window: Tokens that a request and its answer may have together, where known.
        max_output: Tokens that an answer may have, where known.
        seconds_min: Fewest seconds that are billed.
        free: Nothing is charged for this model; `reason` says why.
        reason: `free_model` or `local_model`, or empty.
        guessed: The id fits several providers, and the dearest was taken.
    """

    __slots__ = (
        "base",
        "context_window",
        "fees",
        "free",
        "guessed",
        "max_output",
        "model",
        "provider",
        "reason",
        "request_fee",
        "seconds_min",
        "steps",
        "tier",
        "valid_from_us",
        "valid_until_us",
        "version",
    )

    def __init__(
        self,
        *,
        model: str,
        provider: str,
        version: str,
        valid_from_us: int,
        valid_until_us: int,
        prices: Mapping[str, Any],
        tier: str | None = None,
        context_window: int | None = None,
        max_output: int | None = None,
        seconds_min: int = 0,
        reason: str = "",
        guessed: bool = False,
    ) -> None:
        self.model = model
        self.provider = provider
        self.version = version
        self.valid_from_us = valid_from_us
        self.valid_until_us = valid_until_us
        self.tier = tier
        self.context_window = context_window
        self.max_output = max_output
        self.seconds_min = seconds_min
        self.reason = reason
        self.free = bool(reason)
        self.guessed = guessed
        starts = sorted(
            {step[0] for rate in prices.values() if type(rate) is list for step in rate[1:]}
        )
        self.base = Step(0, {kind: _at(rate, 0) for kind, rate in prices.items()})
        self.steps: Sequence[Step] = tuple(
            Step(start, {kind: _at(rate, start + 1) for kind, rate in prices.items()})
            for start in starts
        )
        self.fees = {kind: _at(rate, 0) for kind, rate in prices.items() if kind not in _FALLBACKS}
        self.request_fee = -(-self.fees.get("request", 0) // NANO_PER_MILLION)

    @property
    def stated(self) -> bool:
        """Whether a policy stated them, since the model has no price."""
        return self.version in _STATED

    def without_request(self) -> Rates:
        """Return these rates without what each call costs besides."""
        rates = copy(self)
        rates.fees = {kind: rate for kind, rate in self.fees.items() if kind != "request"}
        rates.request_fee = 0
        return rates

    def step(self, input_tokens: int) -> Step:
        """Return the rates of a request with that many input tokens."""
        found = self.base
        for step in self.steps:
            if input_tokens > step.start:
                found = step
        return found

    def input_cost(self, tokens: int) -> int:
        """Return what so many fresh text input tokens cost, in nano-USD per million."""
        if self.steps:
            return tokens * self.step(tokens).input
        return tokens * self.base.input

    def output_rate(self, input_tokens: int) -> int:
        """Return the most that one text output token can cost, in nano-USD per million.

        Thinking counts too: which of both an answer will hold is not known before it is there.
        """
        if self.steps:
            return self.step(input_tokens).highest_output
        return self.base.highest_output

    def charges_request(self, usage: Usage) -> bool:
        """Say whether the fee of a request is due which the usage does not state itself."""
        if "request" not in self.fees or usage.is_zero:
            return False
        return not any(kind.startswith("request") for kind in usage.requests)

    def fee(self, kind: str) -> int:
        """Return what one request of a fee kind costs, in nano-USD per million; 0 if unknown.

        An image whose quality and size have no price of their own costs the model's `image`, a
        request of a stated size its `request`, a search of the preview tool a search.
        """
        rate = self.fees.get(kind)
        if rate is None:
            if kind.startswith(("image_", "request_")):
                rate = self.fees.get(kind.partition("_")[0])
            elif kind == "web_search_preview":
                rate = self.fees.get("web_search")
        return rate or 0

    def cost(self, usage: Usage) -> int:
        """Return what the usage costs: nano-USD, rounded up once.

        Parts that name another model are priced here as this one; `CostEstimator` looks them up.
        """
        if usage.plain and not self.steps and not self.request_fee:
            base = self.base
            return -(
                -(
                    usage.input * base.input
                    + usage.cache_read * base.cache_read
                    + usage.output * base.output
                    + usage.reasoning * base.reasoning
                )
                // NANO_PER_MILLION
            )
        if usage.parts:
            numerator = sum(self.numerator(part) for _, part in usage.parts)
        else:
            numerator = self.numerator(usage)
        return -(-numerator // NANO_PER_MILLION)

    def numerator(self, usage: Usage) -> int:
        """Return what the usage itself costs, without its parts, in nano-USD times a million."""
        step = self.step(usage.input_total) if self.steps else self.base
        total = (
            usage.input * step.input
            + usage.cache_read * step.cache_read
            + usage.cache_write_5m * step.cache_write_5m
            + usage.cache_write_1h * step.cache_write_1h
            + usage.output * step.output
            + usage.reasoning * step.reasoning
            + usage.audio_in * step.audio_in
            + usage.audio_out * step.audio_out
            + usage.image_in * step.image_in
            + usage.image_out * step.image_out
        )
        if usage.details:
            for kind, count in usage.details.items():
                total += count * step.details[kind]
        fees = self.fees
        if fees:
            for kind, count in usage.requests.items():
                total += count * self.fee(kind)
            if usage.seconds:
                total += self._seconds(usage)
            if usage.characters:
                total += usage.characters * fees.get("characters", 0)
            if self.charges_request(usage):
                total += fees["request"]
        return total

    def _seconds(self, usage: Usage) -> int:
        billed = max(usage.seconds, self.seconds_min) * self.fees.get("seconds", 0)
        return billed if isinstance(billed, int) else int(billed.to_integral_value("ROUND_CEILING"))


def _at(rate: Any, tokens: int) -> int:
    """Return the rate for a request of that many input tokens."""
    if type(rate) is int:
        return rate
    base, *steps = rate
    found: int = base
    for start, step in steps:
        if tokens > start:
            found = step
    return found
