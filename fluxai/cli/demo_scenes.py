"""The scenes of `fluxai demo`. Each one really runs, and says whether it went as it should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from fluxai.cli.figures import decision_word, plural, unit_price, usd, usd_left
from fluxai.cli.screen import Block, Column, Meter, Table, Text
from fluxai.costs import CostEstimator
from fluxai.demo_data import (
    ENTERPRISELLC,
    ENTERPRISELLC_ADMIN,
    FREECO,
    FREECO_USER,
    PROCORP,
    PROCORP_USER,
)

if TYPE_CHECKING:
    from fluxai.analytics import Budget, RouteResult
    from fluxai.governor import Governor


@dataclass(frozen=True, slots=True)
class Scene:
    """One thing shown.

    Attributes:
        ok: It went as FluxAI promises.
        facts: What was seen, for `--json`.
        blocks: The same, for people.
    """

    id: str
    title: str
    ok: bool
    facts: dict[str, Any] = field(default_factory=dict)
    blocks: Sequence[Block] = ()


def free_tier_downgrade(governor: Governor) -> Scene:
    """FreeCo's user asks for a premium model and gets an able cheaper one, priced and recorded."""
    units = 10_000
    route = governor.check_and_route(FREECO, FREECO_USER, "gpt-4", units)
    asked = units * governor.tools.get("gpt-4").cost_per_unit
    spent = governor.usage(FREECO).total_cost
    ok = (
        route.decision == "downgraded"
        and route.final_tool_used == "gpt-3.5-turbo"
        and 0 < route.cost_estimate == spent < asked
    )
    return Scene(
        "free-tier-downgrade",
        "Free tier: a cheaper model instead of a refusal",
        ok,
        {
            "requested": "gpt-4",
            "final_tool": route.final_tool_used,
            "decision": route.decision,
            "cost": str(route.cost_estimate),
            "cost_as_requested": str(asked),
            "recorded": str(spent),
            "message": route.message,
        },
        [
            f"FreeCo's user asks for {units:,} tokens of gpt-4. Its plan has no premium models.",
            Table(
                (Column(""), Column("Model"), Column("Price", right=True)),
                [
                    ("asked for", "gpt-4", usd(asked)),
                    (
                        "used",
                        Text(route.final_tool_used, "good"),
                        Text(usd(route.cost_estimate), "good"),
                    ),
                    ("in the books", "", usd(spent)),
                ],
            ),
            Text(route.message, "dim"),
        ],
    )


def budget_exhaustion(governor: Governor) -> Scene:
    """FreeCo's user goes on until the daily $2 would be crossed."""
    routes: list[RouteResult] = []
    while len(routes) < 10:
        route = governor.check_and_route(FREECO, FREECO_USER, "gpt-3.5-turbo", 800_000)
        routes.append(route)
        if route.decision != "allowed":
            break
    (daily,) = [
        b for b in governor.budgets(FREECO) if b.limit_type == "daily" and b.decision == "deny"
    ]
    refused = routes[-1]
    ok = (
        refused.decision == "denied"
        and daily.settled + refused.cost_estimate > daily.limit >= daily.settled
        and daily.reserved == 0
    )
    return Scene(
        "budget-exhaustion",
        "Budget exhausted: refused before any money is spent",
        ok,
        {
            "admitted": len(routes) - 1,
            "decision": refused.decision,
            "requested": str(refused.cost_estimate),
            "settled": str(daily.settled),
            "limit": str(daily.limit),
            "message": refused.message,
        },
        [
            (
                f"It goes on in calls of {usd(refused.cost_estimate)}: "
                f"{plural(len(routes) - 1, 'call')} admitted, then the daily limit is in the way."
            ),
            _gauge(daily),
            Text(refused.message, "bad"),
        ],
    )


def pro_tier_success(governor: Governor) -> Scene:
    """ProCorp's user asks for the same model, and pays for it."""
    units = 50_000
    route = governor.check_and_route(PROCORP, PROCORP_USER, "gpt-4", units)
    spent = governor.usage(PROCORP, user=PROCORP_USER).total_cost
    (daily,) = [
        b for b in governor.budgets(PROCORP) if b.limit_type == "daily" and b.decision == "deny"
    ]
    ok = route.decision == "allowed" and spent == route.cost_estimate == daily.settled
    return Scene(
        "pro-tier-success",
        "Pro tier: allowed, and tracked to the last nano-dollar",
        ok,
        {
            "decision": route.decision,
            "final_tool": route.final_tool_used,
            "cost": str(route.cost_estimate),
            "recorded": str(spent),
            "remaining": str(route.remaining_budget),
        },
        [
            Text(
                f"ProCorp's user asks for {units:,} tokens of gpt-4: {route.decision}, "
                f"{usd(route.cost_estimate)}.",
                "good",
            ),
            _gauge(daily),
        ],
    )


def approval(governor: Governor) -> Scene:
    """EnterpriseLLC is near its monthly $500: a human decides, and the call runs exactly once."""
    who: dict[str, Any] = {"tenant": ENTERPRISELLC, "user": ENTERPRISELLC_ADMIN}
    call: dict[str, Any] = {**who, "tool": "gpt-4", "units": 50_000}
    governor.record(**who, tool="gpt-4", cost="499.50", id="demo-earlier-this-month")
    asked = governor.reserve(**call)
    # Read now: an answer changes the reservation.
    first, message, approval_id = asked.decision, asked.message, asked.approval_id or ""
    waiting = governor.approvals.list(tenant=ENTERPRISELLC, state="pending")
    answer = governor.approvals.approve(approval_id, by="admin@enterprisellc.com")
    run = governor.reserve(**call, approval_id=approval_id)
    settlement = governor.settle(run)
    again = governor.reserve(**call, approval_id=approval_id)
    ok = (
        first == "pending_approval"
        and [found.id for found in waiting] == [approval_id]
        and run.allowed
        and again.decision == "denied"
    )
    return Scene(
        "approval",
        "Approval: a human says yes, and the call runs once",
        ok,
        {
            "first": first,
            "held": str(asked.estimate.highest),
            "approved_by": answer.by,
            "run": run.decision,
            "cost": str(settlement.cost),
            "run_again": again.decision,
            "message": message,
        },
        [
            "EnterpriseLLC has spent $499.50 of its $500 this month, and asks for one more call.",
            Table(
                (Column("Step"), Column("Answer"), Column("", fold=True)),
                [
                    (
                        "ask",
                        Text("pending approval", "warn"),
                        f"{usd(asked.estimate.highest)} is held meanwhile",
                    ),
                    ("approve", Text("approved", "good"), f"by {answer.by}"),
                    ("run", Text(run.decision, "good"), f"settled at {usd(settlement.cost)}"),
                    ("run again", Text(again.decision, "bad"), "an approval is for one run"),
                ],
            ),
        ],
    )


#: An answer with a warm cache, as Anthropic's API writes it: `input_tokens` leaves the cache out.
CACHED_ANSWER: Final[dict[str, Any]] = {
    "id": "msg_demo",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "…"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 1_200,
        "cache_read_input_tokens": 48_000,
        "cache_creation_input_tokens": 2_000,
        "output_tokens": 900,
    },
}
_KINDS: Final = {
    "input": "fresh input",
    "cache_read": "read from the cache",
    "cache_write_5m": "written to the cache",
    "output": "output",
}


def cached_bill() -> Scene:
    """A bill with cached tokens, each kind at its own price."""
    cost = CostEstimator().cost(CACHED_ANSWER)
    prices = {line.kind: line.unit_price for line in cost.lines}
    usage = cost.usage
    flat = usage.input_total * prices["input"] + usage.output_total * prices["output"]
    ok = (
        cost.priced
        and len(cost.lines) == len(_KINDS)
        and sum(line.amount for line in cost.lines) == cost.total < flat
    )
    return Scene(
        "cached-bill",
        "Cached tokens: every kind at its own price",
        ok,
        {
            "model": cost.model,
            "cost": str(cost.total),
            "cost_without_cache_prices": f"{flat.normalize():f}",
            "lines": [
                {
                    "kind": line.kind,
                    "quantity": line.quantity,
                    "unit_price": f"{line.unit_price.normalize():f}",
                    "amount": f"{line.amount.normalize():f}",
                }
                for line in cost.lines
            ],
        },
        [
            f"An answer of {cost.model} that found most of its prompt in the cache:",
            Table(
                (
                    Column("Tokens"),
                    Column("Count", right=True),
                    Column("Per million", right=True),
                    Column("Amount", right=True),
                ),
                [
                    (
                        _KINDS.get(line.kind, line.kind),
                        f"{line.quantity:,}",
                        unit_price(line.unit_price),
                        usd(line.amount),
                    )
                    for line in cost.lines
                ],
                ("Cost", f"{usage.total:,}", "", usd(cost.total)),
            ),
            Text(
                f"Counted as fresh input it would have been {usd(flat)}, "
                f"{(flat / cost.total).quantize(Decimal('0.1'))} times as much.",
                "dim",
            ),
        ],
    )


def _gauge(budget: Budget) -> Table:
    return Table(
        (
            Column("Budget"),
            Column("Used"),
            Column("Settled", right=True),
            Column("Limit", right=True),
            Column("Left", right=True),
        ),
        [
            (
                f"{budget.limit_type}, else {decision_word(budget.decision)}",
                meter := Meter(budget.settled, budget.reserved, budget.limit),
                usd(Decimal(budget.settled)),
                usd(Decimal(budget.limit)),
                Text(usd_left(Decimal(budget.remaining)), meter.tone),
            )
        ],
    )
