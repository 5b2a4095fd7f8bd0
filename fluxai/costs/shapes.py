"""The usage objects of every provider, each read into our partition.

One function per convention. Which names a provider uses, and what its totals include, is written
where it is read. Source: the providers' API references, and recorded responses of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from fluxai.core.usage import INPUT_KINDS, MAX_COUNT, OUTPUT_KINDS, TOKEN_KINDS, Usage
from fluxai.costs.counts import CLAMPED, Counts, decimal
from fluxai.costs.plain import fields, get, items

Source = Mapping[str, Any]

_NO: Final[Source] = {}

#: Fields that say that a usage's totals include what they name, unlike Anthropic's.
INSIDE_TOTALS: Final = (
    "input_tokens_details",
    "input_token_details",
    "output_token_details",
    "cache_read_tokens",
)


def openai(usage: Source, counts: Counts) -> None:
    """Read OpenAI's usage, chat or responses, and that of everyone who speaks it.

    The totals include what the details name, with two exceptions that their own total shows: xAI's
    gRPC states reasoning beside the completion, Mistral's transcription audio beside the prompt.
    """
    whole = counts.whole
    prompt = whole(usage, "prompt_tokens", "input_tokens")
    completion = whole(usage, "completion_tokens", "output_tokens")
    total = whole(usage, "total_tokens")
    if not prompt and not completion:
        prompt = total
    if _PLAIN_FIELDS.issuperset(usage):
        counts.add("input", prompt)
        counts.add("output", completion)
        return
    inside = fields(_first(usage, _INPUT_DETAILS))
    cached = whole(inside, "cached_tokens", "cache_read")
    if not cached and "cached_tokens" not in inside:
        cached = whole(usage, *_CACHED)
    written = whole(inside, *_WRITTEN) or whole(usage, "cache_write_tokens")
    audio = whole(inside, "audio_tokens", "audio") or whole(usage, "audio_prompt_tokens")
    image = whole(inside, "image_tokens") or whole(usage, "prompt_image_tokens")
    video = whole(inside, "video_tokens")
    if audio > prompt and total == prompt + audio + completion:
        prompt += audio
    _input(counts, prompt, cached, written, audio, image, video, inside)

    outside = fields(_first(usage, _OUTPUT_DETAILS))
    reasoning = whole(outside, "reasoning_tokens", "reasoning") or whole(usage, "reasoning_tokens")
    if reasoning and total == prompt + completion + reasoning and total != prompt + completion:
        completion += reasoning
    elif reasoning > completion and ("citation_tokens" in usage or "num_search_queries" in usage):
        # Perplexity's research states its reasoning beside the completion, and in no total.
        completion += reasoning
    audio_out = whole(outside, "audio_tokens", "audio")
    image_out = whole(outside, "image_tokens")
    _output(counts, completion, reasoning, audio_out, image_out)


#: Prompt, completion and total: nothing to split.
_PLAIN_FIELDS: Final = frozenset(
    {"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens"}
)
_CACHED: Final = (
    "cached_tokens",
    "num_cached_tokens",
    "prompt_cache_hit_tokens",
    "cached_prompt_text_tokens",
    "cache_read_tokens",
)
_WRITTEN: Final = (
    "cache_write_tokens",
    "cache_creation_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
)
_INPUT_DETAILS: Final = (
    "prompt_tokens_details",
    "input_tokens_details",
    "input_token_details",
    "prompt_token_details",
)
_OUTPUT_DETAILS: Final = (
    "completion_tokens_details",
    "output_tokens_details",
    "output_token_details",
    "completion_token_details",
)


def _first(source: Source, names: tuple[str, ...]) -> Any:
    for name in names:
        value = source.get(name)
        if value is not None:
            return value
    return None


def _input(
    counts: Counts,
    prompt: int,
    cached: int,
    written: int,
    audio: int,
    image: int,
    video: int,
    inside: Source,
) -> None:
    """Split a prompt that includes everything. A part can't be larger than the whole."""
    cached = counts.within(cached, prompt)
    left = prompt - cached
    written = counts.within(written, left)
    left -= written
    if audio or image or video:
        if cached:
            by_modality = fields(inside.get("cached_tokens_details"))
            audio_cached = min(counts.whole(by_modality, "audio_tokens"), cached, audio)
            image_cached = min(counts.whole(by_modality, "image_tokens"), cached, image)
            if not by_modality:
                # What does not fit beside the cached tokens is among them.
                image_cached = min(max(0, audio + image + video - left), cached, image)
            counts.detail("cache_read_audio", audio_cached)
            counts.detail("cache_read_image", image_cached)
            audio -= audio_cached
            image -= image_cached
        audio = counts.within(audio, left)
        left -= audio
        image = counts.within(image, left)
        left -= image
        video = counts.within(video, left)
        left -= video
        counts.add("audio_in", audio)
        counts.add("image_in", image + video)
        counts.detail("video_in", video)
    counts.add("input", left)
    counts.add("cache_read", cached)
    counts.add("cache_write_5m", written)


def _output(counts: Counts, completion: int, reasoning: int, audio: int, image: int) -> None:
    """Split an output that includes everything."""
    reasoning = counts.within(reasoning, completion)
    left = completion - reasoning
    audio = counts.within(audio, left)
    left -= audio
    image = counts.within(image, left)
    counts.add("output", left - image)
    counts.add("reasoning", reasoning)
    counts.add("audio_out", audio)
    counts.add("image_out", image)


def anthropic(usage: Source, counts: Counts) -> None:
    """Read Anthropic's usage: its input excludes both cache kinds, its output includes thinking.

    `iterations` list the passes of one call. The totals sum those of type `message` only; passes
    that compact the context or ask an advisor are billed besides, an advisor as its own model. The
    last pass of a fallback model has a type of its own, and may or may not be in the totals.
    """
    _passed(usage, counts)
    details = usage.get("output_tokens_details")
    if details is not None:
        thinking = counts.within(
            counts.whole(fields(details), "thinking_tokens"), counts.kinds.get("output", 0)
        )
        if thinking:
            counts.add("output", -thinking)
            counts.add("reasoning", thinking)
    tools = usage.get("server_tool_use")
    if tools is not None:
        tools = fields(tools)
        counts.fee("web_search", counts.whole(tools, "web_search_requests"))
        counts.fee("web_fetch", counts.whole(tools, "web_fetch_requests"))
        counts.fee("code_execution", counts.whole(tools, "code_execution_requests"))
    if usage.get("inference_geo") == "us":
        # Some models cost a tenth more when pinned to the US, which no price table tells.
        counts.flag("inference_geo_us")
    passes = items(usage.get("iterations"))
    if passes:
        _iterations(passes, counts)
    else:
        _searched(counts)


def _passed(usage: Source, counts: Counts) -> None:
    whole = counts.whole
    counts.add("input", whole(usage, "input_tokens"))
    counts.add("cache_read", whole(usage, "cache_read_input_tokens"))
    written = whole(usage, "cache_creation_input_tokens")
    by_time = usage.get("cache_creation")
    hour = 0
    if by_time is not None:
        by_time = fields(by_time)
        hour = whole(by_time, "ephemeral_1h_input_tokens")
        written = max(written, hour + whole(by_time, "ephemeral_5m_input_tokens"))
    if written:
        counts.add("cache_write_1h", hour)
        counts.add("cache_write_5m", written - hour)
    counts.add("output", whole(usage, "output_tokens"))


def _iterations(passes: Sequence[Any], counts: Counts) -> None:
    """Split a call into its passes, each judged and priced on its own."""
    top = Usage.trusted(dict(counts.kinds))
    own: list[dict[str, Any]] = []
    fallen: list[dict[str, Any]] = []
    besides: list[tuple[str | None, Usage]] = []
    named: dict[int, str | None] = {}
    for step in passes:
        entry = fields(step)
        part = Counts()
        _passed(entry, part)
        counts.flags.update(part.flags)
        kind, model = entry.get("type"), entry.get("model")
        model = model if isinstance(model, str) else None
        if kind in ("message", None, "fallback_message"):
            (fallen if kind == "fallback_message" else own).append(part.kinds)
            named[id(part.kinds)] = model
        else:
            besides.append((model, Usage.trusted(part.kinds)))
    if len(set(named.values())) < 2:
        named = {}  # all passes are of the model that the response names
    if fallen and _sums_to([*own, *fallen], top):
        own, fallen = [*own, *fallen], []
    besides += [(named.get(id(kinds)), Usage.trusted(kinds)) for kinds in fallen]
    parts: list[tuple[str | None, Usage]] = [(None, top)]
    if own and _sums_to(own, top):
        # Only the total says how much of the output was thinking, and what tools were called.
        thinking = top.reasoning
        for kinds in own:
            thought = min(thinking, kinds.get("output", 0))
            kinds.update(output=kinds.get("output", 0) - thought, reasoning=thought)
            thinking -= thought
        own[0]["requests"] = top.requests
        parts = [(named.get(id(kinds)), Usage.trusted(kinds)) for kinds in own]
    parts += besides
    if len(parts) > 1:
        total = top
        for _, usage in besides:
            total = total + usage
        counts.kinds.update({kind: getattr(total, kind) for kind in TOKEN_KINDS})
        counts.kinds["parts"] = tuple(parts)
    if besides:
        counts.flag("iterations")


def _sums_to(passes: Sequence[Mapping[str, Any]], top: Usage) -> bool:
    usages = [Usage.trusted(kinds) for kinds in passes]
    return (
        sum(usage.input_total for usage in usages) == top.input_total
        and sum(usage.output_total for usage in usages) == top.output_total
    )


#: A sum of searches' inputs may exceed a price step that no single pass reached.
_LARGE_INPUT: Final = 100_000


def _searched(counts: Counts) -> None:
    """Judge each pass of a search loop on its own: its total is a sum over all of them."""
    kinds = counts.kinds
    fees = kinds.get("requests")
    searches = 0 if fees is None else fees.get("web_search", 0)
    if not searches:
        return
    whole = Usage.trusted(dict(kinds))
    if whole.input_total <= _LARGE_INPUT:
        return
    share, rest = divmod(whole.input_total, searches + 1)
    counts.flag("search_loop")
    parts = []
    left = {kind: getattr(whole, kind) for kind in INPUT_KINDS}
    for index in range(searches + 1):
        room = share + (index < rest)
        part: dict[str, Any] = {}
        for kind, count in left.items():
            taken = min(count, room)
            if taken:
                part[kind] = taken
                left[kind] -= taken
                room -= taken
        parts.append(part)
    parts[0].update({kind: getattr(whole, kind) for kind in OUTPUT_KINDS}, requests=whole.requests)
    kinds["parts"] = tuple((None, Usage.trusted(part)) for part in parts)


_MODALITIES: Final[Mapping[object, str]] = {
    "AUDIO": "audio",
    "IMAGE": "image",
    "VIDEO": "video",
    # Vertex over gRPC states the enum's number.
    2: "image",
    3: "video",
    4: "audio",
}


def _by_modality(entries: object, counts: Counts) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in items(entries):
        entry = fields(item)
        modality = entry.get("modality")
        modality = getattr(modality, "value", modality)
        name = _MODALITIES.get(modality) if isinstance(modality, (str, int)) else None
        if name is not None:
            found[name] = found.get(name, 0) + counts.whole(entry, "tokenCount", "token_count")
    return found


def google(usage: Source, counts: Counts) -> None:
    """Read Gemini's usage, from the Gemini API, Vertex, Live or the legacy package.

    The prompt includes cached tokens; candidates exclude thoughts; tokens of tool results come on
    top of the prompt.
    """
    whole = counts.whole
    prompt = whole(usage, "promptTokenCount", "prompt_token_count")
    cached = whole(usage, "cachedContentTokenCount", "cached_content_token_count")
    tools = whole(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count")
    candidates = whole(
        usage,
        "candidatesTokenCount",
        "candidates_token_count",
        "responseTokenCount",
        "response_token_count",
    )
    thoughts = whole(usage, "thoughtsTokenCount", "thoughts_token_count")
    total = whole(usage, "totalTokenCount", "total_token_count")
    if not prompt and not candidates and not tools and not thoughts:
        prompt = total  # a context cache that was made
    entering = _by_modality(
        _first(usage, ("promptTokensDetails", "prompt_tokens_details", "promptTokenDetails")),
        counts,
    )
    used = _by_modality(
        _first(usage, ("toolUsePromptTokensDetails", "tool_use_prompt_tokens_details")), counts
    )
    leaving = _by_modality(
        _first(
            usage,
            (
                "candidatesTokensDetails",
                "candidates_tokens_details",
                "responseTokensDetails",
                "response_tokens_details",
            ),
        ),
        counts,
    )
    if used:
        entering = {key: entering.get(key, 0) + used.get(key, 0) for key in {*entering, *used}}
    cached = counts.within(cached, prompt)
    left = prompt + tools - cached
    if entering:
        if cached:
            stored = _by_modality(
                _first(usage, ("cacheTokensDetails", "cache_tokens_details")), counts
            )
            for modality, detail in (("audio", "cache_read_audio"), ("image", "cache_read_image")):
                part = min(stored.get(modality, 0), entering.get(modality, 0), cached)
                counts.detail(detail, part)
                entering[modality] = entering.get(modality, 0) - part
            entering["video"] = max(0, entering.get("video", 0) - stored.get("video", 0))
        audio = counts.within(entering.get("audio", 0), left)
        left -= audio
        image = counts.within(entering.get("image", 0), left)
        left -= image
        video = counts.within(entering.get("video", 0), left)
        left -= video
        counts.add("audio_in", audio)
        counts.add("image_in", image + video)
        counts.detail("video_in", video)
    counts.add("input", left)
    counts.add("cache_read", cached)
    if not thoughts and candidates and total > prompt + tools + candidates:
        # The legacy package states no thoughts, but its total includes them.
        thoughts = total - prompt - tools - candidates
        counts.flag("reasoning_inferred")
    video = leaving.get("video", 0)
    _output(
        counts,
        candidates + thoughts,
        thoughts,
        leaving.get("audio", 0),
        leaving.get("image", 0) + video,
    )
    counts.detail("video_out", video)


def interactions(usage: Source, counts: Counts) -> None:
    """Read the usage of Gemini's interactions: Gemini's own under other names."""
    whole = counts.whole
    google(
        {
            "promptTokenCount": whole(usage, "total_input_tokens"),
            "cachedContentTokenCount": whole(usage, "total_cached_tokens"),
            "toolUsePromptTokenCount": whole(usage, "total_tool_use_tokens"),
            "candidatesTokenCount": whole(usage, "total_output_tokens"),
            "thoughtsTokenCount": whole(usage, "total_thought_tokens"),
            "totalTokenCount": whole(usage, "total_tokens"),
            "promptTokensDetails": _renamed(usage, "input_tokens_by_modality"),
            "cacheTokensDetails": _renamed(usage, "cached_tokens_by_modality"),
            "toolUsePromptTokensDetails": _renamed(usage, "tool_use_tokens_by_modality"),
            "candidatesTokensDetails": _renamed(usage, "output_tokens_by_modality"),
        },
        counts,
    )
    for item in items(usage.get("grounding_tool_count")):
        if get(item, "type") in ("google_search", "google_maps"):
            counts.fee("grounding", whole(fields(item), "count"))


def _renamed(usage: Source, name: str) -> list[Source]:
    return [
        {"modality": str(get(item, "modality")).upper(), "tokenCount": get(item, "tokens")}
        for item in items(usage.get(name))
    ]


def bedrock(usage: Source, counts: Counts) -> None:
    """Read Bedrock's Converse usage: input excludes both cache kinds; some names appear twice."""
    whole = counts.whole
    counts.add("input", whole(usage, "inputTokens", "inputTokenCount"))
    counts.add("output", whole(usage, "outputTokens", "outputTokenCount"))
    counts.add("cache_read", whole(usage, "cacheReadInputTokens", "cacheReadInputTokenCount"))
    written = whole(usage, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    hour = 0
    for item in items(usage.get("cacheDetails")):
        entry = fields(item)
        if entry.get("ttl") == "1h":
            hour += whole(entry, "inputTokens")
    written = max(written, hour)
    counts.add("cache_write_1h", hour)
    counts.add("cache_write_5m", written - hour)


def cohere(usage: Source, counts: Counts) -> None:
    """Read Cohere's usage: `billed_units` is what is charged, `tokens` what the model saw."""
    whole = counts.whole
    billed = fields(usage.get("billed_units"))
    tokens = fields(usage.get("tokens"))
    source = billed or tokens
    entered = whole(source, "input_tokens")
    left_over = whole(source, "output_tokens")
    image = whole(source, "image_tokens")
    cached = min(whole(usage, "cached_tokens"), entered)
    counts.add("input", entered - cached)
    counts.add("cache_read", cached)
    counts.add("image_in", image)
    reasoning = min(whole(tokens, "reasoning_tokens"), left_over)
    counts.fee("image", whole(source, "images"))
    counts.fee("classification", whole(source, "classifications"))
    _output(counts, left_over, reasoning, 0, 0)
    counts.fee("rerank", whole(source, "search_units"))


def ollama(usage: Source, counts: Counts) -> None:
    """Read Ollama's own API."""
    counts.add("input", counts.whole(usage, "prompt_eval_count"))
    counts.add("output", counts.whole(usage, "eval_count"))


def llama(usage: Source, counts: Counts) -> None:
    """Read what Meta's models on Bedrock return."""
    counts.add("input", counts.whole(usage, "prompt_token_count"))
    counts.add("output", counts.whole(usage, "generation_token_count"))


def titan(usage: Source, counts: Counts) -> None:
    """Read what Amazon's Titan models on Bedrock return."""
    counts.add("input", counts.whole(usage, "inputTextTokenCount"))
    results = items(usage.get("results"))
    output = sum(counts.whole(fields(result), "tokenCount") for result in results)
    counts.add("output", output or counts.whole(usage, "totalOutputTextTokenCount"))


def reported_cost(usage: Source, counts: Counts) -> None:
    """Take the cost that the provider states with its usage, in USD.

    OpenRouter: `cost`, and with the user's own key (`is_byok`) what the upstream charges besides.
    xAI: `cost_in_usd_ticks`, 1e-10 USD, a text over gRPC. Perplexity: `cost.total_cost`.
    DeepInfra: `estimated_cost`.
    """
    ticks = usage.get("cost_in_usd_ticks")
    if ticks is not None:
        number = decimal(ticks)
        # Zero is what resellers that do not bill by ticks state.
        if number != 0:
            counts.cost(None if number is None else number / 10**10)
        return
    cost = usage.get("cost")
    if cost is None:
        counts.cost(usage.get("estimated_cost"))
        return
    inner = fields(cost)
    if inner:
        counts.cost(inner.get("total_cost"))
        return
    number = decimal(cost)
    if usage.get("is_byok") is True and number is not None:
        upstream = decimal(fields(usage.get("cost_details")).get("upstream_inference_cost"))
        if upstream is not None and upstream.is_finite():
            number += upstream
        counts.flag("byok")
    counts.cost(number)


def seconds(value: object, counts: Counts) -> None:
    """Take billed seconds, whole or not."""
    number = decimal(value)
    if number is None or not number.is_finite() or not 0 <= number <= MAX_COUNT:
        if value is not None:
            counts.flag(CLAMPED)
        return
    counts.kinds["seconds"] = int(number) if number == number.to_integral_value() else _trim(number)


def _trim(number: Decimal) -> Decimal:
    return number.quantize(Decimal("0.000001")).normalize()
