"""Tools for the policies: reading them is free, changing them needs an admin's credential."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from fluxai.core.errors import NotFound, NotPermitted
from fluxai.mcp.identity import ADMIN, ADMIN_ALL, EVERY_TENANT
from fluxai.mcp.tools.tool import Arguments, GivenAmount, GovernorTool, Result
from fluxai.policy.records import (
    LimitType,
    Measure,
    Mode,
    OnUnpriced,
    Policy,
    PolicyDecision,
    Scope,
)

if TYPE_CHECKING:
    from fluxai.governor import Governor
    from fluxai.mcp.identity import Identity


class SetPolicy(Arguments):
    """Arguments of `set_policy`: the fields of a policy."""

    id: Annotated[
        str | None, Field(description="Replaces the policy of this id; without one it gets an id.")
    ] = None
    scope: Annotated[Scope, Field(description="Whose spending counts.")] = "tenant"
    scope_id: Annotated[
        str | None,
        Field(description="Which user, tool or label; without one each has an account of its own."),
    ] = None
    limit_type: LimitType
    limit_value: Annotated[
        GivenAmount | None, Field(description="USD, or a count of tokens or requests.")
    ] = None
    measure: Measure = "cost"
    decision: Annotated[
        PolicyDecision, Field(description="What happens to a call that would cross the limit.")
    ] = "deny"
    fallback_tool_id: Annotated[
        str | None, Field(description="With decision=downgrade: the cheaper tool or model.")
    ] = None
    window: Annotated[
        str | None, Field(description="With limit_type=rolling: such as 24h or 30m.")
    ] = None
    mode: Annotated[Mode, Field(description="shadow only reports what it would do.")] = "enforce"
    priority: int = 0
    repeat_limit: Annotated[
        int | None, Field(ge=1, description="How often one and the same call may be made.")
    ] = None
    shrink_output: bool = False
    stop_stream: bool = False
    on_unpriced: OnUnpriced = "refuse"
    unpriced_ceiling: GivenAmount | None = None
    alert_at: Annotated[
        tuple[GivenAmount, ...] | None,
        Field(description="Shares of the limit at which people are told: 0.8 is 80 %."),
    ] = None
    lease: Annotated[
        GivenAmount | None,
        Field(description="The share of what is left that a process may take in advance."),
    ] = None
    quality_risk: Annotated[
        float | None,
        Field(
            description="With decision=downgrade: at most this share may be downgraded with harm."
        ),
    ] = None
    confidence: float | None = None
    currency: str | None = None


def _set_policy(governor: Governor, who: Identity, asked: SetPolicy) -> Policy:
    tenant = _owner(who, asked.tenant_id)
    given = asked.model_dump(exclude_none=True)
    fields = {name: given[name] for name in given if name in asked.model_fields_set}
    policy = Policy.model_validate(fields | {"tenant_id": tenant})
    # Moving it would take another tenant's policy away.
    return governor.policies.put(policy, move=False)


def _owner(who: Identity, tenant: str | None) -> str:
    who.require(ADMIN)
    if tenant == EVERY_TENANT and not who.reaches_all:
        raise NotPermitted(f"tenant_id: a policy for every tenant needs the scope {ADMIN_ALL}")
    return who.tenant_of(tenant)


class ListPolicies(Arguments):
    """Arguments of `list_policies`."""


class PolicyList(Result):
    """The policies of the tenant, and those of every tenant (`tenant_id` is `*`)."""

    policies: tuple[Policy, ...]


def _list_policies(governor: Governor, who: Identity, asked: ListPolicies) -> PolicyList:
    tenant = who.tenant_of(asked.tenant_id)
    found = governor.policies.list(tenant=None if tenant == EVERY_TENANT else tenant)
    return PolicyList(policies=tuple(found))


class DeletePolicy(Arguments):
    """Arguments of `delete_policy`."""

    policy_id: str


class Deleted(Result):
    """That it was deleted; what was spent under it stays counted."""

    success: bool
    policy_id: str


def _delete_policy(governor: Governor, who: Identity, asked: DeletePolicy) -> Deleted:
    tenant = _owner(who, asked.tenant_id)
    try:
        governor.policies.delete(asked.policy_id, tenant=None if who.reaches_all else tenant)
    except NotFound:
        # One of another tenant is answered like none at all.
        missing = f"policy: no policy {asked.policy_id!r:.80} of tenant {tenant!r}"
        raise NotFound(missing) from None
    return Deleted(success=True, policy_id=asked.policy_id)


LIMITING: tuple[GovernorTool[Any], ...] = (
    GovernorTool(
        name="list_policies",
        title="List the policies",
        description="List the budget policies of the tenant: limits, whom they concern, and what "
        "happens when they are crossed.",
        arguments=ListPolicies,
        result=PolicyList,
        run=_list_policies,
        reads_only=True,
    ),
    GovernorTool(
        name="set_policy",
        title="Set a budget policy",
        description="Add or replace a budget policy: a limit on cost, tokens or requests of the "
        "tenant, a user, a tool or a label, per request, day, month or another window; and what "
        "happens beyond it: deny, downgrade to a cheaper model, or require_approval. Admins only.",
        arguments=SetPolicy,
        result=Policy,
        run=_set_policy,
        scope=ADMIN,
        # It takes the place of the policy that had its id.
        destructive=True,
        idempotent=True,
    ),
    GovernorTool(
        name="delete_policy",
        title="Delete a budget policy",
        description="Delete a budget policy, so that its limit holds no longer. What was spent "
        "under it stays counted. Admins only.",
        arguments=DeletePolicy,
        result=Deleted,
        run=_delete_policy,
        scope=ADMIN,
        destructive=True,
    ),
)
