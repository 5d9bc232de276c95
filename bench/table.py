"""All that a page may see: one tidy, validated table, and entries for what stands around it.

The types below know no torch, and importing this module imports none. One row is one (run, case,
metric); a case that failed has one row whose metric is None. Only the newest run of a case on a
machine is in `rows`; every earlier one is in `history`. `tabulation` fills it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas

from bench.model import (
    Environment,
    Run,
    Scalar,
    Training,
)
from bench.report import AnalysisReport
from bench.tier import Trust

ROW_TYPES: Mapping[str, str] = {
    "run_id": "object",
    "hardware_id": "object",
    "device": "object",
    "variant": "object",
    "backend": "object",
    "options": "object",
    "level": "object",
    "stimulus": "object",
    "passes": "object",
    "dtype": "object",
    "batch": "Int64",
    "batch_policy": "object",
    "grid_height": "Int64",
    "grid_width": "Int64",
    "tokens": "Int64",
    "resolution_px": "Int64",
    "heads": "Int64",
    "head_dim": "Int64",
    "extra_tokens": "Int64",
    "causal": "boolean",
    "backbone": "object",
    "task": "object",
    "seed": "Int64",
    "task_revision": "Int64",
    "recipe_sha256": "object",
    "data_sha256": "object",
    "memory_budget_bytes": "Int64",
    "outcome": "object",
    "reason": "object",
    "executed": "object",
    "metric": "object",
    "unit": "object",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "p10": "float64",
    "p90": "float64",
    "samples": "int64",
    "rounds": "int64",
    "bound": "object",
    "implausible": "bool",
    "noise_floor": "float64",
    "revision": "int64",
    "stale": "bool",
    "busy": "bool",
    "case_id": "object",
    "plan": "object",
    "created": "object",
    "tier": "object",
    "reproductions": "Int64",
    "contradictions": "Int64",
    "findings": "object",
}
"""Columns of `rows` and `history` with their pandas types, in order.

Missing text is None, missing whole numbers and booleans are pandas.NA, missing numbers NaN.

- options: `name=value, ...` of what differs from the variant's defaults; empty for the defaults.
- stimulus: `workload`, `images`, `frontier` or `task`; columns that are not its own are missing.
- batch: what ran (under policy `largest` the outcome states it).
- task_revision, recipe_sha256: state of the task that was trained; the digest is missing in runs of
  schema 1. data_sha256: of the examples that were trained and tested on.
- outcome: of the case. reason: why it failed, or why this one metric is unavailable.
- value: median of round medians in `unit`; low, high: 95 % interval from the round medians
  (missing with fewer than three rounds and for metrics that cannot vary).
- bound: `compute`, `memory` or `overhead`, on rows of metric `efficiency`: which floor binds.
- implausible: faster than the machine's own ceilings allow; never ranked.
- noise_floor: |ln ratio| below which two latencies of this run are not told apart.
- stale: measured with another revision of the variant, another protocol version, or another
  revision or recipe of the task; never ranked.
- busy: the machine was not quiet.
- tier: how far the row can be trusted, see bench.trust; missing where it was not judged.
  reproductions, contradictions: other accounts that measured the same and agree, or differ.
  findings: ids of the rules that found something about the row, its file or its run.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One quantity that rows hold: a metric, or a number derived from metrics."""

    name: str
    """Value of the column `metric` in rows."""
    title: str
    """Column head."""
    unit: str
    """Base unit of the values: s, byte, flop, count, j, w, hz, celsius, fraction, token/s, ..."""
    better: Literal["lower", "higher"] | None
    """Direction; None for quantities that are neither good nor bad."""
    help: str
    """What is measured and what is not."""
    derived: bool
    """Computed from other metrics, never stored."""
    varies: bool
    """Has noise: rows differ only beyond interval and noise floor. False: exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperEntry:
    """Where a mechanism comes from."""

    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    url: str
    equation: str
    code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendEntry:
    """One execution of a variant."""

    name: str
    """`reference`, `compile`, or the backend's own name."""
    title: str
    source: str
    """Path of its file in the repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantEntry:
    """The printable half of a variant's spec."""

    name: str
    title: str
    family: str
    paper: PaperEntry
    revision: int
    formula: str
    """LaTeX."""
    description: str
    """Docstring of the file that defines it; explains the symbols of `formula`."""
    deviations: tuple[str, ...]
    scaling: str
    options: dict[str, Scalar]
    """Published defaults."""
    options_help: dict[str, str]
    """One sentence an option."""
    order: float
    """Exponent of the core's FLOPs in tokens, with default options."""
    traits: dict[str, bool]
    uncounted: str | None
    """What operator counters cannot see, in a sentence."""
    backends: tuple[BackendEntry, ...]
    source: str
    """Path of its file in the repository."""
    streams: int
    """Distinct inputs of the core: 3 (q, k, v), or 2 where the keys are the queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry:
    """One accuracy task."""

    name: str
    title: str
    revision: int
    help: str
    chance: float
    """Accuracy of guessing, fraction."""
    test_items: int | None
    """Items that the accuracy counts; None where it is not a ratio of counts."""
    tokens: int | None
    """Tokens that every attention layer of the network sees; None where they differ."""
    recipe_sha256: str
    """Digest of network and recipe: results with another one are stale."""
    recipe: dict[str, Scalar | None]
    """Every number of network and recipe, by name."""
    description: str = ""
    """Docstring of the file that defines it."""
    source: str | None = None
    """Path of its file in the repository."""
    data: str = ""
    """Docstring of the file that reads or generates its examples."""
    data_source: str | None = None
    """Path of that file; the task's own where it generates them itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisEntry:
    """One question about trained attention."""

    name: str
    title: str
    question: str
    claim: str
    """What a paper says about it; empty where none does."""
    paper_scale: str = ""
    """Networks and data that the paper says it of; empty where it says nothing."""
    revision: int
    """Reports of another one are stale."""
    description: str
    """Docstring of the file that defines it."""
    source: str
    """Path of its file in the repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How the anchor case moved through a run."""

    change: float
    """Relative change from the start of the run to its end, from a robust line."""
    spread: float
    """(largest - smallest) / median over all visits."""
    visits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """One run: its header as stored, and what follows from it."""

    run: Run
    folder: str
    """`<hardware_id>/<run_id>` below results/."""
    noise_floor: float | None
    """|ln ratio| from interleaved A/A pairs; None with too few pairs."""
    noise_floor_sequential: float | None
    """The same visits, first half against second half: what a sequential design would see."""
    drift: Drift | None
    duty: float
    """Time inside measured calls / wall time."""
    ceilings: dict[str, float]
    """Best sample of each ceiling, in its unit."""
    outcomes: dict[str, int]
    """Number of cases by outcome."""
    stale: bool
    """Measured with another protocol version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineEntry:
    """One machine, from its newest run."""

    hardware_id: str
    environment: Environment
    run_ids: tuple[str, ...]
    """Newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneEntry:
    """A whole network of a paper, as it is here."""

    id: str
    title: str
    """As in the `model` of reported numbers, with the same `resolution_px`."""
    family: str
    variant: str
    """The mechanism that it was published for."""
    paper: PaperEntry
    resolution_px: int
    """Side of the input at which numbers were published."""
    parameters: int
    macs: int
    """Multiply-adds of one image, by formula."""
    differences: tuple[str, ...]
    """Sentences: where paper, published code and this disagree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedNumber:
    """One number copied from a paper or from its authors' repository. Never mixed with measured."""

    paper: str
    """File name under results/reported."""
    variant: str
    """Variant of the tree that the number is about."""
    model: str
    """The authors' name of the configuration."""
    resolution_px: int
    quantity: Literal[
        "parameters", "macs", "imagenet1k_top1", "image_throughput", "speedup", "memory",
        "code_parameters", "code_macs", "code_contractions",
    ]  # fmt: skip
    """What it is; `code_` numbers are counted in the published code instead of printed."""
    value: float
    unit: Literal["count", "mac", "fraction", "image/s", "ratio", "byte"]
    from_plot: bool
    """Read off a plot instead of printed."""
    table: str
    """Where in the source."""
    url: str
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A file below results/ that the table does not use."""

    path: str
    """Relative to results/."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a run stored about one case beyond the rows: every sample."""

    rounds: Mapping[str, tuple[tuple[float, ...], ...]]
    """Metric -> samples of each round, in the metric's base unit."""
    checked: str | None
    """Shape of the comparison with float64, where that is smaller than the case's own."""
    training: Training | None
    """Learning curves of a task; None for what is not trained, and in runs of schema 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderboardTable:
    """Everything a page may show."""

    rows: pandas.DataFrame
    """Columns and types as in ROW_TYPES; newest run of each case on each machine."""
    history: pandas.DataFrame
    """The same columns: rows that a newer run of the same case on the same machine replaced."""
    columns: tuple[Column, ...]
    """Every metric that may occur in rows, measured ones first."""
    variants: tuple[VariantEntry, ...]
    machines: tuple[MachineEntry, ...]
    runs: tuple[RunEntry, ...]
    """Newest first."""
    tasks: tuple[TaskEntry, ...]
    reported: tuple[ReportedNumber, ...]
    analyses: tuple[AnalysisReport, ...]
    """Newest report of each analysis on each machine, by machine and name."""
    refused: tuple[Refused, ...]
    backbones: tuple[BackboneEntry, ...] = ()
    """Every whole network, by id."""
    questions: tuple[AnalysisEntry, ...] = ()
    """Every analysis of the tree, by name."""
    root: Path
    """The results folder that was read."""
    trust: Mapping[tuple[str, str], Trust] | None = None
    """(run_id, case id) -> tier, what it lacks, and what the rules found; None: not judged."""
