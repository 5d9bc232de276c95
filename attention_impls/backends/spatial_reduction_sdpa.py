"""Spatial reduction by torch's scaled_dot_product_attention: N x M is not formed."""

from attention_impls.sdpa_step import SdpaCall, sdpa_step_backend
from attention_impls.spec import Execution


def _calls(execution: Execution) -> tuple[SdpaCall, ...]:
    shape, side = execution.shape, execution.options.reduction
    return (
        SdpaCall(
            batch=shape.batch,
            windows=1,
            heads=shape.heads,
            queries=shape.tokens,
            keys=(shape.grid.height // side) * (shape.grid.width // side),
            head_dim=shape.head_dim,
            bias=False,
            learned_bias=False,
        ),
    )


BACKEND = sdpa_step_backend("spatial_reduction", _calls)
