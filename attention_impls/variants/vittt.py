"""ViT^3 (vision test-time training): the layer trains a small model on its keys and values.

    y = W_out [f'(Q), h'(Q2)]
    f(k) = (k W_1) * silu(k W_2),    h = depthwise 3x3 convolution with kernels W_3
    W' = W - eta G / (|G| + 1),    G = the gradient of l at W

One step on the whole sequence: l = -(s / N) sum_j f(k_j) . v_j, and likewise for h on the maps K2
and V2; |G| the norm of each column of W_1 and W_2, of each kernel of W_3; s = 1/3. Q, K, V:
queries, keys and values [N, d] of one head, whose own W_1 and W_2 are [d, d]; Q2, K2, V2: maps of d
channels on the grid, once a layer; eta: the step. W_1, W_2 and W_3 are learned; the trained W'
belong to one sequence and hold everything a query sees: linear in N, and not linear in the values.

Han, Li, Li, Cao, Wang, Song, Cheng, Zheng, Huang, "ViT^3: Unlocking Test-Time Training in Vision",
CVPR 2026, https://arxiv.org/abs/2512.01643.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import require_tokens
from attention_impls.parts.grid_rotation import channel_rotation_limits, rotation_across_heads
from attention_impls.parts.linear_attention import key_value_mean
from attention_impls.parts.local_convolution import convolve_each_sample, local_convolution_flops
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Paper, StateDict, Traits

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]
Image = Float[Tensor, "batch height width head_dim"]

KERNEL_SIDE = 3
"""Rows and columns of the kernels of the inner convolution; fixed in paper and code."""
SCALE = 1 / KERNEL_SIDE
"""Factor s of both inner losses: the inverse root of the 9 numbers of a kernel, as coded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VitttOptions:
    """Options of vision test-time training."""

    step: int | float = 1.0
    """The step eta of the inner training."""
    rotary: bool = False
    """Rotate queries and keys of f by their place on the grid, as the H-ViT^3 models do."""
    qkv_bias: bool = True
    """The maps to all queries, keys and values have a bias."""


class VitttMix(nn.Module):
    """f' of the module docstring. Parameters: `first` (W_1), `second` (W_2) [1, heads, d, d]."""

    def __init__(self, shape: AttentionShape, options: VitttOptions) -> None:
        """Build; other grids than that of `shape` work, too."""
        super().__init__()
        self.step = options.step
        size = (1, shape.heads, shape.head_dim, shape.head_dim)
        self.first = nn.Parameter(torch.empty(size))
        self.second = nn.Parameter(torch.empty(size))
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.02)
        self.rotation = (
            rotation_across_heads(shape.grid, shape.heads, shape.head_dim)
            if options.rotary
            else None
        )

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Return f'(q); `x` plays no part."""
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        if self.rotation is not None:
            exact = torch.promote_types(v.dtype, torch.float32)
            q, k = (self.rotation(t.to(exact), grid).to(v.dtype) for t in (q, k))
        weights = torch.cat((self.first, self.second), 3)
        linear, gate = (k @ weights).chunk(2, 3)
        sigmoid = gate.sigmoid()
        swish = gate * sigmoid
        slope = torch.lerp(swish, swish.new_ones(()), sigmoid)
        descent = torch.cat(
            (key_value_mean(k, v * swish), key_value_mean(k, v * linear * slope)), 3
        )
        linear, gate = (q @ (weights + self.step * clipped(descent, (2,)))).chunk(2, 3)
        return linear * F.silu(gate)


class Vittt(nn.Module):
    """The layer.

    Parameters: `qkv`, `local_qkv` (one map each for three streams), `kernels` [d, 1, 3, 3] (W_3),
    `out` (of heads and one more head, h'), and those of `mix`.
    """

    def __init__(self, shape: AttentionShape, options: VitttOptions) -> None:
        """Build for the heads and channels of `shape`."""
        super().__init__()
        channels, head_dim = shape.channels, shape.head_dim
        self.heads = shape.heads
        self.step = options.step
        self.qkv = nn.Linear(channels, 3 * channels, bias=options.qkv_bias)
        self.local_qkv = nn.Linear(channels, 3 * head_dim, bias=options.qkv_bias)
        self.kernels = nn.Parameter(torch.empty(head_dim, 1, KERNEL_SIDE, KERNEL_SIDE))
        nn.init.normal_(self.kernels, std=0.02)
        self.mix = VitttMix(shape, options)
        self.out = nn.Linear(channels + head_dim, channels)

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        require_tokens(x, grid, 0)
        q, k, v = self.project(x)
        mixed, local = self.mix(q, k, v, x, grid), self.local(x, grid)
        both = torch.cat((mixed.transpose(1, 2), local.transpose(1, 2)), 2)
        return self.out(both.flatten(2))

    def project(self, x: Stream) -> tuple[Heads, Heads, Heads]:
        """Return q, k, v of f."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def local(self, x: Stream, grid: Grid) -> Float[Tensor, "batch 1 tokens head_dim"]:
        """Return h'(Q2)."""
        q, k, v = self.local_qkv(x).unflatten(1, (grid.height, grid.width)).chunk(3, 3)
        descent = correlation(k, v).unsqueeze(2)
        kernels = self.kernels + self.step * clipped(descent, (3, 4))
        return convolve_each_sample(q.flatten(1, 2).unsqueeze(1), kernels.squeeze(2), grid)


def clipped(
    descent: Float[Tensor, "batch first second third *rest"], axes: tuple[int, ...]
) -> Float[Tensor, "batch first second third *rest"]:
    """Return s G / (|s G| + 1), the norm taken over `axes`; float32 for half precision."""
    exact = torch.promote_types(descent.dtype, torch.float32)
    scaled = descent.to(exact) * SCALE
    norm = torch.linalg.vector_norm(scaled, dim=axes, keepdim=True)
    return (scaled / (norm + 1)).to(descent.dtype)


def correlation(k: Image, v: Image) -> Float[Tensor, "batch head_dim 3 3"]:
    """Return the mean over the grid of v times k moved by each place of a kernel, by channel."""
    height, width = k.shape[1:3]
    framed = F.pad(k, (0, 0, 1, 1, 1, 1))
    moved = [
        framed[:, row : row + height, column : column + width]
        for row in range(KERNEL_SIDE)
        for column in range(KERNEL_SIDE)
    ]
    exact = torch.promote_types(k.dtype, torch.float32)
    sums = [(place * v).sum((1, 2), dtype=exact) for place in moved]
    mean = torch.stack(sums, 2) * (1 / (height * width))
    return mean.to(k.dtype).unflatten(2, (KERNEL_SIDE, KERNEL_SIDE))


def own_limits(shape: AttentionShape, options: VitttOptions) -> tuple[str, ...]:
    """Rotated pairs must fill the channels of a head, and rows and columns share the pairs."""
    if not options.rotary:
        return ()
    return channel_rotation_limits(shape.heads, shape.head_dim)


def make(shape: AttentionShape, options: VitttOptions) -> Vittt:
    """Build the layer."""
    return Vittt(shape, options)


def core_flops(shape: AttentionShape, _options: VitttOptions) -> int:
    """12 B N C d: the inner model of all keys, both gradients, the trained model of all queries.

    B batch, N tokens, C channels, d head_dim; each of the three is two products of 2 B N C d.
    """
    return 12 * shape.batch * shape.tokens * shape.channels * shape.head_dim


def projection_flops(shape: AttentionShape, options: VitttOptions) -> int:
    """8 B N C^2 + 8 B N C d for the maps, and 36 B N d for the branch of the convolution.

    That branch, its gradient and its convolution, lies beside the mix.
    """
    batch, tokens, channels, head_dim = shape.batch, shape.tokens, shape.channels, shape.head_dim
    maps = 8 * batch * tokens * channels * (channels + head_dim)
    convolution = local_convolution_flops(batch, shape.grid, head_dim, KERNEL_SIDE)
    return maps + convolution + uncounted(shape, options)[0]


def uncounted(shape: AttentionShape, _options: VitttOptions) -> tuple[int, str]:
    """18 B N d for the gradient at W_3."""
    flops = local_convolution_flops(shape.batch, shape.grid, shape.head_dim, KERNEL_SIDE)
    return flops, "the gradient of the inner convolution is nine products and sums over the grid"


def state_floats(shape: AttentionShape, _options: VitttOptions) -> int:
    """2 C d: the trained W_1 and W_2; the branch of the convolution is not counted."""
    return 2 * shape.channels * shape.head_dim


def adopt_official(official: StateDict) -> dict[str, Tensor]:
    """Map one `TTT` block, whose six streams are one map."""
    weight = official["qkv.weight"]
    cut = (3 * weight.shape[1],)
    adopted = {
        "mix.first": official["w1"],
        "mix.second": official["w2"],
        "kernels": official["w3"],
        "out.weight": official["proj.weight"],
        "out.bias": official["proj.bias"],
    }
    for kind in ("weight", "bias"):
        if f"qkv.{kind}" in official:
            parts = official[f"qkv.{kind}"].tensor_split(cut)
            adopted |= zip((f"qkv.{kind}", f"local_qkv.{kind}"), parts, strict=True)
    known = {"qkv.weight", "qkv.bias", "w1", "w2", "w3", "proj.weight", "proj.bias"}
    if unknown := sorted(set(official) - known):
        raise KeyError(f"no place for the published parameters {', '.join(unknown)}")
    return adopted


SPEC = AttentionSpec(
    name="vittt",
    title="Vision test-time training (ViT^3)",
    family="hybrid",
    paper=Paper(
        title="ViT^3: Unlocking Test-Time Training in Vision",
        authors=(
            "Dongchen Han",
            "Yining Li",
            "Tianyu Li",
            "Zixuan Cao",
            "Ziming Wang",
            "Jun Song",
            "Yu Cheng",
            "Bo Zheng",
            "Gao Huang",
        ),
        year=2026,
        venue="CVPR",
        url="https://arxiv.org/abs/2512.01643",
        equation="the section on the ViT^3 model: its two inner modules and their training",
        code="https://github.com/LeapLabTHU/ViTTT/blob/"
        "e3477587d099e6b9e83e9e7c80b1b999e0989a20/ttt_block.py",
    ),
    revision=1,
    formula=r"O = (Q W'_1) \odot \mathrm{silu}(Q W'_2), \quad"
    r" W' = W - \eta \frac{G}{\lVert G \rVert + 1}, \quad"
    r" G = \nabla_W \left(-\tfrac{s}{N} \sum_j"
    r" \left((k_j W_1) \odot \mathrm{silu}(k_j W_2)\right)^\top v_j\right)",
    deviations=(
        (
            "The core is the gated inner model of the heads; the branch of the inner convolution, "
            "one more head of the output, lies beside it in the layer."
        ),
        (
            "As in the authors' code the gradients are written out, divided by their norm plus 1, "
            "and both losses have the factor 1/3, whatever head_dim is."
        ),
        (
            "The sum over tokens is a mean in the gradient, and the two weight matrices are used "
            "side by side: the same function. In half precision the norms and the gradient of the "
            "inner convolution are computed in float32, and so is the rotation."
        ),
        (
            "rotary=True rotates over all channels before they are split into heads, as the "
            "H-ViT^3 models do; the authors keep the rotations of one resolution, here any grid "
            "works."
        ),
    ),
    scaling="No option depends on the grid; the inner weights keep their size while the grid grows "
    "and the gradient is a mean over more tokens.",
    options=VitttOptions(),
    make=make,
    core_flops=core_flops,
    projection_flops=projection_flops,
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
    own_limits=own_limits,
    uncounted=uncounted,
    adopt_official=adopt_official,
)
