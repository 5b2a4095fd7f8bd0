"""OpenAI's files and batches: a batch has ended as soon as it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from fluxai.core.errors import InvalidRequest
from fluxai.testing.provider.exchange import Reply, Request, dumped, json_reply
from fluxai.testing.provider.forms import uploads_of
from fluxai.testing.provider.wire import Desk

Body = dict[str, Any]

_DAY_SECONDS: Final = 86_400
#: When a batch reached a state; null where it never did.
_MOMENTS: Final = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)
#: Answers one line of a batch, as if it had come as a request.
Ask = Callable[[Request, Desk], Reply | None]


class Files:
    """Files that were uploaded, or written by batches."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[Body, bytes]] = {}

    def upload(self, request: Request, desk: Desk) -> Reply:
        """`POST /v1/files`."""
        uploads = uploads_of(request)
        purpose = next((up.content.decode() for up in uploads if up.field == "purpose"), "batch")
        for upload in uploads:
            if upload.filename is not None:
                return json_reply(self.add(upload.content, upload.filename, purpose, desk))
        raise InvalidRequest("file", "the form has no file")

    def add(self, content: bytes, name: str, purpose: str, desk: Desk) -> Body:
        """Keep a file; return what is said of it."""
        described: Body = {
            "id": desk.new_id("file-"),
            "object": "file",
            "bytes": len(content),
            "created_at": desk.now(),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "expires_at": None,
            "status_details": None,
        }
        self._files[described["id"]] = (described, content)
        return described

    def content(self, key: str) -> bytes | None:
        """Return a file's bytes; None where there is none of that id."""
        found = self._files.get(key)
        return None if found is None else found[1]

    def get(self, key: str, part: str) -> Reply | None:
        """`GET /v1/files/{id}`, and its `/content`."""
        if key not in self._files:
            return None
        described, content = self._files[key]
        if part == "content":
            return Reply(content_type="application/octet-stream", chunks=(content,))
        return json_reply(described)

    def list(self) -> Reply:
        """`GET /v1/files`."""
        found = [described for described, _ in self._files.values()]
        return json_reply({"object": "list", "data": found, "has_more": False})

    def delete(self, key: str) -> Reply | None:
        """`DELETE /v1/files/{id}`."""
        if self._files.pop(key, None) is None:
            return None
        return json_reply({"id": key, "object": "file", "deleted": True})


class Batches:
    """Batches that were begun. Each line takes an answer of the queue when the batch is made."""

    def __init__(self, files: Files, ask: Ask) -> None:
        self._files = files
        self._ask = ask
        self._batches: dict[str, Body] = {}

    def create(self, request: Request, desk: Desk) -> Reply:
        """`POST /v1/batches`: says that the batch is being validated."""
        options = request.options
        source = str(options.get("input_file_id"))
        content = self._files.content(source)
        if content is None:
            raise InvalidRequest("input_file_id", f"there is no file {source}")
        bodies: list[Body] = []
        lines = []
        for line in content.splitlines():
            item = json.loads(line)
            body = self._answer(item, desk)
            bodies.append(body)
            lines.append(_line(item, body, desk))
        output = self._files.add(b"".join(lines), "output.jsonl", "batch_output", desk)
        now = desk.now()
        begun: Body = {
            "id": desk.new_id("batch_"),
            "object": "batch",
            "endpoint": options.get("endpoint"),
            "model": None,
            "errors": None,
            "input_file_id": source,
            "completion_window": options.get("completion_window"),
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + _DAY_SECONDS,
            **dict.fromkeys(_MOMENTS),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "usage": _sum([]),
            "metadata": options.get("metadata"),
        }
        counts = {"total": len(bodies), "completed": len(bodies), "failed": 0}
        self._batches[begun["id"]] = {
            **begun,
            "model": next((body.get("model") for body in bodies), None),
            "status": "completed",
            "output_file_id": output["id"],
            "in_progress_at": now,
            "finalizing_at": now,
            "completed_at": now,
            "request_counts": counts,
            "usage": _sum(bodies),
        }
        return json_reply(begun)

    def get(self, key: str) -> Reply | None:
        """`GET /v1/batches/{id}`: it has ended."""
        found = self._batches.get(key)
        return None if found is None else json_reply(found)

    def list(self) -> Reply:
        """`GET /v1/batches`."""
        found = list(self._batches.values())
        return json_reply({"object": "list", "data": found, "has_more": False})

    def _answer(self, item: Body, desk: Desk) -> Body:
        inner = Request(method="POST", path=item["url"], body=dumped(item["body"]))
        reply = self._ask(inner, desk)
        if reply is None or reply.stream:
            raise InvalidRequest("url", f"a batch can't ask {item['url']}")
        body: Body = json.loads(b"".join(reply.chunks))
        return body


def _line(item: Body, body: Body, desk: Desk) -> bytes:
    response = {"status_code": 200, "request_id": desk.new_id("req_"), "body": body}
    line = {
        "id": desk.new_id("batch_req_"),
        "custom_id": item["custom_id"],
        "response": response,
        "error": None,
    }
    return dumped(line) + b"\n"


def _sum(bodies: Iterable[Body]) -> Body:
    """Return the usage of a batch: that of its lines together, in the words of responses."""
    asked = said = cached = reasoned = 0
    for body in bodies:
        usage = body.get("usage") or {}
        asked += usage.get("prompt_tokens", usage.get("input_tokens", 0))
        said += usage.get("completion_tokens", usage.get("output_tokens", 0))
        inside = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        cached += inside.get("cached_tokens", 0)
        inside = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
        reasoned += inside.get("reasoning_tokens", 0)
    return {
        "input_tokens": asked,
        "output_tokens": said,
        "total_tokens": asked + said,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens_details": {"reasoning_tokens": reasoned},
    }
