"""The records that people write: tenants, users, tools, policies, grants.

Amounts are `Decimal` USD (text and int are accepted, floats refused). Unknown fields are refused.
Each constructor is spelled out for type checkers, since it takes more than its fields hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_serializer,
    field_validator,
    model_validator,
)

from fluxai.core.errors import ConfigurationError
from fluxai.core.ledger import NEVER
from fluxai.core.money import Amount, to_nano
from fluxai.core.windows import Calendar, WeekDay, parse_duration

ID_LENGTH_MAX = 256

Scope = Literal["tenant", "user", "tool", "label"]
LimitType = Literal[
    "per_request",
    "per_minute",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "rolling",
    "total",
    "concurrent",
]
Measure = Literal["cost", "tokens", "requests"]
PolicyDecision = Literal["deny", "downgrade", "require_approval", "allow"]
OnUnpriced = Literal["refuse", "ceiling", "warn"]
Mode = Literal["enforce", "shadow"]
Plan = Literal["free", "pro", "enterprise"]
LimitPeriod = Literal["monthly", "daily"]
Role = Literal["member", "admin"]
Category = Literal["custom", "llm", "search", "db"]
Tier = Literal["standard", "cheap", "premium"]
Unit = Literal["requests", "tokens"]


def _no_float(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(  # noqa: TRY004 -- pydantic turns a ValueError into its own error
            f"floats can't hold money exactly; pass Decimal('{value}') or the text '{value}'"
        )
    return value


def _no_text(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(f"must be a list, such as [{value[:40]!r}]")  # noqa: TRY004 -- as above
    return value


def _clean_id(value: str) -> str:
    if value != value.strip() or any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise ValueError("must not begin or end with spaces, nor hold control characters")
    return value


Id = Annotated[str, Field(min_length=1, max_length=ID_LENGTH_MAX), AfterValidator(_clean_id)]
#: USD, exact to the nano-USD.
Usd = Annotated[
    Decimal,
    BeforeValidator(_no_float),
    AfterValidator(lambda value: (to_nano(value), value)[1]),
    PlainSerializer(str, return_type=str, when_used="json"),
]
#: A share of what a limit has left, such as 0.02 for 2 %.
Share = Annotated[
    Decimal,
    BeforeValidator(_no_float),
    Field(ge=Decimal("0.001"), le=Decimal("0.5"), allow_inf_nan=False),
    PlainSerializer(str, return_type=str, when_used="json"),
]


def _usd_only(currency: str | None) -> str | None:
    if currency not in (None, "USD"):
        raise ConfigurationError(
            f"currency {currency!r} is not supported; budgets are kept in USD: write currency='USD'"
        )
    return currency


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class Tenant(_Record):
    """Who has budgets of its own, and in which calendar they run.

    `allowed_models` names the only models that it may use, by patterns of their `id` or
    `provider/id`: `("claude-haiku-*", "openai/*")`. Without it any is allowed.
    """

    id: Id
    name: str | None = None
    plan: Plan | None = None
    soft_limit: Usd | None = None
    hard_limit: Usd | None = None
    limit_period: LimitPeriod = "monthly"
    timezone: str = "UTC"
    week_start: WeekDay = "monday"
    fiscal_month_start: Annotated[int, Field(ge=1, le=31)] = 1
    currency: str = "USD"
    allowed_models: Annotated[tuple[Id, ...] | None, BeforeValidator(_no_text)] = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            id: str,  # noqa: A002 -- the field's name
            name: str | None = None,
            plan: Plan | None = None,
            soft_limit: Amount | None = None,
            hard_limit: Amount | None = None,
            limit_period: LimitPeriod = "monthly",
            timezone: str = "UTC",
            week_start: WeekDay = "monday",
            fiscal_month_start: int = 1,
            currency: str = "USD",
            allowed_models: Sequence[str] | None = None,
        ) -> None: ...

    @field_validator("currency")
    @classmethod
    def _currency(cls, value: str) -> str:
        _usd_only(value)
        return value

    @model_validator(mode="after")
    def _calendar(self) -> Self:
        self.calendar()
        if self.id == "*":
            raise ValueError("id: '*' stands for every tenant in policies and can't be one")
        return self

    def calendar(self) -> Calendar:
        """Return the calendar its windows follow."""
        return Calendar(
            timezone=self.timezone,
            week_start=self.week_start,
            fiscal_month_start=self.fiscal_month_start,
        )


class User(_Record):
    """A member of a tenant. `personal_cap` limits what it spends in the tenant's limit period."""

    id: Id
    tenant_id: Id
    email: str | None = None
    role: Role = "member"
    personal_cap: Usd | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            id: str,  # noqa: A002 -- the field's name
            tenant_id: str,
            email: str | None = None,
            role: Role = "member",
            personal_cap: Amount | None = None,
        ) -> None: ...


class Tool(_Record):
    """Something that is paid for by the unit. `cost_per_unit` is USD for one.

    `fallback_tool_id` declares what does the same for less: where a policy says `downgrade` and
    names no fallback of its own, the call moves there.
    """

    id: Id
    name: str | None = None
    category: Category = "custom"
    tier: Tier = "standard"
    cost_per_unit: Annotated[
        Decimal,
        BeforeValidator(_no_float),
        Field(ge=0, le=Decimal(1_000_000), allow_inf_nan=False),
        PlainSerializer(str, return_type=str, when_used="json"),
    ]
    unit: Unit = "requests"
    fallback_tool_id: Id | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            id: str,  # noqa: A002 -- the field's name
            cost_per_unit: Amount,
            name: str | None = None,
            category: Category = "custom",
            tier: Tier = "standard",
            unit: Unit = "requests",
            fallback_tool_id: str | None = None,
        ) -> None: ...

    def unit_rate(self) -> int:
        """Return the price in nano-USD per million units, rounded up."""
        numerator, denominator = self.cost_per_unit.as_integer_ratio()
        return -(-numerator * 10**15 // denominator)


class Policy(_Record):
    """A rule: scope + limit + what happens when it would be crossed.

    `tenant_id="*"` concerns every tenant, each with its own account. `scope_id=None` gives each
    user, tool or label value its own account; an id limits that one (labels: `key` or
    `key=value`). `limit_value` is USD for the measure `cost`, a whole number otherwise.
    `lease` lets each process take such a share of what is left in advance, and decide out of it by
    itself. `on_unpriced` says what its calls cost whose model has no price; see `fluxai.costs.unpriced`.
    `shrink_output` grants a call whose output cap is too large for the limit as much as fits, instead
    of refusing it. `stop_stream` has streams stopped once their reservation is used up.
    `repeat_limit` is how often one and the same call may be made within the window; a policy that
    has it needs no `limit_value`.
    `quality_risk` lets a `downgrade` happen only under a certificate: that at most this share of all
    prompts is downgraded with harm, proved with `confidence` from the tenant's own outcomes. Without
    one the call runs on the model that it asked for. See `docs/explanation/routing.md`.
    """

    tenant_id: Id
    scope: Scope = "tenant"
    scope_id: Id | None = None
    limit_type: LimitType
    limit_value: (
        Annotated[
            Decimal,
            BeforeValidator(_no_float),
            Field(ge=0, allow_inf_nan=False),
            PlainSerializer(str, return_type=str, when_used="json"),
        ]
        | None
    ) = None
    measure: Measure = "cost"
    decision: PolicyDecision = "deny"
    fallback_tool_id: Id | None = None
    window: timedelta | str | None = None
    alert_at: tuple[Annotated[Decimal, BeforeValidator(str)], ...] = (
        Decimal("0.8"),
        Decimal("1.0"),
    )
    mode: Mode = "enforce"
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    currency: str | None = None
    on_unpriced: OnUnpriced = "refuse"
    unpriced_ceiling: Usd | None = None
    lease: Share | None = None
    shrink_output: bool = False
    repeat_limit: Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)] | None = None
    stop_stream: bool = False
    quality_risk: Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)] | None = None
    confidence: Annotated[float, Field(ge=0.5, lt=1, allow_inf_nan=False)] | None = None
    id: Id | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            tenant_id: str,
            limit_type: LimitType,
            limit_value: Amount | None = None,
            scope: Scope = "tenant",
            scope_id: str | None = None,
            measure: Measure = "cost",
            decision: PolicyDecision = "deny",
            fallback_tool_id: str | None = None,
            window: timedelta | str | None = None,
            alert_at: Sequence[Decimal | str | float] = (0.8, 1.0),
            mode: Mode = "enforce",
            priority: int = 0,
            currency: str | None = None,
            on_unpriced: OnUnpriced = "refuse",
            unpriced_ceiling: Amount | None = None,
            lease: Amount | None = None,
            shrink_output: bool = False,
            repeat_limit: int | None = None,
            stop_stream: bool = False,
            quality_risk: float | None = None,
            confidence: float | None = None,
            id: str | None = None,  # noqa: A002 -- the field's name
        ) -> None: ...

    @field_validator("currency")
    @classmethod
    def _currency(cls, value: str | None) -> str | None:
        return _usd_only(value)

    @field_validator("window")
    @classmethod
    def _window(cls, value: timedelta | str | None) -> timedelta | None:
        return None if value is None else timedelta(microseconds=parse_duration(value))

    @field_serializer("window", when_used="json")
    def _window_text(self, value: timedelta | str | None) -> str | None:
        """Write what the validator reads: whole seconds."""
        if value is None:
            return None
        return f"{-(-parse_duration(value) // 1_000_000)}s"

    @field_validator("alert_at")
    @classmethod
    def _alerts(cls, value: tuple[Decimal, ...]) -> tuple[Decimal, ...]:
        for share in value:
            if not share.is_finite() or not 0 < share <= 10:
                raise ValueError("each share must be above 0 and at most 10, such as 0.8 for 80 %")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        counts = self.measure != "cost" or self.limit_type == "concurrent"
        if self.limit_value is None:
            if self.repeat_limit is None:
                raise ValueError(
                    "limit_value: is missing; only a policy with repeat_limit needs none"
                )
        elif counts and self.limit_value != self.limit_value.to_integral_value():
            raise ValueError(f"limit_value: a limit of {self.measure} must be a whole number")
        elif counts and self.limit_value > 10**15:
            raise ValueError("limit_value: must be at most 10^15")
        elif not counts:
            to_nano(self.limit_value, "limit_value")
        if (self.window is not None) != (self.limit_type == "rolling"):
            raise ValueError(
                "window: goes with limit_type='rolling', and a rolling limit needs one: '24h'"
            )
        if self.scope == "tenant" and self.scope_id not in (None, self.tenant_id):
            raise ValueError("scope_id: a tenant's policy has none; tenant_id names the tenant")
        if self.fallback_tool_id is not None and self.decision != "downgrade":
            raise ValueError("fallback_tool_id: goes with decision='downgrade'")
        if self.scope == "tool" and self.scope_id == self.fallback_tool_id is not None:
            raise ValueError("fallback_tool_id: a tool can't fall back to itself")
        if self.lease is not None:
            if self.decision not in ("deny", "allow"):
                raise ValueError("lease: goes with decision='deny' or 'allow'")
            if self.limit_type in ("per_request", "concurrent"):
                raise ValueError(f"lease: a {self.limit_type} limit can't be leased; leave it out")
        if self.repeat_limit is not None:
            if self.limit_type in ("per_request", "concurrent"):
                raise ValueError(
                    f"repeat_limit: a {self.limit_type} limit has no window to count repeats in; use "
                    f"limit_type='hourly', or 'rolling' with window='10m'"
                )
            if self.lease is not None:
                raise ValueError("lease: repeats are counted by the store; leave it out")
        if self.shrink_output:
            if self.limit_value is None:
                raise ValueError(
                    "shrink_output: goes with a limit_value, which has room for so much"
                )
            if self.decision != "deny":
                raise ValueError("shrink_output: goes with decision='deny', which would refuse")
            if self.counts not in ("cost", "tokens"):
                raise ValueError(
                    f"shrink_output: goes with a limit of cost or tokens; less output makes room in "
                    f"no limit of {self.counts}"
                )
        if self.quality_risk is not None:
            if self.decision != "downgrade":
                raise ValueError("quality_risk: goes with decision='downgrade'")
            if self.repeat_limit is not None:
                raise ValueError("quality_risk: a loop is no question of quality; leave it out")
        elif self.confidence is not None:
            raise ValueError("confidence: goes with quality_risk")
        if self.on_unpriced == "ceiling":
            if not self.unpriced_ceiling:
                raise ValueError(
                    "unpriced_ceiling: goes with on_unpriced='ceiling', in USD above 0 for each "
                    "call: nothing is free by omission"
                )
        elif self.unpriced_ceiling is not None:
            raise ValueError("unpriced_ceiling: goes with on_unpriced='ceiling'")
        return self

    @property
    def window_kind(self) -> str:
        """The window's kind as counters name it: `rolling:<microseconds>` carries its length."""
        if self.limit_type == "rolling":
            assert self.window is not None  # noqa: S101 -- checked above
            return f"rolling:{parse_duration(self.window)}"
        return self.limit_type

    @property
    def counts(self) -> str:
        """What is counted: `concurrent`, or the measure."""
        return "concurrent" if self.limit_type == "concurrent" else self.measure

    @property
    def promise(self) -> tuple[float, float] | None:
        """What a downgrade has to keep to: (risk, confidence); None where it need not."""
        if self.quality_risk is None:
            return None
        return self.quality_risk, 0.9 if self.confidence is None else self.confidence

    def limit_units(self) -> int:
        """Return the limit in what the ledger counts: nano-USD, or plain counts.

        One that only limits repeats has none, which nothing reaches.
        """
        if self.limit_value is None:
            return NEVER
        return to_nano(self.limit_value) if self.counts == "cost" else int(self.limit_value)


class Grant(_Record):
    """A temporary raise of a policy's limit, until an instant."""

    id: Id
    policy_id: Id
    tenant_id: Id
    amount: Annotated[
        Decimal,
        BeforeValidator(_no_float),
        Field(gt=0, allow_inf_nan=False),
        PlainSerializer(str, return_type=str, when_used="json"),
    ]
    until: AwareDatetime
    by: Id
    granted_at: datetime | None = None


def use_validators() -> None:
    """Validate a record once, so that threads that validate others later can't harm a fork.

    pydantic loads what reads a `Decimal` or a time when it first meets one, under a lock of its
    own. A process forked in that moment would wait for that lock for ever.
    """
    now = "2020-01-01T00:00:00Z"
    Grant.model_validate(
        {"id": "-", "policy_id": "-", "tenant_id": "-", "amount": "1", "until": now, "by": "-"}
    )
    Policy.model_validate(
        {"tenant_id": "-", "limit_type": "rolling", "limit_value": "1", "window": "1d"}
    )


def dump(record: BaseModel) -> dict[str, Any]:
    """Turn a record into what storage keeps."""
    return record.model_dump(mode="json")
