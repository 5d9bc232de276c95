"""Rules about memory: what a call holds, what was predicted, and how much fits."""

from collections import defaultdict
from collections.abc import Hashable, Iterator

from bench.model import Frontier, Workload
from bench.roofline import BYTES_OF
from bench.rules.rule import Fault, RecordUnderTest, RunRule, RunUnderTest, same

_CERTAIN = 2
"""Sizes so much smaller or larger than a frontier are on the side of it that they must be."""


def _memory(under: RunUnderTest) -> Iterator[Fault]:
    device = under.run.environment.device_memory_bytes
    for one in under.records:
        found = one.summary("peak_memory")
        if found is None or one.workload is None or one.shape is None:
            continue
        output = one.shape.batch * one.shape.tokens * one.shape.channels
        output *= BYTES_OF[one.workload.dtype]
        if found.value < output:
            yield one.fault(f"peak_memory {found.value:.0f} bytes, the output alone has {output}")
        if found.value > device:
            yield one.fault(f"peak_memory {found.value:.0f} bytes, the device has {device}")


def _prediction(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        measured, predicted = one.summary("peak_memory"), one.summary("predicted_memory")
        if measured and predicted and not same(measured.value, predicted.value, 0.1):
            yield one.fault(
                f"peak_memory {measured.value:.0f} and predicted_memory {predicted.value:.0f} "
                "bytes differ by more than a tenth"
            )


def _saved(under: RunUnderTest) -> Iterator[Fault]:
    for one in under.records:
        saved, peak = one.summary("saved_memory"), one.summary("peak_memory")
        if saved and peak and saved.value > peak.value:
            yield one.fault(
                f"saved_memory {saved.value:.0f} bytes, peak_memory {peak.value:.0f}: what is kept "
                "for backward is held at the end of forward"
            )


def _frontier_differs(under: RunUnderTest) -> Iterator[Fault]:
    """What rows of the same run hold at other lengths must be on the right side of the budget."""
    held: dict[Hashable, list[tuple[int, float, str]]] = defaultdict(list)
    for one in under.records:
        peak, workload = one.summary("peak_memory"), one.workload
        if peak is not None and workload is not None and _is_sequence(workload):
            held[_execution(one, workload)].append((workload.tokens, peak.value, one.case.id))
    for one in under.records:
        frontier, found = one.case.stimulus, one.summary("largest_tokens")
        if not isinstance(frontier, Frontier) or found is None:
            continue
        budget = frontier.memory_bytes
        for tokens, peak, other in held[_execution(one, frontier)]:
            fits, within = tokens * _CERTAIN <= found.value, peak <= budget
            if fits and not within:
                yield one.fault(
                    f"{found.value:.0f} tokens fit into {budget} bytes, but {tokens} tokens hold "
                    f"{peak:.0f}: {other}"
                )
            elif within and tokens >= _CERTAIN * found.value:
                yield one.fault(
                    f"no more than {found.value:.0f} tokens fit into {budget} bytes, but {tokens} "
                    f"tokens hold {peak:.0f}: {other}"
                )


def _is_sequence(workload: Workload) -> bool:
    """Whether it is a call as the search for a frontier makes it."""
    alone = workload.batch == 1 and workload.grid.height == 1
    return alone and not workload.extra_tokens and not workload.causal


def _execution(one: RecordUnderTest, sizes: Workload | Frontier) -> Hashable:
    case = one.case
    options = tuple(sorted(case.options.items()))
    who = (case.variant, case.backend, options, case.level)
    return (*who, sizes.heads, sizes.head_dim, sizes.dtype, sizes.passes)


RULES = (
    RunRule(id="R408", severity="error", help="Impossible memory.", find=_memory),
    RunRule(id="R409", severity="flag", help="Memory not as predicted.", find=_prediction),
    RunRule(id="R419", severity="review", help="Saved more than held.", find=_saved),
    RunRule(id="R422", severity="review", help="A frontier that differs.", find=_frontier_differs),
)
