"""Postgres stores for integration tests; ask for them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fluxai.storage.postgres import PostgresStorage


def empty_store(request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL of an empty store of the kind that a test has as its parameter."""
    kind = request.param
    if kind == "postgres":
        return request.getfixturevalue("postgres_url")  # type: ignore[no-any-return]
    return f"sqlite:///{folder}/ledger.db" if kind == "sqlite" else "memory://"


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
