"""Slide attention: every token attends to k x k learned mixtures of its neighbours.

    O_i = sum_a softmax_a(q_i . (k_ia + c_a) / sqrt(d)) v_ia,    a = 1 .. n^2
    k_ia = sum_t W_at * k_(i + t) + b_a,    v_ia = sum_t W_at * v_(i + t) + b_a

q_i, k_i, v_i: query, key and value of one head, each of d numbers, for the token i = (row, column),
zeros beyond the border; t runs over the n x n offsets around a token; W_at, b_a [d]: the filters of
a depthwise convolution with n^2 outputs for each channel, shared by heads, keys and values; c_a: a
learned number for each head, added to all channels; * multiplies channel by channel. With W_at = 1
where a is t and 0 elsewhere, b = 0, this is plain local attention: filters start near that.

Pan, Ye, Xia, Song, Huang, "Slide-Transformer: Hierarchical Vision Transformer with Local
Self-Attention", CVPR 2023, https://arxiv.org/abs/2304.04237, sections 4.2 and 4.3.

The mixtures are never formed: with P_it = q_i * k_(i + t), scores are sum_t P_it . W_at, one matrix
product, and the sum over a runs before that over t in the output.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideOptions:
    """Options of slide attention."""

    window: int = 3
    """Side n of a neighbourhood, odd."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window is {self.window}, must be odd and >= 1")


class SlideMix(nn.Module):
    """The formula of the module docstring.

    Parameters: `mixtures` (W [d n^2, 1, n, n] and b [d n^2], channel by channel the n^2 outputs),
    `position_bias` [heads, n^2] (c).
    """

    def __init__(self, shape: AttentionShape, options: SlideOptions) -> None:
        """Build for the heads of `shape`; its grid plays no part."""
        super().__init__()
        self.window = options.window
        outputs = options.window**2
        head_dim = shape.head_dim
        self.mixtures = nn.Conv2d(
            head_dim, head_dim * outputs, options.window, padding=options.window // 2,
            groups=head_dim,
        )  # fmt: skip
        with torch.no_grad():
            # each output starts as one neighbour, plus the usual noise
            identity = torch.eye(outputs).view(outputs, 1, options.window, options.window)
            self.mixtures.weight.add_(identity.repeat(head_dim, 1, 1, 1))
        self.position_bias = nn.Parameter(torch.empty(shape.heads, outputs))
        nn.init.normal_(self.position_bias, std=0.02)

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Return O; `x` plays no part."""
        head_dim, outputs = q.shape[3], self.window**2
        q = q * head_dim**-0.5
        # [offset and channel, output], and [channel, output]
        filters = self.mixtures.weight.view(head_dim, outputs, outputs)
        filters = filters.permute(2, 0, 1).flatten(0, 1)
        shared = self.shared_bias(head_dim)
        products = (q.unsqueeze(3) * self.neighbours(k, grid)).flatten(3)
        scores = products @ filters + q @ (shared + self.position_bias.unsqueeze(1))
        accumulator = torch.promote_types(q.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=accumulator).to(v.dtype)
        spread = (weights @ filters.T).unflatten(3, (outputs, head_dim))
        return (spread * self.neighbours(v, grid)).sum(3) + weights @ shared.T

    def shared_bias(self, head_dim: int) -> Float[Tensor, "head_dim outputs"]:
        """Return b."""
        bias = self.mixtures.bias
        if bias is None:
            raise TypeError("slide: the convolution has lost its bias")
        return bias.view(head_dim, -1)

    def neighbours(
        self, heads: Heads, grid: Grid
    ) -> Float[Tensor, "batch heads tokens offsets head_dim"]:
        """Return the neighbours of each token, row by row, zeros beyond the border."""
        reach, side = self.window // 2, self.window
        maps = heads.unflatten(2, (grid.height, grid.width))
        around = F.pad(maps, (0, 0, reach, reach, reach, reach))
        views = around.unfold(2, side, 1).unfold(3, side, 1).permute(0, 1, 2, 3, 5, 6, 4)
        return views.flatten(4, 5).flatten(2, 3)


def make(shape: AttentionShape, options: SlideOptions) -> MultiHead:
    """Build the layer."""
    return MultiHead(shape, SlideMix(shape, options), qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, options: SlideOptions) -> int:
    """4 B N C n^2 (n^2 + 1): filters on the products and on the weights, and the biases of both.

    B batch, N tokens, C channels, n window. Products of queries with neighbours, and of spread
    weights with neighbours, are elementwise.
    """
    area = options.window**2
    return 4 * shape.batch * shape.tokens * shape.channels * area * (area + 1)


def state_floats(shape: AttentionShape, options: SlideOptions) -> int:
    """2 n^2 C: the keys and values of one neighbourhood."""
    return 2 * options.window**2 * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `SlideAttention`, whose projection gives q, k and v head by head.

    Its two convolutions, a fixed one that shifts and a learned one, have the same input and are
    added: ours is their sum.
    """
    learned = dict(official)
    table = learned["relative_position_bias_table"].flatten()
    for kind in ("weight", "bias"):
        learned[f"mixtures.{kind}"] = learned.pop(f"dep_conv.{kind}") + learned.pop(
            f"dep_conv1.{kind}"
        )
    outputs = learned["mixtures.weight"][0].numel()
    heads = max(1, table.numel() // outputs)
    learned["relative_position_bias_table"] = table.unflatten(0, (heads, -1))
    for kind in ("weight", "bias"):
        if f"qkv.{kind}" in learned:
            learned[f"qkv.{kind}"] = _stream_by_stream(learned[f"qkv.{kind}"], heads)
    mix = {f"mixtures.{kind}": f"mixtures.{kind}" for kind in ("weight", "bias")}
    mix["relative_position_bias_table"] = "position_bias"
    return adopt_projections(learned, ("qkv",), "proj", mix)


def _stream_by_stream(rows: Tensor, heads: int) -> Tensor:
    """Reorder rows from (head, stream, channel) to (stream, head, channel)."""
    width = max(1, rows.shape[0] // (3 * heads))
    places = torch.arange(rows.shape[0])
    head, stream = places // (3 * width), places // width % 3
    return rows[torch.argsort(stream * rows.shape[0] + head * width + places % width)]


SPEC = AttentionSpec(
    name="slide",
    title="Slide attention",
    family="local",
    paper=Paper(
        title="Slide-Transformer: Hierarchical Vision Transformer with Local Self-Attention",
        authors=("Xuran Pan", "Tianzhu Ye", "Zhuofan Xia", "Shiji Song", "Gao Huang"),
        year=2023,
        venue="CVPR",
        url="https://arxiv.org/abs/2304.04237",
        equation="sections 4.2 and 4.3",
        code="https://github.com/LeapLabTHU/Slide-Transformer/tree/"
        "6b1e1842eadfeb77c191d4884db30e27c9946ade",
    ),
    revision=1,
    formula=r"O_i = \sum_a \mathrm{softmax}_a"
    r"\left(\frac{q_i^\top (k_{ia} + c_a)}{\sqrt{d}}\right) v_{ia}, \quad"
    r" k_{ia} = \sum_t W_{at} \odot k_{i+t} + b_a, \quad"
    r" v_{ia} = \sum_t W_{at} \odot v_{i+t} + b_a",
    deviations=(
        (
            "The fixed shifting convolution and the learned one are one parameter, their sum, "
            "which the paper forms after training; the authors' code runs both. Gradients are the "
            "same; weight decay draws the sum towards zero where theirs draws it towards a shift."
        ),
        (
            "Mixtures of neighbours are not formed: the sums are exchanged, which gives the same "
            "numbers with half of the multiplications of the authors' code."
        ),
        (
            "Neighbours beyond the border are not hidden: as in the authors' code their keys and "
            "values are the convolution's bias, and take part in the softmax."
        ),
    ),
    scaling="The neighbourhood stays 3x3 while the grid grows: cost is linear in tokens.",
    options=SlideOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=False,
        permutation_equivariant=False,
        rows_sum_to_one=False,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
