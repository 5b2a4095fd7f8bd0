"""`fluxai prices`: what models cost, how old that is, and how to take newer prices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluxai.cli.commands import Commands
from fluxai.cli.figures import unit_price
from fluxai.cli.price_age import about_prices, price_section
from fluxai.cli.screen import Column, Section, Table, Text
from fluxai.cli.session import Answer, Session, command
from fluxai.core.errors import ConfigurationError, UnknownModel

if TYPE_CHECKING:
    from fluxai.costs.changes import Change
    from fluxai.costs.prices import Rates, Step
    from fluxai.costs.table import PriceTable

#: Changes that are listed on a screen; all are in `--json`.
_LISTED_MAX = 40
#: A kind that costs what it is part of needs no line of its own.
_PART_OF = {
    "cache_read": "input",
    "cache_write_5m": "input",
    "cache_write_1h": "cache_write_5m",
    "reasoning": "output",
    "audio_in": "input",
    "image_in": "input",
    "audio_out": "output",
    "image_out": "output",
}
_UNITS = {"seconds": "second", "characters": "million characters"}


@click.group(cls=Commands)
def prices() -> None:
    """See what models cost, compare the price table with a newer one, and take that."""


@command(prices, "show")
@click.argument("model", required=False)
@click.option("--provider", metavar="ID", help="Where it runs; alone, all models there.")
@click.option(
    "--at", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="When, UTC. Default: now."
)
@click.option("--tier", metavar="TIER", help="batch, flex, priority or fast.")
def show(
    session: Session,  # noqa: ARG001 -- every command takes it
    *,
    model: str | None,
    provider: str | None,
    at: datetime | None,
    tier: str | None,
) -> Answer:
    """Show the prices of MODEL in any spelling, of a provider, or how old the table is."""
    from fluxai.costs.book import PriceBook

    book = PriceBook()
    instant = datetime.now(UTC) if at is None else at.replace(tzinfo=UTC)
    at_us = int(instant.timestamp()) * 1_000_000
    about = about_prices(book.table)
    if model is not None:
        rates = book.rates(model, at_us, provider=provider, tier=tier)
        document = {"table": about, "model": _model_row(rates, instant)}
        return Answer(document, [_model_section(rates), price_section(about)])
    if provider is not None:
        return _provider(book.table, provider, at_us, about)
    return Answer({"table": about}, [price_section(about)])


@command(prices, "diff")
def diff(session: Session) -> Answer:  # noqa: ARG001 -- every command takes it
    """Compare the prices in use with those of the installed genai-prices."""
    from fluxai.costs.table import in_use

    table = in_use()
    newer, _ = _compiled()
    found = _changes(table, newer)
    document = {"table": about_prices(table), "newer": about_prices(newer), "changes": _rows(found)}
    return Answer(document, _changes_sections(found, table, newer))


@command(prices, "update")
@click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), help="Write it here instead."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def update(session: Session, *, to: Path | None, yes: bool) -> Answer:
    """Take the prices of the installed genai-prices, after showing what changes.

    Written to FLUXAI_PRICES, else to the folder of your configuration, and used from the next
    start on. Nothing is downloaded: install a newer genai-prices first.
    """
    from fluxai.costs.table import in_use, user_file

    table = in_use()
    newer, text = _compiled()
    found = _changes(table, newer)
    path = to or user_file()
    sections = _changes_sections(found, table, newer)
    document: dict[str, Any] = {
        "table": about_prices(table),
        "newer": about_prices(newer),
        "changes": _rows(found),
        "written_to": None,
    }
    if not yes:
        if session.as_json:
            raise click.UsageError("--json can't ask; say --yes")
        for section in sections:
            session.show(section)
        sections = []
        if not click.confirm(f"Write these prices to {path}?", default=False):
            return Answer(document, [Section("", ["Nothing was written."])])
    _write(path, text)
    document["written_to"] = str(path)
    said = f"{path} holds {newer.source}, compiled on {newer.compiled_on}."
    return Answer(document, [*sections, Section("", [Text(said, "good")])])


def _compiled() -> tuple[PriceTable, str]:
    """Compile the installed genai-prices, with our corrections on top."""
    if find_spec("genai_prices") is None:
        raise ConfigurationError(
            "genai-prices is not installed, and newer prices come from it; "
            "install with: pip install --upgrade genai-prices"
        )
    from fluxai.costs.compile import shipped_inputs, table_text
    from fluxai.costs.table import PriceTable

    overrides, limits = shipped_inputs()
    try:
        text = table_text(overrides, limits, compiled_on=datetime.now(UTC).date())
    except (ValueError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"this version of genai-prices is not understood ({error}); "
            f"a newer fluxai, or an older genai-prices, will do"
        ) from error
    return PriceTable(text), text


def _write(path: Path, text: str) -> None:
    """Write beside it first, so that no reader ever finds half a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(text, "utf-8")
    unfinished.replace(path)


def _usd(rate: int, units: int = 1) -> Decimal:
    """Turn nano-USD per million units into USD for so many."""
    return Decimal(rate).scaleb(-15) * units


def _plain(rate: int, units: int = 1) -> str:
    """Write the same exactly, as `--json` does."""
    return f"{_usd(rate, units).normalize():f}"


def _steps(rates: Rates) -> Sequence[Step]:
    return (rates.base, *rates.steps)


def _model_row(rates: Rates, at: datetime) -> dict[str, Any]:
    from fluxai.core.usage import TOKEN_KINDS

    return {
        "provider": rates.provider,
        "model": rates.model,
        "tier": rates.tier,
        "at": at.isoformat(),
        "version": rates.version,
        "free": rates.free,
        "context_window": rates.context_window,
        "max_output": rates.max_output,
        "per_million_tokens": [
            {"over_input_tokens": step.start}
            | {kind: _plain(getattr(step, kind), 1_000_000) for kind in TOKEN_KINDS}
            for step in _steps(rates)
        ],
        "fees": {kind: _plain(rate) for kind, rate in rates.fees.items()},
    }


def _model_section(rates: Rates) -> Section:
    from fluxai.core.usage import TOKEN_KINDS

    steps = _steps(rates)
    shown = [
        kind
        for kind in TOKEN_KINDS
        if any(getattr(step, kind) != getattr(step, _PART_OF.get(kind, ""), 0) for step in steps)
    ]
    rows: list[tuple[str, ...]] = [
        (kind, *(unit_price(_usd(getattr(step, kind))) for step in steps)) for kind in shown
    ]
    over = [f"over {step.start:,} input" if step.start else "per million" for step in steps]
    title = f"{rates.provider} / {rates.model}" + (f", {rates.tier}" if rates.tier else "")
    blocks: list[str | Text | Table] = []
    if rates.free:
        blocks.append(Text("Nothing is charged for this model.", "good"))
    if rows and not rates.free:
        columns = (Column("Tokens"), *(Column(name, right=True) for name in over))
        blocks.append(Table(columns, rows))
    if rates.fees:
        fees = [
            (kind, f"${_plain(rate, 1_000_000 if kind == 'characters' else 1)}")
            for kind, rate in rates.fees.items()
        ]
        named = [
            (f"{kind} (per {_UNITS[kind]})" if kind in _UNITS else kind, fee) for kind, fee in fees
        ]
        blocks.append(Table((Column("Besides"), Column("for one", right=True)), named))
    window = f"{rates.context_window:,}" if rates.context_window else "unknown"
    most = f"{rates.max_output:,}" if rates.max_output else "unknown"
    blocks.append(
        Text(f"Context window {window}; most output {most}; from {rates.version}.", "dim")
    )
    return Section(title, blocks)


def _provider(table: PriceTable, name: str, at_us: int, about: dict[str, Any]) -> Answer:
    from fluxai.costs.book import in_force
    from fluxai.costs.names import provider_name

    home = table.provider(provider_name(name))
    if home is None:
        raise UnknownModel(
            f"no provider {name!r:.60} in the price table; there are {', '.join(table.providers)}"
        )
    rows = []
    document = []
    for line in home.lines:
        if not line["prices"]:
            continue
        rates = in_force(line["prices"], at_us)
        pair = [rates.get(kind) for kind in ("input", "output")]
        bases = [rate if rate is None or type(rate) is int else rate[0] for rate in pair]
        document.append(
            {"id": line["id"]}
            | {
                kind: None if base is None else _plain(base, 1_000_000)
                for kind, base in zip(("input", "output"), bases, strict=True)
            }
        )
        rows.append(
            (line["id"], *("" if base is None else unit_price(_usd(base)) for base in bases))
        )
    columns = (
        Column("Model", fold=True),
        Column("Input", right=True),
        Column("Output", right=True),
    )
    sections = [Section(f"{home.name}, per million tokens", [Table(columns, rows)])]
    return Answer(
        {"table": about, "provider": home.id, "models": document},
        [*sections, price_section(about)],
    )


def _changes(table: PriceTable, newer: PriceTable) -> list[Change]:
    from fluxai.costs.changes import changes

    return list(changes(table, newer, int(datetime.now(UTC).timestamp()) * 1_000_000))


def _rows(found: list[Change]) -> list[dict[str, Any]]:
    return [
        {
            "provider": change.provider,
            "model": change.model,
            "kind": change.kind,
            "before": None if change.before is None else _plain(change.before, 1_000_000),
            "after": None if change.after is None else _plain(change.after, 1_000_000),
        }
        for change in found
    ]


def _changes_sections(found: list[Change], table: PriceTable, newer: PriceTable) -> list[Section]:
    title = f"{table.version} -> {newer.version}"
    if not found:
        return [Section(title, [Text("The prices are the same.", "good")])]
    rows = [
        (
            f"{change.provider} / {change.model}",
            change.kind,
            "-" if change.before is None else unit_price(_usd(change.before)),
            "-" if change.after is None else unit_price(_usd(change.after)),
        )
        for change in islice(found, _LISTED_MAX)
    ]
    columns = (
        Column("Model", fold=True),
        Column("Price per million"),
        Column("Before", right=True),
        Column("After", right=True),
    )
    blocks: list[str | Text | Table] = [Table(columns, rows)]
    if len(found) > _LISTED_MAX:
        blocks.append(Text(f"and {len(found) - _LISTED_MAX} more; all are in --json", "dim"))
    return [Section(title, blocks)]
