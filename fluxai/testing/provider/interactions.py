"""The interactions of the Gemini API, as google-genai calls them.

Source:
    The types of the Python SDK google-genai 3.4; no recorded responses were at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fluxai.core.usage import Usage
from fluxai.testing.provider.exchange import Reply, Request, dumped, event_stream, json_reply, sse
from fluxai.testing.provider.scripts import Answer, Failure
from fluxai.testing.provider.wire import Desk, only, usage_for, whole

Body = dict[str, Any]

_PATH: Final = re.compile(r"/v1(?:alpha|beta\d?)?/(?:.*/)?interactions(?:/([^/]+))?(/cancel)?")
_STATUS: Final = {
    "stop": "completed",
    "length": "incomplete",
    "tool_use": "requires_action",
    "content_filter": "failed",
}


class Interactions:
    """Interactions that were made, which stay to be asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Body] = {}

    def serves(self, request: Request) -> bool:
        """Say whether the request is about interactions."""
        return _PATH.fullmatch(request.path) is not None

    def reply(self, request: Request, desk: Desk) -> Reply | None:
        """Answer a request; None where there is no such address or interaction."""
        found = _PATH.fullmatch(request.path)
        if found is None:
            return None
        if found[1] is None:
            return self._create(request.options, desk) if request.method == "POST" else None
        if found[1] not in self._made:
            return None
        if request.method == "DELETE":
            del self._made[found[1]]
            return json_reply({})
        return json_reply(self._made[found[1]])

    def error(self, failure: Failure, status: str, message: str) -> Reply:
        """Say that a request failed: here the code is a text."""
        headers = {}
        if failure.retry_after is not None:
            headers["retry-after"] = str(failure.retry_after)
        error = {"code": status.lower(), "message": message}
        return json_reply({"error": error}, status=failure.status, headers=headers)

    def _create(self, options: Mapping[str, Any], desk: Desk) -> Reply:
        config = options.get("generation_config") or {}
        answer = desk.take().within(whole(config.get("max_output_tokens")))
        usage = usage_for(
            answer, options.get("system_instruction"), options.get("input"), options.get("tools")
        )
        moment = datetime.fromtimestamp(desk.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        begun: Body = {
            "id": desk.new_id("interaction-"),
            "status": "in_progress",
            "object": "interaction",
            "model": answer.model or options.get("model"),
            "created": moment,
            "updated": moment,
        }
        made = {
            **begun,
            "status": "failed" if answer.refusal is not None else _STATUS[answer.finished],
            "steps": _steps(answer, desk),
            "usage": _usage(usage),
        }
        if options.get("store") is not False:
            self._made[begun["id"]] = made
        if options.get("stream"):
            return event_stream([*_events(begun, made, answer), sse("[DONE]", event="done")])
        if options.get("background"):
            return json_reply(begun)
        return json_reply(made)


def _usage(usage: Usage) -> Body:
    only(usage, "the format of interactions", "input", "cache_read", "output", "reasoning")
    asked, said = usage.input_total, usage.output
    return {
        "total_tokens": usage.total,
        "total_input_tokens": asked,
        "input_tokens_by_modality": [{"modality": "text", "tokens": asked}],
        "total_cached_tokens": usage.cache_read,
        "total_output_tokens": said,
        "total_tool_use_tokens": 0,
        "total_thought_tokens": usage.reasoning,
    }


def _steps(answer: Answer, desk: Desk) -> list[Body]:
    steps: list[Body] = []
    if answer.thinking is not None:
        summary = [{"type": "text", "text": answer.thinking}]
        steps.append({"type": "thought", "signature": "ZmFrZQ==", "summary": summary})
    said = answer.text if answer.refusal is None else answer.refusal
    if said or not answer.tool_calls:
        content = [{"type": "text", "text": said}]
        steps.append({"type": "model_output", "content": content})
    steps.extend(
        {
            "type": "function_call",
            "id": call.id or desk.new_id("call_"),
            "name": call.name,
            "arguments": dict(call.arguments),
        }
        for call in answer.tool_calls
    )
    return steps


def _events(begun: Body, made: Body, answer: Answer) -> Iterator[bytes]:
    for event in _told(begun, made, answer):
        yield sse(event, event=event["event_type"])


def _told(begun: Body, made: Body, answer: Answer) -> Iterator[Body]:
    yield {"event_type": "interaction.created", "interaction": begun}
    yield {
        "event_type": "interaction.status_update",
        "interaction_id": begun["id"],
        "status": "in_progress",
    }
    for index, step in enumerate(made["steps"]):
        empty, deltas = _step(step, answer)
        yield {"event_type": "step.start", "index": index, "step": empty}
        for delta in deltas:
            yield {"event_type": "step.delta", "index": index, "delta": delta}
        yield {"event_type": "step.stop", "index": index}
    last = {name: value for name, value in made.items() if name != "steps"}
    yield {"event_type": "interaction.completed", "interaction": last}


def _step(step: Body, answer: Answer) -> tuple[Body, list[Body]]:
    """Return a step as it begins, and the deltas that fill it."""
    if step["type"] == "model_output":
        return {"type": "model_output"}, [
            {"type": "text", "text": piece} for piece in answer.pieces
        ]
    if step["type"] == "function_call":
        text = dumped(step["arguments"]).decode()
        return {**step, "arguments": {}}, [{"type": "arguments_delta", "arguments": text}]
    (summary,) = step["summary"]
    return {"type": "thought"}, [
        {"type": "thought_summary", "content": summary},
        {"type": "thought_signature", "signature": step["signature"]},
    ]
