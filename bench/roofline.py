"""What the machine could do at best: work, least traffic, floor and efficiency. Imports no torch.

Floor = max(FLOPs / peak, least bytes / bandwidth, overhead of a call), with the peak, bandwidth and
overhead that were measured on the same machine in the same run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bench.model import Ceiling, DeviceKind, Images, Level, Scalar, Timed

Bound = Literal["compute", "memory", "overhead"]

BYTES_OF = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number."""
BACKWARD_FACTOR = 3
"""Contractions of forward and backward over those of forward: each has two gradients."""
MOST_EFFICIENCY = 1.02
"""Above this a measurement beats the machine's own ceilings and is not believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Least time that one call can take here."""

    seconds: float
    bound: Bound
    """Which term is the largest."""


def best(ceilings: tuple[Ceiling, ...]) -> dict[str, float]:
    """Return the best sample of each ceiling: the highest rate, the shortest time."""
    return {c.name: min(c.samples) if c.unit == "s" else max(c.samples) for c in ceilings}


def total_flops(forward_flops: float, workload: Timed) -> float:
    """FLOPs of one call: forward, and twice that again when gradients are computed.

    What a backend computes a second time to save memory does not count.
    """
    passes = BACKWARD_FACTOR if workload.passes == "forward_backward" else 1
    return passes * forward_flops


def least_bytes(
    workload: Timed, *, batch: int, level: Level, parameters: float, streams: int
) -> float:
    """Bytes that one call must move at least: everything outside is touched once.

    Inputs and parameters are read, the output is written; with backward the output's gradient and
    the inputs are read, the gradients of inputs and parameters are written.

    Args:
        workload: sizes.
        batch: sequences that ran.
        level: `core` reads `streams` inputs, `layer` one, `model` images of three channels.
        parameters: learned numbers at this level.
        streams: distinct inputs of the core: 3, or 2 where the keys are the queries.
    """
    if isinstance(workload, Images):
        # the logits are too few to matter beside the images
        forward = 3 * batch * workload.resolution_px**2 + parameters
    else:
        stream = batch * workload.tokens * workload.heads * workload.head_dim
        inputs = streams if level == "core" else 1
        forward = (inputs + 1) * stream + parameters
    passes = 2 if workload.passes == "forward_backward" else 1
    return passes * forward * BYTES_OF[workload.dtype]


def floor(
    ceilings: Mapping[str, float], *, dtype: str, flops: float, moved_bytes: float | None
) -> Floor | None:
    """Return the floor of a call; None where no term is known.

    Args:
        ceilings: best value by name, see `best`.
        dtype: chooses `matmul_<dtype>`.
        flops: of the whole call, see `total_flops`.
        moved_bytes: see `least_bytes`; None where the data may come from a cache.
    """
    peak = ceilings.get(f"matmul_{dtype}")
    bandwidth = ceilings.get("copy_bandwidth")
    compute = flops / peak if peak else None
    memory = moved_bytes / bandwidth if bandwidth and moved_bytes is not None else None
    overhead = ceilings.get("call_overhead")
    terms: tuple[tuple[Bound, float | None], ...] = (
        ("compute", compute), ("memory", memory), ("overhead", overhead),
    )  # fmt: skip
    known: list[tuple[float, Bound]] = [(s, bound) for bound, s in terms if s is not None]
    if not known:
        return None
    seconds, bound = max(known)
    return Floor(seconds=seconds, bound=bound)


def from_memory(moved_bytes: float, device: DeviceKind, cache_bytes: float | None) -> float | None:
    """Return the bytes that certainly pass main memory: `moved_bytes`, or None if not certain.

    CUDA runs start with a cold L2 cache. On CPU the last call may have left its data in the caches,
    so main memory bounds only what is much larger than they are.
    """
    if device == "cuda":
        return moved_bytes
    return moved_bytes if cache_bytes and moved_bytes >= 4 * cache_bytes else None


def cache_bytes(settings: Mapping[str, Scalar | None]) -> float | None:
    """Size of the last-level cache, where the run recorded it."""
    found = settings.get("cache_bytes")
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def implausible(efficiency: float) -> bool:
    """Whether floor / measured is more than the machine can do."""
    return efficiency > MOST_EFFICIENCY
