"""LangChain: budgets for an agent's model calls and tools, as middleware. Needs `langchain`.

    agent = create_agent(model, tools, middleware=[BudgetMiddleware(governor, tenant="acme")])

A model whose client is wrapped is governed by that client, which sees more: every attempt, and each
chunk of a stream. The middleware then names the run and ends it. For any other model it reserves
itself, and settles by the message that comes back.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, ToolMessage, convert_to_openai_messages
from langchain_core.utils.function_calling import convert_to_openai_tool

from fluxai.context import held_outside, is_governed
from fluxai.core.errors import Refused
from fluxai.guard import Call, CallArguments
from fluxai.integrations.account import Account, OnRefusal, facts, why

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from fluxai.governor import Governor

#: Under which names LangChain's models take the output cap.
_CAPS = ("max_tokens", "max_output_tokens")
#: Where they keep what sends their requests: the SDK's client, or a resource of it.
_CLIENTS = ("root_client", "client")
_ASYNC_CLIENTS = ("root_async_client", "async_client")


class BudgetMiddleware(AgentMiddleware):
    """Holds money for each model call of an agent, and for each call of a tool that has a price.

    Calls carry the labels `run` and `thread`, as LangGraph knows them, so that a policy of the
    scope `label` can limit what one of them spends.

    Args:
        governor: Holds the budgets. A tool has a price when it is in `governor.tools` by its name.
        tenant: Whose budgets; otherwise that of the `fluxai.subject()` block.
        user: Which user of it.
        labels: Labels of every call.
        models: By id, the models that a downgrade may move a call to; otherwise calls that pass the
            limit of a downgrade are refused. Models with a wrapped client need none.
        on_refusal: `"raise"` raises the refusal out of the agent. `"end"` ends the run with an
            `AIMessage` that says why (its `response_metadata["fluxai"]` says it to programs), and
            answers a refused tool call with an error that the model sees.

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
        models: Mapping[str, BaseChatModel] | None = None,
        on_refusal: OnRefusal = "raise",
    ) -> None:
        super().__init__()
        self._account: Account[BaseChatModel] = Account(
            governor,
            tenant=tenant,
            user=user,
            labels=labels,
            models=models,
            on_refusal=on_refusal,
        )

    def wrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]
    ) -> ModelResponse | AIMessage:
        """Hold money around a model call."""
        try:
            with self._account.of_run(_identity(request.runtime)):
                if _is_governed(request.model, _CLIENTS):
                    return handler(request)
                call = self._account.begin(_asked(request))
                try:
                    with held_outside():
                        response = handler(self._granted(request, call))
                except BaseException:
                    call.end(sys.exception())
                    raise
                call.settle_result(_said(response))
                return response
        except Refused as refused:
            if not self._account.ends:
                raise
            return _ending(refused)

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse | AIMessage:
        """Hold money around a model call in async code."""
        hops = self._account.governor.hops
        try:
            with self._account.of_run(_identity(request.runtime)):
                if _is_governed(request.model, _ASYNC_CLIENTS):
                    return await handler(request)
                call = await self._account.begin_async(_asked(request))
                try:
                    with held_outside():
                        response = await handler(self._granted(request, call))
                except BaseException as error:
                    failed = error
                    await hops.run(lambda: call.end(failed))
                    raise
                await hops.run(lambda: call.settle_result(_said(response)))
                return response
        except Refused as refused:
            if not self._account.ends:
                raise
            return _ending(refused)

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Hold the price of a tool around its call."""
        governor, name = self._account.governor, request.tool_call["name"]
        if not self._account.prices(name):
            return handler(request)
        try:
            with (
                self._account.of_run(_identity(request.runtime)),
                governor.guard(tool=name, fixed_tool=True) as call,
            ):
                result = handler(request)
                call.settle()
                return result
        except Refused as refused:
            if not self._account.ends:
                raise
            return _refused_tool(request, refused)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Hold the price of a tool around its call in async code."""
        governor, name = self._account.governor, request.tool_call["name"]
        if not await governor.hops.run(lambda: self._account.prices(name)):
            return await handler(request)
        try:
            with self._account.of_run(_identity(request.runtime)):
                async with governor.guard(tool=name, fixed_tool=True) as call:
                    result = await handler(request)
                    await call.settle()
                    return result
        except Refused as refused:
            if not self._account.ends:
                raise
            return _refused_tool(request, refused)

    def _granted(self, request: ModelRequest, call: Call) -> ModelRequest:
        """Return the request with the model and the output cap that were granted."""
        if call.decision == "downgraded" and call.model is not None:
            request = request.override(model=self._account.models[call.model])
        cap = _cap_name(request.model)
        if cap is not None and call.max_output_tokens not in (None, _cap(request)):
            settings = {**request.model_settings, cap: call.max_output_tokens}
            request = request.override(model_settings=settings)
        return request


def _is_governed(model: BaseChatModel, names: tuple[str, ...]) -> bool:
    """Say whether whatever may send a model's requests is a wrapped client, or belongs to one."""
    found = [client for name in names if (client := getattr(model, name, None)) is not None]
    return bool(found) and all(
        is_governed(client) or is_governed(getattr(client, "_client", None)) for client in found
    )


def _identity(runtime: Any) -> dict[str, str | None]:
    info = getattr(runtime, "execution_info", None)
    return {"run": getattr(info, "run_id", None), "thread": getattr(info, "thread_id", None)}


def _asked(request: ModelRequest) -> CallArguments:
    model = request.model
    name = getattr(model, "model_name", None) or getattr(model, "model", None)
    system = [request.system_message] if request.system_message is not None else []
    arguments = CallArguments(
        model=str(name or "").removeprefix("models/"),
        messages=convert_to_openai_messages([*system, *request.messages]),
    )
    if request.tools:
        arguments["tools"] = [convert_to_openai_tool(tool) for tool in request.tools]
    cap = _cap(request)
    if cap is not None:
        arguments["max_output_tokens"] = cap
    return arguments


def _cap_name(model: BaseChatModel) -> str | None:
    return next((name for name in _CAPS if name in type(model).model_fields), None)


def _cap(request: ModelRequest) -> int | None:
    name = _cap_name(request.model)
    if name is None:
        return None
    cap = request.model_settings.get(name, getattr(request.model, name))
    return cap if type(cap) is int else None


def _said(response: Any) -> Any:
    """Return the model's message, which tells its usage; else all that was returned."""
    messages = getattr(response, "result", [response])
    return next((message for message in messages if isinstance(message, AIMessage)), response)


def _ending(refused: Refused) -> AIMessage:
    return AIMessage(content=why(refused), response_metadata={"fluxai": facts(refused)})


def _refused_tool(request: Any, refused: Refused) -> ToolMessage:
    return ToolMessage(
        content=why(refused),
        name=request.tool_call["name"],
        tool_call_id=request.tool_call["id"],
        status="error",
    )
