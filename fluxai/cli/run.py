"""`fluxai run`: a budget around a program whose code stays as it is."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from fluxai.cli.program import INTERRUPTED, Ending, Program
from fluxai.cli.run_report import Report
from fluxai.cli.session import DB_VARIABLE, Answer, Session, command, read_labels
from fluxai.core.errors import InvalidRequest
from fluxai.core.money import to_nano

if TYPE_CHECKING:
    from fluxai.governor import Governor


@command(ignore_unknown_options=True, allow_interspersed_args=False)
@click.option("--budget", required=True, metavar="USD", help="What the whole run may cost.")
@click.option("--tenant", metavar="ID", help="Whose budgets count too. Default: 'default'.")
@click.option("--user", metavar="ID", help="Which user of the tenant.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--max-rate", metavar="RATE", help="How fast it may spend, such as '1 USD/min'.")
@click.option(
    "--ungoverned",
    type=click.Choice(["refuse", "allow"]),
    default="refuse",
    show_default=True,
    help="What becomes of paid requests whose cost can't be told beforehand.",
)
@click.option("--summary", "summary", metavar="FILE", help="Write the JSON summary to a file.")
@click.option("-m", "is_module", is_flag=True, help="PROGRAM is the name of a module.")
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    session: Session,
    *,
    budget: str,
    tenant: str | None,
    user: str | None,
    labels: tuple[str, ...],
    max_rate: str | None,
    ungoverned: str,
    summary: str | None,
    is_module: bool,
    program: str,
    arguments: tuple[str, ...],
) -> Answer:
    """Run a Python program on a budget; its code stays as it is.

    Its calls to OpenAI, Anthropic and Gemini are governed wherever it makes them, threads and
    tasks included; other processes that it starts are not. A summary follows on stderr, with --json as
    one line of JSON at the end of stdout.

    Exits as the program does, and with 3 when the budget or another limit stopped it. The ledger is
    in memory, unless --db or FLUXAI_DATABASE_URL names one to share.
    """
    from fluxai.governor import Governor
    from fluxai.policy.rates import parse_rate

    try:
        to_nano(budget, "--budget")
        if max_rate is not None:
            parse_rate(max_rate, "--max-rate")
    except InvalidRequest as error:
        raise click.UsageError(str(error)) from error
    started = Program(program, arguments, is_module)
    started.prepare()
    with ExitStack() as opening:
        governor = opening.enter_context(
            Governor(session.given_db or os.environ.get(DB_VARIABLE) or "memory://")
        )
        report = _governed(
            opening, governor, budget, max_rate, tenant, user, read_labels(labels), ungoverned
        )
        held = opening.pop_all()
    running = _Running(session, report, held, summary)
    # Python calls this when the threads of the program have ended too.
    atexit.register(running.finish)
    running.ending = started.run()
    if running.ending.refusal is not None:
        click.echo(f"Stopped: {report.why(running.ending.refusal)}", err=True)
    elif running.ending.code == INTERRUPTED:
        click.echo("Interrupted.", err=True)
    sys.exit(running.ending.code)


def _governed(
    held: ExitStack,
    governor: Governor,
    budget: str,
    max_rate: str | None,
    tenant: str | None,
    user: str | None,
    labels: dict[str, str] | None,
    ungoverned: Any,
) -> Report:
    """Put everything that this process calls under the limits, as long as `held` is open."""
    from fluxai import instrument, subject
    from fluxai.policy.rates import parse_rate
    from fluxai.policy.records import Policy

    if user is not None:
        held.enter_context(subject(user=user))
    block = held.enter_context(governor.budget(budget, tenant=tenant))
    run_id = block.label.partition("=")[2]
    labels = {"run": run_id, **(labels or {})}
    held.enter_context(subject(**labels))
    report = Report(governor, block, max_rate)
    if max_rate is not None:
        limit = Policy(
            id=f"run-{run_id}",
            tenant_id=block.tenant,
            scope="label",
            scope_id=f"run={labels['run']}",
            **parse_rate(max_rate).fields(),
        )
        governor.policies.put(limit)
        held.callback(governor.policies.delete, f"run-{run_id}")
    instrument(governor, ungoverned=ungoverned)
    return report


class _Running:
    """A program under way, and what is to be done at its end."""

    def __init__(
        self, session: Session, report: Report, held: ExitStack, summary: str | None
    ) -> None:
        self.ending = Ending(0)
        self._session = session
        self._report = report
        self._held = held
        self._summary = summary
        self._pid = os.getpid()

    def finish(self) -> None:
        """Say what it cost, and let go of the ledger. The SDKs stay governed to the last."""
        if os.getpid() != self._pid:
            # A child that was forked ends; the program goes on.
            return
        with self._held:
            self._report.show(self._session, self.ending, self._summary)
