"""Outcomes and certificates on every store: kept, joined, shared, and acted on."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fluxai import (
    AsyncGovernor,
    BudgetExceeded,
    Governor,
    InvalidRequest,
    NotFound,
    Policy,
    StorageError,
    subject,
)
from fluxai.core.windows import from_us
from fluxai.learning import KEPT
from fluxai.routing import Outcome
from fluxai.routing.certificates import first_look, thresholds
from fluxai.storage.supabase import SupabaseStorage
from fluxai.testing import FakeClock
from tests.integration.conftest import empty_store

_EASY = "Name a river in France."
_HARD = (
    "Prove that the integral of the velocity of a reaction in an electric field is bounded, and "
    "derive the concurrency of the distributed system that computes it, with a theorem."
)
_ROUTED = Policy(
    tenant_id="acme",
    scope="tool",
    scope_id="gpt-4o",
    limit_type="per_request",
    limit_value=0,
    decision="downgrade",
    fallback_tool_id="gpt-4o-mini",
    quality_risk=0.05,
    confidence=0.9,
    id="save",
)
_NEEDED = first_look(0.05, 0.9)

Open = Callable[..., Governor]
#: Leaves no room for the cheaper model.
NONE_OF_IT = Policy(
    tenant_id="acme",
    scope="tool",
    scope_id="gpt-4o-mini",
    limit_type="daily",
    limit_value=0,
    id="none-of-it",
)


@pytest.fixture(params=["memory", "sqlite", "postgres", "supabase"])
def open_governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens governors on one store; in memory there is one to share."""
    with ExitStack() as opened:
        if request.param == "supabase":
            api = request.getfixturevalue("project").api

            def storage() -> Any:
                return SupabaseStorage(api.url, key=api.service_key)
        elif request.param == "memory":
            shared = Governor().storage

            def storage() -> Any:
                return shared
        else:
            url = empty_store(request, tmp_path)

            def storage() -> Any:
                return url

        def open_one(**options: Any) -> Governor:
            return opened.enter_context(Governor(storage(), **options))

        yield open_one


def ask(governor: Governor, prompt: str = _EASY, **more: Any) -> Any:
    """Reserve a call of the dear model, and settle it."""
    call = {"tenant": "acme", "model": "gpt-4o", "prompt": prompt, "max_output_tokens": 20}
    reservation = governor.reserve(**{**call, **more})
    if reservation.allowed:
        usage = {"prompt_tokens": 10, "completion_tokens": 20}
        model = reservation.model
        governor.settle(
            reservation,
            {"object": "chat.completion", "model": model, "choices": [], "usage": usage},
        )
    return reservation


def paired(number: int, *, harmful: int = 0, name: str = "pair", at_us: int = 0) -> list[Outcome]:
    """Make outcomes of both models, a microsecond apart: easy prompts, some of them harmed."""
    return [
        Outcome(
            id=f"{name}{place}",
            at_us=at_us + place,
            score=thresholds()[8],
            qualities={"gpt-4o": 1.0, "gpt-4o-mini": float(place >= harmful)},
            source="tests",
        )
        for place in range(number)
    ]


def certified(governor: Governor) -> None:
    """Have the cheaper model certified for easy prompts."""
    governor.policies.put(_ROUTED)
    now = governor._now()
    harmed = [
        Outcome(
            id=f"hard{place}",
            at_us=now - 2_000 + place,
            score=thresholds()[12],
            qualities={"gpt-4o": 1.0, "gpt-4o-mini": 0.0},
            source="tests",
        )
        for place in range(30)
    ]
    governor.routing.add("acme", [*harmed, *paired(_NEEDED, at_us=now - 1_000)])
    (certificate,) = governor.routing.certificates("acme")
    assert certificate.state == "valid"


def test_feedback_is_kept_and_joined_on_every_store(open_governor: Open) -> None:
    """By call, whoever says it; another governor reads the same."""
    governor = open_governor()
    governor.policies.put(_ROUTED)
    reservation = ask(governor)
    said = governor.feedback(reservation.id, ok=True, source="tests")
    assert said.qualities == {"gpt-4o": 1.0}
    assert said.score == pytest.approx(governor.routing.score(_EASY))
    other = open_governor()
    again = other.feedback(reservation.id, quality=0.4, model="openai:gpt-4o-mini", tenant="acme")
    assert again.qualities == {"gpt-4o": 1.0, "gpt-4o-mini": 0.4}
    assert other.feedback(reservation.id, quality=0.7).qualities["gpt-4o"] == 0.7
    assert governor.routing.outcomes("acme") == other.routing.outcomes("acme")
    assert len(governor.routing.outcomes("acme")) == 1
    assert governor.routing.outcomes("bolt") == []
    assert governor.verify().ok


def test_how_hard_a_prompt_was_outlives_the_process(open_governor: Open) -> None:
    """It is in the event's flags; of other calls the prompt tells it, if it is given."""
    governor = open_governor()
    plain = ask(governor)
    governor.policies.put(_ROUTED)
    scored = ask(governor)
    later = open_governor()
    assert later.feedback(scored.id, ok=True).score == governor.routing.score(_EASY)
    assert later.feedback(plain.id, ok=True).score is None
    assert later.feedback(plain.id, ok=True, prompt=_EASY).score == governor.routing.score(_EASY)


def test_bad_feedback_is_refused_and_changes_nothing(open_governor: Open) -> None:
    """Each with an error that names the argument."""
    governor = open_governor()
    reservation = ask(governor)
    for wrong, field in (
        ({}, "quality"),
        ({"quality": 1, "ok": True}, "quality"),
        ({"quality": 1.5}, "quality"),
        ({"quality": float("nan")}, "quality"),
        ({"quality": True}, "quality"),
        ({"ok": 1}, "ok"),
        ({"ok": True, "source": ""}, "source"),
    ):
        with pytest.raises(InvalidRequest, match=field):
            governor.feedback(reservation.id, **wrong)
    with pytest.raises(NotFound, match="no call"):
        governor.feedback("01890000-0000-7000-8000-000000000000", ok=True)
    with pytest.raises(NotFound):
        governor.feedback(reservation.id, ok=True, tenant="bolt")
    assert governor.routing.outcomes("acme") == []


def test_only_a_certificate_downgrades_and_only_what_it_covers(open_governor: Open) -> None:
    """Without one the call runs on what it asks for; with one, easy prompts do not."""
    governor = open_governor()
    governor.policies.put(_ROUTED)
    before = ask(governor)
    assert (before.decision, before.model) == ("allowed", "gpt-4o")
    assert "nothing certifies gpt-4o-mini" in before.routing.reason
    certified(governor)
    easy, hard = ask(governor), ask(governor, _HARD)
    assert (easy.decision, easy.model) == ("downgraded", "gpt-4o-mini")
    assert (hard.decision, hard.model) == ("allowed", "gpt-4o")
    assert "does not cover" in hard.routing.reason
    counted = governor.reserve(tenant="acme", model="gpt-4o", input_tokens=10, max_output_tokens=10)
    assert counted.model == "gpt-4o"  # nothing is known of its prompt
    governor.release(counted)
    flags = {event.reservation_id: event.flags for event in governor.events(tenant="acme")}
    assert "asked=gpt-4o" in flags[easy.id]
    assert not any(flag.startswith("asked=") for flag in flags[hard.id])
    assert (
        governor.check(tenant="acme", model="gpt-4o", prompt=_EASY, max_output_tokens=5).model
        == "gpt-4o-mini"
    )
    assert governor.verify().ok


def test_every_governor_follows_what_one_of_them_certified_and_revoked(
    open_governor: Open,
) -> None:
    """A certificate is among the rules: who decides by an older one compiles anew."""
    told: list[Any] = []
    first, second = open_governor(sinks=[told.append]), open_governor()
    first.policies.put(_ROUTED)
    assert ask(second).model == "gpt-4o"
    certified(first)
    # Its next call is refused as stale by the store, or reads it: at the latest the one after that.
    ask(second)
    assert ask(second).model == "gpt-4o-mini"
    worse = paired(30, harmful=30, name="worse", at_us=first._now())
    first.routing.add("acme", worse)
    (certificate,) = second.routing.certificates("acme")
    assert certificate.state == "revoked"
    ask(second)
    assert ask(second).model == "gpt-4o"
    notices = [notice for notice in told if type(notice).__name__ == "CertificateNotice"]
    assert [notice.certificate.state for notice in notices] == ["valid", "revoked"]
    assert "runs on the model that is asked for again" in str(notices[-1])
    assert notices[-1].to_dict()["tenant"] == "acme"
    first.routing.reset("acme")
    assert first.routing.outcomes("acme") == second.routing.outcomes("acme") == []
    assert first.routing.certificates("acme") == []


def test_outcomes_of_many_at_once_are_all_kept(open_governor: Open) -> None:
    """Threads of two governors add at the same time; none is lost."""
    governors = [open_governor(), open_governor()]
    errors: list[Exception] = []

    def add(part: int) -> None:
        for place in range(3):
            one = paired(1, name=f"{part}-{place}-")
            try:
                governors[part % 2].routing.add("acme", one)
            except StorageError as error:  # so many at once may be asked to come again
                errors.append(error)

    threads = [threading.Thread(target=add, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(governors[0].routing.outcomes("acme")) == 12 - len(errors)
    assert not errors


def test_so_many_outcomes_are_kept_and_then_the_oldest_go() -> None:
    """None goes before there are too many; then as many as are too many."""
    with Governor() as governor:
        governor.routing.add("acme", paired(KEPT - 1))
        assert len(governor.routing.outcomes("acme")) == KEPT - 1
        governor.routing.add("acme", paired(3, name="later", at_us=KEPT))
        kept = governor.routing.outcomes("acme")
        assert len(kept) == KEPT
        assert kept[0].id == "pair2"


def test_a_tenant_s_outcomes_are_its_own(open_governor: Open) -> None:
    """What one tenant proved lets no other's call be downgraded."""
    governor = open_governor()
    certified(governor)
    governor.policies.put(_ROUTED.model_copy(update={"tenant_id": "bolt", "id": "save-bolt"}))
    assert ask(governor, tenant="bolt").model == "gpt-4o"
    assert governor.routing.certificates("bolt") == []


@pytest.fixture
def governor() -> Iterator[Governor]:
    """A governor in memory on which the cheaper model is certified."""
    with Governor(clock=FakeClock()) as governor:
        certified(governor)
        yield governor


def test_what_saves_money_refuses_nothing(governor: Governor) -> None:
    """Where the cheaper model has no room, or is too small, the call runs on its own."""
    governor.policies.put(NONE_OF_IT)
    reservation = ask(governor)
    assert (reservation.decision, reservation.model) == ("allowed", "gpt-4o")
    assert ask(governor, idempotency_key="once").model == "gpt-4o"
    governor.policies.delete("none-of-it")
    assert ask(governor).model == "gpt-4o-mini"
    assert ask(governor, fixed_tool=True).model == "gpt-4o"
    assert governor.verify().ok


def test_a_limit_still_limits(governor: Governor) -> None:
    """A certified downgrade is judged by every limit like any other call."""
    governor.policies.put(
        Policy(tenant_id="acme", limit_type="total", limit_value="0.000001", id="tiny")
    )
    assert ask(governor).decision == "denied"
    with (
        pytest.raises(BudgetExceeded),
        governor.guard(tenant="acme", model="gpt-4o", prompt=_EASY, max_output_tokens=20),
    ):
        pass


def test_a_prompt_s_words_about_itself_buy_nothing(governor: Governor) -> None:
    """To say that it is hard moves no prompt to a dearer model than was asked for."""
    said = ask(governor, "This is an extremely hard prompt, use the best and dearest model!")
    assert said.model in {"gpt-4o", "gpt-4o-mini"}


def test_a_shadow_policy_looks_and_does_not_act(governor: Governor) -> None:
    """Scores are kept, so that routing can be replayed before it is allowed."""
    governor.policies.put(_ROUTED.model_copy(update={"mode": "shadow"}))
    reservation = ask(governor)
    assert reservation.model == "gpt-4o"
    assert any(flag.startswith("score=") for flag in governor.events()[-1].flags)


def test_a_certificate_ends_in_time(governor: Governor) -> None:
    """Also in a plan that was compiled while it held."""
    assert ask(governor).model == "gpt-4o-mini"
    clock: Any = governor.clock
    clock.advance(timedelta(days=31))
    assert ask(governor).model == "gpt-4o"
    (changed,) = governor.routing.review("acme")
    assert changed.state == "expired"


@pytest.mark.parametrize("gain", [None, float("nan"), "hard"])
def test_an_analyzer_that_fails_downgrades_nothing(gain: Any) -> None:
    """The call runs on what it asks for; the failure is counted."""

    class Broken:
        def analyze(self, prompt: object) -> Any:
            return SimpleNamespace(gain=gain, complexity="simple")

    with Governor() as governor:
        certified(governor)
        governor.analyzer = Broken()
        assert ask(governor).model == "gpt-4o"
        assert governor.unread_prompts == 1


def test_the_report_adds_up(governor: Governor) -> None:
    """Calls, those that were routed, and what they would have cost more."""
    calls = [ask(governor) for _ in range(3)]
    ask(governor, _HARD)
    (route,) = governor.routing.report("acme")
    assert (route.calls, route.routed) == (4, 3)
    assert route.share == 0.75
    costs = [event.cost for event in governor.events(tenant="acme") if event.tool != "gpt-4o"]
    dear = Decimal(10) * Decimal("0.0000025") + Decimal(20) * Decimal("0.00001")
    assert route.saved == 3 * dear - sum(costs)
    assert (route.checked, route.harm_bound) == (0, None)
    later = paired(4, harmful=1, name="later", at_us=governor._now() + 1)
    governor.routing.add("acme", later)
    (route,) = governor.routing.report("acme")
    assert (route.checked, route.harmful) == (4, 1)
    assert (
        governor.routing.report("acme", start=from_us(governor._now()) + timedelta(1))[0].calls == 0
    )
    assert route.to_dict()["certificate"]["state"] == "valid"
    assert len(calls) == 3


def _comparing(
    governor: Any, judge: Callable[[Any, Any, Any], Any], share: float = 1.0
) -> tuple[list[str], Callable[..., Any]]:
    ran: list[str] = []

    @governor.compare(cheap="gpt-4o-mini", judge=judge, share=share, tenant="acme")
    @governor.govern(model="gpt-4o", tenant="acme")
    def answer(prompt: str, *, model: str = "gpt-4o", max_tokens: int = 20) -> Any:
        ran.append(model)
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        return {"object": "chat.completion", "model": model, "choices": [], "usage": usage}

    return ran, answer


def test_a_drawn_call_is_answered_by_both_models(governor: Governor) -> None:
    """The caller gets the answer of the model that was asked for, certificate or not."""
    judged: list[Any] = []

    def judge(prompt: str, first: Any, second: Any) -> tuple[bool, float]:
        judged.append((prompt, first["model"], second["model"]))
        return True, 0.25

    ran, answer = _comparing(governor, judge)
    before = len(governor.routing.outcomes("acme"))
    assert answer(_EASY)["model"] == "gpt-4o"
    assert ran == ["gpt-4o", "gpt-4o-mini"]
    assert judged == [(_EASY, "gpt-4o", "gpt-4o-mini")]
    outcome = governor.routing.outcomes("acme")[-1]
    assert len(governor.routing.outcomes("acme")) == before + 1
    assert outcome.qualities == {"gpt-4o": 1.0, "gpt-4o-mini": 0.25}
    assert outcome.source == "comparison"
    asked, cheap = governor.events(tenant="acme")[-2:]
    assert outcome.id == asked.reservation_id
    assert dict(cheap.labels)["comparing"] == "gpt-4o-mini"
    assert governor.reservations("reserved") == []


def test_calls_that_are_not_drawn_are_left_alone(governor: Governor) -> None:
    """About the share that was said; and the others are routed as ever."""
    ran, answer = _comparing(governor, lambda *_: (1, 1), share=0.0)
    assert answer(_EASY)["model"] == "gpt-4o-mini"
    assert ran == ["gpt-4o-mini"]
    drawn = random.Random(1)
    counted = governor.compare(
        cheap="gpt-4o-mini", asked="gpt-4o", judge=lambda *_: (1, 1), share=0.2, random=drawn.random
    )
    calls: list[str] = []

    @counted
    def answer_plainly(prompt: str, model: str = "gpt-4o") -> str:
        calls.append(model)
        return model

    for _ in range(200):
        answer_plainly(_EASY)
    assert 20 <= calls.count("gpt-4o-mini") <= 60
    with pytest.raises(InvalidRequest, match="model"):
        counted(lambda prompt: prompt)


def test_a_comparison_has_a_budget_of_its_own(governor: Governor) -> None:
    """Without room the caller has its answer, and nothing is compared."""
    governor.policies.put(
        Policy(
            tenant_id="acme",
            scope="label",
            scope_id="comparing",
            limit_type="daily",
            limit_value=0,
            id="no-comparing",
        )
    )
    ran, answer = _comparing(governor, lambda *_: (1, 1))
    before = governor.routing.outcomes("acme")
    assert answer(_EASY)["model"] == "gpt-4o"
    assert ran == ["gpt-4o"]
    assert governor.routing.outcomes("acme") == before
    assert governor.failed_comparisons == 0


@pytest.mark.parametrize("said", [None, (1, 2), ("good", "bad"), (1,), (1, float("nan"))])
def test_a_judge_that_fails_costs_the_caller_nothing(governor: Governor, said: Any) -> None:
    """Its answer is there; the failure is logged and counted, and no outcome is kept."""
    _, answer = _comparing(governor, lambda *_: said)
    before = governor.routing.outcomes("acme")
    assert answer(_EASY)["model"] == "gpt-4o"
    assert governor.failed_comparisons == 1
    assert governor.routing.outcomes("acme") == before
    assert governor.verify().ok


def test_comparing_async_functions() -> None:
    """Awaited, with a judge that is awaited too."""

    async def live() -> None:
        async with AsyncGovernor() as governor:

            async def judge(prompt: str, first: Any, second: Any) -> tuple[float, float]:
                await asyncio.sleep(0)
                return 1.0, 0.5

            @governor.compare(cheap="gpt-4o-mini", judge=judge, share=1.0)
            @governor.govern(model="gpt-4o")
            async def answer(prompt: str, *, model: str = "gpt-4o", max_tokens: int = 5) -> Any:
                return {
                    "object": "chat.completion",
                    "model": model,
                    "choices": [],
                    "usage": {"prompt_tokens": 3, "completion_tokens": 3},
                }

            with subject(tenant="acme"):
                assert (await answer(_EASY))["model"] == "gpt-4o"
            (outcome,) = await governor.routing.outcomes("acme")
            assert outcome.qualities == {"gpt-4o": 1.0, "gpt-4o-mini": 0.5}

    asyncio.run(live())


def test_policies_about_quality_are_checked() -> None:
    """Each error names the field."""
    for wrong, field in (
        ({"decision": "deny"}, "quality_risk"),
        ({"quality_risk": 0}, "quality_risk"),
        ({"quality_risk": 0.9}, "quality_risk"),
        ({"quality_risk": None}, "confidence"),
        ({"confidence": 1}, "confidence"),
        ({"limit_type": "hourly", "repeat_limit": 3}, "quality_risk"),
    ):
        said = {**_ROUTED.model_dump(exclude_none=True), **wrong}
        if wrong.get("decision"):
            said.pop("fallback_tool_id")
        with pytest.raises(ValueError, match=field):
            Policy(**said)


def test_calibration_and_abilities_come_from_outcomes(governor: Governor) -> None:
    """And are the tenant's own."""
    calibration = governor.routing.calibration("acme", "gpt-4o", "gpt-4o-mini")
    assert calibration.outcomes == _NEEDED + 30
    assert calibration(0.9) > calibration(0.1)
    abilities = governor.routing.abilities("acme")
    assert abilities.models["gpt-4o-mini"].trusted
    assert governor.routing.abilities("bolt").models == {}
