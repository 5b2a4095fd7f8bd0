"""Recorded requests and responses, and whether a request shows all that was billed."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fluxai.core.usage import Usage
from fluxai.costs.plain import fields

Record = Mapping[str, Any]

VARIABLE = "FLUXAI_TEST_DATA"


def load() -> list[Record]:
    """Return every recorded response; end the program where there are none."""
    place = os.environ.get(VARIABLE)
    if not place:
        sys.exit(f"{VARIABLE} names no folder: there is nothing to measure")
    with gzip.open(Path(place) / "provider_responses.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def body(record: Record) -> Any:
    """Return what an application would have in hand: the JSON, or the stream's chunks."""
    if record.get("response") is not None:
        return record["response"]
    chunks = {chunk["i"]: chunk["data"] for chunk in (record.get("stream") or {}).get("chunks", ())}
    return [chunks[index] for index in sorted(chunks)]


def model_asked_for(record: Record) -> str | None:
    """Return the model of the request, from its body or its address."""
    if record["model_requested"]:
        return str(record["model_requested"])
    path = urllib.parse.unquote(record["endpoint"])
    found = (
        re.search(r"/model/(.+?)/(?:converse|invoke)", path)
        or re.search(r"models/([^:/]+):", path)
        or re.search(r"deployments/([^/]+)/", path)
    )
    return found and found[1]


def held_out(record: Record) -> bool:
    """Say whether a record's file was left out of every fit: half of them, by a digest."""
    return hashlib.sha256(record["source"]["file"].encode()).digest()[0] % 2 == 1


def messages_of(record: Record) -> list[dict[str, str]]:
    """Return the messages: the recording has their joined text and their number."""
    request = record["request"]
    more = max(1, request["n_messages"]) - 1
    return [{"role": "user", "content": request["messages_text"]}] + [
        {"role": "user", "content": ""} for _ in range(more)
    ]


def tools_of(record: Record) -> list[Any]:
    """Return the tools, where the response repeats all that the request had."""
    shown = []
    for source in _bodies(record):
        tools = source.get("tools")
        if isinstance(tools, list):
            shown = [tool for tool in tools if isinstance(tool, dict)]
    return shown if len(shown) == record["request"].get("n_tools") else []


def _bodies(record: Record) -> Iterator[Mapping[str, Any]]:
    seen = body(record)
    for chunk in seen if isinstance(seen, list) else [seen]:
        if isinstance(chunk, dict):
            yield chunk
            inner = fields(chunk.get("response"))
            if inner:
                yield inner


_SCHEMA = re.compile(
    r"json_schema|responseSchema|responseJsonSchema|response_schema|output_config|json_object"
    r'|"format"|responseMimeType|structured-outputs'
)
_FILE = re.compile(r"\bfile[-_][A-Za-z0-9-]{12,}|https?://\S+\.(?:pdf|png|jpe?g|mp3|mp4|wav)\b")
_CALLS = re.compile(
    r'"(?:tool_calls|function_call|functionCall|toolUse)": *[\[{]|"type": "tool_use"'
)
_STATE = re.compile(r'"(?:conversation|prompt|context_management)": *\{|"type": "compaction"')
_SERVER = re.compile(
    r'"type": "(?:mcp_|server_tool_use|web_search_call|file_search_call|code_interpreter_call)'
    r'|"executed_tools"|"groundingMetadata"|"executableCode"'
)
#: How providers write tools that the caller runs. Anthropic's have no type: a field stands for it.
_PLAIN_TOOLS = {"function", "name", "description", "toolSpec"}
_DEFERRED = re.compile(r'"defer_loading": true|"type": "tool_search')
_THINKS = re.compile(r'"(?:thinking|reasoning_config)": \{|"reasoning": \{')


def hidden(record: Record, usage: Usage) -> str | None:
    """Return why a request does not show all that was billed; `None` where it does."""
    request = record["request"] or {}
    if record["status"] != 200 and record["status"] != 101:
        return "not a success"
    if not usage.input_total or {"token_count", "no_usage"} & set(usage.flags):
        return "no input reported"
    if "clamped" in usage.flags:
        return "the usage contradicts itself"
    text = request.get("messages_text")
    if not text or not text.strip():
        return "the request's text was not recorded"
    if request["truncated"]:
        return "the recording cut the text off"
    if (
        request["n_media"]
        or usage.image_in
        or usage.audio_in
        or "/images/" in record["endpoint"]
        or _FILE.search(text)
    ):
        return "images, audio or files"
    options = json.dumps({key: value for key, value in request.items() if key != "messages_text"})
    answer = json.dumps(body(record))
    if _SCHEMA.search(options) or '"type": "json_schema"' in answer or _answers_json(record):
        return "a schema for the answer"
    if usage.requests or _SERVER.search(answer) or "web_search_options" in request:
        return "tools that run at the provider"
    if len(usage.parts) > 1 or _STATE.search(answer) or request.get("previous_response_id"):
        return "state kept by the provider"
    if usage.cache_read + usage.cache_write > 4 * len(text):
        return "state kept by the provider"
    if "provider" in request or "models" in request or "preset" in record["source"]["file"]:
        return "a router chose another model"
    model = (model_asked_for(record) or record["model_response"] or "").lower()
    if not model:
        return "no model named"
    if "claude" in model and (_THINKS.search(options) or "thinking" in model):
        return "instructions for thinking"
    if not request["n_tools"]:
        if _CALLS.search(answer) or tools_echoed(record):
            return "tools that the recording does not show"
    elif not set(request["tool_types"]) <= _PLAIN_TOOLS or _DEFERRED.search(answer):
        return "tools that run at the provider"
    elif not tools_of(record):
        return "the tools' text was not recorded"
    return None


def tools_echoed(record: Record) -> bool:
    """Say whether the response repeats tools."""
    return any(source.get("tools") for source in _bodies(record))


def _answers_json(record: Record) -> bool:
    """Say whether the answer is a JSON object: so it was asked for, in words or by a schema."""
    response = record.get("response")
    return isinstance(response, dict) and any(
        text.lstrip().startswith("{") for text in _answer_texts(response, 0)
    )


def _answer_texts(value: object, depth: int) -> Iterator[str]:
    if depth > 6:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in {"text", "content"} and isinstance(inner, str):
                yield inner
            elif key in {"choices", "message", "content", "output", "candidates", "parts"}:
                yield from _answer_texts(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _answer_texts(inner, depth + 1)
