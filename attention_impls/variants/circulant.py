"""Circulant attention: softmax over how alike queries and keys are at each shift of the grid.

    O_i = T_i * sum_m a_m v_(i+m),    a = softmax_m(r),    r_m = sum_i q_i k_(i+m) / sqrt(N)

for each of the C channels on its own: q_i, k_i, v_i one number at place i of the grid; i, m places
of the N, and i + m counts rows and columns around the grid's ends; * multiplies channel by channel;
T = silu(W x + b), a gate from the layer's input x. The matrix of weights is circulant in rows and
columns: one map a of N numbers is all of it. Both sums are products after a Fourier transform F
over rows and columns,

    a = softmax(F^-1(conj(F q) F k) / sqrt(N)),    O = T * F^-1(conj(F a) F v),

so that the cost grows with N log N. With `shared_maps` the d channels of a head have one map, from
the sum of r over them divided by sqrt(d).

Han, Li, Wang, Huang, "Vision Transformers are Circulant Attention Learners", AAAI 2026,
https://arxiv.org/abs/2512.21542, equations 15 and 16.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import MultiHead, adopt_projections, merge_heads
from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits, square_projections

Heads = Float[Tensor, "batch heads tokens head_dim"]
Maps = Float[Tensor, "batch heads maps rows columns"]
Spectrum = Complex[Tensor, "batch heads maps rows half_columns"]
Stream = Float[Tensor, "batch tokens channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CirculantOptions:
    """Options of circulant attention."""

    shared_maps: bool = False
    """One map of weights a head, as the paper defines it, instead of one a channel."""


class CirculantMix(nn.Module):
    """The formulas of the module docstring without the gate; no parameters."""

    def __init__(self, options: CirculantOptions) -> None:
        """Build; the grid of a call is transformed."""
        super().__init__()
        self.shared_maps = options.shared_maps

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return the weighted sums; half precision is transformed in float32."""
        size = (grid.height, grid.width)
        q, k, values = (spectrum(t, grid) for t in (q, k, v))
        shifted = q.conj() * k
        if self.shared_maps:
            shifted = shifted.sum(2, keepdim=True) * v.shape[3] ** -0.5
        scores = torch.fft.irfft2(shifted, s=size, norm="ortho")
        weights = scores.flatten(3).softmax(3).unflatten(3, size)
        mixed = torch.fft.rfft2(weights).conj() * values
        return torch.fft.irfft2(mixed, s=size, norm="ortho").flatten(3).mT.to(v.dtype)


def spectrum(x: Heads, grid: Grid) -> Spectrum:
    """Return the transform over rows and columns of each channel, divided by sqrt(N)."""
    accumulator = torch.promote_types(x.dtype, torch.float32)
    image = x.mT.unflatten(3, (grid.height, grid.width))
    return torch.fft.rfft2(image.to(accumulator), norm="ortho")


class Circulant(MultiHead):
    """The layer. Parameters: `qkv` (no bias), `gate` (T) and `out`."""

    def __init__(self, shape: AttentionShape, options: CirculantOptions) -> None:
        """Build for the channels of `shape`; its grid plays no part."""
        super().__init__(shape, CirculantMix(options), qkv_bias=False)
        self.gate = nn.Linear(shape.channels, shape.channels)

    def project(self, x: Stream) -> tuple[Heads, Heads, Heads]:
        """Return q, k, v, each channel's tokens together in memory, as transforms want them."""
        weight = self.qkv.weight.expand(x.shape[0], -1, -1)
        parts = torch.bmm(weight, x.mT).unflatten(1, (3, self.heads, self.head_dim)).unbind(1)
        q, k, v = (part.mT for part in parts)
        return q, k, v

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        if x.shape[1] != grid.tokens:
            raise UnsupportedShape(
                f"x has {x.shape[1]} tokens, grid {grid} needs {grid.tokens}; "
                "pass the grid of this call"
            )
        q, k, v = self.project(x)
        mixed = merge_heads(self.mix(q, k, v, x, grid))
        return self.out(F.silu(self.gate(x)) * mixed)


def _fourier_flops(shape: AttentionShape, channels: int) -> int:
    """One real transform of so many channels: 5/2 B N c log2 N, which is the rows' and columns'."""
    levels = math.log2(shape.grid.height) + math.log2(shape.grid.width)
    return round(2.5 * shape.batch * shape.tokens * channels * levels)


def core_flops(shape: AttentionShape, options: CirculantOptions) -> int:
    """5/2 B N (4 C + 2 M) log2 N: q, k, v and out; scores and weights of M = C maps, or one a head.

    B batch, N tokens, C channels. Products after the transforms are element by element.
    """
    maps = shape.heads if options.shared_maps else shape.channels
    return 4 * _fourier_flops(shape, shape.channels) + 2 * _fourier_flops(shape, maps)


def uncounted(shape: AttentionShape, options: CirculantOptions) -> tuple[int, str]:
    """All of the mix: transforms are no products of matrices."""
    sentence = "Fourier transforms, 5 n log2 n for a complex one, which torch's counter leaves out."
    return core_flops(shape, options), sentence


def state_floats(shape: AttentionShape, _options: CirculantOptions) -> int:
    """2 N C: every value and a weight for every shift and channel."""
    return 2 * shape.tokens * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `CirculantAttention` module."""
    gates = {f"gate.0.{kind}": f"gate.{kind}" for kind in ("weight", "bias")}
    rest = {name: tensor for name, tensor in official.items() if name not in gates}
    adopted = adopt_projections(rest, ("qkv",), "proj", {})
    return adopted | {gates[name]: official[name] for name in official if name in gates}


SPEC = AttentionSpec(
    name="circulant",
    title="Circulant attention",
    family="spectral",
    paper=Paper(
        title="Vision Transformers are Circulant Attention Learners",
        authors=("Dongchen Han", "Tianyu Li", "Ziyi Wang", "Gao Huang"),
        year=2026,
        venue="AAAI",
        url="https://arxiv.org/abs/2512.21542",
        equation="equations 15 and 16",
        code="https://github.com/LeapLabTHU/Circulant-Attention/blob/"
        "21323da749e05f75e19e3e20c0c1d92199bc06e0/models/ca_deit.py",
    ),
    revision=1,
    formula=r"O = T \odot \mathcal{F}^{-1}\!\left(\overline{\mathcal{F}(a)} \odot \mathcal{F}(V)"
    r"\right), \quad a = \mathrm{softmax}\!\left(\tfrac{1}{\sqrt{N}}\, \mathcal{F}^{-1}\!\left("
    r"\overline{\mathcal{F}(Q)} \odot \mathcal{F}(K)\right)\right), \quad"
    r" T = \mathrm{silu}(W x + b)",
    deviations=(
        (
            "The paper sums r over the channels of a head and divides by N sqrt(d). The authors' "
            "code has a map for each channel (d = 1) and, by the norms of its transforms, divides "
            "by sqrt(N); so does this layer. shared_maps=True is the sum, with sqrt(N d)."
        ),
        (
            "The gate T is in the authors' code and not in the paper's equations; it belongs to "
            "the layer, so the mix alone is measured without it."
        ),
        (
            "The authors' code transforms the input and projects its spectrum to queries, keys and "
            "values; here the input is projected and those are transformed: the same function, as "
            "both are linear."
        ),
        (
            "The authors' code takes the grid to be square; here the grid is given. On a sequence, "
            "a grid of height 1, weights depend on the distance along it, around its end."
        ),
        (
            "The 3x3 convolution before the layer, which encodes positions, belongs to the block. "
            "In half precision transforms and softmax are computed in float32."
        ),
        "Class tokens are refused: they have no place on the grid, as in the authors' models.",
    ),
    scaling="Maps and transforms grow with the grid, with no option to set; a row of weights "
    "covers the whole grid at every size.",
    options=CirculantOptions(),
    make=Circulant,
    core_flops=core_flops,
    projection_flops=square_projections(5),
    # N log N: its slope at the largest grids, 1 + 1 / ln N at 8192 x 4096 tokens
    order=lambda _options: 1.06,
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
    uncounted=uncounted,
    adopt_official=adopt_official,
)
