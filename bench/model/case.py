"""What is measured: the cases, and what each is fed."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from bench.model.json_form import digest
from bench.model.noun import (
    MOST_TOKENS,
    BatchPolicy,
    Count,
    DType,
    Level,
    Name,
    Passes,
    Scalar,
    Whole,
    Width,
    noun,
)


@noun
class GridSize:
    """Tokens laid out as rows x columns."""

    height: Count
    """Rows of tokens."""
    width: Count
    """Columns of tokens."""

    def __post_init__(self) -> None:
        if self.tokens > MOST_TOKENS:
            raise ValueError(
                f"grid {self.height}x{self.width} has {self.tokens} tokens, allowed {MOST_TOKENS}"
            )

    @property
    def tokens(self) -> int:
        """Grid positions."""
        return self.height * self.width


@noun
class Workload:
    """Sizes, dtype and passes of one timed call."""

    kind: Literal["workload"] = "workload"
    batch: Count | None
    """Sequences per call; None under policy `largest`, where the outcome states it."""
    batch_policy: BatchPolicy
    """How the batch was chosen: 1, a fixed number of tokens, or the largest that fits."""
    grid: GridSize
    """Layout of the spatial tokens; height 1 is a sequence."""
    heads: Width
    """Attention heads."""
    head_dim: Width
    """Channels per head."""
    extra_tokens: Annotated[int, Field(ge=0, le=2**12)] = 0
    """Class tokens."""
    causal: bool = False
    """Token i attends only to tokens <= i."""
    dtype: DType
    """Type of inputs and parameters."""
    passes: Passes
    """Forward alone, or forward and backward."""
    resolution_px: Count | None = None
    """Side of the square image that the grid stands for; None for sequences."""
    patch_px: Count | None = None
    """Side of a patch in pixels; None for sequences."""

    @property
    def tokens(self) -> int:
        """Tokens attended over."""
        return self.grid.tokens + self.extra_tokens


@noun
class Images:
    """Sizes, dtype and passes of one timed call of a whole network."""

    kind: Literal["images"] = "images"
    backbone: Name
    """Id of the network; the case's variant stands in the place of its published mechanism."""
    batch: Count | None
    """Images per call; None under policy `largest`, where the outcome states it."""
    batch_policy: BatchPolicy
    """How the batch was chosen: 1, a fixed number of images, or the largest that fits."""
    resolution_px: Count
    """Side of the square images."""
    dtype: DType
    """Type of inputs and parameters."""
    passes: Passes
    """Forward alone, or forward and backward."""


@noun
class Frontier:
    """The search for the largest token count that fits into a memory budget, batch 1."""

    kind: Literal["frontier"] = "frontier"
    memory_bytes: Count
    """Bytes that one call may allocate above inputs and parameters."""
    heads: Width
    """Attention heads."""
    head_dim: Width
    """Channels per head."""
    dtype: DType
    """Type of inputs and parameters."""
    passes: Passes
    """Forward alone, or forward and backward."""


@noun
class TaskRun:
    """One training of one accuracy task from one seed."""

    kind: Literal["task"] = "task"
    task: Name
    """File name of the task."""
    seed: Whole
    """Seed of initialisation and data order."""


Timed = Workload | Images
"""Stimuli of one timed call."""
Stimulus = Annotated[Workload | Images | Frontier | TaskRun, Field(discriminator="kind")]


@noun
class Case:
    """One cell of a plan: what runs, on what."""

    variant: Name
    """Mechanism: file name under attention_impls/variants."""
    backend: Name
    """`reference`, `compile`, or a backend's name. Never chosen automatically."""
    options: dict[str, Scalar] = Field(default_factory=dict)
    """Only the options that differ from the variant's defaults."""
    level: Level
    """`core` (given q, k, v), `layer` (with projections) or `model`."""
    stimulus: Stimulus
    """What is fed."""

    @property
    def id(self) -> str:
        """Readable, unique within all plans, derived from the contents, never parsed back."""
        parts = [self.variant, self.backend, self.level, *_stimulus_words(self.stimulus)]
        parts += [f"{name}={value}" for name, value in sorted(self.options.items())]
        words = "/".join(parts)
        return f"{words}#{digest(self)[:8]}"


def _stimulus_words(stimulus: Workload | Images | Frontier | TaskRun) -> list[str]:
    match stimulus:
        case TaskRun():
            return [stimulus.task, f"seed{stimulus.seed}"]
        case Frontier():
            return ["frontier", f"{stimulus.memory_bytes}B", stimulus.dtype, stimulus.passes]
        case Images():
            batch = "max" if stimulus.batch is None else str(stimulus.batch)
            return [
                stimulus.backbone,
                f"b{batch}",
                f"{stimulus.resolution_px}px",
                stimulus.dtype,
                stimulus.passes,
            ]
        case Workload():
            batch = "max" if stimulus.batch is None else str(stimulus.batch)
            return [
                f"b{batch}",
                f"{stimulus.grid.height}x{stimulus.grid.width}",
                f"h{stimulus.heads}d{stimulus.head_dim}",
                stimulus.dtype,
                stimulus.passes,
            ]


def unique_cases(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Drop repeated cases, keep the first of each, keep the order."""
    return tuple({case.id: case for case in cases}.values())
