"""A layer whose queries see every token and whose keys and values come from a smaller map.

    O = softmax(Q K^T / sqrt(d)) V,    Q = X W_q,    [K, V] = R(X) [W_k, W_v]

X: the layer's input [N, C]; R: what makes M tokens of the N. Keys and values exist only after R, so
that there is no mix of given q, k and v: the layer is the mechanism.
"""

from collections.abc import Callable
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import adopt_projections, merge_heads, published_inputs
from attention_impls.parts.softmax_attention import SoftmaxAttention
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import StateDict

Stream = Float[Tensor, "batch tokens channels"]


class ReducedKeysAttention(nn.Module):
    """Parameters: `qkv` and `out` as in every layer, and those of `reduce`."""

    def __init__(
        self, shape: AttentionShape, reduce: Callable[[Tensor], Tensor] | None, *, qkv_bias: bool
    ) -> None:
        """Build for the channels of `shape`.

        Args:
            shape: sizes; its grid plays no part.
            reduce: R, from a map of tokens to fewer tokens; None: keys and values of every token.
            qkv_bias: the input projections have a bias.
        """
        super().__init__()
        self.heads = shape.heads
        self.head_dim = shape.head_dim
        self.qkv = nn.Linear(shape.channels, 3 * shape.channels, bias=qkv_bias)
        self.reduce = reduce
        self.attend = SoftmaxAttention()
        self.out = nn.Linear(shape.channels, shape.channels)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        if x.shape[1] != grid.tokens:
            raise UnsupportedShape(
                f"x has {x.shape[1]} tokens, grid {grid} needs {grid.tokens}; "
                "pass the grid of this call"
            )
        reduced = x
        if self.reduce is not None:
            reduced = self.reduce(x.unflatten(1, (grid.height, grid.width)))
        channels = x.shape[2]
        weight, bias = self.qkv.weight, cast("Tensor | None", self.qkv.bias)
        q = F.linear(x, weight[:channels], None if bias is None else bias[:channels])
        kv = F.linear(reduced, weight[channels:], None if bias is None else bias[channels:])
        q = q.unflatten(2, (1, self.heads, self.head_dim)).permute(0, 2, 3, 1, 4)
        kv = kv.unflatten(2, (2, 1, self.heads, self.head_dim)).permute(2, 0, 3, 4, 1, 5)
        return self.out(merge_heads(self.attend(q, kv[0], kv[1]).squeeze(1)))


def reduced_projection_flops(batch: int, tokens: int, keys: int, channels: int) -> int:
    """4 B N C^2 + 4 B M C^2: queries and output, keys and values."""
    return 4 * batch * (tokens + keys) * channels**2


def adopt_reduced(official: StateDict, reduction: dict[str, str]) -> dict[str, Tensor]:
    """Map `q`, `kv`, `proj` of PVT, and the parameters of R one to one.

    Args:
        official: the authors' state dict of one attention module.
        reduction: published parameter name -> our name below `reduce.`.
    """
    inside = {name: value for name, value in official.items() if name not in reduction}
    adopted = adopt_projections(inside, published_inputs(official), "proj", {})
    return adopted | {
        f"reduce.{ours}": official[theirs]
        for theirs, ours in reduction.items()
        if theirs in official
    }
