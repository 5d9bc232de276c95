"""Rules about outcomes: what each must carry, and that nothing was picked out."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from bench.metric import Unit, metrics
from bench.model import (
    REPRODUCTION,
    DeviceKind,
    DType,
    Frontier,
    Images,
    Ok,
    Plan,
    TaskRun,
    Unavailable,
    Unsupported,
)
from bench.plan import everything, load_plan, only, plan_names, repeating
from bench.roofline import BYTES_OF
from bench.rules.rule import Fault, RunRule, RunUnderTest, shape_of

_REQUIRED = {
    "workload": "latency",
    "images": "latency",
    "frontier": "largest_tokens",
    "task": "accuracy",
}
_SMALL_OUTPUT = 10
"""The gate also allows an absolute error; outputs smaller than a tenth are not timed."""
_WHOLE: tuple[Unit, ...] = ("byte", "flop", "count")


def _required(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        if one.ok is None:
            continue
        listed = [m.metric for m in one.measurements]
        needed = _REQUIRED[one.case.stimulus.kind]
        if needed not in listed:
            yield one.fault(f"outcome ok without {needed}: say what was measured, or why not")
        for name in sorted({name for name in listed if listed.count(name) > 1}):
            yield one.fault(f"metric {name} occurs {listed.count(name)} times, allowed once")


def _applicable(under: RunUnderTest) -> Iterator[Fault]:
    known = {metric.name: metric for metric in metrics()}
    device = under.run.environment.device
    for one in under.records:
        for measurement in one.measurements:
            metric = known.get(measurement.metric)
            if metric is not None and not metric.applies(one.case, device):
                yield one.fault(f"metric {metric.name} does not belong to this case on {device}")


def _rounds(under: RunUnderTest) -> Iterator[Fault]:
    protocol = under.run.protocol
    known = {metric.name: metric for metric in metrics()}
    for one in under.records:
        timed = one.timed is not None
        for name, measured in one.measured.items():
            metric = known.get(name)
            if metric is None:
                continue
            rounds = protocol.rounds if metric.every_round and timed else 1
            if len(measured.rounds) != rounds:
                yield one.fault(f"{name} has {len(measured.rounds)} rounds, must have {rounds}")
            most = max(len(samples) for samples in measured.rounds)
            if most > 1 and not metric.every_round and metric.unit != "value":
                yield one.fault(f"{name} has {most} samples, cannot vary and must have one")
            if most > protocol.most_samples:
                yield one.fault(
                    f"{name} has {most} samples in a round, the protocol keeps up to "
                    f"{protocol.most_samples}"
                )


def _enough_samples(under: RunUnderTest) -> Iterator[Fault]:
    protocol = under.run.protocol
    for one in under.records:
        for samples in one.measured["latency"].rounds if "latency" in one.measured else ():
            spent = sum(samples) + max(samples, default=0.0)
            if len(samples) < protocol.least_samples and spent < protocol.sample_cap_s:
                yield one.fault(
                    f"latency has {len(samples)} samples in {sum(samples):.3g} s, the protocol "
                    f"asks for {protocol.least_samples} unless that takes "
                    f"{protocol.sample_cap_s:g} s"
                )


def _ranges(under: RunUnderTest) -> Iterator[Fault]:
    known = {metric.name: metric for metric in metrics()}
    for one in under.records:
        for name in one.measured:
            if name not in known:
                continue
            unit, samples = known[name].unit, one.samples(name)
            low, high = min(samples), max(samples)
            if unit in ("s", "hz", "w") and low <= 0:
                yield one.fault(f"{name} is {low}, must be more than 0 {unit}")
            elif low < 0 and unit != "value":
                yield one.fault(f"{name} is {low}, must not be negative")
            if unit == "fraction" and high > 1:
                yield one.fault(f"{name} is {high}, allowed 0..1 (a fraction, not percent)")
            exact = unit in _WHOLE and not known[name].every_round  # else a mean over calls
            if exact and not all(float(s).is_integer() for s in samples):
                yield one.fault(f"{name} is not a whole number of {unit}")


def _batch(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        if one.ok is None:
            continue
        asked = one.timed.batch if one.timed else None
        if one.timed is None and one.ok.batch is not None:
            yield one.fault(f"batch {one.ok.batch} on a {one.case.stimulus.kind}: must be null")
        if one.timed is not None and one.ok.batch is None:
            yield one.fault("outcome ok without the batch that ran")
        if asked is not None and one.ok.batch not in (None, asked):
            yield one.fault(f"batch {one.ok.batch} ran, the case asks for {asked}")


def _sizes(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        workload = one.timed
        if workload is None:
            continue
        if (workload.batch is None) != (workload.batch_policy == "largest"):
            yield one.fault(f"batch {workload.batch} under policy {workload.batch_policy}")
        if workload.batch_policy == "one" and workload.batch != 1:
            yield one.fault(f"batch {workload.batch} under policy one")
        images = isinstance(workload, Images)
        if workload.batch_policy == ("token_budget" if images else "image_budget"):
            yield one.fault(f"policy {workload.batch_policy} on a stimulus {workload.kind}")
        if isinstance(workload, Images):
            continue
        pair = (workload.resolution_px, workload.patch_px)
        if (pair[0] is None) != (pair[1] is None):
            yield one.fault("resolution_px and patch_px go together: give both or none")
        elif pair[0] is not None and pair[1] is not None:
            side = pair[0] // pair[1]
            if (workload.grid.height, workload.grid.width) != (side, side):
                yield one.fault(
                    f"{pair[0]} px in patches of {pair[1]} px are {side}x{side} tokens, grid is "
                    f"{workload.grid.height}x{workload.grid.width}"
                )


def _levels(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        model = isinstance(one.case.stimulus, TaskRun | Images)
        if model != (one.case.level == "model"):
            yield one.fault(f"level {one.case.level} with a {one.case.stimulus.kind}")


def _support(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        if one.network is not None and isinstance(one.timed, Images) and one.ok is not None:
            if reasons := one.network.unsupported(one.timed.resolution_px):
                yield one.fault(f"measured, but the network refuses it: {'; '.join(reasons)}")
            continue
        if one.spec is None or one.options is None or one.workload is None:
            continue
        reasons = one.spec.unsupported(shape_of(one.workload, one.batch or 1), one.options)
        if reasons and isinstance(one.record.outcome, Ok):
            yield one.fault(f"measured, but {one.case.variant} refuses it: {'; '.join(reasons)}")
        plain = one.case.backend == "reference" and one.case.level == "layer"
        if not reasons and plain and isinstance(one.record.outcome, Unsupported):
            yield one.fault(f"unsupported, but {one.case.variant} computes this shape: measure it")


def _incorrect(under: RunUnderTest) -> Iterator[Fault]:
    from bench.gate import REFERENCE_TOLERANCE  # noqa: PLC0415 - imports torch

    for one in under.records:
        error = one.summary("error")
        if error is None or one.timed is None:
            continue
        if one.spec is not None and not one.spec.traits.continuous:
            continue  # one other choice moves an element far; the gate takes the mean
        allowed = REFERENCE_TOLERANCE[one.timed.dtype]
        most = allowed.relative + _SMALL_OUTPUT * allowed.absolute
        if not math.isfinite(error.value) or error.value > most:
            yield one.fault(
                f"error {error.value:.3g} relative to the float64 reference, allowed {most:.3g}: "
                "the outcome is incorrect, not ok"
            )


def _coverage(under: RunUnderTest) -> Iterator[Fault]:
    plan = _plan_that_ran(under)
    if plan is None:
        return
    present = {one.case.id for one in under.records}
    missing = [case.id for case in plan.cases if case.id not in present]
    if missing:
        yield Fault(
            "run.json",
            f"{len(missing)} of {len(plan.cases)} cases of plan {plan.name} are missing, e.g. "
            f"{missing[0]}: a case that failed is a result too",
        )
    planned = {case.id for case in plan.cases}
    for one in under.records:
        if one.case.id not in planned:
            yield one.fault(f"not a case of plan {plan.name}")


def _repeated_once(under: RunUnderTest) -> Iterator[Fault]:
    """A reproduction is one case by the protocol of what it repeats; its digest says so."""
    run = under.run
    if run.plan != REPRODUCTION:
        return
    if len(under.records) != 1:
        yield Fault("run.json", f"{len(under.records)} records in a reproduction: must be one")
        return
    drift = run.conditions.drift
    case = under.records[0].case
    expected = repeating(case, run.protocol, anchor=drift.case if drift else case)
    if run.plan_digest != expected.digest:
        yield Fault(
            "run.json",
            "plan_digest is not that of a reproduction of its case: write it with "
            "`attnbench repro ROW --submit`",
        )


def _plan_unknown(under: RunUnderTest) -> Iterator[Fault]:
    if under.run.plan in plan_names() and _plan_that_ran(under) is None:
        yield Fault(
            "run.json",
            f"plan_digest is not that of plan {under.run.plan} in this tree: whether cases are "
            "missing cannot be checked",
        )


def _plan_that_ran(under: RunUnderTest) -> Plan | None:
    """The plan of this tree with the run's digest, if there is one.

    A plan grows with every variant added to the tree, so it is tried as it is now and with the
    variants that the run knew.
    """
    run = under.run
    if run.plan not in plan_names():
        return None
    dtypes: list[DType] = sorted({one.workload.dtype for one in under.records if one.workload})
    asked: list[tuple[DType, ...]] = [(), tuple(dtypes)]
    asked.extend((dtype,) for dtype in dtypes)
    recorded = frozenset(one.record.case.variant for one in under.records)
    for choice, known in itertools.product(asked, (None, recorded)):
        plan = _plan(run.plan, run.environment.device, choice, run.only, known)
        if plan is not None and plan.digest == run.plan_digest:
            return plan
    return None


@cache
def _plan(
    name: str,
    device: DeviceKind,
    dtypes: tuple[DType, ...],
    pattern: str | None,
    known: frozenset[str] | None,
) -> Plan | None:
    scope = everything(device, dtypes or None, pattern)
    if known is not None:
        scope = replace(scope, variants=tuple(v for v in scope.variants if v in known))
    plan = load_plan(name, scope)
    if pattern is None:
        return plan
    try:
        return only(plan, pattern)
    except ValueError:
        return None


def _reasons(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        for measurement in one.measurements:
            if isinstance(measurement, Unavailable) and not all(
                reason.strip() for reason in measurement.reasons
            ):
                yield one.fault(f"{measurement.metric} is unavailable without a reason")
        reason = getattr(one.record.outcome, "reason", None)
        if reason is not None and not reason.strip():
            yield one.fault(f"outcome {one.record.outcome.kind} without a reason")


def _frontier(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        found = one.summary("largest_tokens")
        stimulus = one.case.stimulus
        if found is None or not isinstance(stimulus, Frontier):
            continue
        output = found.value * stimulus.heads * stimulus.head_dim * BYTES_OF[stimulus.dtype]
        if output > stimulus.memory_bytes:
            yield one.fault(
                f"largest_tokens {found.value:.0f}: the output alone has {output:.0f} bytes, the "
                f"budget is {stimulus.memory_bytes}"
            )


RULES = (
    RunRule(id="R301", severity="error", help="An ok without its number.", find=_required),
    RunRule(id="R302", severity="error", help="A metric of another case.", find=_applicable),
    RunRule(id="R303", severity="error", help="Not the protocol's rounds.", find=_rounds),
    RunRule(id="R304", severity="error", help="Too few samples.", find=_enough_samples),
    RunRule(id="R305", severity="error", help="Outside the unit's range.", find=_ranges),
    RunRule(id="R306", severity="error", help="Another batch than asked for.", find=_batch),
    RunRule(id="R307", severity="error", help="Sizes that contradict.", find=_sizes),
    RunRule(id="R308", severity="error", help="A level without its stimulus.", find=_levels),
    RunRule(id="R309", severity="error", help="Support misstated.", find=_support),
    RunRule(id="R310", severity="error", help="Wrong, but called ok.", find=_incorrect),
    RunRule(id="R311", severity="error", help="Cases missing or added.", find=_coverage),
    RunRule(id="R312", severity="review", help="Plan of another tree.", find=_plan_unknown),
    RunRule(id="R313", severity="error", help="A failure without a reason.", find=_reasons),
    RunRule(id="R314", severity="error", help="A frontier beyond memory.", find=_frontier),
    RunRule(id="R315", severity="error", help="Not a reproduction.", find=_repeated_once),
)
