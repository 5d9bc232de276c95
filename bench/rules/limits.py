"""Rules about what no machine is and no sensor shows, and what does not fit together.

Every bound leaves hardware of the next ten years room: it finds slips of units and inventions, not
fast machines.
"""

from collections import Counter
from collections.abc import Iterator

from bench.metric import metrics
from bench.model import Ceiling, Environment
from bench.rules.rule import Fault, RecordUnderTest, RunRule, RunUnderTest

Bounds = tuple[float, float]

MACHINE: dict[str, Bounds] = {
    "device_memory_bytes": (2**26, 2**50),
    "cpu_count": (1, 2**16),
    "multiprocessors": (1, 10_000),
    "power_limit_w": (1.0, 2e4),
    "clock_max_hz": (1e7, 2e10),
}
"""What fields of the environment can be."""
CACHE_BYTES: Bounds = (2**10, 2**36)
MOST_FOREIGN_CPUS = 2**16

CEILINGS = {
    "matmul_float32": "flop/s",
    "matmul_bfloat16": "flop/s",
    "matmul_float16": "flop/s",
    "copy_bandwidth": "byte/s",
    "exp_rate": "op/s",
    "call_overhead": "s",
}
"""What `bench/hardware.py` measures, and in which unit."""
LONGEST_MEASURING_S = 240.0
"""A worker that has not measured the ceilings by then is killed: `bench/launch.py`."""
_LEAST_WORK = {"flop/s": 2 * 128**3, "byte/s": 2 * 4 * (16 << 20), "op/s": 1 << 18, "s": 200}
"""Of one repetition, by unit: operations, bytes, exponentials, calls."""
_SHORTEST_OVERHEAD_S = 3e-8
"""Python and the dispatcher take ten times as long on the fastest CPUs."""
SENSED: dict[str, Bounds] = {"w": (1e-2, 2e4), "hz": (1e6, 2e10), "celsius": (-60.0, 150.0)}
"""What sensors of a GPU can show, by unit."""
_SHORTEST_FAULT_S = 1e-9
"""The system takes a hundred times as long for one page."""


def _machine(under: RunUnderTest) -> Iterator[Fault]:
    environment = under.run.environment
    for name, value, bounds in _stated(environment):
        if value is not None and not bounds[0] <= value <= bounds[1]:
            yield Fault(
                "run.json",
                f"environment.{name} is {value:g}, allowed {bounds[0]:g} to {bounds[1]:g}: state "
                "the machine as `attnbench run` read it",
            )
    load = under.run.conditions.foreign_load
    if load and max(load) > MOST_FOREIGN_CPUS:
        yield Fault(
            "run.json",
            f"conditions.foreign_load reaches {max(load):g} CPUs, allowed up to "
            f"{MOST_FOREIGN_CPUS}: leave it as the run wrote it",
        )


def _stated(environment: Environment) -> Iterator[tuple[str, float | None, Bounds]]:
    for name, bounds in MACHINE.items():
        yield name, getattr(environment, name), bounds
    cache = environment.settings.get("cache_bytes")
    if isinstance(cache, int | float) and not isinstance(cache, bool):
        yield "settings.cache_bytes", cache, CACHE_BYTES


def _ceilings(under: RunUnderTest) -> Iterator[Fault]:
    counted = Counter(ceiling.name for ceiling in under.run.ceilings)
    for name, times in sorted(counted.items()):
        if times > 1:
            yield Fault("run.json", f"ceiling {name} occurs {times} times, allowed once")
    for ceiling in under.run.ceilings:
        unit = CEILINGS.get(ceiling.name)
        if unit is None:
            allowed = ", ".join(CEILINGS)
            yield Fault("run.json", f"ceiling {ceiling.name}: allowed {allowed}")
        elif ceiling.unit != unit:
            yield Fault("run.json", f"ceiling {ceiling.name} in {ceiling.unit}, must be in {unit}")
        else:
            yield from _samples(ceiling)


def _samples(ceiling: Ceiling) -> Iterator[Fault]:
    """A repetition whose work is known took no longer than a worker is given."""
    work, samples = _LEAST_WORK[ceiling.unit], ceiling.samples
    slowest_s = max(samples) * work if ceiling.unit == "s" else work / min(samples)
    if slowest_s > LONGEST_MEASURING_S:
        yield Fault(
            "run.json",
            f"ceiling {ceiling.name}: one repetition took {slowest_s:.3g} s at least, and all of "
            f"them are given {LONGEST_MEASURING_S:g} s: leave them as they were measured",
        )
    if ceiling.unit == "s" and min(samples) < _SHORTEST_OVERHEAD_S:
        yield Fault(
            "run.json",
            f"ceiling {ceiling.name} is {min(samples):.3g} s, allowed from "
            f"{_SHORTEST_OVERHEAD_S:g} s: no call through Python is that short",
        )


def _sensed(under: RunUnderTest) -> Iterator[Fault]:
    units = {metric.name: metric.unit for metric in metrics()}
    environment, timeout_s = under.run.environment, under.run.protocol.timeout_s
    most_j = SENSED["w"][1] * timeout_s
    for one in under.records:
        for name, measured in one.measured.items():
            unit = units.get(name)
            if unit is None:
                continue  # R201 says so
            low, high = min(map(min, measured.rounds)), max(map(max, measured.rounds))
            least, most = SENSED.get(unit, (low, high))
            if low < least or high > most:
                yield one.fault(
                    f"{name} reaches from {low:g} to {high:g}, a sensor shows {least:g} to "
                    f"{most:g} {unit}"
                )
            if unit == "j" and high > most_j:
                yield one.fault(
                    f"{name} is {high:.3g} J a call, {SENSED['w'][1]:g} W give {most_j:g} J in the "
                    f"{timeout_s:g} s of a visit"
                )
        yield from _resident(one, environment.device_memory_bytes)
        yield from _faulted(one, environment.threads)


def _resident(one: RecordUnderTest, device_bytes: int) -> Iterator[Fault]:
    for name in ("resident_memory", "saved_memory"):
        found = one.summary(name)
        if found is not None and found.value > device_bytes:
            yield one.fault(f"{name} {found.value:.0f} bytes, the device has {device_bytes}")


def _faulted(one: RecordUnderTest, threads: int) -> Iterator[Fault]:
    for name, clock in (("page_faults", "latency_cold"), ("page_faults_warm", "latency")):
        faults, seconds = one.samples(name), one.samples(clock)
        if faults and seconds and max(faults) * _SHORTEST_FAULT_S > threads * max(seconds):
            yield one.fault(
                f"{name} is {max(faults):.3g} in a call of {max(seconds):.3g} s: the system takes "
                "longer for so many pages"
            )


def _sensors_differ(under: RunUnderTest) -> Iterator[Fault]:
    environment = under.run.environment
    for one in under.records:
        clock, power = one.summary("clock"), one.summary("power")
        fastest, limit = environment.clock_max_hz, environment.power_limit_w
        if clock and fastest and clock.value > 1.1 * fastest:
            yield one.fault(
                f"clock is {clock.value:.3g} Hz, environment.clock_max_hz {fastest:.3g} Hz"
            )
        if power and limit and power.value > 1.5 * limit:
            yield one.fault(
                f"power is {power.value:.3g} W, environment.power_limit_w {limit:.3g} W"
            )
        energy, seconds = one.summary("energy"), one.summary("latency_sustained")
        if energy and seconds and power:
            implied_w = energy.value / seconds.value
            if not 1 / _POWERS_DIFFER < implied_w / power.value < _POWERS_DIFFER:
                yield one.fault(
                    f"energy and time of a call give {implied_w:.3g} W, the power sensor shows "
                    f"{power.value:.3g} W"
                )


_POWERS_DIFFER = 3.0
"""One is a mean over the run with its pauses, the other is read between blocks."""

RULES = (
    RunRule(id="R215", severity="error", help="Beyond any machine.", find=_machine),
    RunRule(id="R418", severity="error", help="Ceilings nobody measures.", find=_ceilings),
    RunRule(id="R420", severity="review", help="Sensors that contradict.", find=_sensors_differ),
    RunRule(id="R421", severity="error", help="Beyond any sensor.", find=_sensed),
)
