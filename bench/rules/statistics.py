"""Rules about samples: numbers that were measured look measured."""

from collections.abc import Iterator
from statistics import fmean, median, stdev

from bench.derived import drift, noise
from bench.load import is_busy
from bench.model import Measured
from bench.rules.rule import Fault, RecordUnderTest, RunRule, RunUnderTest, same

TIMES = ("latency", "latency_cold", "host_latency", "latency_sustained", "latency_graph")
"""Metrics whose samples come from a clock."""
_ENOUGH = 5
"""Samples from which a clock must show different values."""
LARGEST_NOISE = 0.1
LARGEST_DRIFT = 0.05


def timed(one: RecordUnderTest) -> Iterator[tuple[str, Measured]]:
    """Yield the measurements that a clock made."""
    for name in TIMES:
        if name in one.measured:
            yield name, one.measured[name]


def _constant(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        for name, measured in timed(one):
            samples = one.samples(name)
            if len(samples) >= _ENOUGH and len(set(samples)) == 1:
                yield one.fault(f"all {len(samples)} samples of {name} are {samples[0]}")
            rounds = [r for r in measured.rounds if len(r) >= _ENOUGH]
            if len(set(rounds)) < len(rounds):
                yield one.fault(f"two rounds of {name} are the same, sample by sample")


def _quantised(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        for name, _ in timed(one):
            samples = one.samples(name)
            if len(samples) >= 20 and 1 < len(set(samples)) < _ENOUGH:
                yield one.fault(f"{len(samples)} samples of {name}, {len(set(samples))} values")


def _spread(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        variation = _variation(one)
        if variation is not None and 0.1 < variation <= 0.3:
            yield one.fault(f"round medians of latency vary by {variation:.0%}: noisy")


def _wild(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        variation = _variation(one)
        if variation is not None and variation > 0.3:
            yield one.fault(f"round medians of latency vary by {variation:.0%}, allowed 30 %")


def _variation(one: RecordUnderTest) -> float | None:
    found = one.summary("latency")
    if found is None or len(found.medians) < 3:
        return None
    return stdev(found.medians) / fmean(found.medians)


def _skipped_work(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        samples = one.samples("latency")
        if samples and min(samples) < 0.3 * median(samples):
            yield one.fault(
                f"the fastest call took {min(samples):.3g} s, the median {median(samples):.3g} s: "
                "was a result remembered?"
            )


def _quiet(under: RunUnderTest) -> Iterator[Fault]:
    conditions = under.run.conditions
    if conditions.busy:
        yield Fault("run.json", "the machine was busy: numbers are marked")
    moved = drift(conditions.drift) if conditions.drift else None
    if moved and abs(moved[0]) > LARGEST_DRIFT:
        yield Fault("run.json", f"the anchor case drifted by {moved[0]:+.1%} through the run")
    found = noise(conditions.noise)
    if found and found.interleaved > LARGEST_NOISE:
        yield Fault("run.json", f"noise floor {found.interleaved:.1%}: few rows can be told apart")


def _throttled(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        samples = one.samples("throttled")
        if samples and (share := fmean(samples)) > 0:
            yield one.fault(f"the clock was held down in {share:.0%} of the readings: throttled")


def _noise_of_others(under: RunUnderTest) -> Iterator[Fault]:
    present = {one.case.id for one in under.records}
    for pair in under.run.conditions.noise:
        if pair.case.id not in present:
            yield Fault(
                "run.json",
                f"conditions.noise holds {pair.case.id}, which is no record of this run: the noise "
                "floor is that of cases that were measured",
            )


def _other_medians(under: RunUnderTest) -> Iterator[Fault]:
    """The first visit of a round is the record's own, so that its median can be computed again."""
    measured = {one.case.id: found for one in under.records if (found := one.summary("latency"))}
    conditions = under.run.conditions
    stated = [("noise", pair) for pair in conditions.noise]
    if conditions.drift is not None:
        stated.append(("drift", conditions.drift))
    for name, repeated in stated:
        found = measured.get(repeated.case.id)
        if found is None:
            continue
        where = f"conditions.{name} of {repeated.case.id}"
        if len(repeated.latencies_s) != len(found.medians):
            yield Fault(
                "run.json",
                f"{where} has {len(repeated.latencies_s)} rounds, the record has "
                f"{len(found.medians)}: leave it as the run wrote it",
            )
            continue
        for visits, median_s in zip(repeated.latencies_s, found.medians, strict=True):
            if not same(visits[0], median_s, _ROUNDING):
                yield Fault(
                    "run.json",
                    f"{where} begins a round with {visits[0]:.6g} s, the median of the record's "
                    f"samples is {median_s:.6g} s: leave it as the run wrote it",
                )
            if name == "noise" and len(visits) < 2:
                yield Fault("run.json", f"{where} has a round of one visit, must be two")


_ROUNDING = 1e-4
"""Relative difference of medians of rounded samples and of samples as they were."""


def _busy_or_not(under: RunUnderTest) -> Iterator[Fault]:
    conditions = under.run.conditions
    if conditions.busy != is_busy(conditions.foreign_load):
        told = "busy" if conditions.busy else "quiet"
        yield Fault(
            "run.json",
            f"conditions.busy says that the machine was {told}, conditions.foreign_load says that "
            "it was not: leave both as the run wrote them",
        )


RULES = (
    RunRule(id="R501", severity="error", help="Samples do not vary.", find=_constant),
    RunRule(id="R502", severity="review", help="Samples take few values.", find=_quantised),
    RunRule(id="R503", severity="flag", help="Noisy.", find=_spread),
    RunRule(id="R504", severity="review", help="Rounds disagree.", find=_wild),
    RunRule(id="R505", severity="review", help="A call did no work.", find=_skipped_work),
    RunRule(id="R506", severity="flag", help="The machine was not quiet.", find=_quiet),
    RunRule(id="R507", severity="flag", help="Throttled.", find=_throttled),
    RunRule(id="R508", severity="error", help="Noise of other cases.", find=_noise_of_others),
    RunRule(id="R509", severity="error", help="Medians of other samples.", find=_other_medians),
    RunRule(id="R510", severity="error", help="Busy, or not.", find=_busy_or_not),
)
