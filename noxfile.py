"""Every task of this project: `nox -l` lists them, `nox -s NAME` runs one.

All sessions share one virtual environment, `.nox/attnbench`, so that torch is installed once. Pip
runs again only when pyproject.toml or constraints.txt changed or a session needs another group.
Set ATTNBENCH_PYTHON to the path of an interpreter that already has everything (a cluster's own
torch, say): the sessions then use it as it is and install nothing.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests", "cluster", "check", "site"]
nox.options.default_venv_backend = "none"  # see the module docstring: `environment` makes the one

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".nox" / "attnbench"
STAMP = ENVIRONMENT / "installed.json"
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
OLDEST_PYTHON = (3, 11)
FORMS = {
    "workflows": ".github/workflows/*.yml",
    "issue-forms": ".github/ISSUE_TEMPLATE/*[!g].yml",
    "issue-config": ".github/ISSUE_TEMPLATE/config.yml",
}
"""Files that GitHub reads, by the schema that check-jsonschema carries for them."""
PATIENCE_S = 60.0
"""Time a run may take to write its last lines after Ctrl-C; nox alone would kill it at once."""


def environment(session: nox.Session, *groups: str) -> Path:
    """Return the interpreter of the shared environment, with the project and `groups` installed."""
    if own := os.environ.get("ATTNBENCH_PYTHON"):
        session.log(f"using {own} as it is (ATTNBENCH_PYTHON)")
        return Path(own)
    if sys.version_info < OLDEST_PYTHON:
        session.error(
            f"attnbench needs Python {'.'.join(map(str, OLDEST_PYTHON))} or newer, nox runs on "
            f"{platform.python_version()}; install nox with a newer Python"
        )
    python = ENVIRONMENT / SCRIPTS / ("python.exe" if os.name == "nt" else "python")
    stamp = json.loads(STAMP.read_text(encoding="utf-8")) if STAMP.exists() else {}
    place, wishes = _place(), _wishes()
    if stamp.get("place") != place or not python.exists():
        stamp = {}
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        session.log("making the shared environment (once; torch is large, this takes a while)")
        _call(session, sys.executable, "-m", "virtualenv", "--quiet", str(ENVIRONMENT))
    have = stamp.get("groups", [])
    if stamp.get("wishes") == wishes and {"project", *groups} <= set(have):
        return python
    wanted = sorted({*have, *groups} - {"project"})
    table = nox.project.load_toml(ROOT / "pyproject.toml")
    packages = nox.project.dependency_groups(table, *wanted)
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    _call(session, str(python), "-m", "pip", "install", *constraints, "-e", str(ROOT), *packages)
    stamp = {"place": place, "wishes": wishes, "groups": ["project", *wanted]}
    STAMP.write_text(json.dumps(stamp), encoding="utf-8")
    return python


def _place() -> str:
    """What an environment cannot be moved away from: this folder and this interpreter."""
    return f"{ROOT} {sys.executable} {platform.python_version()}"


def _wishes() -> str:
    """Digest of everything that says which packages are wanted."""
    files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join(files)).hexdigest()


def _call(
    session: nox.Session,
    *command: str,
    patience_s: float | None = 0.3,
    env: dict[str, str | None] | None = None,
) -> None:
    session.run(*command, external=True, interrupt_timeout=patience_s, env=env)


def _tool(python: Path, name: str) -> str:
    return str(python.parent / name)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure this machine, write results/, render the site: `-- --plan smoke --only inline`."""
    python = environment(session)
    session.chdir(ROOT)
    _call(session, str(python), "-m", "bench.cli", "run", *session.posargs, patience_s=PATIENCE_S)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite, without a GPU or a network: `-- tests/docs -k readme`, `-- -m slow`."""
    python = environment(session, "tests")
    session.chdir(ROOT)
    parallel = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadgroup"]
    chosen = session.posargs or ["-m", "not gpu and not slow and not cluster", *parallel]
    # threads that wait for each other by spinning make small operators many times slower
    one_thread: dict[str, str | None] = {"OMP_NUM_THREADS": "1"}
    _call(session, str(python), "-m", "pytest", "--benchmark-disable", *chosen, env=one_thread)


@nox.session
def cluster(session: nox.Session) -> None:
    """Run the executors on engines of several nodes, started on this machine: `-- -k ray`."""
    python = environment(session, "tests", "cluster")
    session.chdir(ROOT)
    chosen = session.posargs or ["-m", "cluster"]
    one_thread: dict[str, str | None] = {"OMP_NUM_THREADS": "1"}
    command = (str(python), "-m", "pytest", "--benchmark-disable", "-rs", "tests/cluster")
    _call(session, *command, *chosen, env=one_thread)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, imports, spelling, the schema, and the automation under .github."""
    python = environment(session, "lint")
    session.chdir(ROOT)
    _call(session, _tool(python, "ruff"), "check", ".")
    _call(session, _tool(python, "ruff"), "format", "--check", ".")
    _call(session, _tool(python, "lint-imports"))
    _call(session, _tool(python, "codespell"))
    _call(session, str(python), "-m", "bench.schema", "--check")
    _call(session, _tool(python, "zizmor"), "--offline", "--pedantic", "--quiet", ".github")
    for kind, files in FORMS.items():
        schema = ["--builtin-schema", f"vendor.github-{kind}"]
        found = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(files))]
        _call(session, _tool(python, "check-jsonschema"), *schema, *found)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with pyright, strictly."""
    python = environment(session, "types", "tests")
    session.chdir(ROOT)
    _call(session, str(python), "-m", "pyright", "--pythonpath", str(python), *session.posargs)


@nox.session
def check(session: nox.Session) -> None:
    """Validate everything under results/."""
    python = environment(session)
    session.chdir(ROOT)
    _call(session, str(python), "-m", "bench.cli", "check", *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """Render results/ into site/_build: `-- --out DIR`, `-- --serve` to browse it."""
    python = environment(session)
    session.chdir(ROOT)
    _call(session, str(python), "-m", "bench.cli", "site", *session.posargs, patience_s=PATIENCE_S)


@nox.session
def repro(session: nox.Session) -> None:
    """Measure one published row again and say whether it agrees: `-- ROW`."""
    python = environment(session)
    session.chdir(ROOT)
    _call(session, str(python), "-m", "bench.cli", "repro", *session.posargs, patience_s=PATIENCE_S)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Change valid runs at random and look for what nobody notices: `-- --mutants 100000`."""
    python = environment(session, "tests")
    session.chdir(ROOT)
    paths: dict[str, str | None] = {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT / 'site'}"}
    _call(session, str(python), str(ROOT / "tests" / "fuzz_runs.py"), *session.posargs, env=paths)


@nox.session
def micro(session: nox.Session) -> None:
    """Time a few calls with pytest-benchmark: `-- -k inline --benchmark-compare`."""
    python = environment(session, "tests")
    session.chdir(ROOT)
    _call(session, str(python), "-m", "pytest", "tests/micro", "--benchmark-only", *session.posargs)


@nox.session
def vector(session: nox.Session) -> None:
    """Write the test vector of a variant: `-- NAME`."""
    python = environment(session)
    session.chdir(ROOT)
    _call(session, str(python), "-m", "bench.vector", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Run the tests that need a CUDA device."""
    python = environment(session, "tests")
    session.chdir(ROOT)
    _call(
        session, str(python), "-m", "pytest", "-m", "gpu", "--benchmark-disable", *session.posargs
    )


RUN = ("bench.cli", "run", "--device", "cuda", "--plan")
ON_GPU = ("pytest", "-m", "gpu", "--benchmark-disable")
FIRST_LOOK = "*/triton/core/*/128x128/* softmax/sdpa/core/*/128x128/*"
"""Every fused backend beside SDPA at 16,384 tokens: each passes the gate before it is timed."""
COMPILERS = str(min(8, os.cpu_count() or 1))
"""Processes that compile kernels side by side."""
GPU_STEPS = {
    "first": (*RUN, "kernels", "--only", FIRST_LOOK),
    "clock": (*ON_GPU, "tests/measure"),
    "tests": (*ON_GPU, "-n", COMPILERS, "--dist", "load", "tests/contract"),
    "kernels": (*RUN, "kernels"),
    "standard": (*RUN, "standard"),
    "accuracy": (*RUN, "accuracy"),
    "check": ("bench.cli", "check"),
    "site": ("bench.cli", "site"),
}
"""What a GPU is needed for, the most telling first; results/ is ready to be committed after it."""
REHEARSAL = ("--results", ".nox/rehearsal/results")
REHEARSED_RUN = ("bench.cli", "run", "--device", "cpu", "--site", ".nox/rehearsal/site", *REHEARSAL)
REHEARSAL_STEPS = {
    "first": (*REHEARSED_RUN, "--plan", "kernels", "--only", "linear_relu/reference/core"),
    "clock": (*ON_GPU, "--collect-only", "--quiet", "tests/measure"),
    "tests": (*ON_GPU, "--collect-only", "--quiet", "tests/contract"),
    "kernels": (*REHEARSED_RUN, "--plan", "kernels", "--only", "softmax/reference"),
    "standard": (*REHEARSED_RUN, "--plan", "smoke", "--only", "softmax/reference"),
    "accuracy": (*REHEARSED_RUN, "--plan", "accuracy", "--only", "softmax/*/digits/seed0"),
    "check": ("bench.cli", "check", *REHEARSAL),
    "site": ("bench.cli", "site", *REHEARSAL, "--out", ".nox/rehearsal/site"),
}
"""The same on a CPU within minutes, each run cut to a few cases: whether the way is clear."""


NOTES = ROOT / ".nox" / "gpu_results.json"
"""Which steps have ended, where time is short."""
RUN_FILES = "*/*/run.json"
"""One for every run that ended, below the results."""
UNFINISHED = 75
"""Exit status of a run that has used up its minutes."""


@nox.session
def gpu_results(session: nox.Session) -> None:
    """All that a GPU is for, in order: `-- --minutes 9`, `-- standard check`, `-- rehearse`."""
    python = environment(session, "tests")
    session.chdir(ROOT)
    minutes, asked = given_minutes(session, session.posargs)
    steps = gpu_commands(session, *asked)
    if minutes is None:
        for command in steps.values():
            _call(session, str(python), "-m", *command, patience_s=PATIENCE_S)
        return
    until_s = time.monotonic() + 60 * minutes
    ended = _ended()
    for name, command in steps.items():
        if name in ended:
            session.log(f"{name} has ended before: {NOTES.relative_to(ROOT)}")
            continue
        left = (until_s - time.monotonic()) / 60
        if left <= 0 or not _ends(session, python, command, left):
            session.log(f"{minutes:g} minutes are over at step {name}: the same command goes on")
            return
        ended = (*ended, name)
        NOTES.write_text(json.dumps({"commit": _commit(), "ended": ended}), encoding="utf-8")
    NOTES.unlink(missing_ok=True)


def given_minutes(session: nox.Session, arguments: list[str]) -> tuple[float | None, list[str]]:
    """Return the value of `--minutes`, None where it is not given, and the other arguments."""
    asked = list(arguments)
    if "--minutes" not in asked:
        return None, asked
    place = asked.index("--minutes")
    words = asked[place + 1 : place + 2]
    try:
        minutes = float(words[0])
    except (IndexError, ValueError):
        session.error(f"--minutes needs a number, got {' '.join(words) or 'nothing'}")
    return minutes, asked[:place] + asked[place + 2 :]


def gpu_commands(session: nox.Session, *asked: str) -> dict[str, tuple[str, ...]]:
    """Return the commands of the steps asked for, all by default, in the one right order."""
    steps = REHEARSAL_STEPS if "rehearse" in asked else GPU_STEPS
    wanted = set(asked) - {"rehearse"}
    if unknown := sorted(wanted - set(steps)):
        session.error(f"no step {', '.join(unknown)}; there are: rehearse, {', '.join(steps)}")
    return {name: command for name, command in steps.items() if not wanted or name in wanted}


def _ends(session: nox.Session, python: Path, command: tuple[str, ...], left: float) -> bool:
    """Run a step; False where it was a run whose minutes were over, which can be gone on with."""
    if command[:2] != ("bench.cli", "run"):
        _call(session, str(python), "-m", *command, patience_s=PATIENCE_S)
        return True
    results = ROOT / "results"
    if "--results" in command:
        results = ROOT / command[command.index("--results") + 1]
    before = set(results.glob(RUN_FILES))
    session.run(
        str(python), "-m", *command, "--go-on", "--minutes", f"{left:.2f}",
        external=True, interrupt_timeout=PATIENCE_S, success_codes=[0, UNFINISHED],
    )  # fmt: skip
    # a run that ended has written its folder; journals of older code may lie about unfinished
    return set(results.glob(RUN_FILES)) > before


def _ended() -> tuple[str, ...]:
    """Steps that ended at this commit."""
    if not NOTES.is_file():
        return ()
    notes = json.loads(NOTES.read_text(encoding="utf-8"))
    return tuple(notes["ended"]) if notes["commit"] == _commit() else ()


def _commit() -> str:
    """The commit that is checked out; empty where git does not say."""
    git = shutil.which("git")
    if git is None:
        return ""
    asked = [git, "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
