"""The conformance suite of the protocol: nothing is lost through the gateway, and what the server lacks is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest

from tests.mcp_peers.programs import node, server

REVISIONS: Final = ("2026-07-28", "2025-11-25")
_EXPECTED: Final = Path(__file__).with_name("server_expected_failures.yml")
_SCENARIO: Final = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT.+")

#: What passes without the gateway and not through it, and why. None of it is scored, or failed.
_NOT_SERVED: Final = "subscriptions/listen is not served, and not offered: the suite skips it"
_NOT_RESUMED: Final = "a broken stream can't be taken up again, which the protocol only recommends"
_UNKNOWN_TOOL: Final = (
    "neither has the tool, and the suite takes the SDK's answer to that for an answer of the tool"
)
LOST: Final = {
    "2026-07-28": {
        ("server-stateless", "sep-2575-server-honors-notification-filter"): _NOT_SERVED,
        ("server-stateless", "sep-2575-server-sends-prompts-list-changed-on-subscription"): _NOT_SERVED,
        ("server-stateless", "sep-2575-server-sends-subscription-ack"): _NOT_SERVED,
        ("server-stateless", "sep-2575-server-sends-tools-list-changed-on-subscription"): _NOT_SERVED,
        ("server-stateless", "sep-2575-server-tags-subscription-id"): _NOT_SERVED,
        ("tasks-capability-negotiation", "sep-2663-server-rejects-undeclared-client"): _UNKNOWN_TOOL,
        ("tasks-dispatch-and-envelope", "sep-2663-legacy-task-param-ignored"): _UNKNOWN_TOOL,
        ("tasks-dispatch-and-envelope", "tasks-immediate-result-shortcut"): _UNKNOWN_TOOL,
        ("tasks-dispatch-and-envelope", "tasks-result-type-complete-on-non-task-responses"): _UNKNOWN_TOOL,
        ("tasks-lifecycle", "tasks-sync-tool-call"): _UNKNOWN_TOOL,
    },
    "2025-11-25": {
        ("server-sse-polling", "server-sse-disconnect-resume"): _NOT_RESUMED,
        ("server-sse-polling", "server-sse-priming-event"): _NOT_RESUMED,
        ("server-sse-polling", "server-sse-retry-field"): _NOT_RESUMED,
    },
}  # fmt: skip

Check = tuple[str, str]


def passed(url: str, revision: str, folder: Path) -> set[Check]:
    """Run what a revision requires; return the checks that passed, once every scored one has."""
    run = node("conformance", "server", "--url", url, "--requirements", revision, "-o", str(folder))
    assert run.returncode == 0, run.stdout[-4_000:] + run.stderr
    found: dict[Check, set[str]] = {}
    for path in folder.glob("*/checks.json"):
        scenario = _SCENARIO.fullmatch(path.parent.name)
        assert scenario is not None, path
        for check in json.loads(path.read_text(encoding="utf-8")):
            found.setdefault((scenario[1], check["id"]), set()).add(check["status"])
    return {check for check, states in found.items() if states == {"SUCCESS"}}


@pytest.mark.parametrize("revision", REVISIONS)
def test_nothing_that_passes_without_the_gateway_fails_through_it(
    example: str, example_behind: str, revision: str, tmp_path: Path
) -> None:
    """Every scored scenario passes both ways; what else differs is listed above, and no more."""
    direct = passed(example, revision, tmp_path / "direct")
    assert len({scenario for scenario, _ in direct}) >= 30
    behind = passed(example_behind, revision, tmp_path / "behind")
    assert direct - behind == LOST[revision].keys()


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_server_fails_only_what_is_expected_of_it(revision: str, tmp_path: Path) -> None:
    """It passes each check that asks for nothing that it does not offer."""
    options = ("--db", f"sqlite:///{tmp_path}/ledger.db", "--no-auth", "--subjects", "open")
    with server(tmp_path, *options) as url:
        run = node(
            *("conformance", "server", "--url", url, "--requirements", revision),
            *("--expected-failures", str(_EXPECTED), "-o", str(tmp_path / "out")),
        )
    assert run.returncode == 0, run.stdout[-4_000:] + run.stderr
