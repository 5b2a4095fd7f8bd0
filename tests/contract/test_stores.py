"""Every store passes the contract that users' stores pass."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("fluxai.testing.contract")

from fluxai.testing import StorageContract  # noqa: E402 -- after the line above


class TestMemory(StorageContract):
    """The memory store."""

    @pytest.fixture
    def storage_url(self) -> str:
        """Return the URL of a store in memory."""
        return "memory://"


class TestPostgres(StorageContract):
    """The PostgreSQL store."""

    @pytest.fixture
    def storage_url(self, postgres_url: str) -> str:
        """Return the URL of an empty database."""
        return postgres_url


class TestSqlite(StorageContract):
    """The SQLite store."""

    @pytest.fixture
    def storage_url(self, tmp_path: Path) -> str:
        """Return the URL of a new file."""
        return f"sqlite:///{tmp_path}/ledger.db"
