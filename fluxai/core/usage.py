"""What one call used: a disjoint partition of its tokens, and what else it is billed by."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from fluxai.core.errors import InvalidRequest

INPUT_KINDS: Final = (
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "audio_in",
    "image_in",
)
OUTPUT_KINDS: Final = ("output", "reasoning", "audio_out", "image_out")
#: The partition: every token of a call is in exactly one of these.
TOKEN_KINDS: Final = (
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_in",
    "audio_out",
    "image_in",
    "image_out",
)
#: Finer kinds that some models price apart, each already counted in the kind it names here.
DETAIL_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cache_read_audio": "cache_read",
        "cache_read_image": "cache_read",
        "video_in": "image_in",
        "video_out": "image_out",
    }
)
#: More than any provider could report for one call; a larger number is a mistake, not a bill.
MAX_COUNT: Final = 10**12

#: What a sum of calls may reach: the largest whole number that every JSON reader keeps.
SUM_MAX: Final = 2**53

_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
_SLOTS: Final = (
    *TOKEN_KINDS,
    "details",
    "requests",
    "seconds",
    "characters",
    "provider_cost",
    "flags",
    "parts",
)


class Usage:
    """Tokens by kind, disjoint, and the other quantities that a call is billed by.

    Read-only by convention: it is made on the path of every call, where frozen would cost more than
    the rest of the work.

    Attributes:
        input: Fresh text input, without cached, audio and image tokens.
        cache_read: Input tokens read from a cache, of any modality.
        cache_write_5m: Input tokens written to a cache for five minutes, or for no stated time.
        cache_write_1h: Input tokens written to a cache for an hour.
        output: Text output, without reasoning.
        reasoning: Output spent on thinking.
        audio_in: Audio input that was not cached.
        audio_out: Audio output.
        image_in: Image and video input that was not cached.
        image_out: Image and video output.
        details: Finer kinds (`DETAIL_OF`), each already counted in one of the above.
        requests: Fee kind to count, such as `{"web_search": 2}`.
        seconds: Billed seconds of audio or video, where a provider bills those.
        characters: Billed characters, where a provider bills those.
        provider_cost: USD that the provider itself reported for this call.
        flags: What was odd about the source, such as `no_usage` or `clamped`.
        parts: `(model, usage)` of the steps that are priced on their own, which sum to this usage;
            a model of `None` is the call's own. Empty for almost every call.
    """

    __slots__ = (*_SLOTS, "plain")

    input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output: int
    reasoning: int
    audio_in: int
    audio_out: int
    image_in: int
    image_out: int
    details: Mapping[str, int]
    requests: Mapping[str, int]
    seconds: Decimal | int
    characters: int
    provider_cost: Decimal | None
    flags: tuple[str, ...]
    parts: tuple[tuple[str | None, Usage], ...]
    #: Only text, cached or not, thought or not: most calls, which then cost less to price.
    plain: bool

    def __init__(
        self,
        *,
        input: int = 0,  # noqa: A002 -- the name that users read in bills and in our documents
        cache_read: int = 0,
        cache_write_5m: int = 0,
        cache_write_1h: int = 0,
        output: int = 0,
        reasoning: int = 0,
        audio_in: int = 0,
        audio_out: int = 0,
        image_in: int = 0,
        image_out: int = 0,
        details: Mapping[str, int] | None = None,
        requests: Mapping[str, int] | None = None,
        seconds: Decimal | int = 0,
        characters: int = 0,
        provider_cost: Decimal | str | int | None = None,
        flags: tuple[str, ...] = (),
        parts: tuple[tuple[str | None, Usage], ...] = (),
    ) -> None:
        """Check and keep the counts.

        Raises:
            InvalidRequest: A count is negative, absurd, a bool, a float or NaN. Names the field.
        """
        self.input = _count("input", input)
        self.cache_read = _count("cache_read", cache_read)
        self.cache_write_5m = _count("cache_write_5m", cache_write_5m)
        self.cache_write_1h = _count("cache_write_1h", cache_write_1h)
        self.output = _count("output", output)
        self.reasoning = _count("reasoning", reasoning)
        self.audio_in = _count("audio_in", audio_in)
        self.audio_out = _count("audio_out", audio_out)
        self.image_in = _count("image_in", image_in)
        self.image_out = _count("image_out", image_out)
        self.details = _counts("details", details)
        self.requests = _counts("requests", requests)
        self.seconds = _seconds(seconds)
        self.characters = _count("characters", characters)
        self.provider_cost = _cost(provider_cost)
        self.flags = tuple(flags)
        self.parts = tuple(parts)
        self.plain = _is_plain(self)
        for kind in self.details:
            if kind not in DETAIL_OF:
                known = ", ".join(DETAIL_OF)
                raise InvalidRequest("details", f"{kind!r} is not one of {known}")

    @classmethod
    def trusted(cls, counts: Mapping[str, Any]) -> Usage:
        """Build from counts that were checked already; missing ones are zero. Internal and fast."""
        usage = object.__new__(cls)
        get = counts.get
        usage.input = get("input", 0)
        usage.cache_read = get("cache_read", 0)
        usage.cache_write_5m = get("cache_write_5m", 0)
        usage.cache_write_1h = get("cache_write_1h", 0)
        usage.output = get("output", 0)
        usage.reasoning = get("reasoning", 0)
        usage.audio_in = get("audio_in", 0)
        usage.audio_out = get("audio_out", 0)
        usage.image_in = get("image_in", 0)
        usage.image_out = get("image_out", 0)
        usage.details = get("details", _NOTHING)
        usage.requests = get("requests", _NOTHING)
        usage.seconds = get("seconds", 0)
        usage.characters = get("characters", 0)
        usage.provider_cost = get("provider_cost")
        usage.flags = get("flags", ())
        usage.parts = get("parts", ())
        usage.plain = _is_plain(usage)
        return usage

    @classmethod
    def of_text(cls, input: int, cache_read: int, output: int, reasoning: int) -> Usage:  # noqa: A002
        """Build a usage of text alone, from counts that were checked already. Internal and fast."""
        usage = object.__new__(cls)
        usage.input = input
        usage.cache_read = cache_read
        usage.output = output
        usage.reasoning = reasoning
        usage.cache_write_5m = usage.cache_write_1h = 0
        usage.audio_in = usage.audio_out = usage.image_in = usage.image_out = 0
        usage.details = usage.requests = _NOTHING
        usage.seconds = usage.characters = 0
        usage.provider_cost = None
        usage.flags = usage.parts = ()
        usage.plain = True
        return usage

    def replaced(self, **fields: Any) -> Usage:
        """Return the same usage with some fields of other values."""
        return Usage.trusted({**{slot: getattr(self, slot) for slot in _SLOTS}, **fields})

    @classmethod
    def parse(cls, response: object, provider: str | None = None) -> Usage:
        """Read the usage that a provider reported.

        Args:
            response: A response object of a provider's SDK, a dict, JSON text or bytes, or the list
                of a stream's chunks in the order they came.
            provider: Whose response it is, where the shape alone does not say.

        Returns:
            The usage. Odd numbers are clamped and flagged `clamped`; a response that states no
            usage gives zero, flagged `no_usage`. Never raises.
        """
        # The parser lives with the provider shapes; this is its public spelling.
        from fluxai.costs.reading import read

        return read(response, provider).usage

    @property
    def cache_write(self) -> int:
        """Tokens written to a cache, for any time."""
        return self.cache_write_5m + self.cache_write_1h

    @property
    def input_total(self) -> int:
        """All input tokens: the size of the request that providers' price steps go by."""
        return (
            self.input
            + self.cache_read
            + self.cache_write_5m
            + self.cache_write_1h
            + self.audio_in
            + self.image_in
        )

    @property
    def output_total(self) -> int:
        """All output tokens."""
        return self.output + self.reasoning + self.audio_out + self.image_out

    @property
    def total(self) -> int:
        """All tokens."""
        if self.plain:
            return self.input + self.cache_read + self.output + self.reasoning
        return self.input_total + self.output_total

    @property
    def is_zero(self) -> bool:
        """Whether nothing that could be billed was used."""
        if self.input or self.output:  # nearly always, and this is asked for every response
            return False
        return not (self.total or self.seconds or self.characters or any(self.requests.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return the non-zero fields as JSON-safe values; `from_dict` reads them back."""
        result: dict[str, Any] = {}
        for kind in TOKEN_KINDS:
            count = getattr(self, kind)
            if count:
                result[kind] = count
        if self.details:
            result["details"] = dict(self.details)
        if self.requests:
            result["requests"] = dict(self.requests)
        if self.seconds:
            whole = isinstance(self.seconds, int)
            result["seconds"] = self.seconds if whole else str(self.seconds)
        if self.characters:
            result["characters"] = self.characters
        if self.provider_cost is not None:
            result["provider_cost"] = str(self.provider_cost)
        if self.flags:
            result["flags"] = list(self.flags)
        if self.parts:
            result["parts"] = [[model, part.to_dict()] for model, part in self.parts]
        return result

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Usage:
        """Read what `to_dict` wrote.

        Raises:
            InvalidRequest: A value is not what `to_dict` writes. Names the field.
        """
        unknown = sorted(set(values) - set(_SLOTS))
        if unknown:
            raise InvalidRequest(unknown[0], "is not a field of Usage")
        # Sums of many calls are written too, so the limit of a single call does not apply.
        fields: dict[str, Any] = {
            kind: _count(kind, values[kind], SUM_MAX)
            for kind in (*TOKEN_KINDS, "characters")
            if kind in values
        }
        fields["details"] = _counts("details", values.get("details"), SUM_MAX)
        fields["requests"] = _counts("requests", values.get("requests"), SUM_MAX)
        seconds = values.get("seconds", 0)
        fields["seconds"] = _seconds(
            _decimal("seconds", seconds) if isinstance(seconds, str) else seconds, SUM_MAX
        )
        fields["provider_cost"] = _cost(values.get("provider_cost"))
        fields["flags"] = tuple(values.get("flags", ()))
        fields["parts"] = tuple(
            (model, cls.from_dict(part)) for model, part in values.get("parts", ())
        )
        return cls.trusted(fields)

    def __add__(self, other: Usage) -> Usage:
        """Return both usages together. Parts are dropped: they are of one call."""
        if not isinstance(other, Usage):
            return NotImplemented
        both: dict[str, Any] = {
            kind: getattr(self, kind) + getattr(other, kind) for kind in TOKEN_KINDS
        }
        both["details"] = _sum(self.details, other.details)
        both["requests"] = _sum(self.requests, other.requests)
        both["seconds"] = self.seconds + other.seconds
        both["characters"] = self.characters + other.characters
        if self.provider_cost is not None and other.provider_cost is not None:
            both["provider_cost"] = self.provider_cost + other.provider_cost
        both["flags"] = tuple(dict.fromkeys(self.flags + other.flags))
        return Usage.trusted(both)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Usage):
            return NotImplemented
        return all(getattr(self, slot) == getattr(other, slot) for slot in _SLOTS)

    def __hash__(self) -> int:
        return hash((*(getattr(self, kind) for kind in TOKEN_KINDS), self.flags))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.to_dict().items())
        return f"Usage({shown})"


def _sum(one: Mapping[str, int], two: Mapping[str, int]) -> Mapping[str, int]:
    if not two:
        return one
    return {kind: one.get(kind, 0) + two.get(kind, 0) for kind in (*one, *two)}


def _is_plain(usage: Usage) -> bool:
    return not (
        usage.cache_write_5m
        or usage.cache_write_1h
        or usage.audio_in
        or usage.audio_out
        or usage.image_in
        or usage.image_out
        or usage.details
        or usage.requests
        or usage.seconds
        or usage.characters
        or usage.parts
    )


def _count(field: str, value: object, limit: int = MAX_COUNT) -> int:
    if type(value) is not int:
        raise InvalidRequest(field, f"must be a whole number, got {value!r:.40}")
    if value < 0:
        raise InvalidRequest(field, "must not be negative")
    if value > limit:
        raise InvalidRequest(field, f"must be at most {limit:,}")
    return value


def _counts(
    field: str, values: Mapping[str, int] | None, limit: int = MAX_COUNT
) -> Mapping[str, int]:
    if not values:
        return _NOTHING
    return {str(kind): _count(f"{field}[{kind!r}]", n, limit) for kind, n in values.items()}


def _decimal(field: str, value: str) -> Decimal:
    try:
        return Decimal(value)
    except ArithmeticError:
        raise InvalidRequest(field, f"{value!r:.40} is not a number") from None


def _seconds(value: object, limit: int = MAX_COUNT) -> Decimal | int:
    if isinstance(value, Decimal):
        if not value.is_finite() or not 0 <= value <= limit:
            raise InvalidRequest("seconds", f"must be from 0 to {limit:,}, got {value}")
        return value
    return _count("seconds", value, limit)


def _cost(value: object) -> Decimal | None:
    if value is None or isinstance(value, Decimal):
        cost = value
    elif type(value) is int:
        cost = Decimal(value)
    elif isinstance(value, str):
        cost = _decimal("provider_cost", value)
    else:
        raise InvalidRequest("provider_cost", f"must be a Decimal or text, got {value!r:.40}")
    if cost is not None and (not cost.is_finite() or not 0 <= cost <= MAX_COUNT):
        raise InvalidRequest("provider_cost", f"must be a finite amount of USD, got {cost}")
    return cost
