"""The client classes of OpenAI and Anthropic, governed in place: every client there is, or will be.

A wrapped client (see `stainless`) reserves for itself, and passes these classes by.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from fluxai.context import Surroundings, surroundings
from fluxai.providers.exchange import Terms
from fluxai.providers.in_place import at_home, passes
from fluxai.providers.patches import Patches
from fluxai.providers.stainless import State, exchange_for, note_lost_attempt, without_sockets


def govern_stainless(sdk: ModuleType, terms: Terms, patches: Patches) -> None:
    """Govern an SDK's client classes until the patches are undone.

    Args:
        sdk: `openai` or `anthropic`.
        terms: On whose account.
        patches: Undoes it.
    """
    base = import_module(f"{sdk.__name__}._base_client")
    state = State(terms)
    home = surroundings.get()
    for kind, request in (
        (base.SyncAPIClient, _request),
        (base.AsyncAPIClient, _request_async),
    ):
        # First, since the methods below pass requests on where there is none.
        patches.put(kind, "_fluxai", state)
        patches.put(kind, "request", request(kind.request, home))
        patches.put(kind, "_calculate_retry_timeout", _retry(kind._calculate_retry_timeout))
        if not terms.allows_ungoverned:
            for client in _clients(sdk, kind):
                for name, refusing in without_sockets(client).items():
                    patches.put(client, name, refusing)


def _clients(sdk: ModuleType, base: type) -> list[type]:
    """Return the clients that an SDK exports; what derives from them inherits theirs."""
    # By their own types, since openai exports proxies that load much when they are looked at.
    found = [kind for kind in tuple(vars(sdk).values()) if issubclass(type(kind), type)]
    return [kind for kind in dict.fromkeys(found) if base in kind.__bases__]


def _request(plain: Callable[..., Any], home: Surroundings) -> Callable[..., Any]:
    @functools.wraps(plain)
    def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = None if passes(self) else exchange_for(self, options)
        if exchange is None:
            return plain(self, cast_to, options, *args, **kwargs)
        with at_home(home):
            return exchange.run(lambda: plain(self, cast_to, exchange.options(), *args, **kwargs))

    return request


def _request_async(plain: Callable[..., Any], home: Surroundings) -> Callable[..., Any]:
    @functools.wraps(plain)
    async def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = None if passes(self) else exchange_for(self, options)
        if exchange is None:
            return await plain(self, cast_to, options, *args, **kwargs)
        with at_home(home):
            return await exchange.run_async(
                lambda: plain(self, cast_to, exchange.options(), *args, **kwargs)
            )

    return request


def _retry(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def _calculate_retry_timeout(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not passes(self):
            note_lost_attempt()
        return plain(self, *args, **kwargs)

    return _calculate_retry_timeout
