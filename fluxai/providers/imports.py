"""Work to be done right after a module is imported, whoever imports it, and whenever."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Then = Callable[[ModuleType], None]


class ImportWatch(MetaPathFinder):
    """Calls a function with each of some modules, as soon as it is imported.

    Args:
        awaited: By the full name of a module: what is called with it.
    """

    def __init__(self, awaited: Mapping[str, Then]) -> None:
        self._awaited = dict(awaited)

    def start(self) -> None:
        """Call for the modules that are there already, and watch for the others."""
        sys.meta_path.insert(0, self)
        for name, then in self._awaited.items():
            if name in sys.modules:
                # Waits where another thread is at it.
                then(import_module(name))

    def stop(self) -> None:
        """Watch no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self._awaited.clear()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find an awaited module as the other finders do, and take note when it is executed."""
        then = self._awaited.get(fullname)
        if then is None:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _ThenLoader(spec.loader, then)
                return spec
        return None


class _ThenLoader(Loader):
    """Loads by another loader, which the module then knows as its own, and calls a function."""

    def __init__(self, inner: Any, then: Then) -> None:
        self._inner = inner
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        found: ModuleType | None = self._inner.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        self._then(module)
