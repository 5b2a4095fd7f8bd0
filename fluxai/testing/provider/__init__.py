"""A provider for tests: it speaks the wire formats of OpenAI, Anthropic and Gemini."""

from __future__ import annotations

from fluxai.testing.provider.exchange import Request
from fluxai.testing.provider.fake import FakeProvider
from fluxai.testing.provider.scripts import Answer, Gate, ToolCall

__all__ = ["Answer", "FakeProvider", "Gate", "Request", "ToolCall"]
