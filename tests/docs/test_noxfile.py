"""The shared environment of all nox sessions: what is installed when, without installing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bench import cli
from bench.plan import everything, load_plan, only

ROOT = Path(__file__).parents[2]


class Session:
    """Notes what would be run."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []

    def run(self, *command: str, **_options: object) -> None:
        self.commands.append(command)
        if "virtualenv" in command:
            python = (
                Path(command[-1]) / ("Scripts" if sys.platform == "win32" else "bin") / "python"
            )
            python.parent.mkdir(parents=True)
            python.write_text("", encoding="utf-8")

    def log(self, _text: str) -> None: ...

    @property
    def installed(self) -> list[tuple[str, ...]]:
        return [command for command in self.commands if "install" in command]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("noxfile.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


@pytest.fixture
def noxfile(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """noxfile.py of a folder of its own, with a nox that only reads groups."""

    def groups(_table: Any, *names: str) -> tuple[str, ...]:
        return tuple(f"packages of {name}" for name in names)

    project = SimpleNamespace(load_toml=lambda _path: {}, dependency_groups=groups)
    stub = ModuleType("nox")
    vars(stub).update(
        project=project, options=SimpleNamespace(), session=lambda f: f, Session=Session
    )
    monkeypatch.setitem(sys.modules, "nox", stub)
    monkeypatch.delenv("ATTNBENCH_PYTHON", raising=False)
    spec = importlib.util.spec_from_file_location("noxfile_under_test", tree / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_first_session_makes_the_environment_with_locked_versions(noxfile: Any) -> None:
    session = Session()
    noxfile.environment(session, "tests")
    (install,) = session.installed
    assert "virtualenv" in session.commands[0]
    assert install[install.index("--constraint") + 1].endswith("constraints.txt")
    assert "packages of tests" in install


def test_the_second_session_installs_nothing(noxfile: Any) -> None:
    noxfile.environment(Session(), "tests")
    second = Session()
    noxfile.environment(second, "tests")
    noxfile.environment(second)
    assert second.commands == []


def test_another_group_is_added_to_the_same_environment(noxfile: Any) -> None:
    noxfile.environment(Session(), "tests")
    second = Session()
    noxfile.environment(second, "lint")
    assert not any("virtualenv" in command for command in second.commands)
    assert "packages of lint" in second.installed[0]
    third = Session()
    noxfile.environment(third, "tests", "lint")
    assert third.commands == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_what_is_wanted_installs_anew(noxfile: Any, tree: Path, name: str) -> None:
    noxfile.environment(Session(), "tests")
    with (tree / name).open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    second = Session()
    noxfile.environment(second, "lint")
    (install,) = second.commands
    assert {"packages of tests", "packages of lint"} <= set(install)


def test_another_interpreter_gets_an_environment_of_its_own(
    noxfile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noxfile.environment(Session(), "tests")
    monkeypatch.setattr(noxfile, "_place", lambda: "elsewhere")
    second = Session()
    noxfile.environment(second)
    assert "virtualenv" in second.commands[0]
    assert "packages of tests" not in second.installed[0]


def test_an_installation_that_failed_is_not_taken_for_done(noxfile: Any) -> None:
    class Failing(Session):
        def run(self, *command: str, **options: object) -> None:
            super().run(*command, **options)
            if "install" in command:
                raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        noxfile.environment(Failing(), "tests")
    again = Session()
    noxfile.environment(again, "tests")
    assert again.installed


def test_an_interpreter_of_ones_own_is_left_as_it_is(
    noxfile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNBENCH_PYTHON", "/opt/own/bin/python")
    session = Session()
    assert noxfile.environment(session, "tests") == Path("/opt/own/bin/python")
    assert session.commands == []


# What a GPU is needed for -------------------------------------------------------------------------


class RefusedError(Exception):
    pass


class Asked(Session):
    """A session with arguments, whose errors end it."""

    def __init__(self, *posargs: str) -> None:
        super().__init__()
        self.posargs = posargs

    def chdir(self, _folder: Path) -> None: ...

    def error(self, text: str) -> None:
        raise RefusedError(text)


def steps_run(noxfile: Any, *asked: str) -> list[tuple[str, ...]]:
    """What the session runs, without interpreter and installation."""
    session = Asked(*asked)
    noxfile.gpu_results(session)
    return [c[2:] for c in session.commands if {"bench.cli", "pytest"} & set(c)]


def verbs(commands: list[tuple[str, ...]]) -> list[str]:
    return [c[c.index("--plan") + 1] if "--plan" in c else c[1] for c in commands]


def test_all_that_a_gpu_is_for_runs_in_order_on_it(noxfile: Any) -> None:
    commands = steps_run(noxfile)
    assert verbs(commands) == ["-m", "kernels", "standard", "accuracy", "check", "site"]
    for command in commands[1:4]:
        assert command[command.index("--device") + 1] == "cuda"
        assert "--only" not in command


def test_some_steps_keep_their_order_and_an_unknown_one_is_refused(noxfile: Any) -> None:
    assert verbs(steps_run(noxfile, "check", "standard")) == ["standard", "check"]
    with pytest.raises(RefusedError, match="no step kernel; there are: rehearse, tests, kernels"):
        steps_run(noxfile, "kernel")


def test_a_rehearsal_has_the_same_steps_and_touches_neither_gpu_nor_results(noxfile: Any) -> None:
    commands = steps_run(noxfile, "rehearse")
    assert len(commands) == len(steps_run(noxfile))
    for command in commands[1:]:
        assert "cuda" not in command
        assert command[command.index("--results") + 1] == ".nox/rehearsal/results"


@pytest.mark.parametrize("steps", ["GPU_STEPS", "REHEARSAL_STEPS"])
def test_every_command_is_one_that_the_tools_know(noxfile: Any, steps: str) -> None:
    for step, command in getattr(noxfile, steps).items():
        if command[0] != "bench.cli":
            continue
        verb = cli.main.commands[command[1]]
        context = verb.make_context(command[1], list(command[2:]))
        if "plan_name" in context.params:
            device, pattern = context.params["device"], context.params["only"]
            plan = load_plan(context.params["plan_name"], everything(device, pattern=pattern))
            cases = only(plan, pattern).cases if pattern else plan.cases
            assert cases, step
            assert len(cases) > 100 or steps == "REHEARSAL_STEPS"


@pytest.mark.slow
def test_a_rehearsal_leaves_results_that_are_in_order(tree: Path, noxfile: Any) -> None:
    """The way from plan to results/ and site, on a CPU, as it will be gone on a GPU."""
    folder = tree / "rehearsal"
    for name in ("kernels", "standard", "check", "site"):
        command = [
            part.replace(".nox/rehearsal", str(folder)) for part in noxfile.REHEARSAL_STEPS[name]
        ]
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (name, done.stdout[-2000:], done.stderr[-2000:])
    plans = {json.loads(p.read_text())["plan"] for p in folder.glob("results/*/*/run.json")}
    assert plans == {"kernels", "smoke"}
    assert (folder / "site" / "index.html").is_file()
