"""What a line of the price table says about a model, and what its name and prices show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from fluxai.models.model import PRICE_KINDS, Model, ModelTier

#: Nano-USD per million of a typical token (three of input to one of output): up to this a model is
#: `fast`, and from the other on `premium`.
_FAST_UNTIL: Final = 2_200_000_000
_PREMIUM_FROM: Final = 8_000_000_000
_FAST_WORDS: Final = re.compile(
    r"(?<![a-z])mini|nano|flash|haiku|lite|small|instant|fast|micro|tiny|-[1-9]b\b|-1[0-4]b\b"
)

_EMBEDS: Final = re.compile(r"embed|rerank|voyage-(?!.*multimodal-chat)|moderation")
_MAKES_MEDIA: Final = re.compile(
    r"gpt-image|dall-e|imagen|-image|tts|whisper|transcribe|orpheus|eleven_|veo|lyria|ocr|parakeet"
)
_SPEAKS_OR_HEARS: Final = re.compile(r"tts|whisper|transcribe|orpheus|eleven_|lyria|parakeet")
_REASONS: Final = re.compile(
    r"(^|[/.])o[134](-|$)|gpt-5|gpt-6|gpt-oss|claude-(3-7|3\.7|(opus|sonnet|haiku)-[4-9]|[4-9])"
    r"|claude-fable|gemini-(2\.5|[3-9])|deepseek-(r1|reasoner)|[-/]r1\b|grok-(3-mini|[4-9])|qwq"
    r"|magistral|thinking|reasoning|glm-(4\.[5-9]|[5-9])|kimi-k2-think|minimax-m[1-9]|nova-2"
)
_SEES: Final = re.compile(
    r"gpt-4o|gpt-4\.1|gpt-4-turbo|gpt-4-vision|gpt-5|gpt-6|(^|[/.])o[134](-|$)|claude-[3-9]"
    r"|claude-(opus|sonnet|haiku|fable)|gemini|gemma-[34]|grok-[4-9]|pixtral|llama-4|nova-(lite|pro|premier|2)"
    r"|vision|-vl\b|multimodal|llava"
)
_CODES: Final = re.compile(r"codestral|devstral|codex|coder|code-")


def typical_rate(rates: Mapping[str, Any]) -> int:
    """Return the rate of a typical token: three of input to one of output."""
    entering = _base(rates.get("input", 0))
    leaving = _base(rates.get("output", 0))
    return (3 * entering + leaving) // 4


def _base(rate: Any) -> int:
    found: int = rate if type(rate) is int else rate[0]
    return found


def tier_of(model_id: str, rates: Mapping[str, Any]) -> ModelTier:
    """Place a model by what it costs; small siblings of dear families count as fast."""
    rate = typical_rate(rates)
    if rate >= _PREMIUM_FROM:
        return "premium"
    if rate <= _FAST_UNTIL or (_FAST_WORDS.search(model_id) and rate < 2 * _FAST_UNTIL):
        return "fast"
    return "balanced"


def capabilities_of(model_id: str, rates: Mapping[str, Any]) -> frozenset[str]:
    """Say what a model is able to do, from its name and from what it prices."""
    name = model_id.lower()
    found: set[str] = set()
    if _EMBEDS.search(name) or (
        "output" not in rates and "image_out" not in rates and "input" in rates
    ):
        found.add("embedding")
        return frozenset(found)
    if "image_out" in rates:
        found.add("image_generation")
    if "audio_in" in rates or "audio_out" in rates or "seconds" in rates or "characters" in rates:
        found.add("audio")
    if _MAKES_MEDIA.search(name):
        return frozenset(found or {_media_of(name)})
    found |= {"text", "code", "tools"}
    if _SEES.search(name) or "image_in" in rates:
        found.add("image")
    if _REASONS.search(name):
        found.add("reasoning")
    return frozenset(found)


def _media_of(name: str) -> str:
    """Tell what a model is about whose prices do not: some speak, or read, at the price of text."""
    if _SPEAKS_OR_HEARS.search(name):
        return "audio"
    return "image" if "ocr" in name else "image_generation"


def _plain(price: Decimal) -> Decimal:
    """Drop trailing zeros without turning 100 into 1E+2."""
    return price.quantize(Decimal(1)) if price == price.to_integral_value() else price.normalize()


def describe(provider: str, line: Mapping[str, Any], rates: Mapping[str, Any]) -> Model:
    """Return the record of a model in the price table, at the rates in force."""
    prices: dict[str, Any] = {}
    for field, (kind, units) in PRICE_KINDS.items():
        rate = rates.get(kind)
        if rate is not None:
            prices[field] = _plain(Decimal(_base(rate)).scaleb(-15) * units)
    return Model(
        id=line["id"],
        name=line.get("name"),
        provider=provider,
        tier=tier_of(line["id"], rates),
        capabilities=capabilities_of(line["id"], rates),
        context_window=line.get("context"),
        max_output=line.get("output"),
        free=bool(line.get("free")) or not prices,
        deprecated=bool(line.get("deprecated")),
        **prices,
    )
