"""Approvals through the gateway: a person says yes or no, and what was approved runs once."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import Client, MCPError

from fluxai import AsyncGovernor, Policy
from fluxai.mcp.identity import Identity
from tests.mcp.gateway_downstream import make
from tests.mcp.gateway_setup import client, decision_of, gateway, text_of

ERAS = ("auto", "legacy")
ASK = Policy(tenant_id="acme", limit_type="total", limit_value="0", decision="require_approval")


def _servers(folder: Path, **more: Any) -> dict[str, Any]:
    return {"s": {"command": ["never-started"], "cost": "0.01", **more}}


def _in_process(folder: Path) -> Any:
    """Make clients of a downstream in this process: what is tried here is the gateway."""
    server = make(folder / "log.txt")
    return lambda _, __, **options: lambda: Client(server, cache=None, **options)


def _reached(folder: Path) -> int:
    log = folder / "log.txt"
    return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0


def _answering_all() -> tuple[Any, list[str]]:
    """Say yes to the gateway and something to the server; and keep what each has asked."""
    asked: list[str] = []

    async def answer(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        asked.append("gateway" if "for up to" in params.message else "server")
        return types.ElicitResult(action="accept", content={"approve": True, "which": "this"})

    return answer, asked


def _answering(action: str, **content: Any) -> Any:
    async def answer(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert "for up to $0.01" in params.message
        return types.ElicitResult.model_validate({"action": action, "content": content or None})

    return answer


async def _spent(governor: AsyncGovernor) -> Decimal:
    return (await governor.usage("acme")).total_cost


@pytest.mark.parametrize("era", ERAS)
def test_a_client_that_is_trusted_may_say_yes(tmp_path: Path, era: str) -> None:
    """The call runs at once, and once."""

    async def run() -> None:
        servers = _servers(tmp_path, approval="client")
        make_client = _in_process(tmp_path)
        async with gateway(tmp_path, servers, ASK, make=make_client) as (opened, governor):
            said = _answering("accept", approve=True)
            async with client(opened, era, elicitation_callback=said) as user:
                answer = await user.call_tool("s__search", {"q": "approved"})
                assert text_of(answer) == "search: approved"
            (approval,) = await governor.approvals.list(tenant="acme")
            assert (approval.state, approval.by) == ("used", "alice (local) through its client")
            assert await _spent(governor) == Decimal("0.01")
        assert _reached(tmp_path) == 1

    asyncio.run(run())


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("action", "content"), [("decline", {}), ("cancel", {}), ("accept", {"approve": False})]
)
def test_anything_but_a_yes_is_a_no(
    tmp_path: Path, era: str, action: str, content: dict[str, Any]
) -> None:
    """The call does not run, its money is given back, and the same approval can't be used."""

    async def run() -> None:
        servers = _servers(tmp_path, approval="client")
        make_client = _in_process(tmp_path)
        async with gateway(tmp_path, servers, ASK, make=make_client) as (opened, governor):
            said = _answering(action, **content)
            async with client(opened, era, elicitation_callback=said) as user:
                answer = await user.call_tool("s__search", {"q": "no"})
                assert answer.is_error
                assert "did not approve" in text_of(answer)
            (approval,) = await governor.approvals.list(tenant="acme")
            assert approval.state == "rejected"
            (budget,) = await governor.budgets("acme")
            assert (budget.settled, budget.reserved) == (0, 0)
        assert _reached(tmp_path) == 0

    asyncio.run(run())


async def _question(user: Client, arguments: dict[str, Any]) -> types.InputRequiredResult:
    asked = await user.session.call_tool("s__search", arguments, allow_input_required=True)
    assert isinstance(asked, types.InputRequiredResult)
    return asked


YES: types.InputResponses = {
    "fluxai-approval": types.ElicitResult(action="accept", content={"approve": True})
}


def test_an_answer_is_good_for_one_call(tmp_path: Path) -> None:
    """Sent again, with other arguments, or forged: it runs nothing."""

    async def run() -> None:
        servers = _servers(tmp_path, approval="client")
        make_client = _in_process(tmp_path)
        async with gateway(tmp_path, servers, ASK, make=make_client) as (opened, governor):
            said = _answering("accept", approve=True)
            async with client(opened, elicitation_callback=said) as user:
                call = user.session.call_tool
                asked = await _question(user, {"q": "one"})
                state = asked.request_state
                with pytest.raises(MCPError, match="requestState"):
                    await call(
                        "s__search", {"q": "other"}, input_responses=YES, request_state=state
                    )
                for forged in ("nonsense", '{"approval": "x"}', f"{state}x"):
                    with pytest.raises(MCPError, match="requestState"):
                        await call(
                            "s__search", {"q": "one"}, input_responses=YES, request_state=forged
                        )
                # An answer to a question that was never put is no approval either.
                asked_again = await call(
                    "s__search", {"q": "two"}, input_responses=YES, allow_input_required=True
                )
                assert isinstance(asked_again, types.InputRequiredResult)
                first = await call(
                    "s__search", {"q": "one"}, input_responses=YES, request_state=state
                )
                assert text_of(first) == "search: one"
                replayed = await call(
                    "s__search", {"q": "one"}, input_responses=YES, request_state=state
                )
                assert replayed.is_error
            assert await _spent(governor) == Decimal("0.01")
        assert _reached(tmp_path) == 1

    asyncio.run(run())


def test_two_answers_at_once_run_one_call(tmp_path: Path) -> None:
    """The approval is consumed in the store, where only one can take it."""

    async def run() -> None:
        servers = _servers(tmp_path, approval="client")
        held = AsyncGovernor(f"sqlite:///{tmp_path / 'ledger.db'}")
        make_client = _in_process(tmp_path)
        async with gateway(tmp_path, servers, ASK, governor=held, make=make_client) as (opened, _):
            said = _answering("accept", approve=True)
            async with client(opened, elicitation_callback=said) as user:
                asked = await _question(user, {"q": "one"})
                answers = await asyncio.gather(
                    *(
                        user.session.call_tool(
                            "s__search",
                            {"q": "one"},
                            input_responses=YES,
                            request_state=asked.request_state,
                        )
                        for _ in range(8)
                    )
                )
                assert sorted(bool(answer.is_error) for answer in answers) == [False] + [True] * 7
        assert _reached(tmp_path) == 1

    asyncio.run(run())


def test_an_answer_does_not_outlive_a_change_of_the_policies(tmp_path: Path) -> None:
    """Whoever said yes has seen the rules of then."""

    async def run() -> None:
        servers = _servers(tmp_path, approval="client")
        make_client = _in_process(tmp_path)
        async with gateway(tmp_path, servers, ASK, make=make_client) as (opened, governor):
            said = _answering("accept", approve=True)
            async with client(opened, elicitation_callback=said) as user:
                asked = await _question(user, {"q": "one"})
                await governor.policies.put(
                    Policy(tenant_id="acme", limit_type="daily", limit_value="9", decision="deny")
                )
                late = await user.session.call_tool(
                    "s__search",
                    {"q": "one"},
                    input_responses=YES,
                    request_state=asked.request_state,
                )
                assert "policies have changed" in text_of(late)
        assert _reached(tmp_path) == 0

    asyncio.run(run())


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("asks", [True, False], ids=["not-trusted", "not-able"])
def test_a_call_waits_where_the_client_may_not_answer(
    tmp_path: Path, era: str, *, asks: bool
) -> None:
    """It is decided apart from the client; then the same call runs once, and no other."""

    async def run() -> None:
        servers = _servers(tmp_path, approval="stored" if asks else "client")
        make_client = _in_process(tmp_path)
        said = _answering("accept", approve=True) if asks else None
        async with gateway(tmp_path, servers, ASK, make=make_client) as (opened, governor):
            async with client(opened, era, elicitation_callback=said) as user:
                waits = await user.call_tool("s__search", {"q": "one"})
                told = decision_of(waits)
                assert waits.is_error
                assert told["decision"] == "pending_approval"
                command = f"`fluxai approvals approve {told['approval_id']} --by NAME`"
                assert command in text_of(waits)
                assert ".." not in text_of(waits)
                again = await user.call_tool("s__search", {"q": "one"})
                assert decision_of(again)["approval_id"] == told["approval_id"]
                assert _reached(tmp_path) == 0
                await governor.approvals.approve(told["approval_id"], by="boss")
                other = await user.call_tool("s__search", {"q": "other"})
                assert decision_of(other)["approval_id"] != told["approval_id"]
                runs = await user.call_tool("s__search", {"q": "one"})
                assert text_of(runs) == "search: one"
                used = await user.call_tool("s__search", {"q": "one"})
                assert decision_of(used)["decision"] == "pending_approval"
            assert await _spent(governor) == Decimal("0.01")
        assert _reached(tmp_path) == 1

    asyncio.run(run())


def test_a_call_in_several_rounds_is_approved_once(tmp_path: Path) -> None:
    """What was approved goes on through the server's questions, on the one reservation."""

    async def run() -> None:
        servers = _servers(tmp_path, approval="client")
        make_client = _in_process(tmp_path)
        said, asked = _answering_all()
        async with gateway(tmp_path, servers, ASK, make=make_client) as (opened, governor):
            async with client(opened, elicitation_callback=said) as user:
                answer = await user.call_tool("s__asks", {"q": "one", "rounds": 3})
                assert text_of(answer).startswith("asks: accept")
                assert asked == ["gateway", "server", "server", "server"]
                (approval,) = await governor.approvals.list(tenant="acme")
                assert decision_of(answer)["reservation_id"] == approval.id
                assert await _spent(governor) == Decimal("0.01")
                del asked[:]
                await user.call_tool("s__asks", {"q": "one", "rounds": 3})
                assert asked[:2] == ["gateway", "server"], "the same call anew is another"
            assert await _spent(governor) == Decimal("0.02")

    asyncio.run(run())


def test_what_was_approved_apart_from_the_client_goes_on_too(tmp_path: Path) -> None:
    """Nobody is asked again because the server has a question."""

    async def run() -> None:
        make_client = _in_process(tmp_path)
        said, asked = _answering_all()
        async with (
            gateway(tmp_path, _servers(tmp_path), ASK, make=make_client) as (opened, governor),
            client(opened, elicitation_callback=said) as user,
        ):
            waits = await user.call_tool("s__asks", {"q": "one", "rounds": 2})
            await governor.approvals.approve(decision_of(waits)["approval_id"], by="boss")
            answer = await user.call_tool("s__asks", {"q": "one", "rounds": 2})
            assert text_of(answer).startswith("asks: accept")
            assert asked == ["server", "server"]
            assert len(await governor.approvals.list(tenant="acme", state="used")) == 1
            assert await _spent(governor) == Decimal("0.01")

    asyncio.run(run())


async def _round(user: Client, arguments: dict[str, Any], state: str | None, **said: Any) -> Any:
    """Make one round of a call."""
    answers: types.InputResponses = {
        key: types.ElicitResult(action="accept", content=said[key]) for key in said
    }
    return await user.session.call_tool(
        "s__asks",
        arguments,
        input_responses=answers or None,
        request_state=state,
        allow_input_required=True,
    )


async def _approved_and_asked(user: Client, arguments: dict[str, Any]) -> tuple[str, str]:
    """Have a call approved, and the server ask; return the states of both questions."""
    first = await _round(user, arguments, None)
    second = await _round(user, arguments, first.request_state, **{"fluxai-approval": _YES})
    assert list(second.input_requests) == ["q"]
    return first.request_state, second.request_state


_YES = {"approve": True}
_WHICH = {"which": "this"}


def test_each_state_is_good_for_one_round(tmp_path: Path) -> None:
    """Replayed, of another call, or forged it reaches no server and costs nothing."""

    async def run() -> None:
        servers = _servers(tmp_path, approval="client")
        make_client = _in_process(tmp_path)
        said, _ = _answering_all()
        call = {"q": "one", "rounds": 2}
        async with (
            gateway(tmp_path, servers, ASK, make=make_client) as (opened, governor),
            client(opened, elicitation_callback=said) as user,
        ):
            question, once = await _approved_and_asked(user, call)
            (budget,) = await governor.budgets("acme")
            assert (budget.settled, budget.reserved) == (0, Decimal("0.01"))
            for arguments, state in (({"q": "other"}, once), (call, f"{once}x"), (call, "forged")):
                with pytest.raises(MCPError, match="requestState"):
                    await _round(user, arguments, state, q=_WHICH)
            twice = (await _round(user, call, once, q=_WHICH)).request_state
            assert _reached(tmp_path) == 2
            for used in (once, question):
                again = await _round(user, call, used, q=_WHICH, **{"fluxai-approval": _YES})
                assert again.is_error
            assert _reached(tmp_path) == 2
            assert not (await _round(user, call, twice, q=_WHICH)).is_error
            for used in (twice, once, question):
                again = await _round(user, call, used, q=_WHICH, **{"fluxai-approval": _YES})
                assert again.is_error
            assert _reached(tmp_path) == 3
            assert await _spent(governor) == Decimal("0.01")

    asyncio.run(run())


def test_a_round_sent_many_times_at_once_runs_once(tmp_path: Path) -> None:
    """The claim to go on is taken in the store, where only one can take it."""

    async def run() -> None:
        servers = _servers(tmp_path, approval="client")
        held = AsyncGovernor(f"sqlite:///{tmp_path / 'ledger.db'}")
        make_client = _in_process(tmp_path)
        said, _ = _answering_all()
        async with (
            gateway(tmp_path, servers, ASK, governor=held, make=make_client) as (opened, _gov),
            client(opened, elicitation_callback=said) as user,
        ):
            _, state = await _approved_and_asked(user, {"q": "one"})
            answers = await asyncio.gather(
                *(_round(user, {"q": "one"}, state, q=_WHICH) for _ in range(8))
            )
            assert sorted(bool(answer.is_error) for answer in answers) == [False] + [True] * 7
            assert await _spent(held) == Decimal("0.01")
        assert _reached(tmp_path) == 2

    asyncio.run(run())


def test_another_gateway_goes_on_for_that_user_alone(tmp_path: Path) -> None:
    """With the same secret and store it may; for another user or tenant it runs nothing."""

    async def run() -> None:
        servers = _servers(tmp_path, approval="client")
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
        said, _ = _answering_all()

        def opening(user: str = "alice", tenant: str = "acme") -> Any:
            return gateway(
                tmp_path,
                servers,
                ASK,
                governor=AsyncGovernor(url),
                launch=Identity(tenant=tenant, user=user),
                state_key="s" * 32,
                make=_in_process(tmp_path),
            )

        async with (
            opening() as (begun, governor),
            opening() as (beside, _alices),
            opening("eve") as (eves, _eves),
            opening(tenant="globex") as (others, _others),
        ):
            async with client(begun, elicitation_callback=said) as user:
                _, state = await _approved_and_asked(user, {"q": "one"})
            for foreign in (eves, others):
                async with client(foreign, elicitation_callback=said) as user:
                    refused = await _round(user, {"q": "one"}, state, q=_WHICH)
                    assert "another call" in text_of(refused)
            assert _reached(tmp_path) == 1
            async with client(beside, elicitation_callback=said) as user:
                answer = await _round(user, {"q": "one"}, state, q=_WHICH)
                assert text_of(answer).startswith("asks: accept")
            async with client(begun, elicitation_callback=said) as user:
                assert (await _round(user, {"q": "one"}, state, q=_WHICH)).is_error
            assert await _spent(governor) == Decimal("0.01")
        assert _reached(tmp_path) == 2

    asyncio.run(run())
