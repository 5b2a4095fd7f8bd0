"""Which model can take another's place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fluxai.models.model import Model
    from fluxai.models.registry import ModelRegistry

#: Words of models that are made for one purpose, or that their maker lists but does not serve. One
#: can only stand in for a model that has the same words.
_PURPOSES: Final = re.compile(
    r"realtime|audio|search|tts|transcribe|live|image|moderation|computer|research|^ft:|gpt-oss"
    r"|codex|robotics|embed|guard|instruct|preview|cyber|rosalind|vision|rerank|ocr|thinking|:\w+$"
)
#: OpenAI's reasoning models refuse parameters that the others take, such as `max_tokens` and
#: `temperature`: a call that was written for the others would fail.
_OTHER_PARAMETERS: Final = re.compile(r"(?:^|[/.])(?:o[134](?:-|$)|gpt-[5-9])")
#: How the price table writes Bedrock's models that are called through a region's profile.
_REGIONAL: Final = "regional."
_REGION: Final = re.compile(
    r"(?:^|[/:])((?:us-gov|us|eu|apac|au|ca|jp|sa|global)\.)", re.IGNORECASE
)


def cheapest_able(
    registry: ModelRegistry,
    model_id: str,
    *,
    provider: str | None = None,
    context_needed: int | None = None,
) -> Model | None:
    """Return the cheapest model of the same provider that can take a model's place.

    It is by the same maker, has all its capabilities and at least its context window (or
    `context_needed` tokens), and is dearer neither on input nor on output. Left out are models that
    cost nothing, since what is free has limits that the price table does not tell; deprecated ones;
    those for one purpose; and those that refuse the parameters of the one they would replace.

    Args:
        registry: Where the models are.
        model_id: Any spelling of the model to replace.
        provider: Where it runs, if its id does not say so.
        context_needed: Tokens that have to fit, instead of the model's whole window.

    Returns:
        The record, under an id that the provider takes in a request; or `None`.

    Raises:
        UnknownModel: `model_id` has no price.
    """
    return next(
        able_stand_ins(registry, model_id, provider=provider, context_needed=context_needed), None
    )


def able_stand_ins(
    registry: ModelRegistry,
    model_id: str,
    *,
    provider: str | None = None,
    context_needed: int | None = None,
) -> Iterator[Model]:
    """Yield the models that `cheapest_able` looks for, cheapest first."""
    wanted = registry.get(model_id, provider=provider)
    if "embedding" in wanted.capabilities:
        return  # the vectors of two models can't be compared
    takes_other = _OTHER_PARAMETERS.search(wanted.id.lower()) is not None
    purposes = set(_PURPOSES.findall(wanted.id.lower()))
    window = context_needed or wanted.context_window or 0
    limit_in = wanted.input_price or 0
    limit_out = wanted.output_price or 0
    for model in registry.list(provider=wanted.provider, enabled=True):
        entering, leaving = model.input_price, model.output_price or 0
        if (
            model.id != wanted.id
            and not model.free
            and not model.deprecated
            and entering is not None
            and entering <= limit_in
            and leaving <= limit_out
            and (entering < limit_in or leaving < limit_out)
            and (model.context_window or 0) >= window
            and wanted.capabilities <= model.capabilities
            and _maker(wanted) == _maker(model)
            and purposes.issuperset(_PURPOSES.findall(model.id.lower()))
            and (takes_other or not _OTHER_PARAMETERS.search(model.id.lower()))
        ):
            yield _callable(model, model_id)


def serves_one_purpose(model_id: str) -> bool:
    """Say whether a model is made for one purpose, or listed but not served."""
    return _PURPOSES.search(model_id.lower()) is not None


def _maker(model: Model) -> str:
    """Return who made a model, where a reseller's id says so: `anthropic/…`, `us.anthropic.…`."""
    name = model.id.lower().removeprefix(_REGIONAL)
    if "/" in name:
        return name.partition("/")[0]
    if model.provider == "aws":
        return _REGION.sub("", name).partition(".")[0]
    return ""


def _callable(model: Model, asked_for: str) -> Model:
    """Return the record under the id of the region that was asked for."""
    if not model.id.startswith(_REGIONAL):
        return model
    found = _REGION.search(asked_for)
    region = found[1].lower() if found else ""
    return model.model_copy(update={"id": region + model.id.removeprefix(_REGIONAL)})
