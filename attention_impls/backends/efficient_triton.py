"""Efficient attention by Triton kernels: each input read once, the output written once.

Profile, by counting: forward moves 4 N C e bytes of a sequence (k and v; q and the output),
backward 7 N C e (q, the gradient, dq; k, v, dk, dv), each tensor once; N tokens, C channels of e
bytes. The partial states add 8 (d + 2) d bytes for each program of a pass. Floor: bytes / copy
bandwidth. Binds: memory, at d / e FLOPs a byte and one exp for each number of q and k; below some
thousands of tokens the launches, three forward and three backward. Measured: not yet.
"""

from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.shapes import Grid
from attention_impls.triton_parts.backend import bound_options, triton_backend

Heads = Float[Tensor, "batch heads tokens head_dim"]


class TritonMix(nn.Module):
    """The mix in two launches and the joining of partial states; no parameters."""

    def __init__(self, *, scaled_queries: bool) -> None:
        """Build; `scaled_queries` divides the softmax of the queries by sqrt(head_dim)."""
        super().__init__()
        self.scaled_queries = scaled_queries

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend; `x` and `grid` play no part."""
        from attention_impls.triton_parts.pooled import pooled_attention

        return pooled_attention(q, k, v, q.shape[3] ** -0.5 if self.scaled_queries else 1.0)


def _wrap(mix: nn.Module) -> TritonMix:
    return TritonMix(scaled_queries=bound_options(mix)["scaled_queries"])


BACKEND = triton_backend("efficient", _wrap)
