"""Anthropic's wire format: messages, token counts, batches.

Source:
    The API reference of Anthropic, its Python SDK, and recorded responses, with which the tests
    compare each body and each event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fluxai.core.usage import Usage
from fluxai.testing.provider.exchange import Reply, Request, dumped, event_stream, json_reply, sse
from fluxai.testing.provider.scripts import Answer, Failure
from fluxai.testing.provider.wire import (
    CannotSay,
    Desk,
    only,
    only_requests,
    texts_of,
    tokens_of,
    usage_for,
    whole,
)

Body = dict[str, Any]

_FINISH: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_use": "tool_use",
    "content_filter": "refusal",
}
_ERRORS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("invalid_request_error", "The request is not valid."),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Your API key does not have permission to use this resource."),
    404: ("not_found_error", "Not found"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your rate limit."),
    500: ("api_error", "Internal server error"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}
#: What the last event of a stream states again, as sums so far.
_SUMS: Final = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)
_BATCH: Final = re.compile(r"/v1/messages/batches(?:/([^/]+)(/results|/cancel)?)?$")


class Anthropic:
    """What `https://api.anthropic.com` says."""

    def __init__(self, url: str) -> None:
        self._url = url
        #: id of a batch to its resource and the lines of its results.
        self._batches: dict[str, tuple[Body, bytes]] = {}

    def serves(self, request: Request) -> bool:
        """Say whether the request is for Anthropic: by its header, or by its address."""
        return "anthropic-version" in request.headers or request.path.startswith("/v1/messages")

    def reply(self, request: Request, desk: Desk) -> Reply | None:
        """Answer a request; None where there is no such address."""
        verb = (request.method, request.path)
        if verb == ("POST", "/v1/messages"):
            return _message(request, desk)
        if verb == ("POST", "/v1/messages/count_tokens"):
            return json_reply({"input_tokens": _input_tokens(request.options)})
        if verb == ("GET", "/v1/models"):
            return json_reply({"data": [], "has_more": False, "first_id": None, "last_id": None})
        if found := _BATCH.fullmatch(request.path):
            return self._batch(request, desk, found[1], found[2])
        return None

    def error(self, request: Request, failure: Failure, desk: Desk) -> Reply:
        """Say that a request failed."""
        del request
        request_id = desk.new_id("req_")
        headers = {"request-id": request_id}
        if failure.retry_after is not None:
            headers["retry-after"] = str(failure.retry_after)
        body = {"type": "error", "error": _error(failure), "request_id": request_id}
        return json_reply(body, status=failure.status, headers=headers)

    def _batch(
        self, request: Request, desk: Desk, key: str | None, part: str | None
    ) -> Reply | None:
        if key is None and request.method == "POST":
            return json_reply(self._new_batch(request, desk))
        if key is None:
            found = [batch for batch, _ in self._batches.values()]
            return json_reply({"data": found, "has_more": False, "first_id": None, "last_id": None})
        if key not in self._batches:
            return self.error(request, Failure(status=404, message=f"batch: {key}"), desk)
        batch, results = self._batches[key]
        if part == "/results":
            return Reply(content_type="application/x-jsonl", chunks=(results,))
        return json_reply(batch)

    def _new_batch(self, request: Request, desk: Desk) -> Body:
        """Keep a batch that has ended already; say that it has just begun."""
        created = datetime.fromtimestamp(desk.now(), UTC)
        key = desk.new_id("msgbatch_")
        asked = request.options.get("requests") or []
        lines = [
            dumped(
                {
                    "custom_id": item["custom_id"],
                    "result": {"type": "succeeded", "message": _plain(item["params"], desk)},
                }
            )
            for item in asked
        ]
        counts = {
            "processing": len(asked),
            "succeeded": 0,
            "errored": 0,
            "canceled": 0,
            "expired": 0,
        }
        begun: Body = {
            "id": key,
            "type": "message_batch",
            "processing_status": "in_progress",
            "request_counts": counts,
            "ended_at": None,
            "created_at": created.isoformat(),
            "expires_at": (created + timedelta(days=1)).isoformat(),
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": None,
        }
        ended = {
            **begun,
            "processing_status": "ended",
            "request_counts": {**counts, "processing": 0, "succeeded": len(asked)},
            "ended_at": created.isoformat(),
            "results_url": f"{self._url}/v1/messages/batches/{key}/results",
        }
        self._batches[key] = (ended, b"".join(line + b"\n" for line in lines))
        return begun


def _error(failure: Failure) -> Body:
    family = 400 if failure.status < 500 else 500
    kind, message = _ERRORS.get(failure.status) or _ERRORS[family]
    return {"type": kind, "message": failure.message or message}


def _message(request: Request, desk: Desk) -> Reply:
    headers = {"request-id": desk.new_id("req_")}
    if not request.options.get("stream"):
        return json_reply(_plain(request.options, desk), headers=headers)
    return event_stream(
        (sse(event, event=event["type"]) for event in _events(request.options, desk)),
        headers=headers,
    )


def _prompt(options: Mapping[str, Any]) -> tuple[object, ...]:
    return (options.get("system"), options.get("messages"), options.get("tools"))


def _input_tokens(options: Mapping[str, Any]) -> int:
    return tokens_of(sum(len(text) for part in _prompt(options) for text in texts_of(part)))


def _usage(usage: Usage) -> Body:
    """State a usage: the input excludes what was read from a cache or written to it."""
    only(
        usage,
        "Anthropic's format",
        "input",
        "cache_read",
        "cache_write_5m",
        "cache_write_1h",
        "output",
        "reasoning",
        "requests",
    )
    only_requests(usage, "Anthropic's format", "web_search", "web_fetch")
    stated: Body = {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output_total,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }
    if usage.reasoning:
        stated["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    if usage.requests:
        stated["server_tool_use"] = {
            "web_search_requests": usage.requests.get("web_search", 0),
            "web_fetch_requests": usage.requests.get("web_fetch", 0),
        }
    return stated


def _plain(options: Mapping[str, Any], desk: Desk) -> Body:
    answer = desk.take().within(whole(options.get("max_tokens")))
    usage = _usage(usage_for(answer, *_prompt(options)))
    return {
        **_head(answer, options, desk),
        "content": _content(answer, desk),
        **_end(answer),
        "usage": usage,
    }


def _head(answer: Answer, options: Mapping[str, Any], desk: Desk) -> Body:
    return {
        "model": answer.model or str(options.get("model", "")),
        "id": desk.new_id("msg_"),
        "type": "message",
        "role": "assistant",
    }


def _end(answer: Answer) -> Body:
    refused = answer.refusal is not None and answer.finish is None
    reason = "refusal" if refused else _FINISH[answer.finished]
    return {"stop_reason": reason, "stop_sequence": None, "stop_details": None}


def _content(answer: Answer, desk: Desk) -> list[Body]:
    content: list[Body] = []
    if answer.thinking is not None:
        signature = {"signature": "ZmFrZQ=="}
        content.append({"type": "thinking", "thinking": answer.thinking, **signature})
    said = answer.text if answer.refusal is None else answer.refusal
    if said or not answer.tool_calls:
        content.append({"type": "text", "text": said})
    content.extend(
        {
            "type": "tool_use",
            "id": call.id or desk.new_id("toolu_"),
            "name": call.name,
            "input": dict(call.arguments),
            "caller": {"type": "direct"},
        }
        for call in answer.tool_calls
    )
    return content


def _events(options: Mapping[str, Any], desk: Desk) -> Iterator[Body]:
    answer = desk.take().within(whole(options.get("max_tokens")))
    usage = _usage(usage_for(answer, *_prompt(options)))
    late = {
        name: usage.pop(name)
        for name in ("output_tokens_details", "server_tool_use")
        if name in usage
    }
    end = _end(answer)
    begun = {
        **_head(answer, options, desk),
        "content": [],
        **dict.fromkeys(end),
        # The first tokens are out when the input's are known.
        "usage": {**usage, "output_tokens": min(1, usage["output_tokens"])},
    }
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(_content(answer, desk)):
        empty, deltas = _block(block, answer)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        if not index:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    total = {name: usage[name] for name in _SUMS} | late
    yield {"type": "message_delta", "delta": end, "usage": total}
    yield {"type": "message_stop"}


def _block(block: Body, answer: Answer) -> tuple[Body, list[Body]]:
    """Return a block as it begins, and the deltas that fill it."""
    if block["type"] == "text":
        pieces = [{"type": "text_delta", "text": piece} for piece in answer.pieces]
        return {"type": "text", "text": ""}, pieces
    if block["type"] == "thinking":
        return {"type": "thinking", "thinking": "", "signature": ""}, [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    if block["type"] == "tool_use":
        text = dumped(block["input"]).decode()
        pieces = [{"type": "input_json_delta", "partial_json": part} for part in ("", text)]
        return {**block, "input": {}}, pieces
    raise CannotSay("content", f"a block of type {block['type']} has no stream")
