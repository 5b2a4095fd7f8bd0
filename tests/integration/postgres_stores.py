"""What the tests of the Postgres store share: databases with the schema, stores on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from fluxai.storage.postgres import PostgresStorage

OpenStore = Callable[..., PostgresStorage]


@pytest.fixture
def migrated_url(postgres_url: str) -> str:
    """Return the URL of a database with the schema."""
    store = PostgresStorage(postgres_url)
    store.migrate()
    store.close()
    return postgres_url


@pytest.fixture
def open_store(migrated_url: str) -> Iterator[OpenStore]:
    """Return a function that opens stores on the database; all are closed after the test."""
    with ExitStack() as opened:

        def open_one(url: str = migrated_url, **options: float) -> PostgresStorage:
            store = PostgresStorage(url, **options)  # type: ignore[arg-type]
            opened.callback(store.close)
            return store

        yield open_one


@pytest.fixture
def store(open_store: OpenStore) -> PostgresStorage:
    """Return one store."""
    return open_store()
