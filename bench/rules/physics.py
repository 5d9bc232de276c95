"""Rules about what a machine can do: costs are computed again, impossible numbers are refused."""

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import replace
from itertools import pairwise

from bench.asked_layer import parameters_of
from bench.curves import exponent
from bench.model import DeviceKind, GridSize, Images, Ok, OutOfMemory, TaskRun, canonical
from bench.peaks import KNOWN_PEAKS
from bench.roofline import MOST_EFFICIENCY
from bench.rules.floors import floor_of
from bench.rules.rule import Fault, RecordUnderTest, RunRule, RunUnderTest

SHORTEST_CALL_S = 1e-6
"""No call of an attention, on any machine, through Python."""
HIGHEST_CEILINGS: dict[DeviceKind, dict[str, float]] = {
    "cuda": {"flop/s": 1e16, "byte/s": 1e14, "op/s": 1e15},
    "cpu": {"flop/s": 1e14, "byte/s": 1e13, "op/s": 1e12},
}
"""Of one GPU, and of one thread of a CPU: ten times and more what the fastest of today reach."""
_OVERHEAD_S = 3e-5
"""Below this, latency is fixed cost and need not grow with size."""


def _flops(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        found = one.summary("flops")
        if found is not None and one.network is not None and isinstance(one.timed, Images):
            side, batch = one.timed.resolution_px, one.batch or 1
            if one.network.unsupported(side):
                continue
            if found.value != (expected := one.network.flops(side, batch=batch)):
                yield one.fault(f"flops is {found.value:.0f}, the formula gives {expected}")
        call = one.computable
        if found is None or call is None:
            continue
        core = one.case.level == "core"
        formula = call.spec.core_flops if core else call.spec.flops
        expected = formula(call.shape, call.options)
        if found.value != expected:
            yield one.fault(f"flops is {found.value:.0f}, the variant's formula gives {expected}")


def _parameters(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        found = one.summary("parameters")
        call = one.computable
        if found is None or call is None:
            continue
        shape = call.shape.with_batch(1)
        expected = parameters_of(call.spec.name, call.options, shape, one.case.level)
        if expected is None:
            yield one.fault(
                f"parameters is {found.value:.0f}, but no layer of these options can be built: "
                "state the options that ran"
            )
        elif found.value != expected:
            yield one.fault(f"parameters is {found.value:.0f}, the built layer has {expected}")


def _state(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        found = one.summary("state_floats")
        call = one.computable
        if found is None or call is None:
            continue
        expected = call.spec.state_floats(call.shape, call.options)
        if found.value != expected:
            yield one.fault(f"state_floats is {found.value:.0f}, the formula gives {expected}")


def _floor(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        samples = one.samples("latency")
        floor = floor_of(under, one) if samples else None
        if floor is not None and floor.seconds > MOST_EFFICIENCY * min(samples):
            yield one.fault(
                f"a latency of {min(samples):.3g} s is below the floor of {floor.seconds:.3g} s "
                f"({floor.bound}) that the run's own ceilings give: something was not computed, or "
                "the ceilings were measured on a busier machine"
            )


def _shortest(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        samples = one.samples("latency")
        if samples and min(samples) < SHORTEST_CALL_S:
            yield one.fault(f"a latency of {min(samples):.3g} s, allowed from {SHORTEST_CALL_S} s")


def _ceilings(under: RunUnderTest) -> Iterator[Fault]:
    environment = under.run.environment
    parts = environment.threads if environment.device == "cpu" else 1
    for ceiling in under.run.ceilings:
        one = HIGHEST_CEILINGS[environment.device].get(ceiling.unit)
        if one is not None and max(ceiling.samples) > parts * one:
            yield Fault(
                "run.json",
                f"ceiling {ceiling.name} is {max(ceiling.samples):.3g} {ceiling.unit}, allowed up "
                f"to {parts * one:.0e} on this kind of machine",
            )
    known = KNOWN_PEAKS.get(environment.device_name)
    if known is None:
        return
    limits = {
        "matmul_bfloat16": known.half_flop_s,
        "matmul_float16": known.half_flop_s,
        "copy_bandwidth": known.bandwidth_byte_s,
    }
    if environment.settings.get("float32_matmul_precision") == "highest":  # without TF32
        limits["matmul_float32"] = known.float32_flop_s
    for name, limit in limits.items():
        found = under.ceilings.get(name)
        if found is not None and found > 1.1 * limit:
            yield Fault(
                "run.json", f"ceiling {name} is {found:.3g}, the vendor promises {limit:.3g}"
            )


def _needed_ceilings(under: RunUnderTest) -> Iterator[Fault]:
    needed = {f"matmul_{one.timed.dtype}" for one in under.records if one.timed and one.ok}
    for name in sorted(({*needed, "copy_bandwidth", "call_overhead"}) - set(under.ceilings)):
        yield Fault("run.json", f"ceiling {name} is missing: latencies cannot be judged")


def _counters(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        formula = one.summary("flops")
        if formula is None or one.spec is None or one.spec.uncounted is not None:
            continue
        for name in ("flops_torch", "flops_fvcore"):
            counted = one.summary(name)
            if counted is not None and counted.value != formula.value:
                yield one.fault(
                    f"{name} is {counted.value:.0f}, flops {formula.value:.0f}, and the variant "
                    "declares nothing uncounted"
                )


def _monotone(under: RunUnderTest) -> Iterator[Fault]:
    for series in _series(under):
        for (tokens, small), (more, large) in pairwise(series):
            a, b = small.summary("latency"), large.summary("latency")
            if a is None or b is None or more < 2 * tokens or a.value < _OVERHEAD_S:
                continue
            if b.value < 0.85 * a.value:
                yield large.fault(
                    f"{more} tokens take {b.value:.3g} s, {tokens} tokens {a.value:.3g} s"
                )


def _slopes(under: RunUnderTest) -> Iterator[Fault]:
    for series in _series(under):
        timed = [
            (tokens, found.value)
            for tokens, one in series
            if (found := one.summary("latency")) and found.value > 1e-3
        ]
        spec, options = series[-1][1].spec, series[-1][1].options
        fit = exponent([t for t, _ in timed], [v for _, v in timed]) if len(timed) > 2 else None
        if fit is None or spec is None or options is None or fit.points < 3:
            continue
        most = max(1.0, spec.order(options)) + 0.6
        if not 0.5 <= fit.value <= most:
            yield series[-1][1].fault(
                f"latency grows as tokens to the power {fit.value:.2f}, expected 0.5 to {most:.1f}"
            )


def _backward(under: RunUnderTest) -> Iterator[Fault]:
    forward = {
        _without(one, "passes"): one
        for one in under.records
        if one.workload and one.workload.passes == "forward"
    }
    for one in under.records:
        if one.workload is None or one.workload.passes == "forward":
            continue
        alone = forward.get(_without(one, "passes"))
        a, b = alone.summary("latency") if alone else None, one.summary("latency")
        if a and b and a.value > _OVERHEAD_S and b.value < 1.1 * a.value:
            yield one.fault(
                f"forward and backward take {b.value:.3g} s, forward alone {a.value:.3g} s"
            )


def _memory_order(under: RunUnderTest) -> Iterator[Fault]:
    for series in _series(under, failures=True):
        failed = None
        for tokens, one in series:
            if isinstance(one.record.outcome, OutOfMemory):
                failed = failed or tokens
            elif failed is not None and isinstance(one.record.outcome, Ok):
                yield one.fault(f"{tokens} tokens fit, {failed} tokens ran out of memory")


def _memory_shrinks(under: RunUnderTest) -> Iterator[Fault]:
    for series in _series(under):
        for (tokens, small), (more, large) in pairwise(series):
            a, b = small.summary("peak_memory"), large.summary("peak_memory")
            if a and b and more >= 2 * tokens and b.value < 0.98 * a.value:
                yield large.fault(
                    f"{more} tokens hold {b.value:.0f} bytes, {tokens} tokens {a.value:.0f}: must "
                    "not become less; find out what was not counted"
                )


def _time_adds_up(under: RunUnderTest) -> Iterator[Fault]:
    conditions, timeout_s = under.run.conditions, under.run.protocol.timeout_s
    sampled = sum(
        sum(one.samples(name))
        for one in under.records
        for name in _COUNTED
        if name != "training_time" or not _resumed(one)
    )
    if conditions.measured_s > 1.02 * conditions.wall_s:
        yield Fault(
            "run.json",
            f"conditions.measured_s {conditions.measured_s:.3g} is more than wall_s "
            f"{conditions.wall_s:.3g}",
        )
    if sampled > 1.02 * conditions.wall_s:
        yield Fault(
            "run.json",
            f"samples of time sum to {sampled:.3g} s, the whole run took {conditions.wall_s:.3g} s",
        )
    elif sampled > 1.001 * conditions.measured_s:
        yield Fault(
            "run.json",
            f"samples of time sum to {sampled:.6g} s, conditions.measured_s is "
            f"{conditions.measured_s:.6g}: it counts these and more",
        )
    for one in under.records:
        longest = _longest_visit_s(one)
        if longest > 1.02 * timeout_s:
            yield one.fault(
                f"a visit took {longest:.3g} s at least, and is killed after "
                f"protocol.timeout_s {timeout_s:g} s"
            )


_COUNTED = (
    "latency", "latency_cold", "latency_sustained", "latency_graph", "host_latency",
    "training_time",
)  # fmt: skip
"""Metrics whose samples are part of `Conditions.measured_s`."""


def _resumed(one: RecordUnderTest) -> bool:
    """Whether a training went on from a checkpoint: its time is that of several visits."""
    return bool(one.ok and one.ok.training and one.ok.training.resumed_after)


def _longest_visit_s(one: RecordUnderTest) -> float:
    """Seconds that the samples of one round took at least, all clocks together."""
    if isinstance(one.case.stimulus, TaskRun):
        return 0.0 if _resumed(one) else sum(one.samples("training_time"))
    clocks = [one.measured[name].rounds for name in _COUNTED if name in one.measured]
    visits = [sum(map(sum, rounds)) for rounds in itertools.zip_longest(*clocks, fillvalue=())]
    if visits:
        visits[0] += sum(one.samples("first_call"))
    return max(visits, default=0.0)


def _power(under: RunUnderTest) -> Iterator[Fault]:
    limit = under.run.environment.power_limit_w
    for one in under.records:
        energy, latency = one.summary("energy"), one.summary("latency_sustained")
        if limit and energy and latency and energy.value > 1.15 * limit * latency.value:
            yield one.fault(
                f"{energy.value / latency.value:.0f} W on average, the power limit is {limit:.0f} W"
            )


def _without(one: RecordUnderTest, field: str) -> Hashable:
    """Identity of a timed case without its passes, or without its size."""
    workload = one.workload
    if workload is None:
        return one.case.id
    if field == "passes":
        rest = replace(workload, passes="forward")
    else:
        image = workload.resolution_px is not None
        rest = replace(
            workload,
            grid=GridSize(height=1 if workload.grid.height == 1 else 2, width=2),
            resolution_px=1 if image else None,
            patch_px=1 if image else None,
        )
    options = tuple(sorted(one.case.options.items()))
    return (one.case.variant, one.case.backend, options, one.case.level, canonical(rest))


def _series(
    under: RunUnderTest, *, failures: bool = False
) -> list[list[tuple[int, RecordUnderTest]]]:
    """Cases that differ in size alone, each series sorted by tokens (batch 1 only)."""
    found: dict[Hashable, list[tuple[int, RecordUnderTest]]] = defaultdict(list)
    for one in under.records:
        workload = one.workload
        if workload is not None and workload.batch_policy == "one" and (one.ok or failures):
            found[_without(one, "size")].append((workload.tokens, one))
    return [sorted(series, key=lambda item: item[0]) for series in found.values()]


RULES = (
    RunRule(id="R401", severity="error", help="FLOPs are not the formula's.", find=_flops),
    RunRule(id="R402", severity="error", help="Parameters miscounted.", find=_parameters),
    RunRule(id="R403", severity="error", help="State is not the formula's.", find=_state),
    RunRule(id="R404", severity="error", help="Faster than the machine.", find=_floor),
    RunRule(id="R405", severity="error", help="Shorter than any call.", find=_shortest),
    RunRule(id="R406", severity="error", help="Ceilings beyond hardware.", find=_ceilings),
    RunRule(id="R407", severity="review", help="Ceilings missing.", find=_needed_ceilings),
    RunRule(id="R410", severity="review", help="FLOP counters disagree.", find=_counters),
    RunRule(id="R411", severity="review", help="Faster with more tokens.", find=_monotone),
    RunRule(id="R412", severity="review", help="Unexpected scaling.", find=_slopes),
    RunRule(id="R413", severity="review", help="Backward for nothing.", find=_backward),
    RunRule(id="R414", severity="review", help="Fits after not fitting.", find=_memory_order),
    RunRule(id="R415", severity="error", help="More time than passed.", find=_time_adds_up),
    RunRule(id="R416", severity="review", help="More power than allowed.", find=_power),
    RunRule(id="R417", severity="review", help="Less memory for more.", find=_memory_shrinks),
)
