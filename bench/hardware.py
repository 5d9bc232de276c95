"""Limits of this machine, measured at the start and at the end of a run."""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.cuda import jiterator

from bench.model import Ceiling, DeviceKind
from bench.stimulus import normal

_REPETITIONS = 5
_LEAST_S = 0.04
_LEAST_MATMUL_SIZE = 128
_MATMUL_SIZE: dict[DeviceKind, int] = {"cpu": 1024, "cuda": 8192}
_VECTOR_ELEMENTS: dict[DeviceKind, int] = {"cpu": 16 << 20, "cuda": 256 << 20}
_EXP_ELEMENTS: dict[DeviceKind, int] = {"cpu": 1 << 18, "cuda": 16 << 20}
_EXP_CHAIN = 64
"""Exponentials for each number that a GPU reads and writes: fewer, and memory would bind."""
_EXP_KERNEL = (
    "template <typename T> T exponentials(T x) {"
    f" for (int i = 0; i < {_EXP_CHAIN}; ++i) x = exp(-x);"
    " return x; }"
)
_DTYPES = ("float32", "bfloat16", "float16")
_HOST_GATHERING_CALLS = 200


def ceilings(device: DeviceKind) -> tuple[Ceiling, ...]:
    """Measure matmul rate per dtype, copy bandwidth, exp rate and the overhead of a call.

    About 2 s on a CPU. Every repetition is kept; the ceiling is the best of them, because
    interference only adds time.
    """
    found = [_matmul(device, dtype) for dtype in _DTYPES]
    exponentials = _exp(device) if device == "cpu" else _exp_on_cuda()
    return (*found, _copy(device), *exponentials, _overhead(device))


def _matmul(device: DeviceKind, dtype: str) -> Ceiling:
    """Grow the matrices until one product is long enough: float16 is very slow on many CPUs."""
    size = _LEAST_MATMUL_SIZE
    while size < _MATMUL_SIZE[device]:
        if _clocked(device, _product(device, dtype, size), 1) >= _LEAST_S:
            break
        size *= 2
    seconds = _seconds(device, _product(device, dtype, size))
    return Ceiling(
        name=f"matmul_{dtype}",
        unit="flop/s",
        samples=tuple(2 * size**3 / s for s in seconds),
        detail=f"{size} x {size} times {size} x {size}, random values, output allocated before",
    )


def _product(device: DeviceKind, dtype: str, size: int) -> Callable[[], Tensor]:
    kind = getattr(torch, dtype)
    a, b = (normal(f"ceiling/{n}", (size, size), dtype=kind, device=device) for n in "ab")
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _copy(device: DeviceKind) -> Ceiling:
    source = normal("ceiling/copy", (_VECTOR_ELEMENTS[device],), device=device)
    target = torch.zeros_like(source)
    moved = 2 * source.numel() * source.element_size()
    seconds = _seconds(device, lambda: target.copy_(source))
    return Ceiling(
        name="copy_bandwidth",
        unit="byte/s",
        samples=tuple(moved / s for s in seconds),
        detail=f"copy of {moved // 2} bytes; bytes read and written are both counted",
    )


def _exp(device: DeviceKind) -> tuple[Ceiling, ...]:
    source = normal("ceiling/exp", (_EXP_ELEMENTS[device],), device=device)
    out = torch.empty_like(source)
    seconds = _seconds(device, lambda: torch.exp(source, out=out))
    return (
        Ceiling(
            name="exp_rate",
            unit="op/s",
            samples=tuple(source.numel() / s for s in seconds),
            detail=f"exp of {source.numel()} float32 values",
        ),
    )


def _exp_on_cuda() -> tuple[Ceiling, ...]:
    """A chain of exponentials in registers; none where torch cannot compile it at run time.

    torch.exp would read and write eight bytes for each one, which is the copy bandwidth again.
    """
    source = normal("ceiling/exp", (_EXP_ELEMENTS["cuda"],), device="cuda")
    try:
        chained = jiterator._create_jit_fn(_EXP_KERNEL)  # pyright: ignore[reportPrivateUsage] - no public one
        seconds = _seconds("cuda", partial(chained, source))
    except RuntimeError:
        return ()
    return (
        Ceiling(
            name="exp_rate",
            unit="op/s",
            samples=tuple(_EXP_CHAIN * source.numel() / s for s in seconds),
            detail=f"{_EXP_CHAIN} times exp(-x), in turn, of {source.numel()} float32 values",
        ),
    )


def _overhead(device: DeviceKind) -> Ceiling:
    """Time of a call that computes nothing: Python, dispatcher and, on CUDA, the launch."""
    one = torch.ones(1, device=device)

    def block() -> Tensor:
        for _ in range(_HOST_GATHERING_CALLS):
            one.add_(1)
        return one

    seconds = _seconds(device, block)
    return Ceiling(
        name="call_overhead",
        unit="s",
        samples=tuple(s / _HOST_GATHERING_CALLS for s in seconds),
        detail="in-place addition to one element, back to back",
    )


def _seconds(device: DeviceKind, run: Callable[[], Tensor]) -> list[float]:
    """Seconds of one `run`, once a repetition; each repetition lasts at least 40 ms."""
    run()
    calls = max(1, math.ceil(_LEAST_S / max(_clocked(device, run, 1), 1e-9)))
    return [_clocked(device, run, calls) / calls for _ in range(_REPETITIONS)]


def _clocked(device: DeviceKind, run: Callable[[], Tensor], calls: int) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter_ns()
    for _ in range(calls):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter_ns() - start) * 1e-9
