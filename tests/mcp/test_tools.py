"""The tools, asked by the official client in both eras and over every transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult, TextContent

from fluxai import Governor, Policy
from fluxai.demo_data import (
    ENTERPRISELLC,
    ENTERPRISELLC_ADMIN,
    FREECO,
    FREECO_USER,
    PROCORP,
    PROCORP_ADMIN,
    PROCORP_USER,
)
from fluxai.mcp.identity import ADMIN
from fluxai.mcp.tools.limiting import SetPolicy

pytestmark = pytest.mark.anyio

FOR_ADMINS = {"set_policy", "delete_policy", "decide_approval"}
FOR_ALL = {
    "check_and_route",
    "estimate_cost",
    "settle_usage",
    "smart_complete",
    "generate_image",
    "get_usage_summary",
    "list_budgets",
    "explain_decision",
    "list_models",
    "list_policies",
    "list_approvals",
}


async def _ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    assert isinstance(answer, CallToolResult)
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    found: dict[str, Any] = answer.structured_content
    return found


async def _fault(client: Client, tool: str, **arguments: Any) -> str:
    answer = await client.call_tool(tool, arguments)
    assert isinstance(answer, CallToolResult)
    assert answer.is_error
    assert isinstance(answer.content[0], TextContent)
    return answer.content[0].text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("kind", ["http", "sse"])
async def test_both_eras_over_http(serving: Any, mode: Any, kind: Any) -> None:
    """List and call work over Streamable HTTP and legacy SSE, for new clients and old ones."""
    async with serving.connect(serving.member, mode, kind) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == FOR_ALL
        route = await _ask(client, "check_and_route", tool_id="search-api", estimated_units=2)
    assert (route["decision"], route["cost_estimate"]) == ("allowed", "0.002")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_both_eras_over_stdio(stdio: Any, mode: Any) -> None:
    """A bare command with a tenant serves over stdio; its stdout carries the protocol alone."""
    async with stdio("--demo", f"--tenant={FREECO}", f"--user={FREECO_USER}", mode=mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == FOR_ALL
        route = await _ask(client, "check_and_route", tool_id="gpt-4", estimated_units=1000)
    assert (route["decision"], route["final_tool_used"]) == ("downgraded", "gpt-3.5-turbo")
    assert route["cost_estimate"] == "0.0005"


async def test_the_launch_may_grant_the_admins_tools(stdio: Any) -> None:
    """On stdio it is the operator who says what is granted."""
    async with stdio("--demo", f"--scope={ADMIN}") as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == FOR_ALL | FOR_ADMINS


async def test_a_tool_says_what_it_does(serving: Any) -> None:
    """Hosts read from the hints which calls are safe; models find the tools by these words."""
    async with serving.connect(serving.admin, "auto") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    reading = {
        name
        for name, tool in tools.items()
        if tool.annotations is not None and tool.annotations.read_only_hint
    }
    assert reading == FOR_ALL - {
        "check_and_route",
        "settle_usage",
        "smart_complete",
        "generate_image",
    }
    destructive = {
        name
        for name, tool in tools.items()
        if tool.annotations is not None and tool.annotations.destructive_hint
    }
    assert destructive == {"set_policy", "delete_policy"}
    for tool in tools.values():
        assert tool.output_schema is not None
        assert tool.input_schema["additionalProperties"] is False
    words = " ".join(tool.description or "" for tool in tools.values()).lower()
    for word in ("budget", "cost", "cheaper model", "approve"):
        assert word in words


@pytest.mark.parametrize("tool", sorted(FOR_ADMINS))
async def test_what_is_not_listed_is_refused(serving: Any, tool: str) -> None:
    """Knowing the name of an admin's tool is not enough to call it."""
    async with serving.connect(serving.member, "auto") as client:
        said = await _fault(client, tool)
    assert ADMIN in said


async def test_an_unknown_tool_is_a_protocol_error(serving: Any) -> None:
    """A name that no tool has is no tool's error."""
    async with serving.connect(serving.member, "auto") as client:
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("no_such_tool", {})


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("check_and_route", {"tool_id": "search-api", "estimated_units": 1}),
        ("estimate_cost", {"tool_id": "search-api", "units": 1}),
        ("settle_usage", {"reservation_id": "0"}),
        ("get_usage_summary", {}),
        ("list_budgets", {}),
        ("explain_decision", {"id": "0"}),
        ("list_models", {}),
        ("list_policies", {}),
        ("list_approvals", {}),
        ("set_policy", {"limit_type": "daily", "limit_value": "1"}),
        ("delete_policy", {"policy_id": "freeco-daily"}),
        ("decide_approval", {"approval_id": "0", "decision": "approve"}),
    ],
)
async def test_another_tenant_in_the_arguments_is_refused(
    serving: Any, tool: str, arguments: dict[str, Any]
) -> None:
    """Even an admin can't reach another tenant by naming it; it is told so, not ignored."""
    async with serving.connect(serving.admin, "auto") as client:
        said = await _fault(client, tool, **arguments, tenant_id=FREECO)
    assert "another tenant" in said
    with Governor(serving.db) as governor:
        assert governor.policies.get("freeco-daily").tenant_id == FREECO
        assert governor.usage(FREECO).total_events == 0


async def test_ones_own_tenant_may_be_named(serving: Any) -> None:
    """The original's clients send their tenant with every call."""
    async with serving.connect(serving.member, "auto") as client:
        found = await _ask(client, "get_usage_summary", tenant_id=PROCORP, user_id=PROCORP_USER)
    assert (found["tenant_id"], found["user_id"]) == (PROCORP, PROCORP_USER)


async def test_an_admin_of_all_tenants_may_name_each(serving: Any) -> None:
    """The scope over all tenants is what lets an argument choose."""
    async with serving.connect(serving.root, "auto") as client:
        found = await _ask(client, "list_policies", tenant_id=FREECO)
    assert "freeco-daily" in {policy["id"] for policy in found["policies"]}


@pytest.mark.parametrize("tool", ["check_and_route", "get_usage_summary", "list_budgets"])
async def test_another_user_in_the_arguments_is_refused(serving: Any, tool: str) -> None:
    """A member's credential can't spend, or look, as somebody else of the same tenant."""
    arguments = {"tool_id": "search-api", "estimated_units": 1} if tool == "check_and_route" else {}
    async with serving.connect(serving.member, "auto") as client:
        said = await _fault(client, tool, **arguments, user_id=PROCORP_ADMIN)
    assert "another user" in said


async def test_an_unregistered_user_has_no_account(serving: Any) -> None:
    """A credential of the whole tenant may name its users, but can't invent any."""
    async with serving.connect(serving.freeco, "auto") as client:
        asked = {"tool_id": "search-api", "estimated_units": 1}
        said = await _fault(client, "check_and_route", **asked, user_id="ghost")
        known = await _ask(client, "check_and_route", **asked, user_id=FREECO_USER, hold=True)
        await _ask(client, "settle_usage", reservation_id=known["reservation_id"], charged=False)
    assert "not registered" in said


async def test_a_held_call_is_settled_at_its_real_cost(serving: Any) -> None:
    """check_and_route reserves, settle_usage enters the cost, the summary shows it; once."""
    async with serving.connect(serving.admin, "legacy") as client:
        before = await _ask(client, "get_usage_summary", user_id=PROCORP_ADMIN)
        route = await _ask(
            client, "check_and_route", tool_id="vector-db", estimated_units=10, hold=True
        )
        held = {"reservation_id": route["reservation_id"]}
        settled = await _ask(client, "settle_usage", **held, cost="0.0007")
        again = await _ask(client, "settle_usage", **held, cost=0.0007)
        conflict = await _fault(client, "settle_usage", **held, cost="0.5")
        after = await _ask(client, "get_usage_summary", user_id=PROCORP_ADMIN)
    assert (settled["cost"], again["event_id"]) == ("0.0007", settled["event_id"])
    assert "SettlementConflict" in conflict
    assert after["total_events"] == before["total_events"] + 1
    assert after["recent_events"][0]["cost"] == "0.0007"


async def test_a_user_cannot_settle_anothers_call(serving: Any) -> None:
    """A reservation of another user is answered like none at all."""
    async with serving.connect(serving.admin, "auto") as client:
        route = await _ask(
            client, "check_and_route", tool_id="vector-db", estimated_units=1, hold=True
        )
        held = {"reservation_id": route["reservation_id"]}
        async with serving.connect(serving.member, "auto") as other:
            said = await _fault(other, "settle_usage", **held, cost="0")
        released = await _ask(client, "settle_usage", **held, charged=False)
    assert "ReservationNotFound" in said
    assert (released["cost"], released["charged"]) == ("0", False)


async def test_a_refusal_is_an_answer(serving: Any) -> None:
    """A denied call is no error of the tool: it says which limit, charges nothing, and can be explained."""
    async with serving.connect(serving.freeco, "auto") as client:
        route = await _ask(
            client, "check_and_route", tool_id="search-api", estimated_units=1_000_000
        )
        looked = await _ask(client, "estimate_cost", tool_id="search-api", units=1_000_000)
    assert (route["decision"], route["reservation_id"]) == ("denied", None)
    assert "freeco-daily" in route["message"]
    assert looked["decision"] == "denied"
    assert looked["reasons"][0]["limit"] == "2.00"


async def test_an_estimate_of_a_model(serving: Any) -> None:
    """estimate_cost prices a model's call from its prompt and its cap, and holds nothing."""
    async with serving.connect(serving.member, "auto") as client:
        found = await _ask(
            client, "estimate_cost", model="gpt-4o", prompt="Hello there", max_output_tokens=100
        )
        unknown = await _fault(client, "estimate_cost", model="gpt-99-imaginary", prompt="x")
        neither = await _fault(client, "estimate_cost", prompt="x")
    assert float(found["estimate"]["highest"]) >= float(found["estimate"]["expected"]) > 0
    assert "UnknownModel" in unknown
    assert "either model" in neither


async def test_an_admin_sets_and_deletes_a_policy(serving: Any) -> None:
    """The policy's fields travel both ways, a plain JSON number exactly."""
    async with serving.connect(serving.admin, "auto") as client:
        put = await _ask(
            client,
            "set_policy",
            id="mine",
            scope="user",
            limit_type="rolling",
            window="24h",
            limit_value=0.1,
            decision="require_approval",
            alert_at=[0.5, "0.9"],
        )
        listed = await _ask(client, "list_policies")
        gone = await _ask(client, "delete_policy", policy_id="mine")
        missing = await _fault(client, "delete_policy", policy_id="mine")
        foreign = await _fault(client, "delete_policy", policy_id="freeco-daily")
        stolen = await _fault(
            client, "set_policy", id="freeco-daily", limit_type="daily", limit_value=1
        )
        everybody = await _fault(
            client, "set_policy", tenant_id="*", limit_type="daily", limit_value=1
        )
        wrong = await _fault(client, "set_policy", limit_type="daily", limit_value=-1)
        typo = await _fault(
            client, "set_policy", limit_type="daily", limit_valeu=1
        )  # codespell:ignore
    assert (put["tenant_id"], put["limit_value"], put["window"]) == (PROCORP, "0.1", "86400s")
    assert put["alert_at"] == ["0.5", "0.9"]
    assert put in listed["policies"]
    assert gone == {"success": True, "policy_id": "mine"}
    assert "NotFound" in missing
    assert "NotFound" in foreign
    assert "is taken" in stolen
    assert "fluxai:admin:all" in everybody
    assert "limit_value" in wrong
    assert "limit_valeu" in typo  # codespell:ignore


def test_every_field_of_a_policy_can_be_set() -> None:
    """A field that policies get is one of the tool's arguments too."""
    assert set(SetPolicy.model_fields) == set(Policy.model_fields)


async def test_an_approved_call_runs_once(serving: Any) -> None:
    """A call that needs a person waits with its money held, is approved, and runs that one time."""
    shown = serving.keys.add(tenant=ENTERPRISELLC, user=ENTERPRISELLC_ADMIN, scopes=[ADMIN])[1]
    call = {"tool_id": "search-api", "estimated_units": 600_000}
    async with serving.connect(shown, "auto") as client:
        asked = await _ask(client, "check_and_route", **call)
        waiting = await _ask(client, "list_approvals")
        decided = await _ask(
            client, "decide_approval", approval_id=asked["approval_id"], decision="approve"
        )
        ran = await _ask(
            client, "check_and_route", **call, params={"approval_id": asked["approval_id"]}
        )
        explained = await _ask(client, "explain_decision", id=asked["approval_id"])
    assert asked["decision"] == "pending_approval"
    assert [approval["id"] for approval in waiting["approvals"]] == [asked["approval_id"]]
    assert decided["state"] == "approved"
    assert ENTERPRISELLC_ADMIN in decided["by"]
    assert ran["decision"] == "allowed"
    assert explained["looked_at"][0]["policy_id"] == "enterprisellc-monthly"


async def test_models_are_listed_in_pages(serving: Any) -> None:
    """Models have prices and tiers; the tools with a price of their own come along."""
    async with serving.connect(serving.member, "auto") as client:
        page = await _ask(client, "list_models", provider="openai", limit=5)
        rest = await _ask(client, "list_models", provider="openai", limit=5, offset=5)
    assert len(page["models"]) == 5
    assert page["next_offset"] == 5
    assert not {model["id"] for model in page["models"]} & {model["id"] for model in rest["models"]}
    assert {"gpt-4", "search-api"} <= {tool["id"] for tool in page["tools"]}


async def test_a_summary_between_two_days(serving: Any) -> None:
    """Both days count in full; a day that is none is refused."""
    async with serving.connect(serving.freeco, "auto") as client:
        found = await _ask(
            client, "get_usage_summary", start_date="2026-01-01", end_date="2026-01-31"
        )
        wrong = await _fault(client, "get_usage_summary", start_date="soon")
    assert (found["start"], found["end"]) == ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")
    assert "start_date" in wrong


def test_the_bare_command_registers_default(program: Callable[..., Any], tmp_path: Any) -> None:
    """Without a tenant it is `default`, which is registered; a name that nobody registered is refused."""
    db = f"sqlite:///{tmp_path}/ledger.db"
    assert program("--db", db).returncode == 0
    with Governor(db) as governor:
        assert [tenant.id for tenant in governor.tenants.list()] == ["default"]
    slip = program("--db", db, "--tenant", "acmee")
    assert slip.returncode == 1
    assert "no tenant 'acmee'" in slip.stderr
    ghost = program("--db", db, "--user", "ghost")
    assert ghost.returncode == 1
    assert "'ghost'" in ghost.stderr
