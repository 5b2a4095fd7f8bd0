"""Certificates: found in a fixed order, kept in as many samples as promised, ended by drift."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from fluxai.routing import Certificate, Outcome, Pair, certify, upper_bound
from fluxai.routing.certificates import LASTS_US, WINDOW, first_look, reviewed, thresholds

_DAY_US = 24 * 3600 * 1_000_000
_MINUTE_US = 60 * 1_000_000
_GRID = tuple(n / 20 for n in range(1, 20))


def _harm(score: float) -> float:
    """How likely harm is for a prompt of a score: the harder, the likelier."""
    return 0.25 * score * score


def drawn(number: int, seed: int, harm: Callable[[float], float] = _harm) -> list[Pair]:
    """Draw pairs whose scores are spread evenly from 0 to 1."""
    rng = random.Random(seed)
    pairs = []
    for place in range(number):
        score = rng.random()
        pairs.append(Pair(score, 1.0, float(rng.random() >= harm(score)), place))
    return pairs


@pytest.mark.parametrize(("risk", "confidence", "size"), [(0.05, 0.9, 400), (0.02, 0.8, 300)])
def test_a_certificate_is_violated_in_no_more_samples_than_promised(
    risk: float, confidence: float, size: int
) -> None:
    """Of 400 samples, those whose threshold does more harm than the risk are within the promise."""
    violated = certified = 0
    for seed in range(400):
        found = certify(drawn(size, seed), risk, confidence, _GRID)
        if found is not None:
            certified += 1
            # The true share of harmful downgrades: the integral of the harm up to the threshold.
            violated += 0.25 * found.threshold**3 / 3 > risk
    assert certified > 300
    # Three standard deviations of chance above the promise would be a defect.
    promised = 1 - confidence
    assert violated / 400 <= promised + 3 * (promised * confidence / 400) ** 0.5


def test_the_last_threshold_before_the_first_failure_is_taken() -> None:
    """A later one is not looked at, however good it would be; nor is what is harder than any pair."""
    harmless = [Pair(0.1, 1, 1)] * 100
    harmful = [Pair(0.3, 1, 0)] * 20
    found = certify([*harmless, *harmful, *[Pair(0.6, 1, 1)] * 2_000], 0.005, 0.9, (0.2, 0.4, 0.7))
    assert found is not None
    assert (found.threshold, found.routed, found.harmful, found.outcomes) == (0.1, 100, 0, 2_120)
    assert found.bound == upper_bound(0, 2_120, 0.9)


def test_nothing_is_proved_by_few_or_bad_outcomes() -> None:
    """No outcomes, too few, all harmful, and none that is routed."""
    assert certify([], 0.05, 0.9) is None
    assert certify([Pair(0.0, 1, 1)] * 40, 0.05, 0.9) is None
    assert certify([Pair(0.0, 1, 0)] * 500, 0.05, 0.9) is None
    assert certify([Pair(9.0, 1, 1)] * 500, 0.05, 0.9) is None


def test_worse_by_a_trifle_is_no_harm() -> None:
    """Judges who grade are not exact; from a tenth on it counts."""
    assert not Pair(0, 0.9, 0.8).harmful
    assert Pair(0, 0.9, 0.79).harmful
    assert not Pair(0, 0.5, 1.0).harmful


def outcomes(pairs: Iterable[Pair], start_us: int, name: str = "") -> list[Outcome]:
    """Make outcomes a minute apart."""
    low = thresholds()[0]
    return [
        Outcome(
            id=f"{name}{number}",
            at_us=start_us + number * _MINUTE_US,
            score=low + pair.score * 0.3,
            qualities={"dear": pair.asked, "cheap": pair.cheap},
            source="tests",
        )
        for number, pair in enumerate(pairs)
    ]


def look(
    before: Certificate | None,
    kept: list[Outcome],
    at_us: int | None = None,
    risk: float = 0.05,
) -> Certificate | None:
    """Review outcomes, just after the last of them."""
    at_us = kept[-1].at_us + 1 if at_us is None else at_us
    return reviewed(
        before, kept, asked="dear", cheap="cheap", risk=risk, confidence=0.9, at_us=at_us
    )


def harmless(_: float) -> float:
    """No harm at all."""
    return 0.0


def test_a_first_look_waits_for_as_many_outcomes_as_could_prove_it() -> None:
    """One fewer proves nothing however good they are, and spends no look."""
    least = first_look(0.05, 0.9)
    kept = outcomes(drawn(least, 1, harmless), _DAY_US)
    assert look(None, kept[:-1]) is None
    found = look(None, kept)
    assert found is not None
    assert (found.state, found.look, found.outcomes) == ("valid", 1, least)
    assert found.threshold_at(found.at_us) == found.certified.threshold  # type: ignore[union-attr]
    assert found.threshold_at(found.at_us + LASTS_US) is None
    assert Certificate.from_dict(found.to_dict()) == found


def test_later_looks_wait_and_together_keep_the_promise() -> None:
    """Each needs as many new outcomes as the last one had, and has a smaller share of doubt."""
    kept = outcomes(drawn(1_000, 2, harmless), _DAY_US)
    first = look(None, kept[:100])
    assert first is not None
    assert look(first, kept[:199]) is None
    second = look(first, kept[:200])
    assert second is not None
    assert second.look == 2
    assert second.certified is not None
    assert second.certified.bound == pytest.approx(upper_bound(0, 200, 1 - 0.1 / 6))


def test_more_harm_ends_a_certificate_within_two_hundred_outcomes() -> None:
    """Drift is seen soon, said in words, and what came before it is not used again."""
    ends = []
    for seed in range(40):
        kept = outcomes(drawn(400, seed, lambda score: 0.05 * score), _DAY_US)
        certificate = look(None, kept)
        assert certificate is not None
        assert certificate.state == "valid"
        for number, worse in enumerate(
            outcomes(drawn(200, seed + 1_000, lambda _: 0.4), kept[-1].at_us + 1, "later"), 1
        ):
            kept.append(worse)
            found = look(certificate, kept)
            if found is not None and found.state == "revoked":
                assert "harmed" in found.reason
                assert found.threshold_at(found.at_us) is None
                assert look(found, kept) is None
                ends.append(number)
                break
    assert len(ends) == 40
    assert max(ends) <= 200


def test_a_certificate_that_is_kept_is_seldom_revoked() -> None:
    """Over 200 further outcomes of the same kind, at most a tenth of them end for nothing."""
    revoked = 0
    for seed in range(60):
        kept = outcomes(drawn(400, seed, lambda score: 0.05 * score), _DAY_US)
        certificate = look(None, kept)
        assert certificate is not None
        for one in outcomes(
            drawn(200, seed + 5_000, lambda score: 0.05 * score), kept[-1].at_us + 1, "later"
        ):
            kept.append(one)
            found = look(certificate, kept)
            if found is not None and found.state == "revoked":
                revoked += 1
                break
    assert revoked <= 6


def test_prompts_of_another_kind_end_a_certificate() -> None:
    """It was proved for a mix of prompts; an easier or a harder one is another."""
    kept = outcomes(drawn(400, 3, harmless), _DAY_US)
    certificate = look(None, kept, risk=0.02)
    assert certificate is not None
    assert certificate.state == "valid"
    harder = [Pair(5.0, 1, 1)] * 60
    found = look(certificate, [*kept, *outcomes(harder, kept[-1].at_us + 1, "later")], risk=0.02)
    assert found is not None
    assert found.state == "revoked"
    assert "another kind" in found.reason


def test_a_certificate_ends_by_itself_and_needs_new_outcomes() -> None:
    """After its time old outcomes prove nothing more."""
    kept = outcomes(drawn(400, 4, harmless), _DAY_US)
    certificate = look(None, kept)
    assert certificate is not None
    found = look(certificate, kept, at_us=certificate.expires_us)
    assert found is not None
    assert found.state == "expired"
    assert look(found, kept, at_us=found.expires_us + _DAY_US) is None


def test_only_the_latest_outcomes_count() -> None:
    """Those beyond the window, and those that are too old, are left aside."""
    bad = outcomes([Pair(0.1, 1, 0)] * 500, _DAY_US)
    good = outcomes(drawn(WINDOW, 5, harmless), bad[-1].at_us + 1, "good")
    found = look(None, [*bad, *good])
    assert found is not None
    assert (found.state, found.outcomes) == ("valid", WINDOW)
    assert look(None, good, at_us=good[-1].at_us + 100 * _DAY_US) is None


def test_a_full_window_is_looked_at_again_when_half_of_it_is_new() -> None:
    """It can't grow, so that growth can't be waited for."""
    kept = outcomes(drawn(WINDOW + WINDOW // 2, 6, harmless), _DAY_US)
    first = look(None, kept[:WINDOW])
    assert first is not None
    assert look(first, kept[: WINDOW + WINDOW // 2 - 1]) is None
    second = look(first, kept)
    assert second is not None
    assert second.look == 2
