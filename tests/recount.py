"""Numbers recomputed from the raw files under results/: json and numpy, no code of the project.

What the pages print is held against this. Only what no file of a run says comes from outside: which
function a variant computes, its title, and the revision of the tree (`Known`).
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

T_975 = {1: 12.706205, 2: 4.3026527, 3: 3.1824463, 4: 2.7764451, 5: 2.5705818, 6: 2.4469119}
"""Two-sided 95 % points of Student's t by degrees of freedom, from a printed table."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Stat(NamedTuple):
    """A metric of a cell in base units."""

    value: float
    low: float | None
    high: float | None
    p10: float
    p90: float
    samples: int
    rounds: int


@dataclass(frozen=True)
class Known:
    """What the tree says of a variant."""

    kind: str
    title: str
    revision: int
    order: float
    streams: int


def stat(rounds: Sequence[Sequence[float]]) -> Stat:
    medians = np.array([np.median(samples) for samples in rounds], float)
    pool = np.concatenate([np.asarray(samples, float) for samples in rounds])
    low = high = None
    if len(medians) >= 3:
        positive = medians.min() > 0
        scaled = np.log(medians) if positive else medians
        half = T_975[len(scaled) - 1] * scaled.std(ddof=1) / math.sqrt(len(scaled))
        low, high = float(scaled.mean() - half), float(scaled.mean() + half)
        low, high = (math.exp(low), math.exp(high)) if positive else (max(0.0, low), high)
    ends = (float(np.percentile(pool, share)) for share in (10, 90))
    return Stat(float(np.median(medians)), low, high, *ends, len(pool), len(medians))


def over(amount: float, latency: Stat) -> Stat:
    value, low, high, p10, p90, samples, rounds = latency
    ends = (None if high is None else amount / high, None if low is None else amount / low)
    return Stat(amount / value, *ends, amount / p90, amount / p10, samples, rounds)


def ceilings(run: Mapping[str, Any]) -> dict[str, float]:
    return {c["name"]: (min if c["unit"] == "s" else max)(c["samples"]) for c in run["ceilings"]}


@dataclass(eq=False)
class Cell:
    """One case of one run."""

    run: Mapping[str, Any]
    record: Mapping[str, Any]
    known: Known | None
    current: bool = True
    _found: dict[str, Stat | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        case, outcome = self.record["case"], self.record["outcome"]
        self.variant, self.backend, self.level = case["variant"], case["backend"], case["level"]
        self.options = ", ".join(f"{k}={v}" for k, v in sorted(case.get("options", {}).items()))
        self.of: Mapping[str, Any] = case["stimulus"]
        self.stimulus = self.of["kind"]
        text = json.dumps(case, sort_keys=True, separators=(",", ":"))
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        self.machine = self.run["environment"]["hardware_id"]
        self.outcome = outcome["kind"]
        measured = [m for m in outcome.get("measurements", ()) if m["kind"] == "measured"]
        self.samples = {m["metric"]: m["rounds"] for m in measured}
        self.batch = outcome.get("batch") or self.of.get("batch") or 1
        self.tokens = 0
        if "grid" in self.of:
            sides = self.of["grid"]
            self.tokens = sides["height"] * sides["width"] + self.of["extra_tokens"]

    @property
    def name(self) -> str:
        """As tables sort names: variant, then what is not the plain reference."""
        backend = "" if self.backend == "reference" else self.backend
        return f"{self.variant} {' '.join(word for word in (backend, self.options) if word)}"

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    @property
    def stale(self) -> bool:
        same = self.known is not None and self.known.revision == self.record["variant_revision"]
        return not same or self.run["protocol"]["version"] != 1

    @property
    def implausible(self) -> bool:
        share = self.stat("efficiency")
        return share is not None and share.value > 1.02

    @property
    def ranked(self) -> bool:
        return self.ok and not self.stale and not self.implausible

    def stat(self, metric: str) -> Stat | None:
        if metric not in self._found:
            stored = self.samples.get(metric)
            self._found[metric] = stat(stored) if stored else self._derived(metric)
        return self._found[metric]

    def value(self, metric: str) -> float:
        found = self.stat(metric)
        assert found is not None, (self.name, metric)
        return found.value

    def _derived(self, metric: str) -> Stat | None:
        if "latency" not in self.samples or self.stimulus not in ("workload", "images"):
            return None
        latency = stat(self.samples["latency"])
        if metric == "throughput" and self.tokens:
            return over(self.batch * self.tokens, latency)
        if metric == "image_throughput" and self.of.get("resolution_px"):
            return over(self.batch, latency)
        if "flops" not in self.samples:
            return None
        work = self.value("flops") * (3 if self.of["passes"] == "forward_backward" else 1)
        if metric == "flop_rate":
            return over(work, latency)
        if metric == "intensity" and (moved := self._least_bytes()):
            return Stat(work / moved, None, None, work / moved, work / moved, 1, 1)
        if metric == "efficiency" and (floor := self.floor()):
            return over(floor[0], latency)
        return None

    def _least_bytes(self) -> float | None:
        if self.known is None or "parameters" not in self.samples:
            return None
        moved = self.value("parameters")
        if self.stimulus == "images":
            moved += 3 * self.batch * self.of["resolution_px"] ** 2
        else:
            read = self.known.streams if self.level == "core" else 1
            width = self.of["heads"] * self.of["head_dim"]
            moved += (read + 1) * self.batch * self.tokens * width
        passes = 2 if self.of["passes"] == "forward_backward" else 1
        return moved * BYTES[self.of["dtype"]] * passes

    def floor(self) -> tuple[float, str] | None:
        """Least seconds by the run's own ceilings, and what binds."""
        best, terms = ceilings(self.run), []
        if peak := best.get(f"matmul_{self.of['dtype']}"):
            terms.append((self.value("flop_rate") * self.value("latency") / peak, "compute"))
        environment, moved = self.run["environment"], self._least_bytes()
        cache = environment["settings"].get("cache_bytes")
        certain = environment["device"] == "cuda" or (cache and moved and moved >= 4 * cache)
        if moved and certain and "copy_bandwidth" in best:
            terms.append((moved / best["copy_bandwidth"], "memory"))
        if "call_overhead" in best:
            terms.append((best["call_overhead"], "overhead"))
        return max(terms) if terms else None


def read(root: Path, known: Mapping[str, Known]) -> tuple[list[dict[str, Any]], list[Cell]]:
    """Return every run, and every cell of every run; the newest of each case is current."""
    runs: list[dict[str, Any]] = []
    cells: list[Cell] = []
    for header in sorted(root.glob("*/*/run.json")):
        run = json.loads(header.read_text("utf-8"))
        run["noise_floor"] = noise(run)
        runs.append(run)
        for file in sorted(set(header.parent.glob("*.json")) - {header}):
            records = json.loads(file.read_text("utf-8"))["records"]
            cells += [Cell(run, one, known.get(one["case"]["variant"])) for one in records]

    def age(cell: Cell) -> tuple[bool, str, str]:
        return (cell.run["plan"] != "repro", cell.run["created"], cell.run["run_id"])

    newest: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        place = (cell.machine, cell.digest)
        newest[place] = max(newest.get(place, cell), cell, key=age)
    for cell in cells:
        cell.current = newest[cell.machine, cell.digest] is cell
    return runs, cells


def noise(run: Mapping[str, Any]) -> float | None:
    """|ln ratio| that nine of ten comparisons of a case with itself stay below."""
    repeated = [p["latencies_s"] for p in run["conditions"]["noise"] or ()]
    pairs = [np.array(p) for p in repeated if all(len(visits) == 2 for visits in p)]
    if len(pairs) < 3:
        return None
    found: list[float] = []
    for visits in pairs:
        rows = np.arange(len(visits))
        for rest in itertools.product((0, 1), repeat=len(visits) - 1):
            side = np.array((0, *rest))
            one, other = np.median(visits[rows, side]), np.median(visits[rows, 1 - side])
            found.append(abs(math.log(one / other)))
    return float(np.percentile(found, 90))


def noise_of(cells: Iterable[Cell]) -> float | None:
    known = [c.run["noise_floor"] for c in cells if c.run["noise_floor"] is not None]
    return max(known, default=None)


def separable(a: Stat, b: Stat, floor: float | None, *, varies: bool = True) -> bool:
    if not varies or a.value == b.value:
        return a.value != b.value
    evidence: list[bool] = []
    if floor is not None:
        evidence.append(max(a.value, b.value) / min(a.value, b.value) > math.exp(floor))
    if a.low is not None and a.high is not None and b.low is not None and b.high is not None:
        evidence.append(a.high < b.low or b.high < a.low)
    return bool(evidence) and all(evidence)


def ranks(
    rows: Mapping[str, Stat], floor: float | None, *, least_first: bool = True
) -> dict[str, str]:
    """`1`, `=2`, ... by name: who cannot be told from the first of a rank shares it."""
    sign = 1 if least_first else -1
    groups: list[list[str]] = []
    for name in sorted(rows, key=lambda one: sign * rows[one].value):
        if groups and not separable(rows[groups[-1][0]], rows[name], floor):
            groups[-1].append(name)
        else:
            groups.append([name])
    found: dict[str, str] = {}
    for group in groups:
        place = 1 + len(found)
        found |= {name: f"{'=' if len(group) > 1 else ''}{place}" for name in group}
    return found


def mean_of_seeds(cells: Sequence[Cell]) -> Stat:
    values = np.array([c.value("accuracy") for c in cells])
    low = high = None
    if len(values) >= 3:
        half = T_975[len(values) - 1] * values.std(ddof=1) / math.sqrt(len(values))
        low, high = max(0.0, float(values.mean() - half)), min(1.0, float(values.mean() + half))
    return Stat(float(values.mean()), low, high, 0.0, 0.0, len(values), len(values))


def tokens_within(points: Sequence[tuple[int, float]], budget: float) -> tuple[float, bool] | None:
    """Most tokens whose memory fits, by straight log-log lines, and whether beyond what was run."""
    ordered = sorted(points)
    if len(ordered) < 2 or ordered[0][1] > budget:
        return None
    above = next((n for n, (_, need) in enumerate(ordered) if need > budget), len(ordered) - 1)
    (n, b), (m, d) = ordered[above - 1 : above + 1]
    if d <= b:
        return None
    slope = math.log(m / n) / math.log(d / b)
    return n * (budget / b) ** slope, ordered[-1][1] < budget


def grouped(cells: Iterable[Cell], key: Callable[[Cell], Any]) -> dict[Any, list[Cell]]:
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        found.setdefault(key(cell), []).append(cell)
    return found
