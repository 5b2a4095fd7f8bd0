"""What every test may ask for: recorded responses, real servers, and how hard Hypothesis tries."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import postgres, postgrest

pytest_plugins = ["tests.servers.fixtures"]

_VARIABLE = "FLUXAI_TEST_DATA"
_NO_DATA = f"{_VARIABLE} is not set"

# The same examples on every machine and every day: a red run is a change of ours. A slow machine
# is not a failure.
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=100,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
# New examples each time, and many: `python3 -m tests long`.
settings.register_profile(
    "long",
    deadline=None,
    max_examples=int(os.environ.get("FLUXAI_LONG_EXAMPLES", "2000")),
    stateful_step_count=100,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("ci")


@pytest.fixture(scope="session")
def recorded_data() -> Path:
    """Return the folder of recorded data, or skip where `FLUXAI_TEST_DATA` names none.

    A variable that names something else is a mistake, and fails.
    """
    place = os.environ.get(_VARIABLE)
    if not place:
        pytest.skip(_NO_DATA)
    folder = Path(place)
    if not folder.is_dir():
        pytest.fail(f"{_VARIABLE} names no folder: {place}")
    return folder


@pytest.fixture(scope="session")
def recorded_responses(recorded_data: Path) -> tuple[dict[str, Any], ...]:
    """Return every recorded request and response: read them, change copies only."""
    with gzip.open(recorded_data / "provider_responses.jsonl.gz", "rt", encoding="utf-8") as lines:
        return tuple(json.loads(line) for line in lines)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, object, object]:
    """Say last, in one loud line each, what was not tried for want of data or of a server."""
    result = yield
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())]
    for missing in (_NO_DATA, postgres.MISSING, postgres.NOT_OURS, postgrest.MISSING):
        if skipped := sum(missing in reason for reason in reasons):
            line = f"!!! {skipped} TESTS SKIPPED BECAUSE {missing.upper()} !!!"
            terminalreporter.write_line(line, red=True, bold=True)
    return result
