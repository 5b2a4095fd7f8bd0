"""What `python3 -m tests` can run: each stage a function from extra arguments to an exit code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence

from tests.bootstrap import FRAMEWORKS, MAIN, MCP, OLDEST, ROOT, BootstrapError, Environment
from tests.mcp_peers.bringing import bring_peers

Stage = Callable[[Sequence[str]], int]

_ON_ALL_CORES = ("--numprocesses=auto", "--dist=loadgroup")


def ruff(extra: Sequence[str]) -> int:
    """Lint with every rule, save those that pyproject.toml gives a reason against."""
    return _run("ruff", "check", *(extra or ["."]))


def formatting(extra: Sequence[str]) -> int:
    """Compare the layout of the code with what the formatter would write."""
    return _run("ruff", "format", *(extra or ["--check", "."]))


def codespell(extra: Sequence[str]) -> int:
    """Look for common misspellings."""
    return _run("codespell", *extra)


def mypy(extra: Sequence[str]) -> int:
    """Check types strictly: the package, the typing test, the test runner and its servers."""
    paths = ("fluxai", "tests/typing", "tests/servers", "tests/conftest.py", "tests/__main__.py")
    return _run("mypy", *(extra or [path for path in paths if _holds_python(path)]))


def pyright(extra: Sequence[str]) -> int:
    """Check the typing test with a second type checker, as users' editors will."""
    if not extra and not _holds_python("tests/typing"):
        print("tests/typing holds nothing yet")
        return 0
    return _run("pyright", *extra)


def layers(extra: Sequence[str]) -> int:
    """Check that each layer imports only what lies below it."""
    return _run("lint-imports", "--no-logo", *extra)


def pytest(extra: Sequence[str]) -> int:
    """Run the tests on all cores, but for the long ones; with arguments, plain pytest with those."""
    return _run("pytest", *(extra or _ON_ALL_CORES))


def coverage(extra: Sequence[str]) -> int:
    """Run the tests and say how much of the package they reach; it takes twice as long."""
    # A folder of its own for each run, so that two at a time do not mix what they measured.
    with tempfile.TemporaryDirectory() as folder:
        data = f"--data-file={folder}/.coverage"
        tests = _run("coverage", "run", data, "-m", "pytest", *_ON_ALL_CORES, *extra)
        combined = _run("coverage", "combine", "--quiet", folder)
    if combined == 0:
        print("coverage of lines and branches, in percent: ", end="", flush=True)
        _run("coverage", "report", "--format=total", "--precision=1")
        print("(line by line: .venv/bin/coverage report)")
    return tests or combined


def demo(extra: Sequence[str]) -> int:
    """Run `fluxai demo`: seven scenes, offline."""
    return _run("fluxai", "demo", *extra)


def benchmarks(extra: Sequence[str]) -> int:
    """Measure, and print numbers with their conditions."""
    return _run("python", "-m", "tests.benchmarks", *extra)


def long(extra: Sequence[str]) -> int:
    """Run the proofs that take minutes: tests marked long, and properties with many examples."""
    return _run(
        "pytest",
        *_ON_ALL_CORES,
        "--hypothesis-profile=long",
        "-m",
        "long or hypothesis",
        *extra,
    )


def frameworks(extra: Sequence[str]) -> int:
    """Run the tests of agent frameworks, in an environment of their own (.venv-frameworks)."""
    return _run_apart(FRAMEWORKS, "-Wignore", "tests/frameworks", *extra)


def oldest(extra: Sequence[str]) -> int:
    """Run the tests of wrapped clients with the oldest SDKs that are supported (.venv-oldest)."""
    # Those of OpenAI's and Anthropic's clients; the others ask for what newer SDKs have.
    files = ("test_every_surface.py", "test_ended_early.py", "test_recorded_streams.py")
    return _run_apart(OLDEST, *(f"tests/wrapped/{name}" for name in files), *extra)


def mcp(extra: Sequence[str]) -> int:
    """Run the MCP server and gateway with others' clients and servers; brings Node (.venv-mcp)."""
    try:
        bring_peers()
    except BootstrapError as error:
        print(f"[setup] {error}")
        return 1
    # What others warn about is theirs to mend.
    return _run("pytest", "-Wignore", *(extra or ["tests/mcp_peers"]), inside=MCP)


def lock(extra: Sequence[str]) -> int:
    """Write the requirement files anew, with hashes; `-- --upgrade` takes newer releases."""
    folder = ROOT / ".ci" / "requirements"
    for source in sorted(folder.glob("*.in")):
        target = source.with_suffix(".txt")
        code = _run(
            "uv",
            "pip",
            "compile",
            "--quiet",
            "--universal",
            "--python-version=3.11",
            "--generate-hashes",
            "--no-header",
            "--annotation-style=line",
            "--no-emit-index-url",
            "--no-emit-find-links",
            f"--output-file={target.relative_to(ROOT).as_posix()}",
            *extra,
            source.relative_to(ROOT).as_posix(),
        )
        if code != 0:
            return code
        text = target.read_text(encoding="utf-8")
        # The file must say the same to everyone: which packages, never where from.
        if leaks := re.findall(
            r"^.*(?:://|--(?:extra-)?index|--find-links| @ ).*$", text, re.MULTILINE
        ):
            print(f"{target.name} names a place:", *leaks, sep="\n  ")
            return 1
        print(f"{target.name}: {len(re.findall('^[^ #]+==', text, re.MULTILINE))} packages")
    return 0


CHECKS: dict[str, Stage] = {
    "ruff": ruff,
    "format": formatting,
    "codespell": codespell,
    "mypy": mypy,
    "pyright": pyright,
    "layers": layers,
    "pytest": pytest,
}
TASKS: dict[str, Stage] = {
    "coverage": coverage,
    "demo": demo,
    "benchmarks": benchmarks,
    "long": long,
    "frameworks": frameworks,
    "oldest": oldest,
    "mcp": mcp,
    "lock": lock,
}
#: Tasks that are tests, and that a run of all checks leaves out: their packages are not in `.venv`.
APART = ("frameworks", "oldest", "mcp")


def _run(program: str, *arguments: str, inside: Environment = MAIN) -> int:
    command = [str(inside.python if program == "python" else inside.bin / program), *arguments]
    try:
        return subprocess.run(command, cwd=ROOT, env=inside.variables(), check=False).returncode
    except FileNotFoundError:
        print(f"{program} is not installed in {inside.name}")
        return 127


def _run_apart(inside: Environment, *arguments: str) -> int:
    """Run pytest in an environment that is made when it is first asked for."""
    try:
        inside.prepare()
    except BootstrapError as error:
        print(f"[setup] {error}")
        return 1
    return _run("pytest", *arguments, inside=inside)


def _holds_python(path: str) -> bool:
    place = ROOT / path
    return place.is_file() or any(place.rglob("*.py"))
