"""FNet: tokens are mixed by a Fourier transform; nothing is learned and nothing is compared.

    O = Re(F_N X F_C),    (F_n)_ab = exp(-2 pi i a b / n)

X: the layer's input [N, C] as it is, N tokens, C channels of all heads together; F_N, F_C: the
discrete Fourier transforms along tokens and channels; Re: the real part. There is no projection.

Lee-Thorp, Ainslie, Eckstein, Ontañón, "FNet: Mixing Tokens with Fourier Transforms", NAACL 2022,
https://arxiv.org/abs/2105.03824, section 3.2.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.multihead import merge_heads, require_tokens
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FnetOptions:
    """FNet has no options."""


class FourierMix(nn.Module):
    """O of the module docstring, X being the values of all heads together; no parameters."""

    def forward(
        self,
        q: Heads,  # noqa: ARG002
        k: Heads,  # noqa: ARG002
        v: Heads,
        x: Stream,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Return O; queries, keys, `x` and `grid` play no part. Half precision in float32."""
        channels = v.shape[1] * v.shape[3]
        stream = merge_heads(v).to(torch.promote_types(v.dtype, torch.float32))
        half = torch.fft.rfft2(stream).real
        # the input is real: the other half of the channels is the first, read from the other end
        # of both axes
        rest = half[:, :, 1 : (channels + 1) // 2]
        rest = torch.cat((rest[:, :1].flip(2), rest[:, 1:].flip(1, 2)), 1)
        out = torch.cat((half, rest), 2).to(v.dtype)
        return out.unflatten(2, (v.shape[1], v.shape[3])).transpose(1, 2)


class Fnet(nn.Module):
    """The layer: the mix of the input itself, cut into heads; no parameters."""

    streams = "v"

    def __init__(self, shape: AttentionShape) -> None:
        """Build; of `shape` heads and extra_tokens are used."""
        super().__init__()
        self.heads = shape.heads
        self.extra_tokens = shape.extra_tokens
        self.mix = FourierMix()

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Mix. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        require_tokens(x, grid, self.extra_tokens)
        v = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return merge_heads(self.mix(v, v, v, x, grid))


def make(shape: AttentionShape, _options: FnetOptions) -> Fnet:
    """Build the layer."""
    return Fnet(shape)


def core_flops(shape: AttentionShape, _options: FnetOptions) -> int:
    """2.5 B N C log2(N C): a real transform along both axes, half of a complex one.

    B batch, N tokens, C channels; 5 n log2(n) for a complex transform of length n.
    """
    elements = shape.batch * shape.tokens * shape.channels
    return round(2.5 * elements * (math.log2(shape.tokens) + math.log2(shape.channels)))


def uncounted(shape: AttentionShape, options: FnetOptions) -> tuple[int, str]:
    """All of `core_flops`."""
    return core_flops(shape, options), "torch's counter of operators has no rule for transforms."


def state_floats(shape: AttentionShape, _options: FnetOptions) -> int:
    """N C: the transform of every token."""
    return shape.tokens * shape.channels


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `FourierTransform`, which has no parameters."""
    if official:
        raise KeyError(f"no place for the published parameters {', '.join(sorted(official))}")
    return {}


SPEC = AttentionSpec(
    name="fnet",
    title="FNet",
    family="spectral",
    paper=Paper(
        title="FNet: Mixing Tokens with Fourier Transforms",
        authors=("James Lee-Thorp", "Joshua Ainslie", "Ilya Eckstein", "Santiago Ontañón"),
        year=2022,
        venue="NAACL",
        url="https://arxiv.org/abs/2105.03824",
        equation="section 3.2",
        code="https://github.com/google-research/google-research/blob/"
        "1d4d2f1aa6f2883a790d2ae46a6ee8ab150d8f31/f_net/layers.py",
    ),
    revision=1,
    formula=r"O = \mathrm{Re}\left(\mathcal{F}_N\, X\, \mathcal{F}_C\right), \quad"
    r"(\mathcal{F}_n)_{ab} = e^{-2 \pi i\, a b / n}",
    deviations=(
        (
            "The layer has no parameters, as published: a network with it has fewer than one with "
            "attention. At level core the values take the place of the input."
        ),
        (
            "A real transform is computed and the other half of the channels read from it; the "
            "authors' code runs a complex one, or products with the matrices of the transforms "
            "where those are faster. It is the same function."
        ),
        (
            "Half precision is computed in float32: half-precision transforms exist for powers of "
            "two alone. Nothing is divided, so the outputs grow as the root of N C, and with the "
            "mean of the input as N C."
        ),
        "An image is a sequence, row by row; class tokens are tokens of it like all others.",
    ),
    scaling=(
        "There is nothing to scale; the transform is fastest where tokens and channels are "
        "products of small primes."
    ),
    options=FnetOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=lambda _shape, _options: 0,
    order=lambda _options: 1.05,
    state_floats=state_floats,
    uncounted=uncounted,
    traits=Traits(
        causal=False,
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
