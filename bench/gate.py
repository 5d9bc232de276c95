"""Whether a call is the function it claims to be; nothing is timed before it has passed.

The rule, bounded in time and memory:

* At the case's own shape: type, shape, dtype and finiteness of the output; inputs unchanged; other
  inputs give another output in other memory.
* Against the reference in float64, forward and every gradient: at the case's own shape where the
  reference's arithmetic stays below a limit and its memory can be had; otherwise with batch 1, then
  on ever smaller grids of the same proportions, built anew with the same options. The outcome says
  which shape it was.
  A mechanism that is not continuous is judged by the root mean square instead of the largest
  difference: rounding may change a choice, and with it a few tokens of the output.
* After timing: a call that was timed gives what it gave before, and new values in the same memory
  give the output that belongs to them. This refuses a module that turns wrong, or that remembers
  outputs by the identity of its inputs.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import DType, Tolerance
from bench.blueprint import CannotRun
from bench.call import Call, Outputs, call_of
from bench.failures import is_out_of_memory
from bench.model import Incorrect
from bench.receipt import SEED, receipt
from bench.subject import Subject

REFERENCE_TOLERANCE: dict[DType, Tolerance] = {
    "float32": Tolerance(absolute=1e-4, relative=1e-2),
    "bfloat16": Tolerance(absolute=2e-2, relative=2e-1),
    "float16": Tolerance(absolute=4e-3, relative=5e-2),
}
"""What rounding may do to a reference itself; its real error is a metric, this bounds nonsense."""
FLOP_LIMIT_FIRST_ROUND = 8e9
"""Forward FLOPs up to which the float64 reference runs at the case's own shape, in round 0."""
FLOP_LIMIT_LATER = 1e9
"""The same in later rounds, where the case has passed before and a new process is checked."""
_PRINTS = 512


class Wrong(Exception):  # noqa: N818 - an outcome of a case, not an error of ours
    """The call is not the function it claims to be."""

    def __init__(
        self, reason: str, error: float | None = None, allowed: float | None = None
    ) -> None:
        super().__init__(reason)
        self.outcome = Incorrect(reason=reason, error=_number(error), allowed=_number(allowed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What the gate saw of a call that it let through."""

    error: float
    """Largest |got - want| of the output divided by the largest |want|."""
    gradient_error: float | None
    """The same for the worst gradient; None for a forward pass alone."""
    checked: str | None
    """Shape of the comparison with float64, where it is not the case's own."""
    prints: tuple[Outputs, Outputs]
    """A few elements of each result on the first two input sets."""
    receipt: tuple[float, ...]
    """Values of the output on the first input set that are published."""
    first_call_s: float
    """Time of the very first call, which compiles what is compiled."""


def admit(call: Call, *, flop_limit: float) -> Passed:
    """Check `call`; costs three calls and one of the reference in float64.

    Raises:
        Wrong: with what was compared and how it failed.
    """
    prints, published, first_call_s = _behaviour(call)
    for shape in _shapes(call, flop_limit):
        own = shape == call.shape
        try:
            smaller = call if own else call_of(call.blueprint, shape, sets=1)
            error, gradient_error = _against_float64(smaller)
        except (RuntimeError, MemoryError) as failure:
            if not is_out_of_memory(failure):
                raise
            continue
        return Passed(
            error=error,
            gradient_error=gradient_error,
            checked=None if own else _words(call, shape),
            prints=prints,
            receipt=published,
            first_call_s=first_call_s,
        )
    raise CannotRun(("no shape is small enough for the float64 reference",))


def _words(call: Call, shape: AttentionShape) -> str:
    if call.blueprint.level == "model":
        return f"batch {shape.batch}, {shape.grid} px"
    return f"batch {shape.batch}, grid {shape.grid}"


def confirm(call: Call, passed: Passed, timed: Outputs) -> None:
    """Check after timing; `timed` is what a timed call gave on the first input set.

    Raises:
        Wrong: a result is no longer what it was when the gate let the call through.
    """
    if not call.blueprint.spec.traits.deterministic_eval:
        return
    first, second = passed.prints
    _same(call, timed, first, "a timed call gave another result than the checked one")
    kept = [t.detach().clone() for t in call.inputs[0]]
    try:
        _overwrite(call.inputs[0], call.inputs[1])
        with call.mode():
            fresh = call(0)
        _same(call, fresh, second, "new values in the same memory did not give their own output")
    finally:
        _overwrite(call.inputs[0], kept)


def passed(subject: Subject) -> Passed:
    """What the gate saw of the subject's call.

    Raises:
        TypeError: the call has not passed the gate in this visit.
    """
    found = subject.memo.get("passed")
    if not isinstance(found, Passed):
        raise TypeError(f"{subject.case.id}: has not passed the gate")
    return found


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def relative_error(got: Tensor, want: Tensor) -> float:
    """Largest |got - want| divided by the largest |want|; the plain difference where want is 0."""
    difference = float((got.double() - want).abs().max())
    scale = float(want.abs().max())
    return difference / scale if scale > 0 else difference


def _behaviour(call: Call) -> tuple[tuple[Outputs, Outputs], tuple[float, ...], float]:
    """Return prints and receipt of the output, and the seconds of the very first call."""
    before = [t.detach().clone() for t in call.inputs[0]]
    torch.manual_seed(SEED)
    start = time.perf_counter_ns()
    with call.mode():
        first = call(0)
    if call.blueprint.device == "cuda":
        torch.cuda.synchronize()
    first_call_s = (time.perf_counter_ns() - start) * 1e-9
    _form(call, first)
    for role, (now, then) in enumerate(zip(call.inputs[0], before, strict=True)):
        if not torch.equal(now, then):
            raise Wrong(f"input {role} was changed by the call; inputs must not be written to")
    del before
    out = _tensor(first[0])
    if out.untyped_storage().data_ptr() in call.resident:
        raise Wrong("the output lies in the memory of an input or parameter")
    prints, published = tuple(map(_print, first)), receipt(out)
    torch.manual_seed(SEED)
    with call.mode():
        second = call(1)
    _form(call, second)
    if _tensor(second[0]).untyped_storage().data_ptr() == out.untyped_storage().data_ptr():
        raise Wrong("the output lies in the memory of the previous output, which was still in use")
    if torch.equal(_tensor(second[0]), out):
        raise Wrong("different inputs gave the same output: it is cached or ignores its inputs")
    return (prints, tuple(map(_print, second))), published, first_call_s


def _form(call: Call, results: Outputs) -> None:
    """Type, shape, dtype and finiteness."""
    out = results[0]
    if not isinstance(out, Tensor):
        raise Wrong(f"the output is a {type(out).__name__}, must be a tensor")
    right = call.blueprint.output_shape(call.shape)
    if tuple(out.shape) != right:
        raise Wrong(f"the output's shape is {tuple(out.shape)}, must be {right}")
    if out.dtype != call.blueprint.torch_dtype:
        raise Wrong(f"the output's dtype is {out.dtype}, must be {call.blueprint.torch_dtype}")
    for name, tensor in zip(_names(call), results, strict=True):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise Wrong(f"{name} has values that are not finite (NaN or infinity)")


def _against_float64(call: Call) -> tuple[float, float | None]:
    """Compare each result with float64; return the relative errors of output and gradients."""
    torch.manual_seed(SEED)
    with call.mode():
        got = call(0)
    _form(call, got)
    exact = call.in_float64()
    torch.manual_seed(SEED)
    with exact.mode():
        want = exact(0)
    errors: dict[str, float] = {}
    for name, one, other in zip(_names(call), got, want, strict=True):
        if one is None or other is None:
            lone = one if other is None else other
            if lone is not None and bool(lone.any()):
                raise Wrong(f"{name} exists on one side only: the graph is cut or grown")
            continue
        _within(call, name, one.detach(), other.detach())
        errors[name] = relative_error(one.detach(), other.detach())
    error = errors.pop("the output")
    return error, max(errors.values(), default=None)


def _within(call: Call, name: str, got: Tensor, want: Tensor) -> None:
    blueprint = call.blueprint
    if blueprint.backend is None:
        tolerance = REFERENCE_TOLERANCE[blueprint.dtype]
    elif blueprint.dtype in blueprint.backend.tolerance:
        tolerance = blueprint.backend.tolerance[blueprint.dtype]
    else:
        raise CannotRun(
            (f"backend {blueprint.backend.name} states no tolerance for {blueprint.dtype}",)
        )
    size = _largest if blueprint.spec.traits.continuous else _root_mean_square
    difference = size(got.double() - want)
    allowed = tolerance.absolute + tolerance.relative * size(want)
    if not difference <= allowed:
        raise Wrong(
            f"{name} differs from the float64 reference by {difference:.3g}, "
            f"allowed {allowed:.3g} "
            f"({blueprint.dtype}, grid {call.grid}, batch {call.shape.batch})",
            difference,
            allowed,
        )


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


def _root_mean_square(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _shapes(call: Call, flop_limit: float) -> Iterator[AttentionShape]:
    """The case's own shape if affordable, then batch 1, then ever smaller grids."""
    shape, blueprint = call.shape, call.blueprint
    passes = 3 if call.backward else 1
    one = replace(shape, batch=1)
    for candidate in (shape, one, *(one.with_grid(grid) for grid in _smaller(shape.grid))):
        affordable = passes * blueprint.flops(candidate) <= flop_limit
        if affordable and not blueprint.refusals(candidate):
            yield candidate


def _smaller(grid: Grid) -> Iterator[Grid]:
    height, width = grid.height, grid.width
    while height * width > 1:
        height, width = max(1, height // 2), max(1, width // 2)
        yield Grid(height, width)


def _names(call: Call) -> list[str]:
    if not call.backward:
        return ["the output"]
    return ["the output", *(f"the gradient of {name}" for name in call.leaves[0])]


def _tensor(value: Tensor | None) -> Tensor:
    if value is None:
        raise TypeError("the output is None after its form was checked")
    return value


def _print(result: Tensor | None) -> Tensor | None:
    """A few hundred elements spread evenly over a result."""
    if result is None:
        return None
    flat = result.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _PRINTS)].clone()


def _same(call: Call, results: Outputs, prints: Outputs, reason: str) -> None:
    for name, result, before in zip(_names(call), results, prints, strict=True):
        if result is None or before is None:
            continue
        now = _print(result)
        try:
            _within(call, name, _tensor(now), before.double())
        except Wrong as wrong:
            found = wrong.outcome
            raise Wrong(f"{reason}: {name}", found.error, found.allowed) from None


def _overwrite(targets: tuple[Tensor, ...], sources: "tuple[Tensor, ...] | list[Tensor]") -> None:
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)
