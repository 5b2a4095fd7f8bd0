"""One tool call: reserved, forwarded, settled. Or refused, and then no server hears of it."""

from __future__ import annotations

import logging
from typing import Any, Final

import mcp_types as types
from mcp import MCPError

from fluxai.async_governor import AsyncGovernor
from fluxai.core.decisions import Reservation, Settlement
from fluxai.core.errors import ApprovalConflict, FluxAIError, InvalidRequest, NotFound, StorageError
from fluxai.guard import Call
from fluxai.mcp.gateway import approvals, refusals
from fluxai.mcp.gateway.approvals import QUESTION_KEY, PaidCall, State
from fluxai.mcp.gateway.catalog import Catalog, Found, Viewer
from fluxai.mcp.gateway.config import GatewaySettings
from fluxai.mcp.gateway.costs import reported_cost, units_of
from fluxai.mcp.gateway.fronts import (
    ClientInFront,
    Context,
    is_modern,
    passed_meta,
    wants_progress,
)
from fluxai.mcp.gateway.links import Link, Links, Unreachable, session_is_gone

log = logging.getLogger("fluxai.mcp")

Answer = types.CallToolResult | types.InputRequiredResult

#: A server that answers so has refused the call and has not run it.
_NOT_RUN: Final = frozenset(
    {
        types.METHOD_NOT_FOUND,
        types.INVALID_PARAMS,
        types.HEADER_MISMATCH,
        types.MISSING_REQUIRED_CLIENT_CAPABILITY,
        types.UNSUPPORTED_PROTOCOL_VERSION,
        types.URL_ELICITATION_REQUIRED,
    }
)
_LOST: Final = frozenset({types.CONNECTION_CLOSED, types.REQUEST_TIMEOUT, types.PARSE_ERROR})
_TRIES_MAX: Final = 2


class Calls:
    """Governs tool calls.

    Args:
        governor: Holds the budgets.
        catalog: Knows the tools.
        links: The connections to the servers.
        settings: Terms and time-outs.
    """

    def __init__(
        self, governor: AsyncGovernor, catalog: Catalog, links: Links, settings: GatewaySettings
    ) -> None:
        self._governor = governor
        self._catalog = catalog
        self._links = links
        self._settings = settings

    async def call(
        self, ctx: Context, params: types.CallToolRequestParams, viewer: Viewer
    ) -> Answer:
        """Answer one request to call a tool.

        Raises:
            MCPError: There is no such tool for this client, or the server answered with an error.
        """
        found = await self._catalog.tool(params.name, viewer)
        if found is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        arguments = params.arguments or {}
        identity = viewer.identity
        state = State.of(params.request_state)
        responses: types.InputResponses = dict(params.input_responses or {})
        own_answer = responses.pop(QUESTION_KEY, None)
        if state.approval is not None and state.claim is None:
            # The server's questions were answered in an earlier round.
            responses = state.server_responses() or {}
        try:
            schema = self._catalog.input_schema(found.name) or {}
            units = units_of(found.terms, arguments, schema)
            paid = PaidCall(identity, found.target, found.name, arguments, units)
            granted: Reservation | Answer
            if state.claim is not None:
                granted = await self._resumed(paid, state, state.claim)
            elif state.approval is not None:
                granted = await self._decided(paid, state, own_answer)
            else:
                granted = asked = await self._reserve(paid)
                if asked.decision == "pending_approval":
                    granted = await self._ask(ctx, paid, found, asked, state, responses)
        except StorageError as error:
            log.error("a call could not be decided: %s", error)  # noqa: TRY400
            return refusals.not_decided("the budgets can't be read or written now")
        except InvalidRequest as error:
            return refusals.not_understood(str(error))
        except (NotFound, ApprovalConflict) as error:
            return refusals.not_decided(str(error))
        if not isinstance(granted, Reservation):
            return granted
        if not granted.allowed:
            return refusals.refused(granted)
        return await self._forward(ctx, params, viewer, found, paid, granted, state, responses)

    # -- deciding -----------------------------------------------------------------------------

    async def _reserve(self, call: PaidCall, approval_id: str | None = None) -> Reservation:
        # The call travels as the prompt: an approval, and a limit on repeats, are bound to it.
        return await self._governor.reserve(
            tenant=call.identity.tenant,
            user=call.identity.user,
            tool=call.name,
            units=call.units,
            prompt=call.text(),
            labels={"server": call.target.server},
            approval_id=approval_id,
        )

    async def _ask(
        self,
        ctx: Context,
        call: PaidCall,
        found: Found,
        asked: Reservation,
        state: State,
        responses: types.InputResponses,
    ) -> Reservation | Answer:
        """Have a person asked about a call that is held until somebody answers."""
        governor, hops = self._governor.governor, self._governor.governor.hops
        before = await hops.run(lambda: approvals.earlier(governor, asked))
        if before is not None:
            why = "the same call waits already"
            await hops.run(lambda: approvals.withdraw(governor, asked, why))
            approval_id, decided = before
            if decided == "approved":
                return await self._reserve(call, approval_id)
            return refusals.waiting(asked, approval_id)
        trusted = found.terms.approval or self._settings.approval
        declared = ctx.session.client_capabilities
        elicitation = None if declared is None else declared.elicitation
        # A client that declares neither mode means forms: the older one.
        forms = elicitation is not None and (
            elicitation.form is not None or elicitation.url is None
        )
        if trusted != "client" or not forms:
            return refusals.waiting(asked, asked.approval_id or asked.id)
        question = approvals.question(asked, call)
        kept = State(
            approval=asked.id,
            call=await self._digest(call),
            responses=approvals.dump_responses(responses or None),
            server_state=state.server_state,
        )
        if is_modern(ctx):
            return types.InputRequiredResult(
                input_requests={QUESTION_KEY: question}, request_state=kept.model_dump_json()
            )
        answer = await approvals.answered(
            ClientInFront(ctx).ask(question), self._settings.answer_timeout
        )
        if answer is None or isinstance(answer, types.ErrorData):
            return refusals.waiting(asked, asked.id)
        return await self._decided(call, kept, answer)

    async def _decided(
        self, call: PaidCall, state: State, answer: object
    ) -> Reservation | types.CallToolResult:
        """Take a client's answer to the gateway's question: once, and for that call alone."""
        approval_id = state.approval or ""
        if state.call != await self._digest(call):
            return refusals.not_decided("the policies have changed since the question was put")
        registry, tenant = self._governor.approvals, call.identity.tenant
        by = f"{call.identity.name} through its client"
        if not approvals.says_yes(answer):
            if isinstance(answer, types.ElicitResult):
                await registry.reject(approval_id, by=by, tenant=tenant)
            return refusals.not_decided("a person did not approve it")
        await registry.approve(approval_id, by=by, tenant=tenant)
        return await self._reserve(call, approval_id)

    async def _resumed(
        self, call: PaidCall, state: State, claim: str
    ) -> Reservation | types.CallToolResult:
        """Go on with a call that was approved in an earlier round: once, and that call alone."""
        if state.call != call.digest():
            return refusals.not_decided("another call was approved")
        registry = self._governor.approvals
        resumed: Reservation = await registry.resume(
            state.approval or "", claim=claim, tenant=call.identity.tenant
        )
        return resumed

    async def _digest(self, call: PaidCall) -> str:
        storage, tenant = self._governor.governor.storage, call.identity.tenant
        version = await self._governor.governor.hops.run(lambda: storage.version(tenant))
        return call.digest(version)

    # -- forwarding ---------------------------------------------------------------------------

    async def _forward(
        self,
        ctx: Context,
        params: types.CallToolRequestParams,
        viewer: Viewer,
        found: Found,
        paid: PaidCall,
        granted: Reservation,
        state: State,
        responses: types.InputResponses,
    ) -> Answer:
        held = _Held(self._governor, granted)
        try:
            if granted.final_tool != found.name:
                moved = await self._catalog.tool(granted.final_tool, viewer)
                if moved is None:
                    await held.release()
                    return refusals.not_decided(
                        f"it was moved to {granted.final_tool!r}, which this client may not call"
                    )
                found = moved
            answer = await self._sent(ctx, params, found, held, state, responses)
        except Unreachable as error:
            await held.release()
            return refusals.unreachable(str(error))
        except MCPError as error:
            return await self._failed(error, found, held)
        except RuntimeError as error:
            # The SDK: the answer does not keep to what the tool has declared.
            return refusals.lost(str(error), await held.settle_expected())
        except BaseException:
            # Cancelled, mostly. What was sent may have run, what was not has not.
            await (held.settle_expected() if held.sent else held.release())
            raise
        if isinstance(answer, types.InputRequiredResult):
            # It runs when its questions are answered.
            kept = approvals.next_round(paid, granted, answer.request_state)
            if kept is None:
                # It is reserved again then.
                await held.release()
                if answer.request_state is None:
                    return answer
                kept = State(server_state=answer.request_state)
            return answer.model_copy(update={"request_state": kept.model_dump_json()})
        cost = reported_cost(found.terms, answer, most=granted.estimate.highest)
        return refusals.told_with(answer, granted, await held.settle(cost))

    async def _sent(
        self,
        ctx: Context,
        params: types.CallToolRequestParams,
        found: Found,
        held: _Held,
        state: State,
        responses: types.InputResponses,
    ) -> Answer:
        key = found.key
        for _ in range(_TRIES_MAX):
            async with self._links.use(key, ClientInFront(ctx)) as link:
                if is_modern(ctx) and key.able and not link.is_modern:
                    # It would push its questions, which this client can't be sent.
                    key = key._replace(able=frozenset())
                    continue
                if link.has_ended:
                    self._links.drop(link)
                    continue
                held.sent = True
                try:
                    return await self._once(ctx, params, found, link, state, responses)
                except MCPError as error:
                    if not session_is_gone(error):
                        if error.code == types.CONNECTION_CLOSED:
                            self._links.drop(link)
                        raise
                    held.sent = False
                    self._links.drop(link)
        raise Unreachable(f"the connection to server {key.server!r} was lost before the call")

    async def _once(
        self,
        ctx: Context,
        params: types.CallToolRequestParams,
        found: Found,
        link: Link,
        state: State,
        responses: types.InputResponses,
    ) -> Answer:
        session = link.client.session

        async def send() -> Answer:
            return await session.call_tool(
                found.target.name,
                params.arguments,
                read_timeout_seconds=self._settings.timeout(found.terms),
                progress_callback=ctx.session.report_progress if wants_progress(ctx) else None,
                input_responses=responses or None,
                request_state=state.server_state,
                meta=passed_meta(ctx),
                allow_input_required=True,
            )

        try:
            return await send()
        except MCPError as error:
            if error.code != types.HEADER_MISMATCH:
                raise
            refused = error
        # The server wants arguments in headers too, which the SDK reads from its list of tools.
        try:
            await session.list_tools()
        except MCPError as error:
            # Whatever became of the list, the call was refused.
            raise refused from error
        return await send()

    async def _failed(self, error: MCPError, found: Found, held: _Held) -> types.CallToolResult:
        if error.code in _NOT_RUN:
            await held.release()
            raise error
        settlement = await held.settle_expected()
        if error.code in _LOST:
            why = f"server {found.target.server!r} was asked, and {_plain(error)}"
            return refusals.lost(why, settlement)
        raise error


class _Held:
    """The money of one call, and whether the call was sent. Every end is final and never raises."""

    def __init__(self, governor: AsyncGovernor, reservation: Reservation) -> None:
        self._call = Call(governor.governor, reservation)
        self._hops = governor.governor.hops
        self.sent = False

    async def settle(self, cost: Any) -> Settlement | None:
        await self._end(lambda: self._call.settle(cost=cost))
        return self._call.settlement

    async def settle_expected(self) -> Settlement | None:
        await self._end(self._call.settle_expected)
        return self._call.settlement

    async def release(self) -> None:
        await self._end(self._call.release)

    async def _end(self, verb: Any) -> None:
        try:
            await self._hops.run(verb)
        except FluxAIError:
            # The client's answer matters more to it than our books, which expiry puts right.
            log.exception("a forwarded call could not be ended")


def _plain(error: MCPError) -> str:
    if error.code == types.REQUEST_TIMEOUT:
        return "did not answer in time"
    return f"its answer was lost ({error.message})"
