"""Multi-scale ReLU linear attention (EfficientViT): the second set of heads sees neighbourhoods.

    O_i = relu(q_i)^T (sum_j relu(k_j) v_j^T) / (relu(q_i)^T sum_j relu(k_j) + epsilon)

q_i, k_j, v_j: query, key and value of one head, each of d numbers; j runs over all N tokens. There
are 2 h heads: h whose q, k, v are the projections of the input, and h whose q, k, v are aggregated
from them, q' = W_g conv(q): a depthwise convolution on the grid (5x5), then for each head and each
of q, k, v a d x d map. The 2 h outputs of d numbers are projected to the C channels and normalised
over the batch, as after a convolution. Linear in N; no scale 1/sqrt(d).

Cai, Li, Hu, Gan, Han, "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense
Prediction", ICCV 2023, https://arxiv.org/abs/2205.14756, equation 2 and figure 2.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import merge_heads
from attention_impls.parts.linear_attention import normalised_product, normalised_product_flops
from attention_impls.parts.local_convolution import local_convolution_flops
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]

EPSILON = 1e-15
"""Added to the sum of the weights of a row, as in the authors' code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteMlaOptions:
    """Options of multi-scale ReLU linear attention."""

    aggregation_size: int = 5
    """Rows and columns of the aggregating convolution; odd; 0: no second set of heads."""
    normalised_output: bool = True
    """Normalise the projected output over the batch (running statistics in evaluation)."""
    qkv_bias: bool = False
    """The input projections and the aggregation have a bias."""

    def __post_init__(self) -> None:
        size = self.aggregation_size
        if size < 0 or (size and size % 2 == 0):
            raise ValueError(f"aggregation_size is {size}, must be odd and >= 1, or 0")


class Aggregation(nn.Module):
    """q, k, v of every head from the neighbourhoods of q, k, v.

    Parameters: `local` (depthwise convolution) and `mix` (a map for each head and each of q, k,
    v), both over 3 C channels ordered by head, then q, k, v.
    """

    def __init__(self, shape: AttentionShape, options: LiteMlaOptions) -> None:
        """Build for the heads and channels of `shape`."""
        super().__init__()
        size, width, bias = options.aggregation_size, 3 * shape.channels, options.qkv_bias
        self.local = nn.Conv2d(width, width, size, padding=size // 2, groups=width, bias=bias)
        self.mix = nn.Conv2d(width, width, 1, groups=3 * shape.heads, bias=bias)

    def forward(self, q: Heads, k: Heads, v: Heads, grid: Grid) -> tuple[Heads, Heads, Heads]:
        """Return the aggregated q, k and v, made one after the other to touch less memory."""
        first, second, third = (self._aggregated(t, i, grid) for i, t in enumerate((q, k, v)))
        return first, second, third

    def _aggregated(self, heads: Heads, place: int, grid: Grid) -> Heads:
        batch, count, tokens, head_dim = heads.shape
        by_head = (count, 3, head_dim)
        filters = self.local.weight.unflatten(0, by_head)[:, place].flatten(0, 1)
        maps = self.mix.weight.flatten(1).unflatten(0, by_head)[:, place].mT
        image = heads.transpose(1, 2).reshape(batch, grid.height, grid.width, -1)
        local = F.conv2d(
            image.permute(0, 3, 1, 2),
            filters,
            padding=filters.shape[-1] // 2,
            groups=count * head_dim,
        )
        local = local.permute(0, 2, 3, 1).reshape(batch, tokens, count, head_dim).transpose(1, 2)
        if self.local.bias is None or self.mix.bias is None:
            return local @ maps
        shift = self.local.bias.view(by_head)[:, place].unsqueeze(1)
        return (local + shift) @ maps + self.mix.bias.view(by_head)[:, place].unsqueeze(1)


class LiteMlaMix(nn.Module):
    """The formula of the module docstring: [batch, heads, ...] in, [batch, 2 heads, ...] out.

    Parameters: `aggregation`, unless it is switched off; then heads come out as they went in.
    """

    def __init__(self, shape: AttentionShape, options: LiteMlaOptions) -> None:
        """Build for the heads and channels of `shape`; its grid plays no part."""
        super().__init__()
        self.aggregation = Aggregation(shape, options) if options.aggregation_size else None

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Stream,  # noqa: ARG002
        grid: Grid,
    ) -> Float[Tensor, "batch all_heads tokens head_dim"]:
        """Return the outputs of the plain heads, then those of the aggregated ones."""
        plain = normalised_product(F.relu(q), F.relu(k), v, EPSILON)
        if self.aggregation is None:
            return plain
        q, k, v = self.aggregation(q, k, v, grid)
        wide = normalised_product(q.relu_(), k.relu_(), v, EPSILON)
        # joined in the layout of the token stream, in which the layer reads it
        return torch.cat((plain.transpose(1, 2), wide.transpose(1, 2)), 2).transpose(1, 2)


class LiteMla(nn.Module):
    """The layer. Parameters: `qkv` (ordered by head, then q, k, v), `mix`, `out`, `norm`."""

    def __init__(self, shape: AttentionShape, options: LiteMlaOptions) -> None:
        """Build for the heads and channels of `shape`; its grid plays no part."""
        super().__init__()
        self.heads = shape.heads
        channels, sets = shape.channels, _head_sets(options)
        self.qkv = nn.Linear(channels, 3 * channels, bias=options.qkv_bias)
        self.mix = LiteMlaMix(shape, options)
        self.out = nn.Linear(sets * channels, channels, bias=not options.normalised_output)
        self.norm = nn.BatchNorm1d(channels) if options.normalised_output else None

    def project(self, x: Stream) -> tuple[Heads, Heads, Heads]:
        """Return q, k, v."""
        q, k, v = self.qkv(x).unflatten(2, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4).unbind(0)
        return q, k, v

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        if x.shape[1] != grid.tokens:
            raise UnsupportedShape(
                f"x has {x.shape[1]} tokens, grid {grid} needs {grid.tokens}; "
                "pass the grid of this call"
            )
        q, k, v = self.project(x)
        out = self.out(merge_heads(self.mix(q, k, v, x, grid)))
        return out if self.norm is None else self.norm(out.flatten(0, 1)).view_as(out)


def _head_sets(options: LiteMlaOptions) -> int:
    return 2 if options.aggregation_size else 1


def core_flops(shape: AttentionShape, options: LiteMlaOptions) -> int:
    """2 s B N C (2 d + 1), and with the aggregation 6 B N C (a^2 + d).

    B batch, N tokens, C channels, d head_dim, a aggregation_size, s sets of heads: 2, or 1 without
    the aggregation. Keys times values, queries times that, row sums; the depthwise convolution and
    the maps of 3 C channels.
    """
    batch, tokens, channels = shape.batch, shape.tokens, shape.channels
    heads = _head_sets(options) * shape.heads
    mixing = normalised_product_flops(batch, heads, tokens, shape.head_dim, causal=False)
    if not options.aggregation_size:
        return mixing
    local = local_convolution_flops(batch, shape.grid, 3 * channels, options.aggregation_size)
    return mixing + local + 6 * batch * tokens * channels * shape.head_dim


def projection_flops(shape: AttentionShape, options: LiteMlaOptions) -> int:
    """2 B N C^2 (3 + s): q, k, v, and s C channels to C."""
    return 2 * shape.batch * shape.tokens * shape.channels**2 * (3 + _head_sets(options))


def state_floats(shape: AttentionShape, options: LiteMlaOptions) -> int:
    """Numbers of s C (d + 1): the sum of k v^T and the sum of k, per head and set of heads."""
    return _head_sets(options) * shape.channels * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `LiteMLA` with no or one further scale; its convolutions over a position are maps."""
    places = {
        "qkv.conv.weight": "qkv.weight",
        "qkv.conv.bias": "qkv.bias",
        "proj.conv.weight": "out.weight",
        "proj.conv.bias": "out.bias",
    }
    for theirs, ours in (("0", "local"), ("1", "mix")):
        for kind in ("weight", "bias"):
            places[f"aggreg.0.{theirs}.{kind}"] = f"mix.aggregation.{ours}.{kind}"
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        places[f"proj.norm.{name}"] = f"norm.{name}"
    if unknown := sorted(set(official) - set(places)):
        raise KeyError(f"no place for the published parameters {', '.join(unknown)}")
    maps = ("qkv.conv.weight", "proj.conv.weight")
    adopted = {
        places[name]: tensor.flatten(1) if name in maps else tensor
        for name, tensor in official.items()
        if name not in maps
    }
    return adopted | {places[name]: official[name].flatten(1) for name in maps}


SPEC = AttentionSpec(
    name="lite_mla",
    title="Multi-scale linear attention (EfficientViT)",
    family="feature_map",
    paper=Paper(
        title="EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
        authors=("Han Cai", "Junyan Li", "Muyan Hu", "Chuang Gan", "Song Han"),
        year=2023,
        venue="ICCV",
        url="https://arxiv.org/abs/2205.14756",
        equation="equation 2; the aggregation is figure 2, right",
        code="https://github.com/mit-han-lab/efficientvit/blob/"
        "de7d7733cc0329f391b33f1f459271562ec27bd5/efficientvit/models/nn/ops.py",
    ),
    revision=1,
    formula=r"O_i = \frac{\mathrm{relu}(q_i)^\top \sum_j \mathrm{relu}(k_j)\, v_j^\top}"
    r"{\mathrm{relu}(q_i)^\top \sum_j \mathrm{relu}(k_j) + \varepsilon} \quad"
    r" \text{for } (q, k, v) \text{ and for } W_g\, \mathrm{conv}_{5 \times 5}(q, k, v)",
    deviations=(
        (
            "The layer alone: the residual and the convolutional feed-forward part of EfficientViT "
            "belong to the block."
        ),
        (
            "One further scale, as in every released model; the authors' class accepts several. "
            "The head width is that of the shape, where the released models have 16 or 32."
        ),
        (
            "On grids of at most d tokens the authors' code multiplies in the quadratic order; "
            "here the order is always the linear one, the same function."
        ),
        (
            "Sums over tokens are taken as means, epsilon divided alike, and half precision "
            "divides in float32, where the authors' code computes all of it in float32 for "
            "float16 inputs."
        ),
        (
            "Where no channel of a query is positive in a head, the row of weights is zero and so "
            "is the output of that head, as in the authors' code."
        ),
        (
            "In training mode the normalisation of the output couples the items of a batch, "
            "because it is part of the published layer; in evaluation it is a fixed map. "
            "normalised_output=False leaves it out and gives the output projection a bias."
        ),
        "Class tokens are refused: the aggregation is a convolution of the grid.",
    ),
    scaling="The convolution stays 5x5 while the grid grows, as in the released models.",
    options=LiteMlaOptions(),
    make=LiteMla,
    core_flops=core_flops,
    projection_flops=projection_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=False,
        any_grid=True,
        extra_tokens=False,
        permutation_equivariant=False,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
