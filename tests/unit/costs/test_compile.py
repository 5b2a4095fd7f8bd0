"""The table that ships is what its sources say."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
from genai_prices.data import providers
from genai_prices.types import ModelPrice, TieredPrices
from hypothesis import given
from hypothesis import strategies as st

from fluxai.costs import compile as compiling
from fluxai.costs.book import PriceBook
from fluxai.costs.compile import KINDS, compiled, limits_in, main, rate
from fluxai.costs.table import bundled, matcher

DATA = files("fluxai.costs") / "data"
OVERRIDES = json.loads((DATA / "overrides.json").read_text("utf-8"))
LIMITS = json.loads((DATA / "limits.json").read_text("utf-8"))["providers"]
OURS = {(entry["provider"], entry["model"]) for entry in OVERRIDES["models"]}
MODELS = [(p, m) for p in providers for m in p.models if (p.id, m.id) not in OURS]


def test_the_shipped_table_is_up_to_date() -> None:
    """Compiling again gives the file that ships: nobody edited it, nobody forgot to."""
    day = date.fromisoformat(bundled().compiled_on)
    lines = [
        json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        for line in compiled(OVERRIDES, LIMITS, compiled_on=day)
    ]
    assert (DATA / "prices.jsonl").read_text("utf-8").splitlines() == lines


def _base(price: Decimal | TieredPrices) -> Decimal:
    return price.base if isinstance(price, TieredPrices) else price


@given(
    st.sampled_from(MODELS),
    st.datetimes(datetime(2023, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001 -- bounds are naive
    st.sampled_from([None, "batch", "flex", "priority", "fast"]),
)
def test_prices_in_force_are_the_sources(entry: Any, at: datetime, tier: str | None) -> None:
    """At any time and tier every price is the source's own, to the last digit it can hold."""
    provider, model = entry
    at = at.replace(tzinfo=UTC)
    contexts: list[dict[str, str] | None] = [None]
    if tier is not None:
        contexts = [{key: tier} for key in ("service_tier", "processing", "speed")]
    wanted = [model.get_prices(at, context) for context in contexts]
    standard = model.get_prices(at)
    prices: ModelPrice = next((p for p in wanted if p != standard), standard)
    line = next(n for n in bundled().providers[provider.id].lines if n["id"] == model.id)
    if not line["prices"] or line.get("free"):
        assert not vars(prices)
        return
    at_us = int(at.timestamp()) * 1_000_000
    starts = [when[1] for label, when, _ in line.get("variants", ()) if label == tier and when]
    found = PriceBook()._rates((provider.id, line, False), at_us, tier)
    if starts and at_us < min(starts):
        assert (
            found.tier == tier
        )  # see test_price_book: the first known price of a tier holds before
        return
    for key, price in vars(prices).items():
        kind, per = KINDS[key]
        expected = rate(_base(price), per)
        assert (getattr(found.base, kind, None) or found.fees.get(kind)) == (
            expected or None
        ) or kind in {"cache_read_audio", "cache_read_image", "video_in", "video_out"}


@given(st.sampled_from(MODELS))
def test_every_model_is_found_by_its_own_id(entry: Any) -> None:
    """The id that a provider's list gives finds that very line."""
    provider, model = entry
    table = bundled()
    found = table.find(table.providers[provider.id], model.id.lower())
    assert found is not None
    assert found[1]["id"].lower() == model.id.lower()


@given(st.sampled_from(MODELS), st.sampled_from(["", "-2025-01-01", "-latest", ":free", "-v1:0"]))
def test_matching_is_the_sources(entry: Any, ending: str) -> None:
    """A compiled clause matches exactly the ids that its source matches."""
    provider, model = entry
    line = next(n for n in bundled().providers[provider.id].lines if n["id"] == model.id)
    ours = matcher(line.get("match", line["id"].lower()))
    for text in (model.id.lower() + ending, f"us.{model.id.lower()}"):
        assert ours(text) == model.is_match(text)


def test_rates_round_up() -> None:
    """A price finer than the table holds is rounded up, never to zero."""
    assert rate(Decimal("2.5"), 1_000_000) == 2_500_000_000
    assert rate(Decimal("0.0000000001"), 1_000_000) == 1
    assert rate(Decimal("0.36"), 3_600) == 100_000_000_000


def test_every_override_says_why_and_from_where() -> None:
    """What differs from the source is documented with a reason, a source and a date."""
    for entry in (*OVERRIDES["models"], *OVERRIDES["provider_fees"]):
        assert entry["why"]
        assert entry["source"]
        date.fromisoformat(entry["checked"])


def test_known_stale_prices_are_corrected() -> None:
    """The aliases that the source has stale prices for have the new ones."""
    at_us = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp()) * 1_000_000
    large = PriceBook().rates("mistral-large-latest", at_us)
    assert (large.base.input, large.base.output) == (500_000_000, 1_500_000_000)
    for model in ("deepseek-chat", "deepseek-reasoner"):
        base = PriceBook().rates(model, at_us).base
        assert (base.input, base.cache_read, base.output) == (280_000_000, 28_000_000, 420_000_000)


def test_an_override_of_nothing_is_refused() -> None:
    """An override that names no model, and brings no prices, is a spelling mistake."""
    wrong = {
        **OVERRIDES,
        "models": [{"provider": "openai", "model": "gpt-4oo", "checked": "2026-01-01"}],
    }
    with pytest.raises(ValueError, match="gpt-4oo"):
        list(compiled(wrong, {}, compiled_on=date(2026, 1, 1)))


def test_limits_from_another_map() -> None:
    """Token limits are taken where the other map knows the model, and where they say something."""
    lines = [
        {"provider": "anthropic"},
        {"id": "claude-x-latest", "prices": []},
        {"id": "claude-y", "context": 100, "prices": []},
        {"provider": "nobody"},
        {"id": "z", "prices": []},
    ]
    other = {
        "claude-x": {"max_input_tokens": 200, "max_output_tokens": 50},
        "anthropic/claude-y": {"max_input_tokens": 90, "max_output_tokens": 100},
    }
    assert limits_in(other, lines) == {
        "anthropic": {"claude-x-latest": {"output": 50, "context": 200}}
    }


def test_the_command_writes_the_table(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The developer's command writes a table that can be read."""
    output = tmp_path / "prices.jsonl"
    assert main(["--output", str(output), "--date", "2026-01-02"]) == 0
    assert "prices.jsonl" in capsys.readouterr().out
    table = bundled().__class__(output.read_text("utf-8"))
    assert table.compiled_on == "2026-01-02"
    assert set(table.providers) == set(bundled().providers)


def test_limits_can_be_read_anew(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of limits is written from another map on demand, and used at once."""
    for name in ("overrides.json", "limits.json"):
        (tmp_path / name).write_text((DATA / name).read_text("utf-8"), "utf-8")
    other = tmp_path / "map.json"
    other.write_text(json.dumps({"gpt-4o": {"max_output_tokens": 77}}), "utf-8")
    monkeypatch.setattr(compiling, "DATA", tmp_path)
    output = tmp_path / "prices.jsonl"
    assert main(["--output", str(output), "--limits-from", str(other)]) == 0
    assert capsys.readouterr().out
    table = bundled().__class__(output.read_text("utf-8"))
    found = table.providers["openai"].find("gpt-4o")
    assert found is not None
    assert found["output"] == 77
