"""results/ and the catalogue as one tidy, validated table: all that a page may see.

The types below know no torch, and importing this module imports none. One row is one (run, case,
metric); a case that failed has one row whose metric is None. Only the newest run of a case on a
machine is in `rows`; every earlier one is in `history`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas

from bench.model import (
    Environment,
    Measured,
    Ok,
    Run,
    Scalar,
    Training,
    VariantRecords,
    adapter,
)
from bench.report import AnalysisReport, read_reports

if TYPE_CHECKING:
    from bench.catalogue import Catalogue
    from bench.submission import StoredRun
    from bench.trust import Trust

OutcomeKind = Literal[
    "ok",
    "incorrect",
    "unsupported",
    "out_of_memory",
    "timed_out",
    "crashed",
    "diverged",
    "not_run",
]

Tier = Literal["not accepted", "self-reported", "reproducible", "reproduced", "maintainer-verified"]
TIERS: Mapping[Tier, str] = {
    "not accepted": "A rule found an error: the row is shown here, but cannot be published.",
    "self-reported": "Passed every rule, but something keeps others from repeating it exactly.",
    "reproducible": "Passed every rule; code, machine, protocol and samples are known, so that "
    "anybody can repeat it.",
    "reproduced": "Another account measured the same on the same machine model and agrees.",
    "maintainer-verified": "A maintainer who did not submit it measured the same and agrees.",
}
"""Lowest first: what each word means."""

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
    """Base unit of the values: s, byte, flop, count, j, w, hz, fraction, relative, token/s, ..."""
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
    trust: "Mapping[tuple[str, str], Trust] | None" = None
    """(run_id, case id) -> tier, what it lacks, and what the rules found; None: not judged."""


def load_table(
    root: Path, catalogue: "Catalogue | None" = None, *, judge: bool = False
) -> LeaderboardTable:
    """Read everything below the results folder `root` into one table.

    Args:
        root: the results folder.
        catalogue: what the tree says about itself; None reads it, which imports torch.
        judge: apply the rules of `attnbench check` and compute how far each row can be trusted.
    """
    from bench.catalogue import read_catalogue  # noqa: PLC0415 - its types come from here
    from bench.reported import read_reported  # noqa: PLC0415 - idem
    from bench.submission import read_results  # noqa: PLC0415 - beside them
    from bench.tidy import frames, run_entry  # noqa: PLC0415 - idem

    known = catalogue or read_catalogue()
    stored, refusals = read_results(root)
    trusted: Mapping[tuple[str, str], Trust] | None = None
    if judge:
        from bench.trust import judged  # noqa: PLC0415 - the rules know torch

        trusted = judged(root, stored, refusals)
    rows, history = frames(stored, known, trusted)
    reported, bad_reports = read_reported(root / "reported")
    analyses, bad_analyses = read_reports(root)
    newest_first = tuple(run_entry(one) for one in reversed(stored))
    return LeaderboardTable(
        rows=rows,
        history=history,
        columns=known.columns,
        variants=known.variants,
        machines=_machines(newest_first),
        runs=newest_first,
        tasks=known.tasks,
        backbones=known.backbones,
        questions=known.questions,
        reported=reported,
        analyses=analyses,
        refused=(
            *(Refused(path=r.path, reason=r.reason) for r in refusals),
            *bad_reports,
            *(Refused(path=path, reason=reason) for path, reason in bad_analyses),
            *_unknown_metrics(stored, {column.name for column in known.columns}),
        ),
        root=root,
        trust=trusted,
    )


def recorded(root: Path, folder: str, variant: str) -> Mapping[str, Recorded]:
    """Read what the accepted run in `folder` stored about the cases of `variant`, by case id.

    Args:
        root: the results folder of the table.
        folder: of the run, see `RunEntry.folder`.
        variant: names the file.

    Raises:
        OSError: the file is not there any more.
    """
    from bench import strict_json  # noqa: PLC0415 - beside the other readers
    from bench.upgrades import upgraded  # noqa: PLC0415 - idem

    document: Any = strict_json.parse((root / folder / f"{variant}.json").read_bytes())
    file: VariantRecords = adapter(VariantRecords).validate_json(
        strict_json.canonical(upgraded(document))
    )
    found: dict[str, Recorded] = {}
    for record in file.records:
        outcome = record.outcome
        measured = outcome.measurements if isinstance(outcome, Ok) else ()
        found[record.case.id] = Recorded(
            rounds={m.metric: m.rounds for m in measured if isinstance(m, Measured)},
            checked=outcome.checked if isinstance(outcome, Ok) else None,
            training=outcome.training if isinstance(outcome, Ok) else None,
        )
    return found


def _machines(newest_first: tuple[RunEntry, ...]) -> tuple[MachineEntry, ...]:
    runs: dict[str, list[RunEntry]] = {}
    for entry in newest_first:
        runs.setdefault(entry.run.environment.hardware_id, []).append(entry)
    return tuple(
        MachineEntry(
            hardware_id=hardware_id,
            environment=entries[0].run.environment,
            run_ids=tuple(entry.run.run_id for entry in entries),
        )
        for hardware_id, entries in sorted(runs.items())
    )


def _unknown_metrics(stored: "Sequence[StoredRun]", known: set[str]) -> list[Refused]:
    found: list[Refused] = []
    for one in stored:
        for file in one.files:
            outcomes = (record.outcome for record in file.records)
            metrics = {m.metric for o in outcomes if isinstance(o, Ok) for m in o.measurements}
            found += [
                Refused(
                    path=f"{one.folder.parent.name}/{one.folder.name}/{file.variant}.json",
                    reason=f"metric {name!r} is not in the tree: its numbers are not shown",
                )
                for name in sorted(metrics - known)
            ]
    return found
