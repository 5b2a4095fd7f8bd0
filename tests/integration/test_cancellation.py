"""Cancellation, enumerated: wherever a caller is cut off, no hold stays open and no cost is lost.

Each scenario is driven to every one of its steps and ended there, in every way in which a coroutine
can be ended. The provider counts what it charged; what was settled has to cover it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fluxai import AsyncGovernor, Governor, Policy
from fluxai.testing import FakeClock
from tests.integration.conftest import empty_store
from tests.integration.stubs import ASK, MODEL, GatedStorage, Pause, Provider, daily, spent

STEPS_MAX = 200

Scenario = Callable[
    [AsyncGovernor, Provider, Callable[[], Awaitable[None]]], Coroutine[Any, Any, Any]
]


async def guarded(governor: AsyncGovernor, provider: Provider, step: Any) -> None:
    """A guard around an awaited call."""
    await step()
    async with governor.guard(**ASK) as call:
        await step()
        response = provider.answer(model=call.model)
        await step()
        await call.settle(response)
        await step()


async def guarded_without_await(governor: AsyncGovernor, provider: Provider, step: Any) -> None:
    """A guard whose settle is begun and not awaited."""
    async with governor.guard(**ASK) as call:
        await step()
        call.settle(provider.answer(model=call.model))
        await step()


async def forgetful(governor: AsyncGovernor, provider: Provider, step: Any) -> None:
    """A guard that forgets to settle."""
    async with governor.guard(**ASK) as call:
        await step()
        provider.answer(model=call.model)
        await step()


async def decorated(governor: AsyncGovernor, provider: Provider, step: Any) -> None:
    """A governed coroutine function."""

    @governor.govern(model=MODEL, tenant="acme")
    async def ask(prompt: str, *, model: str, max_tokens: int = 100) -> dict[str, Any]:
        await step()
        response = provider.answer(model=model)
        await step()
        return response

    await ask("Say hi.")  # type: ignore[call-arg]
    await step()


async def streamed(governor: AsyncGovernor, provider: Provider, step: Any) -> None:
    """A governed async generator, read to its end."""

    @governor.govern(model=MODEL, tenant="acme")
    async def stream(prompt: str, max_tokens: int = 100) -> AsyncIterator[dict[str, Any]]:
        await step()
        response = provider.answer(model=MODEL)
        usage = response.pop("usage")
        yield response
        await step()
        yield {**response, "usage": usage}

    async for _ in stream("Say hi."):
        await step()


async def stream_returned(governor: AsyncGovernor, provider: Provider, step: Any) -> None:
    """A coroutine function that returns a stream, as async SDK clients do."""

    async def chunks() -> AsyncIterator[dict[str, Any]]:
        response = provider.answer(model=MODEL)
        usage = response.pop("usage")
        yield response
        await step()
        yield {**response, "usage": usage}

    @governor.govern(model=MODEL, tenant="acme")
    async def ask(prompt: str, max_tokens: int = 100) -> AsyncIterator[dict[str, Any]]:
        await step()
        return chunks()

    async for _ in await ask("Say hi."):
        await step()


async def by_hand(governor: AsyncGovernor, provider: Provider, step: Any) -> None:
    """Reserve and settle, with the caller's own try and finally."""
    reservation = await governor.reserve(**ASK)
    try:
        await step()
        response = provider.answer(model=reservation.model)
        await step()
    except BaseException:
        if provider.calls:
            governor.governor.settle_expected(reservation)
        else:
            governor.governor.release(reservation)
        raise
    await governor.settle(reservation, response)


async def routed(governor: AsyncGovernor, provider: Provider, step: Any) -> None:
    """check_and_route, which reserves and settles in one."""
    await step()
    await governor.check_and_route("acme", None, "search", 2)
    await step()


SCENARIOS: list[Scenario] = [
    guarded,
    guarded_without_await,
    forgetful,
    decorated,
    streamed,
    stream_returned,
    by_hand,
    routed,
]
every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)


def _open(storage: Any) -> AsyncGovernor:
    governor = AsyncGovernor(storage, clock=FakeClock())
    governor.governor.policies.put(daily("50"))
    governor.governor.tools.put({"id": "search", "cost_per_unit": "0.001"})  # type: ignore[arg-type]
    return governor


def _check(
    governor: Governor, provider: Provider, where: str, before: Decimal = Decimal(0)
) -> None:
    gc.collect()
    assert governor.reservations("reserved") == [], where
    assert spent(governor) - before >= provider.charged, where
    assert governor.settle_errors == 0, where
    report = governor.verify()
    assert report.ok, (where, report.differences)


async def _pause() -> None:
    await Pause()


def _drive(coroutine: Coroutine[Any, Any, Any], steps: int, end: Callable[[Any], None]) -> bool:
    """Run a coroutine for some steps, then end it; False when it was done before."""
    try:
        for _ in range(steps):
            coroutine.send(None)
    except StopIteration:
        return False
    end(coroutine)
    return True


def _throw(error: type[BaseException]) -> Callable[[Any], None]:
    def end(coroutine: Any) -> None:
        with pytest.raises((error, StopIteration)):
            coroutine.throw(error())
            while True:
                coroutine.send(None)

    return end


ENDS = {
    "cancelled": _throw(asyncio.CancelledError),
    "interrupted": _throw(KeyboardInterrupt),
    "timed out": _throw(TimeoutError),
    "closed": lambda coroutine: coroutine.close(),
}


@every_scenario
@pytest.mark.parametrize("end", ENDS)
def test_a_coroutine_may_end_at_any_step(scenario: Scenario, end: str) -> None:
    """Sent step by step and ended at each: memory, where nothing but the body itself waits."""
    for steps in range(1, STEPS_MAX):
        governor, provider = _open("memory://"), Provider()
        coroutine = scenario(governor, provider, _pause)
        ended = _drive(coroutine, steps, ENDS[end])
        _check(governor.governor, provider, f"step {steps}, {end}")
        if not ended:
            assert steps > 2
            return
    pytest.fail("the scenario never came to its end")


@pytest.fixture(params=["gated", "sqlite", "postgres"])
def waiting(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return an empty store whose verbs wait, of each kind."""
    return GatedStorage() if request.param == "gated" else empty_store(request, tmp_path)


@every_scenario
def test_a_task_may_be_cancelled_in_any_iteration(scenario: Scenario, waiting: Any) -> None:
    """Cancelled at the n-th turn of the loop, on stores whose verbs run in threads."""
    governor = _open(waiting)
    for turns in range(STEPS_MAX):
        provider, before = Provider(), spent(governor.governor)
        done = asyncio.run(_cancel_after(turns, governor, provider, scenario))
        # Closing waits for every verb that is under way.
        governor.governor.hops.close()
        _check(governor.governor, provider, f"turn {turns}", before)
        if done:
            governor.governor.close()
            return
    pytest.fail("the scenario never came to its end")


async def _cancel_after(
    turns: int, governor: AsyncGovernor, provider: Provider, scenario: Scenario
) -> bool:
    async def step() -> None:
        await asyncio.sleep(0)

    task = asyncio.create_task(scenario(governor, provider, step))
    for _ in range(turns):
        if task.done():
            break
        # A turn of this loop, and of the threads: until something has happened, or nothing will.
        await asyncio.sleep(0)
        await asyncio.to_thread(lambda: None)
    cancelled = task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return not cancelled


async def _arrival(storage: GatedStorage) -> None:
    """Wait until a verb stands at the gate."""
    assert await asyncio.to_thread(storage.arrived.acquire, timeout=30)


VERBS_MAX = 10


@every_scenario
def test_a_task_may_be_cancelled_while_each_verb_waits(scenario: Scenario) -> None:
    """Cancelled while the n-th verb stands in the store: the hold is undone, the settle goes on."""
    for verb in range(VERBS_MAX):
        storage = GatedStorage()
        governor, provider = _open(storage), Provider()
        reached = asyncio.run(_cancel_in_verb(verb, storage, governor, provider, scenario))
        governor.governor.hops.close()
        _check(governor.governor, provider, f"verb {verb}")
        if not reached:
            assert verb >= 1
            return
    pytest.fail("the scenario never came to its end")


async def _cancel_in_verb(
    verb: int,
    storage: GatedStorage,
    governor: AsyncGovernor,
    provider: Provider,
    scenario: Scenario,
) -> bool:
    async def step() -> None:
        await asyncio.sleep(0)

    storage.gate.clear()
    task = asyncio.create_task(scenario(governor, provider, step))
    try:
        for _ in range(verb):
            if not await _next_verb(storage, task):
                return False
            # Whoever waits at the gate passes it, even when it is shut again at once.
            storage.gate.set()
            storage.gate.clear()
        if not await _next_verb(storage, task):
            return False
        task.cancel()
        await asyncio.sleep(0)
    finally:
        storage.gate.set()
        await asyncio.gather(task, return_exceptions=True)
    return True


async def _next_verb(storage: GatedStorage, task: asyncio.Task[Any]) -> bool:
    """Wait for a verb at the gate; False when the task ends without another."""
    arrival = asyncio.create_task(_arrival(storage))
    await asyncio.wait({arrival, task}, return_when=asyncio.FIRST_COMPLETED)
    if arrival.done():
        await arrival
        return True
    storage.arrived.release()
    await arrival
    return False


def test_a_cancelled_reserve_gives_its_hold_back() -> None:
    """A caller that is gone before its reservation is there leaves none."""
    storage = GatedStorage()
    governor = _open(storage)

    async def cancel() -> None:
        storage.gate.clear()
        task = asyncio.create_task(governor.reserve(**ASK))
        await _arrival(storage)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        storage.gate.set()

    asyncio.run(cancel())
    governor.governor.hops.close()
    (reservation,) = governor.governor.reservations()
    assert reservation.state == "released"
    _check(governor.governor, Provider(), "")


def test_a_cancelled_settle_goes_on_to_its_end() -> None:
    """Charged money is recorded, whoever has stopped waiting for that."""
    storage = GatedStorage()
    governor = _open(storage)

    async def cancel() -> None:
        reservation = await governor.reserve(**ASK)
        await _arrival(storage)
        storage.gate.clear()
        task = asyncio.create_task(governor.settle(reservation, cost="0.01"))
        await _arrival(storage)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        storage.gate.set()

    asyncio.run(cancel())
    governor.governor.hops.close()
    assert spent(governor.governor) == Decimal("0.01")
    _check(governor.governor, Provider(), "")


def test_a_cancelled_hold_of_a_route_is_released() -> None:
    """check_and_route(hold=True) leaves nothing behind either."""
    storage = GatedStorage()
    governor = _open(storage)

    async def cancel() -> None:
        storage.gate.clear()
        task = asyncio.create_task(governor.check_and_route("acme", None, "search", 2, hold=True))
        await _arrival(storage)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        storage.gate.set()

    asyncio.run(cancel())
    governor.governor.hops.close()
    _check(governor.governor, Provider(), "")
    assert spent(governor.governor) == 0


def test_a_cancelled_going_on_with_a_run_releases_it() -> None:
    """Nobody else can go on with it, so what it holds would stay held."""
    storage = GatedStorage()
    governor = _open(storage)
    ask = Policy(tenant_id="acme", limit_type="total", limit_value=0, decision="require_approval")
    governor.governor.policies.put(ask)

    async def cancel() -> None:
        held = await governor.reserve(**ASK)
        await governor.approvals.approve(held.id, by="boss")
        await governor.reserve(**ASK, approval_id=held.id)
        claim = (await governor.approvals.get(held.id)).claim
        while storage.arrived.acquire(blocking=False):
            pass
        storage.gate.clear()
        task = asyncio.create_task(governor.approvals.resume(held.id, claim=claim))
        await _arrival(storage)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        storage.gate.set()

    asyncio.run(cancel())
    governor.governor.hops.close()
    (reservation,) = governor.governor.reservations()
    assert reservation.state == "released"
    _check(governor.governor, Provider(), "")


def test_a_key_keeps_its_hold_for_the_retry() -> None:
    """A cancelled caller with an idempotency key finds the same reservation when it comes back."""
    storage = GatedStorage()
    governor = _open(storage)

    async def cancel_and_retry() -> None:
        storage.gate.clear()
        task = asyncio.create_task(governor.reserve(**ASK, idempotency_key="k"))
        await _arrival(storage)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        storage.gate.set()
        again = await governor.reserve(**ASK, idempotency_key="k")
        assert again.state == "reserved"
        await governor.settle(again, cost="0.01")

    asyncio.run(cancel_and_retry())
    governor.governor.hops.close()
    assert len(governor.governor.reservations()) == 1
    _check(governor.governor, Provider(), "")


@pytest.mark.parametrize("decision", ["deny", "require_approval"])
@pytest.mark.parametrize("kind", ["memory", "gated"])
def test_a_refused_body_never_runs(decision: str, kind: str) -> None:
    """Guards, coroutines and async generators raise before their bodies."""
    governor = _open("memory://" if kind == "memory" else GatedStorage())
    governor.governor.policies.put(Policy.model_validate(daily("0", decision=decision)))
    ran: list[str] = []

    async def step() -> None:
        ran.append("a step")

    async def run(scenario: Scenario) -> None:
        provider = Provider()
        with pytest.raises(Exception, match="daily") as caught:
            await scenario(governor, provider, step)
        assert type(caught.value).__name__ in {"BudgetExceeded", "ApprovalRequired"}
        assert provider.calls == []

    for scenario in (guarded_without_await, forgetful, decorated, streamed, stream_returned):
        asyncio.run(run(scenario))
    assert ran == []
    assert governor.governor.reservations("reserved") == []
    governor.governor.close()
