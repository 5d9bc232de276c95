"""A large synthetic results folder for the site's tests: invented numbers, every kind of outcome.

The texts say "synthetic" wherever a page shows them, so that nobody takes a picture of it for real.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from sample_run import (
    SAMPLE,
    sample_environment,
    sample_header,
    sample_training,
    task_version,
)

from bench.cases import (
    frontier_case,
    image,
    images_case,
    sequence,
    task_cases,
    workload_case,
)
from bench.catalogue import DERIVED, Catalogue
from bench.frontier import ladder
from bench.model import (
    Case,
    Crashed,
    Images,
    Incorrect,
    Measured,
    Measurement,
    NotRun,
    Ok,
    Outcome,
    OutOfMemory,
    Record,
    TimedOut,
    Unavailable,
    Unsupported,
    VariantRecords,
    Workload,
)
from bench.submission import write_run
from bench.table import BackendEntry, Column, LeaderboardTable, PaperEntry, TaskEntry, VariantEntry
from bench.tabulation import load_table
from bench.task import task

MACHINES = {"sample-cpu": 1.0, "sample-gpu-cpu": 1.7}
"""hardware_id -> time relative to the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invented:
    """Costs of one execution."""

    variant: str
    backend: str
    family: str
    quadratic: bool
    speed: float
    """Share of the peak that it reaches."""
    core_width: int
    """Core FLOPs per token and channel / 4, for the linear ones."""
    stores_scores: bool
    accuracy: float


EXECUTIONS = (
    Invented(variant="softmax", backend="reference", family="softmax", quadratic=True, speed=0.35,
             core_width=0, stores_scores=True, accuracy=0.962),
    Invented(variant="softmax", backend="sdpa", family="softmax", quadratic=True, speed=0.62,
             core_width=0, stores_scores=False, accuracy=0.962),
    Invented(variant="linear_relu", backend="reference", family="feature_map", quadratic=False,
             speed=0.50, core_width=64, stores_scores=False, accuracy=0.931),
    Invented(variant="linear_elu", backend="reference", family="feature_map", quadratic=False,
             speed=0.498, core_width=64, stores_scores=False, accuracy=0.929),
    Invented(variant="inline", backend="reference", family="feature_map", quadratic=False,
             speed=0.46, core_width=70, stores_scores=False, accuracy=0.957),
    Invented(variant="focused_linear", backend="reference", family="feature_map", quadratic=False,
             speed=0.31, core_width=88, stores_scores=False, accuracy=0.951),
    Invented(variant="soft", backend="reference", family="low_rank", quadratic=False, speed=0.27,
             core_width=196, stores_scores=False, accuracy=0.944),
    Invented(variant="soft_norm", backend="reference", family="low_rank", quadratic=False,
             speed=0.26, core_width=196, stores_scores=False, accuracy=0.947),
    Invented(variant="linformer", backend="reference", family="low_rank", quadratic=False,
             speed=0.48, core_width=256, stores_scores=False, accuracy=0.921),
    Invented(variant="performer", backend="reference", family="feature_map", quadratic=False,
             speed=0.29, core_width=266, stores_scores=False, accuracy=0.938),
    Invented(variant="nystromformer", backend="reference", family="low_rank", quadratic=False,
             speed=0.24, core_width=128, stores_scores=False, accuracy=0.949),
)  # fmt: skip
APPROXIMATE = ("linformer", "nystromformer", "performer", "soft")
FORMULAS = {
    "softmax": r"O = \operatorname{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V",
    "inline": r"O_i = \sum_{j=1}^{N} \left[\phi(Q_i)^\top \phi(K_j)"
    r" - \frac{1}{N}\sum_{s=1}^{N}\phi(Q_i)^\top\phi(K_s) + \frac{1}{N}\right] V_j",
}
NETWORK = "sample_network"
"""A whole network that the tree does not have."""
PEAK_FLOPS, BANDWIDTH, CHANNELS = 2e11, 2e10, 192


def catalogue() -> Catalogue:
    """Entries for the invented variants; paper titles say that they are samples."""
    return Catalogue(
        columns=(*sample_columns(), *DERIVED),
        variants=tuple(
            variant_entry(next(e for e in EXECUTIONS if e.variant == name))
            for name in sorted({e.variant for e in EXECUTIONS})
        ),
        tasks=(
            TaskEntry(
                name="digits", title="Digits", revision=1, help=SAMPLE, chance=0.1, test_items=360,
                tokens=16, recipe_sha256=task("digits").recipe_sha256,
                recipe=task("digits").recipe_numbers,
            ),
        ),
    )  # fmt: skip


def write_site_sample(root: Path) -> Path:
    """Write two machines; the second was busy and has run fewer cases. Returns `root`."""
    for hardware_id, slowness in MACHINES.items():
        busy = hardware_id != "sample-cpu"
        header = sample_header(
            created=f"2026-01-0{2 + busy}T03:04:05Z", hardware_id=hardware_id, busy=busy
        )
        if busy:
            environment = replace(
                sample_environment(hardware_id), device_name="Another Sample CPU (synthetic)"
            )
            header = replace(header, environment=environment)
        write_run(root, header, tuple(_records(hardware_id, slowness, few=busy)))
    return root


def write_later_run(root: Path) -> Path:
    """Measure some cases of the first machine again, one month later and one variant faster."""
    found: list[VariantRecords] = []
    for invented in EXECUTIONS:
        if invented.backend != "reference" or invented.variant not in ("linear_relu", "inline"):
            continue
        faster = replace(invented, speed=0.9) if invented.variant == "linear_relu" else invented
        records = tuple(
            Record(
                case=case, variant_revision=2, outcome=outcome_of(case, faster, 1.0, "sample-cpu")
            )
            for case in cases_of(invented, few=True)
        )
        found.append(
            VariantRecords(
                run_id="sample",
                variant=invented.variant,
                source_sha256=hashlib.sha256(invented.variant.encode()).hexdigest(),
                records=records,
            )
        )
    header = sample_header(created="2026-02-02T03:04:05Z")
    # noisier than the first run: what it measured again is told apart less easily
    loud = tuple(
        replace(pair, latencies_s=tuple((a, 1.3 * b) for a, b in pair.latencies_s))
        for pair in header.conditions.noise
    )
    header = replace(header, conditions=replace(header.conditions, noise=loud))
    return write_run(root, header, tuple(found))


@cache
def sample_table(root: Path) -> LeaderboardTable:
    """The table of a folder written by `write_site_sample`."""
    return load_table(root, catalogue())


def _records(hardware_id: str, slowness: float, *, few: bool) -> Iterator[VariantRecords]:
    for variant in sorted({e.variant for e in EXECUTIONS}):
        records: list[Record] = []
        for invented in (e for e in EXECUTIONS if e.variant == variant):
            for case in cases_of(invented, few=few):
                # a revision that the tree no longer has makes these rows stale
                old = variant == "linformer" and few
                records.append(
                    Record(
                        case=case,
                        variant_revision=1 if old else 2,
                        task=task_version(case),
                        outcome=outcome_of(case, invented, slowness, hardware_id),
                    )
                )
        yield VariantRecords(
            run_id="sample",
            variant=variant,
            source_sha256=hashlib.sha256(variant.encode()).hexdigest(),
            records=tuple({r.case.id: r for r in records}.values()),
        )


def cases_of(invented: Invented, *, few: bool) -> Iterator[Case]:
    """Everything that one execution runs; `few` for the second machine."""
    name, backend = invented.variant, invented.backend
    sides = (224, 512, 1024) if few else (224, 384, 512, 768, 1024, 1536, 2048)
    for side in sides:
        yield workload_case(name, backend, image(side), dtype="float32", passes="forward")
    for side in (224, 512, 1024):
        grid = image(side)
        yield workload_case(name, backend, grid, dtype="float32", passes="forward_backward")
        if few:
            continue
        yield workload_case(name, backend, grid, dtype="float32", passes="forward", level="core")
        yield workload_case(
            name, backend, grid, dtype="float32", passes="forward", policy="token_budget",
            batch=max(1, 12_544 // grid[0].tokens),
        )  # fmt: skip
    if not few:
        yield workload_case(
            name, backend, image(224), dtype="float32", passes="forward", policy="largest",
            batch=None,
        )  # fmt: skip
        for tokens in (256, 1024, 4096, 16_384, 65_536):
            yield workload_case(name, backend, sequence(tokens), dtype="float32", passes="forward")
    yield frontier_case(name, backend, memory_bytes=256 * 2**20, dtype="float32", passes="forward")
    if backend == "reference" and not few:
        yield from task_cases(name, "digits", seeds=3)
    if name in ("inline", "softmax") and not few:
        for side in (1024, 224):
            yield images_case(
                NETWORK, name, backend, resolution_px=side, dtype="float32", passes="forward"
            )


def outcome_of(case: Case, invented: Invented, slowness: float, hardware_id: str) -> Outcome:
    """What is said to have become of a case."""
    stimulus = case.stimulus
    if stimulus.kind == "frontier":
        tokens = 6_700 if invented.stores_scores else 41_000 + 100 * invented.core_width
        tried = max(size for size in ladder() if size <= tokens)
        return Ok(measurements=(_constant("largest_tokens", tried),), executed=SAMPLE)
    if stimulus.kind == "task":
        share = invented.accuracy + 0.006 * (stimulus.seed - 1)
        return Ok(
            measurements=(
                _constant("accuracy", round(360 * share) / 360),
                _constant("loss", 0.2 + stimulus.seed / 100),
                _constant("training_time", 4.5 * slowness + stimulus.seed / 10),
            ),
            executed=SAMPLE,
            training=sample_training(),
        )
    if stimulus.kind == "images":
        return Ok(measurements=_of_network(case, stimulus, invented), executed=SAMPLE, batch=1)
    failure = _failure(case, stimulus, invented)
    if failure is not None:
        return failure
    batch = stimulus.batch or 64
    measurements = _measurements(case, stimulus, batch, invented, slowness, hardware_id)
    return Ok(measurements=measurements, executed=f"{invented.backend} ({SAMPLE})", batch=batch)


def _failure(case: Case, workload: Workload, invented: Invented) -> Outcome | None:
    if invented.stores_scores and workload.tokens >= 16_384:
        if workload.tokens > 16_384:
            return NotRun(reason="a smaller size already ran out of memory (synthetic)")
        return OutOfMemory(requested_bytes=3 * 2**30, limit_bytes=2**33, reason=SAMPLE)
    if invented.quadratic and workload.tokens > 16_384:
        return TimedOut(limit_s=60.0)
    if invented.variant == "soft_norm" and workload.resolution_px is None:
        return Unsupported(reasons=("a grid of height 1 has no landmarks (synthetic)",))
    if invented.variant == "focused_linear" and workload.passes == "forward_backward":
        return Incorrect(reason=f"gradient of q ({SAMPLE})", error=0.5, allowed=1e-3)
    if invented.variant == "performer" and workload.tokens > 16_384:
        return Crashed(exit_code=-11, reason=SAMPLE)
    return None


def _measurements(
    case: Case, workload: Workload, batch: int, invented: Invented, slowness: float, machine: str
) -> tuple[Measurement, ...]:
    tokens = workload.tokens
    per_token = 4 * tokens * CHANNELS if invented.quadratic else 4 * invented.core_width * CHANNELS
    flops = batch * tokens * per_token
    parameters = 0
    if case.level == "layer":
        flops += 8 * batch * tokens * CHANNELS**2
        parameters = 4 * CHANNELS**2 + 4 * CHANNELS
    stream = 4 * batch * tokens * CHANNELS
    backward = workload.passes == "forward_backward"
    seconds = 8e-6 + (3 if backward else 1) * flops / (invented.speed * PEAK_FLOPS)
    seconds = slowness * (seconds + (2 if backward else 1) * 6 * stream / BANDWIDTH)
    if slowness != 1.0 and invented.variant == "linear_elu":
        seconds /= 20  # beats its own machine: implausible
    peak = 4 * stream + (4 * batch * 3 * tokens**2 if invented.stores_scores else 0)
    unseen = flops // 50 if invented.variant == "soft" else 0
    key = f"{case.id} {machine}"
    found: list[Measurement] = [
        _varying(key, "latency", seconds),
        _varying(key, "latency_cold", 1.28 * seconds),
        _constant("flops", flops),
        _constant("flops_torch", flops - unseen),
        _constant("flops_fvcore", flops),
        _constant("parameters", parameters),
        _constant("peak_memory", peak),
        _constant("predicted_memory", peak + 4096),
        _constant("resident_memory", peak + 300 * 2**20),
        _constant("error", 3.1e-7 * (1 + tokens / 10_000)),
        _constant("page_faults", peak // 4096),
        Unavailable(metric="energy", reasons=("RAPL counters are not readable here (synthetic)",)),
    ]
    if backward:
        found += [_constant("gradient_error", 4e-7), _constant("saved_memory", peak // 2)]
    return tuple(sorted(found, key=lambda m: m.metric))


def _of_network(case: Case, images: Images, invented: Invented) -> tuple[Measurement, ...]:
    flops = 2.5e9 * (images.resolution_px / 224) ** (4 if invented.quadratic else 2)
    return (
        _constant("error", 4e-7),
        _constant("flops", flops),
        _varying(case.id, "latency", 1e-3 + flops / (invented.speed * PEAK_FLOPS)),
        # pages were new in one round: the interval is that of a count
        Measured(metric="page_faults", rounds=((73_368,), (14_674,), (0,))),
        _constant("parameters", 5_717_416),
        _constant("peak_memory", 9e6 * (images.resolution_px / 224) ** 2),
    )


def _constant(metric: str, value: float) -> Measured:
    return Measured(metric=metric, rounds=((value,),))


def _varying(key: str, metric: str, seconds: float) -> Measured:
    def jitter(*parts: object) -> float:
        text = repr((key, metric, *parts))
        return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 * 0.02

    return Measured(
        metric=metric,
        rounds=tuple(
            tuple(seconds * (1 + jitter(n) + jitter(n, m) / 4) for m in range(6)) for n in range(3)
        ),
    )


def sample_columns() -> Iterator[Column]:
    """Return the metrics of the invented catalogue."""
    for name, title, unit, better, varies in (
        ("accuracy", "Accuracy", "fraction", "higher", True),
        ("energy", "Energy", "j", "lower", True),
        ("error", "Error", "relative", "lower", False),
        ("flops", "FLOPs", "flop", "lower", False),
        ("flops_fvcore", "FLOPs (fvcore)", "flop", "lower", False),
        ("flops_torch", "FLOPs (torch)", "flop", "lower", False),
        ("gradient_error", "Gradient error", "relative", "lower", False),
        ("largest_tokens", "Largest tokens", "count", "higher", False),
        ("latency", "Latency", "s", "lower", True),
        ("latency_cold", "Latency, cold", "s", "lower", True),
        ("loss", "Loss", "count", "lower", True),
        ("page_faults", "Page faults", "count", "lower", False),
        ("parameters", "Parameters", "count", "lower", False),
        ("peak_memory", "Peak memory", "byte", "lower", False),
        ("predicted_memory", "Predicted memory", "byte", "lower", False),
        ("resident_memory", "Resident memory", "byte", "lower", False),
        ("saved_memory", "Saved memory", "byte", "lower", False),
        ("training_time", "Training time", "s", "lower", True),
    ):
        yield Column(
            name=name, title=title, unit=unit, better=better, help=f"{title} ({SAMPLE}).",
            derived=False, varies=varies,
        )  # fmt: skip


def variant_entry(invented: Invented) -> VariantEntry:
    """Return the catalogue's entry of an invented variant."""
    name = invented.variant
    return VariantEntry(
        name=name,
        title=name.replace("_", " ").capitalize(),
        family=invented.family,
        paper=PaperEntry(
            title=f"A paper about {name} (synthetic)", authors=("A. Sample", "B. Sample"),
            year=2024, venue="Sample venue", url="https://example.org/paper", equation="Eq. 1",
            code="https://example.org/code at commit 0000000",
        ),
        revision=2,
        formula=FORMULAS.get(name, r"O = \phi(Q)\left(\phi(K)^\top V\right)"),
        description=f"Synthetic description of {name}: N tokens, d channels a head.",
        deviations=("Synthetic deviation: the paper says one thing, the code another.",),
        scaling="Synthetic: options stay as they are when the grid grows.",
        options={"kernel": "relu", "residual": True, "landmarks": 49},
        options_help={"kernel": "Feature map.", "residual": "Adds a local branch.",
                      "landmarks": "Tokens that stand for all."},
        order=2.0 if invented.quadratic else 1.0,
        traits={
            "causal": name == "softmax", "any_grid": True, "extra_tokens": True,
            "permutation_equivariant": True, "rows_sum_to_one": True, "nonnegative_weights": True,
            "approximates_softmax": name == "softmax" or name in APPROXIMATE,
            "deterministic_eval": True,
        },
        uncounted="Synthetic: an inverse that the counter cannot see." if name == "soft" else None,
        backends=tuple(
            BackendEntry(name=b, title=b.capitalize(), source=f"attention_impls/variants/{name}.py")
            for b in (("reference", "compile", "sdpa") if name == "softmax" else
                      ("reference", "compile"))
        ),
        source=f"attention_impls/variants/{name}.py",
        streams=3,
    )  # fmt: skip
