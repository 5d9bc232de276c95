"""Rules about outcomes: what each must carry, and that nothing was picked out."""

import math
from collections import Counter
from collections.abc import Iterator
from functools import cache

from bench.asked_layer import workload_shape
from bench.metric import Unit, metrics
from bench.model import (
    PROTOCOL_VERSION,
    Crashed,
    Diverged,
    Frontier,
    Images,
    Incorrect,
    Ok,
    OutOfMemory,
    TaskRun,
    TimedOut,
    Unavailable,
    Unsupported,
)
from bench.roofline import BYTES_OF
from bench.rules.rule import (
    ABOVE_ZERO,
    Fault,
    RecordUnderTest,
    RunRule,
    RunUnderTest,
)

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
        for name, times in sorted(Counter(listed).items()):
            if times > 1:
                yield one.fault(f"metric {name} occurs {times} times, allowed once")


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
            if unit in ABOVE_ZERO and low <= 0:
                yield one.fault(f"{name} is {low}, must be more than 0 {unit}")
            elif low < 0 and unit not in ("value", "celsius"):
                yield one.fault(f"{name} is {low}, must not be negative")
            if unit == "fraction" and high > 1:
                yield one.fault(f"{name} is {high}, allowed 0..1 (a fraction, not percent)")
            if unit == "fraction" and known[name].every_round and not set(samples) <= {0, 1}:
                yield one.fault(f"{name} reaches from {low} to {high}, each reading is 0 or 1")
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
        reasons = one.spec.unsupported(workload_shape(one.workload, one.batch or 1), one.options)
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


def _contradicts_itself(under: RunUnderTest) -> Iterator[Fault]:
    protocol = under.run.protocol
    for one in under.records:
        match one.record.outcome:
            case TimedOut(limit_s=limit) if limit != protocol.timeout_s:
                yield one.fault(
                    f"timed out after {limit:g} s, protocol.timeout_s is {protocol.timeout_s:g} s"
                )
            case OutOfMemory(limit_bytes=int(limit)) if _other_limit(one, limit):
                yield one.fault(
                    f"out of memory at a limit of {limit} bytes, protocol.memory_limit_bytes is "
                    f"{protocol.memory_limit_bytes}"
                )
            case Crashed(exit_code=code) if not -_MOST_SIGNALS <= code <= _MOST_STATUS:
                yield one.fault(
                    f"exit_code is {code}, a process ends with -{_MOST_SIGNALS} to {_MOST_STATUS}"
                )
            case Diverged(step=step, steps=steps) if step > steps:
                yield one.fault(f"diverged at step {step} of {steps}")
            case Incorrect(error=float(error), allowed=float(allowed)) if error <= allowed:
                yield one.fault(f"incorrect by {error:.3g}, but {allowed:.3g} is allowed")
            case _:
                pass


_MOST_SIGNALS, _MOST_STATUS = 64, 255
"""What the system tells of the end of a process."""


def _other_limit(one: RecordUnderTest, limit_bytes: int) -> bool:
    """Whether it is not the protocol's; the search for the largest batch has one of its own."""
    stated = one.run.protocol.memory_limit_bytes
    searched = one.timed is not None and one.timed.batch_policy == "largest"
    return stated is not None and not searched and limit_bytes != stated


def _left_out(under: RunUnderTest) -> Iterator[Fault]:
    """A visit measures all that applies, or says why not: one tree cannot do so for some rows."""
    device = under.run.environment.device
    listed = [(one, {m.metric for m in one.measurements}) for one in under.records if one.ok]
    for metric in metrics():
        due = [(one, names) for one, names in listed if metric.applies(one.case, device)]
        without = [one for one, names in due if metric.name not in names]
        if len(without) < len(due):
            for one in without:
                yield one.fault(
                    f"{metric.name} is missing, {len(due) - len(without)} other rows of this run "
                    "have it: it is measured, or unavailable with a reason"
                )


@cache
def _sizes_tried() -> frozenset[float]:
    from bench.frontier import ladder  # noqa: PLC0415 - imports torch

    return frozenset(ladder())


def _frontier(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        found = one.summary("largest_tokens")
        stimulus = one.case.stimulus
        if found is None or not isinstance(stimulus, Frontier):
            continue
        output = found.value * stimulus.heads * stimulus.head_dim * BYTES_OF[stimulus.dtype]
        if under.run.protocol.version == PROTOCOL_VERSION and found.value not in _sizes_tried():
            yield one.fault(
                f"largest_tokens {found.value:.0f} is none of the sizes that are tried, 16 an "
                "octave: measure it"
            )
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
    RunRule(id="R313", severity="error", help="A failure without a reason.", find=_reasons),
    RunRule(id="R314", severity="error", help="A frontier beyond memory.", find=_frontier),
    RunRule(id="R317", severity="error", help="A failure that is none.", find=_contradicts_itself),
    RunRule(id="R318", severity="review", help="A metric left out.", find=_left_out),
)
