"""InLine attention by Triton kernels, its local residual computed with the output.

The values are read twice, once for the state and once for the residual. The residual's filters
come from the reference's own two small maps.

Profile, by counting: forward moves 5 N C e bytes of a sequence (k and v; q, v again, the output)
and the mean of the layer's input N C e more; backward 8 N C e (q, the gradient, dq; k, v, the
gradient again, dk, dv) and N C e (dx); N tokens, C channels of e bytes. Floor: 5 and 8 N C e (each
tensor once) / copy bandwidth, so at most 83 % and 89 % of it unless the second readings come from
the L2 cache. Binds: memory, and next to it the caches, which serve nine taps; below some thousands
of tokens the launches. Measured: not yet.
"""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.shapes import Grid
from attention_impls.triton_parts.backend import triton_backend

Heads = Float[Tensor, "batch heads tokens head_dim"]

_FEATURE_MAPS = {
    "unchanged": "identity",
    "relu": "relu",
    "leaky_relu": "leaky_relu",
    "gentle_exp": "exp",
}
"""The reference's functions, and what the kernels call them."""
_SIDE = 3


class TritonMix(nn.Module):
    """Parameters: those of `kernels`, the reference's maps from the input's mean to filters."""

    def __init__(self, feature_map: str, kernels: nn.Module | None) -> None:
        """Build.

        Args:
            feature_map: applied to queries and keys.
            kernels: maps [batch, channels] to nine weights a channel; None: no residual.
        """
        super().__init__()
        self.feature_map = feature_map
        self.kernels = kernels

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],
        grid: Grid,
    ) -> Heads:
        """Attend; extra tokens, which come first, have no local residual."""
        from attention_impls.triton_parts.centred import centred_attention

        filters = None
        if self.kernels is not None:
            filters = self.kernels(x.mean(1)).view(v.shape[0], -1, _SIDE, _SIDE)
        return centred_attention(q, k, v, filters, grid, self.feature_map)


def _wrap(mix: nn.Module) -> TritonMix:
    name = getattr(mix.feature_map, "__name__", "")
    if name not in _FEATURE_MAPS:
        known = ", ".join(_FEATURE_MAPS)
        raise TypeError(f"backend triton: the feature map is {name!r}, must be one of {known}")
    return TritonMix(_FEATURE_MAPS[name], cast("nn.Module | None", mix.kernels))


BACKEND = triton_backend("inline", _wrap)
