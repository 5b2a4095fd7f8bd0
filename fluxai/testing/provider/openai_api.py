"""OpenAI's addresses, and those of Azure for the same calls."""

from __future__ import annotations

import re
from typing import Final

from fluxai.testing.provider.exchange import Reply, Request, json_reply
from fluxai.testing.provider.openai import azure_error, chat, completion, embeddings, openai_error
from fluxai.testing.provider.openai_batches import Batches, Files
from fluxai.testing.provider.openai_media import images, speech, transcription
from fluxai.testing.provider.openai_responses import Responses, input_tokens
from fluxai.testing.provider.scripts import Failure
from fluxai.testing.provider.wire import Desk

#: `/v1/…`, and Azure's `/openai/v1/…` and `/openai/deployments/{deployment}/…`.
_PATH: Final = re.compile(r"/+(?P<azure>openai/+)?(?:v1|deployments/([^/]+))/(?P<rest>.+)")


class OpenAI:
    """What `https://api.openai.com` says, and Azure where it says the same."""

    def __init__(self) -> None:
        self._responses = Responses()
        self._files = Files()
        self._batches = Batches(self._files, self.reply)

    def serves(self, request: Request) -> bool:
        """Say whether the request is for OpenAI or Azure: by its address."""
        return _PATH.fullmatch(request.path) is not None

    def reply(self, request: Request, desk: Desk) -> Reply | None:
        """Answer a request; None where there is no such address."""
        found = _PATH.fullmatch(request.path)
        if found is None:
            return None
        match request.method, *found["rest"].split("/"):
            case "POST", "chat", "completions":
                return chat(request, desk, azure=found["azure"] is not None, deployment=found[2])
            case "POST", "completions":
                return completion(request, desk)
            case "POST", "embeddings":
                return embeddings(request, desk)
            case "POST", "images", "generations" | "edits":
                return images(request, desk)
            case "POST", "audio", "speech":
                return speech(desk)
            case "POST", "audio", "transcriptions" | "translations":
                return transcription(request, desk)
            case "GET", "models", *key:
                return _models(key, desk)
            case method, "responses", *key:
                return self._about_responses(method, key, request, desk)
            case method, "files", *key:
                return self._about_files(method, key, request, desk)
            case method, "batches", *key:
                return self._about_batches(method, key, request, desk)
        return None

    def error(self, request: Request, failure: Failure, desk: Desk) -> Reply:
        """Say that a request failed."""
        found = _PATH.fullmatch(request.path)
        if found is not None and found["azure"] is not None:
            return azure_error(failure)
        return openai_error(failure, desk)

    def _about_responses(
        self, method: str, key: list[str], request: Request, desk: Desk
    ) -> Reply | None:
        match method, *key:
            case ["POST"]:
                return self._responses.create(request, desk)
            case "POST", "input_tokens":
                return input_tokens(request)
            case "GET", found:
                return self._responses.get(found)
            case "POST", found, "cancel":
                return self._responses.get(found)
            case "DELETE", found:
                return self._responses.delete(found)
        return None

    def _about_files(
        self, method: str, key: list[str], request: Request, desk: Desk
    ) -> Reply | None:
        match method, *key:
            case ["POST"]:
                return self._files.upload(request, desk)
            case ["GET"]:
                return self._files.list()
            case "GET", found, *part:
                return self._files.get(found, "/".join(part))
            case "DELETE", found:
                return self._files.delete(found)
        return None

    def _about_batches(
        self, method: str, key: list[str], request: Request, desk: Desk
    ) -> Reply | None:
        match method, *key:
            case ["POST"]:
                return self._batches.create(request, desk)
            case ["GET"]:
                return self._batches.list()
            case "GET", found:
                return self._batches.get(found)
            case "POST", found, "cancel":
                return self._batches.get(found)
        return None


def _models(key: list[str], desk: Desk) -> Reply:
    """List one model, or describe any that is asked for."""
    name = "/".join(key) or "gpt-4o"
    model = {"id": name, "object": "model", "created": desk.now(), "owned_by": "openai"}
    return json_reply(model if key else {"object": "list", "data": [model]})
