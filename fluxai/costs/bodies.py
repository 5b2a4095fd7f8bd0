"""Where in a response the usage is, and what it is billed by besides tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from fluxai.core.usage import TOKEN_KINDS, Usage
from fluxai.costs import shapes
from fluxai.costs.counts import Counts, decimal
from fluxai.costs.plain import fields, get, items

#: Nothing in the response states what was used.
NO_USAGE: Final = "no_usage"
#: The provider answered with an error, for which nothing is charged.
ERROR: Final = "error"
#: An endpoint that makes nothing answered: uploads, lists, moderation.
FREE_ENDPOINT: Final = "free_endpoint"
#: A token-counting endpoint answered: it is free, and nothing was used.
TOKEN_COUNT: Final = "token_count"  # noqa: S105 -- tokens of text

Body = Mapping[str, Any]


def read_usage(body: object, counts: Counts) -> str | None:
    """Read what a response used into the counts.

    Args:
        body: A response, without the envelope of its event.
        counts: Takes the kinds and flags.

    Returns:
        The provider that the shape shows, or `None` when several use it.
    """
    usage = fields(get(body, "usage"))
    if usage and _usage_field(body, usage, counts):
        return _shown(body, usage)
    usage = fields(get(body, "usageMetadata", "usage_metadata"))
    if usage:
        if "input_tokens" in usage:  # LangChain's messages
            shapes.openai(usage, counts)
            return None
        shapes.google(usage, counts)
        _grounding(body, counts)
        return "google"
    top = fields(body)
    metrics = fields(top.get("amazon-bedrock-invocationMetrics"))
    if metrics:
        # What Bedrock bills, whichever model's chunks it stands under.
        shapes.bedrock(metrics, counts)
        return "aws"
    for mark, shape, provider in _TOP_SHAPES:
        if mark in top:
            shape(top, counts)
            return provider
    for field, read, whose in _NESTED_SHAPES:
        inner = fields(top.get(field)) if field in top else None
        if inner and read(inner, counts):
            return whose
    _without_usage(body, top, counts)
    return None


def _grounding(body: object, counts: Counts) -> None:
    """Count answers that Google grounded in a search: billed beyond an allowance of the account."""
    for candidate in items(get(body, "candidates")):
        metadata = get(candidate, "groundingMetadata", "grounding_metadata")
        if metadata is not None and get(metadata, "webSearchQueries", "web_search_queries"):
            counts.fee("grounding", 1)


def _usage_field(body: object, usage: Body, counts: Counts) -> bool:
    """Read a field called `usage`; say whether it was one that is understood."""
    understood = False
    if "cost" in usage or "cost_in_usd_ticks" in usage or "estimated_cost" in usage:
        shapes.reported_cost(usage, counts)
        understood = True
    if "total_input_tokens" in usage or "total_output_tokens" in usage:
        shapes.interactions(usage, counts)
        understood = True
    elif "prompt_tokens" in usage or "completion_tokens" in usage or "total_tokens" in usage:
        _openai(body, usage, counts)
        understood = True
    elif "input_tokens" in usage or "output_tokens" in usage:
        if any(name in usage for name in shapes.INSIDE_TOTALS):
            _openai(body, usage, counts)
        else:
            shapes.anthropic(usage, counts)
        understood = True
    elif "inputTokens" in usage or "outputTokens" in usage:
        shapes.bedrock(usage, counts)
        understood = True
    elif "billed_units" in usage or "tokens" in usage:
        shapes.cohere(usage, counts)
        understood = True
    # A duration bills a transcription; xAI's voice states tokens too, and bills these seconds.
    for name in ("seconds", "billable_audio_seconds", "prompt_audio_seconds"):
        if usage.get(name) is not None:
            shapes.seconds(usage[name], counts)
            understood = True
            break
    return understood


def _shown(body: object, usage: Body) -> str | None:
    if "inputTokens" in usage or "outputTokens" in usage:
        return "aws"
    if "billed_units" in usage:
        return "cohere"
    if "total_input_tokens" in usage:
        return "google"
    if get(body, "type") == "message" and "input_tokens" in usage:
        return "anthropic"
    return None


def _openai(body: object, usage: Body, counts: Counts) -> None:
    shapes.openai(usage, counts)
    if "choices" not in fields(body):
        if "server_side_tool_usage_details" not in usage:
            _server_tools(body, counts)
        _media_endpoints(body, counts)
    breakdown = get(usage, "usage_breakdown") or get(body, "usage_breakdown")
    models = items(get(breakdown, "models")) if breakdown is not None else ()
    if models:
        _breakdown(models, counts)
    if len(usage) > _PLAIN_FIELDS:
        _other_fees(usage, counts)


#: Prompt, completion and total: nothing else to look for.
_PLAIN_FIELDS: Final = 3


def _other_fees(usage: Body, counts: Counts) -> None:
    """Count what xAI, Perplexity and Mistral state beside the tokens."""
    for tool in items(usage.get("server_side_tools_used")):
        kind = _XAI_TOOLS.get(str(tool).rpartition("SERVER_SIDE_TOOL_")[2])
        if kind is not None:
            counts.fee(kind, 1)
    calls = fields(usage.get("server_side_tool_usage_details"))
    for name, kind in _XAI_CALLS.items() if calls else ():
        counts.fee(kind, counts.whole(calls, name))
    for name, kind in _COUNTED.items():
        if name in usage:
            counts.fee(kind, counts.whole(usage, name))
    size = usage.get("search_context_size")
    if size in _CONTEXT_SIZES:
        counts.fee(f"request_{size}", 1)
    connectors = fields(usage.get("connectors"))
    for name in connectors:
        counts.fee(str(name), counts.whole(connectors, name))


_XAI_TOOLS: Final[Mapping[str, str]] = {
    "WEB_SEARCH": "web_search",
    "X_SEARCH": "x_search",
    "CODE_EXECUTION": "code_execution",
    "ATTACHMENT_SEARCH": "attachment_search",
    "COLLECTIONS_SEARCH": "file_search",
}
_XAI_CALLS: Final[Mapping[str, str]] = {
    "web_search_calls": "web_search",
    "x_search_calls": "x_search",
    "code_interpreter_calls": "code_execution",
    "document_search_calls": "attachment_search",
    "file_search_calls": "file_search",
}
_COUNTED: Final[Mapping[str, str]] = {
    "num_sources_used": "live_source",
    "num_search_queries": "web_search",
    "citation_tokens": "citation",
}
#: Perplexity charges for each request, by how much it is let to search.
_CONTEXT_SIZES: Final = ("low", "medium", "high")


def _server_tools(body: object, counts: Counts) -> None:
    """Count what the Responses API did on its own: it is in the output, not in the usage."""
    searches = 0
    images: list[Any] = []
    for item in items(get(body, "output")):
        kind = get(item, "type")
        if kind == "web_search_call":
            # Opening and searching within a page is not charged, searching is.
            action = get(get(item, "action"), "type")
            searches += action is None or action == "search"
        elif kind == "file_search_call":
            counts.fee("file_search", 1)
        elif kind == "code_interpreter_call":
            counts.fee("code_interpreter", 1)
        elif kind == "image_generation_call":
            images.append(item)
    tool_usage = get(body, "tool_usage")
    stated = fields(get(tool_usage, "web_search")) if tool_usage is not None else {}
    count = counts.whole(stated, "num_requests") if stated else searches
    counts.fee("web_search_preview" if _previews(body) else "web_search", count)
    drawn = fields(get(tool_usage, "image_gen")) if tool_usage is not None else {}
    if drawn and (drawn.get("total_tokens") or drawn.get("output_tokens")):
        part = Counts()
        shapes.openai(drawn, part)
        _output_is(part, "image_out")
        _add_part(counts, _image_model(body), part)
    elif images and not drawn:
        # Without a usage of its own, the tool is billed by what it made.
        part = Counts()
        for item in images:
            part.fee(_image_kind(item), 1)
        _add_part(counts, _image_model(body), part)


def _previews(body: object) -> bool:
    """Say whether the search is the preview tool, which costs some models more."""
    return any(
        str(get(tool, "type")).startswith("web_search_preview")
        for tool in items(get(body, "tools"))
    )


def _image_kind(item: object) -> str:
    """Return the fee kind of an image: its quality and size, where both are stated."""
    quality, size = get(item, "quality"), get(item, "size")
    if isinstance(quality, str) and isinstance(size, str) and len(quality) + len(size) < 32:
        return f"image_{quality}_{size}"
    return "image"


def _image_model(body: object) -> str:
    for tool in items(get(body, "tools")):
        if get(tool, "type") == "image_generation":
            model = get(tool, "model")
            if isinstance(model, str) and model:
                return model
    return "gpt-image-1"


def _media_endpoints(body: object, counts: Counts) -> None:
    """Take the output of an endpoint that makes images or speech as that, if the usage does not."""
    data = items(get(body, "data"))
    kind = get(body, "type")
    kind = kind if isinstance(kind, str) else ""
    if (data and get(data[0], "b64_json", "url") is not None) or kind.startswith(
        ("image_generation.", "image_edit.")
    ):
        _output_is(counts, "image_out")
    elif kind.startswith("speech.audio."):
        _output_is(counts, "audio_out")


def _output_is(counts: Counts, kind: str) -> None:
    if kind not in counts.kinds and "output" in counts.kinds:
        counts.kinds[kind] = counts.kinds.pop("output")


def _add_part(counts: Counts, model: str | None, part: Counts) -> None:
    """Add a step that is priced as another model to the whole."""
    own = Usage.trusted(dict(counts.kinds))
    step = Usage.trusted(part.kinds)
    parts = counts.kinds.get("parts") or ((None, own),)
    both = own + step
    for kind in (*TOKEN_KINDS, "details", "requests"):
        value = getattr(both, kind)
        if value:
            counts.kinds[kind] = value
    counts.kinds["parts"] = (*parts, (model, step))
    counts.flags.update(part.flags)


def _breakdown(models: Any, counts: Counts) -> None:
    """Take Groq's breakdown: a compound system calls several models, each at its own price."""
    parts = []
    for entry in models:
        usage = fields(get(entry, "usage"))
        model = get(entry, "model")
        if not usage or not isinstance(model, str):
            return
        part = Counts()
        shapes.openai(usage, part)
        parts.append((model, Usage.trusted(part.kinds)))
    if sum(part.total for _, part in parts) == Usage.trusted(counts.kinds).total:
        counts.kinds["parts"] = tuple(parts)


def _billed_units(meta: Body, counts: Counts) -> bool:
    billed = fields(meta.get("billed_units"))
    if not billed:
        return False
    shapes.cohere({**meta, "billed_units": billed}, counts)
    return True


def _agent(trace: Body, counts: Counts) -> bool:
    for step in trace.values():
        usage = fields(get(get(get(step, "modelInvocationOutput"), "metadata"), "usage"))
        if usage:
            shapes.bedrock(usage, counts)
            return True
    return False


def _run_time(metrics: Body, counts: Counts) -> bool:
    if metrics.get("predict_time") is None:
        return False
    shapes.seconds(metrics["predict_time"], counts)
    return True


def _pages(info: Body, counts: Counts) -> bool:
    """Read Mistral's document processing."""
    if info.get("pages_processed") is None:
        return False
    counts.fee("page", counts.whole(info, "pages_processed"))
    return True


def _boto_headers(metadata: Body, counts: Counts) -> bool:
    """Read what Bedrock states in headers, which is all there is for some embeddings."""
    headers = fields(metadata.get("HTTPHeaders"))
    entered = headers.get("x-amzn-bedrock-input-token-count")
    if entered is None:
        return False
    counts.add("input", counts.whole(headers, "x-amzn-bedrock-input-token-count"))
    counts.add("output", counts.whole(headers, "x-amzn-bedrock-output-token-count"))
    counts.add("cache_read", counts.whole(headers, "x-amzn-bedrock-cache-read-input-token-count"))
    counts.add(
        "cache_write_5m", counts.whole(headers, "x-amzn-bedrock-cache-write-input-token-count")
    )
    return True


def _bare(top: Body, counts: Counts) -> bool:
    """Read a usage object that was given without its response."""
    if any(top.get(name) is not None for name in _BARE_GOOGLE):
        shapes.google(top, counts)
        return True
    if any(top.get(name) is not None for name in _BARE):
        return _usage_field(top, top, counts)
    return False


_BARE: Final = (
    "completion_tokens",
    "prompt_tokens",
    "output_tokens",
    "outputTokens",
    "billed_units",
    "cost_in_usd_ticks",
    "cache_read_input_tokens",
)
_BARE_GOOGLE: Final = ("promptTokenCount", "candidatesTokenCount", "candidates_token_count")

_TOP_SHAPES: Final[tuple[tuple[str, Callable[[Body, Counts], None], str], ...]] = (
    ("prompt_eval_count", shapes.ollama, "ollama"),
    ("eval_count", shapes.ollama, "ollama"),
    ("inputTextTokenCount", shapes.titan, "aws"),
    ("generation_token_count", shapes.llama, "aws"),
)
_NESTED_SHAPES: Final[tuple[tuple[str, Callable[[Body, Counts], bool], str | None], ...]] = (
    ("meta", _billed_units, "cohere"),
    ("trace", _agent, "aws"),
    ("metrics", _run_time, None),
    ("usage_info", _pages, "mistral"),
    ("ResponseMetadata", _boto_headers, "aws"),
)

_ERROR_FIELDS: Final = frozenset(
    {
        "message",
        "detail",
        "__type",
        "Message",
        "code",
        "request_id",
        "requestId",
        "status",
        "type",
        "error_type",
        "id",
    }
)


def _without_usage(body: object, top: Body, counts: Counts) -> None:
    """Say why there is no usage, or take it from what was made."""
    if _bare(top, counts):
        return
    if top.get("error") or top.get("error_type") or top.get("type") == "error":
        counts.flag(ERROR)
        return
    if top.keys() <= _ERROR_FIELDS and isinstance(
        top.get("message") or top.get("detail") or top.get("Message"), str
    ):
        counts.flag(ERROR)
        return
    if (
        "totalTokens" in top
        or "total_tokens" in top
        or "inputTokens" in top
        or ("input_tokens" in top and "output_tokens" not in top)
    ):
        counts.flag(TOKEN_COUNT)
        return
    if _embeddings(body, top, counts) or _made(top, counts):
        return
    counts.flag(FREE_ENDPOINT if _makes_nothing(top) else NO_USAGE)


#: Objects of OpenAI's API that are kept or looked up, not made.
_KEPT_OBJECTS: Final = frozenset(
    {
        "assistant",
        "batch",
        "container",
        "container.file",
        "conversation",
        "file",
        "fine_tuning.job",
        "model",
        "thread",
        "thread.message",
        "upload",
        "vector_store",
        "vector_store.file",
    }
)


def _makes_nothing(top: Body) -> bool:
    identity = top.get("id")
    if isinstance(identity, str) and identity.startswith("modr-"):
        return True
    listed = items(top.get("data")) or items(top.get("models"))
    kind = get(listed[0], "object", "type") if listed else top.get("object")
    if not isinstance(kind, str):
        return bool(items(top.get("models")))
    return kind.removesuffix(".deleted") in _KEPT_OBJECTS


def _embeddings(body: object, top: Body, counts: Counts) -> bool:
    """Read Vertex's embeddings: each states its own tokens."""
    tokens = 0
    found = False
    for entry in (*items(top.get("predictions")), *items(get(body, "embeddings"))):
        inner = get(entry, "embeddings") or entry
        statistics = fields(get(inner, "statistics"))
        if statistics:
            found = True
            tokens += counts.whole(statistics, "token_count", "tokenCount")
    counts.add("input", tokens)
    return found


#: Where images are: OpenAI, Vertex, the Gemini SDK in both spellings, and models on Bedrock.
_MADE: Final = (
    "data",
    "predictions",
    "generated_images",
    "generatedImages",
    "images",
    "artifacts",
)


def _made(top: Body, counts: Counts) -> bool:
    """Count made images, or the length of a transcript, where that is all a response says."""
    images = [
        entry
        for field in _MADE
        for entry in items(top.get(field))
        if isinstance(entry, str)
        or get(entry, "b64_json", "url", "bytesBase64Encoded", "image", "base64") is not None
    ]
    if images:
        counts.fee("image", len(images))
        return True
    length = decimal(top.get("duration"))
    if length is not None and "text" in top:
        shapes.seconds(math.ceil(length) if length.is_finite() else 0, counts)
        return True
    if top.get("object") == "video" and top.get("status") == "completed":
        shapes.seconds(top.get("seconds"), counts)
        return "seconds" in counts.kinds
    return False
