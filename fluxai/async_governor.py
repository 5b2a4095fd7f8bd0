"""`AsyncGovernor`: the same names, awaited. Each whole verb is one thread hop, or none."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from fluxai.core.decisions import Reservation
from fluxai.governor import Governor
from fluxai.guard import Guard

P = ParamSpec("P")
T = TypeVar("T")
_Verb = Callable[Concatenate[Governor, P], T]
_Awaited = Callable[Concatenate["AsyncGovernor", P], Coroutine[Any, Any, T]]


def _awaited(verb: _Verb[P, T]) -> _Awaited[P, T]:
    """Make a verb of the governor one that is awaited; it runs to its end once begun."""

    async def hop(self: AsyncGovernor, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.governor.hops.run(lambda: verb(self.governor, *args, **kwargs))

    hop.__name__, hop.__doc__ = verb.__name__, verb.__doc__
    return hop


def _awaited_hold(verb: _Verb[P, Reservation]) -> _Awaited[P, Reservation]:
    """Like `_awaited`, for what holds money: a caller that is cancelled leaves no hold behind."""

    async def hop(self: AsyncGovernor, *args: P.args, **kwargs: P.kwargs) -> Reservation:
        governor = self.governor
        return await governor.hops.hold(
            lambda: verb(governor, *args, **kwargs), governor.release_if_held
        )

    hop.__name__, hop.__doc__ = verb.__name__, verb.__doc__
    return hop


class _Registry:
    """A registry whose calls are awaited."""

    def __init__(self, governor: Governor, name: str) -> None:
        self._governor = governor
        self._name = name

    def __getattr__(self, call: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        verb = getattr(getattr(self._governor, self._name), call)

        async def hop(*args: Any, **kwargs: Any) -> Any:
            return await self._governor.hops.run(lambda: verb(*args, **kwargs))

        return hop


class AsyncGovernor:
    """A `Governor` for async code: the same arguments, the same names, awaited.

    On a store that waits for a disk each verb runs in a thread; in memory it runs in place. Use it
    with `async with`, or call `await close()`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.governor = Governor(*args, **kwargs)

    check = _awaited(Governor.check)
    reserve = _awaited_hold(Governor.reserve)
    settle = _awaited(Governor.settle)
    release = _awaited(Governor.release)
    extend = _awaited(Governor.extend)
    record = _awaited(Governor.record)
    adjust = _awaited(Governor.adjust)
    check_and_route = _awaited(Governor.check_and_route)
    budgets = _awaited(Governor.budgets)
    usage = _awaited(Governor.usage)
    events = _awaited(Governor.events)
    reservations = _awaited(Governor.reservations)
    explain = _awaited(Governor.explain)
    expire = _awaited(Governor.expire)
    verify = _awaited(Governor.verify)
    replay_spool = _awaited(Governor.replay_spool)

    @property
    def tenants(self) -> Any:
        """The tenants' records; see `Governor.tenants`."""
        return _Registry(self.governor, "tenants")

    @property
    def users(self) -> Any:
        """The users' records; see `Governor.users`."""
        return _Registry(self.governor, "users")

    @property
    def tools(self) -> Any:
        """The tools' records; see `Governor.tools`."""
        return _Registry(self.governor, "tools")

    @property
    def models(self) -> Any:
        """The models; see `Governor.models`."""
        return _Registry(self.governor, "models")

    @property
    def policies(self) -> Any:
        """The policies; see `Governor.policies`."""
        return _Registry(self.governor, "policies")

    @property
    def approvals(self) -> Any:
        """Calls that wait for a human; see `Governor.approvals`."""
        return _Registry(self.governor, "approvals")

    def guard(self, **request: Any) -> Guard:
        """Hold money for the body of an `async with` block; see `Governor.guard`."""
        return self.governor.guard(**request)

    def govern(self, **options: Any) -> Callable[[Any], Any]:
        """Decorate a function that makes a paid call; see `Governor.govern`."""
        return self.governor.govern(**options)

    def budget(self, *args: Any, **kwargs: Any) -> Any:
        """Put one more limit around every governed call inside; see `Governor.budget`."""
        return self.governor.budget(*args, **kwargs)

    async def close(self) -> None:
        """Finish what is queued and let go of the store."""
        await self.governor.hops.run(self.governor.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
