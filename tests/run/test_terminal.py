"""The live display: failures are said at once, a log file gets plain lines, words are right."""

import io
import re

import pytest
from rich.console import Console

from bench import terminal as module
from bench.cases import frontier_case, image, task_cases, workload_case
from bench.executor import Slot
from bench.model import Crashed, NotRun, Ok, Unsupported
from bench.plan import everything
from bench.task import Epoch
from bench.terminal import Terminal, case_words

CASE = workload_case("softmax", "sdpa", image(224), dtype="float32", passes="forward_backward")


def shown(monkeypatch: pytest.MonkeyPatch, *outcomes: object) -> str:
    monkeypatch.setattr(module, "_LINE_EVERY_S", 0.0)
    text = io.StringIO()
    with Terminal(Console(file=text, width=200)) as display:
        for done, outcome in enumerate(outcomes):
            display.started(CASE, done, len(outcomes))
            display.finished(CASE, outcome)
        display.started(CASE, len(outcomes), len(outcomes))
    return text.getvalue()


def test_failures_are_said_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Crashed(exit_code=-11, reason="x"), Ok(measurements=(), executed="-"))
    assert "crashed softmax/sdpa" in text
    assert "2/2  1 failed" in text


def test_refusals_with_reasons_are_not_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Unsupported(reasons=("no",)), NotRun(reason="larger"))
    assert "no failures" in text
    assert "failed" not in text


def test_the_time_left_is_not_guessed_from_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    ok = Ok(measurements=(), executed="-")
    assert "min left" not in shown(monkeypatch, ok, ok)
    assert "min left" in shown(monkeypatch, *[ok] * 6)


def test_a_log_shows_how_far_long_trainings_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE_EVERY_S", 0.0)
    text = io.StringIO()
    with Terminal(Console(file=text, width=200)) as display:
        display.started(next(task_cases("softmax", "digits", 1)), 3, 7)
        display.trained(Epoch(number=2, epochs=9, loss=0.5, accuracy=0.25))
        display.slots({Slot(node="n1", device="gpu 3"): "training: epoch 5/9"})
    lines = text.getvalue().splitlines()
    assert any(line.startswith("3/7") and "epoch 2/9, loss 0.500" in line for line in lines)
    assert "  n1, gpu 3: training: epoch 5/9" in lines


def test_a_case_in_words() -> None:
    assert case_words(CASE) == "softmax/sdpa: 224 px, batch 1, fwd+bwd, float32, layer"
    frontier = frontier_case(
        "inline", "reference", memory_bytes=2**27, dtype="float32", passes="forward"
    )
    assert case_words(frontier) == "inline/reference: largest N in 128 MiB"
    assert case_words(next(task_cases("inline", "digits", 1))).endswith("digits, seed 0")
    assert everything("cpu").device == "cpu"


def on_terminal(width: int, encoding: str = "utf-8") -> str:
    """The line of a run, as a terminal of that width shows it."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="")
    console = Console(file=file, width=width, force_terminal=True, legacy_windows=False)
    with Terminal(console) as display:
        display.started(CASE, 12, 34)
        display.finished(CASE, Crashed(exit_code=-11, reason="x"))
        display.started(CASE, 13, 34)
        display._bar.refresh()  # the next one comes by the clock
    file.flush()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.getvalue().decode(encoding))
    lines = re.split(r"[\r\n]+", plain)
    return next(line for line in reversed(lines) if "13/34" in line)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_how_far_and_what_failed_is_seen_on_every_terminal(width: int) -> None:
    line = on_terminal(width)
    assert len(line) <= width
    assert "1 failed" in line
    assert "softmax/s" in line or width < 60
    assert ("━" in line) == (width >= 100)


def test_a_terminal_without_unicode_shows_the_line_too() -> None:
    assert "1 failed" in on_terminal(120, "latin-1")
