"""Every store passes the contract that users' stores pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.register_assert_rewrite("fluxai.testing.contract")

from fluxai.storage.base import Storage  # noqa: E402 -- after the line above
from fluxai.storage.supabase import SupabaseStorage  # noqa: E402
from fluxai.testing import StorageContract  # noqa: E402
from tests.servers.ledger import Ledger, Project  # noqa: E402


class TestMemory(StorageContract):
    """The memory store."""

    @pytest.fixture
    def storage_url(self) -> str:
        """Return the URL of a store in memory."""
        return "memory://"


class TestPostgres(StorageContract):
    """The PostgreSQL store."""

    @pytest.fixture
    def storage_url(self, ledger: Ledger) -> str:
        """Return the URL of a database without a row."""
        return ledger.url


@pytest.mark.long
class TestOldestPostgres(StorageContract):
    """The PostgreSQL store on the oldest release that is installed."""

    @pytest.fixture
    def storage_url(self, oldest_ledger: Ledger) -> str:
        """Return the URL of a database without a row."""
        return oldest_ledger.url


class TestSupabase(StorageContract):
    """The Supabase store, through a real REST server and the unmodified client."""

    @pytest.fixture
    def make_storage(self, project: Project) -> Callable[[], Storage]:
        """Return a function that opens a project without a row."""
        return lambda: SupabaseStorage(project.api.url, key=project.api.service_key)


class TestSqlite(StorageContract):
    """The SQLite store."""

    @pytest.fixture
    def storage_url(self, tmp_path: Path) -> str:
        """Return the URL of a new file."""
        return f"sqlite:///{tmp_path}/ledger.db"
