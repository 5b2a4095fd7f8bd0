"""What an import costs: nothing is loaded that the program does not use."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: Packages that no import of the core may load, whatever is installed.
OPTIONAL = {
    "anthropic",
    "click",
    "genai_prices",
    "google",
    "httpx",
    "jinja2",
    "mcp",
    "openai",
    "opentelemetry",
    "prometheus_client",
    "psycopg",
    "rich",
    "starlette",
    "supabase",
    "tiktoken",
}
#: What the core itself needs, once something that needs it is used.
CORE = {"pydantic", "pydantic_core", "sqlalchemy"}
#: Generous: a cold disk on a busy machine.
SECONDS_MAX = 10

PROGRAM = """
import json, sys, time
before = set(sys.modules)
began = time.perf_counter()
{code}
seconds = time.perf_counter() - began
loaded = sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})
print(json.dumps([seconds, loaded]))
"""


def _loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the top-level packages that it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code=code)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, loaded = json.loads(done.stdout)
    print(f"{code}: {seconds * 1000:.0f} ms")  # noqa: T201 -- measured numbers are shown
    assert seconds < SECONDS_MAX
    return set(loaded)


def test_import_fluxai_loads_nothing() -> None:
    """No SDK, no SQLAlchemy, no pydantic, no web framework: next to nothing."""
    assert not _loaded_by("import fluxai") & (OPTIONAL | CORE)


@pytest.mark.parametrize(
    "names",
    [
        "FluxAIError, BudgetExceeded, InvalidRequest, StorageError",
        "subject",
        "Usage",
        "CostEstimator",
        "PromptAnalyzer",
        "Decision, Reservation, Settlement, UsageEvent",
    ],
)
def test_light_names_stay_light(names: str) -> None:
    """Errors, subjects, usage and prices need neither pydantic nor a database."""
    assert not _loaded_by(f"from fluxai import {names}") & (OPTIONAL | CORE)


@pytest.mark.parametrize(
    "code",
    [
        "from fluxai import Governor, Policy",
        "from fluxai import AsyncGovernor, PolicyEngine, Tenant, User, Tool",
        (
            "from fluxai import Governor; g = Governor(); "
            "g.settle(g.reserve(model='gpt-4o', prompt='hi'), cost='0.01'); g.budgets('default')"
        ),
    ],
    ids=["names", "more names", "a call in memory"],
)
def test_a_governor_in_memory_loads_no_database(code: str) -> None:
    """Importing and using it in memory loads no SDK and no SQLAlchemy."""
    assert not _loaded_by(code) & (OPTIONAL | {"sqlalchemy"})


def test_a_file_loads_sqlalchemy_and_nothing_else() -> None:
    """On SQLite there are still no SDK, no screen and no web framework."""
    loaded = _loaded_by("from fluxai.storage.sqlite import SqliteStorage")
    assert "sqlalchemy" in loaded
    assert not loaded & OPTIONAL


def test_a_provider_for_tests_is_the_standard_library() -> None:
    """It speaks as SDKs listen, and needs none of them."""
    loaded = _loaded_by("from fluxai.testing import FakeProvider; FakeProvider().start().close()")
    assert not loaded & (OPTIONAL | CORE)


def test_every_name_loads_alone() -> None:
    """Each public name can be the first thing that a program imports."""
    code = (
        "import fluxai, subprocess; "
        "[subprocess.run([sys.executable, '-W', 'error', '-c', f'from fluxai import {n}'],"
        " check=True) for n in ('Governor', 'Policy', 'Alert', 'Model', 'PolicyEngine', 'subject',"
        " 'AsyncGovernor', 'Storage', 'Usage', 'Decision')]"
    )
    _loaded_by(code)
