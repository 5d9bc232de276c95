"""Synthetic runs for tests: valid in form and plausible, but invented. No number was measured.

`SAMPLE` stands in every text field, so that nobody takes such a run for a real one.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median

from attention_impls.registry import load, source_file
from attention_impls.shapes import AttentionShape, Grid
from bench.asked_layer import parameters_of
from bench.environment import hardware_id as id_of_hardware
from bench.model import (
    Case,
    Ceiling,
    Conditions,
    Crashed,
    Environment,
    Frontier,
    GridSize,
    Incorrect,
    Measured,
    Measurement,
    NotRun,
    Ok,
    Outcome,
    OutOfMemory,
    Passes,
    Plan,
    Protocol,
    Record,
    RepeatedCase,
    Run,
    TaskRun,
    TaskVersion,
    TimedOut,
    Training,
    Unavailable,
    Unsupported,
    VariantRecords,
    Workload,
    from_json,
    to_json,
)
from bench.receipt import VALUES, recomputed
from bench.rules.receipts import MOST_FLOPS
from bench.submission import rounded, write_run
from bench.task import task

SAMPLE = "synthetic sample, not measured"
VARIANTS = ("inline", "linear_relu", "softmax")
HEADS, HEAD_DIM, PATCH_PX = 3, 64, 16
SIDES_PX = (224, 512, 1024)
ROUNDS, SAMPLES = 3, 6
LARGEST_BATCH = 48
PEAK_FLOPS, BANDWIDTH, OVERHEAD_S = 2e11, 2e10, 2e-6


def sample_environment(hardware_id: str = "sample-cpu") -> Environment:
    """A CPU that does not exist."""
    return Environment(
        hardware_id=hardware_id,
        device="cpu",
        device_name=f"Sample CPU ({SAMPLE})",
        device_memory_bytes=16 * 2**30,
        cpu=f"Sample CPU ({SAMPLE})",
        cpu_count=2,
        threads=2,
        os="Linux 6.0.0",
        python="3.11.0",
        torch="2.13.0",
        packages={"torch": "2.13.0", "numpy": "2.0.0"},
        settings={"matmul_precision": "highest", "tf32": False},
    )


def sample_header(
    *, created: str = "2026-01-02T03:04:05Z", hardware_id: str = "sample-cpu", busy: bool = False
) -> Run:
    """Header of a synthetic run; `write_run` fills run_id and files."""
    return Run(
        run_id="sample",
        created=created,
        submitted_by="anonymous",
        suite_version="0.1.0",
        commit="0" * 40,
        dirty=False,
        plan="quick",
        plan_digest=hashlib.sha256(SAMPLE.encode()).hexdigest(),
        only=None,
        protocol=Protocol(rounds=ROUNDS),
        environment=sample_environment(hardware_id),
        ceilings=(
            Ceiling(
                name="matmul_float32",
                unit="flop/s",
                samples=(0.97 * PEAK_FLOPS, PEAK_FLOPS),
                detail=SAMPLE,
            ),
            Ceiling(name="copy_bandwidth", unit="byte/s", samples=(BANDWIDTH,), detail=SAMPLE),
            Ceiling(name="call_overhead", unit="s", samples=(OVERHEAD_S,), detail=SAMPLE),
        ),
        conditions=Conditions(
            wall_s=300.0,
            measured_s=180.0,
            foreign_load=(0.02, 0.03, 0.01),
            busy=busy,
            drift=_repeated(_timed("softmax", 224)),
            noise=tuple(
                _repeated(_timed(variant, side)) for variant in VARIANTS for side in SIDES_PX[:2]
            ),
        ),
        files={},
    )


def _repeated(case: Case) -> RepeatedCase:
    """Two visits a round: that of the record, and one more."""
    outcome, medians = _outcome(case), [1e-3] * ROUNDS
    if isinstance(outcome, Ok):
        (found,) = (m for m in outcome.measurements if m.metric == "latency")
        assert isinstance(found, Measured)
        medians = [median(map(rounded, samples)) for samples in found.rounds]
    return RepeatedCase(
        case=case,
        latencies_s=tuple(
            (first, first * (1 + _jitter(case.id, "again", n))) for n, first in enumerate(medians)
        ),
    )


def sample_records(variants: Iterable[str] = VARIANTS) -> tuple[VariantRecords, ...]:
    """Records of every kind: timed cases, all failures, a frontier, a task with three seeds."""
    return tuple(_file(variant, sample_cases(variant)) for variant in variants)


def write_sample(
    root: Path,
    *,
    created: str = "2026-01-02T03:04:05Z",
    hardware_id: str = "sample-cpu",
    busy: bool = False,
    variants: Iterable[str] = VARIANTS,
) -> Path:
    """Write a synthetic run below the results folder `root` and return its folder."""
    header = sample_header(created=created, hardware_id=hardware_id, busy=busy)
    return write_run(root, noise_of(header, tuple(variants)), sample_records(tuple(variants)))


def noise_of(header: Run, variants: tuple[str, ...]) -> Run:
    """The header with its A/A pairs of `variants` alone, as many as before."""
    pairs = tuple(
        pair
        if pair.case.variant in variants
        else _repeated(replace(pair.case, variant=variants[n % len(variants)]))
        for n, pair in enumerate(header.conditions.noise)
    )
    return replace(header, conditions=replace(header.conditions, noise=pairs))


def write_planned(root: Path, plan: Plan, *, created: str = "2026-01-02T03:04:05Z") -> Path:
    """Write a synthetic run that holds every case of `plan`, all measured; no rule objects."""
    environment = sample_environment()
    hardware_id = id_of_hardware(
        "cpu",
        environment.device_name,
        environment.cpu_count,
        environment.device_memory_bytes,
    )
    base = sample_header(created=created, hardware_id=hardware_id)
    header = replace(
        base,
        plan=plan.name,
        plan_digest=plan.digest,
        protocol=plan.protocol,
        conditions=replace(
            base.conditions,
            wall_s=900.0,
            measured_s=600.0,
            drift=_repeated(plan.anchor),
            noise=tuple(map(_repeated, plan.noise_pairs)),
        ),
    )
    variants = sorted({case.variant for case in plan.cases})
    return write_run(
        root, header, [_file(v, [c for c in plan.cases if c.variant == v]) for v in variants]
    )


def _file(variant: str, cases: Iterable[Case]) -> VariantRecords:
    return VariantRecords(
        run_id="sample",
        variant=variant,
        source_sha256=_source_digest(variant),
        records=tuple(
            Record(
                case=case,
                variant_revision=_revision(variant),
                task=task_version(case),
                outcome=_outcome(case),
            )
            for case in cases
        ),
    )


def task_version(case: Case) -> TaskVersion | None:
    """State of the tree's task; None for what is not a task."""
    if not isinstance(case.stimulus, TaskRun):
        return None
    known = task(case.stimulus.task)
    return TaskVersion(revision=known.revision, recipe_sha256=known.recipe_sha256)


def sample_training(epochs: int = 10) -> Training:
    """Curves of a training that never was."""
    return Training(
        data_sha256=hashlib.sha256(SAMPLE.encode()).hexdigest(),
        precision="float32",
        losses=tuple(2.0 / (1 + n) for n in range(epochs)),
        accuracies=tuple(0.09 * (1 + n) for n in range(epochs)),
        gradient_norms=(1.5,) * epochs,
        clipped=(0.5,) * epochs,
        resumed_after=(),
    )


def sample_cases(variant: str) -> tuple[Case, ...]:
    """Every case of one variant in the synthetic run."""
    layer = [_timed(variant, side) for side in SIDES_PX]
    others = [
        _timed(variant, 512, passes="forward_backward"),
        replace(_timed(variant, 512), level="core"),
        _timed(variant, 2048),
        _timed(variant, 4096),
        replace(_timed(variant, 224), backend="compile"),
        replace(_timed(variant, 512), backend="compile"),
        replace(_timed(variant, 1024), backend="compile"),
        Case(
            variant=variant,
            backend="reference",
            level="layer",
            stimulus=Frontier(
                memory_bytes=128 * 2**20,
                heads=HEADS,
                head_dim=HEAD_DIM,
                dtype="float32",
                passes="forward",
            ),
        ),
    ]
    plain = _timed(variant, 224)
    assert isinstance(plain.stimulus, Workload)
    others.append(replace(plain, stimulus=replace(plain.stimulus, causal=True)))
    tasks = [
        Case(
            variant=variant,
            backend="reference",
            level="model",
            stimulus=TaskRun(task="digits", seed=seed),
        )
        for seed in range(3)
    ]
    return (*layer, *others, *tasks)


def _timed(variant: str, side_px: int, passes: Passes = "forward") -> Case:
    side = side_px // PATCH_PX
    return Case(
        variant=variant,
        backend="reference",
        level="layer",
        stimulus=Workload(
            batch=1,
            batch_policy="one",
            grid=GridSize(height=side, width=side),
            heads=HEADS,
            head_dim=HEAD_DIM,
            dtype="float32",
            passes=passes,
            resolution_px=side_px,
            patch_px=PATCH_PX,
        ),
    )


def _outcome(case: Case) -> Outcome:
    match case.stimulus:
        case Workload():
            return _workload_outcome(case, case.stimulus)
        case Frontier():
            tokens = 2048 if case.variant == "softmax" else 40_960
            return Ok(measurements=(_constant("largest_tokens", tokens),), executed=SAMPLE)
        case TaskRun():
            correct = 330 + len(case.variant) + case.stimulus.seed
            return Ok(
                measurements=(
                    _constant("accuracy", correct / 360),
                    _constant("loss", 0.21 + 0.01 * case.stimulus.seed),
                    _constant("parameters", 74_000),
                    _constant("training_time", 4.5 + 0.1 * case.stimulus.seed),
                ),
                executed=SAMPLE,
                training=sample_training(),
            )


def _workload_outcome(case: Case, workload: Workload) -> Outcome:
    quadratic = case.variant == "softmax"
    if reasons := load(case.variant).unsupported(shape_of(workload)):
        return Unsupported(reasons=reasons)
    if workload.resolution_px == 2048 and quadratic:
        return OutOfMemory(requested_bytes=805306368, limit_bytes=2**29, reason=SAMPLE)
    if workload.resolution_px == 4096:
        if quadratic:
            return NotRun(reason="2048 px ran out of memory")
        return TimedOut(limit_s=60.0)
    if case.backend == "compile" and workload.resolution_px == 512:
        return Incorrect(reason=SAMPLE, error=0.5, allowed=1e-3)
    if case.backend == "compile" and workload.resolution_px == 1024:
        return Crashed(exit_code=-11, reason=SAMPLE)
    return Ok(
        measurements=_measurements(case, workload),
        executed=SAMPLE,
        batch=workload.batch or LARGEST_BATCH,
    )


def _measurements(case: Case, workload: Workload) -> tuple[Measurement, ...]:
    shape = shape_of(workload)
    spec = load(case.variant)
    flops = (spec.core_flops if case.level == "core" else spec.flops)(shape, spec.options)
    parameters = parameters_of(case.variant, spec.options, shape, case.level)
    stream = 4 * shape.batch * shape.tokens * shape.channels
    backward = workload.passes == "forward_backward"
    speed = 0.3 if case.backend == "reference" else 0.4
    seconds = 4 * OVERHEAD_S + (3 if backward else 1) * flops / (speed * PEAK_FLOPS)
    seconds += (2 if backward else 1) * 6 * stream / BANDWIDTH
    scores = 4 * shape.heads * shape.tokens**2 if case.variant == "softmax" else 0
    peak = 4 * stream + scores
    found: list[Measurement] = [
        _timed_samples(case, "latency", seconds),
        _timed_samples(case, "latency_cold", 1.3 * seconds),
        _constant("flops", flops),
        _constant("flops_torch", flops),
        _constant("flops_fvcore", flops),
        _constant("parameters", parameters),
        _constant("state_floats", spec.state_floats(shape, spec.options)),
        _constant("peak_memory", peak),
        _constant("predicted_memory", peak),
        _constant("error", 3e-7),
        Measured(metric="page_faults", rounds=((peak / 4096 + 0.25,),) * ROUNDS),
        Unavailable(metric="energy", reasons=("RAPL counters are not readable here",)),
        _receipt(case, workload, flops),
    ]
    if backward:
        found += [_constant("gradient_error", 4e-7), _constant("saved_memory", peak // 2)]
    return tuple(sorted(found, key=lambda m: m.metric))


def shape_of(workload: Workload) -> AttentionShape:
    """Sizes of a workload; policy `largest` is said to have found LARGEST_BATCH."""
    return AttentionShape(
        batch=workload.batch or LARGEST_BATCH,
        grid=Grid(workload.grid.height, workload.grid.width),
        heads=workload.heads,
        head_dim=workload.head_dim,
        extra_tokens=workload.extra_tokens,
        causal=workload.causal,
    )


@cache
def _small_receipt(case_json: str, batch: int) -> tuple[float, ...]:
    return recomputed(from_json(Case, json.loads(case_json)), batch).values


def _receipt(case: Case, workload: Workload, flops: int) -> Measured:
    """True where `check` computes it again, else invented."""
    if flops <= MOST_FLOPS:
        values = _small_receipt(json.dumps(to_json(case)), workload.batch or LARGEST_BATCH)
    else:
        values = tuple(_jitter(case.id, "receipt", n) for n in range(VALUES))
    return Measured(metric="receipt", rounds=(values,))


def _constant(metric: str, value: float) -> Measured:
    return Measured(metric=metric, rounds=((value,),))


def _timed_samples(case: Case, metric: str, seconds: float) -> Measured:
    return Measured(
        metric=metric,
        rounds=tuple(
            tuple(seconds * (1 + _jitter(case.id, metric, n, m)) for m in range(SAMPLES))
            for n in range(ROUNDS)
        ),
    )


def _jitter(*key: object) -> float:
    """A number in 0..0.02 that depends on the key alone."""
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16) / 2**32 * 0.02


@cache
def _revision(variant: str) -> int:
    return load(variant).revision


@cache
def _source_digest(variant: str) -> str:
    return hashlib.sha256(source_file(variant).read_bytes()).hexdigest()
