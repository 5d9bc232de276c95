"""What an accuracy task must declare, and how the tasks are found: one file each in bench/tasks.

A file holds `TASK`, or `TASKS` where one task is posed at several lengths: then every name is the
file's name and a suffix, `<file>_<length>`.
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_impls.registry import names_in, unknown
from bench.model import Scalar, Training
from bench.recipe import Recipe

if TYPE_CHECKING:
    from torch.nn import Module

    from attention_impls.spec import AttentionSpec
    from bench.dataset import Data
    from bench.process_group import Group

_FOLDER = Path(__file__).parent / "tasks"


class MissingDataError(FileNotFoundError):
    """Data are not on this machine; says where they were looked for and how to get them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """How far a training is."""

    number: int
    """Epochs that are done."""
    epochs: int
    """Epochs in all."""
    loss: float
    """Mean training loss of the last one."""
    accuracy: float
    """Share of its examples answered correctly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One training that a task is asked for: who learns, from which seed, where."""

    spec: "AttentionSpec"
    """The variant."""
    options: Any = None
    """Its options; None for the defaults."""
    seed: int
    """Of initialisation and data order."""
    device: str
    """`cpu` or `cuda`."""
    compiled: bool = False
    """Train `torch.compile` of the network."""
    checkpoint: Path | None = None
    """File that holds the state after every epoch, and from which the training goes on."""
    report: Callable[[Epoch], None] | None = None
    """Told after every epoch."""
    group: "Group | None" = None
    """Processes that train together, this one among them; None: this one alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What one training from one seed gave."""

    accuracy: float
    """Share of the test set answered correctly, 0..1."""
    loss: float
    """Mean test loss, natural logarithm."""
    training_time_s: float
    """Time inside training steps; data preparation and evaluation are not included."""
    visit_s: float
    """The part of it that this visit spent: less where it went on from a checkpoint."""
    parameters: int
    """Learned numbers of the whole model."""
    training: Training
    """Data digest, learning curves, clipping, precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One accuracy task: data and a fixed recipe. The last object of its file."""

    name: str
    """Identifier; equals the file's name, or begins with it and `_`."""
    title: str
    """Name for people."""
    help: str
    """One or two sentences: data, model, recipe, and what the accuracy means."""
    revision: int
    """Raised when results change for a reason that `recipe` does not show."""
    chance: float
    """Accuracy of guessing, 0..1: the best that is possible without looking at the input."""
    test_items: int | None = None
    """Items that the accuracy counts; None where it is not a ratio of counts."""
    tokens: int | None = None
    """Tokens that every attention layer sees; None where layers differ."""
    network: Callable[[Assignment], "Module"]
    """Builds the network on the CPU, from the current random state."""
    data: Callable[[], "Data"]
    """Reads or generates the examples, the same for every variant and seed."""
    training: Recipe
    """How the network is trained."""
    recipe: Mapping[str, Any]
    """Frozen dataclasses with every other number of network and data. Changed: results stale."""
    test_batch: int = 500
    """Test examples at once; plays no part in the result."""

    @property
    def recipe_numbers(self) -> dict[str, Scalar | None]:
        """Every number of the recipe as `part.field`."""
        return {
            f"{part}.{field}": ", ".join(map(str, value)) if isinstance(value, tuple) else value
            for part, numbers in {**self.recipe, "training": self.training}.items()
            for field, value in asdict(numbers).items()
        }

    @property
    def recipe_sha256(self) -> str:
        """Digest of name, revision and every number of the recipe."""
        body = {"name": self.name, "revision": self.revision, "recipe": self.recipe_numbers}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


@cache
def tasks() -> tuple[Task, ...]:
    """Return every task, in the order of the files and of their lengths.

    Raises:
        TypeError: a file without `TASK` or `TASKS`, or with a name that is not its own.
    """
    return tuple(one for file in names_in(_FOLDER) for one in _in_file(file))


@cache
def file_of(name: str) -> str:
    """Return the name of the file in bench/tasks that defines task `name`.

    Raises:
        UnknownName: no such task.
    """
    task(name)
    return next(f for f in names_in(_FOLDER) if name in {one.name for one in _in_file(f)})


@cache
def task(name: str) -> Task:
    """Return task `name`.

    Raises:
        UnknownName: no such task.
    """
    known = {one.name: one for one in tasks()}
    if name not in known:
        raise unknown("task", name, tuple(known))
    return known[name]


def _in_file(file: str) -> tuple[Task, ...]:
    module = importlib.import_module(f"bench.tasks.{file}")
    one, several = getattr(module, "TASK", None), getattr(module, "TASKS", None)
    if isinstance(one, Task) and one.name == file:
        return (one,)
    if isinstance(several, tuple) and several:
        if all(isinstance(t, Task) and t.name.startswith(f"{file}_") for t in several):
            return several
        raise TypeError(f"bench/tasks/{file}.py: TASKS must be tasks named {file}_<length>")
    raise TypeError(f"bench/tasks/{file}.py: TASK is missing or has another name")
