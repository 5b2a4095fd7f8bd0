"""`CostEstimator`: what a response cost, and what a request will."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, Self

from fluxai.core.errors import InvalidRequest, UnknownModel
from fluxai.core.estimates import CostLine, Estimate, cost_line, fixed_line
from fluxai.core.money import to_decimal
from fluxai.core.usage import DETAIL_OF, MAX_COUNT, TOKEN_KINDS, Usage
from fluxai.costs import counting
from fluxai.costs.bodies import ERROR, FREE_ENDPOINT, NO_USAGE, TOKEN_COUNT
from fluxai.costs.book import OWN, PriceBook, RateSource
from fluxai.costs.counting import Encoder, TokenCount
from fluxai.costs.encoders import LazyEncoder
from fluxai.costs.framing import Framing, framing_of
from fluxai.costs.learning import CALLS_TRUSTED, Fit, Learning, Trace
from fluxai.costs.plain import get
from fluxai.costs.prices import NANO_PER_MILLION, Rates
from fluxai.costs.reading import Reading, read, tier_name

#: Output tokens assumed where neither the caller nor the model sets a limit.
DEFAULT_OUTPUT_MAX: Final = 4_096
#: Of that limit, the share that an answer is expected to use.
_EXPECTED_OUTPUT_SHARE: Final = 4
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FRAMINGS_MAX: Final = 1_024


class Cost:
    """What one call cost.

    Attributes:
        nanousd: The cost in nano-USD, rounded up once.
        usage: What was used.
        provider: Who is paid, as the price table calls it.
        model: The model as the price table calls it; as the response does where it has none.
        priced: Whether a price was known, or the provider stated the cost.
        flags: What to know about it: `provider_cost`, `no_usage`, `free_model`, …
        price_version: Where the prices come from, with date; empty when none were used.
    """

    __slots__ = (
        "_priced_parts",
        "flags",
        "model",
        "nanousd",
        "price_version",
        "priced",
        "provider",
        "usage",
    )

    def __init__(
        self,
        *,
        nanousd: int,
        usage: Usage,
        provider: str | None,
        model: str | None,
        flags: tuple[str, ...],
        price_version: str,
        priced_parts: Sequence[tuple[Rates, Usage]] = (),
        priced: bool = True,
    ) -> None:
        self.nanousd = nanousd
        self.usage = usage
        self.provider = provider
        self.model = model
        self.priced = priced
        self.flags = flags
        self.price_version = price_version
        self._priced_parts = priced_parts

    @property
    def total(self) -> Decimal:
        """The cost in USD."""
        return to_decimal(self.nanousd)

    @property
    def lines(self) -> tuple[CostLine, ...]:
        """The cost by kind; one line where the provider stated it as one sum."""
        if not self._priced_parts:
            if not self.nanousd:
                return ()
            return (CostLine("call", 1, self.total, self.total, "provider"),)
        return tuple(line for rates, usage in self._priced_parts for line in _lines(rates, usage))

    def __repr__(self) -> str:
        return f"Cost(${self.total} for {self.usage!r} by {self.provider}/{self.model})"


class CostEstimator:
    """Prices responses after the call, and requests before it.

    Args:
        registry: What knows the prices; `ModelRegistry()` for models of your own. By default the
            bundled table.
        encoder: A tokenizer to count with, such as `tiktoken.get_encoding("o200k_base").encode`, or
            `"tiktoken"` to load it beside the calls where its file is on this machine already:
            nothing is ever downloaded, and until it is there text is measured by classes of bytes,
            as it is by default: 20 to 50 times faster.
        learning: What settled calls taught, see `learn`. By default its own; pass the same one to
            share it between estimators, `None` to learn nothing.
    """

    def __init__(
        self,
        registry: RateSource | None = None,
        *,
        encoder: Encoder | Literal["tiktoken"] | None = None,
        learning: Learning | Literal["own"] | None = "own",
    ) -> None:
        self._prices: RateSource = PriceBook() if registry is None else registry
        self._lazy = LazyEncoder() if encoder == "tiktoken" else None
        self._encoder = None if isinstance(encoder, str) else encoder
        self._learning = Learning() if learning == "own" else learning
        self._framings: dict[str, Framing] = {}

    def priced_by(self, registry: RateSource) -> Self:
        """Return an estimator that prices by another registry, and counts and learns as this one.

        Args:
            registry: What knows the prices, such as `ModelRegistry.for_tenant(…)`.
        """
        made = copy(self)
        made._prices = registry
        return made

    def cost(
        self,
        response: object,
        provider: str | None = None,
        model: str | None = None,
        at: datetime | None = None,
        tier: str | None = None,
    ) -> Cost:
        """Price one response.

        Args:
            response: A response object of a provider's SDK, a dict, JSON text or bytes, a list of
                stream chunks, or a `Usage`.
            provider: Whose it is, where the response does not show it.
            model: The model asked for, where the response does not name one with a price. A model
                of your own, put into the registry, wins over what the response names.
            at: Aware; picks the prices in force. By default the response's own time, else now.
            tier: `batch`, `flex`, `priority`, `fast`, where the response does not state it.

        Returns:
            The cost. Where the provider states one itself, that one, flagged `provider_cost`.

        Raises:
            UnknownModel: No price is known for it, and the provider stated no cost.
            InvalidRequest: `at` is naive.
        """
        reading = read(response, provider)
        usage = reading.usage
        if usage.provider_cost is not None:
            return self._stated(reading, model)
        if usage.is_zero:
            return _nothing(reading, model)
        at_us = _instant(at, reading.at_us)
        tier = reading.tier if tier is None else tier_name(tier) or reading.tier
        parts = self._parts(
            usage,
            lambda: self._rates(reading, model, at_us, tier),
            at_us,
            tier,
            reading.provider,
        )
        rates = parts[0][0]
        if len(parts) == 1:
            numerator = rates.numerator(parts[0][1])
        else:
            numerator = sum(part_rates.numerator(part) for part_rates, part in parts)
        flags = usage.flags
        if rates.free:
            flags = (*flags, rates.reason)
        elif not numerator:
            raise UnknownModel(
                f"{rates.provider} {rates.model} has no price for what was used: {usage!r}"
            )
        stated = None
        if rates.guessed or len(parts) > 1:
            stated = next((found.version for found, _ in parts if found.stated), None)
        if stated is not None:
            flags = (*flags, stated)
        elif rates.guessed:
            flags = (*flags, "provider_guessed")
        if usage.requests and not rates.free and _has_unpriced(parts):
            flags = (*flags, "unpriced_fee")
        return Cost(
            nanousd=-(-numerator // NANO_PER_MILLION),
            usage=usage,
            provider=rates.provider,
            model=rates.model,
            flags=flags,
            price_version=stated or rates.version,
            priced_parts=parts,
            priced=stated is None,
        )

    def _rates(self, reading: Reading, model: str | None, at_us: int, tier: str | None) -> Rates:
        """Return the rates of the model that answered.

        The response knows best which one that was, except where the caller gave a model of their
        own a price. A name that only fits by guessing the provider comes last.
        """
        look_up = self._prices.rates
        named = reading.model
        if model is None or model == named:
            if named is None:
                raise UnknownModel("the response names no model; say which with model=")
            return look_up(named, at_us, provider=reading.provider, tier=tier)
        found: list[Rates] = []
        problem = ""
        for name in (model, named):
            if name is not None:
                try:
                    found.append(look_up(name, at_us, provider=reading.provider, tier=tier))
                except UnknownModel as unknown:
                    problem = problem or str(unknown)
        if not found:
            raise UnknownModel(problem)
        told, answered = found[0], found[-1]
        if told.version == OWN or (answered.guessed and not told.guessed):
            return told
        # A realtime session's transcripts are made by another model than the session's.
        return told if reading.model_inferred and "seconds" in told.fees else answered

    def _parts(
        self,
        usage: Usage,
        main: Callable[[], Rates],
        at_us: int,
        tier: str | None,
        provider: str | None = None,
    ) -> list[tuple[Rates, Usage]]:
        """Return what is priced together with its rates; the call's own rates only if needed."""
        if not usage.parts:
            return [(main(), usage)]
        rates: Rates | None = None
        parts = []
        for model, part in usage.parts:
            if model is None:
                rates = rates or main()
                parts.append((rates, part))
            else:
                provider = rates.provider if rates is not None else provider
                own = self._prices.rates(model, at_us, provider=provider, tier=tier)
                parts.append((own, part))
        if rates is not None and rates.request_fee and _is_one_call(usage):
            # What each call costs is due once, with the first pass.
            again = rates.without_request()
            parts[1:] = [(again if own is rates else own, part) for own, part in parts[1:]]
        return parts

    def _stated(self, reading: Reading, model: str | None) -> Cost:
        usage = reading.usage
        cost = usage.provider_cost or Decimal(0)
        return Cost(
            nanousd=_nanos_up(cost),
            usage=usage,
            provider=reading.provider,
            model=reading.model or model,
            flags=(*usage.flags, "provider_cost"),
            price_version="provider",
        )

    def cost_of(self, usage: Usage, rates: Rates) -> int:
        """Return what a usage costs at those rates, in nano-USD, rounded up once.

        A part that names a model of its own is priced as that model, at the same instant.
        """
        if not usage.parts:
            return rates.cost(usage)
        at_us = max(rates.valid_from_us, min(rates.valid_until_us - 1, _now_us()))
        parts = self._parts(usage, lambda: rates, at_us, rates.tier)
        numerator = sum(part_rates.numerator(part) for part_rates, part in parts)
        return -(-numerator // NANO_PER_MILLION)

    def count(
        self,
        model_id: str,
        prompt: object = None,
        messages: object = None,
        tools: object = None,
    ) -> TokenCount:
        """Estimate a request's input tokens, in microseconds and without any download.

        Where calls with the same tools were learned from, or the beginning of the same conversation
        was settled, that is what counts.

        Args:
            model_id: The model, known or not.
            prompt: The text of a single message.
            messages: Messages in any provider's form.
            tools: Tool definitions in any provider's form.
        """
        framing = self._framings.get(model_id)
        if framing is None:
            framing = self._framing(model_id)
        encoder = self._encoder
        if encoder is None and self._lazy is not None:
            encoder = self._encoder = self._lazy.take()
        learning = self._learning
        if learning is None or learning.empty or (messages is None and not tools):
            return counting.count(model_id, prompt, messages, tools, framing, encoder)
        return self.count_and_trace(model_id, prompt, messages, tools)[0]

    def count_and_trace(
        self,
        model_id: str,
        prompt: object = None,
        messages: object = None,
        tools: object = None,
    ) -> tuple[TokenCount, Trace | None]:
        """Return `count` and `trace` of a request, which is looked at once for both."""
        learning = self._learning
        if learning is None or (messages is None and not tools):
            return self.count(model_id, prompt, messages, tools), None
        framing = self._framings.get(model_id) or self._framing(model_id)
        encoder = self._encoder
        if encoder is None and self._lazy is not None:
            encoder = self._encoder = self._lazy.take()
        found = counting.size(framing, prompt, messages, tools, encoder)
        tools_digest = hash(found.tools_text) if tools else 0
        each = counting.listed(prompt, messages)
        digests = _digests(model_id, tools_digest, each) if messages is not None else (0,)
        trace = Trace(tools_digest, digests[-1], 0.0 if found.media else found.plain)
        estimate = counting.judged(found, framing, encoder)
        if messages is not None and learning.conversing:
            known = learning.longest_known(digests)
            if known is not None:
                return _continued(*known, each, framing, encoder, estimate.confidence), trace
        fit = learning.fit(model_id, tools_digest, found.plain)
        return (estimate if fit is None or found.media else _learned(fit, found.plain)), trace

    def _framing(self, model_id: str) -> Framing:
        if len(self._framings) >= _FRAMINGS_MAX:
            self._framings = {}
        framing = self._framings[model_id] = framing_of(model_id)
        return framing

    def trace(
        self,
        model_id: str,
        prompt: object = None,
        messages: object = None,
        tools: object = None,
    ) -> Trace | None:
        """Return what `learn` has to know of a request, to be kept until it is settled.

        Small, and without the request's content; `None` where there is nothing to learn: a plain
        prompt, or an estimator that does not.
        """
        if self._learning is None or (messages is None and not tools):
            return None
        return self.count_and_trace(model_id, prompt, messages, tools)[1]

    def learn(self, model: str, tools: object, estimate: object, actual_input: int) -> None:
        """Take in what a request's input was really billed, to estimate the next one better.

        Args:
            model: As it was given to `count`.
            tools: What `trace` returned for the request; or its tool definitions, then
            estimate: its estimate without the tools: a `TokenCount`, or a number of tokens.
            actual_input: The input tokens that the provider reported, cached ones included.
        """
        learning = self._learning
        if learning is None or tools is None:
            return
        if isinstance(tools, Trace):
            learning.learn(model, tools, actual_input)
            return
        framing = self._framings.get(model) or self._framing(model)
        found = counting.size(framing, None, None, tools, None)
        plain = estimate.expected if isinstance(estimate, TokenCount) else estimate
        if not isinstance(plain, (int, float)) or plain <= 0:
            raise InvalidRequest("estimate", f"must be tokens above 0, got {estimate!r:.60}")
        learning.learn(model, Trace(hash(found.tools_text), 0, float(plain)), actual_input)

    def estimate(
        self,
        *,
        model: str,
        prompt: object = None,
        messages: object = None,
        input_tokens: int | None = None,
        tools: object = None,
        max_output_tokens: int | None = None,
        provider: str | None = None,
        at: datetime | None = None,
        tier: str | None = None,
    ) -> Estimate:
        """Estimate what a request will cost.

        Args:
            model: Any spelling of its id.
            prompt: The text of a single message; or
            messages: messages in any provider's form; or
            input_tokens: the number of input tokens, where it is known.
            tools: Tool definitions in any provider's form.
            max_output_tokens: The limit that the request sets on the answer. Without one, the
                model's own, at most 4,096.
            provider: Where the model runs, where its id does not say it.
            at: Aware; picks the prices in force. By default now.
            tier: `batch`, `flex`, `priority`, `fast`.

        Raises:
            UnknownModel: No price is known for the model.
            InvalidRequest: A number is negative or absurd, or `at` is naive.
        """
        rates = self._prices.rates(model, _instant(at, None), provider=provider, tier=tier)
        if input_tokens is not None:
            tokens = TokenCount(
                _bounded("input_tokens", input_tokens), input_tokens, "exact", "high"
            )
        else:
            tokens = self.count(model, prompt, messages, tools)
        if max_output_tokens is None:
            limit = min(rates.max_output or DEFAULT_OUTPUT_MAX, DEFAULT_OUTPUT_MAX)
            likely = limit // _EXPECTED_OUTPUT_SHARE
        else:
            limit = likely = _bounded("max_output_tokens", max_output_tokens)
        fee = rates.request_fee * NANO_PER_MILLION
        upper = max(tokens.expected, tokens.upper)
        expected = (
            rates.input_cost(tokens.expected) + rates.step(tokens.expected).output * likely + fee
        )
        highest = rates.input_cost(upper) + rates.output_rate(upper) * limit + fee
        lines = []
        if upper and rates.step(upper).input:
            rate = rates.step(upper).input
            lines.append(cost_line("input", upper, rate, rates.version, tokens.method))
        if limit and rates.output_rate(upper):
            found = "granted" if max_output_tokens is None else "cap"
            rate = rates.output_rate(upper)
            lines.append(cost_line("output", limit, rate, rates.version, found))
        if fee:
            lines.append(fixed_line("request", rates.request_fee, rates.version))
        return Estimate(
            expected=to_decimal(-(-expected // NANO_PER_MILLION)),
            highest=to_decimal(-(-max(highest, expected) // NANO_PER_MILLION)),
            input_tokens=tokens.expected,
            method=tokens.method,
            confidence=tokens.confidence,
            lines=tuple(lines),
        )


def _learned(fit: Fit, plain: float) -> TokenCount:
    """Estimate a request from what was learned of its tools."""
    expected = fit.expected(plain)
    return TokenCount(
        int(expected + 0.5),
        int(expected * fit.bound) + _LEARNED_SLACK,
        "learned",
        "high" if fit.calls >= CALLS_TRUSTED else "medium",
    )


def _continued(
    count: int,
    billed: int,
    messages: Sequence[object],
    framing: Framing,
    encoder: Encoder | None,
    confidence: str,
) -> TokenCount:
    """Estimate from what the beginning of a conversation was billed, and its new messages."""
    measure = counting.measured_by(encoder)
    new = media = 0.0
    for message in messages[count:]:
        tokens, files = counting.weigh(message, framing, measure)
        new += tokens
        media += files
    if media:
        new += media * framing.media
        confidence = "low"
    upper = int(billed * _BILLED_MARGIN + new * _NEW_MARGIN) + framing.slack
    return TokenCount(billed + int(new + 0.5), upper, "continued", confidence)


#: A conversation's beginning is billed as before, but for what the provider leaves out or replays.
_BILLED_MARGIN: Final = 1.03
_NEW_MARGIN: Final = 1.5
_LEARNED_SLACK: Final = 2


def _digests(model: str, tools: int, messages: Sequence[object]) -> list[int]:
    """Return a digest of each beginning of a conversation: one message, two, and so on."""
    digest = hash((model, tools))
    found = []
    for message in messages:
        if type(message) is str:
            digest = hash((digest, message))
        else:
            texts, media = counting.texts_of(message)
            digest = hash((digest, get(message, "role"), media, *texts))
        found.append(digest)
    return found or [0]


def _nothing(reading: Reading, model: str | None) -> Cost:
    """Return the cost of nothing; the flags say why there was nothing."""
    flags = reading.usage.flags
    unstated = NO_USAGE in flags
    return Cost(
        nanousd=0,
        usage=reading.usage,
        provider=reading.provider,
        model=reading.model or model,
        flags=flags if unstated or _FREE.intersection(flags) else (*flags, "zero_usage"),
        price_version="",
        priced=not unstated,
    )


def _has_unpriced(parts: Sequence[tuple[Rates, Usage]]) -> bool:
    """Say whether the provider may charge a fee that the price table does not know."""
    return any(
        count and not rates.fee(kind) and kind not in _UNCHARGED
        for rates, usage in parts
        for kind, count in usage.requests.items()
    )


def _is_one_call(usage: Usage) -> bool:
    """Say whether the parts are passes of one call, unlike those of a batch."""
    return not _PASSES.isdisjoint(usage.flags) and not any(part.flags for _, part in usage.parts)


_PASSES: Final = frozenset({"search_loop", "iterations"})


def _bounded(field: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise InvalidRequest(field, f"must be a whole number from 0 to 10^12, got {value!r:.40}")
    return value


#: What is used up without being charged: the tokens that these bring in are billed instead.
_UNCHARGED: Final = frozenset({"web_fetch"})
_FREE: Final = frozenset({ERROR, FREE_ENDPOINT, TOKEN_COUNT})


def _now_us() -> int:
    return time.time_ns() // 1000


def _instant(at: datetime | None, own_us: int | None) -> int:
    if at is None:
        now_us = _now_us()
        return now_us if own_us is None else min(own_us, now_us)
    if at.tzinfo is None:
        raise InvalidRequest("at", "must be aware, such as datetime.now(UTC)")
    return (at - _EPOCH) // _MICROSECOND


def _nanos_up(cost: Decimal) -> int:
    return int((cost * 10**9).to_integral_value("ROUND_CEILING"))


def _lines(rates: Rates, usage: Usage) -> list[CostLine]:
    step = rates.step(usage.input_total)
    lines: list[CostLine] = []

    def line(kind: str, quantity: Decimal | int, rate: int) -> None:
        lines.append(cost_line(kind, quantity, rate, rates.version))

    finer = dict.fromkeys(DETAIL_OF.values(), 0)
    for kind, quantity in usage.details.items():
        finer[DETAIL_OF[kind]] += quantity
        line(kind, quantity, step.details[kind] + getattr(step, DETAIL_OF[kind]))
    for kind in TOKEN_KINDS:
        quantity = getattr(usage, kind) - finer.get(kind, 0)
        if quantity:
            line(kind, quantity, getattr(step, kind))
    for kind, quantity in usage.requests.items():
        if quantity:
            line(kind, quantity, rates.fee(kind))
    if usage.seconds:
        line("seconds", max(usage.seconds, rates.seconds_min), rates.fees.get("seconds", 0))
    if usage.characters:
        line("characters", usage.characters, rates.fees.get("characters", 0))
    if rates.charges_request(usage):
        line("request", 1, rates.fees["request"])
    return lines
