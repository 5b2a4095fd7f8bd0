"""Which models there are, what they cost, and which can take another's place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxai.models.model import Model
    from fluxai.models.registry import ModelRegistry
    from fluxai.models.selector import Choice, ModelSelector
    from fluxai.models.standins import cheapest_able

__all__ = ["Choice", "Model", "ModelRegistry", "ModelSelector", "cheapest_able"]

_HOMES = {
    "Choice": "selector",
    "Model": "model",
    "ModelRegistry": "registry",
    "ModelSelector": "selector",
    "cheapest_able": "standins",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
