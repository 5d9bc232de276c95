"""Ways to change a good run, and for each rule the faults that it must find."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from sample_gpu import gpu_sample
from sample_run import sample_header, sample_records

from bench.environment import hardware_id
from bench.model import (
    Case,
    Ceiling,
    Crashed,
    Diverged,
    GridSize,
    Incorrect,
    Measured,
    NotRun,
    Ok,
    Outcome,
    OutOfMemory,
    Record,
    TaskRun,
    TaskVersion,
    TimedOut,
    Unavailable,
    Unsupported,
    Workload,
)
from bench.rules import check_run
from bench.submission import StoredRun, identified

Changed = Callable[[StoredRun], StoredRun]
Pick = Callable[[Case], bool]


@cache
def sample() -> StoredRun:
    """The synthetic run with the hardware_id that its machine has."""
    header = sample_header()
    machine = header.environment
    slug = hardware_id("cpu", machine.device_name, machine.cpu_count, machine.device_memory_bytes)
    header = replace(header, environment=replace(machine, hardware_id=slug))
    run, files = identified(header, sample_records())
    return StoredRun(run=run, files=files, folder=Path("sample"))


def rules_found(stored: StoredRun) -> dict[str, str]:
    return {finding.rule: finding.severity for finding in check_run(stored)}


# Ways to change a run -----------------------------------------------------------------------------


def header(**changes: Any) -> Changed:
    return lambda stored: replace(stored, run=replace(stored.run, **changes))


def environment(**changes: Any) -> Changed:
    return lambda stored: header(environment=replace(stored.run.environment, **changes))(stored)


def conditions(**changes: Any) -> Changed:
    return lambda stored: header(conditions=replace(stored.run.conditions, **changes))(stored)


def records(change: Callable[[Record], Record | None]) -> Changed:
    def changed(stored: StoredRun) -> StoredRun:
        files = tuple(
            replace(file, records=tuple(new for r in file.records if (new := change(r))))
            for file in stored.files
        )
        return replace(stored, files=files)

    return changed


def where(pick: Pick, change: Callable[[Record], Record | None]) -> Changed:
    return records(lambda record: change(record) if pick(record.case) else record)


def outcome(pick: Pick, new: Outcome) -> Changed:
    return where(pick, lambda record: replace(record, outcome=new))


def metric(pick: Pick, name: str, *rounds: tuple[float, ...]) -> Changed:
    def change(record: Record) -> Record:
        if not isinstance(record.outcome, Ok):
            return record
        others = tuple(m for m in record.outcome.measurements if m.metric != name)
        new = (*others, *((Measured(metric=name, rounds=rounds),) if rounds else ()))
        return replace(record, outcome=replace(record.outcome, measurements=new))

    return where(pick, change)


def scaled(pick: Pick, name: str, factor: float) -> Changed:
    def change(record: Record) -> Record:
        assert isinstance(record.outcome, Ok)
        measurements = tuple(
            replace(m, rounds=tuple(tuple(factor * s for s in r) for r in m.rounds))
            if isinstance(m, Measured) and m.metric == name
            else m
            for m in record.outcome.measurements
        )
        return replace(record, outcome=replace(record.outcome, measurements=measurements))

    return where(pick, change)


def sizes(**changes: Any) -> Changed:
    def change(record: Record) -> Record:
        assert isinstance(record.case.stimulus, Workload)
        stimulus = replace(record.case.stimulus, **changes)
        return replace(record, case=replace(record.case, stimulus=stimulus))

    return where(timed(512), change)


def timed(side_px: int, variant: str = "softmax", **also: Any) -> Pick:
    wanted = {"passes": "forward", "level": "layer", "backend": "reference", **also}

    def pick(case: Case) -> bool:
        s = case.stimulus
        return (
            isinstance(s, Workload)
            and not s.causal
            and (case.variant, s.resolution_px, s.passes) == (variant, side_px, wanted["passes"])
            and (case.level, case.backend) == (wanted["level"], wanted["backend"])
        )

    return pick


def of_kind(kind: str, variant: str = "softmax") -> Pick:
    return lambda case: case.stimulus.kind == kind and case.variant == variant


def seed(number: int) -> Pick:
    return lambda case: (
        of_kind("task")(case) and case.stimulus == TaskRun(task="digits", seed=number)
    )


def case(**changes: Any) -> Changed:
    return where(timed(512), lambda r: replace(r, case=replace(r.case, **changes)))


def both(first: Changed, second: Changed) -> Changed:
    return lambda stored: second(first(stored))


def ceiling(name: str, unit: Any, best: float) -> Changed:
    return header(ceilings=(Ceiling(name=name, unit=unit, samples=(best,), detail="planted"),))


def on_gpu(change: Changed) -> Changed:
    return lambda _stored: change(gpu_sample())


def sensed(name: str, *readings: float) -> Changed:
    return on_gpu(metric(ONE, name, *(readings,) * 3))


def ceilings(*samples: float, name: str = "copy_bandwidth", unit: Any = "byte/s") -> Changed:
    """The ceiling has these samples beside its own."""

    def changed(stored: StoredRun) -> StoredRun:
        return header(ceilings=tuple(
            replace(c, unit=unit, samples=(*c.samples, *samples)) if c.name == name else c
            for c in stored.run.ceilings
        ))(stored)  # fmt: skip

    return changed


def noise_of_first(*visits: float) -> Changed:
    """The first A/A pair has these visits in its first round."""

    def changed(stored: StoredRun) -> StoredRun:
        first, *others = stored.run.conditions.noise
        rounds = (visits, *first.latencies_s[1:])
        return conditions(noise=(replace(first, latencies_s=rounds), *others))(stored)

    return changed


def training(number: int, **changes: Any) -> Changed:
    def change(record: Record) -> Record:
        assert isinstance(record.outcome, Ok)
        assert record.outcome.training is not None
        changed = replace(record.outcome.training, **changes)
        return replace(record, outcome=replace(record.outcome, training=changed))

    return where(seed(number), change)


def sequence(tokens: int, peak_bytes: int) -> Changed:
    """A case becomes a sequence that holds so much."""
    changes = {"grid": GridSize(height=1, width=tokens), "resolution_px": None, "patch_px": None}
    return both(metric(ONE, "peak_memory", (peak_bytes,)), sizes(**changes))


def times(factor: float, samples: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(factor * sample for sample in samples)


def sample_latency() -> float:
    """The first visit of the first A/A pair."""
    return sample().run.conditions.noise[0].latencies_s[0][0]


ONE = timed(512)
BACKWARD = timed(512, passes="forward_backward")
SAME = tuple(0.05 + 0.0001 * n for n in range(6))
SLOW = (0.030, 0.031, 0.032, 0.033, 0.034, 0.035)
MANY = tuple(0.05 + 0.00001 * n for n in range(101))

PLANTED: dict[str, tuple[Changed, ...]] = {
    "R201": (
        case(variant="softmx"),
        case(backend="sdpaa"),
        where(timed(224), lambda r: replace(r, case=replace(r.case, backend="sdpaa"))),
        where(seed(0), lambda r: replace(
            r, case=replace(r.case, stimulus=TaskRun(task="digit", seed=0)))),
        metric(ONE, "latncy", SAME),
        header(plan="quik"),
    ),
    "R202": (
        case(options={"no_such_option": 1}),
        case(options={"qkv_bias": True}),
        case(options={"qkv_bias": 1}),
    ),
    "R203": (
        where(ONE, lambda r: replace(r, variant_revision=999)),
        lambda stored: header(protocol=replace(stored.run.protocol, version=999))(stored),
    ),
    "R205": (where(ONE, lambda r: replace(r, variant_revision=999)),),
    "R206": (
        lambda stored: replace(
            stored, files=tuple(replace(f, source_sha256="0" * 64) for f in stored.files)),
    ),
    "R207": (header(dirty=True), header(commit=None)),
    "R208": (header(created="2999-01-01T00:00:00Z"),),
    "R209": (
        environment(os="unknown"), environment(cpu=""), environment(threads=3),
        environment(torch="2.12.0"), environment(packages={}), environment(driver="570.1"),
        environment(device="cuda"), environment(cudnn="9"), environment(cpu="another"),
        environment(power_limit_w=200.0), header(suite_version="newest"),
        environment(packages={"torch": "2.13.0", "numpy": "=1+1"}),
        on_gpu(environment(cuda=None)),
    ),
    "R210": (
        environment(hardware_id="faster-cpu"), environment(cpu_count=64),
        environment(settings={"devices_together": 2}),
        environment(settings={"devices_together": 0}),
    ),
    "R211": (environment(os="Linux\u202e6"), environment(os="Linux\u200b6"),
             environment(os="e\u0301")),
    "R212": (
        environment(device_name="/home/alice/gpu"), header(only="alice@example.org"),
        both(environment(os="@"), header(only="alice@example.org")),
        outcome(ONE, NotRun(reason="see 192.168.10.12")),
        outcome(ONE, NotRun(reason="ghp_" + "a1" * 12)),
    ),
    "R215": (
        environment(device_memory_bytes=2**52), environment(cpu_count=10**6),
        environment(settings={"cache_bytes": 10**15}), on_gpu(environment(power_limit_w=1e6)),
        on_gpu(environment(clock_max_hz=1980.0)), on_gpu(environment(multiprocessors=10**6)),
        conditions(foreign_load=(1e9,)),
    ),
    "R214": (
        environment(os="Linux {{ 7 * 7 }}"), header(only="&lt;script&gt;"),
        environment(settings={"governor": "<script>alert(1)</script>"}),
        environment(settings={"javascript:alert(1)": True}),
        environment(packages={"torch": "2.13.0", "<img src=x onerror=alert(1)>": "1"}),
    ),
    "R315": (
        header(plan="repro"),
        both(header(plan="repro"), records(lambda r: r if ONE(r.case) else None)),
    ),
    "R317": (
        outcome(ONE, TimedOut(limit_s=61.0)),
        outcome(ONE, Crashed(exit_code=10**6, reason="gone")),
        outcome(ONE, Diverged(step=5, steps=4, reason="loss")),
        outcome(ONE, Incorrect(reason="far", error=1e-3, allowed=2e-3)),
        both(
            lambda stored: header(
                protocol=replace(stored.run.protocol, memory_limit_bytes=2**32))(stored),
            outcome(ONE, OutOfMemory(requested_bytes=1, limit_bytes=2**33, reason="full")),
        ),
    ),
    "R318": (metric(ONE, "flops_torch"), metric(BACKWARD, "saved_memory"),
             metric(seed(0), "loss")),
    "R301": (metric(ONE, "latency"), metric(seed(0), "accuracy"),
             metric(of_kind("frontier"), "largest_tokens"),
             where(ONE, lambda r: replace(r, outcome=replace(
                 r.outcome, measurements=r.outcome.measurements[:1] * 2)))),
    "R302": (metric(ONE, "accuracy", (0.5,)), metric(seed(0), "latency", SAME),
             metric(ONE, "host_latency", SAME)),
    "R303": (metric(of_kind("frontier"), "largest_tokens", (2048, 2048)),
             metric(ONE, "latency", SAME, SLOW), metric(ONE, "flops", (1.0,), (1.0,)),
             metric(ONE, "latency", SAME, SLOW, MANY)),
    "R304": (metric(ONE, "latency", SAME, SLOW, (0.05, 0.06)),),
    "R305": (
        metric(ONE, "latency", SAME, SLOW, (0.0, *SAME)), metric(ONE, "error", (-1.0,)),
        metric(seed(0), "accuracy", (97.5,)), metric(ONE, "peak_memory", (3e6 + 0.5,)),
        sensed("throttled", 0.0, 0.5),
    ),
    "R306": (
        where(ONE, lambda r: replace(r, outcome=replace(r.outcome, batch=2))),
        where(ONE, lambda r: replace(r, outcome=replace(r.outcome, batch=None))),
        where(seed(0), lambda r: replace(r, outcome=replace(r.outcome, batch=1))),
    ),
    "R307": (
        sizes(batch_policy="largest"), sizes(batch=2), sizes(patch_px=None), sizes(patch_px=8),
        sizes(resolution_px=1024), sizes(batch=None, batch_policy="token_budget"),
    ),
    "R308": (case(level="model"),
             where(seed(0), lambda r: replace(r, case=replace(r.case, level="layer")))),
    "R309": (
        outcome(ONE, Unsupported(reasons=("does not feel like it",))),
        where(timed(512, "inline"), lambda r: replace(
            r, case=replace(r.case, stimulus=replace(r.case.stimulus, causal=True)))),
    ),
    "R310": (metric(ONE, "error", (0.5,)),),
    "R313": (outcome(ONE, NotRun(reason=" ")),
             where(ONE, lambda r: replace(r, outcome=replace(r.outcome, measurements=(
                 Unavailable(metric="latency", reasons=("",)),))))),
    "R314": (metric(of_kind("frontier"), "largest_tokens", (10_000_000,)),
             metric(of_kind("frontier"), "largest_tokens", (2047,)),
             metric(of_kind("frontier"), "largest_tokens", (0,))),
    "R401": (scaled(ONE, "flops", 0.5), scaled(timed(512, level="core"), "flops", 2.0)),
    "R402": (scaled(ONE, "parameters", 2.0),),
    "R403": (scaled(ONE, "state_floats", 2.0),),
    "R404": (scaled(ONE, "latency", 0.1), scaled(BACKWARD, "latency", 0.25)),
    "R405": (metric(ONE, "latency", SAME, SLOW, (5e-7, *SAME)),),
    "R406": (
        ceiling("matmul_float32", "flop/s", 1e17), ceiling("matmul_float32", "flop/s", 1e15),
        ceiling("copy_bandwidth", "byte/s", 1e30), on_gpu(ceilings(8e13, name="matmul_float32",
                                                                   unit="flop/s")),
        both(environment(device_name="NVIDIA H200"), ceiling("copy_bandwidth", "byte/s", 9e12)),
    ),
    "R407": (header(ceilings=()),),
    "R408": (metric(ONE, "peak_memory", (1000,)), metric(ONE, "peak_memory", (2**50,))),
    "R409": (scaled(ONE, "predicted_memory", 1.5),),
    "R410": (scaled(ONE, "flops_torch", 0.5), scaled(ONE, "flops_fvcore", 0.5)),
    "R411": (scaled(timed(1024), "latency", 0.05),),
    "R412": (scaled(timed(1024), "latency", 60.0),),
    "R413": (scaled(BACKWARD, "latency", 0.3),),
    "R414": (outcome(ONE, OutOfMemory(requested_bytes=None, limit_bytes=None, reason="full")),),
    "R415": (metric(ONE, "latency_cold", (400.0, *SAME)), conditions(measured_s=310.0),
             conditions(wall_s=1.0, measured_s=1.0), conditions(measured_s=0.01),
             metric(ONE, "latency_cold", (70.0, *SAME)), metric(seed(0), "training_time", (70.0,))),
    "R416": (both(environment(power_limit_w=100.0), both(
        metric(ONE, "energy", (90.0,), (90.0,), (90.0,)),
        metric(ONE, "latency_sustained", SAME, SLOW, SAME[::-1]))),),
    "R418": (
        ceilings(1e-3), ceilings(unit="flop/s"), ceilings(1e30, name="call_overhead", unit="s"),
        ceilings(1e-12, name="call_overhead", unit="s"), ceiling("matmul_float8", "flop/s", 1e11),
        lambda stored: header(ceilings=stored.run.ceilings * 2)(stored),
    ),
    "R419": (metric(BACKWARD, "saved_memory", (2**33,)),),
    "R420": (sensed("clock", 2.5e9, 2.5e9), sensed("power", 1500.0, 1500.0),
             sensed("power", 100.0, 100.0), sensed("energy", 10.0)),
    "R421": (
        sensed("clock", 1.9e9, 1e12), sensed("clock", 1980.0, 1980.0), sensed("power", 5e5),
        sensed("temperature", 330.0), sensed("energy", 1e9),
        metric(BACKWARD, "saved_memory", (2**40,)), metric(ONE, "page_faults", (1e12,)),
    ),
    "R422": (sequence(512, 2**30), sequence(2**16, 2**20)),
    "R417": (scaled(timed(1024), "peak_memory", 0.07),),
    "R508": (
        lambda stored: conditions(noise=tuple(
            replace(pair, case=replace(pair.case, variant="sxftmax"))
            for pair in stored.run.conditions.noise
        ))(stored),
        where(lambda case: case.stimulus == sample().run.conditions.noise[0].case.stimulus
              and case.variant == "inline" and case.backend == "reference", lambda _: None),
    ),
    "R509": (
        noise_of_first(1e-3, 1.001e-3), noise_of_first(sample_latency()),
        lambda stored: conditions(drift=replace(
            stored.run.conditions.drift,
            latencies_s=stored.run.conditions.drift.latencies_s[:2]))(stored),
        lambda stored: conditions(drift=replace(
            stored.run.conditions.drift, latencies_s=((1.0, 1.1),) * 3))(stored),
    ),
    "R510": (conditions(busy=True), conditions(foreign_load=(0.5, 0.1, 0.0))),
    "R507": (metric(ONE, "throttled", (1.0, 0.0)),),
    "R801": (
        metric(timed(224), "receipt", tuple(0.1 * n for n in range(8))),
        metric(timed(224), "receipt", (0.5,)),
        where(timed(224), lambda r: replace(r, case=replace(
            r.case, variant="deformable", level="core"))),
    ),
    "R802": (metric(ONE, "receipt"),),
    "R501": (metric(ONE, "latency", (0.05,) * 6, (0.05,) * 6, (0.05,) * 6),
             metric(ONE, "latency", SAME, SLOW, SAME)),
    "R502": (metric(ONE, "latency", *(((0.05, 0.051, 0.052) * 4)[n:] for n in range(3))),),
    "R503": (metric(ONE, "latency", SAME, times(1.3, SAME), times(1.15, SAME)),),
    "R504": (metric(ONE, "latency", SAME, times(3, SAME), times(2, SAME)),),
    "R505": (metric(ONE, "latency", (0.011, *SAME), SLOW, tuple(s + 0.01 for s in SLOW)),),
    "R506": (
        conditions(busy=True),
        lambda stored: conditions(drift=replace(
            stored.run.conditions.drift, latencies_s=((1.0,), (1.1,), (1.2,))))(stored),
        lambda stored: conditions(noise=tuple(
            replace(pair, latencies_s=((1.0, 1.5),) * 3) for pair in stored.run.conditions.noise
        ))(stored),
    ),
    "R601": (metric(seed(0), "accuracy", (0.9349,)),),
    "R602": (metric(seed(0), "accuracy", (1 / 360,)),),
    "R603": (metric(of_kind("task"), "loss", (0.5,)),
             metric(of_kind("task"), "training_time", (4.0,))),
    "R604": (where(seed(0), lambda _: None),),
    "R607": (
        training(0, losses=(1.0,) * 3, accuracies=(0.5,) * 3, gradient_norms=(1.0,) * 3,
                 clipped=(0.0,) * 3),
        training(0, resumed_after=(10,)), training(0, resumed_after=(4, 2)),
        training(0, precision="float16"), training(0, precision="bfloat16"),
    ),
    "R608": (metric(seed(0), "loss", (1e-6,)),),
    "R605": (
        where(seed(0), lambda r: replace(r, task=None)),
        where(seed(0), lambda r: replace(r, outcome=replace(r.outcome, training=None))),
        where(seed(0), lambda r: replace(r, outcome=replace(r.outcome, training=replace(
            r.outcome.training, losses=(1.0,))))),
        where(timed(512), lambda r: replace(r, task=TaskVersion(revision=1, recipe_sha256=None))),
    ),
    "R606": (where(seed(0), lambda r: replace(r, outcome=replace(
        r.outcome, training=replace(r.outcome.training, data_sha256="0" * 64)))),),
}  # fmt: skip
