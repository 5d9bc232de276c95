"""The contributor's fast loop: `nox -s micro -- -k inline --benchmark-compare`.

The same calls as the sweep's cases (layer level, batch 1), through pytest-benchmark's fixture with
a clock that waits for the device, with FLOPs and memory in `extra_info`. In the ordinary test suite
each runs once. Never feeds results/: one process, no rounds over a shuffled plan, no failures kept.
"""

import time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from attention_impls import backends, names
from bench.blueprint import CannotRun
from bench.call import call_of
from bench.cases import image, workload_case
from bench.memory import counted_peak
from bench.subject import shape_of, subject_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = "bfloat16" if DEVICE == "cuda" else "float32"
EXECUTIONS = [
    (variant, backend)
    for variant in names()
    for backend in backends(variant)
    if backend not in ("compile", "flex") and not backend.startswith("sdpa_")
]


def device_clock() -> float:
    """Seconds, read after everything queued on the device is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@pytest.mark.benchmark(timer=device_clock, warmup=True, warmup_iterations=5, min_rounds=10)
@pytest.mark.parametrize("passes", ["forward", "forward_backward"])
@pytest.mark.parametrize("side", [224, 512])
@pytest.mark.parametrize(("variant", "backend"), EXECUTIONS, ids="/".join)
def test_layer(
    benchmark: BenchmarkFixture, variant: str, backend: str, side: int, passes: str
) -> None:
    case = workload_case(variant, backend, image(side), dtype=DTYPE, passes=passes)
    subject = subject_of(case, DEVICE)
    shape = shape_of(case.stimulus, 1)
    try:
        call = call_of(subject.blueprint, shape)
    except CannotRun as refusal:
        pytest.skip(str(refusal))
    benchmark.group = f"{side} px {passes} {DTYPE}"
    benchmark.extra_info["flops_forward"] = subject.spec.flops(shape)
    with call.mode():
        output = benchmark(call, 0)
    if not benchmark.disabled:
        benchmark.extra_info["peak_memory_bytes"] = counted_peak(call)
    assert output[0].shape == call.blueprint.output_shape(shape)
