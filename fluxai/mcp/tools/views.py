"""Results that several tools share."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer

from fluxai.mcp.tools.tool import Result, ShownAmount

#: USD as text for the measure `cost`, a count otherwise.
Measured = Annotated[
    Decimal | int,
    PlainSerializer(
        lambda value: f"{value:f}" if isinstance(value, Decimal) else value,
        return_type=str | int,
        when_used="json",
    ),
]
DecisionWord = Literal["allowed", "downgraded", "denied", "pending_approval"]


class ReasonView(Result):
    """One policy's part in a decision, with the numbers it was judged on."""

    policy_id: str
    scope: str
    scope_id: str | None
    limit_type: str
    measure: str
    decision: str
    mode: str
    limit: Measured
    settled: Measured
    reserved: Measured
    requested: Measured
    resets_at: datetime | None
    crossed: bool
    acted: Annotated[bool, Field(description="This policy decided.")]
    tool: str


class CounterOfferView(Result):
    """What would fit now."""

    max_output_tokens: int | None
    models: tuple[str, ...]
    resets_at: datetime | None
    approvers: str | None


class EstimateView(Result):
    """The cost of a call before it is made, in USD."""

    expected: ShownAmount
    highest: ShownAmount
    input_tokens: int | None
    method: str
    confidence: str


class DecisionView(Result):
    """A decision, and every policy that was looked at for it."""

    id: str
    decision: DecisionWord
    allowed: bool
    requested_tool: str
    final_tool: str
    model: str | None
    estimate: EstimateView
    max_output_tokens: int | None
    remaining: Annotated[
        ShownAmount | None, Field(description="USD left in the tightest cost budget.")
    ]
    message: str
    reasons: tuple[ReasonView, ...]
    looked_at: tuple[ReasonView, ...]
    counter_offer: CounterOfferView | None
    approval_id: str | None
    expires_at: datetime | None
