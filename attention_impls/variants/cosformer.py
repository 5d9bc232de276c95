"""cosFormer: rectified linear attention whose weights fade with distance as a cosine.

    O_i = sum_j w_ij v_j / max(sum_j w_ij, epsilon)
    w_ij = (relu(q_i) . relu(k_j)) g_ij,    g_ij = cos(pi/2 (i - j) / M)

q_i, k_j, v_j: query, key and value of one head, each of d numbers; i, j positions in the sequence,
M its length. As cos(a - b) = cos a cos b + sin a sin b, the factor g is a product of features of i
and of j: 2 d features [relu(q) sin, relu(q) cos] make the cost linear in the N tokens.

On images the distance along the sequence puts vertical neighbours a row apart. Two further forms
measure rows and columns, y and x, on the H x W grid, with 4 d features (Vicinity attention):

    grid_sum      g_ij = cos(pi/2 (y_i - y_j) / H) + cos(pi/2 (x_i - x_j) / W)
    grid_product  g_ij = cos(pi/2 (y_i - y_j) / H) cos(pi/2 (x_i - x_j) / W)

Qin, Sun, Deng, Li, Wei, Lv, Yan, Kong, Zhong, "cosFormer: Rethinking Softmax in Attention", ICLR
2022, https://arxiv.org/abs/2202.08791, section 3; on the grid Sun, Qin, Deng, Wang, Zhang,
Zhang, Barnes, Birchfield, Kong, Zhong, "Vicinity Vision Transformer", TPAMI 2023,
https://arxiv.org/abs/2206.10552.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections
from attention_impls.parts.linear_attention import (
    causal_normalised_product,
    normalised_product,
    normalised_product_flops,
)
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Reweighting = Literal["sequence", "grid_sum", "grid_product"]
Heads = Float[Tensor, "batch heads tokens head_dim"]
Rates = Float[Tensor, "tokens rates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CosformerOptions:
    """Options of cosFormer."""

    reweighting: Reweighting = "sequence"
    """What distance the weights fade with: along the sequence, or rows and columns of the grid."""
    epsilon: int | float = 1e-6
    """Smallest sum of the weights of a row."""
    qkv_bias: bool = True
    """The projections of queries, keys and values have a bias."""

    def __post_init__(self) -> None:
        if self.reweighting not in (allowed := get_args(Reweighting)):
            raise ValueError(
                f"reweighting is {self.reweighting!r}, must be one of {', '.join(allowed)}"
            )
        if not self.epsilon > 0:
            raise ValueError(f"epsilon is {self.epsilon}, must be > 0")


class CosformerMix(nn.Module):
    """The formulas of the module docstring; no parameters."""

    def __init__(self, shape: AttentionShape, options: CosformerOptions) -> None:
        """Build; a causal form takes M, the longest sequence it will see, from `shape`."""
        super().__init__()
        self.reweighting = options.reweighting
        self.epsilon = options.epsilon
        self.longest = shape.tokens if shape.causal else None

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Return O.

        Raises:
            UnsupportedShape: a causal form got more tokens than it was built for.
        """
        tokens = q.shape[2]
        length = tokens if self.longest is None else self.longest
        if tokens > length:
            raise UnsupportedShape(
                f"cosformer: {tokens} tokens, causal weights were built for at most {length}, "
                "beyond which they turn negative; build for the longest sequence"
            )
        if self.reweighting == "sequence":
            rates = along_sequence(tokens, length, q)
        else:
            rates = over_grid(grid, q, product=self.reweighting == "grid_product")
        q, k = (_features(t, rates) for t in (q, k))
        product = normalised_product if self.longest is None else causal_normalised_product
        return product(q, k, v, self.epsilon, smallest=True)


def along_sequence(tokens: int, length: int, like: Tensor) -> Rates:
    """Sine and cosine of pi/2 i / M for i = 1..N, whose products sum to the cosine."""
    positions = torch.arange(1, tokens + 1, device=like.device, dtype=_accumulator(like))
    angles = positions * (math.pi / 2 / length)
    return torch.stack((angles.sin(), angles.cos()), 1).to(like.dtype)


def over_grid(grid: Grid, like: Tensor, *, product: bool) -> Rates:
    """Four numbers a token, whose products with those of another sum to the factor g."""

    def both(places: int) -> Float[Tensor, "places two"]:
        angles = torch.arange(places, device=like.device, dtype=_accumulator(like))
        angles = angles * (math.pi / 2 / places)
        return torch.stack((angles.cos(), angles.sin()), 1)

    rows = both(grid.height).repeat_interleave(grid.width, 0)
    columns = both(grid.width).repeat(grid.height, 1)
    if product:
        return (rows.unsqueeze(2) * columns.unsqueeze(1)).flatten(1).to(like.dtype)
    return torch.cat((rows, columns), 1).to(like.dtype)


def _accumulator(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)


def _features(x: Heads, rates: Rates) -> Float[Tensor, "batch heads tokens features"]:
    rectified = F.relu(x).contiguous()
    return (rectified.unsqueeze(3) * rates.unsqueeze(-1)).flatten(3)


def own_limits(shape: AttentionShape, options: CosformerOptions) -> tuple[str, ...]:
    """Tokens without a place have no distance on the grid, and a grid has no order."""
    if options.reweighting == "sequence":
        return ()
    reasons: list[str] = []
    if shape.extra_tokens:
        reasons.append(
            f"reweighting {options.reweighting!r} has no distance to class tokens: got "
            f"extra_tokens={shape.extra_tokens}, allowed 0, or reweighting 'sequence'"
        )
    if shape.causal:
        reasons.append(
            f"reweighting {options.reweighting!r} has no causal form: use reweighting 'sequence'"
        )
    return tuple(reasons)


def make(shape: AttentionShape, options: CosformerOptions) -> MultiHead:
    """Build the layer; it has no parameters beyond the projections."""
    return MultiHead(shape, CosformerMix(shape, options), qkv_bias=options.qkv_bias)


def _feature_count(shape: AttentionShape, options: CosformerOptions) -> int:
    return shape.head_dim * (2 if options.reweighting == "sequence" else 4)


def core_flops(shape: AttentionShape, options: CosformerOptions) -> int:
    """4 B N C f + 2 B N h f with f features a head: 2 d, or 4 d on the grid.

    B batch, N tokens, C channels, h heads, d head_dim: keys times values, queries times that, and
    the row sums. Causal, with N rounded up to P tokens in chunks of c = min(64, N):
    4 B P C f + 2 B P h f + 2 B P c (h f + C).
    """
    return normalised_product_flops(
        shape.batch,
        shape.heads,
        shape.tokens,
        shape.head_dim,
        causal=shape.causal,
        features=_feature_count(shape, options),
    )


def state_floats(shape: AttentionShape, options: CosformerOptions) -> int:
    """Numbers of h f (d + 1), f features a head: the sum of k v^T and the sum of k."""
    return shape.heads * _feature_count(shape, options) * (shape.head_dim + 1)


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `CosformerAttention` module."""
    return adopt_projections(official, ("q_proj", "k_proj", "v_proj"), "out_proj", {})


SPEC = AttentionSpec(
    name="cosformer",
    title="cosFormer",
    family="feature_map",
    paper=Paper(
        title="cosFormer: Rethinking Softmax in Attention",
        authors=(
            "Zhen Qin",
            "Weixuan Sun",
            "Hui Deng",
            "Dongxu Li",
            "Yunshen Wei",
            "Baohong Lv",
            "Junjie Yan",
            "Lingpeng Kong",
            "Yiran Zhong",
        ),
        year=2022,
        venue="ICLR",
        url="https://arxiv.org/abs/2202.08791",
        equation="section 3, re-weighting by a cosine",
        code="https://github.com/OpenNLPLab/cosFormer/blob/"
        "8e12da111e2a683ea875711e0bf5810c6b4e8f9f/cosformer.py",
    ),
    revision=1,
    formula=r"O_i = \frac{\sum_j w_{ij}\, v_j}{\max(\sum_j w_{ij}, \varepsilon)}, \quad"
    r" w_{ij} = \bigl(\mathrm{relu}(q_i)^\top \mathrm{relu}(k_j)\bigr)"
    r" \cos\!\left(\frac{\pi}{2} \cdot \frac{i - j}{M}\right)",
    deviations=(
        (
            "M is the number of tokens of the call, class tokens included, as in the authors' "
            "code; so the weights of the same two tokens change with the length."
        ),
        (
            "In the causal form M is the number of tokens the layer was built for, and more are "
            "refused: with M the length of the call, as in the authors' code, a token's output "
            "would change as the sequence grows."
        ),
        (
            "Epsilon is the smallest denominator and is not added, as in the authors' code; the "
            "paper has none. Where no channel of a query is positive, the output of that head is "
            "0."
        ),
        (
            "grid_sum and grid_product are the two re-weightings of the Vicinity Vision "
            "Transformer's code (OpenNLPLab/Vicinity-Vision-Transformer at 2c49e0f) alone. Its "
            "layer also halves the channels of q, k and v, gates its output by channel, adds 1e-4 "
            "to denominators and forces every product into 1e-4..1e4 in size."
        ),
        "The elu feature map of the authors' code raises an error there and is left out.",
        (
            "Sums over tokens are taken as means, epsilon divided alike, and half precision "
            "divides in float32; the authors' causal code keeps a state for every token, here it "
            "works on chunks of 64."
        ),
    ),
    scaling="M grows with the sequence, so weights fade over the same share of it at every size; "
    "the state keeps its size.",
    options=CosformerOptions(),
    make=make,
    core_flops=core_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    traits=Traits(
        causal=True,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=True,
        nonnegative_weights=True,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    own_limits=own_limits,
    adopt_official=adopt_official,
)
