"""`AsyncGovernor`: the same names, awaited, on stores that wait and on one that doesn't."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import fluxai
from fluxai import (
    ApprovalRequired,
    AsyncGovernor,
    BudgetExceeded,
    Governor,
    InvalidRequest,
    Policy,
    SettlementConflict,
    Tool,
)
from fluxai.testing import FakeClock
from tests.integration.conftest import empty_store
from tests.integration.stubs import ASK, GatedStorage, Provider, completion, daily, spent


@pytest.fixture(params=["memory", "gated", "sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Memory, which never waits, a store that may, a file, and a database."""
    return GatedStorage() if request.param == "gated" else empty_store(request, tmp_path)


@pytest.fixture
def governor(storage: Any) -> Iterator[AsyncGovernor]:
    """An async governor whose tenant acme has $5 a day."""
    governor = AsyncGovernor(storage, clock=FakeClock())
    governor.governor.policies.put(daily("5"))
    yield governor
    governor.governor.hops.close()
    assert governor.governor.reservations("reserved") == []
    assert governor.governor.verify().ok
    governor.governor.close()


#: What is called without `await`, or has a signature of its own.
PLAIN = {"wrap", "guard", "govern", "compare", "budget", "close", "providers"}


def test_every_name_of_the_governor_is_there() -> None:
    """What a `Governor` can do, an `AsyncGovernor` can, under the same name and arguments."""
    for name, verb in vars(Governor).items():
        if name.startswith("_") or name in {
            "settle_result",
            "settle_expected",
            "release_if_held",
            "when_free",
            "providers_at_hand",
        }:
            continue
        twin = getattr(AsyncGovernor, name)
        if inspect.isfunction(verb) and name not in PLAIN:
            assert inspect.iscoroutinefunction(twin), name
            assert inspect.signature(verb).parameters.keys() == (
                inspect.signature(twin).parameters.keys()
            ), name
    assert inspect.signature(AsyncGovernor).parameters.keys() == (
        inspect.signature(Governor).parameters.keys()
    )


def test_a_call_s_life(governor: AsyncGovernor) -> None:
    """Reserve, extend, settle, adjust, record, release: each awaited, each as without async."""

    async def live() -> None:
        assert (await governor.check(**ASK)).allowed
        reservation = await governor.reserve(**ASK)
        await governor.extend(reservation, ttl="2h")
        settlement = await governor.settle(reservation, completion())
        assert settlement.cost == Decimal("0.00035")
        await governor.adjust(settlement.event_id, "-0.0001", reason="credit", by="ops")
        await governor.record(tenant="acme", model="gpt-4o", cost="0.5", id="before")
        spare = await governor.reserve(**ASK)
        await governor.release(spare)
        assert len(await governor.events()) == 3
        assert (await governor.usage("acme")).total_cost == Decimal("0.50025")
        (budget,) = await governor.budgets("acme")
        assert budget.settled == Decimal("0.50025")
        assert (await governor.explain(reservation.id)).id == reservation.id
        assert len(await governor.reservations("released")) == 1
        assert await governor.expire() == (0, 0)
        assert (await governor.verify()).ok

    asyncio.run(live())


def test_registries_are_awaited(governor: AsyncGovernor) -> None:
    """put, get, list and delete, and grants, are awaited too."""

    async def manage() -> None:
        await governor.tenants.put(fluxai.Tenant(id="acme", name="Acme"))
        assert (await governor.tenants.get("acme")).name == "Acme"
        await governor.users.put(fluxai.User(id="alice", tenant_id="acme"))
        assert len(await governor.users.list(tenant="acme")) == 1
        await governor.tools.put(Tool(id="search", cost_per_unit=Decimal("0.01")))
        policy = await governor.policies.put(
            Policy.model_validate(
                {"tenant_id": "acme", "limit_type": "monthly", "limit_value": "9"}
            )
        )
        await governor.policies.delete(policy.id)
        assert (await governor.models.get("gpt-4o")).provider == "openai"
        route = await governor.check_and_route("acme", "alice", "search", 2)
        assert route.cost_estimate == Decimal("0.02")

    asyncio.run(manage())


def test_a_guard_settles_awaited(governor: AsyncGovernor) -> None:
    """`await call.settle(…)` gives the settlement; leaving the block settles what is left."""

    async def guarded() -> None:
        async with governor.guard(**ASK) as call:
            settlement = await call.settle(completion())
            assert settlement is not None
            assert settlement.cost == Decimal("0.00035")
            assert call.settlement is settlement
            assert call.ended
        async with governor.guard(**ASK) as call:
            assert not call.ended
        async with governor.guard(**ASK) as call:
            await call.release()
        with pytest.raises(ValueError, match="own"):
            async with governor.guard(**ASK) as call:
                call.charged()
                raise ValueError("own")

    asyncio.run(guarded())
    events = governor.governor.events()
    assert [event.estimated for event in events] == [False, True, True]


def test_a_settle_that_is_not_awaited_still_happens(governor: AsyncGovernor) -> None:
    """Forgetting `await` loses neither the exact cost nor an error."""

    async def guarded() -> None:
        async with governor.guard(**ASK) as call:
            call.settle(completion())
        with pytest.raises(InvalidRequest, match="floats"):
            async with governor.guard(**ASK) as call:
                call.settle(cost=0.5)  # type: ignore[arg-type]
        with pytest.raises(SettlementConflict):
            async with governor.guard(**ASK) as call:
                call.settle(cost="0.5")
                call.settle(cost="0.6")

    asyncio.run(guarded())
    exact, estimated, first = governor.governor.events()
    assert (exact.cost, exact.estimated) == (Decimal("0.00035"), False)
    assert estimated.estimated
    assert first.cost == Decimal("0.5")


def test_a_plain_governor_guards_async_code_too(tmp_path: Path) -> None:
    """`async with governor.guard(…)` works on a `Governor`, and so does a governed coroutine."""
    provider = Provider()

    async def run(governor: Governor) -> None:
        async with governor.guard(**ASK) as call:
            await call.settle(provider.answer(model=call.model))

        @governor.govern(model="gpt-4o", tenant="acme")
        async def ask(prompt: str, *, model: str) -> dict[str, Any]:
            await asyncio.sleep(0)
            return provider.answer(model=model, prompt=prompt)

        await ask("Say hi.")  # type: ignore[call-arg]

    for url in ("memory://", f"sqlite:///{tmp_path}/b.db"):
        with Governor(url) as governor:
            provider.charged = Decimal(0)
            asyncio.run(run(governor))
            assert spent(governor) == provider.charged > 0


def test_refusals_raise_before_the_body(governor: AsyncGovernor) -> None:
    """Guards and governed coroutines raise what their sync twins do."""

    async def refused() -> None:
        await governor.policies.put(daily("0"))
        assert not (await governor.reserve(**ASK)).allowed
        with pytest.raises(BudgetExceeded):
            async with governor.guard(**ASK):
                pytest.fail("the body ran")
        await governor.policies.put(daily("0", decision="require_approval"))
        with pytest.raises(ApprovalRequired):
            async with governor.guard(**ASK):
                pytest.fail("the body ran")

    asyncio.run(refused())


def test_an_approval_is_waited_for_without_holding_up_the_loop(governor: AsyncGovernor) -> None:
    """Another task can answer while one waits, also where the store itself never waits."""

    async def ask_and_answer() -> str:
        await governor.policies.put(daily("0", decision="require_approval"))
        asked = await governor.reserve(**ASK)
        assert asked.approval_id is not None
        waiting = asyncio.create_task(governor.approvals.wait(asked.approval_id, timeout=60))
        await asyncio.sleep(0)
        await governor.approvals.approve(asked.approval_id, by="boss")
        approval = await waiting
        run = await governor.reserve(**ASK, approval_id=asked.approval_id)
        await governor.settle(run, cost="0.01")
        return str(approval.state)

    assert asyncio.run(ask_and_answer()) == "approved"


def test_many_tasks_share_one_budget(governor: AsyncGovernor) -> None:
    """64 tasks of ten cents on a budget of a dollar: exactly ten run."""

    async def race() -> int:
        await governor.policies.put(daily("1"))
        await governor.tools.put(Tool(id="dime", cost_per_unit=Decimal("0.10")))

        async def one() -> bool:
            reservation = await governor.reserve(tenant="acme", tool="dime")
            if reservation.allowed:
                await asyncio.sleep(0)
                await governor.settle(reservation)
            return reservation.allowed

        return sum(await asyncio.gather(*(one() for _ in range(64))))

    assert asyncio.run(race()) == 10
    assert spent(governor.governor) == 1


def test_a_governed_async_generator_is_exact_or_estimated(governor: AsyncGovernor) -> None:
    """Read to the end it is exact; closed early, or let go, it is charged what was expected."""
    provider = Provider()
    ended: list[str] = []

    @governor.govern(model="gpt-4o", tenant="acme")
    async def stream(prompt: str, max_tokens: int = 50) -> AsyncIterator[dict[str, Any]]:
        """Stream."""
        response = provider.answer(model="gpt-4o", prompt=prompt)
        usage = response.pop("usage")
        try:
            yield response
            await asyncio.sleep(0)
            yield {**response, "usage": usage}
        except GeneratorExit:
            ended.append("closed")
            raise
        ended.append("exhausted")

    async def read() -> None:
        assert inspect.isasyncgenfunction(stream)
        assert stream.__doc__ == "Stream."
        assert len([chunk async for chunk in stream("hi")]) == 2
        closed: Any = stream("hi")
        await anext(closed)
        await closed.aclose()
        assert ended == ["exhausted", "closed"]
        assert len(await governor.events()) == 2
        dropped: Any = stream("hi")
        await anext(dropped)
        del dropped
        gc.collect()

    asyncio.run(read())
    governor.governor.hops.close()
    events = governor.governor.events()
    assert [event.estimated for event in events] == [False, True, True]
    assert spent(governor.governor) >= provider.charged


class SdkStream:
    """An async stream as SDK clients return it."""

    def __init__(self, provider: Provider) -> None:
        self.closed = False
        self.response = "http 200"
        whole = provider.answer(model="gpt-4o")
        usage = whole.pop("usage")
        self._chunks = iter([whole, {**whole, "usage": usage, "choices": []}])

    def __aiter__(self) -> SdkStream:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        try:
            return next(self._chunks)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> SdkStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.closed = True


def test_a_stream_that_a_coroutine_returns_keeps_what_it_was(governor: AsyncGovernor) -> None:
    """It is read, closed and used in `async with` as before, and settled once."""
    provider = Provider()
    inner: list[SdkStream] = []

    @governor.govern(model="gpt-4o", tenant="acme")
    async def ask(prompt: str, max_tokens: int = 50) -> SdkStream:
        await asyncio.sleep(0)
        inner.append(SdkStream(provider))
        return inner[-1]

    async def read() -> None:
        async for _ in await ask("hi"):
            pass
        async with await ask("hi") as stream:
            assert stream.response == "http 200"
            await anext(stream)
        await (await ask("hi")).close()
        dropped = await ask("hi")
        del dropped
        gc.collect()

    asyncio.run(read())
    governor.governor.hops.close()
    assert [stream.closed for stream in inner] == [False, True, True, False]
    events = governor.governor.events()
    assert [event.estimated for event in events] == [False, True, True, True]
    assert spent(governor.governor) >= provider.charged


def test_a_plain_function_may_return_something_to_await(governor: AsyncGovernor) -> None:
    """`lambda: client.create(…)` on an async client is governed like a coroutine function."""
    provider = Provider()

    async def create(**request: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        return provider.answer(**request)

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str, *, model: str) -> Any:
        return create(model=model, prompt=prompt)

    asyncio.run(ask("hi"))  # type: ignore[call-arg]
    assert spent(governor.governor) == provider.charged


def test_closing_waits_for_what_is_under_way(storage: Any) -> None:
    """`async with` leaves nothing behind, and closing is no deadlock on any store."""

    async def use() -> None:
        async with AsyncGovernor(storage) as governor:
            reservation = await governor.reserve(**ASK)
            task = asyncio.create_task(governor.settle(reservation, cost="0.01"))
            await asyncio.sleep(0)
            assert governor.governor.storage is not None
            await task

    asyncio.run(use())


def test_a_loop_that_ends_does_not_take_a_settle_along(tmp_path: Path) -> None:
    """The loop may close while a verb runs: the verb ends, and nothing complains."""
    storage = GatedStorage()
    governor = AsyncGovernor(storage, clock=FakeClock())

    async def leave() -> None:
        reservation = await governor.reserve(**ASK)
        await asyncio.to_thread(storage.arrived.acquire)
        storage.gate.clear()
        task = asyncio.create_task(governor.settle(reservation, cost="0.01"))
        await asyncio.to_thread(storage.arrived.acquire)
        task.cancel()

    asyncio.run(leave())
    storage.gate.set()
    governor.governor.hops.close()
    assert spent(governor.governor) == Decimal("0.01")
