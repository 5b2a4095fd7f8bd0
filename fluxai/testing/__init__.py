"""For tests of your own: a clock moved by hand, and the suite that every store has to pass.

Names are loaded when they are first used: `FakeClock` needs nothing, `StorageContract` needs pytest
(the extra `testing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxai.testing.clock import FakeClock
    from fluxai.testing.contract import StorageContract

_HOMES = {
    "FakeClock": "fluxai.testing.clock",
    "StorageContract": "fluxai.testing.contract",
}

__all__ = ["FakeClock", "StorageContract"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fluxai.testing' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
