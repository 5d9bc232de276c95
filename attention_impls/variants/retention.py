"""Retention: products of queries and keys decay with the distance, instead of a softmax.

    O_i = sum_j gamma^|i - j| (R_i q_i . R_j k_j) / sqrt(d) v_j,    gamma_h = 1 - 2^(-5 - h)
    y = W_o (norm(O) * silu(W_g x))

q_i, k_j, v_j: query, key and value of head h, each of d numbers; tokens i, j are counted along the
sequence, an image row by row; R_i turns pair p of the d channels by the angle i 10000^(-2p / (d -
2)); norm divides the d numbers of a head by the root of their mean square. j runs over all tokens;
in the causal form over j <= i, which is the form of the paper and a recurrence with the state
S_i = gamma S_{i-1} + k_i v_i^T. All tokens together are two such scans, one from each end, in which
a token's own term is counted once. Computed in chunks: linear in the tokens.

Sun, Dong, Huang, Ma, Xia, Xue, Wang, Wei, "Retentive Network: A Successor to Transformer for Large
Language Models", 2023, https://arxiv.org/abs/2307.08621, equations 5 to 8. With |i - j|, for
images: Fan, Huang, Chen, Liu, He, "RMT: Retentive Networks Meet Vision Transformers", CVPR 2024,
https://arxiv.org/abs/2309.11523.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.parts.decayed_attention import decayed_product, decayed_product_flops
from attention_impls.parts.gated_heads import (
    GatedHeads,
    HeadNorm,
    adopt_gated_heads,
    gated_projection_flops,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]

_BASE = 10000.0
"""Ratio of the fastest turning pair of channels to the slowest."""
_EPSILON = 1e-6
"""Added to the mean of squares in the norm, as in the authors' code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionOptions:
    """Options of retention."""

    decay_exponent: int = 5
    """e in gamma_h = 1 - 2^(-e - h): about 2^(e + h) tokens reach a query of head h."""
    rotation: bool = True
    """Turn queries and keys with the position: R of the module docstring."""
    qkv_bias: bool = False
    """The projections of queries, keys, values and gate have a bias."""

    def __post_init__(self) -> None:
        if self.decay_exponent < 1:
            raise ValueError(f"decay_exponent is {self.decay_exponent}, must be >= 1")


class RetentionMix(nn.Module):
    """O of the module docstring; no parameters."""

    def __init__(self, shape: AttentionShape, options: RetentionOptions) -> None:
        """Build for the heads of `shape`; its grid plays no part."""
        super().__init__()
        self.causal = shape.causal
        self.rotation = options.rotation
        self.decay_exponent = options.decay_exponent

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Return O; `x` and `grid` play no part."""
        wide = torch.promote_types(q.dtype, torch.float32)
        scale = q.shape[-1] ** -0.5
        q, k = q.to(wide), k.to(wide)
        if self.rotation:
            turn = _turn(q.shape[2], q.shape[3], q)
            q, k = _turned(q, turn * scale), _turned(k, turn)
        else:
            q = q * scale
        heads = torch.arange(q.shape[1], device=q.device, dtype=torch.float64)
        logarithms = torch.log1p(-torch.exp2(-self.decay_exponent - heads)).to(wide)
        decay = logarithms.view(1, -1, 1, 1).expand(1, -1, q.shape[2], 1)
        return decayed_product(q, k, v, decay, None if self.causal else decay)


def _turn(tokens: int, head_dim: int, like: Tensor) -> Tensor:
    """Return exp(i angle) for each token and pair of channels, complex."""
    pairs = head_dim // 2
    positions = torch.arange(tokens, device=like.device, dtype=torch.float64)
    place = torch.linspace(0, 1, pairs, device=like.device, dtype=torch.float64)
    # whole turns are dropped in float64: in float32 they would eat up the digits of the angle
    turns = torch.outer(positions, _BASE**-place / (2 * math.pi))
    angles = ((turns - turns.round()) * (2 * math.pi)).to(like.dtype)
    return torch.polar(torch.ones_like(angles), angles)


def _turned(heads: Heads, turn: Tensor) -> Heads:
    pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)


def make(shape: AttentionShape, options: RetentionOptions) -> GatedHeads:
    """Build the layer; the mix and the norm have no parameters."""
    norm = HeadNorm(shape, weights="none", epsilon=_EPSILON)
    return GatedHeads(shape, RetentionMix(shape, options), norm, qkv_bias=options.qkv_bias)


def core_flops(shape: AttentionShape, _options: RetentionOptions) -> int:
    """4 B P C c + 8 B P C d, the second only with more than one chunk; causal: 4 B P C d.

    B batch, N tokens rounded up to P in chunks of c <= 64, C channels, d head_dim: weights within
    chunks and their product with v, then the states of both directions and what is read of them.
    """
    return decayed_product_flops(
        shape.batch,
        shape.heads,
        shape.tokens,
        shape.head_dim,
        shape.head_dim,
        directions=1 if shape.causal else 2,
        by_channel=False,
    )


def state_floats(shape: AttentionShape, _options: RetentionOptions) -> int:
    """C d for each direction: the decayed sum of k v^T, per head."""
    return (1 if shape.causal else 2) * shape.channels * shape.head_dim


def own_limits(shape: AttentionShape, options: RetentionOptions) -> tuple[str, ...]:
    """Channels turn in pairs."""
    if options.rotation and shape.head_dim % 2:
        return (f"head_dim is {shape.head_dim}; the rotation needs an even one",)
    return ()


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `MultiScaleRetention` of microsoft/torchscale with value_dim = embed_dim."""
    return adopt_gated_heads(
        official,
        inputs=("q_proj", "k_proj", "v_proj"),
        gate="g_proj",
        out="out_proj",
        norm=None,
        mix={},
    )


SPEC = AttentionSpec(
    name="retention",
    title="Retention",
    family="recurrent",
    paper=Paper(
        title="Retentive Network: A Successor to Transformer for Large Language Models",
        authors=(
            "Yutao Sun",
            "Li Dong",
            "Shaohan Huang",
            "Shuming Ma",
            "Yuqing Xia",
            "Jilong Xue",
            "Jianyong Wang",
            "Furu Wei",
        ),
        year=2023,
        venue="arXiv",
        url="https://arxiv.org/abs/2307.08621",
        equation="equations 5 to 8",
        code="https://github.com/microsoft/torchscale/blob/"
        "4d1e0e82e5adf86dd424f1463192635b73fc8efc/torchscale/component/multiscale_retention.py",
    ),
    revision=1,
    formula=r"O_i = \sum_j \gamma_h^{|i-j|} \frac{(R_i q_i)^\top R_j k_j}{\sqrt d}\, v_j, \quad"
    r"\gamma_h = 1 - 2^{-5-h}, \quad y = W_o\,(\mathrm{norm}(O) \odot \mathrm{silu}(W_g x))",
    deviations=(
        (
            "The paper and its code are causal. Without causal=True the decay is that of the "
            "distance |i - j|, as in RMT's first, one-dimensional form: two scans that count a "
            "token's own term once. RMT itself goes on to distances on the grid and a softmax, "
            "which is another mechanism."
        ),
        (
            "The code divides rows by the root of the sum of their decays and by the clamped sum "
            "of the absolute products. The norm by head undoes any division of a row, so they are "
            "left out: with the code's epsilon of 1e-6 the outputs differ by what epsilon weighs "
            "against rows of another size, with epsilon 0 not at all."
        ),
        (
            "Values are as wide as keys; the published models have values of twice the width "
            "(value_dim), and so a larger state."
        ),
        (
            "Computed in chunks of at most 64 tokens, as the paper's chunkwise form; half "
            "precision in float32, the angles of the rotation first in float64."
        ),
        "The published output projection has no bias; here it has one, as in other variants.",
    ),
    scaling=(
        "The decay is in tokens: a finer grid of the same image brings more tokens into the same "
        "reach, so decay_exponent would grow by one where the tokens double."
    ),
    options=RetentionOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=gated_projection_flops,
    order=lambda _options: 1.0,
    state_floats=state_floats,
    own_limits=own_limits,
    traits=Traits(
        causal=True,
        any_grid=True,
        extra_tokens=True,
        permutation_equivariant=False,
        rows_sum_to_one=False,
        nonnegative_weights=False,
        approximates_softmax=False,
        deterministic_eval=True,
    ),
    adopt_official=adopt_official,
)
