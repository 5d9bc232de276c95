"""Linear attention (elu + 1) by Triton kernels: each input read once, the output written once.

Profile, by counting: forward moves 4 N C e bytes of a sequence (k and v; q and the output),
backward 7 N C e (q, the gradient, dq; k, v, dk, dv), each tensor once; N tokens, C channels of e
bytes. The partial states add 8 (d + 2) d bytes for each program of a pass, under 4 % from 4,096
tokens a program up. Floor: bytes / copy bandwidth. Binds: memory, at d / e FLOPs a byte; below some
thousands of tokens the launches, three forward and three backward. Measured: not yet.
"""

from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.shapes import Grid
from attention_impls.triton_parts.backend import bound_options, triton_backend

Heads = Float[Tensor, "batch heads tokens head_dim"]


class TritonMix(nn.Module):
    """The mix in two launches and the adding of partial states; no parameters."""

    def __init__(self, epsilon: float) -> None:
        """Build; epsilon is added to the sum of the weights of a row."""
        super().__init__()
        self.epsilon = epsilon

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend; `x` and `grid` play no part."""
        from attention_impls.triton_parts.normalised import normalised_attention

        return normalised_attention(q, k, v, self.epsilon, "elu")


BACKEND = triton_backend("linear_elu", lambda mix: TritonMix(bound_options(mix)["epsilon"]))
