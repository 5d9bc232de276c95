"""Where and when: the environment, its ceilings and conditions, and the files of a run."""

from typing import Annotated, Literal

from pydantic import Field

from bench.model.case import Case
from bench.model.noun import (
    Count,
    DeviceKind,
    Instant,
    Medians,
    Name,
    NonNegative,
    Positive,
    Scalar,
    Sha256,
    Text,
    noun,
)
from bench.model.outcome import Record
from bench.model.plan import Protocol

SCHEMA = 2
"""Version of the file format."""


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
