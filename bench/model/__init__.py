"""The nouns of the benchmark and the exact JSON form of each. Imports no torch.

What is measured (`case`), how (`plan`), what came out (`outcome`), where and when (`run`); made of
`noun`, written as `json_form` says. The names below are those that the rest of the benchmark uses.
"""

from bench.model.case import (
    Case,
    Frontier,
    GridSize,
    Images,
    TaskRun,
    Timed,
    Workload,
    unique_cases,
)
from bench.model.json_form import adapter, canonical, digest, from_json, to_json
from bench.model.noun import (
    BatchPolicy,
    Count,
    DeviceKind,
    DType,
    Fraction,
    Instant,
    Level,
    Name,
    NonNegative,
    Passes,
    Positive,
    Scalar,
    Sha256,
    Text,
    Whole,
    noun,
)
from bench.model.outcome import (
    Crashed,
    Diverged,
    Incorrect,
    Measured,
    Measurement,
    NotRun,
    Ok,
    Outcome,
    OutOfMemory,
    Record,
    TaskVersion,
    TimedOut,
    Training,
    Unavailable,
    Unsupported,
)
from bench.model.plan import PROTOCOL_VERSION, REPRODUCTION, Plan, Protocol, Visit
from bench.model.run import (
    SCHEMA,
    Ceiling,
    Conditions,
    Environment,
    RepeatedCase,
    Run,
    VariantRecords,
)

__all__ = [
    "PROTOCOL_VERSION", "REPRODUCTION", "SCHEMA", "BatchPolicy", "Case", "Ceiling",
    "Conditions", "Count", "Crashed", "DType", "DeviceKind", "Diverged", "Environment",
    "Fraction", "Frontier", "GridSize", "Images", "Incorrect", "Instant", "Level", "Measured",
    "Measurement", "Name", "NonNegative", "NotRun", "Ok", "OutOfMemory", "Outcome", "Passes",
    "Plan", "Positive", "Protocol", "Record", "RepeatedCase", "Run", "Scalar", "Sha256",
    "TaskRun", "TaskVersion", "Text", "Timed", "TimedOut", "Training", "Unavailable",
    "Unsupported", "VariantRecords", "Visit", "Whole", "Workload", "adapter", "canonical",
    "digest", "from_json", "noun", "to_json", "unique_cases",
]  # fmt: skip
