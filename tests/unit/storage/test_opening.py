"""Which store a URL opens, and what is said where it opens none."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxai.core.errors import ConfigurationError
from fluxai.storage.memory import MemoryStorage
from fluxai.storage.opening import open_storage
from fluxai.storage.sqlite import SqliteStorage


def test_memory_urls_open_a_memory_store_with_its_options() -> None:
    """`memory://` keeps all in memory, as many events as asked for."""
    assert isinstance(open_storage("memory://"), MemoryStorage)
    assert isinstance(open_storage("memory://", memory_events=10), MemoryStorage)


def test_sqlite_urls_are_relative_or_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three slashes name a file in the working folder at that time, four an absolute one."""
    monkeypatch.chdir(tmp_path)
    relative = open_storage("sqlite:///near.db", busy_timeout_s=1)
    absolute = open_storage(f"sqlite:///{tmp_path / 'far.db'}")
    assert isinstance(relative, SqliteStorage)
    assert isinstance(absolute, SqliteStorage)
    monkeypatch.chdir("/")
    for store in (relative, absolute):
        store.migrate()
        store.close()
    assert {path.name for path in tmp_path.glob("*.db")} == {"near.db", "far.db"}
    assert relative.url == f"sqlite:///{tmp_path / 'near.db'}"
    assert relative.spool_path == f"{tmp_path / 'near.db'}.spool"


def test_a_store_is_returned_as_it_is() -> None:
    """Whoever has a store already may pass it."""
    store = MemoryStorage()
    assert open_storage(store) is store


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("fluxai.db", "is no URL"),
        ("/var/fluxai.db", "is no URL"),
        ("", "is no URL"),
        ("mysql://host/db", "'mysql://'"),
        ("memory://x", "'memory://'"),
        ("sqlite://", "use memory://"),
        ("sqlite:///", "use memory://"),
        ("sqlite:///:memory:", "use memory://"),
        ("sqlite:///file::memory:", "use memory://"),
        ("sqlite://host/file.db", "no SQLite URL"),
        ("sqlite:file.db", "no SQLite URL"),
        ("sqlite:///file.db?mode=ro", "options after"),
    ],
)
def test_any_other_url_is_refused_with_what_would_be_right(url: str, said: str) -> None:
    """An error names what is wrong and the URLs that work, but never a password."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)
    assert "memory" in str(caught.value) or "sqlite:///" in str(caught.value)


def test_what_is_no_store_and_no_option_is_refused() -> None:
    """A wrong object, an unknown option, or options for an open store are configuration errors."""
    with pytest.raises(ConfigurationError, match="int is no store"):
        open_storage(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="pool_size"):
        open_storage("sqlite:///file.db", pool_size=3)
    with pytest.raises(ConfigurationError, match="open already"):
        open_storage(MemoryStorage(), memory_events=3)


@pytest.mark.parametrize("seconds", [-1, 1e9, float("nan"), "5", None, True])
def test_a_time_out_that_makes_no_sense_is_refused(seconds: object) -> None:
    """The time to wait for another program is a number of seconds, up to an hour."""
    with pytest.raises(ConfigurationError, match="busy_timeout_s: must be seconds"):
        open_storage("sqlite:///file.db", busy_timeout_s=seconds)
