"""Shifted windows by torch's scaled_dot_product_attention, masks and position bias as its bias."""

from attention_impls.parts.windows import Windows
from attention_impls.sdpa_step import SdpaCall, sdpa_step_backend
from attention_impls.spec import Execution


def _calls(execution: Execution) -> tuple[SdpaCall, ...]:
    shape, options = execution.shape, execution.options
    sides = (min(options.window, shape.grid.height), min(options.window, shape.grid.width))
    windows = Windows(grid=shape.grid, rows=sides[0], columns=sides[1])
    masked = not windows.fills or (options.shifted and windows.count > 1)
    return (
        SdpaCall(
            batch=shape.batch,
            windows=windows.count,
            heads=shape.heads,
            queries=windows.tokens_each,
            keys=windows.tokens_each,
            head_dim=shape.head_dim,
            bias=options.position_bias or masked,
            learned_bias=options.position_bias,
        ),
    )


BACKEND = sdpa_step_backend("window_shifted", _calls)
