"""How providers are called, and how a model's id is spelled in different places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import MappingProxyType
from typing import Final

#: Other names of the providers of the price table, as SDKs, gateways and libraries write them.
PROVIDER_ALIASES: Final = MappingProxyType(
    {
        "amazon": "aws",
        "amazon-bedrock": "aws",
        "azure-ai": "azure",
        "azure-foundry": "azure",
        "azure-openai": "azure",
        "azure-realtime": "azure",
        "bedrock": "aws",
        "bedrock-agent": "aws",
        "bedrock-converse": "aws",
        "bedrock-mantle": "aws",
        "claude": "anthropic",
        "cohere-chat": "cohere",
        "copilot": "github-copilot",
        "fireworks-ai": "fireworks",
        "gemini": "google",
        "genai": "google",
        "google-ai": "google",
        "google-gemini": "google",
        "google-genai": "google",
        "google-gla": "google",
        "google-realtime": "google",
        "google-vertex": "google",
        "grok": "x-ai",
        "mistralai": "mistral",
        "moonshot": "moonshotai",
        "openai-chat": "openai",
        "openai-realtime": "openai",
        "openai-responses": "openai",
        "together-ai": "together",
        "vertex": "google",
        "vertex-ai": "google",
        "vertexai": "google",
        "voyage": "voyageai",
        "xai": "x-ai",
        "xai-realtime": "x-ai",
        "z-ai": "zai",
        "z.ai": "zai",
    }
)
#: What runs on the user's own machines, where no provider charges anything.
LOCAL_PROVIDERS: Final = frozenset({"ollama", "lmstudio", "llamacpp", "gpustack"})
#: Those of them that also sell a hosted service, and how its models are marked.
_HOSTED_MARK: Final = ("-cloud", ":cloud")

_RESOURCE = re.compile(r"^(?:.*/)?publishers/([^/]+)/models/(.+)$")
_ARN = re.compile(r"^arn:aws[^:]*:(?:bedrock|sagemaker):[^:]*:[^:]*:([a-z-]+)/(.+)$")
_BEDROCK = re.compile(
    r"^(?:(?:us|us-gov|eu|apac|au|ca|jp|sa|global)\.)?"
    r"(?:ai21|amazon|anthropic|cohere|deepseek|google|luma|meta|minimax|mistral|moonshot|moonshotai"
    r"|nvidia|openai|qwen|stability|twelvelabs|writer|xai|zai)\.(?=.)"
)
#: Ids that say who made the model, though neither the provider's name nor its usual prefix is in
#: them.
_MAKERS: Final = (
    (
        re.compile(r"text-embedding-(?:3|ada)|text-davinci|dall-e|chatgpt|babbage-0|davinci-0"),
        "openai",
    ),
    (re.compile(r"text-(?:multilingual-)?embedding-0|imagen-|veo-|gemma-"), "google"),
    (re.compile(r"(?:embed|rerank)-(?:english|multilingual|v\d)|c4ai-"), "cohere"),
)
_COMPACT_DATE = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


def provider_name(name: str) -> str:
    """Return the price table's name for a provider, or the name itself in lower case."""
    name = name.strip().lower().replace("_", "-")
    return PROVIDER_ALIASES.get(name, name)


def is_local(provider: str, model: str) -> bool:
    """Say whether the model runs on the user's own machine."""
    return provider in LOCAL_PROVIDERS and not model.endswith(_HOSTED_MARK)


def spellings(model: str) -> Iterator[tuple[str | None, str]]:
    """Yield the (provider, id) pairs that a model's id may mean, the most literal first.

    Args:
        model: As written in a request, a response, or a gateway's configuration.

    Yields:
        The provider in the price table's spelling, or `None` where the id does not say it, and the
        id in lower case.
    """
    text = model.strip().lower()
    found = _ARN.match(text)
    if found:
        # An application inference profile is the user's own name for a model: nothing in it says
        # which, so it is left whole and stays unknown until the user maps it.
        if found[1] in {"foundation-model", "inference-profile"}:
            yield "aws", found[2]
        else:
            yield "aws", text
        return
    found = _RESOURCE.match(text)
    if found:
        yield "google", found[2]
        return
    if _BEDROCK.match(text):
        yield "aws", text
    elif text.startswith("ft:"):
        yield "openai", text
    yield None, text
    for pattern, maker in _MAKERS:
        if pattern.match(text):
            yield maker, text
    dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", text)
    if dashed != text:
        yield None, dashed
    if text.startswith(("models/", "tunedmodels/")):
        yield "google", text.partition("/")[2]
        return
    yield from _prefixed(text)


def _prefixed(text: str) -> Iterator[tuple[str | None, str]]:
    for separator in ("/", ":"):
        prefix, found, rest = text.partition(separator)
        if found and rest:
            yield provider_name(prefix), rest
            # bedrock/converse/…, vertex_ai/publishers/…, openrouter/anthropic/…
            inner = _RESOURCE.match(rest)
            if inner:
                yield "google", inner[2]
            elif prefix == "bedrock":
                yield "aws", rest.partition("/")[2] or rest
