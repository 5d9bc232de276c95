"""Which errors are told without a traceback, and what Ctrl-C says."""

import importlib

import click
import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.cli_options import ACTIONABLE, STOPPED, Failure, explained


@pytest.mark.parametrize("name", sorted(ACTIONABLE))
def test_every_error_that_is_named_exists_and_is_told_in_its_own_words(name: str) -> None:
    module, _, kind = name.rpartition(".")
    error = getattr(importlib.import_module(module), kind)
    assert issubclass(error, Exception)

    class Narrower(error):
        def __init__(self) -> None: ...

        def __str__(self) -> str:
            return "what, got, allowed, what to do"

    with pytest.raises(Failure, match="what, got, allowed, what to do"), explained():
        raise Narrower


@pytest.mark.parametrize("fault", [KeyError("slip"), AssertionError("slip"), TypeError("slip")])
def test_a_fault_of_ours_keeps_its_traceback(fault: Exception) -> None:
    """Negative control: what nobody can act on is not dressed up as advice."""
    with pytest.raises(type(fault), match="slip"), explained():
        raise fault


def test_ctrl_c_is_told_and_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, explained(stopped="Stopped. Nothing is lost."):
        raise KeyboardInterrupt
    assert ended.value.code == STOPPED
    assert capsys.readouterr().out == "\nStopped. Nothing is lost.\n"


def test_ctrl_c_is_left_to_the_command_that_has_words_of_its_own() -> None:
    with pytest.raises(KeyboardInterrupt), explained():
        raise KeyboardInterrupt


def test_without_an_error_nothing_happens() -> None:
    with explained():
        click.echo("fine")


def test_ctrl_c_in_any_verb_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.comparison.compare_runs", interrupted)
    done = CliRunner().invoke(main, ["compare", "a", "b"])
    assert (done.exit_code, done.stderr) == (STOPPED, "\nStopped.\n")
