"""Searches for the largest size that fits: tokens within a memory budget, sequences per call."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from attention_impls.shapes import AttentionShape, Grid
from bench.blueprint import Blueprint, CannotRun
from bench.call import call_of
from bench.failures import is_out_of_memory
from bench.memory import NotMeasurable, counted_peak, predicted_peak
from bench.model import DeviceKind, Frontier

STEPS = 16
"""Sizes an octave: the frontier is known to within 1/16 octave."""
LEAST_EXPONENT = 6
MOST_EXPONENT = 26
RUN_FLOP_LIMIT = 4e11
"""A call with more FLOPs (backward counted as twice forward) is predicted, not run, on CPU."""
LARGEST_BATCH: dict[DeviceKind, int] = {"cpu": 64, "cuda": 4096}
"""Policy `largest` ends here."""
BATCH_BYTES_ON_CPU = 1 << 30
"""Memory of one call under policy `largest` on CPU, where the protocol sets no limit."""
_CUDA_SHARE = 0.9
_FRACTION_SLACK = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where the frontier lies and how that is known."""

    tokens: int
    """The largest size that fits; the next size of the ladder does not."""
    statement: str
    """How it was confirmed."""


class TooLarge(Exception):  # noqa: N818 - becomes `OutOfMemory`, not an error of ours
    """Not even one sequence fits."""

    def __init__(self, needed_bytes: int, budget_bytes: int) -> None:
        super().__init__(
            f"one sequence needs {needed_bytes} bytes above inputs and parameters (predicted), "
            f"the budget is {budget_bytes}"
        )
        self.needed_bytes = needed_bytes
        self.budget_bytes = budget_bytes


def ladder() -> Iterator[int]:
    """Token counts from small to large, 16 an octave, each a multiple of a sixteenth octave."""
    for exponent in range(LEAST_EXPONENT, MOST_EXPONENT):
        for step in range(STEPS):
            yield (1 << exponent) * (STEPS + step) // STEPS


def largest_tokens(blueprint: Blueprint, frontier: Frontier) -> Found:
    """Find the largest 1 x N grid whose call stays within the frontier's memory, batch 1.

    Raises:
        CannotRun: no size of the ladder can be computed.
        NotMeasurable: the smallest size does not fit, or the largest still does.
    """

    def shape(tokens: int) -> AttentionShape:
        return AttentionShape(1, Grid(1, tokens), frontier.heads, frontier.head_dim)

    sizes = [tokens for tokens in ladder() if not blueprint.refusals(shape(tokens))]
    if not sizes:
        raise CannotRun(blueprint.refusals(shape(1 << LEAST_EXPONENT)))
    if blueprint.device == "cuda":
        index = _last(sizes, lambda tokens: _fits_on_cuda(blueprint, shape(tokens), frontier))
        return Found(tokens=sizes[index], statement=f"run at {sizes[index]} and {sizes[index + 1]}")
    return _on_cpu(blueprint, sizes, shape, frontier.memory_bytes)


def largest_batch(blueprint: Blueprint, one: AttentionShape, budget_bytes: int | None) -> int:
    """The largest power of two of sequences whose predicted memory stays within the budget.

    Raises:
        TooLarge: one sequence does not fit.
    """
    budget = budget_bytes or _default_budget(blueprint.device)
    unwrapped = _predictable(blueprint)
    needed = predicted_peak(unwrapped, one)
    if needed > budget:
        raise TooLarge(needed, budget)
    batch = 1
    while batch < LARGEST_BATCH[blueprint.device]:
        if predicted_peak(unwrapped, one.with_batch(2 * batch)) > budget:
            break
        batch *= 2
    return batch


def _predictable(blueprint: Blueprint) -> Blueprint:
    """A compiled call holds at most what its reference holds: predict that."""
    if blueprint.backend is not None and blueprint.backend.name == "compile":
        return replace(blueprint, backend=None)
    return blueprint


def _default_budget(device: DeviceKind) -> int:
    if device == "cpu":
        return BATCH_BYTES_ON_CPU
    free, _total = torch.cuda.mem_get_info()
    return int(_CUDA_SHARE * free)


def _on_cpu(
    blueprint: Blueprint, sizes: list[int], shape: Callable[[int], AttentionShape], budget: int
) -> Found:
    """Predict the frontier; then run both sides of it, or the largest affordable size."""
    passes = 3 if blueprint.backward else 1

    def affordable(tokens: int) -> bool:
        return passes * blueprint.spec.flops(shape(tokens), blueprint.options) <= RUN_FLOP_LIMIT

    def fits(tokens: int) -> bool:
        try:
            return counted(tokens) <= budget
        except (RuntimeError, MemoryError) as failure:
            if not is_out_of_memory(failure):
                raise
            return False

    def counted(tokens: int) -> int:
        return counted_peak(call_of(blueprint, shape(tokens), sets=1))

    index = _last(sizes, lambda tokens: predicted_peak(blueprint, shape(tokens)) <= budget)
    if not affordable(sizes[index + 1]):
        confirmed = max((s for s in sizes if affordable(s) and s <= sizes[index]), default=None)
        if confirmed is None:
            raise NotMeasurable("the smallest size is too costly to confirm the prediction with")
        ratio = counted(confirmed) / predicted_peak(blueprint, shape(confirmed))
        return Found(
            tokens=sizes[index],
            statement=f"predicted; at {confirmed} tokens counted / predicted = {ratio:.4f}",
        )
    while not fits(sizes[index]):
        index -= 1
        if index < 0:
            raise NotMeasurable(f"{sizes[0]} tokens do not fit into {budget} bytes")
    while index + 1 < len(sizes) and fits(sizes[index + 1]):
        index += 1
    if index + 1 == len(sizes):
        raise NotMeasurable(f"more than {sizes[-1]} tokens fit")
    return Found(tokens=sizes[index], statement=f"run at {sizes[index]} and {sizes[index + 1]}")


def _last(sizes: list[int], fits: Callable[[int], bool]) -> int:
    """Index of the last size that fits, by doubling and then bisection.

    Raises:
        NotMeasurable: the first does not fit, or the last still does.
    """
    if not fits(sizes[0]):
        raise NotMeasurable(f"{sizes[0]} tokens do not fit")
    low, high = 0, min(STEPS, len(sizes) - 1)
    while fits(sizes[high]):
        if high == len(sizes) - 1:
            raise NotMeasurable(f"more than {sizes[-1]} tokens fit")
        low, high = high, min(high + STEPS, len(sizes) - 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(sizes[middle]) else (low, middle)
    return low


def _fits_on_cuda(blueprint: Blueprint, shape: AttentionShape, frontier: Frontier) -> bool:
    """Run for real with torch's allocator capped; the cap keeps a failure cheap."""
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        call = call_of(blueprint, shape, sets=1)
        ceiling = torch.cuda.memory_allocated() + _FRACTION_SLACK * frontier.memory_bytes
        torch.cuda.set_per_process_memory_fraction(min(1.0, ceiling / total))
        return counted_peak(call) <= frontier.memory_bytes
    except RuntimeError as failure:
        if not is_out_of_memory(failure):
            raise
        return False
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
