"""The least time that a call can take on the machine of its run."""

from bench import roofline
from bench.asked_layer import parameters_of
from bench.rules.rule import RecordUnderTest, RunUnderTest


def floor_of(under: RunUnderTest, one: RecordUnderTest) -> roofline.Floor | None:
    """Least time that the machine of this run needs for one call; None if not known."""
    call, workload = one.computable, one.workload
    if call is None or workload is None:
        return None
    spec, shape = call.spec, call.shape
    work = (spec.core_flops if one.case.level == "core" else spec.flops)(shape, call.options)
    parameters = parameters_of(spec.name, call.options, shape.with_batch(1), one.case.level)
    if parameters is None:
        return None
    moved = roofline.least_bytes(
        workload,
        batch=shape.batch,
        level=one.case.level,
        parameters=parameters,
        streams=one.tree.streams(spec),
    )
    certain = roofline.from_memory(
        moved, under.run.environment.device, roofline.cache_bytes(under.run.environment.settings)
    )
    return roofline.floor(
        under.ceilings,
        dtype=workload.dtype,
        flops=roofline.total_flops(work, workload),
        moved_bytes=certain,
    )
