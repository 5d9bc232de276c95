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
import sys
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
GPU_STEPS = {
    "tests": ("pytest", "-m", "gpu", "--benchmark-disable"),
    "kernels": (*RUN, "kernels"),
    "standard": (*RUN, "standard"),
    "accuracy": (*RUN, "accuracy"),
    "check": ("bench.cli", "check"),
    "site": ("bench.cli", "site"),
}
"""What a GPU is needed for, in this order; results/ is ready to be committed after it."""
REHEARSAL = ("--results", ".nox/rehearsal/results")
REHEARSED_RUN = ("bench.cli", "run", "--device", "cpu", "--site", ".nox/rehearsal/site", *REHEARSAL)
REHEARSAL_STEPS = {
    "tests": ("pytest", "-m", "gpu", "--collect-only", "--quiet"),
    "kernels": (*REHEARSED_RUN, "--plan", "kernels", "--only", "softmax/reference"),
    "standard": (*REHEARSED_RUN, "--plan", "smoke", "--only", "softmax/reference"),
    "accuracy": (*REHEARSED_RUN, "--plan", "accuracy", "--only", "softmax/*/digits/seed0"),
    "check": ("bench.cli", "check", *REHEARSAL),
    "site": ("bench.cli", "site", *REHEARSAL, "--out", ".nox/rehearsal/site"),
}
"""The same on a CPU within minutes, each run cut to a few cases: whether the way is clear."""


@nox.session
def gpu_results(session: nox.Session) -> None:
    """All that a GPU is for, in order: `-- standard check` for some, `-- rehearse` without one."""
    python = environment(session, "tests")
    session.chdir(ROOT)
    for command in gpu_commands(session, *session.posargs):
        _call(session, str(python), "-m", *command, patience_s=PATIENCE_S)


def gpu_commands(session: nox.Session, *asked: str) -> list[tuple[str, ...]]:
    """Return the commands of the steps asked for, all by default, in the one right order."""
    steps = REHEARSAL_STEPS if "rehearse" in asked else GPU_STEPS
    wanted = set(asked) - {"rehearse"}
    if unknown := sorted(wanted - set(steps)):
        session.error(f"no step {', '.join(unknown)}; there are: rehearse, {', '.join(steps)}")
    return [command for name, command in steps.items() if not wanted or name in wanted]
