"""What is said when a run cannot begin, is stopped, or cannot be written at its end."""

import errno
import os
import shlex
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from leaderboard import __main__ as pages
from rich.console import Console

from bench import cli, measure, repeat, submission
from bench.journal import JournalError
from bench.terminal import minutes_words

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["run", "--plan", "smoke", "--only", "softmax/sdpa* inline*"]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that says how the command was started, and stops it at once."""

    def stop(program: str, *, measured: bool, folder: Path) -> str:
        def interrupted(order: measure.Order, *_: object) -> None:
            if measured:
                journals = order.results.parent / measure.JOURNALS
                journals.mkdir()
                (journals / "stopped.jsonl").write_text("")
            raise KeyboardInterrupt

        monkeypatch.setattr(measure, "measure", interrupted)
        monkeypatch.setattr("sys.argv", [program, *ARGUMENTS])
        done = CliRunner().invoke(
            cli.main, [*ARGUMENTS, "--device", "cpu", "--results", str(folder / "results")]
        )
        assert done.exit_code == 130, done.output
        return done.output

    return stop


def test_the_command_that_goes_on_can_be_pasted(typed: Any, tmp_path: Path) -> None:
    last = typed("bench/cli.py", measured=True, folder=tmp_path).splitlines()[-1]
    assert shlex.split(last) == ["nox", "-s", "bench", "--", *ARGUMENTS[1:], "--resume"]


def test_who_typed_attnbench_is_told_attnbench(typed: Any, tmp_path: Path) -> None:
    last = typed("/somewhere/bin/attnbench", measured=True, folder=tmp_path).splitlines()[-1]
    assert shlex.split(last) == ["attnbench", *ARGUMENTS, "--resume"]


def test_before_anything_was_measured_there_is_nothing_to_resume(
    typed: Any, tmp_path: Path
) -> None:
    said = typed("bench/cli.py", measured=False, folder=tmp_path)
    assert "before anything was measured" in said
    assert "--resume" not in said


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"cannot be written: Not a directory; .*--results DIR"):
        measure.require_writable(tmp_path / "file" / "results")
    measure.require_writable(tmp_path / "results")
    assert list((tmp_path / "results").iterdir()) == []


def test_a_reproduction_that_could_not_be_recorded_is_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: object) -> None:
        raise AssertionError("measured")

    environment = SimpleNamespace(device="cpu", hardware_id="x", threads=1, settings={})
    run = SimpleNamespace(environment=environment, run_id="r", commit=None)
    published = SimpleNamespace(run=run, record=SimpleNamespace(case=None), others=())
    monkeypatch.setattr(repeat, "find_row", lambda *_: published)
    monkeypatch.setattr(repeat, "case_words", lambda _case: "a case")
    monkeypatch.setattr(repeat, "repeat_plan", lambda _published: None)
    monkeypatch.setattr(repeat, "described", begun)
    (tmp_path / "file").write_text("")
    results = tmp_path / "file" / "results"
    console = Console(quiet=True)
    with pytest.raises(JournalError, match="cannot be written: Not a directory"):
        repeat.repeat_row("row", results, "cpu", console, submitter="bob")
    with pytest.raises(AssertionError, match="measured"):
        repeat.repeat_row("row", results, "cpu", console)


def test_a_disk_that_is_full_at_the_end_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    def run_of(*_: object) -> tuple[Any, tuple[()]]:
        return SimpleNamespace(), ()

    monkeypatch.setattr(submission, "write_run", full)
    monkeypatch.setattr(measure, "run_of", run_of)
    journal: Any = SimpleNamespace(path=tmp_path / "run.jsonl")
    journal.path.write_text("kept")
    with pytest.raises(JournalError, match=r"No space left on device; nothing measured is lost"):
        measure.write(journal, tmp_path / "results", "anonymous")
    assert journal.path.read_text() == "kept"


def test_a_run_is_shown_although_its_site_was_not_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []
    monkeypatch.setattr(measure, "measure", lambda *_: ("finished",))
    monkeypatch.setattr("bench.summary.last_screen", lambda *given: shown.append(given[:2]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "site"))))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.txt").write_text("not a built site")
    done = CliRunner().invoke(
        cli.main,
        [*ARGUMENTS, "--device", "cpu", "--results", str(tmp_path / "results"), "--site",
         str(tmp_path / "site")],
    )  # fmt: skip
    assert done.exit_code == 1
    assert shown == [("finished", None)]
    assert "the site was not rendered" in done.output
    assert "not a built site; choose another folder" in done.output


def test_a_run_is_shown_although_rendering_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    shown: list[object] = []
    monkeypatch.setattr(measure, "measure", lambda *_: ("finished",))
    monkeypatch.setattr("bench.summary.last_screen", lambda *given: shown.append(given[:2]))
    monkeypatch.setattr("subprocess.run", interrupted)
    done = CliRunner().invoke(
        cli.main, [*ARGUMENTS, "--device", "cpu", "--results", str(tmp_path / "results")]
    )
    assert (done.exit_code, shown) == (130, [("finished", None)])
    assert "render it with\n  nox -s site" in done.output


def test_a_site_that_cannot_be_written_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def judged(*_: object, **__: object) -> None:
        looked.append("judged")

    looked: list[str] = []
    monkeypatch.setattr(pages, "load_table", judged)
    monkeypatch.setattr(pages, "build", full)
    assert pages.main(["--out", str(tmp_path / "site")]) == 1
    assert "site cannot be written: No space left on device; free space" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert pages.main(["--out", str(tmp_path / "file" / "x" / "site")]) == 1
    assert "cannot be written: Not a directory" in capsys.readouterr().err
    assert looked == ["judged"], "what cannot be written is refused before the table is judged"


@pytest.mark.parametrize("taken", [False, True])
def test_the_site_is_served_although_a_port_is_taken(
    taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def stopped(command: list[str], **_: object) -> None:
        started.append(command)
        raise KeyboardInterrupt

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        free = other.getsockname()[1]
        monkeypatch.setattr(cli, "_PORT", free)
        if not taken:
            other.close()
        monkeypatch.setattr(cli, "_render", lambda *_: tmp_path / "index.html")
        monkeypatch.setattr("subprocess.run", stopped)
        done = CliRunner().invoke(cli.main, ["site", "--results", str(tmp_path), "--serve"])
    assert done.exit_code == 0, done.output
    (command,) = started
    assert command[command.index("http.server") + 1] == ("0" if taken else str(free))


def test_minutes_are_said_as_people_say_them() -> None:
    said = [minutes_words(m) for m in (0.1, 1.2, 35.4, 216)]
    assert said == ["less than a minute", "about 1 min", "about 35 min", "about 4 h"]
