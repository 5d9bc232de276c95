"""The CUDA measurement path on hardware: run by `nox -s gpu`, never without a GPU."""

import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import hardware
from bench.call import Call, call_of
from bench.cases import frontier_case
from bench.frontier import largest_tokens
from bench.model import Case, GridSize, Measured, Ok, OutOfMemory, Protocol, Workload, to_json
from bench.peaks import KNOWN_PEAKS
from bench.subject import shape_of, subject_of
from bench.timing_cuda import time_graph, time_on_device
from bench.visit import visit

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
PROTOCOL = Protocol(
    rounds=3, warmup_s=0.1, warmup_cap_s=0.4, sample_s=0.15, least_samples=5, most_samples=60,
    sample_cap_s=1.0, timeout_s=120.0, anchor_every=25,
)  # fmt: skip
TINY, LARGE = 16, 16_384
_PROCESSES = 5
_MOST_VARIATION = 0.01


def case(tokens: int, backend: str = "sdpa", passes: Any = "forward", batch: int = 4) -> Case:
    return Case(
        variant="softmax",
        backend=backend,
        options={},
        level="core",
        stimulus=Workload(
            batch=batch, batch_policy="token_budget", grid=GridSize(height=1, width=tokens),
            heads=16, head_dim=64, dtype="bfloat16", passes=passes,
        ),
    )  # fmt: skip


def prepared(chosen: Case) -> Call:
    subject = subject_of(chosen, "cuda")
    stimulus = chosen.stimulus
    assert isinstance(stimulus, Workload)
    assert subject.blueprint is not None
    assert stimulus.batch is not None
    return call_of(subject.blueprint, shape_of(stimulus, stimulus.batch))


def measured(chosen: Case) -> dict[str, Measured]:
    outcome = visit(chosen, 0, PROTOCOL, "cuda").outcome
    assert isinstance(outcome, Ok), outcome
    return {m.metric: m for m in outcome.measurements if isinstance(m, Measured)}


def middle(found: dict[str, Measured], name: str) -> float:
    return statistics.median(found[name].rounds[0])


class Spinning:
    """A call of a known number of cycles on the device."""

    sets = 1

    def __init__(self, cycles: int) -> None:
        self.cycles = cycles

    def __call__(self, _index: int) -> tuple[torch.Tensor, ...]:
        torch.cuda._sleep(self.cycles)
        return ()

    def mode(self) -> Any:
        return torch.inference_mode()


def test_the_timer_sees_what_the_device_was_busy_with() -> None:
    short, long = (
        statistics.median(time_on_device(Spinning(n), PROTOCOL, "no sensor").burst_s)
        for n in (2_000_000, 4_000_000)
    )
    assert long / short == pytest.approx(2, rel=0.03)


def test_events_agree_with_the_host_clock_on_a_long_call() -> None:
    found = time_on_device(prepared(case(LARGE)), PROTOCOL, "no sensor")
    assert statistics.median(found.host_s) == pytest.approx(
        statistics.median(found.burst_s), rel=0.1
    )


class Copying:
    """Copies one of several sources, each far smaller than the L2 cache, all together larger."""

    def __init__(self, sets: int, elements: int) -> None:
        self.sets = sets
        self.sources = [torch.randn(elements, device="cuda") for _ in range(sets)]
        self.target = torch.empty_like(self.sources[0])

    def __call__(self, index: int) -> tuple[torch.Tensor, ...]:
        self.target.copy_(self.sources[index % self.sets])
        return ()

    def mode(self) -> Any:
        return torch.inference_mode()


def test_inputs_that_rotate_find_the_cache_cold() -> None:
    elements = torch.cuda.get_device_properties(0).L2_cache_size // 32
    one, many = (
        statistics.median(time_on_device(Copying(n, elements), PROTOCOL, "no sensor").burst_s)
        for n in (1, 64)
    )
    assert many > 1.1 * one


def test_a_short_call_is_launch_bound_and_a_long_one_is_not() -> None:
    assert middle(measured(case(TINY, "reference", batch=1)), "launch_bound") == 1
    assert middle(measured(case(LARGE)), "launch_bound") == 0


def test_a_graph_has_no_launches_and_is_the_same_call() -> None:
    tiny = measured(case(TINY, "reference", batch=1))
    assert middle(tiny, "latency_graph") < middle(tiny, "host_latency")
    large = prepared(case(LARGE))
    burst = statistics.median(time_on_device(large, PROTOCOL, "no sensor").burst_s)
    assert statistics.median(time_graph(large, PROTOCOL)) == pytest.approx(burst, rel=0.1)


def test_sensors_clocks_and_energy_are_read_or_say_why_not() -> None:
    outcome = visit(case(LARGE), 0, PROTOCOL, "cuda").outcome
    assert isinstance(outcome, Ok), outcome
    by_name = {m.metric: m for m in outcome.measurements}
    for name in ("clock", "power", "temperature", "throttled", "energy"):
        found = by_name[name]
        if isinstance(found, Measured):
            assert all(value >= 0 for value in found.rounds[0]), name
        else:
            assert all(found.reasons), name
    power, energy = by_name["power"], by_name["energy"]
    if isinstance(power, Measured) and isinstance(energy, Measured):
        sustained = statistics.median(measured(case(LARGE))["latency_sustained"].rounds[0])
        implied = statistics.median(energy.rounds[0]) / sustained
        assert implied == pytest.approx(statistics.median(power.rounds[0]), rel=0.3)


@pytest.mark.parametrize("passes", ["forward", "forward_backward"])
def test_peak_memory_repeats_to_the_byte(passes: str) -> None:
    twice = [measured(case(4096, passes=passes))["peak_memory"].rounds for _ in range(2)]
    assert twice[0] == twice[1]


def test_what_does_not_fit_is_out_of_memory_and_the_next_visit_is_not_harmed() -> None:
    # scores of 64 heads, 2^18 tokens squared: 8 TB
    outcome = visit(case(2**18, "reference"), 0, PROTOCOL, "cuda").outcome
    assert isinstance(outcome, OutOfMemory), outcome
    assert middle(measured(case(4096)), "latency") > 0


def test_the_frontier_is_bisected_to_both_sides() -> None:
    chosen = frontier_case(
        "softmax", "reference", memory_bytes=2**30, dtype="bfloat16", passes="forward"
    )
    subject = subject_of(chosen, "cuda")
    assert subject.blueprint is not None
    found, wider = (
        largest_tokens(subject.blueprint, replace(chosen.stimulus, memory_bytes=size)).tokens
        for size in (2**30, 2**32)
    )
    # the scores are what fills the memory: four times the bytes, twice the tokens
    assert wider / found == pytest.approx(2, rel=0.15)


def test_ceilings_are_below_what_the_vendor_promises() -> None:
    ceilings = {c.name: c for c in hardware.ceilings("cuda")}
    assert set(ceilings) >= {"matmul_bfloat16", "copy_bandwidth", "exp_rate", "call_overhead"}
    assert 1e-7 < min(ceilings["call_overhead"].samples) < 1e-4
    peak = KNOWN_PEAKS.get(torch.cuda.get_device_name(0))
    if peak is None:
        pytest.skip("no published peaks for this GPU in bench/peaks.py")
    assert 0.5 < max(ceilings["copy_bandwidth"].samples) / peak.bandwidth_byte_s <= 1
    assert 0.4 < max(ceilings["matmul_bfloat16"].samples) / peak.half_flop_s <= 1
    assert max(ceilings["matmul_float32"].samples) <= peak.float32_flop_s, "TF32 is on"


FRESH = """
import json, statistics, sys
from bench.model import Case, Protocol, from_json
from bench.visit import visit
case, protocol = (from_json(kind, json.loads(text)) for kind, text in
                  ((Case, sys.argv[1]), (Protocol, sys.argv[2])))
outcome = visit(case, 1, protocol, "cuda").outcome
found = {m.metric: m for m in outcome.measurements}
print(statistics.median(found["latency"].rounds[0]))
"""


def test_processes_agree_within_one_percent() -> None:
    """Between-process coefficient of variation of medians: the noise that rounds see."""
    asked = [json.dumps(to_json(value)) for value in (case(LARGE), PROTOCOL)]
    medians = [
        float(
            subprocess.run(
                [sys.executable, "-c", FRESH, *asked],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()[-1]
        )
        for _ in range(_PROCESSES)
    ]
    assert statistics.stdev(medians) / statistics.fmean(medians) <= _MOST_VARIATION, medians
