"""For tests of your own: a clock, a provider that answers as it is told, and the suite for stores.

Names are loaded when they are first used: only `StorageContract` needs more than the core, which is
pytest (the extra `testing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxai.testing.clock import FakeClock
    from fluxai.testing.contract import StorageContract
    from fluxai.testing.provider import Answer, FakeProvider, Gate, Request, ToolCall

_HOMES = {
    "Answer": "fluxai.testing.provider",
    "FakeClock": "fluxai.testing.clock",
    "FakeProvider": "fluxai.testing.provider",
    "Gate": "fluxai.testing.provider",
    "Request": "fluxai.testing.provider",
    "StorageContract": "fluxai.testing.contract",
    "ToolCall": "fluxai.testing.provider",
}

__all__ = [
    "Answer",
    "FakeClock",
    "FakeProvider",
    "Gate",
    "Request",
    "StorageContract",
    "ToolCall",
]


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
