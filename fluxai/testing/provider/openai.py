"""OpenAI's wire format: chat and text completions, and what every address of it shares.

Source:
    The API reference of OpenAI, its Python SDK, and recorded responses, with which the tests
    compare each body and each event.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from fluxai.core.usage import Usage
from fluxai.testing.provider.exchange import Reply, Request, dumped, event_stream, json_reply, sse
from fluxai.testing.provider.scripts import Answer, Failure
from fluxai.testing.provider.wire import Desk, items, only, usage_for, whole

Body = dict[str, Any]

_FINISH: Final = {
    "stop": "stop",
    "length": "length",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
}
_DONE: Final = sse("[DONE]")
_FINGERPRINT: Final = "fp_fake"
#: What Azure's filter finds in a harmless text.
_FILTER: Final = {
    kind: {"filtered": False, "severity": "safe"}
    for kind in ("hate", "self_harm", "sexual", "violence")
}
_PROMPT_FILTER: Final = [{"prompt_index": 0, "content_filter_results": _FILTER}]

#: type, code, and message by status; the others go by their first digit.
_ERRORS: Final[Mapping[int, tuple[str, str | None, str]]] = {
    400: ("invalid_request_error", None, "The request is not valid."),
    401: (
        "invalid_request_error",
        "invalid_api_key",
        (
            "Incorrect API key provided. You can find your API key at"
            " https://platform.openai.com/account/api-keys."
        ),
    ),
    403: ("invalid_request_error", "unsupported_country_region_territory", "Not supported here."),
    404: (
        "invalid_request_error",
        "model_not_found",
        "The model does not exist or you do not have access to it.",
    ),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached. Please try again later."),
    500: (
        "server_error",
        None,
        "The server had an error while processing your request. Sorry about that!",
    ),
    503: (
        "service_unavailable_error",
        None,
        "The engine is currently overloaded, please try again later.",
    ),
}


def openai_error(failure: Failure, desk: Desk) -> Reply:
    """Say that a request failed, in OpenAI's words."""
    family = 400 if failure.status < 500 else 500
    kind, code, message = _ERRORS.get(failure.status) or _ERRORS[family]
    error = {"message": failure.message or message, "type": kind, "param": None, "code": code}
    headers = {"x-request-id": desk.new_id("req_")}
    if failure.retry_after is not None:
        headers["retry-after"] = str(failure.retry_after)
    return json_reply({"error": error}, status=failure.status, headers=headers)


#: Azure's code and message by status.
_AZURE_ERRORS: Final[Mapping[int, tuple[str, str]]] = {
    401: (
        "401",
        (
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to"
            " provide a valid key for an active subscription and use a correct regional API"
            " endpoint for your resource."
        ),
    ),
    404: ("DeploymentNotFound", "The API deployment for this resource does not exist."),
    429: ("RateLimitReached", "Your requests have exceeded rate limit."),
    500: ("InternalServerError", "The server had an error while processing your request."),
}


def azure_error(failure: Failure) -> Reply:
    """Say that a request failed, in Azure's words."""
    code, message = _AZURE_ERRORS.get(failure.status, (str(failure.status), "The request failed."))
    headers = {}
    if failure.retry_after is not None:
        headers["retry-after"] = str(failure.retry_after)
    error = {"code": code, "message": failure.message or message}
    return json_reply({"error": error}, status=failure.status, headers=headers)


# ------------------------------------------------------------------------------------------ chat


def chat(
    request: Request, desk: Desk, *, azure: bool = False, deployment: str | None = None
) -> Reply:
    """`POST /v1/chat/completions`, plain or as a stream.

    Azure adds what its content filter found: to each answer, and as the first chunk of a stream,
    which has no choices.
    """
    options = request.options
    limit = whole(options.get("max_completion_tokens")) or whole(options.get("max_tokens"))
    answer = desk.take().within(limit)
    usage = chat_usage(usage_for(answer, options.get("messages"), options.get("tools")))
    head: Body = {
        "id": desk.new_id("chatcmpl-"),
        "object": "chat.completion.chunk" if options.get("stream") else "chat.completion",
        "created": desk.now(),
        "model": answer.model or deployment or str(options.get("model", "")),
    }
    tail: Body = {"service_tier": "default", "system_fingerprint": _FINGERPRINT}
    if azure:
        tail = {"system_fingerprint": _FINGERPRINT}
    number = max(1, whole(options.get("n")) or 1)
    if not options.get("stream"):
        choices = [_choice(answer, index, desk) for index in range(number)]
        if azure:
            tail["prompt_filter_results"] = _PROMPT_FILTER
            choices = [{**choice, "content_filter_results": _FILTER} for choice in choices]
        return json_reply({**head, "choices": choices, "usage": usage, **tail})
    told = options.get("stream_options") or {}
    wanted = bool(told.get("include_usage"))
    head |= tail

    def chunk(choices: list[Body], last: Body | None = None) -> bytes:
        reported = {"usage": last} if wanted else {}
        return sse({**head, "choices": choices, **reported, "obfuscation": "fake"})

    chunks = [chunk([choice]) for choice in _choices(answer, number, desk)]
    if azure:
        nothing = {"choices": [], "created": 0, "id": "", "model": "", "object": ""}
        chunks.insert(0, sse({**nothing, "prompt_filter_results": _PROMPT_FILTER}))
    if wanted:
        chunks.append(chunk([], usage))
    return event_stream([*chunks, _DONE])


def chat_usage(usage: Usage) -> Body:
    """State a usage as chat completions do: cached tokens are part of the prompt's."""
    only(
        usage,
        "OpenAI's chat format",
        "input",
        "cache_read",
        "cache_write_5m",
        "output",
        "reasoning",
        "audio_in",
        "audio_out",
        "image_in",
    )
    asked = {"cached_tokens": usage.cache_read, "audio_tokens": usage.audio_in}
    if usage.cache_write_5m:
        asked["cache_write_tokens"] = usage.cache_write_5m
    if usage.image_in:
        asked["image_tokens"] = usage.image_in
    return {
        "prompt_tokens": usage.input_total,
        "completion_tokens": usage.output_total,
        "total_tokens": usage.total,
        "prompt_tokens_details": asked,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.audio_out,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _choice(answer: Answer, index: int, desk: Desk) -> Body:
    message: Body = {
        "role": "assistant",
        "content": answer.text if answer.refusal is None and answer.text else None,
        "refusal": answer.refusal,
        "annotations": [],
    }
    if answer.tool_calls:
        message["tool_calls"] = _tool_calls(answer, desk)
    elif answer.refusal is None:
        message["content"] = answer.text
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": _FINISH[answer.finished],
    }


def _tool_calls(answer: Answer, desk: Desk) -> list[Body]:
    return [
        {
            "id": call.id or desk.new_id("call_"),
            "type": "function",
            "function": {"name": call.name, "arguments": dumped(dict(call.arguments)).decode()},
        }
        for call in answer.tool_calls
    ]


def _choices(answer: Answer, number: int, desk: Desk) -> Iterator[Body]:
    """Return the choices of a stream's chunks: who speaks, what is said, how it ends."""
    for index in range(number):
        for delta in _deltas(answer, desk):
            yield {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        finish = _FINISH[answer.finished]
        yield {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish}


def _deltas(answer: Answer, desk: Desk) -> Iterator[Body]:
    silent = answer.tool_calls and not answer.text
    yield {"role": "assistant", "content": None if silent else "", "refusal": None}
    said = "content" if answer.refusal is None else "refusal"
    for piece in answer.pieces:
        yield {said: piece}
    for index, call in enumerate(_tool_calls(answer, desk)):
        arguments = call["function"]["arguments"]
        begun = {**call, "function": {**call["function"], "arguments": ""}}
        yield {"tool_calls": [{"index": index, **begun}]}
        yield {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


# ----------------------------------------------------------------------------- text completions


def completion(request: Request, desk: Desk) -> Reply:
    """`POST /v1/completions`, plain or as a stream."""
    options = request.options
    answer = desk.take().within(whole(options.get("max_tokens")))
    told = usage_for(answer, options.get("prompt"))
    only(told, "OpenAI's completions format", "input", "output")
    usage = {
        "prompt_tokens": told.input,
        "completion_tokens": told.output,
        "total_tokens": told.total,
    }
    head: Body = {
        "id": desk.new_id("cmpl-"),
        "object": "text_completion",
        "created": desk.now(),
        "model": answer.model or str(options.get("model", "")),
    }
    finish = _FINISH[answer.finished]

    def choice(text: str, finish: str | None) -> Body:
        return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}

    if not options.get("stream"):
        return json_reply({**head, "choices": [choice(answer.text, finish)], "usage": usage})
    wanted = bool((options.get("stream_options") or {}).get("include_usage"))
    nothing = {"usage": None} if wanted else {}
    chunks = [sse({**head, "choices": [choice(piece, None)], **nothing}) for piece in answer.pieces]
    chunks.append(sse({**head, "choices": [choice("", finish)], **nothing}))
    if wanted:
        chunks.append(sse({**head, "choices": [], "usage": usage}))
    return event_stream([*chunks, _DONE])


# ----------------------------------------------------------------------------------- embeddings


def embeddings(request: Request, desk: Desk) -> Reply:
    """`POST /v1/embeddings`: vectors that depend on the text alone."""
    options = request.options
    texts = items(options.get("input"))
    if texts and isinstance(texts[0], int):
        texts = [texts]  # one text, as tokens
    answer = desk.take()
    usage = embedding_usage(answer, texts)
    size = whole(options.get("dimensions")) or 8
    encode: Callable[[list[float]], object] = (
        _base64_floats if options.get("encoding_format") == "base64" else list
    )
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector(str(text), size))}
        for index, text in enumerate(texts)
    ]
    return json_reply(
        {
            "object": "list",
            "data": data,
            "model": answer.model or str(options.get("model", "")),
            "usage": {"prompt_tokens": usage.input, "total_tokens": usage.input},
        }
    )


def embedding_usage(answer: Answer, texts: object) -> Usage:
    """Return the usage of a call that has no output."""
    usage = answer.usage or Usage(input=usage_for(Answer(), texts).input)
    only(usage, "an embedding's format", "input")
    return usage


def vector(text: str, size: int) -> list[float]:
    """Make a vector that is the same for the same text."""
    seed = text.encode()
    return [
        int.from_bytes(hashlib.sha256(b"%d:%b" % (index, seed)).digest()[:2]) / 65536 - 0.5
        for index in range(size)
    ]


def _base64_floats(values: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
