"""A layer whose keys and values come from a map of tokens that a strided convolution has shrunk.

Spatial reduction, Wang et al. (PVT), ICCV 2021, https://arxiv.org/abs/2102.12122, equation 2; here
for mixes other than softmax attention.
"""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, merge_heads, require_channels, require_tokens
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import Mix

Stream = Float[Tensor, "batch tokens channels"]
Queries = Float[Tensor, "batch heads tokens head_dim"]
Keys = Float[Tensor, "batch heads keys head_dim"]


class ReducedMultiHead(MultiHead):
    """Parameters: those of MultiHead, `reduce` (the convolution), `norm` (over channels after it).

    Class tokens have no place on the map: they are refused.
    """

    def __init__(self, shape: AttentionShape, mix: Mix, *, qkv_bias: bool, side: int) -> None:
        """Build for patches of `side` x `side` tokens; rows and columns left over are dropped."""
        super().__init__(shape, mix, qkv_bias=qkv_bias)
        self.reduce = nn.Conv2d(shape.channels, shape.channels, side, stride=side)
        self.norm = nn.LayerNorm(shape.channels)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        q, k, v = self.project_reduced(x, grid)
        return self.out(merge_heads(self.mix(q, k, v, x, grid)))

    def project_reduced(self, x: Stream, grid: Grid) -> tuple[Queries, Keys, Keys]:
        """Return a query for each token, and a key and a value for each patch.

        Raises:
            UnsupportedShape: `x` does not hold the tokens of `grid`, or has other channels.
        """
        require_tokens(x, grid, 0)
        require_channels(x, self.qkv.in_features)
        batch, tokens, channels = x.shape
        image = x.unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
        patches = self.norm(self.reduce(image).flatten(2).transpose(1, 2))
        weights = self.qkv.weight.tensor_split((channels,))
        bias = cast("Tensor | None", self.qkv.bias)
        biases = (None, None) if bias is None else bias.tensor_split((channels,))
        q = F.linear(x, weights[0], biases[0])
        kv = F.linear(patches, weights[1], biases[1])
        q = q.view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
        kv = kv.view(batch, -1, 2, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        k, v = kv.unbind(0)
        return q, k, v


def patch_grid(grid: Grid, side: int) -> tuple[int, int]:
    """Rows and columns of whole patches of `side` x `side` tokens; either can be 0."""
    return grid.height // side, grid.width // side


def patch_count(grid: Grid, side: int) -> int:
    """Keys that a query attends to."""
    rows, columns = patch_grid(grid, side)
    return rows * columns


def stretched(v: Keys, tokens: int) -> Queries:
    """Interpolate linearly along the sequence of tokens, as FLatten's and later code does."""
    lines = v.flatten(0, 1).mT
    return F.interpolate(lines, size=tokens, mode="linear").mT.unflatten(0, v.shape[:2])


def reduction_limits(grid: Grid, side: int) -> tuple[str, ...]:
    """A grid smaller than one patch of the reduction has no keys."""
    if patch_count(grid, side):
        return ()
    return (f"grid {grid} has no patch of {side}x{side} tokens: use a smaller reduction",)


def reduced_projection_flops(shape: AttentionShape, side: int) -> int:
    """4 B N C^2 + 4 B M C^2 for q and out, k and v; with a reduction r its 2 B M C^2 r^2, too.

    B batch, N tokens, M keys (N where r = 1), C channels.
    """
    keys = patch_count(shape.grid, side) if side > 1 else shape.tokens
    inside = keys * side**2 if side > 1 else 0
    return 2 * shape.batch * shape.channels**2 * (2 * shape.tokens + 2 * keys + inside)
