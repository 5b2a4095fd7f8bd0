"""From what a call reported to the event that settles it. Pure but for prices.

Given are a response, a usage, or a cost; where there is none of them, an estimate that says so.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fluxai.arguments import check_text, count, event_key
from fluxai.core.decisions import Posting, Reservation, UsageEvent
from fluxai.core.errors import FluxAIError, InvalidRequest, UnknownModel
from fluxai.core.ledger import COST, REQUESTS, TOKENS, Subject
from fluxai.core.money import PER_MILLION, to_nano
from fluxai.core.usage import Usage
from fluxai.core.windows import from_us
from fluxai.costs.book import OWN
from fluxai.costs.estimator import Cost
from fluxai.costs.quick import quick_look
from fluxai.costs.unpriced import Stated
from fluxai.policy.catalog import stated_rates
from fluxai.texts import text_of

if TYPE_CHECKING:
    from fluxai.costs.estimator import CostEstimator
    from fluxai.costs.prices import Rates
    from fluxai.costs.unpriced import Instead
    from fluxai.models.registry import ModelRegistry
    from fluxai.planning import Planner
    from fluxai.policy.catalog import ToolCatalog


#: In an event's flags: how hard the prompt is, and what was asked for before a certificate led away.
SCORE_FLAG = "score="
ASKED_FLAG = "asked="
_NOT_UNDERSTOOD = frozenset({"no_usage", "clamped"})


class Pricer:
    """Makes the events of settlements and records.

    Args:
        planner: Knows the prices that hold for a tenant.
        registry: The prices that hold for everybody.
        estimator: Prices responses.
    """

    def __init__(self, planner: Planner, registry: ModelRegistry, estimator: CostEstimator) -> None:
        self._planner = planner
        self._registry = registry
        self._estimator = estimator
        self._layers = planner.layers
        self._estimators: dict[str, CostEstimator] = {}

    def _registry_of(self, tenant: str) -> ModelRegistry:
        return self._layers.get(tenant, self._registry)

    def estimator_of(self, tenant: str) -> CostEstimator:
        """Return what prices a tenant's calls, at the prices as read last."""
        layer = self._layers.get(tenant)
        if layer is None:
            return self._estimator
        found = self._estimators.get(tenant)
        if found is None:
            found = self._estimators[tenant] = self._estimator.priced_by(layer)
        return found

    def settled(
        self,
        known: Reservation,
        response: Any,
        usage: Usage | None,
        cost: Any,
        at_us: int,
        estimated: bool = False,  # noqa: FBT001, FBT002 -- on the hot path keywords cost
    ) -> UsageEvent:
        """Make the event that settles a reservation; see `Governor.settle`.

        Raises:
            InvalidRequest: Nothing was given, or what was given is not understood.
        """
        candidate = known.candidate
        rates = candidate.rates
        if rates is None and known._method != "units":
            # It was reserved elsewhere, or long ago.
            self._planner.fresh_prices(known.subject.tenant)
        flags: tuple[str, ...] = ("estimated",) if estimated else ()
        if known.extra is not None and known.extra.routing is not None:
            flags = (*flags, *routing_flags(known))
        if usage is not None and response is None and cost is None:
            if type(usage) is not Usage:
                raise InvalidRequest("usage", f"must be a Usage, got {type(usage).__name__}")
            tenant = known.subject.tenant
            if rates is None:
                name = candidate.model or candidate.tool
                rates = self._rates(known.subject, candidate.tool, name, known.counted_us)
            if rates.guessed and rates.stated:
                flags = (*flags, rates.version)
            return UsageEvent(
                known.uid,
                known,
                candidate.model,
                self.estimator_of(tenant).cost_of(usage, rates)
                if usage.parts
                else rates.cost(usage),
                usage.total,
                known.amounts[REQUESTS],
                usage,
                at_us,
                flags,
                rates.version,
                usage,
            )
        if response is not None and cost is None and usage is None:
            try:
                quick = quick_look(response)
            except Exception as error:
                raise _unreadable(error) from error
            event = None if quick is None else self._quickly(known, quick, at_us, flags)
            if event is not None:
                return event
        given = None if cost is None else to_nano(cost, "cost", round_up=True)
        _require_one(response, usage)
        model = candidate.model
        version = None
        by_unit = known._method == "units" and usage is None and given is None
        priced = None
        if response is not None:
            try:
                priced = self._cost(
                    known.subject,
                    response,
                    known.model,
                    from_us(known.counted_us),
                    given,
                    tool=candidate.tool,
                    held=rates if rates is not None and rates.stated else None,
                )
            except (InvalidRequest, UnknownModel):
                # What a tool returned says nothing of its cost; its units do.
                if not by_unit:
                    raise
        if priced is not None:
            usage, version = priced.usage, priced.price_version
            nanousd = priced.nanousd
            model = priced.model or model
            tokens = usage.total
            flags = (*flags, *priced.flags)
        elif given is not None:
            nanousd = given
            tokens = usage.total if usage is not None else _expected_tokens(known)
            if usage is None and candidate.model is not None:
                flags = (*flags, "tokens_estimated")
        elif by_unit:
            nanousd, tokens = known.amounts[COST], known.amounts[TOKENS]
        else:
            raise InvalidRequest(
                "response", "pass the provider's response, or usage=Usage(…), or cost='0.0123'"
            )
        return UsageEvent(
            known.uid,
            known,
            model,
            nanousd,
            tokens,
            known.amounts[REQUESTS],
            usage,
            at_us,
            flags,
            version,
            (usage, given),
        )

    def _quickly(
        self,
        known: Reservation,
        quick: tuple[str, Usage, str | None],
        at_us: int,
        flags: tuple[str, ...],
    ) -> UsageEvent | None:
        """Settle a plain answer; the general way gives the same, flags and all.

        None where the response names a model without a price, which takes more than a look.
        """
        named, usage, provider = quick
        registry = self._registry
        if self._layers:
            registry = self._registry_of(known.subject.tenant)
        try:
            rates = registry.rates(named, known.counted_us, provider=provider)
        except UnknownModel:
            return None
        if rates.free:
            flags = (*flags, rates.reason)
        if rates.guessed:
            flags = (*flags, "provider_guessed")
        return UsageEvent(
            known.uid,
            known,
            rates.model,
            rates.cost(usage),
            usage.total,
            known.amounts[REQUESTS],
            usage,
            at_us,
            flags,
            rates.version,
            (usage, None),
        )

    def expected(self, known: Reservation, at_us: int) -> UsageEvent:
        """Make the event of a call whose cost nobody knows: the expected one."""
        rates = known.candidate.rates
        stated = rates.version if rates is not None and rates.stated else None
        return UsageEvent(
            known.uid,
            known,
            known.model,
            known.expected_nanousd,
            _expected_tokens(known),
            known.amounts[REQUESTS],
            None,
            at_us,
            (
                *(("estimated",) if stated is None else ("estimated", stated)),
                *routing_flags(known),
            ),
            stated,
            "expected",
        )

    def returned(
        self, known: Reservation, result: Any, at_us: int, *, aborted: bool = False
    ) -> UsageEvent:
        """Make the event of a call from what its function returned.

        A result with usage is exact; one that only holds text is estimated by its length; of
        anything else the expected cost is taken. Of a stream that was `aborted` before it told its
        final usage, all the output that was granted is: what is generated, thinking above all, may
        be more than what has arrived.
        """
        if known._method == "units":
            return self.settled(known, None, None, None, at_us)
        stated: Usage | None = None
        try:
            exact = self.settled(known, result, None, None, at_us)
            stated = exact.usage
            if not aborted or stated is None or stated.provider_cost is not None:
                return exact
        except (InvalidRequest, UnknownModel):
            # No usage that is understood, or of a model without a price: the text has to tell.
            pass
        least = known.output_tokens if aborted else 0
        arrived = self._estimated(known, text_of(result), stated, least, at_us)
        return self.expected(known, at_us) if arrived is None else arrived

    def _estimated(
        self, known: Reservation, text: str, stated: Usage | None, least: int, at_us: int
    ) -> UsageEvent | None:
        """Estimate a call by its text, the usage that it stated so far, and its `least` output."""
        if known.model is None or (not text and stated is None):
            return None
        output = self._estimator.count(known.model, text).expected if text else 0
        output = max(output, least)
        if stated is None:
            usage = Usage(input=known.need.expected_input_tokens, output=output)
        else:
            missing = max(0, output - stated.output_total)
            usage = stated.replaced(output=stated.output + missing, parts=())
        return self.settled(known, None, usage, None, at_us, estimated=True)

    def recorded(
        self,
        event_id: int | str,
        subject: Subject,
        catalog: ToolCatalog,
        *,
        response: Any,
        usage: Usage | None,
        cost: Any,
        units: int | None,
        model: str | None,
        tool: str | None,
        provider: str | None,
        counted_us: int,
        at: datetime | None,
        now_us: int,
        estimated: bool = False,
    ) -> UsageEvent:
        """Make the event of money that was already spent; see `Governor.record`."""
        given = None if cost is None else to_nano(cost, "cost", round_up=True)
        _require_one(response, usage)
        for field, named in (("model", model), ("tool", tool), ("provider", provider)):
            if named is not None:
                check_text(field, named)
        name = model if model is not None else tool
        flags: tuple[str, ...] = ()
        version = None
        tokens, requests = 0, 1
        answered = model
        if response is not None:
            priced = self._cost(subject, response, model, at, given, provider)
            usage, version, nanousd = priced.usage, priced.price_version, priced.nanousd
            flags = priced.flags
            name = name or priced.model
            answered = priced.model or model
        elif given is not None:
            nanousd = given
        elif units is not None and tool is not None:
            counted = count("units", units, 1)
            nanousd = -(-counted * (catalog.tool(tool).unit_rate or 0) // PER_MILLION)
            by_token = catalog.unit(tool) == "tokens"
            tokens, requests = (counted, 1) if by_token else (0, counted)
        elif usage is not None and model is not None:
            rates = self._rates(subject, model, model, counted_us, provider)
            nanousd = self.estimator_of(subject.tenant).cost_of(usage, rates)
            version = rates.version
            if rates.stated:
                flags = (version,)
        else:
            raise InvalidRequest(
                "response",
                "pass a response, or usage= with model=, or units= with tool=, or cost='0.0123'",
            )
        if estimated:
            flags = ("estimated", *flags)
        if name is None:
            raise InvalidRequest("model", "say what the money was spent on: model= or tool=")
        check_text("model", name)
        return UsageEvent(
            event_key(event_id, "id"),
            Posting(
                subject=subject,
                final_tool=catalog.canonical(name),
                model=answered,
                counted_us=counted_us,
            ),
            answered,
            nanousd,
            usage.total if usage is not None else tokens,
            requests,
            usage,
            now_us,
            flags,
            version,
            (usage, given, subject, name, None if at is None else counted_us, units, provider),
        )

    def _rates(
        self,
        subject: Subject,
        tool: str,
        model: str,
        at_us: int,
        provider: str | None = None,
    ) -> Rates:
        """Return a model's rates, or those that a policy states where it has no price."""
        prices = Stated(self._registry_of(subject.tenant), self._stated(subject, tool, None))
        return prices.rates(model, at_us, provider=provider)

    def _stated(self, subject: Subject, tool: str | None, held: Rates | None) -> Instead:
        """Return what finds the rates of a model without a price.

        Args:
            subject: Whose policies count.
            tool: What they know the call as; by default the model's own name.
            held: What a policy stated when the money was held.
        """

        def instead(
            unknown: UnknownModel, model_id: str, at_us: int, provider: str | None
        ) -> Rates:
            if held is not None:
                return held
            policy = self._planner.unpriced(subject, tool or model_id)
            if policy is None:
                raise unknown
            book = self._registry.book
            return stated_rates(policy, unknown, model_id, at_us, book, provider)

        return instead

    def _cost(
        self,
        subject: Subject,
        response: Any,
        model: str | None,
        at: datetime | None,
        given: int | None,
        provider: str | None = None,
        *,
        tool: str | None = None,
        held: Rates | None = None,
    ) -> Cost:
        """Price a response; where a cost is given, only its usage is read."""
        if given is not None:
            try:
                usage = Usage.parse(response, provider)
            except Exception as error:
                raise _unreadable(error) from error
            _require_usage(response, usage)
            return Cost(
                nanousd=given,
                usage=usage,
                provider=provider,
                model=model,
                flags=usage.flags,
                price_version="",
            )
        try:
            cost = self._found(subject, response, model, at, provider, tool, held)
        except FluxAIError:
            raise
        except Exception as error:
            raise _unreadable(error) from error
        _require_usage(response, cost.usage)
        return cost

    def _found(
        self,
        subject: Subject,
        response: Any,
        model: str | None,
        at: datetime | None,
        provider: str | None,
        tool: str | None,
        held: Rates | None,
    ) -> Cost:
        """Price a response: as the model that it names, that was asked for, or by a policy."""
        estimator = self.estimator_of(subject.tenant)
        try:
            return estimator.cost(response, provider, at=at)
        except UnknownModel:
            asked = None if model is None else _priced(estimator, response, provider, model, at)
            if asked is not None and asked.price_version == OWN:
                return asked
            instead = self._stated(subject, tool or model, held)
            stating = estimator.priced_by(Stated(self._registry_of(subject.tenant), instead))
            stated = _priced(stating, response, provider, None, at)
            if stated is None and asked is None and model is not None:
                stated = _priced(stating, response, provider, model, at)
            # A deployment's own name, or none at all: it is the model that was asked for.
            found = stated or asked
            if found is None:
                raise
            return found


def _priced(
    estimator: CostEstimator,
    response: Any,
    provider: str | None,
    model: str | None,
    at: datetime | None,
) -> Cost | None:
    """Price a response; None where there is no price."""
    try:
        return estimator.cost(response, provider, model, at=at)
    except UnknownModel:
        return None


def _require_usage(response: Any, usage: Usage) -> None:
    # Where numbers had to be clamped and nothing is left, nothing was understood either.
    if usage.is_zero and not _NOT_UNDERSTOOD.isdisjoint(usage.flags):
        raise InvalidRequest(
            "response",
            f"{type(response).__name__} carries no usage that is understood; pass usage=Usage(…) "
            f"or cost=… instead",
        ) from _fault_of(response)


def _unreadable(error: Exception) -> InvalidRequest:
    """Say that a response object failed by itself while it was read: its code is not ours."""
    return InvalidRequest(
        "response",
        f"can't be read, it raised {type(error).__name__}; pass usage=Usage(…) or cost=… instead",
    )


def _fault_of(response: Any) -> Exception | None:
    """Return what a response object raises instead of telling its usage, for the error to show."""
    for name in ("usage", "usage_metadata"):
        try:
            getattr(response, name, None)
        except Exception as error:  # noqa: BLE001 -- boundary to foreign objects; it is raised on
            return error
    return None


def _require_one(response: Any, usage: Usage | None) -> None:
    if usage is None:
        return
    if type(usage) is not Usage:
        raise InvalidRequest("usage", f"must be a Usage, got {type(usage).__name__}")
    if response is not None:
        raise InvalidRequest("usage", "pass either the response or its usage, not both")


def _expected_tokens(known: Reservation) -> int:
    return known.need.expected_input_tokens + known.output_tokens


def routing_flags(known: Reservation) -> tuple[str, ...]:
    """Say in an event how hard its prompt is, and from which model a certificate led it away."""
    routing = known.routing
    if routing is None:
        return ()
    score = f"{SCORE_FLAG}{routing.score:.4f}"
    if known.decision == "downgraded" and any(
        reason.acted and reason.policy_id in routing.covered for reason in known.reasons
    ):
        return score, f"{ASKED_FLAG}{routing.asked}"
    return (score,)
