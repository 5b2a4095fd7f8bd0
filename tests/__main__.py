"""The one door to everything that is run on this code: `python3 -m tests --help`."""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - said before anything newer is imported
    sys.exit("FluxAI needs Python 3.11 or newer; this is " + sys.version.split()[0])

import argparse
import inspect
import os
import time

from tests import bootstrap, stages


def main(argv: list[str]) -> int:
    """Run what `argv` names, every check when it names nothing; return the exit code."""
    own, extra = _split(argv)
    options = _parser().parse_args(own)
    names: list[str] = options.what or list(stages.CHECKS)
    known = stages.CHECKS | stages.TASKS
    if unknown := [name for name in names if name not in {*known, "setup"}]:
        print(f"unknown: {', '.join(unknown)}. There are: setup, {', '.join(known)}")
        return 2
    if extra and len(names) != 1:
        print("arguments after -- go to one stage: name it")
        return 2
    if options.examples is not None:
        os.environ["FLUXAI_LONG_EXAMPLES"] = str(options.examples)
    try:
        if not set(names) <= set(stages.APART):
            bootstrap.MAIN.prepare()
    except bootstrap.BootstrapError as error:
        print(f"[setup] {error}")
        return 1
    chosen = {name: known[name] for name in names if name != "setup"}
    if len(chosen) == 1 and names[0] in stages.TASKS:
        return chosen[names[0]](extra)
    code = _run_all(chosen, extra)
    if not options.what:
        apart = ", ".join(f"`python3 -m tests {name}`" for name in stages.APART)
        print(f"NOT RUN, for they need environments of their own: {apart}", flush=True)
    return code


def _run_all(chosen: dict[str, stages.Stage], extra: list[str]) -> int:
    """Run every stage, also after one that failed, and close with a table."""
    rows: list[tuple[str, int, float]] = []
    for name, stage in chosen.items():
        print(f"\n--- {name}: {_sentence(stage)}", flush=True)
        started = time.monotonic()
        code = stage(extra)
        seconds = time.monotonic() - started
        rows.append((name, code, seconds))
        print(f"--- {name} {_result(code)} in {seconds:.1f} s", flush=True)
    if rows:
        print(f"\n{'stage':<12}{'result':<18}{'seconds':>8}")
        for name, code, seconds in rows:
            print(f"{name:<12}{_result(code):<18}{seconds:>8.1f}")
        print(f"{'together':<30}{sum(seconds for *_, seconds in rows):>8.1f}", flush=True)
    return int(any(code for _, code, _ in rows))


def _result(code: int) -> str:
    return "ok" if code == 0 else f"FAILED (exit {code})"


def _sentence(stage: stages.Stage) -> str:
    return (inspect.getdoc(stage) or "").partition("\n")[0]


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests",
        usage="python3 -m tests [--examples N] [NAME ...] [-- ARGUMENT ...]",
        description=(
            "Sets up .venv (once), then runs every check, or only what is named. "
            "Arguments after -- go to the named stage: python3 -m tests pytest -- -k window"
        ),
        epilog=_menu(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", metavar="NAME", help="see the lists below")
    parser.add_argument(
        "--examples", type=int, metavar="N", help="for long: examples per property (2000)"
    )
    return parser


def _menu() -> str:
    parts = {"checks, all run when nothing is named": stages.CHECKS, "more": stages.TASKS}
    lines = ["also: setup, which only prepares .venv"]
    for title, functions in parts.items():
        lines.append(f"\n{title}:")
        lines += [f"  {name:<12}{_sentence(stage)}" for name, stage in functions.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
