"""Compile the price table that ships with the package: `python -m fluxai.costs.compile`.

A development tool. It reads the data of the `genai-prices` package (MIT) and our own
`overrides.json`, and writes `prices.jsonl`: one line per provider and per model, every rate an
integer in nano-USD per million units, so that prices can be reviewed as a diff and read without
pydantic or Decimal. Lines:

    {"format": 1, "source": …, "compiled": …}
    {"provider": id, "name": …, "match": clause, "alias": clause, "fallback": [ids]}
    {"id": …, "name": …, "match": clause, "context": n, "output": n, "prices": [[when, rates], …],
     "variants": [[tier, when, rates], …]}

`when` is null, `["d", microseconds]` (from that instant on) or `["t", start_s, end_s]` (a time of
day, UTC); the last `when` that holds gives the rates. A rate is an integer, or
`[base, [start, rate], …]` where input beyond `start` tokens sets the rate of the whole request.
A clause is a text (equals), or a list whose head says how its rest is compared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

DATA = Path(__file__).parent / "data"

#: Price key of genai-prices → our kind, and how many units that price is for.
KINDS: Mapping[str, tuple[str, int]] = {
    "input_mtok": ("input", 1_000_000),
    "output_mtok": ("output", 1_000_000),
    "cache_read_mtok": ("cache_read", 1_000_000),
    "cache_write_mtok": ("cache_write_5m", 1_000_000),
    "cache_write_5m_mtok": ("cache_write_5m", 1_000_000),
    "cache_write_1h_mtok": ("cache_write_1h", 1_000_000),
    "output_reasoning_mtok": ("reasoning", 1_000_000),
    "input_audio_mtok": ("audio_in", 1_000_000),
    "output_audio_mtok": ("audio_out", 1_000_000),
    "input_image_mtok": ("image_in", 1_000_000),
    "output_image_mtok": ("image_out", 1_000_000),
    "cache_audio_read_mtok": ("cache_read_audio", 1_000_000),
    "cache_image_read_mtok": ("cache_read_image", 1_000_000),
    "input_video_mtok": ("video_in", 1_000_000),
    "output_video_mtok": ("video_out", 1_000_000),
    "output_citation_mtok": ("citation", 1_000_000),
    "input_mchars": ("characters", 1_000_000),
    "audio_hours": ("seconds", 3_600),
    "input_audio_hours": ("seconds", 3_600),
    "output_audio_hours": ("seconds_out", 3_600),
    "input_text_messages_kcount": ("message", 1_000),
    "input_document_kpages": ("page", 1_000),
    "input_annotated_document_kpages": ("annotated_page", 1_000),
    "rerank_searches_kcount": ("rerank", 1_000),
    "web_searches_kcount": ("web_search", 1_000),
    "social_searches_kcount": ("x_search", 1_000),
    "storage_searches_kcount": ("file_search", 1_000),
    "code_executions_kcount": ("code_execution", 1_000),
    "requests_kcount": ("request", 1_000),
}

Rate = int | list[Any]


def rate(price: Decimal, per: int) -> int:
    """Return nano-USD per million units, rounded up (28 of 7,994 prices are finer than that)."""
    return math.ceil(price * 10**15 / per)


def _rates(prices: Mapping[str, Any]) -> dict[str, Rate]:
    result: dict[str, Rate] = {}
    for key, price in prices.items():
        if price is None or key.startswith("_"):
            continue
        kind, per = KINDS[key]
        if hasattr(price, "tiers"):
            steps = [[tier.start, rate(tier.price, per)] for tier in price.tiers]
            result[kind] = [rate(price.base, per), *steps]
        elif isinstance(price, list):
            base, *steps = price
            result[kind] = [
                rate(Decimal(base), per),
                *([start, rate(Decimal(step), per)] for start, step in steps),
            ]
        else:
            result[kind] = rate(Decimal(price), per)
    return result


def _midnight_us(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1_000_000


def _when(constraint: Any) -> list[Any] | None:
    if constraint is None:
        return None
    if hasattr(constraint, "start_date"):
        return ["d", _midnight_us(constraint.start_date)]
    return ["t", _second_of_day(constraint.start_time), _second_of_day(constraint.end_time)]


def _second_of_day(moment: time) -> int:
    if moment.utcoffset():
        raise ValueError(f"a time of day outside UTC: {moment}")
    return moment.hour * 3600 + moment.minute * 60 + moment.second


_HEADS = {"starts_with": "^", "ends_with": "$", "contains": "~", "regex": "r"}


def _clause(clause: Any) -> Any:
    if clause is None:
        return None
    if hasattr(clause, "equals"):
        return clause.equals.lower()
    for name, head in _HEADS.items():
        if hasattr(clause, name):
            text = getattr(clause, name)
            return [head, text if head == "r" else text.lower()]
    if hasattr(clause, "or_"):
        return ["|", *(_clause(part) for part in clause.or_)]
    return ["&", *(_clause(part) for part in clause.and_)]


def _tier(when: Mapping[str, str]) -> str:
    """Name a variant: the service tier, `batch` or `fast`; others as `key=value`."""
    (key, value), *more = when.items()
    if more:
        raise ValueError(f"a variant with two conditions: {when}")
    return value if key in {"service_tier", "processing", "speed"} else f"{key}={value}"


def _model_line(provider: Provider, model: ModelInfo) -> dict[str, Any]:
    line: dict[str, Any] = {"id": model.id}
    if model.name:
        line["name"] = model.name
    match = _clause(model.match)
    if match != model.id.lower():
        line["match"] = match
    if model.context_window:
        line["context"] = model.context_window
    if model.deprecated:
        line["deprecated"] = True
    prices = model.prices
    if isinstance(prices, list):
        line["prices"] = [[_when(p.constraint), _rates(vars(p.prices))] for p in prices]
    else:
        line["prices"] = [[None, _rates(vars(prices))]]
    variants = [
        [_tier(variant.when), _when(variant.constraint), _rates(vars(variant.prices))]
        for variant in model.price_variants or ()
        if vars(variant.prices)
    ]
    if variants:
        line["variants"] = variants
    # Groq bills its transcriptions for ten seconds at least (genai-prices has it in code).
    if provider.id == "groq" and model.id.startswith("whisper-"):
        line["seconds_min"] = 10
    return line


def _overridden(line: dict[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    line = dict(line)
    for key in ("name", "match", "context", "seconds_min"):
        if key in override:
            line[key] = override[key]
    if "prices" in override:
        line["prices"] = [_dated(day, prices) for day, prices in override["prices"]]
    for day, prices in override.get("append_prices", ()):
        line["prices"] = [*line["prices"], _dated(day, prices)]
    if "add_prices" in override:
        added = _rates(override["add_prices"])
        line["prices"] = [[when, {**added, **rates}] for when, rates in line["prices"]]
    if "fees" in override:
        line["prices"] = _with_fees(line["prices"], override["fees"])
    if override.keys() & {"prices", "append_prices", "add_prices", "fees"}:
        line["source"] = f"fluxai+{override['checked']}"
    return line


def _dated(day: str | None, prices: Mapping[str, Any]) -> list[Any]:
    when = None if day is None else ["d", _midnight_us(date.fromisoformat(day))]
    return [when, _rates(prices)]


def _with_fees(prices: list[Any], fees: Mapping[str, str]) -> list[Any]:
    """Add fees in USD for one; where genai-prices has a fee of that kind, that one stays."""
    added = {kind: rate(Decimal(fee), 1) for kind, fee in fees.items()}
    return [[when, {**added, **rates}] for when, rates in prices]


def _apply(
    provider: str, lines: Iterable[dict[str, Any]], overrides: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    ours = {o["model"]: o for o in overrides["models"] if o["provider"] == provider}
    fees = [o for o in overrides["provider_fees"] if o["provider"] == provider]
    named = {model for more in fees for model in more.get("models", ())}
    for listed in lines:
        named.discard(listed["id"])
        override = ours.pop(listed["id"], None)
        if override is None:
            line = _judged(provider, listed, overrides["free"]["models"])
        else:
            line = _overridden(listed, override)
        for more in fees:
            if line["id"] in more.get("models", (line["id"],)):
                line["prices"] = _with_fees(line["prices"], more["fees"])
        yield line
    if named:
        raise ValueError(f"overrides.json names no known model: {provider} {named.pop()}")
    for model, override in ours.items():
        if "prices" not in override:
            raise ValueError(f"overrides.json names no known model: {provider} {model}")
        yield _overridden({"id": model}, override)


def _judged(
    provider: str, line: dict[str, Any], free: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Say of a model without prices whether it is free; otherwise it is unknown."""
    if any(rates for _, rates in line["prices"]):
        return line
    if line["id"].endswith(":free") or line["id"] in free.get(provider, ()):
        return {**line, "free": "free_model"}
    return {**line, "prices": []}


#: Everything that a model's line may hold, in the order in which it is written.
_LINE_KEYS = (
    "id",
    "name",
    "match",
    "context",
    "output",
    "deprecated",
    "free",
    "seconds_min",
    "source",
    "prices",
    "variants",
)

#: How LiteLLM's map prefixes the ids of a provider.
_LITELLM_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("", "anthropic/"),
    "aws": ("", "bedrock/", "us."),
    "azure": ("azure/", "azure_ai/"),
    "cerebras": ("cerebras/",),
    "cohere": ("", "cohere_chat/"),
    "deepseek": ("deepseek/",),
    "fireworks": ("fireworks_ai/",),
    "google": ("gemini/", "", "vertex_ai/"),
    "groq": ("groq/",),
    "mistral": ("mistral/",),
    "moonshotai": ("moonshot/",),
    "openai": ("", "openai/"),
    "openrouter": ("openrouter/",),
    "perplexity": ("perplexity/",),
    "together": ("together_ai/",),
    "voyageai": ("voyage/",),
    "x-ai": ("xai/",),
}


def limits_in(litellm: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what LiteLLM's map knows of our models: most output tokens, and context windows.

    genai-prices states no output limits, and a context window for 1,419 of its 2,330 models.
    """
    found: dict[str, Any] = {}
    provider = ""
    for line in lines:
        provider = line.get("provider", provider)
        if "id" not in line:
            continue
        name = line["id"].removeprefix("regional.").removesuffix("-latest")
        for prefix in _LITELLM_PREFIXES.get(provider, ()):
            entry = litellm.get(prefix + line["id"]) or litellm.get(prefix + name)
            if not entry:
                continue
            window = line.get("context") or entry.get("max_input_tokens")
            output = entry.get("max_output_tokens")
            limits: dict[str, int] = {}
            # Where the output limit is the whole window, it says nothing.
            if isinstance(output, int) and output > 0 and output != window:
                limits["output"] = output
            if "context" not in line and isinstance(window, int) and window > 0:
                limits["context"] = window
            if limits:
                found.setdefault(provider, {})[line["id"]] = limits
            break
    return found


def compiled(
    overrides: Mapping[str, Any], limits: Mapping[str, Any], *, compiled_on: date
) -> Iterator[dict[str, Any]]:
    """Yield the lines of the table."""
    from genai_prices.data import providers

    source = f"genai-prices-{version('genai-prices')}"
    yield {"format": 1, "source": source, "compiled": compiled_on.isoformat()}
    for provider in providers:
        head = {
            "provider": provider.id,
            "name": provider.name,
            "match": _clause(provider.model_match),
            "alias": _clause(provider.provider_match),
            "fallback": provider.fallback_model_providers,
        }
        yield {key: value for key, value in head.items() if value}
        lines = [_model_line(provider, model) for model in provider.models]
        outputs = overrides["outputs"]["models"].get(provider.id, {})
        for line in _apply(provider.id, lines, overrides):
            known = {**limits.get(provider.id, {}).get(line["id"], {}), **line}
            if line["id"] in outputs:
                known.setdefault("output", outputs[line["id"]])
            yield {key: known[key] for key in _LINE_KEYS if key in known}
    listed = {provider.id for provider in providers}
    for extra in sorted({o["provider"] for o in overrides["models"]} - listed):
        yield {"provider": extra, "name": extra.title()}
        yield from _apply(extra, (), overrides)


def table_text(
    overrides: Mapping[str, Any], limits: Mapping[str, Any], *, compiled_on: date
) -> str:
    """Return the table as it is written."""
    lines = compiled(overrides, limits, compiled_on=compiled_on)
    texts = (json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in lines)
    return "\n".join(texts) + "\n"


def shipped_inputs() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the overrides and the token limits that ship with the package."""
    overrides = json.loads((DATA / "overrides.json").read_text("utf-8"))
    return overrides, json.loads((DATA / "limits.json").read_text("utf-8"))["providers"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table and say how large it is."""
    parser = argparse.ArgumentParser(
        prog="python -m fluxai.costs.compile", description=main.__doc__
    )
    parser.add_argument("--output", type=Path, default=DATA / "prices.jsonl")
    parser.add_argument("--date", type=date.fromisoformat, default=datetime.now(tz=UTC).date())
    parser.add_argument(
        "--limits-from", type=Path, help="LiteLLM's price map, to write limits.json from anew"
    )
    options = parser.parse_args(arguments)
    overrides = json.loads((DATA / "overrides.json").read_text("utf-8"))
    limits_path = DATA / "limits.json"
    if options.limits_from is not None:
        litellm = json.loads(options.limits_from.read_text("utf-8"))
        found = limits_in(litellm, compiled(overrides, {}, compiled_on=options.date))
        about = "Token limits out of LiteLLM's price map (MIT), for models that genai-prices lists."
        content = {"about": about, "checked": options.date.isoformat(), "providers": found}
        limits_path.write_text(json.dumps(content, indent=0) + "\n", "utf-8")
    limits = json.loads(limits_path.read_text("utf-8"))["providers"]
    text = table_text(overrides, limits, compiled_on=options.date)
    options.output.write_text(text, "utf-8")
    lines = text.count("\n")
    sys.stdout.write(f"{options.output.name}: {lines:,} lines, {len(text):,} characters\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
