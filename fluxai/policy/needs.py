"""What a request needs of each candidate of a plan: the size of a hold before output is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fluxai.core.errors import InvalidRequest, NotFound, UnknownModel
from fluxai.core.ledger import DEFAULT_OUTPUT_TOKENS, Candidate, Need, Plan
from fluxai.core.money import PER_MILLION

if TYPE_CHECKING:
    from fluxai.core.usage import Usage
    from fluxai.costs import CostEstimator
    from fluxai.costs.learning import Trace
    from fluxai.policy.catalog import ToolCatalog
    from fluxai.policy.compile import PricedTool

#: More units or tokens than any call could have; a larger number is a mistake.
COUNT_MAX = 10**12
#: A prompt estimated at this many times the model's context window can't be sent at all. The
#: estimate errs by far less, so that nothing is refused that a provider would take.
WINDOWS_MAX = 4


class Request(NamedTuple):
    """What a call says about its size; see `Governor.reserve`."""

    by_unit: bool
    prompt: Any = None
    messages: Any = None
    tools: Any = None
    input_tokens: Any = None
    max_output_tokens: Any = None
    units: Any = None
    beside: Usage | None = None


def needs_of(
    plan: Plan, request: Request, estimator: CostEstimator, catalog: ToolCatalog
) -> tuple[tuple[Need | None, ...], str, Sequence[Trace | None]]:
    """Work out what a request needs of each candidate.

    Returns:
        A need per candidate (None for a fallback that the request does not fit); how the input was
        counted: `units`, or the method of a `TokenCount` and, unless that is high, its confidence
        (`heuristic-low`); and what is remembered of the request for each candidate until it is
        settled, to learn from. That is empty where there is nothing to learn.

    Raises:
        InvalidRequest: A number or the prompt is wrong.
        UnknownModel, NotFound: The requested tool has no price for what is asked.
    """
    if request.by_unit or request.units is not None:
        units = 1 if request.units is None else whole("units", request.units, 1)
        return tuple(_unit_need(found, units, catalog) for found in plan.candidates), "units", ()
    cap = request.max_output_tokens
    if cap is not None:
        cap = whole("max_output_tokens", cap, 0)
    method = "exact"
    needs: list[Need | None] = []
    traces: list[Trace | None] = []
    for candidate in plan.candidates:
        expected = upper = 0
        if candidate.rates is not None:
            expected, upper, found, trace = _input(candidate, request, estimator)
            traces.append(trace)
            if candidate.index == 0:
                method = found
        else:
            traces.append(None)
        beside = 0
        if request.beside is not None and candidate.rates is not None:
            beside = estimator.cost_of(request.beside, candidate.rates) * PER_MILLION
        needs.append(_token_need(candidate, expected, upper, cap, beside))
    return tuple(needs), method, traces if any(traces) else ()


def need_again(
    candidate: Candidate, before: Candidate, need: Need, units: int | None, catalog: ToolCatalog
) -> Need | None:
    """Price a request once more, on a candidate of a newer plan; None where it does not fit.

    Args:
        candidate: What it would run on.
        before: The tool that was asked for, as it was priced then.
        need: What the same request needed of the tool that was asked for.
        units: How many units were asked for; None where it is paid for by the token.
        catalog: Knows what the units are.

    Raises:
        UnknownModel, NotFound: The tool that was asked for has no such price any more.
    """
    if units is not None:
        return _unit_need(candidate, units, catalog)
    beside = 0
    if before.rates is not None:
        tokens = before.rates.input_cost(need.input_tokens)
        beside = need.fixed - tokens - before.rates.request_fee * PER_MILLION
    return _token_need(candidate, need.expected_input_tokens, need.input_tokens, need.cap, beside)


def units_of(candidate: Candidate, need: Need, catalog: ToolCatalog) -> int:
    """Return the units that a need by the unit is for."""
    return need.input_tokens if catalog.unit(candidate.tool) == "tokens" else need.requests


def repriced(tool: PricedTool, need: Need) -> Need:
    """Price a request's tokens on another model, for a counter-offer."""
    rates = tool.rates
    return need._replace(
        fixed=rates.input_cost(need.input_tokens) + rates.request_fee * PER_MILLION,
        per_output=rates.output_rate(need.input_tokens),
        output_max=min(tool.max_output, DEFAULT_OUTPUT_TOKENS),
    )


def whole(field: str, value: object, least: int) -> int:
    """Return a whole number from `least` to 10^12, or raise `InvalidRequest`."""
    if type(value) is not int:
        raise InvalidRequest(field, f"must be a whole number, got {value!r:.60}")
    if not least <= value <= COUNT_MAX:
        shown = repr(value) if abs(value) < 10**24 else "a number of more than 24 digits"
        raise InvalidRequest(field, f"must be from {least} to 10^12, got {shown}")
    return value


def _token_need(
    candidate: Candidate, expected: int, upper: int, cap: int | None, beside: int
) -> Need | None:
    rates = candidate.rates
    if rates is None:
        if candidate.index == 0:
            raise UnknownModel(
                f"{candidate.tool!r:.120} is priced by the unit; pass units= instead of tokens"
            )
        return None
    window = rates.context_window
    if candidate.index and window is not None and upper + (cap or 0) > window:
        return None
    fee = rates.request_fee * PER_MILLION + beside
    return Need(
        rates.input_cost(upper) + fee,
        rates.output_rate(upper) if candidate.max_output else 0,
        upper,
        expected,
        cap if candidate.max_output else 0,
        candidate.max_output,
        1,
        rates.input_cost(expected) + fee if expected != upper else 0,
    )


def _unit_need(candidate: Candidate, units: int, catalog: ToolCatalog) -> Need | None:
    if candidate.unit_rate is None:
        if candidate.index == 0:
            raise NotFound(
                f"tool: {candidate.tool!r:.120} has no price per unit; register it with "
                f"governor.tools.put(Tool(id=…, cost_per_unit='0.001'))"
            )
        return None
    # Units are what the tool is priced by: tokens count as tokens of one request.
    tokens, requests = (units, 1) if catalog.unit(candidate.tool) == "tokens" else (0, units)
    return Need(candidate.unit_rate * units, 0, tokens, tokens, 0, 0, requests, 0)


def _input(
    candidate: Candidate, request: Request, estimator: CostEstimator
) -> tuple[int, int, str, Trace | None]:
    """Count a request's input: likely, at most, how that was found, and what it may teach."""
    if request.input_tokens is not None:
        tokens = whole("input_tokens", request.input_tokens, 0)
        return tokens, tokens, "exact", None
    prompt = request.prompt
    if prompt is not None:
        if not isinstance(prompt, str):
            raise InvalidRequest("prompt", f"must be text, got {type(prompt).__name__}")
        if not prompt:
            raise InvalidRequest(
                "prompt", "must not be empty; pass messages=, or input_tokens=0 for no input at all"
            )
    counted, trace = estimator.count_and_trace(
        candidate.model or candidate.tool, prompt, request.messages, request.tools
    )
    window = candidate.rates.context_window
    if not candidate.index and window is not None and counted.expected > WINDOWS_MAX * window:
        raise InvalidRequest(
            "prompt" if prompt is not None else "messages",
            f"has about {counted.expected:,} tokens; {candidate.model or candidate.tool} takes at "
            f"most {window:,}",
        )
    sure = counted.confidence
    method = counted.method if sure == "high" else f"{counted.method}-{sure}"
    return counted.expected, max(counted.expected, counted.upper), method, trace
