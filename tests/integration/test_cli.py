"""What all commands share: help, answers, exit codes, errors, and how lightly they start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import fluxai
from fluxai.cli.app import app
from tests.integration.command_line import run, url

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Walk through every command that does something, with its full name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


ALL = dict(commands(app))


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_help_says_whole_sentences() -> None:
    """Nothing is cut off at the width of the terminal."""
    shown = run("--help").out.partition("Commands:")[2]
    assert "..." not in shown
    assert "the last calls." in " ".join(shown.split())


def test_help_lists_every_command() -> None:
    """`fluxai --help` names each command with a sentence about it."""
    shown = run("--help")
    assert shown.code == 0
    for command in app.commands.values():
        assert command.name is not None
        assert f"  {command.name} " in shown.out
        assert command.get_short_help_str()[:20] in shown.out


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_the_common_options_and_a_help_text(name: str) -> None:
    """Whatever was learnt on one command holds on the others."""
    assert {"db", "as_json", "no_color", "debug"} <= {option.name for option in ALL[name].params}
    assert run(*name.split(), "--help").code == 0
    assert ALL[name].help


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_option_is_in_the_reference(name: str) -> None:
    """The reference page forgets no command and no option."""
    text = REFERENCE.read_text(encoding="utf-8")
    _, found, section = text.partition(f"## `fluxai {name}")
    assert found
    own = section.partition("\n## ")[0]
    common = text.partition("\n## ")[2].partition("\n## ")[0]
    for parameter in ALL[name].params:
        for spelling in parameter.opts:
            if isinstance(parameter, click.Option):
                assert f"`{spelling}" in own or f"`{spelling}" in common


@pytest.mark.parametrize(
    "arguments",
    [("-m", "fluxai", "--version"), ("-c", "from fluxai.cli import main; main()", "-V")],
)
def test_both_entry_points_say_the_version(arguments: tuple[str, ...]) -> None:
    """`fluxai` and `python -m fluxai` are the same program."""
    shown = process(*arguments)
    assert (shown.returncode, shown.stdout) == (0, f"fluxai, version {fluxai.__version__}\n")


def test_help_starts_without_the_heavy_packages() -> None:
    """Help needs neither the database, nor the drawing of tables, nor the checking of records."""
    script = (
        "import sys, fluxai.cli.app as cli\n"
        "cli.app(['--help'], standalone_mode=False)\n"
        "heavy = {'rich', 'sqlalchemy', 'pydantic', 'fluxai.governor'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    shown = process("-c", script)
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize("absent", ["click", "rich"])
def test_a_missing_extra_is_one_line_that_says_what_to_install(absent: str) -> None:
    """Without the extra `cli` there is no traceback, but a remedy."""
    script = f"import sys; sys.modules[{absent!r}] = None; import fluxai.__main__ as m; m.main()"
    shown = process("-c", script)
    assert shown.returncode == 1
    assert shown.stderr.splitlines() == [
        f"fluxai: the command line needs {absent}; install with: pip install 'fluxai[cli]'"
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("check",),
        ("check", "--model", "a", "--tool", "b"),
        ("budgets", "--user", "u"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    """Wrong usage is told apart from an error and from a refusal."""
    shown = run(*arguments)
    assert shown.code == 2
    assert "Error: " in shown.err


@pytest.mark.parametrize(
    "name",
    [
        "check --model gpt-4o",
        "status",
        "budgets",
        "policies list",
        "approvals list",
        "db verify",
        "db reap",
    ],
)
def test_looking_at_no_ledger_makes_none(name: str, tmp_path: Path) -> None:
    """A mistyped path is an error with its remedy, and no empty file."""
    shown = run(*name.split(), "--db", url(tmp_path))
    assert shown.code == 1
    assert "there is no ledger at" in shown.err
    assert "fluxai db migrate" in shown.err
    assert len(shown.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_the_ledger_and_the_option_wins(tmp_path: Path) -> None:
    """FLUXAI_DATABASE_URL is the default of --db."""
    named = {"FLUXAI_DATABASE_URL": url(tmp_path)}
    assert run("db", "migrate", **named).code == 0
    assert (tmp_path / "ledger.db").exists()
    assert run("status", "--json", **named).document["db"] == url(tmp_path)
    assert run("status", "--json", "--db", "memory://", **named).document["db"] == "memory://"


@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("mysql://host/name", "use memory://"),
        ("sqlite:///{folder}/text.db", "text.db"),
        ("sqlite:///{folder}/absent/ledger.db", "absent"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(database: str, says: str, tmp_path: Path) -> None:
    """Each error names the place and what to do, without a traceback."""
    (tmp_path / "text.db").write_text("this is no database\n" * 100, encoding="utf-8")
    shown = run("db", "migrate", "--db", database.format(folder=tmp_path.as_posix()))
    assert shown.code == 1
    assert says in shown.err
    assert shown.err.startswith("Error: ")
    assert len(shown.err.splitlines()) == 1
    assert "Traceback" not in shown.err


def test_json_tells_an_error_too(tmp_path: Path) -> None:
    """A script that reads stdout finds the error there, as a document."""
    shown = run("status", "--json", "--db", url(tmp_path))
    assert shown.code == 1
    error = shown.document["error"]
    assert error["type"] == "ConfigurationError"
    assert error["exit_code"] == 1
    assert f"Error: {error['message']}" == shown.err.strip()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """--debug is for those who want to see where an error came from."""
    shown = process("-m", "fluxai", "status", "--debug", "--db", url(tmp_path))
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("colored", [True, False])
def test_a_terminal_gets_panels_that_fit(columns: int, colored: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """On a terminal tables are drawn within its width, in colour unless that is unwanted."""
    (tmp_path / "limits.toml").write_text(
        '[[policy]]\nid = "day"\ntenant_id = "acme"\nlimit_type = "daily"\nlimit_value = 5\n',
        encoding="utf-8",
    )
    assert run("policies", "apply", tmp_path / "limits.toml", "--db", url(tmp_path)).code == 0
    arguments = ["budgets", "--db", url(tmp_path)] + ([] if colored else ["--no-color"])
    shown = in_terminal(arguments, columns)
    assert ("\x1b[36m" in shown) is colored
    plain = click.unstyle(shown)
    assert plain.startswith("╭─ acme ─")
    assert max(len(line) for line in plain.splitlines()) <= columns


def in_terminal(arguments: list[str], columns: int) -> str:
    """Run `fluxai` on a pseudo-terminal of that width; return all that it wrote."""
    parent, child = os.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-m", "fluxai", *arguments],
        stdin=child,
        stdout=child,
        stderr=subprocess.PIPE,
        env=environment,
    ) as started:
        os.close(child)
        written = b""
        while True:
            try:
                piece = os.read(parent, 65_536)
            except OSError:  # Linux says so when the other end is closed
                break
            if not piece:
                break
            written += piece
        os.close(parent)
        _, errors = started.communicate(timeout=60)
        assert errors == b""
    return written.decode().replace("\r\n", "\n")


def test_a_pipe_gets_plain_text(tmp_path: Path) -> None:
    """What is piped holds no colours and no boxes, and needs no rich."""
    run("db", "migrate", "--db", url(tmp_path))
    script = (
        "import sys, fluxai.cli.app as cli\n"
        f"sys.argv[1:] = ['status', '--db', {url(tmp_path)!r}]\n"
        "try: cli.app()\n"
        "finally: assert 'rich' not in sys.modules"
    )
    shown = process("-c", script)
    assert shown.returncode == 0
    assert shown.stderr == ""
    assert shown.stdout.startswith("Status\n")
    assert "\x1b" not in shown.stdout
    assert "─" not in shown.stdout


def test_json_is_one_document_with_amounts_as_text(tmp_path: Path) -> None:
    """Amounts are exact text in JSON, never floats."""
    shown = run(
        "check",
        "--db",
        "memory://",
        "--json",
        "--model",
        "gpt-4o",
        "--input-tokens",
        1000,
        "--max-output-tokens",
        500,
    )
    document = json.loads(shown.out, parse_float=lambda text: pytest.fail(f"a float: {text}"))
    assert document["estimate"]["highest"] == "0.0075"
