"""OpenAI's addresses, and those of Azure for the same calls."""

from __future__ import annotations

import re
from typing import Final

from fluxai.testing.provider.exchange import Reply, Request, json_reply
from fluxai.testing.provider.openai import chat, completion, embeddings, openai_error
from fluxai.testing.provider.scripts import Failure
from fluxai.testing.provider.wire import Desk

#: `/v1/…`, and Azure's `/openai/v1/…` and `/openai/deployments/{deployment}/…`.
_PATH: Final = re.compile(r"/+(?:openai/+)?(?:v1|deployments/([^/]+))(/.*)")


class OpenAI:
    """What `https://api.openai.com` says."""

    def serves(self, request: Request) -> bool:
        """Say whether the request is for OpenAI or Azure: by its address."""
        return _PATH.fullmatch(request.path) is not None

    def reply(self, request: Request, desk: Desk) -> Reply | None:
        """Answer a request; None where there is no such address."""
        found = _PATH.fullmatch(request.path)
        if found is None:
            return None
        verb = (request.method, found[2])
        if verb == ("POST", "/chat/completions"):
            return chat(request, desk, found[1])
        if verb == ("POST", "/completions"):
            return completion(request, desk)
        if verb == ("POST", "/embeddings"):
            return embeddings(request, desk)
        if verb == ("GET", "/models"):
            return json_reply({"object": "list", "data": []})
        return None

    def error(self, request: Request, failure: Failure, desk: Desk) -> Reply:
        """Say that a request failed."""
        del request
        return openai_error(failure, desk)
