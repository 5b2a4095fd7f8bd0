"""`fluxai.instrument()`: every client of the providers' SDKs in this process, governed in place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Self

from fluxai.core.errors import ConfigurationError
from fluxai.providers.imports import ImportWatch
from fluxai.providers.patches import Patches

if TYPE_CHECKING:
    from fluxai.governor import Governor
    from fluxai.providers.exchange import Terms

#: By the module of an SDK that makes its classes: the function that governs them.
SEAMS: dict[str, str] = {
    "openai": "fluxai.providers.stainless_classes:govern_stainless",
    "anthropic": "fluxai.providers.stainless_classes:govern_stainless",
    "google.genai._api_client": "fluxai.providers.genai_classes:govern_api_client",
    "google.genai._gaos.basesdk": "fluxai.providers.genai_classes:govern_generated",
    "google.genai.live": "fluxai.providers.genai_classes:close_live",
    "google.genai.live_music": "fluxai.providers.genai_classes:close_live",
}

Seam = Callable[[ModuleType, "Terms", Patches], None]

_lock = threading.Lock()
_current: list[Instrumentation] = []


class Instrumentation:
    """What `instrument()` has done, until it is undone. A context manager.

    Attributes:
        governor: Holds the budgets.
    """

    def __init__(self, terms: Terms, *, owns_governor: bool) -> None:
        self.governor = terms.governor
        self._owns_governor = owns_governor
        self._patches = Patches()
        self._watch = ImportWatch({name: partial(self._govern, terms, name) for name in SEAMS})

    def _govern(self, terms: Terms, name: str, module: ModuleType) -> None:
        home, _, function = SEAMS[name].partition(":")
        seam: Seam = getattr(import_module(home), function)
        seam(module, terms, self._patches)

    def start(self) -> None:
        """Govern the SDKs that are imported, and the others as soon as they are."""
        try:
            self._watch.start()
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Leave the SDKs as they were. Calls under way are settled all the same."""
        self._watch.stop()
        self._patches.undo()

    def close(self) -> None:
        """Undo it; may be repeated."""
        with _lock:
            if self not in _current:
                return
            _current.remove(self)
            self.undo()
        if self._owns_governor:
            self.governor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def instrument(
    governor: Governor | None = None,
    *,
    tenant: str | None = None,
    user: str | None = None,
    labels: Mapping[str, str] | None = None,
    ungoverned: Literal["refuse", "allow"] = "refuse",
) -> Instrumentation:
    """Govern every client of OpenAI, Anthropic and google-genai in this process.

    Whoever makes it: clients that exist, clients inside of frameworks and the functions of the module `openai` are
    governed like wrapped ones, and SDKs that are imported later are, too. A wrapped client counts
    once, on the terms under which it was wrapped. Other processes are not governed.

    Args:
        governor: Holds the budgets; a new one in memory by default.
        tenant: Whose budgets; otherwise that of the `subject()` or `budget()` block around a call,
            or around this function where a call's context knows of none.
        user: Which user of it.
        labels: Labels of every call.
        ungoverned: What to do with paid requests whose cost can't be told beforehand, and with web
            sockets: `"refuse"` them, or `"allow"` them to pass unseen.

    Returns:
        What undoes it: a context manager; `uninstrument()` does the same.

    Raises:
        ConfigurationError: This process is instrumented already, or `governor` is none.
        InvalidRequest: An argument is wrong.
    """
    from fluxai.governor import Governor
    from fluxai.providers.wrapping import agreed

    if governor is not None and not isinstance(governor, Governor):
        raise ConfigurationError(
            f"governor: must be a Governor, such as Governor('sqlite:///fluxai.db'), got "
            f"{type(governor).__name__}"
        )
    with _lock:
        if _current:
            raise ConfigurationError(
                "this process is instrumented already; call fluxai.uninstrument() first"
            )
        owns = governor is None
        holder = Governor() if governor is None else governor
        made = Instrumentation(agreed(holder, tenant, user, labels, ungoverned), owns_governor=owns)
        made.start()
        _current.append(made)
    return made


def uninstrument() -> None:
    """Undo `instrument()`; does nothing where that was not called."""
    for made in tuple(_current):
        made.close()
