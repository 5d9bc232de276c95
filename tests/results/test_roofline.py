"""Floors, least traffic and what is not believed."""

import pytest
from sample_run import sample_cases, sample_header

from bench import roofline
from bench.model import Workload

CEILINGS = {"matmul_float32": 1e9, "copy_bandwidth": 1e6, "call_overhead": 1e-3}


def workload(passes: str) -> Workload:
    cases = sample_cases("softmax")
    found = (c.stimulus for c in cases if isinstance(c.stimulus, Workload) and c.level == "layer")
    return next(s for s in found if s.passes == passes and s.resolution_px == 512)


def test_the_largest_term_binds() -> None:
    kinds = {
        "compute": roofline.floor(CEILINGS, dtype="float32", flops=1e9, moved_bytes=1.0),
        "memory": roofline.floor(CEILINGS, dtype="float32", flops=1.0, moved_bytes=1e6),
        "overhead": roofline.floor(CEILINGS, dtype="float32", flops=1.0, moved_bytes=1.0),
    }
    assert {name: f.bound for name, f in kinds.items() if f} == {name: name for name in kinds}
    assert [f.seconds for f in kinds.values() if f] == [1.0, 1.0, 1e-3]


def test_unknown_terms_are_left_out() -> None:
    found = roofline.floor(CEILINGS, dtype="bfloat16", flops=1e12, moved_bytes=None)
    assert found == roofline.Floor(seconds=1e-3, bound="overhead")
    assert roofline.floor({}, dtype="float32", flops=1.0, moved_bytes=1.0) is None


def test_least_bytes_by_hand() -> None:
    forward = workload("forward")
    stream = 2 * 1024 * 192
    layer = {"batch": 2, "level": "layer", "parameters": 100, "streams": 3}
    assert roofline.least_bytes(forward, **layer) == 4 * (2 * stream + 100)
    core = {"batch": 2, "level": "core", "parameters": 0, "streams": 3}
    assert roofline.least_bytes(forward, **core) == 4 * 4 * stream
    assert roofline.least_bytes(forward, **{**core, "streams": 2}) == 4 * 3 * stream
    backward = workload("forward_backward")
    assert roofline.least_bytes(backward, **layer) == 2 * 4 * (2 * stream + 100)


def test_backward_has_two_gradients_a_contraction() -> None:
    assert roofline.total_flops(7, workload("forward")) == 7
    assert roofline.total_flops(7, workload("forward_backward")) == 21


def test_caches_hide_main_memory_on_cpu_only() -> None:
    assert roofline.from_memory(100.0, "cuda", None) == 100.0
    assert roofline.from_memory(100.0, "cpu", None) is None
    assert roofline.from_memory(100.0, "cpu", 50.0) is None
    assert roofline.from_memory(400.0, "cpu", 50.0) == 400.0


def test_best_is_the_highest_rate_and_the_shortest_time() -> None:
    assert roofline.best(sample_header().ceilings) == {
        "matmul_float32": 2e11, "copy_bandwidth": 2e10, "call_overhead": 2e-6,
    }  # fmt: skip


@pytest.mark.parametrize(("efficiency", "believed"), [(0.5, True), (1.02, True), (1.03, False)])
def test_what_is_not_believed(efficiency: float, believed: bool) -> None:
    assert roofline.implausible(efficiency) is not believed


@pytest.mark.parametrize(
    ("value", "size"), [(1024, 1024.0), (None, None), (True, None), ("x", None)]
)
def test_cache_size_where_recorded(value: object, size: float | None) -> None:
    assert roofline.cache_bytes({"cache_bytes": value}) == size
