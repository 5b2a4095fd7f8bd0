"""Which price table is in use, how old it is, and what differs between two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from fluxai.core.errors import ConfigurationError
from fluxai.costs.changes import Change, changes
from fluxai.costs.table import PriceTable, bundled, in_use, read_table, user_file

HEAD = {"format": 1, "source": "test-1", "compiled": "2026-11-01"}
AT_US = 1_790_000_000_000_000


def table(*lines: dict[str, object], compiled: str = "2026-11-01") -> str:
    """Write a table of one provider."""
    head = [{**HEAD, "compiled": compiled}, {"provider": "acme", "name": "Acme"}]
    return "\n".join(json.dumps(line, separators=(",", ":")) for line in [*head, *lines]) + "\n"


def line(model: str, **rates: object) -> dict[str, object]:
    """Write a model's line."""
    return {"id": model, "prices": [[None, rates]]}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Look only at this test's files, and forget which table was in use."""
    monkeypatch.delenv("FLUXAI_PRICES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    in_use.cache_clear()
    yield
    in_use.cache_clear()


def test_the_bundled_table_is_in_use() -> None:
    """Without a file of the user's, prices are those that ship."""
    assert in_use() is bundled()


@pytest.mark.parametrize(("compiled", "own"), [("2099-01-01", True), ("2020-01-01", False)])
def test_a_newer_file_of_the_users_wins(compiled: str, own: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    """What `fluxai prices update` wrote counts until a newer release ships newer prices."""
    user_file().parent.mkdir()
    user_file().write_text(table(line("m", input=1), compiled=compiled), "utf-8")
    assert (in_use().version == f"test-1+{compiled}") is own


def test_a_named_file_is_used_whatever_its_age(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`FLUXAI_PRICES` says which prices hold."""
    path = tmp_path / "mine.jsonl"
    path.write_text(table(line("m", input=1), compiled="2020-01-01"), "utf-8")
    monkeypatch.setenv("FLUXAI_PRICES", str(path))
    assert in_use().compiled_on == "2020-01-01"


def test_stale_prices_are_logged_when_they_are_first_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that nobody asks for the age of its prices says so by itself, once."""
    path = tmp_path / "mine.jsonl"
    path.write_text(table(line("m", input=1), compiled="2020-01-01"), "utf-8")
    monkeypatch.setenv("FLUXAI_PRICES", str(path))
    for _ in range(2):
        in_use()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "days old" in caplog.text


@pytest.mark.parametrize(
    "text", [None, "", "{}", '{"format": 2, "source": "", "compiled": ""}\n', "x"]
)
def test_a_file_that_is_no_table_is_an_error(tmp_path: Path, text: str | None) -> None:
    """It is named, and never silently replaced by other prices."""
    path = tmp_path / "broken.jsonl"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(ConfigurationError, match=r"broken\.jsonl"):
        read_table(path)


def test_age_is_counted_in_days() -> None:
    """Prices of the first are twenty days old on the twenty-first."""
    assert PriceTable(table(line("m", input=1))).age_days(date(2026, 11, 21)) == 20


def test_every_difference_is_found() -> None:
    """Prices that changed, came and went, those of steps and tiers too."""
    old = PriceTable(
        table(
            line("same", input=1, output=2),
            line("gone", input=5),
            {
                **line("dear", input=[3, [200_000, 6]], output=9),
                "variants": [["batch", None, {"input": 1}]],
            },
        )
    )
    new = PriceTable(
        table(
            line("same", input=1, output=2),
            {
                **line("dear", input=[3, [200_000, 7]], output=8, cache_read=1),
                "variants": [["batch", None, {"input": 2}]],
            },
            line("new", output=4),
        )
    )
    assert list(changes(old, old, AT_US)) == []
    assert list(changes(old, new, AT_US)) == [
        Change("acme", "dear", "input over 200,000", 6, 7),
        Change("acme", "dear", "output", 9, 8),
        Change("acme", "dear", "batch input", 1, 2),
        Change("acme", "dear", "cache_read", None, 1),
        Change("acme", "gone", "model", 5, None),
        Change("acme", "new", "model", None, 4),
    ]
