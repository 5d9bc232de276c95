"""The shared environment of all nox sessions: what is installed when, without installing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from attention_impls import backends, names
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
    return [
        c[c.index("--plan") + 1] if "--plan" in c else c[-1] if c[0] == "pytest" else c[1]
        for c in commands
    ]


IN_ORDER = [
    "kernels",
    "tests/measure",
    "tests/contract",
    "kernels",
    "standard",
    "accuracy",
    "check",
    "site",
]


def test_all_that_a_gpu_is_for_runs_in_order_on_it(noxfile: Any) -> None:
    commands = steps_run(noxfile)
    assert verbs(commands) == IN_ORDER
    for command in (commands[0], *commands[3:6]):
        assert command[command.index("--device") + 1] == "cuda"
    assert [command for command in commands if "--only" in command] == [commands[0]]


def test_every_test_of_a_gpu_is_in_a_folder_that_a_step_runs() -> None:
    marked = {
        path.relative_to(ROOT).parts[1]
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text(encoding="utf-8") and path.name != "test_noxfile.py"
    }
    assert marked == {"measure", "contract"}


def test_the_first_look_is_every_fused_backend_beside_sdpa(noxfile: Any) -> None:
    plan = only(load_plan("kernels", everything("cuda")), noxfile.FIRST_LOOK)
    fused = {v for v in names() if "triton" in backends(v)}
    assert {(c.variant, c.backend) for c in plan.cases} == {
        *((v, "triton") for v in fused), ("softmax", "sdpa"),
    }  # fmt: skip
    assert {c.stimulus.passes for c in plan.cases} == {"forward", "forward_backward"}  # pyright: ignore[reportAttributeAccessIssue]
    assert plan.expected_minutes < 9


class Clocked(Asked):
    """A session whose runs take three minutes each, or as long as they are given."""

    now_s = 0.0

    def __init__(self, folder: Path, *posargs: str, needs: dict[str, float]) -> None:
        super().__init__(*posargs)
        self.folder = folder
        self.needs = needs
        """Minutes that each plan still needs."""

    def run(self, *command: str, **options: object) -> None:
        super().run(*command, **options)
        if "--minutes" not in command:
            Clocked.now_s += 60 if {"bench.cli", "pytest"} & set(command) else 0
            return
        plan, left = (command[command.index(name) + 1] for name in ("--plan", "--minutes"))
        spent = min(float(left), self.needs[plan])
        self.needs[plan] -= spent
        Clocked.now_s += 60 * spent
        if not self.needs[plan]:
            run = self.folder / "results" / "nvidia" / f"run-{len(self.commands)}-{Clocked.now_s}"
            run.mkdir(parents=True)
            (run / "run.json").touch()
            self.needs[plan] = 3.0


def test_short_sessions_go_on_where_the_last_one_ended(
    noxfile: Any, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noxfile, "time", SimpleNamespace(monotonic=lambda: Clocked.now_s))
    leftover = tree / ".attnbench" / "20250101-kernels-of-older-code.jsonl"
    leftover.parent.mkdir(exist_ok=True)
    leftover.touch()
    needs = {"kernels": 3.0, "standard": 12.0, "accuracy": 3.0}
    sessions: list[list[str]] = []
    for _ in range(5):
        session = Clocked(tree, "--minutes", "9", needs=needs)
        begin = Clocked.now_s
        noxfile.gpu_results(session)
        assert Clocked.now_s - begin <= 10 * 60
        commands = [c[2:] for c in session.commands if {"bench.cli", "pytest"} & set(c)]
        assert all("--go-on" in c for c in commands if c[1] == "run")
        sessions.append(verbs(commands))
        if not noxfile.NOTES.exists():
            break
    assert sessions == [[*IN_ORDER[:4], "standard"], ["standard"], ["standard", *IN_ORDER[5:]]]


def test_another_commit_begins_anew(
    noxfile: Any, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noxfile, "_commit", lambda: "a")
    noxfile.NOTES.parent.mkdir(exist_ok=True)
    noxfile.NOTES.write_text(json.dumps({"commit": "a", "ended": ["first", "clock"]}))
    session = Clocked(tree, "--minutes", "0.01", needs={"kernels": 3.0})
    noxfile.gpu_results(session)
    assert [c[-1] for c in session.commands if "pytest" in c] == ["tests/contract"]
    monkeypatch.setattr(noxfile, "_commit", lambda: "b")
    again = Clocked(tree, "--minutes", "0.01", needs={"kernels": 3.0})
    noxfile.gpu_results(again)
    assert [c[c.index("--plan") + 1] for c in again.commands if "--plan" in c] == ["kernels"]


@pytest.mark.parametrize("words", [("--minutes",), ("--minutes", "soon")])
def test_minutes_without_a_number_are_refused(noxfile: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError, match="--minutes needs a number"):
        noxfile.gpu_results(Asked(*words))


def test_some_steps_keep_their_order_and_an_unknown_one_is_refused(noxfile: Any) -> None:
    assert verbs(steps_run(noxfile, "check", "standard")) == ["standard", "check"]
    with pytest.raises(RefusedError, match="no step kernel; there are: rehearse, first, clock, te"):
        steps_run(noxfile, "kernel")


def test_a_rehearsal_has_the_same_steps_and_touches_neither_gpu_nor_results(noxfile: Any) -> None:
    commands = steps_run(noxfile, "rehearse")
    assert len(commands) == len(steps_run(noxfile))
    assert list(noxfile.REHEARSAL_STEPS) == list(noxfile.GPU_STEPS)
    for command in commands:
        assert "cuda" not in command
        if command[0] == "pytest":
            assert "--collect-only" in command
            continue
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
            assert len(cases) > 100 or pattern


@pytest.mark.slow
@pytest.mark.timeout(1800)
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
