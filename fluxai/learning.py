"""`governor.routing`: outcomes of calls, kept in the ledger's store, and what they prove.

Outcomes lie apart from the rules, so that one more outcome makes no plan stale. Certificates lie
among them: whoever decides by the old one compiles anew.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from fluxai.arguments import check_tenant, check_text, read_uid
from fluxai.core.errors import InvalidRequest, NotFound, StorageError, UnknownModel
from fluxai.core.ids import uuid_text
from fluxai.core.money import to_decimal
from fluxai.core.windows import from_us, to_us
from fluxai.policy.promises import certificate_id
from fluxai.prompts import Calibration
from fluxai.prompts.scorer import shipped
from fluxai.routing.abilities import Abilities, fit
from fluxai.routing.bounds import upper_bound
from fluxai.routing.certificates import Certificate, reviewed, rounded
from fluxai.routing.outcomes import Outcome, Pair, pairs_of
from fluxai.settling import ASKED_FLAG, SCORE_FLAG
from fluxai.storage.base import Change, Version

if TYPE_CHECKING:
    from fluxai.core.decisions import UsageEvent
    from fluxai.governor import Governor
    from fluxai.policy.records import Policy

log = logging.getLogger("fluxai")

#: So many outcomes of a tenant are kept; the oldest go.
KEPT: Final = 4_000
_TRIES: Final = 20
_PAUSE_S: Final = 0.05
_PAGE: Final = 1_000
_GOOD_FROM: Final = 0.5


def _scope(tenant: str) -> str:
    """Where a tenant's outcomes lie: apart from its rules, which they do not change."""
    return f"outcomes of {tenant}"


@dataclass(frozen=True, slots=True)
class CertificateNotice:
    """A certificate was issued, failed, ended or was revoked; handed to the sinks.

    Attributes:
        tenant: Whose.
        certificate: As it is now; `state` and `reason` say what happened.
    """

    tenant: str
    certificate: Certificate

    def to_dict(self) -> dict[str, Any]:
        """The notice, JSON-ready."""
        return {"tenant": self.tenant, "certificate": self.certificate.to_dict()}

    def __str__(self) -> str:
        """Say it in one sentence."""
        found = self.certificate
        what = {
            "valid": "may run on the cheaper model by itself where the prompt allows",
            "revoked": "runs on the model that is asked for again",
            "expired": "runs on the model that is asked for again",
        }.get(found.state, "stays on the model that is asked for")
        return f"{found.asked} to {found.cheap} of tenant {self.tenant!r} {what}: {found.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteReport:
    """What a certificate has done for a tenant.

    Attributes:
        policy_id: The policy that asks for it.
        asked, cheap: The models.
        risk, confidence: What the policy asks for.
        certificate: What the latest look found; None before the first.
        pairs: How many outcomes of both models are kept.
        calls, routed: Settled calls of the model asked for, and how many of them ran on the cheaper.
        saved: USD: what the routed calls would have cost more.
        harmful: Of the pairs since the certificate was issued that it covers, those with harm; of
            `checked` pairs since then.
        harm_bound: The upper bound on that share at the policy's confidence; None without pairs.
    """

    policy_id: str
    asked: str
    cheap: str
    risk: float
    confidence: float
    certificate: Certificate | None
    pairs: int
    calls: int
    routed: int
    saved: Decimal
    harmful: int
    checked: int
    harm_bound: float | None

    @property
    def share(self) -> float | None:
        """The share of calls that ran on the cheaper model; None without calls."""
        return self.routed / self.calls if self.calls else None

    def to_dict(self) -> dict[str, Any]:
        """The report, JSON-ready."""
        return {
            "policy_id": self.policy_id,
            "asked": self.asked,
            "cheap": self.cheap,
            "risk": self.risk,
            "confidence": self.confidence,
            "certificate": None if self.certificate is None else _shown(self.certificate),
            "pairs": self.pairs,
            "calls": self.calls,
            "routed": self.routed,
            "share": self.share,
            "saved": str(self.saved),
            "harmful": self.harmful,
            "checked": self.checked,
            "harm_bound": self.harm_bound,
        }


def _shown(certificate: Certificate) -> dict[str, Any]:
    """Show a certificate with its instants as texts, where `to_dict` keeps microseconds."""
    row = certificate.to_dict()
    for name in ("at", "expires", "since"):
        instant = row.pop(f"{name}_us")
        row[name] = from_us(instant).isoformat() if instant else None
    return row


class Learned:
    """What outcomes have taught. All of it is a tenant's own, and none is shared."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor
        self._kept: dict[str, tuple[Version, dict[str, Outcome]]] = {}

    # -- outcomes ---------------------------------------------------------------------------

    def feedback(
        self,
        id: str,  # noqa: A002 -- the public name
        *,
        quality: float | None = None,
        ok: bool | None = None,
        model: str | None = None,
        source: str = "human",
        prompt: Any = None,
        tenant: str | None = None,
    ) -> Outcome:
        """Say how good a call's answer was; see `Governor.feedback`."""
        said = _quality(quality, ok=ok)
        check_text("source", source)
        owner, tool, score = self._call(id, tenant)
        if score is None and prompt is not None:
            score = self.score(prompt)
        outcome = Outcome(
            id=uuid_text(read_uid(id, "id")),
            at_us=self._governor._now(),
            score=score,
            qualities={self.canonical(owner, model or tool): said},
            source=source,
        )
        return self.add(owner, [outcome])[0]

    def _call(self, call_id: str, tenant: str | None) -> tuple[str, str, float | None]:
        """Find out whose call it was, what it ran on, and how hard its prompt was."""
        governor = self._governor
        uid = read_uid(call_id, "id")
        known = governor._find(tenant, uid)
        event = governor.storage.find_event(tenant, uid)
        if known is not None:
            owner, tool = known.subject.tenant, known.final_tool
            routing = known.routing
            if routing is not None:
                return owner, tool, routing.score
        elif event is not None:
            owner, tool = event.tenant, event.tool
        else:
            raise NotFound(
                f"id: no call {call_id!r}; give the id of its reservation, and settle it first"
            )
        return owner, tool, None if event is None else score_of(event)

    def score(self, prompt: Any) -> float:
        """Say how hard a prompt is, as certificates and outcomes count it."""
        return rounded(self._governor._decider.analyzer.analyze(prompt).gain)

    def add(self, tenant: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Keep outcomes, joined with what is known of the same calls, and look what they prove.

        Raises:
            StorageError: They can't be kept.
        """
        check_tenant(tenant)
        for _ in range(_TRIES):
            version, kept = self._read(tenant)
            fresh = dict(kept)
            added = []
            for outcome in outcomes:
                known = fresh.get(outcome.id)
                one = outcome if known is None else known.merged(outcome)
                fresh[outcome.id] = one
                added.append(one)
            changes = [_kept(tenant, one.id, one) for one in added]
            oldest = sorted(fresh.values(), key=lambda one: one.at_us)
            for old in oldest[: max(0, len(fresh) - KEPT)]:
                del fresh[old.id]
                changes.append(_kept(tenant, old.id, None))
            try:
                self._governor.storage.apply(changes, expected_version=version)
            except StorageError:
                if self._governor.storage.version(_scope(tenant)) == version:
                    raise
                # Somebody else has added some meanwhile; not all are to come back together.
                time.sleep(random.random() * _PAUSE_S)  # noqa: S311 -- no secret
                continue
            self._kept.pop(tenant, None)
            self.review(tenant)
            return added
        raise StorageError(
            f"the outcomes of tenant {tenant!r} changed {_TRIES} times while one was added; try again"
        )

    def _read(self, tenant: str) -> tuple[Version, dict[str, Outcome]]:
        """Read a tenant's outcomes, at a version."""
        storage, scope = self._governor.storage, _scope(tenant)
        version = storage.version(scope)
        known = self._kept.get(tenant)
        if known is not None and known[0] == version:
            return known
        rows = storage.records("outcome", scope=scope)
        found = version, {row["id"]: Outcome.from_dict(row) for row in rows}
        if storage.version(scope) == version:
            self._kept[tenant] = found
        return found

    def outcomes(self, tenant: str) -> list[Outcome]:
        """List the outcomes that are kept, oldest first."""
        check_tenant(tenant)
        return sorted(self._read(tenant)[1].values(), key=lambda one: one.at_us)

    def reset(self, tenant: str) -> None:
        """Forget a tenant's outcomes and certificates: nothing is downgraded by itself any more."""
        check_tenant(tenant)
        for certificate in self.certificates(tenant):
            self._put(tenant, certificate.id, None)
        gone = [_kept(tenant, one.id, None) for one in self.outcomes(tenant)]
        if gone:
            self._governor.storage.apply(gone)
        self._kept.pop(tenant, None)

    # -- what they prove --------------------------------------------------------------------

    def certificates(self, tenant: str) -> list[Certificate]:
        """List what the latest looks found, by the names of the models."""
        check_tenant(tenant)
        rows = self._governor.storage.records("certificate", scope=tenant)
        return sorted((Certificate.from_dict(row) for row in rows), key=lambda one: one.id)

    def review(self, tenant: str) -> list[Certificate]:
        """Look what a tenant's outcomes prove, where it is time to.

        Each outcome that is added does so. By itself it serves to end a certificate in time.

        Returns:
            The certificates that changed; the sinks are told of each.
        """
        routes = self.routes(tenant)
        if not routes:
            return []
        outcomes = self.outcomes(tenant)
        before = {certificate.id: certificate for certificate in self.certificates(tenant)}
        at_us = self._governor._now()
        changed = {}
        for asked, cheap, (risk, confidence), _ in routes:
            # Named by what it promises: several policies may ask for the same.
            found = reviewed(
                before.get(certificate_id(asked, cheap, risk, confidence)),
                outcomes,
                asked=asked,
                cheap=cheap,
                risk=risk,
                confidence=confidence,
                at_us=at_us,
            )
            if found is not None and found.id not in changed:
                self._put(tenant, found.id, found)
                changed[found.id] = found
                notice = CertificateNotice(tenant, found)
                log.info("%s", notice)
                self._governor._alerts.append(notice)
        if changed:
            self._governor._announce()
        return list(changed.values())

    def _put(self, tenant: str, name: str, certificate: Certificate | None) -> None:
        body = None if certificate is None else certificate.to_dict()
        change = Change(kind="certificate", scope=tenant, id=name, body=body)
        self._governor.storage.apply([change])
        self._governor.planner.forget(tenant)
        if self._governor.leases is not None:
            self._governor.leases.forget(tenant)

    def routes(self, tenant: str) -> list[tuple[str, str, tuple[float, float], Policy]]:
        """List (asked, cheap, promise, policy) of what policies let outcomes decide.

        A policy that names no model it may lead away from means every one that was asked for.
        """
        planner = self._governor.planner
        rules = planner.fresh_rules(tenant)
        promising = [
            rule.policy
            for index in (rules.own, rules.every)
            for rule in index.rules.values()
            if rule.policy.promise is not None
        ]
        if not promising:
            return []
        catalog = planner.catalog_of(tenant)
        at_us = self._governor._now()
        compared = sorted({model for one in self.outcomes(tenant) for model in one.qualities})
        found = []
        for policy in promising:
            tools = (
                [catalog.canonical(policy.scope_id)]
                if policy.scope == "tool" and policy.scope_id is not None
                else compared
            )
            for tool in tools:
                try:
                    asked = catalog.any(tool, at_us)
                except (UnknownModel, NotFound):
                    continue  # it has no price any more, so that nobody can call it
                cheap = catalog.fallback(asked, policy.fallback_tool_id, at_us)
                if cheap is not None and cheap.id != asked.id and policy.promise is not None:
                    found.append((asked.id, cheap.id, policy.promise, policy))
        return found

    def abilities(self, tenant: str) -> Abilities:
        """Say how good models are at a tenant's work, by its outcomes."""
        outcomes = self.outcomes(tenant)
        registry = self._governor.planner.registry_of(tenant)
        tiers = {}
        for model in {model for one in outcomes for model in one.qualities}:
            try:
                tiers[model] = registry.get(model).tier
            except UnknownModel:
                continue  # a tool of the tenant's own is of no tier
        return fit(outcomes, tiers)

    def calibration(self, tenant: str, asked: str, cheap: str) -> Calibration:
        """Fit what corrects `PromptAnalysis.cheap_ok` for a tenant and a pair of models.

        Returns:
            For `PromptAnalyzer(calibration=…)`; the neutral one with few outcomes.
        """
        scorer = shipped()
        pairs = pairs_of(
            self.outcomes(tenant), self.canonical(tenant, asked), self.canonical(tenant, cheap)
        )
        return Calibration.fit((scorer.suffices(one.score), 1.0 - one.harmful) for one in pairs)

    def canonical(self, tenant: str, model: str) -> str:
        """Return the id under which a tenant's model is counted, for any spelling."""
        check_text("model", model)
        self._governor.planner.fresh_prices(tenant)
        return self._governor.planner.catalog_of(tenant).canonical(model)

    # -- looking back -----------------------------------------------------------------------

    def report(
        self,
        tenant: str,
        *,
        start: datetime | None = None,
        progress: Callable[[int], object] = lambda _: None,
    ) -> list[RouteReport]:
        """Say of each route what certifies it, what it saved, and what harm was seen.

        Args:
            tenant: Whose.
            start: Only calls from then on.
            progress: Told how many events were read.
        """
        routes = self.routes(tenant)
        outcomes = self.outcomes(tenant)
        known = {one.id: one for one in self.certificates(tenant)}
        traffic = self._traffic(tenant, start, progress)
        found = []
        for asked, cheap, (risk, confidence), policy in routes:
            certificate = known.get(certificate_id(asked, cheap, risk, confidence))
            pairs = pairs_of(outcomes, asked, cheap)
            since = _since(certificate, pairs)
            harmful = sum(pair.harmful for pair in since if _covers(certificate, pair))
            calls, routed, saved = traffic.get((asked, cheap), (0, 0, Decimal()))
            stayed = traffic.get((asked, asked), (0, 0, Decimal()))[0]
            found.append(
                RouteReport(
                    policy_id=policy.id or "",
                    asked=asked,
                    cheap=cheap,
                    risk=risk,
                    confidence=confidence,
                    certificate=certificate,
                    pairs=len(pairs),
                    calls=stayed + calls,
                    routed=routed,
                    saved=saved,
                    harmful=harmful,
                    checked=len(since),
                    harm_bound=upper_bound(harmful, len(since), confidence) if since else None,
                )
            )
        return found

    def _traffic(
        self, tenant: str, start: datetime | None, progress: Callable[[int], object]
    ) -> dict[tuple[str, str], tuple[int, int, Decimal]]:
        """Sum events by (asked, ran on): calls, those a certificate led there, and USD saved."""
        sums: dict[tuple[str, str], tuple[int, int, Decimal]] = {}
        cost_on = self.pricer(tenant)
        for number, event in enumerate(self.events(tenant, start), 1):
            asked = asked_of(event)
            key = (asked or event.tool, event.tool)
            calls, routed, saved = sums.get(key, (0, 0, Decimal()))
            if asked is not None:
                routed += 1
                dearer = cost_on(asked, event)
                if dearer is not None:
                    saved += dearer - event.cost
            sums[key] = (calls + 1, routed, saved)
            if number % _PAGE == 0:
                progress(number)
        return sums

    def pricer(self, tenant: str) -> Callable[[str, UsageEvent], Decimal | None]:
        """Return what prices an event's usage on another model, None where that has no price."""
        estimator = self._governor.estimator_of(tenant)
        registry = self._governor.planner.registry_of(tenant)

        def cost_on(model: str, event: UsageEvent) -> Decimal | None:
            if event.usage is None:
                return None
            try:
                rates = registry.rates(model, to_us(event.counted_at, "counted_at"))
            except UnknownModel:
                return None
            return to_decimal(estimator.cost_of(event.usage, rates))

        return cost_on

    def events(self, tenant: str, start: datetime | None = None) -> Iterable[UsageEvent]:
        """Read a tenant's events of calls, page by page."""
        after = 0
        while page := self._governor.events(after, _PAGE, tenant):
            for event in page:
                if event.usage is not None and (start is None or event.counted_at >= start):
                    yield event
            after = page[-1].seq


def score_of(event: UsageEvent) -> float | None:
    """Return how hard an event's prompt was, None where it was not kept."""
    said = _flag(event, SCORE_FLAG)
    return None if said is None else float(said)


def asked_of(event: UsageEvent) -> str | None:
    """Return what was asked for before a certificate led away from it; None where none did."""
    return _flag(event, ASKED_FLAG)


def _flag(event: UsageEvent, name: str) -> str | None:
    return next((flag.removeprefix(name) for flag in event.flags if flag.startswith(name)), None)


def _kept(tenant: str, name: str, outcome: Outcome | None) -> Change:
    body = None if outcome is None else outcome.to_dict()
    return Change(kind="outcome", scope=_scope(tenant), id=name, body=body)


def _covers(certificate: Certificate | None, pair: Pair) -> bool:
    if certificate is None or certificate.certified is None:
        return False
    return pair.score <= certificate.certified.threshold


def _since(certificate: Certificate | None, pairs: Sequence[Pair]) -> list[Pair]:
    if certificate is None:
        return []
    return [pair for pair in pairs if pair.at_us > certificate.at_us]


def _quality(quality: float | None, *, ok: bool | None) -> float:
    if (quality is None) == (ok is None):
        raise InvalidRequest("quality", "give either quality= from 0 to 1, or ok=True or ok=False")
    if ok is not None:
        if not isinstance(ok, bool):
            raise InvalidRequest("ok", f"must be True or False, got {ok!r:.60}")
        return float(ok)
    if isinstance(quality, bool) or not isinstance(quality, (int, float)):
        raise InvalidRequest("quality", f"must be a number from 0 to 1, got {quality!r:.60}")
    if not math.isfinite(quality) or not 0 <= quality <= 1:
        raise InvalidRequest("quality", f"must be from 0 to 1, got {quality!r:.60}")
    return float(quality)
