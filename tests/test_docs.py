"""The documentation is tried: its code runs, its links lead somewhere, its reference is complete.

How a page is read, top to bottom, in an empty folder, all blocks in one namespace:

- `python`: run. A line that begins with `print(` may end in a comment: that is what it prints.
- `python` or `toml` whose first line is a comment naming a file (`# worker.py`): written there.
- `sh`: lines that begin with `fluxai` are run; `# exit 3` at the end is the exit code expected.
- `text` right after one of these: what else the block printed.

In what is expected, `…` stands for anything, and lines may be broken anywhere between words.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

import fluxai
from fluxai.cli.app import app
from fluxai.core import errors
from fluxai.models import Model
from fluxai.storage.memory import MemoryStorage
from fluxai.storage.postgres import PostgresStorage
from fluxai.storage.sqlite import SqliteStorage
from fluxai.storage.statements import load_migrations
from fluxai.storage.supabase import SupabaseStorage

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_NAMES_A_FILE = re.compile(r"# ([\w.-]+\.(?:py|toml|jsonl))\n")
_SAID = re.compile(r"^ *print\(.*\)  # (.+)$")
_COMMAND = re.compile(r"(fluxai .*?)(?:\s+# exit (\d+))?$")


def _named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    """A fenced block: its language, its text, the line on which that begins, and what follows."""

    language: str
    text: str
    line: int
    #: The `text` block right after it: what it prints.
    prints: str | None


def blocks_of(page: Path) -> list[Block]:
    """Read the fenced blocks of a page."""
    source = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(source))
    blocks = []
    for number, match in enumerate(found):
        after = found[number + 1] if number + 1 < len(found) else None
        follows = after is not None and not source[match.end() : after.start()].strip()
        prints = after[2] if after is not None and follows and after[1] == "text" else None
        blocks.append(Block(match[1], match[2], source.count("\n", 0, match.start(2)), prints))
    return blocks


def agrees(said: str, printed: str) -> bool:
    """Compare what a page says with what was printed; `…` stands for anything."""
    pattern = ".*?".join(re.escape(" ".join(part.split())) for part in said.split("…"))
    return re.fullmatch(pattern, " ".join(printed.split())) is not None


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of a page runs offline in order, and what it is said to print is printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLUXAI_DATABASE_URL", raising=False)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        file = _NAMES_A_FILE.match(block.text)
        printed = ""
        if file is not None:
            Path(file[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            printed = "".join(_run(page, block, namespace))
        elif block.language == "sh":
            printed = _run_commands(block)
        if block.prints is not None:
            assert agrees(block.prints, printed), f"{_named(page)}:{block.line}\n{printed}"


def _run(page: Path, block: Block, namespace: dict[str, Any]) -> Iterator[str]:
    """Run a block statement by statement; yield what was printed without a comment saying it."""
    tree = ast.parse(block.text)
    lines = block.text.splitlines()
    ast.increment_lineno(tree, block.line)
    for statement in tree.body:
        code = compile(ast.Module([statement], []), page, "exec", dont_inherit=True)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(code, namespace)  # noqa: S102 -- running the documentation is the test
        printed = output.getvalue()
        first, last = statement.lineno - block.line - 1, statement.end_lineno or 0
        found = map(_SAID.match, lines[first : last - block.line])
        said = "\n".join(match[1] for match in found if match is not None)
        if said:
            assert agrees(said, printed), f"{_named(page)}:{last}\n{printed}"
        else:
            yield printed


def _run_commands(block: Block) -> str:
    printed = ""
    for line in block.text.splitlines():
        command = _COMMAND.fullmatch(line)
        if command is None:
            continue
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(command[1])],
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            check=False,
            timeout=60,
        )
        assert done.returncode == int(command[2] or 0), f"{line}\n{done.stdout}{done.stderr}"
        printed += done.stdout
    return printed


# -- links ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link into the repository names a file that exists, and a heading in it."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, heading = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{_named(page)} links to {target}"
        if heading:
            assert heading in _headings(place), f"{_named(page)} links to {target}"


def _headings(page: Path) -> set[str]:
    """Name a page's headings as links do."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


def test_every_page_is_in_the_index() -> None:
    """A reader who starts at docs/README.md finds every page."""
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix()
        assert name == "README.md" or f"({name})" in index, name


# -- the reference is complete ----------------------------------------------------------------


def _reference(name: str) -> str:
    return (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")


def test_the_reference_names_everything_public() -> None:
    """Each name that `fluxai` exports is in the reference."""
    text = _reference("api") + _reference("errors") + _reference("policies")
    assert [name for name in fluxai.__all__ if f"`{name}" not in text] == []


@pytest.mark.parametrize(
    "kind", [fluxai.Governor, fluxai.AsyncGovernor, fluxai.CostEstimator, fluxai.ModelRegistry]
)
def test_the_reference_names_every_verb(kind: type) -> None:
    """Each public method and property of the main classes is in the reference."""
    text = _reference("api")
    names = [name for name in vars(kind) if not name.startswith("_")]
    assert [name for name in names if not re.search(rf"[`.]{name}\b", text)] == []


def test_the_reference_names_every_argument() -> None:
    """Each argument of a governor, of `reserve`, `settle` and `record` is in the reference."""
    text = _reference("api")
    governor = fluxai.Governor
    missing = [
        name
        for verb in (governor.__init__, governor.reserve, governor.settle, governor.record)
        for name in inspect.signature(verb).parameters
        if name != "self" and f"`{name}" not in text
    ]
    assert missing == []


def test_the_reference_names_every_error() -> None:
    """Each error has its place in the reference."""
    text = _reference("errors")
    kinds = [
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.FluxAIError)
    ]
    assert [name for name in kinds if f"`{name}`" not in text] == []


def test_the_reference_names_every_field_of_a_record() -> None:
    """Each field of a policy, tenant, user, tool, model and grant is in the reference."""
    text = _reference("policies")
    records = (fluxai.Policy, fluxai.Tenant, fluxai.User, fluxai.Tool, fluxai.Grant, Model)
    missing = [
        f"{record.__name__}.{field}"
        for record in records
        for field in record.model_fields
        if f"`{field}`" not in text
    ]
    assert missing == []


def test_the_reference_names_every_field_of_an_answer() -> None:
    """Each field of a budget, a reason, an approval and the like is in the reference."""
    text = _reference("api")
    answers = (
        fluxai.Alert,
        fluxai.Approval,
        fluxai.Budget,
        fluxai.CounterOffer,
        fluxai.Estimate,
        fluxai.LedgerReport,
        fluxai.Reason,
        fluxai.RouteResult,
        fluxai.UsageSummary,
    )
    missing = [
        f"{answer.__name__}.{field}"
        for answer in answers
        for field in answer.__dataclass_fields__
        if f"`{field}`" not in text
    ]
    assert missing == []


def _commands(group: click.Group, above: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}"


def test_the_reference_names_every_command_and_option() -> None:
    """Each command of the command line is in its reference, with its options."""
    text = _reference("cli")
    assert [name for name in _commands(app) if name not in text] == []
    options = {
        option
        for name in _commands(app)
        for parameter in _command(name).params
        for option in parameter.opts
        if option.startswith("--")
    }
    assert sorted(option for option in options if option not in text) == []


def _command(name: str) -> click.Command:
    command: click.Command = app
    for part in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[part]
    return command


def test_the_reference_names_every_environment_variable() -> None:
    """Each environment variable that the library reads is in the reference."""
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    read = {
        name
        for source in (ROOT / "fluxai").rglob("*.py")
        for name in re.findall(
            r"\b(?:FLUXAI_[A-Z_]+|XDG_[A-Z_]+|[A-Z_]+_CACHE_DIR|NO_COLOR|APPDATA)\b",
            source.read_text(encoding="utf-8"),
        )
    }
    assert sorted(name for name in read if f"`{name}`" not in text) == []


def test_the_reference_names_every_table_and_migration() -> None:
    """Each table of the schema is in the reference, and each migration in the change log."""
    text = _reference("storage")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for backend in ("sqlite", "postgres"):
        for number, script in load_migrations(backend).items():
            assert f"{number:04}" in changes
            found = re.findall(r"^CREATE TABLE (?:fluxai\.)?(\w+)", script, re.MULTILINE)
            # Default partitions are part of their tables.
            tables = [table for table in found if not table.endswith("_other")]
            assert [table for table in tables if f"`{table}`" not in text] == []


def test_the_reference_names_every_option_of_a_store() -> None:
    """Each argument of a store's constructor, beside its URL, is in the reference."""
    text = _reference("storage")
    options = {
        name
        for store in (MemoryStorage, SqliteStorage, PostgresStorage, SupabaseStorage)
        for name in inspect.signature(store).parameters
        if name not in {"url", "path"}
    }
    assert sorted(name for name in options if f"`{name}`" not in text) == []


def test_the_supabase_guide_names_what_tenants_can_read() -> None:
    """Each view of `fluxai_api` is on the page."""
    text = (DOCS / "how-to" / "run-on-supabase.md").read_text(encoding="utf-8")
    scripts = "".join(load_migrations("postgres").values())
    views = re.findall(r"CREATE VIEW fluxai_api\.(\w+)", scripts)
    assert views
    assert [view for view in views if f"`{view}`" not in text] == []


def test_the_readme_names_every_extra() -> None:
    """Each optional dependency can be found where installing is explained."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    extras = project["optional-dependencies"]
    assert [extra for extra in extras if f"`{extra}`" not in readme] == []
