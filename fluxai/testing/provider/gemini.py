"""Gemini's wire format: content, embeddings, token counts, images; on Vertex AI's addresses too.

Source:
    The API reference of the Gemini API, the Python SDK google-genai, and recorded responses, with
    which the tests compare each body and each event.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final

from fluxai.core.usage import Usage
from fluxai.testing.provider.exchange import Reply, Request, event_stream, json_reply, sse
from fluxai.testing.provider.interactions import Interactions
from fluxai.testing.provider.openai import vector
from fluxai.testing.provider.pictures import png
from fluxai.testing.provider.scripts import Answer, Failure
from fluxai.testing.provider.wire import Desk, only, texts_of, tokens_of, usage_for, whole

Body = dict[str, Any]

_MODEL: Final = re.compile(r"/v1(?:alpha|beta\d?)?/(?:.*/)?models/([^/:]+):(\w+)")
_FINISH: Final = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_use": "STOP",
    "content_filter": "SAFETY",
}
_ERRORS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "The caller does not have permission."),
    404: ("NOT_FOUND", "The model is not found, or is not supported for this method."),
    429: ("RESOURCE_EXHAUSTED", "You exceeded your current quota."),
    499: ("CANCELLED", "The operation was cancelled."),
    500: ("INTERNAL", "An internal error has occurred."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "The request timed out. Please try again."),
    529: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
}
#: What a picture that comes with an answer is billed, where no usage was told.
_TOKENS_PER_PICTURE: Final = 1290


class Gemini:
    """What `https://generativelanguage.googleapis.com` says."""

    def __init__(self) -> None:
        self._interactions = Interactions()

    def serves(self, request: Request) -> bool:
        """Say whether the request is for Gemini: by its header, or by its address."""
        return (
            "x-goog-api-key" in request.headers
            or request.path.startswith(("/v1beta", "/v1alpha"))
            or _MODEL.fullmatch(request.path) is not None
            or self._interactions.serves(request)
        )

    def reply(self, request: Request, desk: Desk) -> Reply | None:
        """Answer a request; None where there is no such address."""
        if self._interactions.serves(request):
            return self._interactions.reply(request, desk)
        if request.method == "GET" and request.path.endswith("/models"):
            return json_reply({"models": []})
        found = _MODEL.fullmatch(request.path)
        verb = _VERBS.get(found[2]) if found and request.method == "POST" else None
        return verb(found[1], request, desk) if found and verb else None

    def error(self, request: Request, failure: Failure, desk: Desk) -> Reply:
        """Say that a request failed."""
        del desk
        family = 400 if failure.status < 500 else 500
        status, message = _ERRORS.get(failure.status) or _ERRORS[family]
        if self._interactions.serves(request):
            return self._interactions.error(failure, status, failure.message or message)
        headers = {}
        if failure.retry_after is not None:
            headers["retry-after"] = str(failure.retry_after)
        error = {
            "code": failure.status,
            "message": failure.message or message,
            "status": status,
        }
        return json_reply({"error": error}, status=failure.status, headers=headers)


def _prompt(options: Mapping[str, Any]) -> tuple[object, ...]:
    return (options.get("systemInstruction"), options.get("contents"), options.get("tools"))


def _taken(options: Mapping[str, Any], desk: Desk, *, draws: bool = False) -> tuple[Answer, Body]:
    config = options.get("generationConfig") or {}
    answer = desk.take().within(whole(config.get("maxOutputTokens")))
    usage = usage_for(answer, *_prompt(options))
    if draws and answer.usage is None and answer.refusal is None:
        usage = usage.replaced(image_out=_TOKENS_PER_PICTURE)
    return answer, _usage(usage)


def _picture() -> str:
    return base64.b64encode(png()).decode()


def _usage(usage: Usage) -> Body:
    """State a usage: the prompt includes what was cached, candidates exclude thoughts."""
    only(
        usage,
        "Gemini's format",
        "input",
        "cache_read",
        "output",
        "reasoning",
        "audio_in",
        "audio_out",
        "image_in",
        "image_out",
    )
    stated: Body = {
        "promptTokenCount": usage.input_total,
        "candidatesTokenCount": usage.output_total - usage.reasoning,
        "totalTokenCount": usage.total,
        "promptTokensDetails": _modalities(
            usage.input + usage.cache_read, usage.audio_in, usage.image_in
        ),
    }
    if usage.cache_read:
        stated["cachedContentTokenCount"] = usage.cache_read
        stated["cacheTokensDetails"] = _modalities(usage.cache_read, 0, 0)
    if usage.audio_out or usage.image_out:
        stated["candidatesTokensDetails"] = _modalities(
            usage.output, usage.audio_out, usage.image_out
        )
    if usage.reasoning:
        stated["thoughtsTokenCount"] = usage.reasoning
    return {**stated, "serviceTier": "standard"}


def _modalities(text: int, audio: int, image: int) -> list[Body]:
    counts = (("TEXT", text), ("AUDIO", audio), ("IMAGE", image))
    return [{"modality": modality, "tokenCount": count} for modality, count in counts if count] or [
        {"modality": "TEXT", "tokenCount": 0}
    ]


def _generate(model: str, request: Request, desk: Desk) -> Reply:
    config = request.options.get("generationConfig") or {}
    draws = "IMAGE" in {str(kind).upper() for kind in config.get("responseModalities") or ()}
    answer, usage = _taken(request.options, desk, draws=draws)
    parts = [*_thoughts(answer), *_text(answer.text), *_calls(answer)]
    if draws and answer.refusal is None:
        parts.append({"inlineData": {"mimeType": "image/png", "data": _picture()}})
    return json_reply(
        {
            "candidates": [_candidate(answer, parts, last=True)],
            "usageMetadata": usage,
            "modelVersion": answer.model or model,
            "responseId": desk.new_id("fake"),
        }
    )


def _stream(model: str, request: Request, desk: Desk) -> Reply:
    answer, usage = _taken(request.options, desk)
    steps = [[part] for part in _thoughts(answer)]
    if answer.refusal is None:
        steps += [_text(piece) for piece in answer.pieces]
    if calls := _calls(answer):
        steps.append(calls)
    steps = steps or [[]]
    response_id = desk.new_id("fake")
    told = usage["candidatesTokenCount"]
    chunks = []
    for number, parts in enumerate(steps, start=1):
        # Counts so far: they grow, and only the last are the bill.
        so_far = told * number // len(steps)
        total = usage["totalTokenCount"] - told + so_far
        counts = {"candidatesTokenCount": so_far, "totalTokenCount": total}
        body = {
            "candidates": [_candidate(answer, parts, last=number == len(steps))],
            "usageMetadata": {**usage, **counts},
            "modelVersion": answer.model or model,
            "responseId": response_id,
        }
        chunks.append(sse(body))
    if request.parameters.get("alt") == "sse":
        return event_stream(chunks)
    documents = b",\n".join(chunk.removeprefix(b"data: ").rstrip() for chunk in chunks)
    return Reply(chunks=(b"[" + documents + b"]",))


def _candidate(answer: Answer, parts: list[Body], *, last: bool) -> Body:
    refused = answer.refusal is not None
    content: Body = {"role": "model"} if refused else {"parts": parts, "role": "model"}
    candidate: Body = {"content": content, "index": 0}
    if last:
        reason = "SAFETY" if refused and answer.finish is None else _FINISH[answer.finished]
        candidate["finishReason"] = reason
        if refused:
            candidate["finishMessage"] = answer.refusal
    return candidate


def _thoughts(answer: Answer) -> list[Body]:
    return [] if answer.thinking is None else [{"text": answer.thinking, "thought": True}]


def _text(text: str) -> list[Body]:
    return [{"text": text}] if text else []


def _calls(answer: Answer) -> list[Body]:
    return [
        {"functionCall": {"name": call.name, "args": dict(call.arguments)}}
        if call.id is None
        else {"functionCall": {"name": call.name, "args": dict(call.arguments), "id": call.id}}
        for call in answer.tool_calls
    ]


def _count(model: str, request: Request, desk: Desk) -> Reply:
    del model, desk
    inner = request.options.get("generateContentRequest") or request.options
    count = tokens_of(sum(len(text) for part in _prompt(inner) for text in texts_of(part)))
    return json_reply({"totalTokens": count, "promptTokensDetails": _modalities(count, 0, 0)})


def _embedding(options: Mapping[str, Any]) -> Body:
    text = "".join(texts_of(options.get("content")))
    config = options.get("embedContentConfig") or options
    return {"values": vector(text, whole(config.get("outputDimensionality")) or 8)}


def _embed(model: str, request: Request, desk: Desk) -> Reply:
    del model
    _embedded(desk)
    return json_reply({"embedding": _embedding(request.options)})


def _embed_many(model: str, request: Request, desk: Desk) -> Reply:
    del model
    _embedded(desk)
    asked = request.options.get("requests") or []
    return json_reply({"embeddings": [_embedding(one) for one in asked]})


def _embedded(desk: Desk) -> None:
    """Take an answer; an embedding reports no usage, so one that was told is refused."""
    answer = desk.take()
    if answer.usage is not None:
        only(answer.usage, "Gemini's embedding format")


def _predict(model: str, request: Request, desk: Desk) -> Reply:
    """Make pictures, as Imagen does: it reports no usage."""
    del model
    answer = desk.take()
    if answer.usage is not None:
        only(answer.usage, "Imagen's format")
    parameters = request.options.get("parameters") or {}
    number = whole(parameters.get("sampleCount")) or 1
    picture = {"mimeType": "image/png", "bytesBase64Encoded": _picture()}
    return json_reply({"predictions": [picture] * number})


_VERBS: Final = {
    "generateContent": _generate,
    "streamGenerateContent": _stream,
    "countTokens": _count,
    "embedContent": _embed,
    "batchEmbedContents": _embed_many,
    "predict": _predict,
}
