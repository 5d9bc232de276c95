"""The command as a person types it: whole runs, errors without tracebacks, resume, repro."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.cli import UNFINISHED

ROOT = Path(__file__).parents[2]


def attnbench(
    folder: Path, *arguments: str, timeout_s: float = 240
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bench.cli", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'site'}", "COLUMNS": "160"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one variant was measured by the smoke plan."""
    folder = tmp_path_factory.mktemp("measured")
    done = attnbench(folder, "run", "--plan", "smoke", "--only", "linear_relu")
    assert done.returncode == 0, done.stderr
    (folder / "screen.txt").write_text(done.stdout)
    return folder


def test_a_run_ends_with_a_screen_results_and_a_page(measured: Path) -> None:
    screen = (measured / "screen.txt").read_text()
    for word in ("fastest forward", "duty", "noise floor", "1 of 1 measured", "index.html"):
        assert word in screen
    (run,) = (measured / "results").glob("*/*/run.json")
    assert str(run.parent) in screen.replace("\n", "")
    assert (measured / "site" / "_build" / "index.html").is_file()
    assert not list((measured / ".attnbench").glob("*.jsonl"))


def test_check_reads_what_run_wrote_and_refuses_it_when_changed(
    measured: Path, tmp_path: Path
) -> None:
    done = attnbench(measured, "check")
    assert "R1" not in done.stdout
    shutil.copytree(measured / "results", tmp_path / "results")
    (variant,) = (tmp_path / "results").glob("*/*/linear_relu.json")
    variant.write_text(variant.read_text().replace('"parameters"', '"parameter"', 1))
    spoiled = attnbench(tmp_path, "check")
    assert spoiled.returncode == 1
    assert "linear_relu.json" in spoiled.stdout


def test_repro_measures_a_published_row_again(measured: Path) -> None:
    done = attnbench(measured, "repro", "linear_relu", "--submit", "--account", "Bob")
    assert done.returncode in (0, 1), done.stderr
    assert "published" in done.stdout
    assert "times that" in done.stdout
    assert "machine and software are the same" in done.stdout
    (folder,) = (line.split()[1] for line in done.stdout.splitlines() if "recorded:" in line)
    header = json.loads((Path(folder) / "run.json").read_text())
    assert (header["plan"], header["submitted_by"]) == ("repro", "bob")
    found = attnbench(measured, "check", folder).stdout
    assert not re.search(r"error R(?![45])", found), found  # times may be odd on a busy machine


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--plan", "quik"), "Did you mean 'quick'"),
        (("run", "--plan", "smoke", "--only", "nothing"), "matches none"),
        (
            ("run", "--plan", "smoke", "--only", "softmax inlne"),
            "--only 'inlne' matches none of the",
        ),
        (("run", "--variant-file", "absent.py"), "no such file"),
        (("run", "--variant-file", "slip.py"), "slip.py:1: ModuleNotFoundError: No module named"),
        (("list", "--variant-file", "empty.py"), "empty.py: SPEC is missing, must be"),
        (
            ("run", "--plan", "smoke", "--results", "slip.py/x"),
            "cannot be written: Not a directory",
        ),
        (("run", "--plan", "smoke", "--only", "linear_relu", "--resume"), "no unfinished run"),
        (("run", "--plan", "smoke", "--only", "sotfmax inlne/*"), "Did you mean 'softmax inline'?"),
        pytest.param(
            ("run", "--plan", "smoke", "--only", "softmax", "--device", "cuda"),
            "finds no CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        (("site", "--out", "."), "not empty and not a built site; choose another folder"),
        (("site", "--results", "absent"), "absent is not a folder"),
        (("repro", "nothing"), "no published row"),
        (("compare", "a", "b"), "no run"),
    ],
)
def test_errors_are_sentences_without_traceback(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "slip.py").write_text("import no_such_package")
    (tmp_path / "empty.py").write_text("")
    done = attnbench(tmp_path, *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def heed_ctrl_c() -> None:
    """A suite started in the background of a script is deaf to Ctrl-C, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_says_how_to_resume_and_resume_finishes(tmp_path: Path) -> None:
    arguments = ("run", "--plan", "smoke", "--only", "linear_elu/* linear_elu")
    running = subprocess.Popen(
        [sys.executable, "-m", "bench.cli", *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - this process has one thread
    )
    journal = wait_for_visits(tmp_path, running, visits=2)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130, stderr
    assert "nox -s bench -- --plan smoke --only 'linear_elu/* linear_elu' --resume" in stdout
    before = journal.read_text()
    late = attnbench(tmp_path, *arguments, "--resume", "--minutes", "0")
    assert late.returncode == UNFINISHED, late.stderr
    assert "0 minutes are over" in late.stdout
    again = "--plan smoke --only 'linear_elu/* linear_elu'"
    assert f"{again} --minutes 0 --resume" in late.stdout
    assert not list((tmp_path / "results").glob("*/*/run.json"))
    done = attnbench(tmp_path, *arguments, "--go-on")
    assert done.returncode == 0, done.stderr
    (finished,) = (tmp_path / ".attnbench" / "finished").glob("*.jsonl")
    assert finished.read_text().startswith(before[: before.rindex("\n")])
    assert len(list((tmp_path / "results").glob("*/*/run.json"))) == 1


def wait_for_visits(folder: Path, running: "subprocess.Popen[str]", visits: int) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        for journal in (folder / ".attnbench").glob("*.jsonl"):
            if journal.read_text().count("\n") > visits:
                return journal
        time.sleep(0.05)
    raise AssertionError(f"no {visits} visits were made: {running.communicate()}")
