"""What governs a method in its own class, for every object of that class there is or will be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fluxai.context import NOWHERE, Surroundings, surroundings
from fluxai.providers.wrapping import is_wrapped


def passes(client: object) -> bool:
    """Say whether a client's requests are governed by its own wrapping, or not any more."""
    return is_wrapped(client) or getattr(client, "_fluxai", None) is None


@contextmanager
def at_home(home: Surroundings) -> Iterator[None]:
    """Count what is called inside in the blocks around `instrument()` where there are no others.

    A context that knows of no block is that of an odd thread: it has not come from outside.
    """
    if surroundings.get() is not NOWHERE:
        yield
        return
    token = surroundings.set(home)
    try:
        yield
    finally:
        surroundings.reset(token)
