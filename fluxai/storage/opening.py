"""Which store a URL names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxai.core.errors import ConfigurationError

if TYPE_CHECKING:
    from fluxai.storage.base import Storage


def open_storage(storage: Storage | str) -> Storage:
    """Return a store: the one given, or the one that a URL names.

    Raises:
        ConfigurationError: The URL names no known kind of store.
    """
    if not isinstance(storage, str):
        return storage
    if storage in ("memory://", "memory:"):
        from fluxai.storage.memory import MemoryStorage

        return MemoryStorage()
    if storage.startswith("sqlite:"):
        from fluxai.storage.sqlite import SqliteStorage

        return SqliteStorage(storage)
    raise ConfigurationError(
        f"storage: {storage.split(':', 1)[0]!r} is no known kind of store; use memory:// or "
        f"sqlite:///file.db"
    )
