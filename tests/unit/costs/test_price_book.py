"""`PriceBook`: any spelling of an id finds the prices in force."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.errors import UnknownModel
from fluxai.costs.book import PriceBook, in_force
from fluxai.costs.table import bundled

NOW = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.fixture(scope="module")
def book() -> PriceBook:
    """Return a book over the bundled table."""
    return PriceBook()


@pytest.mark.parametrize(
    ("spelling", "provider", "model"),
    [
        ("gpt-4o", "openai", "gpt-4o"),
        ("GPT-4o", "openai", "gpt-4o"),
        (" gpt-4o ", "openai", "gpt-4o"),
        ("gpt-4o-2024-08-06", "openai", "gpt-4o"),
        ("gpt-4o-20240806", "openai", "gpt-4o"),
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("openai:gpt-4o", "openai", "gpt-4o"),
        ("azure/gpt-4o", "azure", "gpt-4o"),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "openai", "ft:gpt-4o-mini"),
        ("claude-sonnet-4-5-20250929", "anthropic", "claude-sonnet-4-5"),
        ("anthropic/claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5"),
        ("claude-opus-4-1@20250805", "anthropic", "claude-opus-4-1"),
        ("models/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("publishers/google/models/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        (
            "projects/p/locations/us-central1/publishers/google/models/gemini-2.5-flash",
            "google",
            "gemini-2.5-flash",
        ),
        ("google-gla:gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("gemini/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("vertex_ai/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        (
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "aws",
            "regional.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        (
            "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "aws",
            "regional.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        (
            "bedrock/converse/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "aws",
            "regional.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-micro-v1:0",
            "aws",
            "amazon.nova-micro-v1:0",
        ),
        ("groq/llama-3.3-70b-versatile", "groq", "llama-3.3-70b-versatile"),
        ("xai/grok-4.3", "x-ai", "grok-4.3"),
        ("openrouter/anthropic/claude-haiku-4.5", "openrouter", "anthropic/claude-haiku-4.5"),
        ("mistralai/mistral-large-latest", "mistral", "mistral-large-latest"),
    ],
)
def test_spellings(book: PriceBook, spelling: str, provider: str, model: str) -> None:
    """Whatever an SDK, a cloud or a gateway calls a model, it is the same line of the table."""
    rates = book.rates(spelling, NOW)
    assert (rates.provider, rates.model) == (provider, model)
    assert not rates.guessed


@pytest.mark.parametrize(
    ("said", "provider"),
    [
        ("google-gla", "google"),
        ("google-vertex", "google"),
        ("gemini", "google"),
        ("vertex", "google"),
        ("vertex_ai", "google"),
        ("Google", "google"),
    ],
)
def test_provider_aliases(book: PriceBook, said: str, provider: str) -> None:
    """A provider goes by several names."""
    assert book.rates("gemini-2.5-flash", NOW, provider=said).provider == provider


def test_where_a_model_runs_changes_its_price(book: PriceBook) -> None:
    """The same id may cost something else at another provider."""
    at_groq = book.rates("openai/gpt-oss-120b", NOW, provider="groq")
    at_cerebras = book.rates("gpt-oss-120b", NOW, provider="cerebras")
    assert (at_groq.provider, at_cerebras.provider) == ("groq", "cerebras")
    assert at_groq.base.input != at_cerebras.base.input


def test_a_guess_takes_the_dearest_and_says_so(book: PriceBook) -> None:
    """An id that several providers have is priced at the dearest, and flagged."""
    model = "meta-llama/llama-3.3-70b-instruct"
    guessed = book.rates(model, NOW)
    assert guessed.guessed
    line = bundled().providers["openrouter"].find(model)
    assert line is not None
    assert guessed.base.input + guessed.base.output >= sum(
        line["prices"][-1][1][kind] for kind in ("input", "output")
    )


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4oo", None),
        ("no-such-model", None),
        ("no-such-model", "openai"),
        ("", None),
        ("x" * 5000, None),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/abc", None),
        ("my-deployment", "azure"),
        ("gpt-oss:120b-cloud", "ollama"),
    ],
)
def test_unknown_is_never_zero(book: PriceBook, model: str, provider: str | None) -> None:
    """What has no price raises, each time, instead of costing nothing."""
    for _ in range(2):
        with pytest.raises(UnknownModel, match="no price is known"):
            book.rates(model, NOW, provider=provider)


def test_the_error_names_near_spellings(book: PriceBook) -> None:
    """A misspelled id is answered with what may have been meant."""
    with pytest.raises(UnknownModel, match=r"claude-sonet-4-5.*did you mean claude-sonnet-4-5"):
        book.rates("claude-sonet-4-5", NOW)


def test_a_model_listed_without_prices_is_unknown_unless_free(book: PriceBook) -> None:
    """Missing prices do not make a model free; a model that is free says why."""
    free = book.rates("google/gemma-3-27b-it:free", NOW, provider="openrouter")
    assert (free.free, free.reason, free.base.input) == (True, "free_model", 0)
    local = book.rates("llama3.2", NOW, provider="ollama")
    assert (local.free, local.reason) == (True, "local_model")
    with pytest.raises(UnknownModel):
        book.rates("google/lyria-3-pro-preview", NOW, provider="openrouter")


def _us(*date: int) -> int:
    return int(datetime(*date, tzinfo=UTC).timestamp()) * 1_000_000


def test_prices_have_dates(book: PriceBook) -> None:
    """A price cut holds from its day on, and not before."""
    before = book.rates("mistral-large-latest", _us(2025, 12, 1, 23, 59, 59))
    after = book.rates("mistral-large-latest", _us(2025, 12, 2))
    assert before.base.input == 2_000_000_000
    assert after.base.input == 500_000_000
    assert before.valid_until_us == after.valid_from_us == _us(2025, 12, 2)


def test_prices_have_times_of_day(book: PriceBook) -> None:
    """An off-peak price ends when the day's peak begins."""
    off_peak = book.rates("deepseek-flash", _us(2026, 11, 20, 0, 30))
    peak = book.rates("deepseek-flash", _us(2026, 11, 20, 1, 0))
    assert off_peak.base.input < peak.base.input
    assert off_peak.valid_until_us == _us(2026, 11, 20, 1) == peak.valid_from_us
    assert peak.valid_until_us == _us(2026, 11, 20, 4)


@given(st.sampled_from(sorted(bundled().providers)), st.randoms(), st.data())
def test_rates_hold_throughout_their_interval(provider: str, random: Any, data: Any) -> None:
    """Anywhere inside the interval the same prices are in force, and at its end others may be."""
    lines = [line for line in bundled().providers[provider].lines if line["prices"]]
    line = random.choice(lines)
    book = PriceBook()
    at_us = data.draw(st.integers(_us(2024, 1, 1), _us(2027, 1, 1)))
    rates = book.rates(line["id"], at_us, provider=provider)
    assert rates.valid_from_us <= at_us < rates.valid_until_us
    other_us = data.draw(
        st.integers(
            max(rates.valid_from_us, _us(2020, 1, 1)),
            min(rates.valid_until_us - 1, _us(2030, 1, 1)),
        )
    )
    assert in_force(line["prices"], other_us) == in_force(line["prices"], at_us)


def test_tiers(book: PriceBook) -> None:
    """A tier with prices of its own has them; another is priced as standard."""
    standard = book.rates("gpt-5", NOW)
    flex = book.rates("gpt-5", NOW, tier="flex")
    batch = book.rates("gpt-5", NOW, tier="batch")
    priority = book.rates("gpt-5", NOW, tier="priority")
    assert flex.base.input < standard.base.input < priority.base.input
    assert batch.base.input < standard.base.input
    assert (standard.tier, flex.tier) == (None, "flex")
    assert book.rates("gpt-5", NOW, tier="gold").base.input == standard.base.input


def test_own_models_come_first() -> None:
    """A model of the user's own wins, in every spelling of the bundled one, until taken out."""
    book = PriceBook()
    bundled_input = book.rates("gpt-4o", NOW).base.input
    book.put("openai", {"id": "gpt-4o", "prices": [[None, {"input": 7}]], "source": "own"})
    for spelling in ("gpt-4o", "openai/gpt-4o", "gpt-4o-2024-08-06"):
        assert book.rates(spelling, NOW).base.input == 7
    assert book.rates("gpt-4o", NOW, provider="openai").base.input == 7
    assert book.rates("gpt-4o", NOW, provider="azure").base.input == bundled_input
    book.discard("openai", "gpt-4o")
    assert book.rates("gpt-4o", NOW).base.input == bundled_input


def test_own_models_of_unlisted_providers() -> None:
    """A provider that the table does not know is as good as any."""
    book = PriceBook()
    with pytest.raises(UnknownModel):
        book.rates("house-llm", NOW)
    book.put("acme", {"id": "House-LLM", "prices": [[None, {"input": 7}]]})
    for model, provider in (("house-llm", None), ("acme/house-llm", None), ("house-llm", "acme")):
        rates = book.rates(model, NOW, provider=provider)
        assert (rates.provider, rates.base.input, rates.guessed) == ("acme", 7, False)


def test_caches_are_bounded() -> None:
    """Ids come from requests, so no number of them may fill the memory."""
    book = PriceBook()
    for n in range(4_200):
        book.rates(f"ft:gpt-4o-mini-2024-07-18:org::{n}", NOW)
    for n in range(1_100):
        with pytest.raises(UnknownModel):
            book.rates(f"zz-{n}", NOW)
    assert len(book._known) <= 4_096
    assert len(book._unknown) <= 1_024


def test_a_provider_is_read_once_by_many_threads() -> None:
    """Threads that ask for a provider at the same moment all get its whole list."""
    for _ in range(20):
        table = bundled().__class__(_text())
        start = threading.Barrier(4)
        sizes: list[int] = []

        def ask(table: Any = table, start: Any = start, sizes: Any = sizes) -> None:
            start.wait()
            found = table.providers["anthropic"].find("claude-sonnet-4-5")
            sizes.append(0 if found is None else len(table.providers["anthropic"].lines))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(sizes)) == 1
        assert sizes[0] > 10


def _text() -> str:
    from importlib.resources import files

    return (files("fluxai.costs") / "data" / "prices.jsonl").read_text("utf-8")


def test_the_table_is_small_and_dated() -> None:
    """The table stays under a megabyte, and says where it is from and when it was checked."""
    assert len(_text()) < 1_000_000
    source, _, date = bundled().version.partition("+")
    assert source.startswith("genai-prices-")
    assert datetime.now(tz=UTC).date() - datetime.fromisoformat(date).date() > timedelta(-2)


def test_a_table_of_another_format_is_refused() -> None:
    """A table of a later format is not misread."""
    with pytest.raises(ValueError, match="format 2"):
        bundled().__class__('{"format":2,"source":"x","compiled":"2026-01-01"}\n')


def test_a_tier_holds_before_its_price_was_taken_up(book: PriceBook) -> None:
    """The date of a tier's price is when the source noted it; the tier was billed before, too."""
    standard = book.rates("gpt-5", _us(2025, 11, 23))
    priority = book.rates("gpt-5", _us(2025, 11, 23), tier="priority")
    assert priority.tier == "priority"
    assert priority.base.output == 2 * standard.base.output
    assert (
        priority.base.output == book.rates("gpt-5", _us(2026, 11, 22), tier="priority").base.output
    )
