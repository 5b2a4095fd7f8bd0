"""The demo's tenants, users, tools and policies: the ids that demos, docs and tests use.

Three companies: FreeCo may spend $2 a day and has no premium models, ProCorp $50 a day, and
EnterpriseLLC is asked before it goes beyond $500 a month.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from fluxai.governor import Governor

FREECO: Final = "11111111-1111-1111-1111-111111111111"
PROCORP: Final = "22222222-2222-2222-2222-222222222222"
ENTERPRISELLC: Final = "33333333-3333-3333-3333-333333333333"

FREECO_USER: Final = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
PROCORP_USER: Final = "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb"
PROCORP_ADMIN: Final = "cccccccc-cccc-cccc-cccc-cccccccccccc"
ENTERPRISELLC_ADMIN: Final = "dddddddd-dddd-dddd-dddd-dddddddddddd"


class _Priced(NamedTuple):
    id: str
    name: str
    category: str
    tier: str
    cost_per_unit: str
    unit: str


_TOOLS: Final = (
    _Priced("gpt-4", "GPT-4", "llm", "premium", "0.00003", "tokens"),
    _Priced("gpt-4-turbo", "GPT-4 Turbo", "llm", "premium", "0.00001", "tokens"),
    _Priced("gpt-3.5-turbo", "GPT-3.5 Turbo", "llm", "cheap", "0.0000005", "tokens"),
    _Priced("claude-3-opus", "Claude 3 Opus", "llm", "premium", "0.000015", "tokens"),
    _Priced("claude-3-sonnet", "Claude 3 Sonnet", "llm", "standard", "0.000003", "tokens"),
    _Priced("claude-3-haiku", "Claude 3 Haiku", "llm", "cheap", "0.00000025", "tokens"),
    _Priced("search-api", "Search API", "search", "standard", "0.001", "requests"),
    _Priced("vector-db", "Vector DB", "db", "cheap", "0.0001", "requests"),
)
_FREECO_FALLBACKS: Final = (
    ("gpt-4", "gpt-3.5-turbo"),
    ("gpt-4-turbo", "gpt-3.5-turbo"),
    ("claude-3-opus", "claude-3-haiku"),
)


def load_demo(governor: Governor) -> None:
    """Put the demo's records into a store. Loading them again changes nothing."""
    from fluxai.policy.records import Policy, Tenant, Tool, User

    for tenant in (
        Tenant(
            id=FREECO,
            name="FreeCo",
            plan="free",
            soft_limit=Decimal(1),
            hard_limit=Decimal(2),
            limit_period="daily",
        ),
        Tenant(
            id=PROCORP,
            name="ProCorp",
            plan="pro",
            soft_limit=Decimal(40),
            hard_limit=Decimal(50),
            limit_period="daily",
        ),
        Tenant(
            id=ENTERPRISELLC,
            name="EnterpriseLLC",
            plan="enterprise",
            soft_limit=Decimal(400),
            hard_limit=Decimal(500),
            limit_period="monthly",
        ),
    ):
        governor.tenants.put(tenant)
    for user in (
        User(id=FREECO_USER, tenant_id=FREECO, email="user@freeco.com"),
        User(id=PROCORP_USER, tenant_id=PROCORP, email="user@procorp.com"),
        User(id=PROCORP_ADMIN, tenant_id=PROCORP, email="admin@procorp.com", role="admin"),
        User(
            id=ENTERPRISELLC_ADMIN,
            tenant_id=ENTERPRISELLC,
            email="admin@enterprisellc.com",
            role="admin",
        ),
    ):
        governor.users.put(user)
    for tool in _TOOLS:
        governor.tools.put(Tool.model_validate(tool._asdict()))
    for policy in (
        Policy(
            id="freeco-daily",
            tenant_id=FREECO,
            limit_type="daily",
            limit_value=Decimal(2),
            decision="deny",
        ),
        *(
            Policy(
                id=f"freeco-{tool}",
                tenant_id=FREECO,
                scope="tool",
                scope_id=tool,
                limit_type="per_request",
                limit_value=Decimal(0),
                decision="downgrade",
                fallback_tool_id=fallback,
            )
            for tool, fallback in _FREECO_FALLBACKS
        ),
        Policy(
            id="procorp-daily",
            tenant_id=PROCORP,
            limit_type="daily",
            limit_value=Decimal(50),
            decision="deny",
        ),
        Policy(
            id="enterprisellc-monthly",
            tenant_id=ENTERPRISELLC,
            limit_type="monthly",
            limit_value=Decimal(500),
            decision="require_approval",
        ),
    ):
        governor.policies.put(policy)
