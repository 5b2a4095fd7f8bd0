"""`fluxai prices`: what models cost, what a newer table would change, and taking it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxai.costs.table import bundled, in_use
from tests.integration.command_line import run


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Look only at this test's files, and forget which table was in use."""
    monkeypatch.delenv("FLUXAI_PRICES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    in_use.cache_clear()
    yield
    in_use.cache_clear()


def aged(path: Path, compiled: str = "2020-01-01") -> Path:
    """Write the bundled table as it was before a change of prices."""
    lines = []
    provider = ""
    shipped = Path(sys.modules[bundled.__module__].__file__ or "").parent / "data" / "prices.jsonl"
    for text in shipped.read_text("utf-8").splitlines():
        line = json.loads(text)
        provider = line.get("provider", provider)
        if "format" in line:
            line["compiled"] = compiled
        if provider == "openai" and line.get("id") == "gpt-4o":
            line["prices"][0][1]["input"] = 5_000_000_000
        lines.append(json.dumps(line, ensure_ascii=False, separators=(",", ":")))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_show_answers_for_any_spelling() -> None:
    """A model's prices, steps, fees and limits are shown, and the age of the table."""
    shown = run("prices", "show", "anthropic/claude-sonnet-4-5-20250929")
    assert shown.code == 0
    assert "anthropic / claude-sonnet-4-5" in shown.out
    assert "OVER 200,000 INPUT" in shown.out
    assert "$3.00" in shown.out
    assert bundled().compiled_on in shown.out
    model = run("prices", "show", "gpt-4o", "--tier", "batch", "--json").document["model"]
    assert (model["provider"], model["tier"]) == ("openai", "batch")
    assert model["per_million_tokens"][0]["input"] == "1.25"


def test_check_shows_that_prices_are_stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where an old price is used, its age is seen without asking for it."""
    call = ("check", "--db", "memory://", "--model", "gpt-4o", "--input-tokens", 10)
    assert run(*call, "--json").document["prices"]["stale"] is False
    assert "stale" not in run(*call).out
    monkeypatch.setenv("FLUXAI_PRICES", str(aged(tmp_path / "old.jsonl")))
    in_use.cache_clear()
    assert "These prices are stale" in run(*call).out
    assert run(*call, "--json").document["prices"]["stale"] is True


def test_show_answers_for_another_day() -> None:
    """Prices of the past are there too."""
    prices = [
        run("prices", "show", "mistral-large-latest", "--at", day, "--json").document["model"]
        for day in ("2025-07-01", "2026-07-01")
    ]
    assert [p["per_million_tokens"][0]["input"] for p in prices] == ["2", "0.5"]


def test_show_lists_a_provider() -> None:
    """All models of a provider, with input and output."""
    document = run("prices", "show", "--provider", "vertex", "--json").document
    assert document["provider"] == "google"
    assert any(model["id"] == "gemini-2.5-flash" for model in document["models"])
    assert "Groq" in run("prices", "show", "--provider", "groq").out


@pytest.mark.parametrize("arguments", [["gtp-4o-mini"], ["--provider", "nobody"]])
def test_show_says_what_it_does_not_know(arguments: list[str]) -> None:
    """An unknown model or provider is an error that helps."""
    shown = run("prices", "show", *arguments)
    assert shown.code == 1
    assert "no price" in shown.err or "no provider" in shown.err


def test_stale_prices_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of long ago says so, and what to do."""
    monkeypatch.setenv("FLUXAI_PRICES", str(aged(tmp_path / "old.jsonl")))
    assert "stale" in run("prices", "show").out
    assert run("prices", "show", "--json").document["table"]["stale"] is True


def test_diff_shows_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table in use is held against the installed library's."""
    assert "The prices are the same." in run("prices", "diff").out
    monkeypatch.setenv("FLUXAI_PRICES", str(aged(tmp_path / "old.jsonl")))
    in_use.cache_clear()
    found = run("prices", "diff", "--json").document["changes"]
    assert found == [
        {
            "provider": "openai",
            "model": "gpt-4o",
            "kind": "input",
            "before": "5",
            "after": "2.5",
        }
    ]
    assert "$5.00" in run("prices", "diff").out


def test_update_asks_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes is shown first; no means no, and yes writes a table that is then in use."""
    path = aged(tmp_path / "mine.jsonl")
    monkeypatch.setenv("FLUXAI_PRICES", str(path))
    before = path.read_bytes()
    refused = run("prices", "update", stdin="n\n")
    assert refused.code == 0
    assert "gpt-4o" in refused.out
    assert path.read_bytes() == before
    in_use.cache_clear()
    assert run("prices", "update", stdin="y\n").code == 0
    in_use.cache_clear()
    assert "The prices are the same." in run("prices", "diff").out
    assert not list(tmp_path.glob("*.new"))


def test_update_writes_to_the_users_folder(tmp_path: Path) -> None:
    """Without a name the table goes to the configuration, or to where `--to` says."""
    done = run("prices", "update", "--yes", "--json")
    assert done.document["written_to"] == str(tmp_path / "config" / "fluxai" / "prices.jsonl")
    assert Path(done.document["written_to"]).is_file()
    assert run("prices", "update", "--yes", "--to", tmp_path / "x" / "p.jsonl").code == 0
    assert (tmp_path / "x" / "p.jsonl").is_file()
    assert run("prices", "update", "--json").code == 2


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer prices come from genai-prices; showing what is known does not need it."""
    monkeypatch.setattr("fluxai.cli.prices.find_spec", lambda _: None)
    for name in ("diff", "update"):
        shown = run("prices", name)
        assert shown.code == 1
        assert "--upgrade genai-prices" in shown.err
    assert run("prices", "show", "gpt-4o").code == 0


def test_a_broken_table_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, instead of silently using other prices."""
    path = tmp_path / "broken.jsonl"
    path.write_text("{", "utf-8")
    monkeypatch.setenv("FLUXAI_PRICES", str(path))
    shown = run("prices", "show")
    assert shown.code == 1
    assert "broken.jsonl" in shown.err
