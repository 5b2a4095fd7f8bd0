"""`fluxai check`: what would a call be told, and why? Nothing is held."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from fluxai.cli.figures import amount, decision_word, stamp, unit_price, until, usd
from fluxai.cli.price_age import about_prices, stale_prices
from fluxai.cli.screen import Column, Meter, Section, Table, Text, Tone
from fluxai.cli.session import DONE, REFUSED, Answer, Session, command, read_labels

if TYPE_CHECKING:
    from fluxai.core.decisions import CounterOffer, Decision, Reason

_TONES: dict[str, Tone] = {
    "allowed": "good",
    "downgraded": "warn",
    "pending_approval": "warn",
    "denied": "bad",
}


@command()
@click.option("--tenant", metavar="ID", help="Whose budgets. Default: 'default'.")
@click.option("--user", metavar="ID", help="Which user of the tenant.")
@click.option("--model", metavar="ID", help="The model to be called.")
@click.option("--tool", metavar="ID", help="Or a tool that has a price per unit.")
@click.option("--units", type=int, metavar="N", help="How many units of the tool. Default: 1.")
@click.option("--prompt", metavar="TEXT", help="The text to be sent; - reads it from stdin.")
@click.option("--input-tokens", type=int, metavar="N", help="Or its size, where it is known.")
@click.option("--max-output-tokens", type=int, metavar="N", help="The cap that will be sent.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
def check(
    session: Session,
    *,
    tenant: str | None,
    user: str | None,
    model: str | None,
    tool: str | None,
    units: int | None,
    prompt: str | None,
    input_tokens: int | None,
    max_output_tokens: int | None,
    labels: tuple[str, ...],
) -> Answer:
    """Ask what a call would be told: decision, reason, estimate, and what would fit.

    A dry run: nothing is held and nothing is charged. Exits with 3 when the call would not run now.
    Without a ledger, --db memory:// still gives the estimate.
    """
    if (model is None) == (tool is None):
        raise click.UsageError("say what is called: --model ID or --tool ID")
    if prompt == "-":
        prompt = sys.stdin.read()
    with session.governor() as governor:
        decision = governor.check(
            tenant=tenant,
            user=user,
            model=model,
            tool=tool,
            prompt=prompt,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            units=units,
            labels=read_labels(labels),
        )
        prices = about_prices(governor.registry.book.table)
        now = datetime.fromtimestamp(governor.clock.now_us() / 1e6).astimezone()
    document = decision.to_dict()
    # Nothing was asked for, so there is no id to approve or to look up.
    for name in ("id", "approval_id", "expires_at"):
        del document[name]
    document["message"] = _message(decision)
    document["prices"] = prices
    sections = _sections(decision, prices, now)
    return Answer(document, sections, DONE if decision.allowed else REFUSED)


def _message(decision: Decision) -> str:
    if decision.decision != "pending_approval":
        return decision.message
    why = "; ".join(str(reason) for reason in decision.reasons if reason.acted)
    return f"It would wait for approval of {usd(decision.estimate.highest)}: {why}."


def _sections(decision: Decision, prices: dict[str, Any], now: datetime) -> list[Section]:
    verdict = decision.decision.replace("_", " ").upper()
    sections = [
        Section(
            "Decision",
            [
                Text(f"{verdict}  {decision.final_tool}", _TONES[decision.decision]),
                _message(decision),
            ],
        ),
        _estimate(decision, prices),
    ]
    looked_at = decision.looked_at
    if looked_at:
        sections.append(Section("Limits looked at, in this order", [_limits(looked_at)]))
    else:
        sections.append(
            Section("Limits", [Text("No policy applies to this call: nothing limits it.", "dim")])
        )
    offer = decision.counter_offer
    if offer is not None:
        sections.append(Section("What would fit", _offers(offer, now)))
    return sections


#: How a quantity was found, in words.
_FOUND = {
    "exact": "as given",
    "continued": "continued conversation",
    "learned": "learned from past calls",
    "encoder": "tokenizer",
    "heuristic": "bytes by class",
    "cap": "your cap",
    "granted": "cap that is granted",
    "fixed": "each call",
}
#: What stands in the place of a price's source where a policy made the price up.
_NO_PRICE = {
    "unpriced_ceiling": "No price is known for {model}: a policy charges a fixed sum for each call.",
    "unpriced_assumed": "No price is known for {model}: a policy assumes that of a dear model.",
}


def _estimate(decision: Decision, prices: dict[str, Any]) -> Section:
    estimate = decision.estimate
    by_unit = estimate.method == "units"
    header, per = ("Each", 1) if by_unit else ("Per million", 1_000_000)
    rows = [
        (
            line.kind,
            f"{line.quantity:,}",
            _FOUND[line.found],
            unit_price(line.unit_price, per)
            if line.found != "fixed"
            else f"{unit_price(line.unit_price, 1)} each",
            usd(line.amount),
            line.source,
        )
        for line in estimate.lines
    ]
    table = Table(
        (
            Column("Kind"),
            Column("Quantity", right=True),
            Column("Found by", fold=True),
            Column(header, right=True),
            Column("Amount", right=True),
            Column("Price from", fold=True),
        ),
        rows,
        ("highest", "", "", "", usd(estimate.highest), ""),
    )
    likely = "" if by_unit else f" with {estimate.input_tokens:,} input tokens"
    notes = [
        Text(f"Expected {usd(estimate.expected)}{likely}; confidence {estimate.confidence}.", "dim")
    ]
    sources = {line.source for line in estimate.lines}
    for source, said in _NO_PRICE.items():
        if source in sources:
            notes.append(Text(said.format(model=decision.final_tool), "warn"))
    if prices["version"] in sources:
        notes += stale_prices(prices)
    return Section("Estimate", [table, *notes])


def _limits(looked_at: Iterable[Reason]) -> Table:
    rows = []
    for reason in looked_at:
        taken = reason.settled + reason.reserved
        after = amount(taken + reason.requested, reason.measure)
        crossed = Text(
            "crossed" if reason.crossed else "holds", "bad" if reason.crossed else "good"
        )
        rows.append(
            (
                Text(reason.policy_id),
                f"{reason.limit_type} {reason.whose}",
                decision_word(reason.decision, reason.mode),
                Meter(reason.settled, reason.reserved + reason.requested, reason.limit),
                f"{after} of {amount(reason.limit, reason.measure)}",
                crossed,
            )
        )
    return Table(
        (
            Column("Policy", fold=True),
            Column("Limit", fold=True),
            Column("Else"),
            Column("With this call"),
            Column("", right=True, fold=True),
            Column(""),
        ),
        rows,
    )


def _offers(offer: CounterOffer, now: datetime) -> list[str | Text]:
    said: list[str | Text] = []
    if offer.max_output_tokens is not None:
        said.append(f"• --max-output-tokens {offer.max_output_tokens}")
    said += [f"• --model {model}" for model in offer.models]
    if offer.resets_at is not None:
        said.append(f"• waiting until {stamp(offer.resets_at)} ({until(offer.resets_at, now)})")
    if offer.approvers is not None:
        said.append(f"• approval by {offer.approvers}")
    return said or [Text("Nothing smaller of this call fits.", "dim")]
