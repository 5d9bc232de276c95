"""Receipts: a few values of the output that was timed, which anybody can compute again on a CPU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.call import call_of
from bench.model import Case, DType, Workload
from bench.subject import shape_of, subject_of

VALUES = 8
"""Values of a receipt."""
SEED = 1
"""Set before a call, for layers that draw random numbers when they are built or called."""
ALLOWED: dict[DType, float] = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference from the recomputed values, relative to the largest value of the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """What the receipt of a case must be."""

    values: tuple[float, ...]
    largest: float
    """Largest absolute value of the whole output."""


def receipt(output: Tensor) -> tuple[float, ...]:
    """Return values from all over `output`; an odd stride visits every axis."""
    flat = output.detach().reshape(-1)
    stride = max(1, flat.numel() // VALUES - 1) | 1
    return tuple(flat[::stride][:VALUES].double().tolist())


def recomputed(case: Case, batch: int) -> Recomputed:
    """Compute the receipt of a workload with the reference in float64, on this CPU.

    Args:
        case: a workload.
        batch: sequences of the call as it ran.

    Raises:
        TypeError: the case is not a workload.
        CannotRun: the variant refuses the case.
    """
    blueprint = subject_of(case, "cpu").blueprint
    if blueprint is None or not isinstance(case.stimulus, Workload):
        raise TypeError(f"{case.id}: a {case.stimulus.kind} has no receipt")
    call = call_of(blueprint.reference(), shape_of(case.stimulus, batch), sets=1).in_float64()
    torch.manual_seed(SEED)
    with call.mode():
        (output, *_) = call(0)
    if output is None:
        raise TypeError(f"{case.id}: the reference gave no output")
    return Recomputed(values=receipt(output), largest=float(output.detach().abs().max()))
