"""Tools for a paid call: what will it cost, may it run, what did it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, Field

from fluxai.core.errors import InvalidRequest, ReservationNotFound
from fluxai.core.ids import uuid_int
from fluxai.core.usage import Usage
from fluxai.mcp.tools.tool import Arguments, GivenAmount, GovernorTool, Result, ShownAmount, UserId
from fluxai.mcp.tools.views import DecisionView, DecisionWord

if TYPE_CHECKING:
    from fluxai.governor import Governor
    from fluxai.mcp.identity import Identity

_COUNT_MAX = 10**12
Count = Annotated[int, Field(ge=0, le=_COUNT_MAX)]


class CheckAndRoute(Arguments):
    """Arguments of `check_and_route`."""

    tool_id: Annotated[str, Field(description="What is to be called; list_models names the tools.")]
    estimated_units: Annotated[
        int,
        Field(gt=0, le=_COUNT_MAX, description="How many of its units: tokens, or requests."),
    ]
    user_id: UserId = None
    params: Annotated[
        dict[str, Any],
        Field(
            description="What the tool will be called with. It binds an approval; add approval_id "
            "to run the call that was approved."
        ),
    ] = Field(default_factory=dict)
    hold: Annotated[
        bool,
        Field(
            description="Only reserve the money; call settle_usage once the tool has run. "
            "Otherwise units × price is charged at once."
        ),
    ] = False


class Route(Result):
    """The answer of `check_and_route`. A refusal charges nothing."""

    decision: DecisionWord
    final_tool_used: Annotated[
        str, Field(description="Call this one: it differs after a downgrade.")
    ]
    cost_estimate: Annotated[ShownAmount, Field(description="USD.")]
    remaining_budget: Annotated[
        ShownAmount | None, Field(description="USD left in the tightest cost budget.")
    ]
    message: str
    reservation_id: str | None
    approval_id: Annotated[
        str | None, Field(description="Have a person approve this, then call again with it.")
    ]


def _check_and_route(governor: Governor, who: Identity, asked: CheckAndRoute) -> Route:
    route = governor.check_and_route(
        who.tenant_of(asked.tenant_id),
        who.user_of(asked.user_id),
        asked.tool_id,
        asked.estimated_units,
        asked.params,
        hold=asked.hold,
    )
    return Route.model_validate(route)


def _release(governor: Governor, result: BaseModel) -> None:
    reservation_id = cast(Route, result).reservation_id
    if reservation_id is not None:
        held = governor.storage.find(None, uuid_int(reservation_id))
        if held is not None:
            governor.release_if_held(held)


class EstimateCost(Arguments):
    """Arguments of `estimate_cost`."""

    model: Annotated[str | None, Field(description="A language model, by any of its names.")] = None
    tool_id: Annotated[str | None, Field(description="Or a tool that is priced by its units.")] = (
        None
    )
    prompt: Annotated[str | None, Field(description="The text that will be sent; or")] = None
    input_tokens: Annotated[Count | None, Field(description="how long it is.")] = None
    max_output_tokens: Annotated[
        Count | None, Field(description="The cap on the answer that will be sent.")
    ] = None
    units: Annotated[int | None, Field(gt=0, le=_COUNT_MAX, description="Of a tool.")] = None
    user_id: UserId = None


def _estimate_cost(governor: Governor, who: Identity, asked: EstimateCost) -> DecisionView:
    decision = governor.check(
        tenant=who.tenant_of(asked.tenant_id),
        user=who.user_of(asked.user_id),
        model=asked.model,
        tool=asked.tool_id,
        prompt=asked.prompt,
        input_tokens=asked.input_tokens,
        max_output_tokens=asked.max_output_tokens,
        units=asked.units,
    )
    return DecisionView.model_validate(decision)


class TokenUsage(BaseModel):
    """Tokens by kind, each counted once: cached input is not in `input`, reasoning not in `output`."""

    input: Count = 0
    cache_read: Count = 0
    cache_write: Count = 0
    output: Count = 0
    reasoning: Count = 0


class SettleUsage(Arguments):
    """Arguments of `settle_usage`."""

    reservation_id: Annotated[
        str, Field(description="From check_and_route, called with hold=true.")
    ]
    cost: Annotated[GivenAmount | None, Field(description="What it cost, in USD; or")] = None
    usage: Annotated[TokenUsage | None, Field(description="its tokens; or")] = None
    response: Annotated[
        dict[str, Any] | None,
        Field(description="the provider's whole response, whose usage is read."),
    ] = None
    charged: Annotated[
        bool,
        Field(description="False if the call failed and cost nothing: the money is given back."),
    ] = True


class SettledUsage(Result):
    """What was entered."""

    cost: Annotated[ShownAmount, Field(description="USD; 0 where nothing was charged.")]
    charged: bool
    event_id: str | None
    tool: str
    overrun: Annotated[bool, Field(description="It cost more than was reserved.")]
    late: Annotated[bool, Field(description="It came after the reservation had expired.")]
    estimated: bool


def _settle_usage(governor: Governor, who: Identity, asked: SettleUsage) -> SettledUsage:
    tenant = who.tenant_of(asked.tenant_id)
    known = governor.explain(asked.reservation_id, tenant=tenant)
    if not who.sees(known.subject.user):
        raise ReservationNotFound(f"reservation {asked.reservation_id} is not this user's")
    given = [asked.cost, asked.usage, asked.response]
    if not asked.charged:
        if any(value is not None for value in given):
            raise InvalidRequest("charged", "false goes without cost, usage and response")
        released = governor.release(asked.reservation_id, tenant=tenant)
        return SettledUsage.model_validate(
            {
                "cost": 0,
                "charged": False,
                "event_id": None,
                "tool": released.final_tool,
                "overrun": False,
                "late": False,
                "estimated": False,
            }
        )
    if sum(value is not None for value in given) > 1:
        raise InvalidRequest("cost", "give one of cost, usage and response")
    settlement = governor.settle(
        asked.reservation_id,
        asked.response,
        usage=_usage(asked.usage),
        cost=asked.cost,
        tenant=tenant,
    )
    names = ("cost", "event_id", "tool", "overrun", "late", "estimated")
    return SettledUsage.model_validate(
        {"charged": True, **{name: getattr(settlement, name) for name in names}}
    )


def _usage(counts: TokenUsage | None) -> Usage | None:
    if counts is None:
        return None
    return Usage(
        input=counts.input,
        cache_read=counts.cache_read,
        cache_write_5m=counts.cache_write,
        output=counts.output,
        reasoning=counts.reasoning,
    )


SPENDING: tuple[GovernorTool[Any], ...] = (
    GovernorTool(
        name="check_and_route",
        title="Check the budget and route a call",
        description="Call this BEFORE a paid tool or model call. Checks its cost against every "
        "budget of the tenant and the user, and answers whether it may run: allowed; downgraded "
        "(call final_tool_used, a cheaper model or tool, instead); denied (do not retry: the "
        "message says which limit was reached and when it resets); or pending_approval (a person "
        "has to approve it). Charges units × price at once, or only reserves with hold=true.",
        arguments=CheckAndRoute,
        result=Route,
        run=_check_and_route,
        undo=_release,
    ),
    GovernorTool(
        name="estimate_cost",
        title="Estimate the cost of a call",
        description="Estimate what a model or tool call would cost, in USD, and whether the budget "
        "has room for it now. Charges and reserves nothing. For a call that would be refused it "
        "names cheaper models that would fit.",
        arguments=EstimateCost,
        result=DecisionView,
        run=_estimate_cost,
        reads_only=True,
    ),
    GovernorTool(
        name="settle_usage",
        title="Settle what a call really cost",
        description="Call this AFTER a paid call that check_and_route allowed with hold=true. "
        "Enters its real cost: in USD, by tokens, or read from the provider's response; without "
        "any of them, the units that were reserved. charged=false gives the money back when the "
        "call failed. Repeating it with the same figures changes nothing.",
        arguments=SettleUsage,
        result=SettledUsage,
        run=_settle_usage,
        idempotent=True,
    ),
)
