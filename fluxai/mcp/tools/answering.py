"""Tools that answer: a prompt by the model that suits it, and a picture."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import mcp_types as types
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from fluxai.mcp.tools.tool import Arguments, GivenAmount, GovernorTool, Result, ShownAmount, UserId

if TYPE_CHECKING:
    from fluxai import Image
    from fluxai.core.attempts import Attempt
    from fluxai.core.usage import Usage
    from fluxai.governor import Governor
    from fluxai.mcp.identity import Identity


class Preferences(BaseModel):
    """What matters most; by default the model that the prompt calls for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefer_speed: bool = False
    prefer_cost: bool = False
    prefer_quality: bool = False
    max_cost_per_request: Annotated[
        GivenAmount | None, Field(description="USD that the whole request may cost.")
    ] = None


class SmartComplete(Arguments):
    """Arguments of `smart_complete`."""

    prompt: Annotated[str, Field(min_length=1, description="What is asked.")]
    context: Annotated[str | None, Field(description="What was said or known before.")] = None
    preferences: Preferences = Preferences()
    system_instruction: Annotated[str | None, Field(description="How to answer.")] = None
    max_tokens: Annotated[
        int | None, Field(gt=0, le=10**7, description="How long the answer may be.")
    ] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    user_id: UserId = None


class Failure(Result):
    """A model that was asked before, and why it did not answer."""

    model: str
    provider: str
    error: str
    cost: Annotated[ShownAmount, Field(description="USD that it cost all the same.")]


class Answer(Result):
    """An answer, the model that gave it, and what it cost. Pictures follow as content."""

    text: str
    model: str
    display_name: str
    provider: str
    reason: str
    complexity: str
    task_type: str
    confidence: Annotated[float, Field(description="The probability that task_type is right.")]
    input_tokens: int
    output_tokens: int
    cost: Annotated[ShownAmount, Field(description="USD.")]
    saved: Annotated[ShownAmount, Field(description="USD, against premium_model.")]
    premium_model: str | None
    alternatives: list[str]
    finish: str | None
    attempts: list[Failure]
    reservation_id: str | None
    _pictures: tuple[Image, ...] = PrivateAttr(default=())


def _smart_complete(governor: Governor, who: Identity, asked: SmartComplete) -> Answer:
    wishes: dict[str, bool | Decimal] = {
        name: value for name, value in asked.preferences if value is not False and value is not None
    }
    found = governor.smart_complete(
        asked.prompt,
        tenant=who.tenant_of(asked.tenant_id),
        user=who.user_of(asked.user_id),
        context=asked.context,
        preferences=wishes,
        system_instruction=asked.system_instruction,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
    )
    names = (
        *("text", "model", "display_name", "provider", "reason", "complexity", "task_type"),
        *("confidence", "cost", "saved", "premium_model", "finish", "reservation_id"),
    )
    answer = Answer.model_validate(
        {
            **{name: getattr(found, name) for name in names},
            **_tokens(found.usage),
            "alternatives": list(found.alternatives),
            "attempts": _failures(found.attempts),
        }
    )
    answer._pictures = found.images
    return answer


class GenerateImage(Arguments):
    """Arguments of `generate_image`."""

    prompt: Annotated[str, Field(min_length=1, description="What the picture is to show.")]
    model: Annotated[str | None, Field(description="The model that has to make it.")] = None
    size: Annotated[str | None, Field(description="Such as 1024x1024.")] = None
    user_id: UserId = None


class Picture(Result):
    """What a picture cost, and who made it. The picture follows as content."""

    media_type: str
    bytes: int
    model: str
    display_name: str
    provider: str
    reason: str
    cost: Annotated[ShownAmount, Field(description="USD.")]
    attempts: list[Failure]
    reservation_id: str | None
    _pictures: tuple[Image, ...] = PrivateAttr(default=())


def _generate_image(governor: Governor, who: Identity, asked: GenerateImage) -> Picture:
    found = governor.generate_image(
        asked.prompt,
        tenant=who.tenant_of(asked.tenant_id),
        user=who.user_of(asked.user_id),
        model=asked.model,
        size=asked.size,
    )
    names = ("media_type", "model", "display_name", "provider", "reason", "cost", "reservation_id")
    picture = Picture.model_validate(
        {
            **{name: getattr(found, name) for name in names},
            "bytes": len(found.data),
            "attempts": _failures(found.attempts),
        }
    )
    picture._pictures = (found,)
    return picture


def _tokens(usage: Usage) -> dict[str, int]:
    return {"input_tokens": usage.input_total, "output_tokens": usage.output_total}


def _failures(attempts: tuple[Attempt, ...]) -> list[dict[str, Any]]:
    return [
        {
            "model": attempt.model,
            "provider": attempt.provider,
            "error": str(attempt.error),
            "cost": attempt.cost,
        }
        for attempt in attempts
    ]


def _pictures(result: BaseModel) -> list[types.ContentBlock]:
    """Show the pictures of a result as content."""
    images: tuple[Image, ...] = getattr(result, "_pictures", ())
    return [
        types.ImageContent(
            type="image",
            data=base64.b64encode(image.data).decode(),
            mime_type=image.media_type,
        )
        for image in images
    ]


ANSWERING: tuple[GovernorTool[Any], ...] = (
    GovernorTool(
        name="smart_complete",
        title="Answer a prompt by the model that suits it",
        description="Let the server choose a model for a prompt and answer it: a cheaper model where "
        "that will do, a better one where the prompt is hard, of the providers that are configured "
        "(OpenAI, Anthropic, Gemini). Within the budget: it is refused, with the reason, when no "
        "money is left. Answers with the model, why it was chosen, what it cost and what it saved. "
        "A prompt that asks for a picture is answered by one.",
        arguments=SmartComplete,
        result=Answer,
        run=_smart_complete,
        blocks=_pictures,
        open_world=True,
        waits=True,
    ),
    GovernorTool(
        name="generate_image",
        title="Generate an image",
        description="Make a picture from a description, by an image model that is configured and that "
        "the budget has room for. Answers with the image, the model, and its cost in USD.",
        arguments=GenerateImage,
        result=Picture,
        run=_generate_image,
        blocks=_pictures,
        open_world=True,
        waits=True,
    ),
)
