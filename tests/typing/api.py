"""Never run: FluxAI as its users write it, for type checkers to read.

Lines with `# type: ignore[…]` are mistakes that a type checker has to find; since unused ignores
are errors, the file fails when one is found no longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, assert_type

import fluxai
from fluxai import (
    Alert,
    AllProvidersFailed,
    Approval,
    ApprovalRequired,
    AsyncGovernor,
    Attempt,
    Budget,
    BudgetExceeded,
    Completion,
    CostEstimator,
    CounterOffer,
    Decision,
    Estimate,
    Governor,
    Grant,
    Image,
    LedgerReport,
    Model,
    ModelRegistry,
    Policy,
    PolicyEngine,
    PolicyRequest,
    PromptAnalyzer,
    Reason,
    Refused,
    Reservation,
    RouteResult,
    Settlement,
    StorageError,
    Tenant,
    Tool,
    Usage,
    UsageEvent,
    UsageSummary,
    User,
)
from fluxai.testing import Answer, FakeClock, FakeProvider, Gate, Request, ToolCall

# -- opening -------------------------------------------------------------------------------------


def announce(alert: Alert) -> None:
    """A sink is a plain callable."""
    text: str = alert.policy_id + alert.share
    print(text)  # noqa: T201 -- what a user would do


governor = Governor("sqlite:///fluxai.db", sinks=(announce,), subjects="registered")
governor = Governor(clock=FakeClock(), on_storage_error="allow", on_expiry="settle")
governor = Governor(clock=lambda: datetime.now(UTC), registry=ModelRegistry())

Governor(subjects="closed")  # type: ignore[arg-type]
Governor(store="memory://")  # type: ignore[call-arg]
Governor(on_expiry=True)  # type: ignore[arg-type]

with Governor() as opened:
    assert_type(opened, Governor)

# -- records -------------------------------------------------------------------------------------

policy = Policy(tenant_id="acme", limit_type="daily", limit_value="5.00", decision="deny")
assert_type(policy.limit_value, Decimal | None)
assert_type(governor.policies.put(policy), Policy)
assert_type(governor.policies.list(tenant="acme"), list[Policy])
assert_type(governor.policies.grant("daily", "5", datetime.now(UTC), "boss"), Grant)
assert_type(governor.tenants.get("acme"), Tenant)
assert_type(governor.users.get("alice", tenant="acme"), User)
assert_type(governor.tools.put(Tool(id="search", cost_per_unit="0.001")), Tool)
assert_type(governor.models.get("gpt-4o"), Model)
priced = Model(id="gpt-4o", provider="openai", input_price=Decimal(2), output_price=Decimal(8))
assert_type(governor.models.put(priced, tenant="acme"), Model)
assert_type(governor.models.list(tenant="acme", provider="openai"), list[Model])
assert_type(governor.estimator_of("acme"), CostEstimator)
Policy(
    tenant_id="acme",
    limit_type="daily",
    limit_value=5,
    on_unpriced="ceiling",
    unpriced_ceiling="0.25",
)
Policy(tenant_id="acme", limit_type="daily", limit_value=5, on_unpriced="free")  # type: ignore[arg-type]
Policy(tenant_id="acme", limit_type="rolling", limit_value=5, window=timedelta(hours=24))

Policy(tenant_id="acme", limit_type="yearly", limit_value=Decimal(5))  # type: ignore[arg-type]
Policy(tenant_id="acme", limit_type="daily", limit_value=5.0)  # type: ignore[arg-type]
Tenant(id="acme", hard_limit=5.0)  # type: ignore[arg-type]
Tenant(id="acme", plan="gold")  # type: ignore[arg-type]
governor.users.get("alice")  # type: ignore[call-arg]
governor.policies.put(Tenant(id="acme"))  # type: ignore[arg-type]
governor.policies.grant("daily", 5.0, datetime.now(UTC), "boss")  # type: ignore[arg-type]

# -- one call ------------------------------------------------------------------------------------

look = governor.check(tenant="acme", user="alice", model="gpt-4o", prompt="hi")
assert_type(look, Decision)
held = governor.reserve(
    tenant="acme",
    model="gpt-4o",
    messages=[{"role": "user", "content": "hi"}],
    max_output_tokens=500,
    labels={"run": "42"},
    idempotency_key="k",
    ttl="30m",
)
assert_type(held, Reservation)
assert_type(held.allowed, bool)
assert_type(held.remaining, Decimal | None)
assert_type(held.estimate, Estimate)
assert_type(held.estimate.highest, Decimal)
assert_type(held.reasons, tuple[Reason, ...])
assert_type(held.counter_offer, CounterOffer | None)
assert_type(held.max_output_tokens, int | None)
assert_type(held.expires_at, datetime | None)
assert_type(Reservation.from_json(held.to_json()), Reservation)

settlement = governor.settle(held, {"usage": {}})
assert_type(settlement, Settlement)
assert_type(settlement.cost, Decimal)
assert_type(settlement.usage, Usage | None)
governor.settle(held.id, usage=Usage(input=1, output=2))
governor.settle(held, cost="0.0123")
governor.release(held)
governor.extend(held, ttl=timedelta(minutes=5))
governor.record({"usage": {}}, tenant="acme", id="1", at=datetime.now(UTC))
governor.adjust("1", Decimal("-0.5"), reason="credit", by="ops")

governor.settle(held, cost=0.0123)  # type: ignore[arg-type]
governor.settle(held, usage={"input": 1})  # type: ignore[arg-type]
governor.reserve("acme")  # type: ignore[call-arg]
governor.reserve(model="gpt-4o", max_tokens=5)  # type: ignore[call-arg]
governor.reserve(tool="search", units=1.5)  # type: ignore[arg-type]
governor.reserve(model="gpt-4o", labels={"run": 42})  # type: ignore[dict-item]
governor.record(cost="1", model="gpt-4o")  # type: ignore[call-arg]
governor.adjust("1", 0.5, reason="credit", by="ops")  # type: ignore[arg-type]

# -- around a call -------------------------------------------------------------------------------

try:
    with governor.guard(tenant="acme", model="gpt-4o", prompt="hi") as call:
        assert_type(call.model, str | None)
        assert_type(call.settle({"usage": {}}), Settlement | None)
        call.charged()
except ApprovalRequired as required:
    assert_type(required.approval_id, str)
except (BudgetExceeded, Refused) as refused:
    assert_type(refused.decision, Decision)
except StorageError as failed:
    assert_type(failed.spooled, bool)

governor.guard(llm="gpt-4o")  # type: ignore[call-arg]
governor.guard(tenant="acme", model="gpt-4o", max_output_tokens="5")  # type: ignore[arg-type]


@governor.govern(model="gpt-4o", tenant="acme")
def ask(prompt: str, *, model: str, max_tokens: int | None = None) -> dict[str, Any]:
    """A governed function keeps its type."""
    return {"model": model, "max_tokens": max_tokens, "prompt": prompt}


assert_type(ask("hi", model="gpt-4o"), dict[str, Any])
ask(5, model="gpt-4o")  # type: ignore[arg-type]


@governor.govern(tool="search", units=2)
def stream(query: str) -> Iterator[str]:
    """So does a generator."""
    yield query


for chunk in stream("x"):
    assert_type(chunk, str)

governor.govern(llm="gpt-4o")  # type: ignore[call-arg]

with fluxai.subject(tenant="acme", user="alice", run="42"):
    pass
with fluxai.subject(run=42):  # type: ignore[arg-type]
    pass
with governor.budget("5.00", tenant="acme", run="42") as block:
    assert_type(block.remaining, Decimal)
with governor.budget(5.0):  # type: ignore[arg-type]
    pass

completion = governor.smart_complete("hi", tenant="acme", preferences={"prefer_cost": True})
assert_type(completion, Completion)
assert_type(completion.cost, Decimal)
assert_type(completion.images, tuple[Image, ...])
assert_type(governor.generate_image("a cat", model="gpt-image-1").data, bytes)
governor.smart_complete("hi", max_tokens="5")  # type: ignore[arg-type]
try:
    governor.smart_complete("hi")
except AllProvidersFailed as all_failed:
    assert_type(all_failed.attempts, tuple[Attempt, ...])

# -- looking -------------------------------------------------------------------------------------

assert_type(governor.budgets("acme", "alice"), list[Budget])
assert_type(governor.budgets("acme")[0].remaining, Decimal | int)
assert_type(governor.usage("acme", period="month"), UsageSummary)
assert_type(governor.events(), list[UsageEvent])
assert_type(governor.reservations("reserved"), list[Reservation])
assert_type(governor.explain(held.id), Decision)
assert_type(governor.approvals.list(state="pending"), list[Approval])
assert_type(governor.approvals.approve("id", by="boss"), Approval)
assert_type(governor.verify(), LedgerReport)
route = governor.check_and_route("acme", None, "search", 3, {"query": "x"}, hold=True)
assert_type(route, RouteResult)
assert_type(route.cost_estimate, Decimal)

governor.usage("acme", period="week")  # type: ignore[arg-type]
governor.approvals.approve("id")  # type: ignore[call-arg]
governor.check_and_route("acme", None, "search", 3, {}, True)  # type: ignore[call-arg]

# -- the parts -----------------------------------------------------------------------------------

analysis = PromptAnalyzer().analyze([{"role": "user", "content": "hi"}])
assert_type(analysis.complexity, Literal["simple", "medium", "complex"])
assert_type(analysis.cheap_ok, float)
assert_type(analysis.reasons, tuple[str, ...])
cost = CostEstimator().cost({"usage": {}})
assert_type(cost.total, Decimal)
assert_type(cost.usage, Usage)
assert_type(Usage.parse(b"{}"), Usage)
engine = PolicyEngine([policy])
verdict = engine.evaluate(
    PolicyRequest(tenant="acme", model="gpt-4o", input_tokens=5),
    {"daily": ("1.50", "0"), ("each", "alice"): (Decimal(1), 0)},
    at=datetime.now(UTC),
)
assert_type(verdict, Decision)

engine.evaluate({"tenant": "acme", "model": "gpt-4o"}, {})  # type: ignore[call-arg]
engine.evaluate({}, {"daily": (1.5, 0)}, at=datetime.now(UTC))  # type: ignore[dict-item]
Usage(input=1.5)  # type: ignore[arg-type]

# -- async ---------------------------------------------------------------------------------------


async def main() -> None:
    """The same names, awaited, with the same types."""
    async with AsyncGovernor("sqlite:///fluxai.db", subjects="open") as governor:
        assert_type(await governor.check(model="gpt-4o", prompt="hi"), Decision)
        held = await governor.reserve(tenant="acme", model="gpt-4o", prompt="hi")
        assert_type(held, Reservation)
        assert_type(await governor.settle(held, cost="0.01"), Settlement)
        assert_type(await governor.budgets("acme"), list[Budget])
        assert_type(await governor.check_and_route("acme", None, "search", 3), RouteResult)
        async with governor.guard(tenant="acme", model="gpt-4o", prompt="hi") as call:
            assert_type(await call.settle({"usage": {}}), Settlement | None)

        @governor.govern(model="gpt-4o")
        async def ask(prompt: str) -> str:
            return prompt

        assert_type(await ask("hi"), str)

        @governor.govern(model="gpt-4o")
        async def stream(prompt: str) -> AsyncIterator[int]:
            yield len(prompt)

        async for number in stream("hi"):
            assert_type(number, int)

        await governor.reserve(model="gpt-4o", max_tokens=5)  # type: ignore[call-arg]
        await governor.settle(held, cost=0.01)  # type: ignore[arg-type]
        AsyncGovernor(store="memory://")  # type: ignore[call-arg]


asyncio.run(main())

# -- programs whose code stays as it is ------------------------------------------------------------

with fluxai.instrument(Governor(), tenant="acme", ungoverned="allow") as made:
    assert_type(made.governor, Governor)
fluxai.instrument(ungoverned="maybe")  # type: ignore[arg-type]
fluxai.uninstrument()

# -- tests of one's own ----------------------------------------------------------------------------

with FakeProvider(default="Hello", clock=FakeClock()) as provider:
    base_url: str = provider.openai_url
    provider.answer("Hello", usage={"input": 12, "output": 5}, finish="stop")
    provider.answer(Answer(tool_calls=(ToolCall(name="search", arguments={"q": "a"}),)))
    provider.answer("Hello", finish="done")  # type: ignore[arg-type]
    provider.fail(429, retry_after=1)
    provider.replay([{"type": "ping"}, "[DONE]"])
    gate: Gate = provider.slow("Hello")
    asked: list[Request] = provider.requests
