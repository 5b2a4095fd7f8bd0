"""Read a provider's response: its usage, and whatever else its price depends on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from fluxai.core.usage import Usage
from fluxai.costs.bodies import NO_USAGE, read_usage
from fluxai.costs.counts import Counts
from fluxai.costs.names import provider_name
from fluxai.costs.plain import decoded, fields, get, opened
from fluxai.costs.quick import quick_message, quick_usage
from fluxai.costs.streams import calls, merged, unwrapped


class Reading:
    """What a response says about its own price.

    Attributes:
        usage: What was used.
        provider: Whose response it is, as told or as its shape shows; else `None`.
        model: The model that answered, as the response writes it; else `None`.
        model_inferred: The model is not named, but only this one answers in that shape.
        at_us: When it was made, in microseconds since the epoch; else `None`.
        tier: The service tier it was served at, where that changes prices; else `None`.
    """

    __slots__ = ("at_us", "model", "model_inferred", "provider", "tier", "usage")

    def __init__(
        self,
        usage: Usage,
        *,
        provider: str | None = None,
        model: str | None = None,
        model_inferred: bool = False,
        at_us: int | None = None,
        tier: str | None = None,
    ) -> None:
        self.usage = usage
        self.provider = provider
        self.model = model
        self.model_inferred = model_inferred
        self.at_us = at_us
        self.tier = tier


def read(response: object, provider: str | None = None) -> Reading:
    """Read a response object, dict, JSON text or bytes, or a list of stream chunks.

    Never raises: what can't be read is a usage of zero, flagged `no_usage`.
    """
    said = provider_name(provider) if provider else None
    if isinstance(response, Usage):
        return Reading(response, provider=said)
    if isinstance(response, (str, bytes, bytearray, memoryview)):
        response = decoded(response)
    if type(response) is dict:
        quick = quick_usage(response)
        if quick is not None:
            return Reading(quick[1], provider=said, model=quick[0], at_us=_created(response))
        quick = quick_message(response)
        if quick is not None:
            return Reading(quick[1], provider=said or "anthropic", model=quick[0])
    response = opened(response)
    separate, tier = calls(response)
    if separate:
        return _together([_read(body, said) for body in separate], tier)
    if isinstance(response, (list, tuple)):
        response = merged(response)
    reading = _read(response, said)
    if NO_USAGE in reading.usage.flags:
        # An HTTP response, or a raw response of an SDK: what it says is in its body.
        content = get(response, "content")
        if isinstance(content, bytes):
            return read(content, provider)
    return reading


def _read(body: object, said: str | None) -> Reading:
    counts = Counts()
    body = unwrapped(body)
    shown = read_usage(body, counts)
    usage = Usage.trusted(counts.kinds)
    if usage.is_zero and not counts.flags and not _has_number(get(body, "usage"), 0):
        # A usage that states no number at all is not a usage of zero.
        counts.flag(NO_USAGE)
    if counts.flags:
        counts.kinds["flags"] = tuple(counts.flags)
        usage = Usage.trusted(counts.kinds)
    model = _model(body)
    inferred = None
    if model is None and usage.seconds and not usage.total and said in {None, "openai", "azure"}:
        # OpenAI bills by duration for this model alone; the newer ones state tokens.
        inferred = "whisper-1"
    return Reading(
        usage,
        provider=said or shown or _witness(body),
        model=model or inferred,
        model_inferred=inferred is not None,
        at_us=_created(body),
        tier=_tier(body),
    )


def _has_number(shown: object, depth: int) -> bool:
    """Say whether a field called `usage` states any number; True where there is no such field."""
    if depth == 0 and shown is None:
        return True
    if isinstance(shown, (int, float, Decimal)):
        return not isinstance(shown, bool)
    if isinstance(shown, str):
        return shown.strip().lstrip("+-").replace(".", "", 1).isdigit()
    if depth > _DEPTH_MAX:
        return True
    return any(_has_number(value, depth + 1) for value in fields(shown).values())


def _together(readings: list[Reading], tier: str | None) -> Reading:
    """Return separate calls as one reading, each with its own model."""
    stated = [r for r in readings if NO_USAGE not in r.usage.flags] or readings[:1]
    total = stated[0].usage
    models = {reading.model for reading in stated}
    only = models.pop() if len(models) == 1 else None
    if len(stated) > 1:
        for reading in stated[1:]:
            total = total + reading.usage
        parts = tuple((None if only else r.model, r.usage) for r in stated)
        total = total.replaced(parts=parts)
    first = stated[0]
    return Reading(
        total,
        provider=first.provider,
        model=only or next((r.model for r in stated if r.model is not None), None),
        at_us=first.at_us,
        tier=tier or first.tier,
    )


def _model(body: object) -> str | None:
    model = get(body, "model", "modelVersion", "model_version", "modelId")
    if model is None:
        # boto3 says nothing of the model; an agent's trace does.
        model = get(get(body, "modelInvocationInput"), "foundationModel")
    return model if isinstance(model, str) and model else None


def _witness(body: object) -> str | None:
    """Return the provider that something besides the usage betrays."""
    made_by = get(body, "provider")
    identity = get(body, "id")
    if isinstance(made_by, str) and isinstance(identity, str) and identity.startswith("gen-"):
        return "openrouter"
    if get(body, "x_groq") is not None:
        return "groq"
    usage = fields(get(body, "usage"))
    if "cost_in_usd_ticks" in usage or "num_server_side_tools_used" in usage:
        return "x-ai"
    return "deepseek" if "prompt_cache_hit_tokens" in usage else None


_DEPTH_MAX: Final = 4
_MICROS: Final = 1_000_000
#: The years that a response can be from: 2015 to 2100.
_EARLIEST_S: Final = 1_420_070_400
_LATEST_S: Final = 4_102_444_800


def _created(body: object) -> int | None:
    created = get(body, "created", "created_at", "createTime", "create_time")
    if isinstance(created, bool):
        return None
    if isinstance(created, (int, float, Decimal)):
        if _EARLIEST_S <= created <= _LATEST_S:
            return int(created * _MICROS)
        return None
    if isinstance(created, str):
        try:
            created = datetime.fromisoformat(created)
        except ValueError:
            return None
    if isinstance(created, datetime) and created.tzinfo is not None:
        seconds = created.timestamp()
        if _EARLIEST_S <= seconds <= _LATEST_S:
            return int(seconds) * _MICROS + created.microsecond
    return None


#: How providers write the tiers that have prices of their own.
_TIERS: Final[Mapping[str, str]] = {
    "batch": "batch",
    "flex": "flex",
    "priority": "priority",
    "fast": "fast",
    "on_demand_flex": "flex",
    "on_demand_priority": "priority",
}


def tier_name(name: object) -> str | None:
    """Return our name of a service tier; `None` for the standard one and for unknown ones."""
    name = getattr(name, "value", name)
    if not isinstance(name, str):
        name = get(name, "type") if isinstance(name, Mapping) else None
        if not isinstance(name, str):
            return None
    name = name.lower()
    return _TIERS.get(name) or _TIERS.get(name.removeprefix("service_tier_"))


def _tier(body: object) -> str | None:
    if get(body, "object") == "batch":
        return "batch"
    stated = get(body, "service_tier", "serviceTier")
    found = tier_name(stated) if stated is not None else None
    if found is None:
        usage: Any = fields(get(body, "usage", "usageMetadata", "usage_metadata"))
        if not _TIER_NAMES.isdisjoint(usage):
            for name in _TIER_FIELDS:
                stated = usage.get(name)
                if stated is not None:
                    found = found or tier_name(stated)
    return found


_TIER_FIELDS: Final = (
    "speed",
    "service_tier",
    "serviceTier",
    "trafficType",
    "traffic_type",
)
_TIER_NAMES: Final = frozenset(_TIER_FIELDS)
