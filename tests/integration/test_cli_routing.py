"""`fluxai routing report` and `fluxai simulate --routing`."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from openai import OpenAI

from fluxai import Governor, Policy
from fluxai.routing import Outcome
from fluxai.routing.certificates import first_look, thresholds
from fluxai.testing import FakeProvider
from tests.integration.command_line import run, url

_EASY = "Name a river in France."
_HARD = (
    "Prove that the integral of the velocity of a reaction in an electric field is bounded, and "
    "derive the concurrency of the distributed system that computes it, with a theorem."
)
_SAVE = Policy(
    id="save",
    tenant_id="acme",
    scope="tool",
    scope_id="gpt-4o",
    limit_type="per_request",
    limit_value=0,
    decision="downgrade",
    fallback_tool_id="gpt-4o-mini",
    quality_risk=0.05,
)


@pytest.fixture
def routed(tmp_path: Path) -> Path:
    """A ledger with a certificate, and calls of a wrapped client that it has led away."""
    with Governor(url(tmp_path)) as governor, FakeProvider() as provider:
        governor.policies.put(_SAVE)
        now = governor._now()
        governor.routing.add(
            "acme",
            [
                Outcome(
                    id=str(place),
                    at_us=now - 5_000 + place,
                    score=thresholds()[8],
                    qualities={"gpt-4o": 1.0, "gpt-4o-mini": 1.0},
                    source="tests",
                )
                for place in range(first_look(0.05, 0.9))
            ],
        )
        client = governor.wrap(OpenAI(base_url=provider.openai_url, api_key="k"), tenant="acme")
        for prompt in (_EASY, _EASY, _HARD):
            client.chat.completions.create(
                model="gpt-4o", max_tokens=50, messages=[{"role": "user", "content": prompt}]
            )
        # On the wire, not only in the ledger.
        asked = [request.json["model"] for request in provider.requests]
        assert asked == ["gpt-4o-mini", "gpt-4o-mini", "gpt-4o"]
        (first, *_) = governor.events(tenant="acme")
        assert first.reservation_id is not None
        governor.feedback(first.reservation_id, quality=0.9)
        governor.feedback(first.reservation_id, quality=1.0, model="gpt-4o")
    return tmp_path


def test_the_report_shows_certificate_traffic_saving_and_harm(routed: Path) -> None:
    """For people, and as JSON with the same numbers."""
    ran = run("routing", "report", "acme", "--db", url(routed))
    assert ran.code == 0
    for said in ("gpt-4o to gpt-4o-mini: valid", "3 calls", "2 (67%)", "saved $", "outcomes"):
        assert said in ran.out
    (tenant,) = run("routing", "report", "--json", "--db", url(routed)).document["tenants"]
    (route,) = tenant["routes"]
    assert (route["calls"], route["routed"], route["certificate"]["state"]) == (3, 2, "valid")
    certified_at = datetime.fromisoformat(route["certificate"]["at"])
    expires = datetime.fromisoformat(route["certificate"]["expires"])
    assert expires > certified_at > datetime(2026, 1, 1, tzinfo=UTC)
    assert Decimal(route["saved"]) > 0
    assert tenant["abilities"]["models"]["gpt-4o-mini"]["outcomes"] > 30


def test_a_replay_says_what_would_have_run_where(routed: Path) -> None:
    """What was routed is replayed as if it had not been, with its quality where that is known."""
    document = run(
        "simulate", "--routing", "--tenant", "acme", "--json", "--db", url(routed)
    ).document
    (route,) = document["routes"]
    calls = sum(level["calls"] for level in route["levels"])
    assert (calls, sum(level["routed"] for level in route["levels"])) == (3, 2)
    (judged,) = [level for level in route["levels"] if level["judged"]]
    assert (judged["quality"], judged["would_quality"]) == (1.0, 0.9)
    assert Decimal(judged["would_cost"]) < Decimal(judged["cost"])
    shown = run("simulate", "--routing", "--tenant", "acme", "--db", url(routed))
    assert "1.000 to 0.900" in shown.out
    tried = run(
        *("simulate", "--routing", "--tenant", "acme", "--db", url(routed)),
        *("--asked", "gpt-4o", "--cheap", "gpt-4.1-nano", "--risk", "0.1"),
    )
    assert "prove nothing" in tried.out


def test_without_a_policy_both_say_how_to_begin(tmp_path: Path) -> None:
    """And wrong usage is refused."""
    with Governor(url(tmp_path)) as governor:
        governor.policies.put(Policy(tenant_id="acme", limit_type="daily", limit_value=1))
    assert "quality_risk" in run("routing", "report", "--db", url(tmp_path)).out
    nothing = run("simulate", "--routing", "--db", url(tmp_path)).out
    assert "--asked" in nothing
    assert "tenant 'default'" in nothing
    assert run("simulate", "--db", url(tmp_path)).code == 2
    assert run("simulate", "--routing", "--asked", "gpt-4o", "--db", url(tmp_path)).code == 2
    unknown = run(
        *("simulate", "--routing", "--asked", "nothing", "--cheap", "gpt-4o"),
        *("--db", url(tmp_path)),
    )
    assert unknown.code == 1
