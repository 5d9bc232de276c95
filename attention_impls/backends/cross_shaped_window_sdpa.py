"""Cross-shaped windows by torch's scaled_dot_product_attention, one call for each direction."""

from attention_impls.sdpa_step import SdpaCall, sdpa_step_backend
from attention_impls.spec import Execution


def _calls(execution: Execution) -> tuple[SdpaCall, ...]:
    shape, options = execution.shape, execution.options
    grid, upright = shape.grid, (shape.heads + 1) // 2
    directions = (
        (upright, grid.height, grid.width),
        (shape.heads - upright, grid.width, grid.height),
    )
    if options.whole_grid:
        directions = ((shape.heads, grid.height, grid.width),)
    calls: list[SdpaCall] = []
    for heads, length, other in directions:
        width = other if options.whole_grid else min(options.stripe, other)
        calls.append(
            SdpaCall(
                batch=shape.batch,
                windows=-(-other // width),
                heads=heads,
                queries=length * width,
                keys=length * width,
                head_dim=shape.head_dim,
                bias=other % width > 0,
                learned_bias=False,
            )
        )
    return tuple(calls)


BACKEND = sdpa_step_backend("cross_shaped_window", _calls)
