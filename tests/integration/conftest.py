"""Postgres stores for integration tests; ask for them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from fluxai.storage.postgres import PostgresStorage


@pytest.fixture
def ledger_url(postgres_url: str) -> str:
    """Return the URL of a database with the schema."""
    store = PostgresStorage(postgres_url)
    store.migrate()
    store.close()
    return postgres_url


@pytest.fixture
def open_store(ledger_url: str) -> Iterator[Callable[..., PostgresStorage]]:
    """Return a function that opens stores on that database; all are closed after the test."""
    with ExitStack() as opened:

        def open_one(url: str = ledger_url, **options: Any) -> PostgresStorage:
            store = PostgresStorage(url, **options)
            opened.callback(store.close)
            return store

        yield open_one


@pytest.fixture
def postgres_store(open_store: Callable[..., PostgresStorage]) -> PostgresStorage:
    """Return one store on that database."""
    return open_store()
