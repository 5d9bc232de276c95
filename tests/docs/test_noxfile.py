"""The shared environment of all nox sessions: what is installed when, without installing."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

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
