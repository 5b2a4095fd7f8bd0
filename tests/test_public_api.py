"""The public surface: what `__all__` says is what there is, under the names that were promised."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import typing
from importlib import metadata

import pytest

import fluxai
from fluxai import (
    AsyncGovernor,
    Budget,
    CostEstimator,
    Decision,
    FluxAIError,
    Governor,
    ModelRegistry,
    ModelSelector,
    Policy,
    PolicyEngine,
    PromptAnalyzer,
    Refused,
    Reservation,
    RouteResult,
    Settlement,
    Tenant,
    Tool,
    Usage,
    UsageSummary,
    User,
)
from fluxai.core import errors


def test_all_is_what_is_exported() -> None:
    """`__all__`, the names that load, and what type checkers see are one list."""
    assert fluxai.__all__ == sorted(fluxai.__all__, key=lambda name: (name.islower(), name))
    for name in fluxai.__all__:
        value = getattr(fluxai, name)
        assert getattr(value, "__name__", name) in {name, "UsageEvent"}
    assert set(fluxai._HOMES) == set(fluxai.__all__)
    assert {*fluxai.__all__, "__version__"} == set(dir(fluxai))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fluxai.nothing  # type: ignore[attr-defined]


def test_the_version_is_the_package_s() -> None:
    """One version, wherever it is asked for."""
    assert fluxai.__version__ == metadata.version("fluxai")


def test_everything_public_is_explained() -> None:
    """Each exported name, and each public part of a class, has a docstring."""
    for name in fluxai.__all__:
        value = getattr(fluxai, name)
        assert inspect.getdoc(value), name
        if not inspect.isclass(value) or issubclass(value, Exception):
            continue
        for part, member in vars(value).items():
            if not part.startswith("_") and callable(member) and inspect.isfunction(member):
                assert inspect.getdoc(getattr(value, part)), f"{name}.{part}"


def _parameters(function: object) -> list[str]:
    assert callable(function)
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_the_governor_takes_what_was_promised() -> None:
    """Names, order and defaults of the constructor."""
    expected = {
        "storage": "memory://",
        "registry": None,
        "estimator": None,
        "analyzer": None,
        "engine": None,
        "clock": None,
        "sinks": (),
        "subjects": "open",
        "on_storage_error": "deny",
        "on_expiry": "release",
        "spool": None,
    }
    found = inspect.signature(Governor).parameters
    assert list(found)[: len(expected)] == list(expected)
    assert {name: found[name].default for name in expected} == expected


PROMISED: dict[str, list[str]] = {
    "check": ["tenant", "user", "model", "prompt", "max_output_tokens"],
    "reserve": [
        "tenant",
        "user",
        "model",
        "tool",
        "prompt",
        "messages",
        "input_tokens",
        "max_output_tokens",
        "units",
        "labels",
        "idempotency_key",
        "ttl",
        "approval_id",
    ],
    "settle": ["reservation", "response", "usage", "cost"],
    "release": ["reservation"],
    "extend": ["reservation", "ttl"],
    "record": [
        "response",
        "tenant",
        "user",
        "model",
        "tool",
        "labels",
        "at",
        "id",
        "usage",
        "cost",
    ],
    "adjust": ["event_id", "amount", "reason", "by", "id"],
    "budget": ["limit", "tenant", "labels"],
    "guard": ["request"],
    "govern": ["options"],
    "budgets": ["tenant", "user"],
    "usage": ["tenant", "user", "period", "start", "end", "group_by"],
    "events": ["after", "limit", "tenant"],
    "reservations": ["state", "tenant"],
    "explain": ["decision"],
    "expire": [],
    "verify": [],
    "close": [],
    "smart_complete": [
        "prompt",
        "tenant",
        "user",
        "labels",
        "context",
        "preferences",
        "system_instruction",
        "max_tokens",
        "temperature",
        "images",
    ],
    "generate_image": ["prompt", "tenant", "user", "labels", "model", "size"],
    "providers": ["openai", "anthropic", "gemini", "models"],
    "check_and_route": [
        "tenant_id",
        "user_id",
        "tool_id",
        "estimated_units",
        "params",
        "hold",
    ],
}


@pytest.mark.parametrize("owner", [Governor, AsyncGovernor])
@pytest.mark.parametrize("verb", PROMISED)
def test_verbs_take_what_was_promised(owner: type, verb: str) -> None:
    """Every promised argument exists under its name, in both worlds."""
    assert set(PROMISED[verb]) <= set(_parameters(getattr(owner, verb)))


def test_registries_and_approvals_have_their_calls() -> None:
    """put, get, list and delete of each registry; grants; answers to approvals."""
    governor = Governor()
    for name in ("tenants", "users", "tools", "models", "policies"):
        registry = getattr(governor, name)
        for call in ("put", "get", "list", "delete"):
            assert callable(getattr(registry, call))
    assert _parameters(governor.policies.grant) == ["policy_id", "amount", "until", "by"]
    assert "tenant" in _parameters(governor.users.get)
    assert _parameters(governor.approvals.approve)[:2] == ["approval_id", "by"]
    assert _parameters(governor.approvals.reject)[:3] == ["approval_id", "by", "reason"]
    assert _parameters(governor.approvals.wait)[:2] == ["approval_id", "timeout"]


FIELDS: dict[type, set[str]] = {
    Tenant: {
        "id",
        "name",
        "plan",
        "soft_limit",
        "hard_limit",
        "limit_period",
        "timezone",
        "week_start",
        "fiscal_month_start",
        "currency",
    },
    User: {"id", "tenant_id", "email", "role", "personal_cap"},
    Tool: {"id", "name", "category", "tier", "cost_per_unit", "unit"},
    Policy: {
        "tenant_id",
        "scope",
        "scope_id",
        "limit_type",
        "limit_value",
        "measure",
        "decision",
        "fallback_tool_id",
        "window",
        "alert_at",
        "mode",
        "priority",
        "currency",
        "id",
    },
}


@pytest.mark.parametrize("record", FIELDS, ids=lambda record: record.__name__)
def test_records_have_their_fields(record: type) -> None:
    """What is written to files and over the wire keeps its names."""
    assert set(getattr(record, "model_fields")) >= FIELDS[record]  # noqa: B009 -- typed as type


@pytest.mark.parametrize("record", FIELDS, ids=lambda record: record.__name__)
def test_constructors_are_spelled_out_for_type_checkers(record: type) -> None:
    """What type checkers are told of a record's constructor names exactly its fields."""
    tree = ast.parse(inspect.getsource(record))
    (init,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    told = {argument.arg for argument in init.args.kwonlyargs}
    assert told == set(getattr(record, "model_fields"))  # noqa: B009 -- typed as type


def test_answers_have_their_fields() -> None:
    """What people read keeps its names."""
    assert {field.name for field in dataclasses.fields(Budget)} >= {
        "policy_id",
        "scope",
        "scope_id",
        "measure",
        "limit_type",
        "decision",
        "mode",
        "limit",
        "settled",
        "reserved",
        "remaining",
        "window_start",
        "resets_at",
        "currency",
    }
    assert [field.name for field in dataclasses.fields(RouteResult)] == [
        "decision",
        "final_tool_used",
        "cost_estimate",
        "remaining_budget",
        "message",
        "reservation_id",
        "approval_id",
    ]
    assert {field.name for field in dataclasses.fields(UsageSummary)} >= {
        "total_cost",
        "total_units",
        "by_tool",
        "recent_events",
    }
    for name in (
        "id",
        "decision",
        "allowed",
        "requested_tool",
        "final_tool",
        "model",
        "estimate",
        "max_output_tokens",
        "remaining",
        "message",
        "reasons",
        "counter_offer",
        "approval_id",
        "expires_at",
        "to_json",
        "from_json",
    ):
        assert hasattr(Decision, name), name
        assert hasattr(Reservation, name), name
    for name in (
        "cost",
        "usage",
        "overrun",
        "late",
        "estimated",
        "priced",
        "model",
        "event_id",
    ):
        assert hasattr(Settlement, name), name


def test_the_four_parts_stand_alone() -> None:
    """Cost, registry, analysis and engine are useful without a governor."""
    assert _parameters(CostEstimator().cost) == ["response", "provider", "model", "at", "tier"]
    assert {"model", "prompt", "max_output_tokens"} <= set(_parameters(CostEstimator().estimate))
    assert _parameters(Usage.parse) == ["response", "provider"]
    assert _parameters(PolicyEngine.evaluate) == ["request", "balances", "at"]
    assert _parameters(ModelRegistry().list) == ["provider", "tier", "capability", "enabled"]
    assert _parameters(PromptAnalyzer().analyze) == ["prompt"]
    chosen_by = _parameters(ModelSelector(ModelRegistry()).select)
    assert chosen_by[:4] == ["analysis", "prefer", "max_cost", "allowed"]
    analysis = PromptAnalyzer().analyze("hello")
    assert all(
        hasattr(analysis, name)
        for name in ("complexity", "task_type", "cheap_ok", "confidence", "tokens", "reasons")
    )


TREE = {
    "ConfigurationError": FluxAIError,
    "NotGoverned": fluxai.ConfigurationError,
    "InvalidRequest": FluxAIError,
    "StorageError": FluxAIError,
    "NotFound": FluxAIError,
    "NotPermitted": FluxAIError,
    "UnknownModel": FluxAIError,
    "Refused": FluxAIError,
    "PolicyDenied": Refused,
    "BudgetExceeded": Refused,
    "StreamStopped": fluxai.BudgetExceeded,
    "ApprovalRequired": Refused,
    "AllProvidersFailed": FluxAIError,
    "ApprovalConflict": FluxAIError,
    "SettlementConflict": FluxAIError,
    "ReservationNotFound": FluxAIError,
    "IdempotencyConflict": FluxAIError,
}


def test_there_is_one_error_tree() -> None:
    """Every error has the promised parent, is exported, and is drawn at the top of its module."""
    defined = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, FluxAIError) and value is not FluxAIError
    }
    assert {name: error.__bases__[0] for name, error in defined.items()} == TREE
    for name in TREE:
        assert getattr(fluxai, name) is defined[name]
        assert name in (errors.__doc__ or "")


def test_annotations_resolve() -> None:
    """Frameworks that read annotations at run time find every name."""
    for record in (Tenant, User, Tool, Policy, Budget, RouteResult, UsageSummary):
        namespace = vars(sys.modules[record.__module__])
        assert typing.get_type_hints(record, namespace)
