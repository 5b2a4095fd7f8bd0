"""Tools that look: spending, budgets, decisions, models."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, Field

from fluxai.core.errors import NotFound
from fluxai.mcp.tools.tool import Arguments, GovernorTool, Result, ShownAmount, UserId
from fluxai.mcp.tools.views import DecisionView, Measured

if TYPE_CHECKING:
    from fluxai.governor import Governor
    from fluxai.mcp.identity import Identity
    from fluxai.models.model import Model

_PAGE = 50
_PAGE_MAX = 500


class GetUsageSummary(Arguments):
    """Arguments of `get_usage_summary`."""

    user_id: UserId = None
    period: Literal["day", "month"] = "day"
    start_date: Annotated[
        date | AwareDatetime | None,
        Field(description="A day in the tenant's time zone, or an instant; default: the period."),
    ] = None
    end_date: Annotated[
        date | AwareDatetime | None,
        Field(description="The last day, which counts in full, or an instant."),
    ] = None


class ToolUsage(Result):
    """What one tool or model cost."""

    tool: str
    cost: ShownAmount
    units: int
    tokens: int
    events: int


class EventView(Result):
    """One settled call."""

    id: str
    at: datetime
    user: str | None
    tool: str
    model: str | None
    cost: ShownAmount
    tokens: int
    requests: int
    decision: str
    flags: tuple[str, ...]


class UsageView(Result):
    """What was settled in a period, in USD."""

    tenant_id: str
    user_id: str | None
    period: str
    start: datetime
    end: datetime
    total_cost: ShownAmount
    total_units: int
    total_tokens: int
    total_events: int
    by_tool: tuple[ToolUsage, ...]
    recent_events: tuple[EventView, ...]


def _get_usage_summary(governor: Governor, who: Identity, asked: GetUsageSummary) -> UsageView:
    tenant = who.tenant_of(asked.tenant_id)
    zone = _zone(governor, tenant)
    summary = governor.usage(
        tenant,
        user=who.user_seen(asked.user_id),
        period=asked.period,
        start=_instant(asked.start_date, zone),
        end=_instant(asked.end_date, zone, days=1),
    )
    return UsageView(
        tenant_id=summary.tenant,
        user_id=summary.user,
        period=summary.period,
        start=summary.start,
        end=summary.end,
        total_cost=summary.total_cost,
        total_units=summary.total_units,
        total_tokens=summary.total_tokens,
        total_events=summary.total_events,
        by_tool=tuple(
            ToolUsage(
                tool=tool,
                cost=group.cost,
                units=group.units,
                tokens=group.tokens,
                events=group.events,
            )
            for tool, group in summary.by_tool.items()
        ),
        recent_events=tuple(EventView.model_validate(event) for event in summary.recent_events),
    )


def _zone(governor: Governor, tenant: str) -> ZoneInfo:
    try:
        return ZoneInfo(governor.tenants.get(tenant).timezone)
    except NotFound:
        return ZoneInfo("UTC")  # that of a tenant without a record


def _instant(day: date | datetime | None, zone: ZoneInfo, *, days: int = 0) -> datetime | None:
    if day is None or isinstance(day, datetime):
        return day
    return datetime.combine(day + timedelta(days=days), time(), zone)


class ListBudgets(Arguments):
    """Arguments of `list_budgets`."""

    user_id: UserId = None


class BudgetView(Result):
    """A policy's running account in its current window."""

    policy_id: str
    scope: str
    scope_id: str | None
    measure: str
    limit_type: str
    decision: str
    mode: str
    limit: Measured
    settled: Measured
    reserved: Measured
    remaining: Measured
    window_start: datetime | None
    resets_at: datetime | None
    currency: str


class BudgetList(Result):
    """Every limit that concerns the tenant, and the user."""

    budgets: tuple[BudgetView, ...]


def _list_budgets(governor: Governor, who: Identity, asked: ListBudgets) -> BudgetList:
    user = who.user_seen(asked.user_id)
    found = governor.budgets(who.tenant_of(asked.tenant_id), user)
    return BudgetList(budgets=tuple(BudgetView.model_validate(budget) for budget in found))


class ExplainDecision(Arguments):
    """Arguments of `explain_decision`."""

    id: Annotated[
        str, Field(description="A decision's, reservation's or approval's id, from another tool.")
    ]


def _explain_decision(governor: Governor, who: Identity, asked: ExplainDecision) -> DecisionView:
    decision = governor.explain(asked.id, tenant=who.tenant_of(asked.tenant_id))
    if not who.sees(decision.subject.user):
        raise NotFound(f"id: no decision {asked.id!r:.80} of this user")
    return DecisionView.model_validate(decision)


class ListModels(Arguments):
    """Arguments of `list_models`."""

    show_all: Annotated[bool, Field(description="Also those that are switched off or retired.")] = (
        False
    )
    provider: Annotated[str | None, Field(description="Such as openai, anthropic, google.")] = None
    tier: Literal["fast", "balanced", "premium"] | None = None
    capability: Annotated[
        str | None, Field(description="Such as text, code, image, reasoning, image_generation.")
    ] = None
    name_contains: str | None = None
    limit: Annotated[int, Field(ge=1, le=_PAGE_MAX)] = _PAGE
    offset: Annotated[int, Field(ge=0)] = 0


class ModelView(Result):
    """A model that can be paid for; prices in USD per million tokens."""

    id: str
    display_name: str | None
    provider: str
    tier: str
    capabilities: tuple[str, ...]
    input_price: ShownAmount | None
    output_price: ShownAmount | None
    context_window: int | None
    max_output: int | None
    enabled: bool
    deprecated: bool


class PricedTool(Result):
    """A tool that is paid for by the unit; `cost_per_unit` is USD."""

    id: str
    name: str | None
    category: str
    tier: str
    cost_per_unit: ShownAmount
    unit: str


class ModelList(Result):
    """A page of the models, cheapest first, and the tools that have a price of their own."""

    models: tuple[ModelView, ...]
    tools: tuple[PricedTool, ...]
    total: int
    next_offset: int | None


def _list_models(governor: Governor, who: Identity, asked: ListModels) -> ModelList:
    filters = {"provider": asked.provider, "tier": asked.tier, "capability": asked.capability}
    found = governor.models.list(tenant=who.tenant_of(asked.tenant_id), **filters)
    part = (asked.name_contains or "").lower()
    shown = [
        model
        for model in found
        if (asked.show_all or (model.enabled and not model.deprecated))
        and (part in model.id.lower() or part in (model.display_name or "").lower())
    ]
    end = asked.offset + asked.limit
    return ModelList(
        models=tuple(_model_view(model) for model in shown[asked.offset : end]),
        tools=tuple(PricedTool.model_validate(tool) for tool in governor.tools.list()),
        total=len(shown),
        next_offset=end if end < len(shown) else None,
    )


def _model_view(model: Model) -> ModelView:
    values = {name: getattr(model, name) for name in ModelView.model_fields}
    return ModelView.model_validate(values | {"capabilities": sorted(model.capabilities)})


LOOKING: tuple[GovernorTool[Any], ...] = (
    GovernorTool(
        name="get_usage_summary",
        title="Summarise spending",
        description="Show what was spent today, this month or between two dates: total cost in "
        "USD, cost and usage by tool and model, and the latest calls.",
        arguments=GetUsageSummary,
        result=UsageView,
        run=_get_usage_summary,
        reads_only=True,
    ),
    GovernorTool(
        name="list_budgets",
        title="List the budgets",
        description="Show every budget and limit: how much is spent, reserved and remaining, and "
        "when it resets. Use it to see how much money is left.",
        arguments=ListBudgets,
        result=BudgetList,
        run=_list_budgets,
        reads_only=True,
    ),
    GovernorTool(
        name="explain_decision",
        title="Explain a decision",
        description="Explain why a call was allowed, downgraded to a cheaper model, denied or put "
        "before a person: every policy that was looked at with its numbers, and what would fit now.",
        arguments=ExplainDecision,
        result=DecisionView,
        run=_explain_decision,
        reads_only=True,
    ),
    GovernorTool(
        name="list_models",
        title="List models and their prices",
        description="List the language models and paid tools with tier, capabilities, price and "
        "context window, cheapest first. Use it to find a cheaper model for a task, or the tool_id "
        "that check_and_route takes.",
        arguments=ListModels,
        result=ModelList,
        run=_list_models,
        reads_only=True,
    ),
)
