"""The group of all commands."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from fluxai import __version__
from fluxai.cli.approvals import approvals
from fluxai.cli.backfill import backfill
from fluxai.cli.budgets import budgets
from fluxai.cli.check import check
from fluxai.cli.commands import Commands
from fluxai.cli.database import db
from fluxai.cli.demo import demo
from fluxai.cli.policies import policies
from fluxai.cli.prices import prices
from fluxai.cli.routing import routing
from fluxai.cli.run import run as run_program
from fluxai.cli.simulate import simulate
from fluxai.cli.status import status


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="fluxai")
def app() -> None:
    """Budgets for AI spending: reserve before the call, settle after it.

    Start with `fluxai demo`, which needs no key and no network.

    Every command takes --db URL (or FLUXAI_DATABASE_URL), --json and --no-color, and exits with
    0 when done, 1 on an error, 2 on wrong usage, 3 when a policy refuses.
    """


for command in (
    demo,
    run_program,
    backfill,
    check,
    status,
    budgets,
    policies,
    approvals,
    routing,
    simulate,
    prices,
    db,
):
    app.add_command(command)


def run() -> NoReturn:
    """Run the command line, and exit."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that can't show a sign shows "?" instead of ending the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app(prog_name="fluxai")
    raise AssertionError("click exits")
