"""What an accuracy task must declare, and how the tasks are found: one file each in bench/tasks."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_impls.registry import names_in, unknown

if TYPE_CHECKING:
    from attention_impls.spec import AttentionSpec

_FOLDER = Path(__file__).parent / "tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What one training from one seed gave."""

    accuracy: float
    """Share of the test set classified correctly, 0..1."""
    loss: float
    """Mean test loss, natural logarithm."""
    training_time_s: float
    """Time inside training steps; data preparation and evaluation are not included."""
    samples_per_s: float
    """Training samples per second inside training steps."""
    parameters: int
    """Learned numbers of the whole model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One accuracy task: data and a fixed recipe. The last object of its file."""

    name: str
    """Identifier; equals the file's name."""
    title: str
    """Name for people."""
    help: str
    """One or two sentences: data, model, recipe, and what the accuracy means."""
    revision: int
    """Raised whenever data or recipe change; older results become stale."""
    chance: float
    """Accuracy of guessing, 0..1."""
    test_items: int | None = None
    """Items that the accuracy counts; None where it is not a ratio of counts."""
    run: Callable[["AttentionSpec", Any, int, str], TaskResult]
    """Train and test once: (spec, options or None for the defaults, seed, device)."""


@cache
def tasks() -> tuple[Task, ...]:
    """Return every task, sorted by name."""
    return tuple(task(name) for name in names_in(_FOLDER))


@cache
def task(name: str) -> Task:
    """Return task `name`.

    Raises:
        UnknownName: no such file.
        TypeError: the file has no `TASK` of that name.
    """
    known = names_in(_FOLDER)
    if name not in known:
        raise unknown("task", name, known)
    found = getattr(importlib.import_module(f"bench.tasks.{name}"), "TASK", None)
    if not isinstance(found, Task) or found.name != name:
        raise TypeError(f"bench/tasks/{name}.py: TASK is missing or has another name")
    return found
