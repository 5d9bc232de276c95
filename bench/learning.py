"""Trains and tests one network for a task: from an assignment to a result."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from bench.checkpoint import Kept
from bench.dataset import Data
from bench.model import Training
from bench.scores import scores
from bench.task import Assignment, Task, TaskResult
from bench.training import DivergedError, Trained, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A trained network, what it was tested on, and how well it did."""

    network: nn.Module
    """On the assignment's device, in evaluation mode."""
    data: Data
    result: TaskResult


def learn(task: Task, assignment: Assignment) -> Learned:
    """Build from the seed, train, and look at the test set once, after the last epoch.

    Raises:
        DivergedError: with the step; the last one where only the trained network's answers to the
            test set are not finite.
        CheckpointError: the checkpoint is of another training.
        UnsupportedShape: the variant cannot compute the task's grid.
        MissingDataError: the data are not on this machine.
        WrongDataError: the data are damaged.
    """
    network, data, sha256, trained = _trained(task, assignment)
    found = scores(network, data.test, task.test_batch)
    if not math.isfinite(found.loss):
        steps, epochs = trained.samples // task.training.batch, task.training.epochs
        raise DivergedError("test loss", steps, steps, epochs, epochs)
    curves = trained.curves
    result = TaskResult(
        accuracy=found.accuracy,
        loss=found.loss,
        training_time_s=curves.wall_s,
        visit_s=curves.wall_s - trained.earlier_s,
        parameters=sum(p.numel() for p in network.parameters()),
        training=Training(
            data_sha256=sha256,
            precision=trained.precision,
            losses=tuple(curves.losses),
            accuracies=tuple(curves.accuracies),
            gradient_norms=tuple(curves.gradient_norms),
            clipped=tuple(curves.clipped),
            resumed_after=tuple(curves.resumed_after),
        ),
    )
    return Learned(network=network, data=data, result=result)


def assist(task: Task, assignment: Assignment) -> None:
    """Train as one of the group's other processes: the first of them tests and tells.

    Raises:
        As `learn` does.
    """
    _trained(task, assignment)


def _trained(task: Task, assignment: Assignment) -> tuple[nn.Module, Data, str, Trained]:
    torch.manual_seed(assignment.seed)
    network = task.network(assignment).to(assignment.device)
    data = task.data()
    sha256 = data.sha256
    kept = None
    if assignment.checkpoint is not None:
        kept = Kept(assignment.checkpoint, _identity(task, assignment, sha256))
    trained = train(
        network,
        data.train,
        task.training,
        assignment.seed,
        compiled=assignment.compiled,
        kept=kept,
        report=assignment.report,
        group=assignment.group,
    )
    return network, data, sha256, trained


def _identity(task: Task, assignment: Assignment, sha256: str) -> dict[str, str]:
    """Everything that decides the result of a training."""
    spec, group = assignment.spec, assignment.group
    together = {} if group is None else {"processes": str(group.processes)}
    return together | {
        "task": task.name,
        "recipe": task.recipe_sha256,
        "data": sha256,
        "variant": f"{spec.name}, revision {spec.revision}",
        "options": str(spec.checked_options(assignment.options)),
        "seed": str(assignment.seed),
        "device": assignment.device,
        "compiled": str(assignment.compiled),
        "torch": str(torch.__version__),
        "threads": str(torch.get_num_threads()),
    }
