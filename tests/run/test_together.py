"""One network trained by several processes: the numbers of one, and how it ends when one fails."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import tiny
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch.testing import assert_close

from bench import together
from bench.cases import task_cases
from bench.cli import main
from bench.dataset import IGNORED
from bench.devices_together import together_of
from bench.launch import Workers
from bench.model import Crashed, Diverged, Ok, to_json
from bench.process_group import Group
from bench.together import EndedError, Joint, learn_together, refuse_unfit
from bench.training import _Loop

(CASE,) = task_cases("softmax", "digits", seeds=1)
PROTOCOL = tiny.with_timeout(240.0)


def trained(count, folder=None, report=None, case=CASE):
    with Workers("cpu", 2, folder, report, count) as workers:
        return workers.visit(case, 0, PROTOCOL, "group").outcome


def exact(outcome):
    found = {m.metric: m for m in outcome.measurements if m.metric in ("accuracy", "loss")}
    return found | {"losses": outcome.training.losses, "norms": outcome.training.gradient_norms}


@pytest.fixture(scope="module")
def pair():
    told = []
    outcome = trained(2, report=told.append)
    assert isinstance(outcome, Ok), outcome
    assert [epoch.number for epoch in told] == list(range(1, 11))
    return outcome


class PulledPlugError(Exception):
    """Somebody pulled the plug."""


def pulled_after(epochs, told):
    """Somebody who listens, and pulls the plug."""

    def report(epoch):
        told.append(epoch)
        if epoch.number == epochs:
            raise PulledPlugError

    return report


def test_two_processes_train_to_what_one_does_and_say_that_they_were_two(pair):
    assert "2 processes together" in pair.executed
    assert pair.training.accuracies[-1] > 0.8
    alone = []
    with pytest.raises(PulledPlugError):
        trained(1, report=pulled_after(3, alone))
    ours = torch.tensor(pair.training.losses)
    theirs = torch.tensor([epoch.loss for epoch in alone])
    # rounding grows from step to step
    assert_close(ours[:2], theirs[:2], rtol=1e-3, atol=0)
    with pytest.raises(AssertionError):
        assert_close(ours[:2], theirs[1:], rtol=1e-3, atol=0)


@pytest.mark.slow
def test_a_killed_training_of_two_goes_on_to_the_same_result(pair, tmp_path):
    with pytest.raises(PulledPlugError):
        trained(2, tmp_path, pulled_after(4, []))
    resumed = trained(2, tmp_path)
    assert resumed.training.resumed_after in ((3,), (4,))
    assert exact(resumed) == exact(pair)
    refused = trained(1, tmp_path)
    assert isinstance(refused, Crashed)
    assert "processes was 2, is None" in refused.reason


def processes():
    """Those that train together below this one."""
    found = psutil.Process().children(recursive=True)
    return [one for one in found if "bench.together_process" in one.cmdline()]


def test_a_process_that_is_killed_ends_the_training_with_its_name():
    def kill(epoch):
        if epoch.number == 1:
            assert len(processes()) == 2
            max(processes(), key=lambda one: one.pid).kill()

    outcome = trained(2, None, kill)
    assert isinstance(outcome, Crashed)
    assert outcome.reason == "process 2 of 2 ended by signal 9"
    assert processes() == []


def test_where_the_second_cannot_be_started_the_first_does_not_stay(monkeypatch):
    started, honest = [], subprocess.Popen

    def refuse_the_second(_command, **options):
        if started:
            raise BlockingIOError("no more processes")
        started.append(honest(["sleep", "600"], stdin=options["stdin"], stdout=options["stdout"]))
        return started[0]

    monkeypatch.setattr(together.subprocess, "Popen", refuse_the_second)
    joint = Joint(case=CASE, device="cpu", processes=2, threads=2, checkpoint=None,
                  limit_bytes=None, report=None)  # fmt: skip
    try:
        with pytest.raises(BlockingIOError):
            learn_together(joint)
        assert started[0].poll() is not None
    finally:
        started[0].kill()


SAYS = "import json, sys, time; print(json.dumps({}), flush=True); time.sleep({})"


def scripted(monkeypatch, *scripts):
    """Run scripts in the place of the processes."""
    started = []

    def start(joint, rank, place):
        process = subprocess.Popen([sys.executable, "-c", scripts[rank]], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)  # fmt: skip
        process.stdin.close()
        started.append(process)
        return process

    monkeypatch.setattr(together, "_start", start)
    joint = Joint(case=CASE, device="cpu", processes=len(scripts), threads=2, checkpoint=None,
                  limit_bytes=None, report=None)  # fmt: skip
    with pytest.raises(EndedError) as ended:
        learn_together(joint)
    assert all(process.poll() is not None for process in started), "nobody is left behind"
    return ended.value.outcome


def failed(outcome, at_s):
    return {"kind": "failed", "at_s": at_s, "outcome": to_json(outcome)}


def test_the_first_failure_is_the_outcome_and_the_others_are_killed(monkeypatch):
    diverged = Diverged(step=3, steps=9, reason="the loss is not finite")
    consequence = Crashed(exit_code=1, reason="connection closed by peer")
    first = SAYS.format(failed(consequence, 2.0), 0)
    second = SAYS.format(failed(diverged, 1.0), 60)
    # the first says so only once the second has said its own
    assert scripted(monkeypatch, f"import time; time.sleep(3); {first}", second) == diverged
    died = scripted(monkeypatch, "import time; time.sleep(60)", "import os; os._exit(7)")
    assert died == Crashed(exit_code=7, reason="process 2 of 2 exited with status 7")
    late = f"import time; {first.replace('time.sleep(0)', 'time.sleep(60)')}"
    shot = scripted(monkeypatch, late, "import os; os.kill(os.getpid(), 9)")
    assert shot == Crashed(exit_code=-9, reason="process 2 of 2 ended by signal 9")
    mute = scripted(monkeypatch, "pass", "pass")
    assert mute.reason == "no process said what the training gave"


def test_gradients_are_those_of_the_mean_over_all_labels_that_count():
    logits = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, IGNORED, IGNORED], [1, 2, 3], [4, 0, IGNORED], [1, 1, 1]])
    whole = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, label_smoothing=0.1
    )
    (expected,) = torch.autograd.grad(whole, logits)
    parts, naive = [], []
    for rank in range(2):
        loop = SimpleNamespace(group=Group(rank, 2, torch.device("cpu")))
        mine, marks, reduction, share = _Loop._mine(loop, logits, labels)
        loss = share * F.cross_entropy(mine.flatten(0, -2), marks, ignore_index=IGNORED,
                                       reduction=reduction, label_smoothing=0.1)  # fmt: skip
        parts.append(torch.autograd.grad(loss, logits, retain_graph=True)[0])
        loss = F.cross_entropy(
            mine.flatten(0, -2), marks, ignore_index=IGNORED, label_smoothing=0.1
        )
        naive.append(torch.autograd.grad(loss, logits, retain_graph=True)[0])
    assert_close(sum(parts) / 2, expected)
    with pytest.raises(AssertionError):
        assert_close(sum(naive) / 2, expected)


def test_plans_that_cannot_use_several_devices_are_refused():
    trainings = tiny.plan(CASE)
    refuse_unfit(trainings, 2)
    refuse_unfit(tiny.plan(tiny.case()), 1)
    with pytest.raises(ValueError, match="uses one device and the others would idle"):
        refuse_unfit(tiny.plan(CASE, tiny.case()), 2)
    with pytest.raises(ValueError, match="batch of task digits, 32, cannot be shared"):
        refuse_unfit(trainings, 3)


@pytest.mark.parametrize("wrong", ["2", 0, True, 2.0, None])
def test_a_number_of_devices_is_a_whole_number(wrong):
    assert together_of({}) == 1
    assert together_of({"devices_together": 8}) == 8
    with pytest.raises(ValueError, match="whole numbers"):
        together_of({"devices_together": wrong})


def test_the_command_says_which_case_cannot_use_several_devices(tmp_path):
    words = ["run", "--plan", "smoke", "--only", "softmax/reference", "--device", "cpu",
             "--together", "2", "--results", str(tmp_path / "results")]  # fmt: skip
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 1
    assert "uses one device and the others would idle" in said.output
    assert not (tmp_path / ".attnbench").exists()
