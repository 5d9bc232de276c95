"""The nouns of the benchmark and the exact JSON form of each. Imports no torch.

Everything here is immutable and strict: unknown fields, wrong types, NaN and infinities are
refused at construction with a path. Missing is None or another type, never 0 or -1. Base units.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

SCHEMA = 2
"""Version of the file format."""
PROTOCOL_VERSION = 1
"""Version of how we measure; results compare only within one version."""
REPRODUCTION = "repro"
"""Plan name of a run that repeats one published row."""

_T = TypeVar("_T")
_STRICT = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def noun(class_: type[_T]) -> type[_T]:
    """Make a class a frozen, keyword-only dataclass that refuses what its fields do not allow."""
    built = dataclass(class_, frozen=True, slots=True, kw_only=True, config=_STRICT)
    return cast("type[_T]", built)


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.\-]{0,95}$")]
Text = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f<>]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Instant = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LARGEST_COUNT = 2**53
"""The last whole number to which JSON and floating point count without gaps."""
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Whole = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
MOST_TOKENS = 2**24
Width = Annotated[int, Field(ge=1, le=2**12)]
"""Heads, or channels of a head. Rules build layers of stated sizes, so sizes have an end that no
machine of today reaches and that arithmetic survives."""
Number = int | float
Samples = Annotated[tuple[Number, ...], Field(min_length=1)]
Medians = Annotated[tuple[Positive, ...], Field(min_length=1)]
Scalar = bool | int | float | str
DType = Literal["float32", "bfloat16", "float16"]
Passes = Literal["forward", "forward_backward"]
Level = Literal["core", "layer", "model"]
DeviceKind = Literal["cpu", "cuda"]
BatchPolicy = Literal["one", "token_budget", "image_budget", "largest"]


# What is measured ---------------------------------------------------------------------------------


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


# How it is measured -------------------------------------------------------------------------------


@noun
class Protocol:
    """How each case is measured. Every number that could change a result stands here."""

    version: Count = PROTOCOL_VERSION
    """Results compare only within one version."""
    rounds: Count = 3
    """Visits to every timed case, each in a new process, over the whole plan in shuffled order."""
    warmup_s: Positive = 0.1
    """Least warm-up time."""
    warmup_cap_s: Positive = 2.0
    """Warm-up ends here even if the last medians differ by more than 1 %."""
    sample_s: Positive = 0.15
    """Least time inside samples, per round."""
    least_samples: Count = 5
    """Least samples per round, unless one call takes longer than `sample_cap_s`."""
    most_samples: Count = 100
    """Samples kept per round."""
    sample_cap_s: Positive = 4.0
    """Sampling ends here."""
    timeout_s: Positive = 60.0
    """Wall time after which a case's process is killed."""
    memory_limit_bytes: Count | None = None
    """Address space a CPU worker may use beyond its start; None: no limit."""
    anchor_every: Count = 20
    """An anchor case (softmax by SDPA, fixed shape) runs after so many cases."""
    seed: Whole = 0
    """Seed of the shuffled order; the only random choice in a run."""


@noun
class Plan:
    """Which cases, and how."""

    name: Name
    """File name under bench/plans."""
    purpose: Text
    """What the plan is for, one sentence."""
    expected_minutes: Positive
    """Wall time on the machine named in the plan's docstring."""
    protocol: Protocol
    """How each case is measured."""
    cases: tuple[Case, ...]
    """Every cell, in a stable order without duplicates."""
    noise_pairs: tuple[Case, ...] = ()
    """Cases that run twice in each round (A/A): their ratio is the noise floor of the run."""
    anchor: Case
    """The case that is repeated through the run to see drift."""

    @property
    def digest(self) -> str:
        """sha256 of what is measured and how; the words about it and its cost do not count."""
        measured = canonical((self.name, self.protocol, self.cases, self.noise_pairs, self.anchor))
        return hashlib.sha256(measured.encode()).hexdigest()


# What came out ------------------------------------------------------------------------------------


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


# Where and when -----------------------------------------------------------------------------------


@noun
class Environment:
    """The machine and the software, as read. None: could not be read on this machine."""

    hardware_id: Name
    """Slug from the fields below; results of different ids are never mixed."""
    device: DeviceKind
    """Where the cases ran."""
    device_name: Text
    """GPU or CPU model as reported."""
    device_memory_bytes: Count
    """GPU memory, or RAM."""
    cpu: Text
    """CPU model as reported."""
    cpu_count: Count
    """CPUs this process may use."""
    threads: Count
    """Threads torch was set to."""
    os: Text
    """Kernel name and release."""
    python: Text
    """Python version."""
    torch: Text
    """torch version."""
    packages: dict[str, Text]
    """Version of every distribution that takes part in measuring."""
    settings: dict[str, Scalar | None]
    """Everything set or read that can change speed: TF32, matmul precision, allocator, governor."""
    cuda: Text | None = None
    """CUDA version torch was built with."""
    driver: Text | None = None
    """GPU driver."""
    cudnn: Text | None = None
    """cuDNN version."""
    compute_capability: Text | None = None
    """GPU compute capability."""
    multiprocessors: Count | None = None
    """GPU streaming multiprocessors."""
    power_limit_w: Positive | None = None
    """GPU power limit."""
    clock_max_hz: Positive | None = None
    """Highest clock of the device."""


@noun
class Ceiling:
    """A limit of this machine, measured at the start and end of the run."""

    name: Name
    """`matmul_float32`, `copy_bandwidth`, `call_overhead`, `exp_rate`, ..."""
    unit: Literal["flop/s", "byte/s", "s", "op/s"]
    """Base unit."""
    samples: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Every repetition; the ceiling is the best of them."""
    detail: Text
    """What was run."""


@noun
class RepeatedCase:
    """Round medians of latency of one case that ran more than once, for the noise floor."""

    case: Case
    """What was repeated."""
    latencies_s: Annotated[tuple[Medians, ...], Field(min_length=1)]
    """One tuple a round, one entry a visit, in the order of the visits."""


@noun
class Conditions:
    """How quiet the machine was and how the time was spent."""

    wall_s: Positive
    """Wall time of the whole run."""
    measured_s: NonNegative
    """Time inside measured calls (samples and training steps)."""
    foreign_load: tuple[NonNegative, ...]
    """Busy CPUs that are not ours, sampled between cases."""
    busy: bool
    """The machine was not quiet: numbers are marked."""
    drift: RepeatedCase | None
    """The anchor's visits, in order."""
    noise: tuple[RepeatedCase, ...]
    """A/A pairs."""


@noun
class Run:
    """`run.json`: who, when, with what; the records lie beside it, one file a variant."""

    schema: Literal[2] = SCHEMA
    """Version of the file format."""
    run_id: Name
    """Start time and the first ten hex digits of the records' digest."""
    created: Instant
    """Start of the run, UTC."""
    submitted_by: Name
    """Account name, or `anonymous`."""
    suite_version: Text
    """Version of attnbench."""
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    """Commit of the suite; None outside a git checkout."""
    dirty: bool
    """The code differed from the commit."""
    plan: Name
    """Name of the plan."""
    plan_digest: Sha256
    """Digest of the plan that ran."""
    only: Text | None
    """The `--only` pattern, if cases were left out."""
    protocol: Protocol
    """How each case was measured."""
    environment: Environment
    """Where."""
    ceilings: tuple[Ceiling, ...]
    """Measured limits of the machine."""
    conditions: Conditions
    """How quiet, how well used."""
    files: dict[str, Sha256]
    """sha256 of every other file of this folder."""
    licence: Literal["CC-BY-4.0"] = "CC-BY-4.0"
    """Licence of the data."""


@noun
class VariantRecords:
    """`<variant>.json`: the records of one variant in one run."""

    schema: Literal[2] = SCHEMA
    """Version of the file format."""
    run_id: Name
    """The run this belongs to."""
    variant: Name
    """Equals the file name."""
    source_sha256: Sha256
    """Digest of the file that defines the variant."""
    records: tuple[Record, ...]
    """Sorted by case id."""


# JSON ---------------------------------------------------------------------------------------------


@plain_dataclass(frozen=True, slots=True)
class Visit:
    """One turn of one case in a running plan: which round, and which of its repetitions."""

    case_id: str
    round: int
    repetition: int
    """0, or 1 for the second of an A/A pair, or the running number of an anchor."""


_adapters: dict[Any, TypeAdapter[Any]] = {}


def adapter(type_: Any) -> TypeAdapter[Any]:
    """Return the validator of one of the nouns above."""
    if type_ not in _adapters:
        _adapters[type_] = TypeAdapter(type_)
    return _adapters[type_]


def to_json(value: Any) -> Any:
    """Return plain dicts, lists and scalars for one of the nouns above."""
    return adapter(type(value)).dump_python(value, mode="json")


def from_json(type_: Any, data: Any) -> Any:
    """Validate plain JSON data as `type_`; raises pydantic.ValidationError with paths."""
    return adapter(type_).validate_json(json.dumps(data, allow_nan=False))


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same text for the same contents."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def unique_cases(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Drop repeated cases, keep the first of each, keep the order."""
    return tuple({case.id: case for case in cases}.values())
