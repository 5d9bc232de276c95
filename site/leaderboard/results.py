"""The table's rows gathered into results: one case on one machine, with all its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas

from bench.derived import Standing
from bench.devices_together import SETTING
from bench.table import (
    ROW_TYPES,
    Column,
    LeaderboardTable,
    MachineEntry,
    RunEntry,
    TaskEntry,
    VariantEntry,
)
from bench.tier import Tier
from leaderboard.marks import Mark, marks

Exactness = Literal["exact", "approximate", "own"]

EXACTNESS_TITLES: Mapping[Exactness, str] = {
    "exact": "Softmax attention, exactly",
    "approximate": "Approximations of softmax attention",
    "own": "Other mechanisms",
}
EXACTNESS_SIGNS: Mapping[Exactness, str] = {
    "exact": "",
    "approximate": " \N{ALMOST EQUAL TO}",
    "own": " \N{NOT EQUAL TO}",
}
SIGNS_HELP = "\N{ALMOST EQUAL TO} approximates softmax, \N{NOT EQUAL TO} computes another function."
EXACTNESS_HELP: Mapping[Exactness, str] = {
    "exact": "Computes softmax attention; rows differ only in how it is executed.",
    "approximate": "Meant to give the output of softmax attention, but does not: read its speed "
    "together with its accuracy.",
    "own": "Another function with weights trained for it: read its speed together with its "
    "accuracy.",
}
OUTCOME_WORDS: Mapping[str, str] = {
    "incorrect": "incorrect",
    "unsupported": "unsupported",
    "out_of_memory": "out of memory",
    "timed_out": "timed out",
    "crashed": "crashed",
    "diverged": "diverged",
    "not_run": "not run",
}
"""How a failure is called on every page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One metric of one result, in base units."""

    value: float
    low: float | None
    high: float | None
    p10: float | None
    p90: float | None
    samples: int
    rounds: int
    bound: str | None
    implausible: bool

    @property
    def standing(self) -> Standing:
        """What ranking needs."""
        return Standing(value=self.value, low=self.low, high=self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One case on one machine: its outcome and every metric."""

    run_id: str
    hardware_id: str
    device: str
    variant: str
    backend: str
    options: str
    level: str
    stimulus: str
    passes: str | None
    dtype: str | None
    batch: int | None
    batch_policy: str | None
    grid_height: int | None
    grid_width: int | None
    tokens: int | None
    resolution_px: int | None
    heads: int | None
    head_dim: int | None
    extra_tokens: int | None
    causal: bool | None
    backbone: str | None
    task: str | None
    seed: int | None
    memory_budget_bytes: int | None
    outcome: str
    reason: str | None
    executed: str | None
    revision: int
    stale: bool
    busy: bool
    noise_floor: float | None
    case_id: str
    plan: str
    created: str
    tier: Tier | None
    """How far it can be trusted; None where nobody judged."""
    reproductions: int | None
    contradictions: int | None
    findings: str | None
    """Ids of the rules that found something about it."""
    numbers: Mapping[str, Number] = field(hash=False)
    """By metric."""
    unavailable: Mapping[str, str] = field(hash=False)
    """Metrics that could not be measured here, and why."""

    @property
    def ok(self) -> bool:
        """Ran and agreed with the reference."""
        return self.outcome == "ok"

    @property
    def detail(self) -> str | None:
        """Backend and options, where they are not the plain reference."""
        words = [] if self.backend == "reference" else [self.backend]
        words += [self.options] if self.options else []
        return " ".join(words) or None

    @property
    def is_image(self) -> bool:
        """The grid stands for a square image."""
        return self.resolution_px is not None

    @property
    def ranked(self) -> bool:
        """May stand in a ranking: it ran, and with the code and protocol of today."""
        return self.ok and not self.stale and not any(n.implausible for n in self.numbers.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The table as pages want it: looked up, grouped, in a stable order."""

    table: LeaderboardTable
    results: tuple[Result, ...]
    """Newest result of each case on each machine."""
    variants: Mapping[str, VariantEntry]
    machines: Mapping[str, MachineEntry]
    """Best covered first."""
    runs: Mapping[str, RunEntry]
    tasks: Mapping[str, TaskEntry]
    columns: Mapping[str, Column]
    marks: Mapping[str, Mark]
    """Looks of every variant of the tree and of the results."""
    superseded: tuple[Result, ...]
    """Results that a newer run of the same case on the same machine replaced."""

    def exactness(self, variant: str) -> Exactness:
        """Which function a variant computes, as seen from softmax attention."""
        entry = self.variants.get(variant)
        if entry is None:
            return "own"
        if entry.family == "softmax":
            return "exact"
        return "approximate" if entry.traits.get("approximates_softmax") else "own"

    def sign(self, variant: str) -> str:
        """How labels in figures tell the kinds of function apart; empty for softmax itself."""
        return EXACTNESS_SIGNS[self.exactness(variant)]

    def title(self, variant: str) -> str:
        """Name of a variant for people; its identifier where the tree no longer has it."""
        entry = self.variants.get(variant)
        return variant if entry is None else entry.title

    def network_title(self, backbone: str) -> str:
        """Name of a whole network for people; its identifier where the tree does not have it."""
        found = (entry.title for entry in self.table.backbones if entry.id == backbone)
        return next(found, backbone)

    def label(self, result: Result) -> str:
        """Name of an execution in a sentence, backend and options in brackets."""
        detail = f" ({result.detail})" if result.detail else ""
        return f"{self.title(result.variant)}{detail}"

    def machine_title(self, hardware_id: str) -> str:
        """Name of a machine for people: device, and what it ran with."""
        environment = self.machines[hardware_id].environment
        together = environment.settings.get(SETTING)
        if environment.device == "cuda":
            return f"{environment.device_name}{f' x {together}' if together else ''}"
        threads = f"{environment.threads} thread{'' if environment.threads == 1 else 's'}"
        several = f", {together} processes together" if together else ""
        return f"{environment.device_name}, {threads}{several}"


def view(table: LeaderboardTable) -> View:
    """Gather the rows of `table`; one pass."""
    results = gathered(table.rows)
    superseded = gathered(table.history)
    first: dict[str, str] = {}
    for result in (*results, *superseded):
        first[result.variant] = min(first.get(result.variant, result.created), result.created)
    measured: dict[str, int] = {m.hardware_id: 0 for m in table.machines}
    for result in results:
        measured[result.hardware_id] = measured.get(result.hardware_id, 0) + result.ok
    machines = sorted(table.machines, key=lambda m: (-measured[m.hardware_id], m.hardware_id))
    return View(
        table=table,
        results=results,
        variants={v.name: v for v in sorted(table.variants, key=lambda v: v.name)},
        machines={m.hardware_id: m for m in machines},
        runs={r.run.run_id: r for r in table.runs},
        tasks={t.name: t for t in table.tasks},
        columns={c.name: c for c in table.columns},
        marks=marks(
            {v.name for v in table.variants}, sorted(first, key=lambda name: (first[name], name))
        ),
        superseded=superseded,
    )


def gathered(rows: pandas.DataFrame) -> tuple[Result, ...]:
    """Return one result for each (machine, run, case) of `rows`, sorted."""
    columns = {name: plain_column(rows[name]) for name in ROW_TYPES}
    cases: dict[tuple[str, str, str], list[int]] = {}
    keys = zip(columns["hardware_id"], columns["run_id"], columns["case_id"], strict=True)
    for at, key in enumerate(keys):
        cases.setdefault(key, []).append(at)
    found = (_result(columns, cases[key]) for key in sorted(cases))
    return tuple(
        sorted(found, key=lambda r: (r.hardware_id, r.variant, r.backend, r.options, r.case_id))
    )


def plain_column(series: "pandas.Series[Any]") -> list[Any]:
    """Return a column as plain Python values; missing is None."""
    values = series.astype(object).to_numpy(copy=True)
    values[series.isna().to_numpy()] = None
    return values.tolist()


_OF_RESULTS = tuple(
    name
    for name in ROW_TYPES
    if name in Result.__dataclass_fields__ and name not in ("options", "reason", "stale", "busy")
)


def _result(columns: Mapping[str, list[Any]], places: list[int]) -> Result:
    first = places[0]
    numbers: dict[str, Number] = {}
    unavailable: dict[str, str] = {}
    for at in places:
        metric = columns["metric"][at]
        if metric is None:
            continue
        if columns["value"][at] is None:
            unavailable[metric] = columns["reason"][at] or "not measured"
            continue
        numbers[metric] = Number(
            value=float(columns["value"][at]),
            low=columns["low"][at],
            high=columns["high"][at],
            p10=columns["p10"][at],
            p90=columns["p90"][at],
            samples=int(columns["samples"][at]),
            rounds=int(columns["rounds"][at]),
            bound=columns["bound"][at],
            implausible=bool(columns["implausible"][at]),
        )
    outcome = columns["outcome"][first]
    return Result(
        **{name: columns[name][first] for name in _OF_RESULTS},
        options=columns["options"][first] or "",
        reason=columns["reason"][first] if outcome != "ok" else None,
        stale=bool(columns["stale"][first]),
        busy=bool(columns["busy"][first]),
        numbers=dict(sorted(numbers.items())),
        unavailable=dict(sorted(unavailable.items())),
    )
