"""OpenAI's Responses: plain, as a stream, in the background, and asked for again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fluxai.core.usage import Usage
from fluxai.testing.provider.exchange import Reply, Request, dumped, event_stream, json_reply, sse
from fluxai.testing.provider.scripts import Answer
from fluxai.testing.provider.wire import (
    Desk,
    only,
    only_requests,
    texts_of,
    tokens_of,
    usage_for,
    whole,
)

Body = dict[str, Any]

_REASONING: Final = {"context": "all_turns", "effort": "none", "mode": "standard", "summary": None}
_NO_PICTURES: Final = {
    f"{side}_tokens{part}": {"image_tokens": 0, "text_tokens": 0} if part else 0
    for side in ("input", "output")
    for part in ("", "_details")
}
#: What an item lacks when a stream begins it.
_EMPTY: Final[Mapping[str, Body]] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "reasoning": {"summary": []},
}


class Responses:
    """Responses that were made, which stay to be asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Body] = {}

    def create(self, request: Request, desk: Desk) -> Reply:
        """`POST /v1/responses`.

        In the background it answers `queued` and states no usage; the finished one is there at once
        for who asks for it by its id.
        """
        options = request.options
        answer = desk.take().within(whole(options.get("max_output_tokens")))
        usage = usage_for(answer, *_prompt(options))
        begun = _begun(options, answer, desk)
        made = _finished(begun, answer, usage, desk)
        if options.get("store") is not False:
            self._made[begun["id"]] = made
        if options.get("stream"):
            events = enumerate(_events(begun, made, answer))
            return event_stream(
                sse({**event, "sequence_number": number}, event=event["type"])
                for number, event in events
            )
        if options.get("background"):
            return json_reply({**begun, "status": "queued"})
        return json_reply(made)

    def get(self, key: str) -> Reply | None:
        """`GET /v1/responses/{id}`, and its `/cancel`, which comes too late; None for another id."""
        made = self._made.get(key)
        return None if made is None else json_reply(made)

    def delete(self, key: str) -> Reply | None:
        """`DELETE /v1/responses/{id}`; None where there is none of that id."""
        if self._made.pop(key, None) is None:
            return None
        return json_reply({"id": key, "object": "response.deleted", "deleted": True})


def input_tokens(request: Request) -> Reply:
    """`POST /v1/responses/input_tokens`: count, and answer nothing."""
    count = tokens_of(
        sum(len(text) for part in _prompt(request.options) for text in texts_of(part))
    )
    return json_reply({"object": "response.input_tokens", "input_tokens": count})


def _prompt(options: Mapping[str, Any]) -> tuple[object, ...]:
    return (options.get("instructions"), options.get("input"), options.get("tools"))


def _usage(usage: Usage) -> Body:
    """State a usage: cached tokens are part of the input, reasoning of the output."""
    name = "OpenAI's format of responses"
    only(usage, name, "input", "cache_read", "cache_write_5m", "output", "reasoning", "requests")
    only_requests(usage, name, "web_search")
    return {
        "input_tokens": usage.input_total,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_5m,
        },
        "output_tokens": usage.output_total,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def _begun(options: Mapping[str, Any], answer: Answer, desk: Desk) -> Body:
    """Return a response that has said nothing yet; most of it repeats the request."""
    text = {"format": {"type": "text"}, "verbosity": "medium", **(options.get("text") or {})}
    return {
        "id": desk.new_id("resp_"),
        "object": "response",
        "created_at": desk.now(),
        "status": "in_progress",
        "background": bool(options.get("background")),
        "completed_at": None,
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": options.get("instructions"),
        "max_output_tokens": options.get("max_output_tokens"),
        "max_tool_calls": options.get("max_tool_calls"),
        "model": answer.model or str(options.get("model", "")),
        "output": [],
        "parallel_tool_calls": options.get("parallel_tool_calls") is not False,
        "presence_penalty": 0.0,
        "previous_response_id": options.get("previous_response_id"),
        "prompt_cache_key": options.get("prompt_cache_key"),
        "prompt_cache_retention": "in_memory",
        "reasoning": {**_REASONING, **(options.get("reasoning") or {})},
        "safety_identifier": None,
        "service_tier": "default",
        "store": options.get("store") is not False,
        "temperature": float(options.get("temperature") or 1.0),
        "text": text,
        "tool_choice": options.get("tool_choice") or "auto",
        "tools": options.get("tools") or [],
        "top_logprobs": 0,
        "top_p": float(options.get("top_p") or 1.0),
        "truncation": options.get("truncation") or "disabled",
        "usage": None,
        "user": options.get("user"),
        "metadata": options.get("metadata") or {},
        "moderation": None,
        "tool_usage": {
            "image_gen": {**_NO_PICTURES, "total_tokens": 0},
            "web_search": {"num_requests": 0},
        },
    }


def _finished(begun: Body, answer: Answer, usage: Usage, desk: Desk) -> Body:
    made = {
        **begun,
        "status": "completed",
        "completed_at": begun["created_at"],
        "output": _output(answer, usage, desk),
        "tool_usage": {
            **begun["tool_usage"],
            "web_search": {"num_requests": usage.requests.get("web_search", 0)},
        },
        "usage": _usage(usage),
    }
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}
    if answer.finished in reason:
        made["status"] = "incomplete"
        made["completed_at"] = None
        made["incomplete_details"] = {"reason": reason[answer.finished]}
    return made


def _output(answer: Answer, usage: Usage, desk: Desk) -> list[Body]:
    output: list[Body] = []
    if answer.thinking is not None:
        summary = [{"type": "summary_text", "text": answer.thinking}]
        output.append({"id": desk.new_id("rs_"), "type": "reasoning", "summary": summary})
    output.extend(
        {
            "id": desk.new_id("ws_"),
            "type": "web_search_call",
            "status": "completed",
            "action": {"type": "search", "query": "fake"},
        }
        for _ in range(usage.requests.get("web_search", 0))
    )
    output.extend(
        {
            "id": desk.new_id("fc_"),
            "type": "function_call",
            "status": "completed",
            "arguments": dumped(dict(call.arguments)).decode(),
            "call_id": call.id or desk.new_id("call_"),
            "name": call.name,
        }
        for call in answer.tool_calls
    )
    if answer.text or answer.refusal is not None or not answer.tool_calls:
        output.append(
            {
                "id": desk.new_id("msg_"),
                "type": "message",
                "status": "incomplete" if answer.finished == "length" else "completed",
                "content": [_said(answer)],
                "role": "assistant",
            }
        )
    return output


def _said(answer: Answer) -> Body:
    if answer.refusal is not None:
        return {"type": "refusal", "refusal": answer.refusal}
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": answer.text}


def _events(begun: Body, made: Body, answer: Answer) -> Iterator[Body]:
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(made["output"]):
        place = {"output_index": index}
        empty = {**item, **_EMPTY.get(item["type"], {})}
        if "status" in item:
            empty["status"] = "in_progress"
        yield {"type": "response.output_item.added", **place, "item": empty}
        for event in _item_events(item, answer):
            yield {**event, **place, "item_id": item["id"]}
        yield {"type": "response.output_item.done", **place, "item": item}
    yield {"type": f"response.{made['status']}", "response": made}


def _item_events(item: Body, answer: Answer) -> Iterator[Body]:
    if item["type"] == "message":
        (part,) = item["content"]
        kind = "refusal" if part["type"] == "refusal" else "text"
        name = "response.refusal" if kind == "refusal" else "response.output_text"
        more: Body = {} if kind == "refusal" else {"logprobs": []}
        place = {"content_index": 0}
        yield {"type": "response.content_part.added", **place, "part": {**part, kind: ""}}
        for piece in answer.pieces:
            yield {"type": f"{name}.delta", **place, "delta": piece, **more}
        yield {"type": f"{name}.done", **place, kind: part[kind], **more}
        yield {"type": "response.content_part.done", **place, "part": part}
    elif item["type"] == "function_call":
        name, text = "response.function_call_arguments", item["arguments"]
        yield {"type": f"{name}.delta", "delta": text}
        yield {"type": f"{name}.done", "arguments": text, "name": item["name"]}
    elif item["type"] == "reasoning":
        (part,) = item["summary"]
        place = {"summary_index": 0}
        name = "response.reasoning_summary"
        yield {"type": f"{name}_part.added", **place, "part": {**part, "text": ""}}
        yield {"type": f"{name}_text.delta", **place, "delta": part["text"]}
        yield {"type": f"{name}_text.done", **place, "text": part["text"]}
        yield {"type": f"{name}_part.done", **place, "part": part}
