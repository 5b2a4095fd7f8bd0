"""`AsyncGovernor`: the same names, awaited. Each whole verb is one thread hop, or none."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, Unpack

from fluxai.approvals import WAITED_S, Approvals
from fluxai.core.ids import uuid_int
from fluxai.governor import Governor

if TYPE_CHECKING:
    from datetime import timedelta
    from decimal import Decimal

    from fluxai.analytics import BlockBudget, RouteResult
    from fluxai.core.decisions import Approval, Reservation
    from fluxai.govern import GovernOptions
    from fluxai.guard import CallArguments, Guard
    from fluxai.providers.completing import Completion
    from fluxai.providers.images import Image

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])
_Verb = Callable[Concatenate[Governor, P], T]
_Awaited = Callable[Concatenate["AsyncGovernor", P], Coroutine[Any, Any, T]]


def _awaited(verb: _Verb[P, T]) -> _Awaited[P, T]:
    """Make a verb of the governor one that is awaited; it runs to its end once begun."""

    @functools.wraps(verb)
    async def hop(self: AsyncGovernor, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.governor.hops.run(lambda: verb(self.governor, *args, **kwargs))

    return hop


def _awaited_hold(verb: _Verb[P, T], undo: Callable[[Governor, T], None]) -> _Awaited[P, T]:
    """Like `_awaited`, for what holds money: a caller that is cancelled leaves no hold behind.

    But for one under an idempotency key, which is there for a retry to find.
    """

    @functools.wraps(verb)
    async def hop(self: AsyncGovernor, /, *args: P.args, **kwargs: P.kwargs) -> T:
        governor = self.governor

        def give_back(held: T) -> None:
            if kwargs.get("idempotency_key") is None:
                undo(governor, held)

        return await governor.hops.hold(lambda: verb(governor, *args, **kwargs), give_back)

    return hop


def _release_route(governor: Governor, route: RouteResult) -> None:
    """Release what `check_and_route(hold=True)` holds."""
    if route.reservation_id is not None:
        held = governor.storage.find(None, uuid_int(route.reservation_id))
        if held is not None:
            governor.release_if_held(held)


def _like(
    original: Callable[Concatenate[Any, P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give a constructor the arguments of another, for type checkers and readers."""

    def typed(made: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        return functools.wraps(original)(made)

    return typed


class _Registry:
    """A registry whose calls are awaited."""

    def __init__(self, governor: Governor, name: str) -> None:
        self._governor = governor
        self._name = name

    def __getattr__(self, call: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        verb = getattr(getattr(self._governor, self._name), call)

        @functools.wraps(verb)
        async def hop(*args: Any, **kwargs: Any) -> Any:
            return await self._governor.hops.run(lambda: verb(*args, **kwargs))

        return hop


class _Approvals(_Registry):
    """Approvals, awaited; waiting for one leaves the event loop to the others."""

    async def wait(
        self,
        approval_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 -- the name it has without async
        tenant: str | None = None,
    ) -> Approval:
        """Wait until somebody answers; see `Approvals.wait`."""
        approvals, hops = Approvals(self._governor), self._governor.hops
        left = timeout
        while True:
            approval = await hops.run(lambda: approvals.get(approval_id, tenant=tenant))
            if approvals.over(approval, left):
                return approval
            pause = WAITED_S if left is None else min(WAITED_S, left)
            await asyncio.sleep(pause)
            left = None if left is None else left - pause

    async def resume(
        self,
        approval_id: str,
        *,
        claim: str,
        ttl: timedelta | str | int = "30m",
        tenant: str | None = None,
    ) -> Reservation:
        """Go on with a run; see `Approvals.resume`. A caller that is cancelled releases it."""
        approvals = Approvals(self._governor)
        return await self._governor.hops.hold(
            lambda: approvals.resume(approval_id, claim=claim, ttl=ttl, tenant=tenant),
            self._governor.release_if_held,
        )


class AsyncGovernor:
    """A `Governor` for async code: the same arguments, the same names, awaited.

    On a store that waits for a disk each verb runs in a thread; in memory it runs in place. Use it
    with `async with`, or call `await close()`. What it opens, it opens at once, not in a thread.
    """

    governor: Governor

    @_like(Governor.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.governor = Governor(*args, **kwargs)

    check = _awaited(Governor.check)
    reserve = _awaited_hold(Governor.reserve, Governor.release_if_held)
    settle = _awaited(Governor.settle)
    release = _awaited(Governor.release)
    extend = _awaited(Governor.extend)
    record = _awaited(Governor.record)
    adjust = _awaited(Governor.adjust)
    check_and_route = _awaited_hold(Governor.check_and_route, _release_route)
    budgets = _awaited(Governor.budgets)
    usage = _awaited(Governor.usage)
    events = _awaited(Governor.events)
    reservations = _awaited(Governor.reservations)
    explain = _awaited(Governor.explain)
    expire = _awaited(Governor.expire)
    verify = _awaited(Governor.verify)
    estimator_of = _awaited(Governor.estimator_of)
    replay_spool = _awaited(Governor.replay_spool)
    feedback = _awaited(Governor.feedback)

    async def smart_complete(
        self,
        prompt: str,
        *,
        tenant: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        context: str | Sequence[Mapping[str, str]] | None = None,
        preferences: Mapping[str, Any] | None = None,
        system_instruction: str | None = None,
        max_tokens: int | None = None,
        temperature: float | Decimal | None = None,
        images: Sequence[Any] | bytes | None = None,
    ) -> Completion:
        """Answer a prompt by the model that suits it; see `Governor.smart_complete`.

        Async clients are awaited, others are asked in a thread.
        """
        from fluxai.providers.completing import CompletionOptions, complete_async

        options = CompletionOptions(
            tenant=tenant,
            user=user,
            labels=labels,
            context=context,
            preferences=preferences,
            system_instruction=system_instruction,
            max_tokens=max_tokens,
            temperature=temperature,
            images=images,
        )
        return await complete_async(self.governor, prompt, options)

    async def generate_image(
        self,
        prompt: str,
        *,
        tenant: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        model: str | None = None,
        size: str | None = None,
    ) -> Image:
        """Make a picture; see `Governor.generate_image`."""
        from fluxai.providers.completing import ImageOptions, draw_async

        options = ImageOptions(tenant=tenant, user=user, labels=labels, model=model, size=size)
        return await draw_async(self.governor, prompt, options)

    def providers(
        self,
        *,
        openai: Any = None,
        anthropic: Any = None,
        gemini: Any = None,
        models: Mapping[str, str] | None = None,
    ) -> None:
        """Say by which clients to ask; see `Governor.providers`."""
        self.governor.providers(openai=openai, anthropic=anthropic, gemini=gemini, models=models)

    @property
    def tenants(self) -> _Registry:
        """The tenants' records; see `Governor.tenants`."""
        return _Registry(self.governor, "tenants")

    @property
    def users(self) -> _Registry:
        """The users' records; see `Governor.users`."""
        return _Registry(self.governor, "users")

    @property
    def tools(self) -> _Registry:
        """The tools' records; see `Governor.tools`."""
        return _Registry(self.governor, "tools")

    @property
    def models(self) -> _Registry:
        """The models; see `Governor.models`."""
        return _Registry(self.governor, "models")

    @property
    def policies(self) -> _Registry:
        """The policies; see `Governor.policies`."""
        return _Registry(self.governor, "policies")

    @property
    def approvals(self) -> _Approvals:
        """Calls that wait for a human; see `Governor.approvals`."""
        return _Approvals(self.governor, "approvals")

    @property
    def routing(self) -> _Registry:
        """What outcomes of calls have taught; see `Governor.routing`."""
        return _Registry(self.governor, "routing")

    def wrap(
        self,
        client: C,
        *,
        tenant: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        ungoverned: Literal["refuse", "allow"] = "refuse",
    ) -> C:
        """Return a governed copy of a client; see `Governor.wrap`."""
        return self.governor.wrap(
            client, tenant=tenant, user=user, labels=labels, ungoverned=ungoverned
        )

    def guard(self, **request: Unpack[CallArguments]) -> Guard:
        """Hold money for the body of an `async with` block; see `Governor.guard`."""
        return self.governor.guard(**request)

    def govern(self, **options: Unpack[GovernOptions]) -> Callable[[F], F]:
        """Decorate a function that makes a paid call; see `Governor.govern`."""
        return self.governor.govern(**options)

    def compare(
        self,
        *,
        cheap: str,
        judge: Callable[[Any, Any, Any], Any],
        asked: str | None = None,
        share: float = 0.05,
        tenant: str | None = None,
        random: Callable[[], float] | None = None,
    ) -> Callable[[F], F]:
        """Have some calls answered by both models; see `Governor.compare`."""
        return self.governor.compare(
            cheap=cheap, judge=judge, asked=asked, share=share, tenant=tenant, random=random
        )

    def budget(
        self, limit: Decimal | str | int, *, tenant: str | None = None, **labels: str
    ) -> AbstractContextManager[BlockBudget]:
        """Put one more limit around every governed call inside; see `Governor.budget`."""
        return self.governor.budget(limit, tenant=tenant, **labels)

    async def close(self) -> None:
        """Finish what is queued and let go of the store."""
        if self.governor.storage.capabilities.blocking:
            # Not in a hop: closing waits for the hops.
            await asyncio.to_thread(self.governor.close)
        else:
            self.governor.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
