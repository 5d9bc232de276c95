"""What came out: measurements, every ending of a case, and the record of it."""

from typing import Annotated, Literal

from pydantic import Field

from bench.model.case import Case
from bench.model.noun import (
    Count,
    DType,
    Fraction,
    Name,
    NonNegative,
    Positive,
    Samples,
    Sha256,
    Text,
    noun,
)


@noun
class Measured:
    """Samples of one metric, one tuple a round, in the metric's base unit."""

    kind: Literal["measured"] = "measured"
    metric: Name
    """File name of the metric."""
    rounds: Annotated[tuple[Samples, ...], Field(min_length=1)]
    """Samples of each round; metrics that cannot vary have one round with one sample."""


@noun
class Unavailable:
    """A metric that could not be measured here, and why."""

    kind: Literal["unavailable"] = "unavailable"
    metric: Name
    """File name of the metric."""
    reasons: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Why, in sentences."""


Measurement = Annotated[Measured | Unavailable, Field(discriminator="kind")]


@noun
class Training:
    """How the network of a task was trained: what the recipe does not say. One entry an epoch."""

    data_sha256: Sha256
    """Digest of the training and test examples, as tensors."""
    precision: DType
    """Type in which products were computed; parameters are float32."""
    losses: tuple[NonNegative, ...]
    """Mean training loss."""
    accuracies: tuple[Fraction, ...]
    """Share of the training examples answered correctly, when they were seen."""
    gradient_norms: tuple[NonNegative, ...]
    """Median norm of the gradient before it was clipped."""
    clipped: tuple[Fraction, ...]
    """Share of the steps whose gradient was scaled down."""
    resumed_after: tuple[Count, ...]
    """Epochs after which the training went on from a checkpoint; empty when it ran through."""


@noun
class Ok:
    """Ran and agreed with the reference; the only outcome that carries measurements."""

    kind: Literal["ok"] = "ok"
    measurements: tuple[Measurement, ...]
    """One entry a metric."""
    executed: Text
    """What really ran, e.g. the SDPA kernel family that torch chose."""
    batch: Count | None = None
    """Sequences per call; None for tasks and frontiers."""
    checked: Text | None = None
    """Shape of the comparison with float64, where that is smaller than the case's own."""
    training: Training | None = None
    """How a task was trained; None for workloads and frontiers, and in records of schema 1."""


@noun
class Incorrect:
    """Ran, but is not the function it claims to be; never timed."""

    kind: Literal["incorrect"] = "incorrect"
    reason: Text
    """What was compared and how it failed."""
    error: NonNegative | None
    """Largest absolute difference; None where it is not a number (NaN, wrong shape)."""
    allowed: NonNegative | None
    """Largest accepted difference."""


@noun
class Unsupported:
    """Refused by the variant or the backend, with every reason."""

    kind: Literal["unsupported"] = "unsupported"
    reasons: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Why, in sentences."""


@noun
class OutOfMemory:
    """An allocation failed."""

    kind: Literal["out_of_memory"] = "out_of_memory"
    requested_bytes: Count | None
    """Size of the allocation that failed, where the message says."""
    limit_bytes: Count | None
    """Memory limit in force, where there is one."""
    reason: Text
    """The allocator's message."""


@noun
class TimedOut:
    """Killed after the protocol's time limit."""

    kind: Literal["timed_out"] = "timed_out"
    limit_s: Positive
    """Wall time after which the process was killed."""


@noun
class Crashed:
    """The process raised, exited or died."""

    kind: Literal["crashed"] = "crashed"
    exit_code: int
    """Exit status; minus the signal number when a signal ended it."""
    reason: Text
    """Last lines of the log, without paths and user names."""


@noun
class Diverged:
    """A training whose loss or gradient stopped being a finite number."""

    kind: Literal["diverged"] = "diverged"
    step: Count
    """First step at which it happened; the first of all steps is 1."""
    steps: Count
    """Steps of the whole training."""
    reason: Text
    """What was not finite, in a sentence."""


@noun
class NotRun:
    """Not attempted."""

    kind: Literal["not_run"] = "not_run"
    reason: Text
    """Why, e.g. a smaller size already ran out of memory."""


Outcome = Annotated[
    Ok | Incorrect | Unsupported | OutOfMemory | TimedOut | Crashed | Diverged | NotRun,
    Field(discriminator="kind"),
]


@noun
class TaskVersion:
    """Which state of a task was trained."""

    revision: Count
    """Revision of the task; older than the tree's means stale."""
    recipe_sha256: Sha256 | None
    """Digest of network and recipe; None in records of schema 1, which did not keep it."""


@noun
class Record:
    """One case and what became of it, all rounds together."""

    case: Case
    """What ran."""
    variant_revision: Count
    """Revision of the variant; older than the tree's means stale."""
    task: TaskVersion | None = None
    """State of the task that was trained; None for what is not a task."""
    outcome: Outcome
    """What came out."""
