"""FluxAI: reserve before the call, settle after it, never overspend in between.

Names are loaded when they are first used, so that `import fluxai` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxai.analytics import Budget, RouteResult, UsageSummary
    from fluxai.async_governor import AsyncGovernor
    from fluxai.context import subject
    from fluxai.core.attempts import Attempt
    from fluxai.core.decisions import (
        Approval,
        CounterOffer,
        Decision,
        Reason,
        Reservation,
        Settlement,
        UsageEvent,
    )
    from fluxai.core.errors import (
        AllProvidersFailed,
        ApprovalConflict,
        ApprovalRequired,
        BudgetExceeded,
        ConfigurationError,
        FluxAIError,
        IdempotencyConflict,
        InvalidRequest,
        NotFound,
        NotGoverned,
        NotPermitted,
        PolicyDenied,
        Refused,
        ReservationNotFound,
        SettlementConflict,
        StorageError,
        StreamStopped,
        UnknownModel,
    )
    from fluxai.core.estimates import Estimate
    from fluxai.core.usage import Usage
    from fluxai.costs import Cost, CostEstimator
    from fluxai.governor import Governor
    from fluxai.models import Choice, Model, ModelRegistry, ModelSelector
    from fluxai.policy.engine import PolicyEngine, PolicyRequest
    from fluxai.policy.records import Grant, Policy, Tenant, Tool, User
    from fluxai.prompts import PromptAnalysis, PromptAnalyzer
    from fluxai.providers.completing import Completion
    from fluxai.providers.images import Image
    from fluxai.providers.instrumenting import instrument, uninstrument
    from fluxai.storage.base import Alert, LedgerReport, Storage

__version__ = "0.1.0"

_HOMES = {
    "Alert": "fluxai.storage.base",
    "AllProvidersFailed": "fluxai.core.errors",
    "Approval": "fluxai.core.decisions",
    "ApprovalConflict": "fluxai.core.errors",
    "ApprovalRequired": "fluxai.core.errors",
    "AsyncGovernor": "fluxai.async_governor",
    "Attempt": "fluxai.core.attempts",
    "Budget": "fluxai.analytics",
    "BudgetExceeded": "fluxai.core.errors",
    "Choice": "fluxai.models",
    "Completion": "fluxai.providers.completing",
    "ConfigurationError": "fluxai.core.errors",
    "Cost": "fluxai.costs",
    "CostEstimator": "fluxai.costs",
    "CounterOffer": "fluxai.core.decisions",
    "Decision": "fluxai.core.decisions",
    "Estimate": "fluxai.core.estimates",
    "FluxAIError": "fluxai.core.errors",
    "Governor": "fluxai.governor",
    "Grant": "fluxai.policy.records",
    "IdempotencyConflict": "fluxai.core.errors",
    "Image": "fluxai.providers.images",
    "InvalidRequest": "fluxai.core.errors",
    "LedgerReport": "fluxai.storage.base",
    "Model": "fluxai.models",
    "ModelRegistry": "fluxai.models",
    "ModelSelector": "fluxai.models",
    "NotFound": "fluxai.core.errors",
    "NotGoverned": "fluxai.core.errors",
    "NotPermitted": "fluxai.core.errors",
    "Policy": "fluxai.policy.records",
    "PolicyDenied": "fluxai.core.errors",
    "PolicyEngine": "fluxai.policy.engine",
    "PolicyRequest": "fluxai.policy.engine",
    "PromptAnalysis": "fluxai.prompts",
    "PromptAnalyzer": "fluxai.prompts",
    "Reason": "fluxai.core.decisions",
    "Refused": "fluxai.core.errors",
    "Reservation": "fluxai.core.decisions",
    "ReservationNotFound": "fluxai.core.errors",
    "RouteResult": "fluxai.analytics",
    "Settlement": "fluxai.core.decisions",
    "SettlementConflict": "fluxai.core.errors",
    "Storage": "fluxai.storage.base",
    "StorageError": "fluxai.core.errors",
    "StreamStopped": "fluxai.core.errors",
    "Tenant": "fluxai.policy.records",
    "Tool": "fluxai.policy.records",
    "UnknownModel": "fluxai.core.errors",
    "Usage": "fluxai.core.usage",
    "UsageEvent": "fluxai.core.decisions",
    "UsageSummary": "fluxai.analytics",
    "User": "fluxai.policy.records",
    "instrument": "fluxai.providers.instrumenting",
    "subject": "fluxai.context",
    "uninstrument": "fluxai.providers.instrumenting",
}

__all__ = [
    "Alert",
    "AllProvidersFailed",
    "Approval",
    "ApprovalConflict",
    "ApprovalRequired",
    "AsyncGovernor",
    "Attempt",
    "Budget",
    "BudgetExceeded",
    "Choice",
    "Completion",
    "ConfigurationError",
    "Cost",
    "CostEstimator",
    "CounterOffer",
    "Decision",
    "Estimate",
    "FluxAIError",
    "Governor",
    "Grant",
    "IdempotencyConflict",
    "Image",
    "InvalidRequest",
    "LedgerReport",
    "Model",
    "ModelRegistry",
    "ModelSelector",
    "NotFound",
    "NotGoverned",
    "NotPermitted",
    "Policy",
    "PolicyDenied",
    "PolicyEngine",
    "PolicyRequest",
    "PromptAnalysis",
    "PromptAnalyzer",
    "Reason",
    "Refused",
    "Reservation",
    "ReservationNotFound",
    "RouteResult",
    "Settlement",
    "SettlementConflict",
    "Storage",
    "StorageError",
    "StreamStopped",
    "Tenant",
    "Tool",
    "UnknownModel",
    "Usage",
    "UsageEvent",
    "UsageSummary",
    "User",
    "instrument",
    "subject",
    "uninstrument",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fluxai' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
