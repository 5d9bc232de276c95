"""Cross-covariance attention by Triton kernels: each input read once, the output written once.

Profile, by counting: forward moves 4 N C e bytes of a sequence (q and k; v and the output),
backward 7 N C e (v, the gradient, dv; q, k, dq, dk), each tensor once; N tokens, C channels of e
bytes. The partial states add 8 (d + 2) d bytes for each program of a pass. Floor: bytes / copy
bandwidth. Binds: memory, at d / e FLOPs a byte; below some thousands of tokens the launches, four
forward and four backward. Measured: not yet.
"""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.shapes import Grid
from attention_impls.triton_parts.backend import triton_backend

Heads = Float[Tensor, "batch heads tokens head_dim"]

SMALLEST_NORM = 1e-12
"""A channel of this norm over the tokens or less is divided by this, as in the reference."""


class TritonMix(nn.Module):
    """The mix in four launches. Parameters: `temperature` [heads, 1, 1], the reference's own."""

    def __init__(self, temperature: nn.Parameter) -> None:
        """Build around the reference's parameter."""
        super().__init__()
        self.temperature = temperature

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend; `x` and `grid` play no part."""
        from attention_impls.triton_parts.covariance import cross_covariance

        return cross_covariance(q, k, v, self.temperature, SMALLEST_NORM)


BACKEND = triton_backend(
    "cross_covariance", lambda mix: TritonMix(cast("nn.Parameter", mix.temperature))
)
