"""Which store a URL names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fluxai.core.errors import ConfigurationError

if TYPE_CHECKING:
    from fluxai.storage.base import Storage

_SUPPORTED = (
    "use memory://, sqlite:///file.db (relative) or sqlite:////folder/file.db (absolute), "
    "postgresql://user:password@host/database, supabase://, or pass a Storage object"
)


def open_storage(storage: Storage | str, **options: Any) -> Storage:
    """Return a store: the one given, or the one that a URL names.

    Args:
        storage: A store, which is returned as it is, or a URL.
        options: What the store's constructor takes beside its URL, such as `busy_timeout_s`.

    Raises:
        ConfigurationError: The URL names no known kind of store, or the kind has no such option.
    """
    if not isinstance(storage, str):
        if not callable(getattr(storage, "reserve_one", None)):
            raise ConfigurationError(
                f"storage: a {type(storage).__name__} is no store; {_SUPPORTED}"
            )
        if options:
            raise ConfigurationError(
                f"storage: {', '.join(options)} can't be given with a store that is open already"
            )
        return storage
    scheme, separator, rest = storage.partition(":")
    kind: Any
    arguments: tuple[str, ...]
    if storage in ("memory:", "memory://"):
        from fluxai.storage.memory import MemoryStorage

        kind, arguments = MemoryStorage, ()
    elif scheme in ("sqlite", "sqlite+pysqlite") and separator:
        from fluxai.storage.sqlite import SqliteStorage

        kind, arguments = SqliteStorage, (storage,)
    elif scheme.partition("+")[0] in ("postgresql", "postgres") and separator:
        from fluxai.storage.postgres import PostgresStorage

        kind, arguments = PostgresStorage, (storage,)
    elif scheme == "supabase" and separator:
        from fluxai.storage.supabase import SupabaseStorage

        kind, arguments = SupabaseStorage, (storage,)
    elif not separator or not rest.startswith("//"):
        raise ConfigurationError(f"storage: {storage!r:.80} is no URL; {_SUPPORTED}")
    else:
        # Only the scheme is shown: what follows may hold a password.
        raise ConfigurationError(f"storage: no store is known by {scheme + '://'!r}; {_SUPPORTED}")
    try:
        opened: Storage = kind(*arguments, **options)
    except TypeError as error:
        raise ConfigurationError(f"storage: {scheme}:// {error}") from error
    return opened
