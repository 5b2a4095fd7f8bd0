"""`fluxai policies`: files of limits, checked as a whole before anything changes."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from fluxai import Governor, Policy
from tests.integration.command_line import run, url

FILE = """
[[tenant]]
id = "acme"
name = "Acme"
timezone = "Europe/Berlin"

[[user]]
id = "ana"
tenant_id = "acme"
personal_cap = 0.30

[[tool]]
id = "search"
cost_per_unit = 0.001

[[policy]]
id = "day"
tenant_id = "acme"
limit_type = "daily"
limit_value = 5.10
alert_at = [0.5, 0.9]

[[policy]]
id = "down"
tenant_id = "acme"
scope = "tool"
scope_id = "gpt-4"
limit_type = "per_request"
limit_value = "0.01"
decision = "downgrade"
fallback_tool_id = "gpt-4o-mini"
"""


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    """Return a file with one or two of everything."""
    path = tmp_path / "limits.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_a_file_is_applied_exactly_and_again_changes_nothing(limits: Path, tmp_path: Path) -> None:
    """Amounts arrive without a trace of binary fractions, and a second run is all unchanged."""
    first = run("policies", "apply", limits, "--db", url(tmp_path), "--json").document
    assert (first["added"], first["changed"], first["unchanged"]) == (5, 0, 0)
    again = run("policies", "apply", limits, "--db", url(tmp_path), "--json").document
    assert (again["added"], again["changed"], again["unchanged"]) == (0, 0, 5)
    with Governor(url(tmp_path)) as governor:
        assert governor.policies.get("day").limit_value == Decimal("5.10")
        assert governor.policies.get("day").alert_at == (Decimal("0.5"), Decimal("0.9"))
        assert governor.users.get("ana", tenant="acme").personal_cap == Decimal("0.30")
        assert governor.tenants.get("acme").timezone == "Europe/Berlin"
        assert governor.tools.get("search").cost_per_unit == Decimal("0.001")


def test_a_change_is_shown_field_by_field(limits: Path, tmp_path: Path) -> None:
    """People see what becomes of what before and after it happens."""
    run("policies", "apply", limits, "--db", url(tmp_path))
    limits.write_text(FILE.replace("5.10", "7"), encoding="utf-8")
    shown = run("policies", "apply", limits, "--db", url(tmp_path), "--dry-run")
    assert "~ policy day: limit_value 5.10 → 7" in shown.out
    assert "Would be: 0 added, 1 changed, 4 unchanged." in shown.out
    shown = run("policies", "apply", limits, "--db", url(tmp_path))
    assert "Done: 0 added, 1 changed, 4 unchanged." in shown.out
    with Governor(url(tmp_path)) as governor:
        assert governor.policies.get("day").limit_value == 7


def test_a_dry_run_changes_nothing_and_needs_no_ledger(limits: Path, tmp_path: Path) -> None:
    """A file can be checked where there is no ledger, and none is made."""
    shown = run("policies", "apply", limits, "--db", url(tmp_path), "--dry-run", "--json")
    assert (shown.code, shown.document["added"]) == (0, 5)
    assert not (tmp_path / "ledger.db").exists()


def test_what_the_file_does_not_name_stays(limits: Path, tmp_path: Path) -> None:
    """Applying adds and replaces; it never deletes."""
    with Governor(url(tmp_path)) as governor:
        governor.policies.put(
            Policy(id="other", tenant_id="zen", limit_type="daily", limit_value="1")
        )
    run("policies", "apply", limits, "--db", url(tmp_path))
    listed = run("policies", "list", "--db", url(tmp_path), "--json").document["policies"]
    assert {policy["id"] for policy in listed} == {"day", "down", "other"}


def test_json_files_hold_the_same(tmp_path: Path) -> None:
    """A JSON file applies like a TOML file."""
    path = tmp_path / "limits.json"
    tables = {
        "policy": [{"id": "day", "tenant_id": "acme", "limit_type": "daily", "limit_value": 0.1}]
    }
    path.write_text(json.dumps(tables), encoding="utf-8")
    assert run("policies", "apply", path, "--db", url(tmp_path)).code == 0
    with Governor(url(tmp_path)) as governor:
        assert governor.policies.get("day").limit_value == Decimal("0.1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not toml", ["limits.toml: not TOML"]),
        ("[[limit]]\nid = 'a'", ["limits.toml: 'limit' is not known"]),
        ("[policy]\nid = 'a'", ["limits.toml: write [[policy]] with two brackets"]),
        (
            "[[policy]]\ntenant_id = 'a'\nlimit_type = 'daily'\nlimit_value = 1",
            ["limits.toml: policy 1: id: "],
        ),
        (
            FILE + "\n[[policy]]\nid = 'x'\ntenant_id = 'a'\nlimit_typ = 'daily'\nlimit_value = 1",
            [
                "limits.toml: policy 3 'x': limit_type: is missing",
                "limits.toml: policy 3 'x': limit_typ: is not a field",
            ],
        ),
        (
            "[[policy]]\nid = 'x'\ntenant_id = 'a'\nlimit_type = 'yearly'\nlimit_value = -1",
            ["policy 1 'x': limit_type: should be", "policy 1 'x': limit_value: "],
        ),
        (FILE + FILE, ["policy 3 'day': id: there are two", "tenant 2 'acme': id: there are two"]),
        (
            FILE.replace('"gpt-4o-mini"', '"gpt-99"'),
            ["policy 2 'down': fallback_tool_id: "],
        ),
        ("[[tenant]]\nid = 'a'\ntimezone = 'Mars/Olympus'", ["tenant 1 'a': ", "Mars/Olympus"]),
        ("[[tenant]]\nid = 'a'\ncurrency = 'EUR'", ["tenant 1 'a': currency 'EUR'"]),
    ],
)
def test_a_fault_names_file_entry_and_field_and_changes_nothing(
    text: str, says: list[str], tmp_path: Path
) -> None:
    """One line per fault says where it is; a file with any fault is not applied at all."""
    path = tmp_path / "limits.toml"
    path.write_text(text, encoding="utf-8")
    shown = run("policies", "apply", path, "--db", url(tmp_path))
    assert shown.code == 1
    for line in says:
        assert line in shown.err
    assert "Traceback" not in shown.err
    run("db", "migrate", "--db", url(tmp_path))
    with Governor(url(tmp_path)) as governor:
        assert governor.policies.list() == []
        assert governor.tenants.list() == []


def test_a_circle_of_fallbacks_is_found_before_anything_changes(tmp_path: Path) -> None:
    """Faults that only show between entries are found in the rehearsal."""
    policy = (
        "[[policy]]\nid = '{0}'\ntenant_id = 'a'\nscope = 'tool'\nscope_id = '{0}'\n"
        "limit_type = 'per_request'\nlimit_value = 0\ndecision = 'downgrade'\n"
        "fallback_tool_id = '{1}'\n"
    )
    path = tmp_path / "limits.toml"
    path.write_text(
        policy.format("gpt-4o", "gpt-4o-mini") + policy.format("gpt-4o-mini", "gpt-4o"),
        encoding="utf-8",
    )
    shown = run("policies", "apply", path, "--db", url(tmp_path))
    assert shown.code == 1
    assert "policy 2 'gpt-4o-mini': fallback_tool_id: the fallbacks would go round" in shown.err
    with Governor(url(tmp_path)) as governor:
        assert governor.policies.list() == []


def test_the_list_is_by_tenant(limits: Path, tmp_path: Path) -> None:
    """Policies are listed under the tenant they belong to, and can be narrowed to one."""
    run("policies", "apply", limits, "--db", url(tmp_path))
    shown = run("policies", "list", "--db", url(tmp_path))
    assert shown.out.startswith("Acme (acme)\n")
    assert "downgrade to gpt-4o-mini" in shown.out
    none = run("policies", "list", "--db", url(tmp_path), "--tenant", "zen", "--json")
    assert none.document == {"policies": []}
