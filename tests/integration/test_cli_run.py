"""`fluxai run`: programs that know nothing of FluxAI, on a budget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fluxai import Governor, Policy
from fluxai.testing import FakeProvider
from tests.integration.command_line import url

#: What every program begins with: its client, and a function that asks.
ASKS = """
import os, sys
from openai import AsyncOpenAI, OpenAI

ASK = dict(model="gpt-4o", max_tokens=50, messages=[{"role": "user", "content": "Say hello."}])
URL = os.environ["PROVIDER"]
client = OpenAI(base_url=URL, api_key="k", max_retries=2)

def ask(**more):
    return client.chat.completions.create(**ASK, **more)
"""
#: Room for one call, and not for two.
ONE_CALL = "0.0006"


class Ran(NamedTuple):
    """What a run left behind."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> Any:
        """What `--json` said last."""
        return json.loads(self.out.splitlines()[-1])


class Runs:
    """Writes programs into a folder, and runs them."""

    def __init__(self, folder: Path, provider: FakeProvider) -> None:
        self.folder = folder
        self.provider = provider

    def write(self, code: str, name: str = "program.py", *, asks: bool = True) -> Path:
        """Write a program."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ASKS if asks else "") + textwrap.dedent(code), encoding="utf-8")
        return path

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start `fluxai run` with these arguments."""
        environment = {**os.environ, "PROVIDER": self.provider.openai_url}
        environment.pop("FLUXAI_DATABASE_URL", None)
        return subprocess.Popen(
            [sys.executable, "-m", "fluxai", "run", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environment,
        )

    def __call__(self, *arguments: object) -> Ran:
        """Run `fluxai run` with these arguments to its end."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=120)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return Ran(process.returncode, out, err)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    """A folder for programs, and a provider for them."""
    with FakeProvider(default="Hello there.") as provider:
        yield Runs(tmp_path, provider)


def test_a_program_within_its_budget_ends_as_ever(runs: Runs) -> None:
    """Its output, arguments, name and exit code are its own; the summary goes to stderr."""
    program = runs.write("""
        import helper
        print(__name__, sys.argv[1:], helper.SAYS, ask().choices[0].message.content)
        sys.exit(7)
    """)
    runs.write("SAYS = 'beside'", "helper.py", asks=False)
    ran = runs("--budget", 5, "--tenant", "acme", program, "a b", "--budget", "-m")
    assert ran.code == 7
    assert ran.out == "__main__ ['a b', '--budget', '-m'] beside Hello there.\n"
    assert "gpt-4o      1" in ran.err
    assert "of $5.00 spent" in ran.err
    assert "refused" not in ran.err


def test_a_program_is_stopped_by_its_budget(runs: Runs) -> None:
    """Exit 3, one sentence instead of a traceback, and not one request beyond."""
    program = runs.write("""
        while True:
            ask()
            print("asked")
    """)
    runs.provider.answer("Hello", usage={"input": 10, "output": 50})
    ran = runs("--budget", ONE_CALL, "--json", program)
    assert ran.code == 3
    assert len(runs.provider.requests) == 1
    assert ran.out.splitlines()[:-1] == ["asked"]
    assert ran.err.startswith(
        "Stopped: the budget of this run is $0.0006; $0.000525 of that is used"
    )
    assert "Traceback" not in ran.err
    assert ran.summary == {
        "exit_code": 3,
        "stopped": True,
        "message": ran.err.removeprefix("Stopped: ").strip(),
        "tenant": "default",
        "budget": "0.0006",
        "spent": "0.000525",
        "reserved": "0.00",
        "remaining": "0.000075",
        "calls": 1,
        "refused_calls": 1,
        "models": [{"model": "gpt-4o", "calls": 1, "tokens": 60, "cost": "0.000525"}],
    }


WRAPPED = {
    "cause": "raise RuntimeError('the agent failed') from error",
    "context": "raise RuntimeError('the agent failed')",
    "hidden": "raise RuntimeError('the agent failed') from None",
    "group": "raise ExceptionGroup('tasks', [ValueError('x'), error])",
}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_refusal_is_known_whatever_a_framework_makes_of_it(how: str, runs: Runs) -> None:
    """Frameworks wrap the errors of their clients in their own."""
    program = runs.write(f"""
        try:
            ask()
        except Exception as error:
            {WRAPPED[how]}
    """)
    ran = runs("--budget", "0.0001", program)
    assert (ran.code, runs.provider.requests) == (3, [])
    assert "Stopped: the budget of this run" in ran.err
    assert "Traceback" not in ran.err


def test_a_program_that_swallows_errors_still_spends_no_more(runs: Runs) -> None:
    """It ends as it likes, its refused calls are told."""
    program = runs.write("""
        for _ in range(5):
            try:
                ask()
            except Exception as error:
                print(type(error).__name__)
    """)
    runs.provider.answer("Hello", usage={"input": 10, "output": 50})
    ran = runs("--budget", ONE_CALL, program)
    assert (ran.code, ran.out) == (0, "BudgetExceeded\n" * 4)
    assert len(runs.provider.requests) == 1
    assert "4 calls were refused" in ran.err


def test_tasks_threads_and_streams_are_governed(runs: Runs) -> None:
    """Whatever a program starts in its process counts, also what ends after its last line."""
    program = runs.write("""
        import asyncio, atexit, threading
        from concurrent.futures import ThreadPoolExecutor

        async def tasks():
            async with AsyncOpenAI(base_url=URL, api_key="k") as asked:
                await asyncio.gather(
                    *(asked.chat.completions.create(**ASK) for _ in range(3))
                )
                async for chunk in await asked.chat.completions.create(**ASK, stream=True):
                    print(chunk.choices[0].delta.content or "", end="")

        asyncio.run(tasks())
        for chunk in ask(stream=True):
            print(chunk.choices[0].delta.content or "", end="")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: ask(), range(2)))
        may_end = threading.Event()
        threading.Thread(target=lambda: (may_end.wait(), ask())).start()
        atexit.register(ask)
        may_end.set()
        print()
    """)
    summary = runs.folder / "summary.json"
    ran = runs("--budget", 1, "--summary", summary, program)
    assert (ran.code, ran.out) == (0, "Hello there.Hello there.\n")
    assert len(runs.provider.requests) == 9
    said = json.loads(summary.read_text(encoding="utf-8"))
    assert (said["calls"], said["reserved"], said["refused_calls"]) == (9, "0.00", 0)


def test_a_module_runs_as_python_runs_it(runs: Runs) -> None:
    """`-m` finds packages in the folder one is in, and leaves what follows to the program."""
    runs.write("print(__name__, __package__, sys.argv[1:], ask().id != '')", "tool/__main__.py")
    runs.write("", "tool/__init__.py", asks=False)
    ran = runs("--budget", 1, "-m", "tool", "--user", "x")
    assert (ran.code, ran.out) == (0, "__main__ tool ['--user', 'x'] True\n")


def test_a_rate_limits_how_fast_it_spends(runs: Runs) -> None:
    """The run's own limit: on a shared ledger it binds nobody else, and is gone afterwards."""
    program = runs.write("while True: ask()")
    runs.provider.answer("Hello", usage={"input": 10, "output": 50})
    ledger = url(runs.folder)
    options = ("--tenant", "acme", "--user", "ana", "--label", "team=x", "--db", ledger)
    ran = runs("--budget", 5, "--max-rate", f"{ONE_CALL} USD/90min", *options, program)
    assert ran.code == 3
    assert "Stopped: this run may spend 0.0006 USD/90min; $0.000525 of that is used" in ran.err
    assert len(runs.provider.requests) == 1
    with Governor(ledger) as governor:
        assert governor.policies.list() == []
        (event,) = governor.events()
        assert (event.tenant, event.user, event.labels["team"]) == ("acme", "ana", "x")
        assert governor.reserve(tenant="acme", model="gpt-4o", prompt="x").allowed
        assert governor.verify().ok


def test_limits_of_a_shared_ledger_stop_it_too(runs: Runs) -> None:
    """What others have spent counts against a policy, and not as the run's own spend."""
    program = runs.write("ask()")
    with Governor(url(runs.folder)) as governor:
        governor.policies.put(
            Policy(id="all", tenant_id="acme", limit_type="total", limit_value="1")
        )
        governor.settle(governor.reserve(tenant="acme", model="gpt-4o", prompt="x"), cost="1")
    ran = runs("--budget", 5, "--tenant", "acme", "--db", url(runs.folder), "--json", program)
    assert (ran.code, runs.provider.requests) == (3, [])
    assert "policy all" in ran.summary["message"]
    assert (ran.summary["calls"], ran.summary["spent"]) == (0, "0.00")


def test_an_error_of_the_program_is_shown_without_our_lines(runs: Runs) -> None:
    """Exit 1, and the traceback that Python would have shown."""
    program = runs.write("def broken():\n    {}['lost']\n\nbroken()\n", asks=False)
    plain = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    ran = runs("--budget", 1, program)
    assert ran.code == plain.returncode == 1
    assert ran.err.startswith(plain.stderr)


def test_a_program_can_be_interrupted(runs: Runs) -> None:
    """Exit 130, and the summary is told all the same."""
    program = runs.write("import sys\nprint('ready', flush=True)\nsys.stdin.read()", asks=False)
    environment = {**os.environ}
    environment.pop("FLUXAI_DATABASE_URL", None)
    with subprocess.Popen(
        [sys.executable, "-m", "fluxai", "run", "--budget", "1", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        said = process.stderr.read()
    assert said.startswith("Interrupted.\n")
    assert "$0.00 of $1.00 spent" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "much", "program.py"), "--budget"),
        (("--budget", "1", "--max-rate", "fast", "program.py"), "--max-rate"),
        (("--budget", "1", "missing.py"), "no file 'missing.py'"),
        (("--budget", "1", "-m", "missing.module"), "no module 'missing.module'"),
        (("--budget", "1", "--label", "team", "program.py"), "KEY=VALUE"),
    ],
)
def test_wrong_usage_runs_nothing(arguments: tuple[str, ...], said: str, runs: Runs) -> None:
    """Exit 2 and a sentence that says what is wrong."""
    runs.write("print('ran')", asks=False)
    ran = runs(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
