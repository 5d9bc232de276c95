"""Rules about receipts: values of an output that only the variant's code gives."""

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from bench.model import Case, DType
from bench.rules.rule import Fault, RecordUnderTest, RunRule, RunUnderTest

if TYPE_CHECKING:
    from bench.receipt import Recomputed

_computed: "dict[tuple[str, int, int], Recomputed]" = {}
"""By case, batch and revision: many runs hold the same small cases."""
MOST_FLOPS = 3e8
"""A receipt is computed again where one call takes a CPU milliseconds."""


def _wrong(under: RunUnderTest) -> Iterator[Fault]:
    for one in _cheapest(under):
        from bench.blueprint import CannotRun  # noqa: PLC0415 - torch, only where needed
        from bench.receipt import ALLOWED  # noqa: PLC0415 - the same

        stated, workload = one.measured["receipt"].rounds[0], one.workload
        if workload is None or one.batch is None:
            continue
        try:
            right = _right(one, one.batch)
        except (CannotRun, RuntimeError, MemoryError) as why:
            yield one.fault(
                f"measured, but {one.case.variant} cannot compute it here: {why}; leave out of the "
                "plan what cannot run"
            )
            continue
        if len(stated) != len(right.values):
            yield one.fault(f"receipt has {len(stated)} values, must have {len(right.values)}")
            continue
        worst = max(abs(a - b) for a, b in zip(stated, right.values, strict=True))
        allowed = ALLOWED[workload.dtype] * right.largest
        if not worst <= allowed:
            yield one.fault(
                f"receipt differs by {worst:.3g} from what {one.case.variant} computes here, "
                f"allowed {allowed:.3g}: measure again with the code of this tree"
            )


def _right(one: RecordUnderTest, batch: int) -> "Recomputed":
    from bench.receipt import recomputed  # noqa: PLC0415 - torch, only where needed

    key = (one.case.id, batch, one.record.variant_revision)
    if key not in _computed:
        _computed[key] = recomputed(one.case, batch)
    return _computed[key]


def _missing(under: RunUnderTest) -> Iterator[Fault]:
    without = [one for one in under.records if "latency" in one.measured and not _stated(one)]
    if without:
        yield Fault(
            "run.json",
            f"{len(without)} timed records have no receipt (the first: {without[0].case.id}): "
            "nothing shows that this code gave them; measure again",
        )


def _stated(one: RecordUnderTest) -> bool:
    return "receipt" in one.measured


def _cheapest(under: RunUnderTest) -> Iterator[RecordUnderTest]:
    """The smallest case with a receipt of each execution, level and dtype."""
    best: dict[Hashable, tuple[float, RecordUnderTest]] = {}
    for one in under.records:
        call = one.computable
        if call is None or one.workload is None or not _stated(one):
            continue
        if one.case.backend not in one.tree.backends(one.case.variant):
            continue  # R201 says so
        if not (call.spec.traits.deterministic_eval and call.spec.traits.continuous):
            continue
        flops = call.spec.flops(call.shape, call.options)
        key = _execution(one.case, one.workload.dtype)
        if flops <= MOST_FLOPS and (key not in best or flops < best[key][0]):
            best[key] = (flops, one)
    yield from (one for _, one in best.values())


def _execution(case: Case, dtype: DType) -> Hashable:
    return case.variant, case.backend, tuple(sorted(case.options.items())), case.level, dtype


RULES = (
    RunRule(
        id="R801", severity="error", help="An output that the code does not give.", find=_wrong
    ),
    RunRule(id="R802", severity="flag", help="Timed without a receipt.", find=_missing),
)
