"""Pydantic AI: budgets for an agent's model calls and tools, as a capability. Needs `pydantic-ai`.

    agent = Agent(model, capabilities=[BudgetCapability(governor, tenant="acme")])

A model whose client is wrapped is governed by that client, which sees more: every attempt, and each
chunk of a stream. The capability then names the run and ends it. For any other model it reserves
itself, and settles by the response that comes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ToolReturnPart,
    UserPromptPart,
)

from fluxai.context import held_outside, is_governed
from fluxai.core.errors import Refused
from fluxai.guard import Call, CallArguments
from fluxai.integrations.account import Account, OnRefusal, facts, why

if TYPE_CHECKING:
    from pydantic_ai.models import Model, ModelRequestContext, ModelRequestParameters

    from fluxai.governor import Governor


class BudgetCapability(AbstractCapability[Any]):
    """Holds money for each model call of an agent, and for each call of a tool that has a price.

    Calls carry the labels `run` and `conversation`, as Pydantic AI knows them, so that a policy of
    the scope `label` can limit what one of them spends.

    Args:
        governor: Holds the budgets. A tool has a price when it is in `governor.tools` by its name.
        tenant: Whose budgets; otherwise that of the `fluxai.subject()` block.
        user: Which user of it.
        labels: Labels of every call.
        models: By id, the models that a downgrade may move a call to; otherwise calls that pass the
            limit of a downgrade are refused. Models with a wrapped client need none.
        on_refusal: `"raise"` raises the refusal out of the agent. `"end"` ends the run with a text
            that says why (the response's `provider_details["fluxai"]` says it to programs), and
            answers a refused tool call with a failure that the model sees. An agent whose output
            is more than text raises all the same.

    Raises:
        ConfigurationError: `on_refusal` is something else.
    """

    def __init__(
        self,
        governor: Governor,
        *,
        tenant: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        models: Mapping[str, Model] | None = None,
        on_refusal: OnRefusal = "raise",
    ) -> None:
        self._account: Account[Model] = Account(
            governor,
            tenant=tenant,
            user=user,
            labels=labels,
            models=models,
            on_refusal=on_refusal,
        )

    async def wrap_model_request(
        self,
        ctx: Any,
        *,
        request_context: ModelRequestContext,
        handler: Callable[[ModelRequestContext], Awaitable[ModelResponse]],
    ) -> ModelResponse:
        """Hold money around a model call."""
        hops = self._account.governor.hops
        try:
            with self._account.of_run(_identity(ctx)):
                if is_governed(getattr(request_context.model, "client", None)):
                    return await handler(request_context)
                call = await self._account.begin_async(_asked(request_context))
                try:
                    self._grant(request_context, call)
                    with held_outside():
                        response = await handler(request_context)
                except BaseException as error:
                    failed = error
                    await hops.run(lambda: call.end(failed))
                    raise
                await hops.run(lambda: call.settle_result(_said(response)))
                return response
        except Refused as refused:
            if not (self._account.ends and _takes_text(request_context)):
                raise
            return ModelResponse(
                parts=[TextPart(why(refused))], provider_details={"fluxai": facts(refused)}
            )

    async def wrap_tool_execute(
        self,
        ctx: Any,
        *,
        call: Any,
        tool_def: Any,
        args: Any,
        handler: Callable[[Any], Awaitable[Any]],
    ) -> Any:
        """Hold the price of a tool around its call."""
        del tool_def
        governor, name = self._account.governor, call.tool_name
        if not await governor.hops.run(lambda: self._account.prices(name)):
            return await handler(args)
        try:
            with self._account.of_run(_identity(ctx)):
                async with governor.guard(tool=name, fixed_tool=True) as held:
                    result = await handler(args)
                    await held.settle()
                    return result
        except Refused as refused:
            if not self._account.ends:
                raise
            raise ToolFailed(why(refused)) from refused

    def _grant(self, request: ModelRequestContext, call: Call) -> None:
        """Put the model and the output cap that were granted into the request."""
        if call.decision == "downgraded" and call.model is not None:
            request.model = self._account.models[call.model]
        if call.max_output_tokens not in (None, _cap(request)):
            request.model_settings = {
                **(request.model_settings or {}),
                "max_tokens": call.max_output_tokens,
            }


def _takes_text(request: ModelRequestContext) -> bool:
    return bool(request.model_request_parameters.output_mode == "text")


def _identity(ctx: Any) -> dict[str, str | None]:
    return {"run": ctx.run_id, "conversation": ctx.conversation_id}


def _asked(request: ModelRequestContext) -> CallArguments:
    parameters = request.model_request_parameters
    arguments = CallArguments(
        model=request.model.model_name, messages=_messages(request.messages, parameters)
    )
    tools = [*parameters.function_tools, *parameters.output_tools]
    if tools:
        arguments["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description or "",
                    "parameters": tool.parameters_json_schema,
                },
            }
            for tool in tools
        ]
    cap = _cap(request)
    if cap is not None:
        arguments["max_output_tokens"] = cap
    return arguments


def _cap(request: ModelRequestContext) -> int | None:
    settings = {**(request.model.settings or {}), **(request.model_settings or {})}
    cap = settings.get("max_tokens")
    return cap if type(cap) is int else None


def _messages(
    history: Sequence[ModelMessage], parameters: ModelRequestParameters
) -> list[dict[str, Any]]:
    """Return a conversation in the words of OpenAI's API, in which it is counted."""
    told: list[dict[str, Any]] = []
    instructions = [part.content for part in parameters.instruction_parts or ()]
    if not instructions and history and isinstance(history[-1], ModelRequest):
        instructions = [history[-1].instructions or ""]
    told += [{"role": "system", "content": text} for text in instructions if text]
    for message in history:
        if isinstance(message, ModelResponse):
            told.append({"role": "assistant", **_answer(message)})
            continue
        told += [_part(part) for part in message.parts]
    return told


def _part(part: Any) -> dict[str, Any]:
    match part:
        case SystemPromptPart():
            return {"role": "system", "content": part.content}
        case UserPromptPart():
            content = [part.content] if isinstance(part.content, str) else part.content
            return {"role": "user", "content": [_content(item) for item in content]}
        case ToolReturnPart():
            return {
                "role": "tool",
                "tool_call_id": part.tool_call_id,
                "content": part.model_response_str(),
            }
        case RetryPromptPart():
            return {"role": "user", "content": part.model_response()}
    return {"role": "user", "content": str(getattr(part, "content", part))}


def _content(item: Any) -> dict[str, Any]:
    if isinstance(item, ImageUrl):
        return {"type": "image_url", "image_url": {"url": item.url}}
    if isinstance(item, BinaryContent):
        if item.is_image:
            return {"type": "image_url", "image_url": {"url": item.data_uri}}
        return {"type": "file", "file": {"file_data": item.data_uri}}
    if hasattr(item, "url"):
        return {"type": "file", "file": {"file_url": item.url}}
    return {"type": "text", "text": item if isinstance(item, str) else str(item)}


def _answer(response: ModelResponse) -> dict[str, Any]:
    calls = [
        {
            "id": call.tool_call_id,
            "type": "function",
            "function": {"name": call.tool_name, "arguments": call.args_as_json_str()},
        }
        for call in response.tool_calls
    ]
    return {"content": response.text or "", **({"tool_calls": calls} if calls else {})}


def _said(response: ModelResponse) -> dict[str, Any]:
    """Return a response in the words of OpenAI's API, in which its usage is read.

    Pydantic AI counts as that does: all input is in one number, and what was cached is a part of it.
    """
    said: dict[str, Any] = {
        "model": response.model_name,
        "choices": [{"message": {"role": "assistant", **_answer(response)}}],
    }
    usage = response.usage
    if usage.has_values():
        said["usage"] = {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "prompt_tokens_details": {
                "cached_tokens": usage.cache_read_tokens,
                "cache_write_tokens": usage.cache_write_tokens,
                "audio_tokens": usage.input_audio_tokens,
            },
            "completion_tokens_details": {
                "audio_tokens": usage.output_audio_tokens,
                "reasoning_tokens": usage.details.get("reasoning_tokens", 0),
            },
        }
    return said
