"""Trainings in workers: what is told while they run, and what is left when they are killed."""

from pathlib import Path

import pytest
import tiny

from bench.cases import task_cases
from bench.launch import Workers
from bench.model import NotRun, Ok
from bench.task import Epoch

(CASE,) = task_cases("softmax", "digits", seeds=1)


def exact(outcome: Ok) -> dict[str, object]:
    """Everything that must not differ between two trainings from one seed."""
    assert outcome.training is not None
    found = {m.metric: m for m in outcome.measurements if m.metric in ("accuracy", "loss")}
    return found | {"losses": outcome.training.losses, "norms": outcome.training.gradient_norms}


class PulledPlugError(Exception):
    """Somebody pulled the plug."""


def test_a_killed_training_goes_on_to_the_same_result(tmp_path: Path) -> None:
    told: list[Epoch] = []
    protocol = tiny.with_timeout(120.0)
    with Workers("cpu", 1, report=told.append) as workers:
        through = workers.visit(CASE, 0, protocol, "group").outcome
    assert isinstance(through, Ok)
    assert [epoch.number for epoch in told] == list(range(1, 11))
    assert told[-1].accuracy > 0.8

    def pull(epoch: Epoch) -> None:
        if epoch.number == 4:
            raise PulledPlugError

    with Workers("cpu", 1, tmp_path, pull) as workers, pytest.raises(PulledPlugError):
        workers.visit(CASE, 0, protocol, "group")
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".unfinished"] == [".pt"]
    with Workers("cpu", 1, tmp_path) as workers:
        resumed = workers.visit(CASE, 0, protocol, "group").outcome
    assert isinstance(resumed, Ok)
    assert resumed.training is not None
    assert resumed.training.resumed_after in ((3,), (4,))
    assert exact(resumed) == exact(through)


def test_missing_data_are_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (case,) = task_cases("softmax", "cifar10_64", seeds=1)
    with Workers("cpu", 1) as workers:
        outcome = workers.visit(case, 0, tiny.with_timeout(60.0), "group").outcome
    assert isinstance(outcome, NotRun)
    assert "attnbench download cifar-10-batches-bin" in outcome.reason
