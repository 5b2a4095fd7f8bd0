"""What a prompt asks for, and whether a cheaper model would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxai.prompts.analyzer import PromptAnalysis, PromptAnalyzer
    from fluxai.prompts.calibration import Calibration

__all__ = ["Calibration", "PromptAnalysis", "PromptAnalyzer"]

_HOMES = {
    "Calibration": "calibration",
    "PromptAnalysis": "analyzer",
    "PromptAnalyzer": "analyzer",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
