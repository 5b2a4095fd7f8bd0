"""Make one response of a stream's chunks, and tell apart lists that hold several calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from fluxai.costs.plain import decoded, fields, get, items, opened

_USAGES: Final = ("usage", "usageMetadata", "usage_metadata")
#: Envelopes that hold the response itself: realtime and Responses API events, Anthropic's
#: message_start, Cohere's message-end, Bedrock's metadata event, Groq's last chunk, Gemini's
#: interactions.
_ENVELOPES: Final = (
    "response",
    "message",
    "delta",
    "metadata",
    "x_groq",
    "result",
    "interaction",
)


def unwrapped(body: object) -> object:
    """Return the part of an event that carries the usage; the body itself when it does."""
    body = opened(body)
    if get(body, *_USAGES) is not None:
        return body
    packed = get(get(body, "chunk"), "bytes")
    if isinstance(packed, (str, bytes)):  # boto3, from invoke_model_with_response_stream
        return unwrapped(decoded(packed))
    for name in _ENVELOPES:
        inner = opened(get(body, name))
        if inner is None or isinstance(inner, str):
            continue
        if get(inner, *_USAGES) is not None or get(get(inner, "meta"), "billed_units") is not None:
            return inner
    for choice in items(get(body, "choices")):
        usage = get(choice, "usage")
        if usage is not None:  # Moonshot's streams
            return {**fields(body), "usage": usage}
    return body


def calls(response: object) -> tuple[Sequence[object], str | None]:
    """Return the separate calls that a response reports, and their tier; none for a single one.

    Realtime sessions, Bedrock's agents and batches report several: unlike the chunks of one
    stream, each of these is billed.
    """
    if isinstance(response, (list, tuple)):
        if any(get(opened(chunk), "custom_id") is not None for chunk in response):
            return [_batch_line(line) for line in response], "batch"
        separate = [chunk for chunk in response if _is_own_call(chunk)]
        return (separate, None) if len(separate) > 1 else ((), None)
    if type(response) is dict and _SEVERAL.isdisjoint(response):
        return (), None
    if get(response, "custom_id") is not None and get(response, "response", "result") is not None:
        return [_batch_line(response)], "batch"
    body = get(response, "response")
    lines = items(get(get(body, "inlinedResponses"), "inlinedResponses"))
    if lines:  # the Gemini API's batches
        return [get(line, "response") or line for line in lines], "batch"
    lines = items(get(response, "results"))
    if lines and get(lines[0], "batch_result") is not None:  # xAI's batches
        return [_first_body(get(get(line, "batch_result"), "response")) for line in lines], "batch"
    return (), None


#: Fields that a response which reports several calls has one of.
_SEVERAL: Final = frozenset({"custom_id", "inlinedResponses", "response", "results"})


def _is_own_call(closed: object) -> bool:
    chunk = opened(closed)
    kind = get(chunk, "type")
    if isinstance(kind, str):
        return kind == "response.done" or kind.endswith("input_audio_transcription.completed")
    trace = get(chunk, "trace")
    return trace is not None and any(
        get(step, "modelInvocationOutput") is not None for step in fields(trace).values()
    )


def _batch_line(line: object) -> object:
    """Return the response in a line of a batch's results file: OpenAI's or Anthropic's."""
    if get(get(line, "result"), "type") in _NOT_RUN:
        return _NOTHING_CHARGED
    return (
        get(get(line, "response"), "body")
        or get(get(line, "result"), "message")
        or get(line, "result", "response")
        or line
    )


#: Ends of a request in Anthropic's batches for which nothing is charged, besides an error.
_NOT_RUN: Final = ("canceled", "expired")
_NOTHING_CHARGED: Final[Mapping[str, Any]] = MappingProxyType({"type": "error"})


def _first_body(response: object) -> object:
    if get(response, *_USAGES) is not None:
        return response
    return next(iter(fields(response).values()), response)


#: What the last chunk that states it decides, besides usage.
_KEPT: Final = (
    "model",
    "modelVersion",
    "model_version",
    "id",
    "type",
    "provider",
    "created",
    "created_at",
    "createTime",
    "create_time",
    "service_tier",
    "serviceTier",
    "amazon-bedrock-invocationMetrics",
    "prompt_eval_count",
    "eval_count",
    "inputTextTokenCount",
    "totalOutputTextTokenCount",
    "prompt_token_count",
    "generation_token_count",
    "meta",
    "x_groq",
    "output",
    "candidates",
    "tools",
    "tool_usage",
    "trace",
    "error",
)


def merged(chunks: Sequence[object]) -> object:
    """Lay a stream's chunks over each other in the order they came, into one response.

    Providers repeat usage in growing form (Anthropic, Gemini, Perplexity) or send it once; so the
    last statement of each number holds, and nothing is ever summed.
    """
    chunks = [chunk for chunk in chunks if not isinstance(chunk, (str, bytes))]
    if len(chunks) == 1:
        return chunks[0]
    body: dict[str, Any] = {}
    usages: dict[str, dict[str, Any]] = {}
    for closed in chunks:
        chunk = opened(closed)
        inner = unwrapped(chunk)
        for name in _USAGES:
            stated = fields(get(inner, name))
            if stated:
                usage = usages.setdefault(name, {})
                usage.update({key: value for key, value in stated.items() if value is not None})
        sources = [chunk, get(chunk, "response"), get(chunk, "message")]
        if inner is not chunk:
            sources.append(inner)
        for source in sources:
            values = fields(source)
            for name in _KEPT:
                value = values.get(name)
                if value is not None:
                    body[name] = value
    body.update(usages)
    return body
