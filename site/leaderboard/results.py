"""The table's rows gathered into results: one case on one machine, with all its numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas

from bench.derived import Standing
from bench.table import Column, LeaderboardTable, MachineEntry, RunEntry, TaskEntry, VariantEntry
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

    def machine_title(self, hardware_id: str) -> str:
        """Name of a machine for people: device, and what it ran with."""
        environment = self.machines[hardware_id].environment
        if environment.device == "cuda":
            return environment.device_name
        threads = f"{environment.threads} thread{'' if environment.threads == 1 else 's'}"
        return f"{environment.device_name}, {threads}"


def view(table: LeaderboardTable) -> View:
    """Gather the rows of `table`; one pass."""
    results = gathered(table.rows)
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
        marks=marks({*(v.name for v in table.variants), *(r.variant for r in results)}),
    )


def gathered(rows: pandas.DataFrame) -> tuple[Result, ...]:
    """Return one result for each (machine, run, case) of `rows`, sorted."""
    cases: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows.to_dict("records"):
        plain = {str(name): _present(value) for name, value in row.items()}
        key = (plain["hardware_id"], plain["run_id"], plain["case_id"])
        cases.setdefault(key, []).append(plain)
    found = (_result(group) for _, group in sorted(cases.items()))
    return tuple(
        sorted(found, key=lambda r: (r.hardware_id, r.variant, r.backend, r.options, r.case_id))
    )


def _present(value: Any) -> Any:
    return None if not isinstance(value, str | list) and pandas.isna(value) else value


def _result(group: Iterable[dict[str, Any]]) -> Result:
    rows = list(group)
    first = rows[0]
    numbers: dict[str, Number] = {}
    unavailable: dict[str, str] = {}
    for row in rows:
        if row["metric"] is None:
            continue
        if row["value"] is None:
            unavailable[row["metric"]] = row["reason"] or "not measured"
            continue
        numbers[row["metric"]] = Number(
            value=float(row["value"]),
            low=row["low"],
            high=row["high"],
            p10=row["p10"],
            p90=row["p90"],
            samples=int(row["samples"]),
            rounds=int(row["rounds"]),
            bound=row["bound"],
            implausible=bool(row["implausible"]),
        )
    fields = {
        name: first[name]
        for name in Result.__dataclass_fields__
        if name not in ("numbers", "unavailable", "options", "reason", "stale", "busy")
    }
    return Result(
        **fields,
        options=first["options"] or "",
        reason=first["reason"] if first["outcome"] != "ok" else None,
        stale=bool(first["stale"]),
        busy=bool(first["busy"]),
        numbers=dict(sorted(numbers.items())),
        unavailable=dict(sorted(unavailable.items())),
    )
