"""Projections around a mix whose output is normalised by head and gated: the recurrent layers.

    y = W_o (norm(O) * silu(W_g x)),    norm(O) = w * O / sqrt(mean(O^2) + epsilon)

O: the mix's output, [batch, heads, tokens, head_dim]; the mean runs over the channels of a head,
so that the scale of O plays no part; w: learned weights, or 1. Some layers gate before they
normalise: norm(O * silu(W_g x)).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.multihead import (
    absent_bias_is_zero,
    adopt_projections,
    require_channels,
    require_tokens,
)
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import Mix, StateDict, square_projections

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]
ByToken = Float[Tensor, "batch tokens heads head_dim"]

gated_projection_flops = square_projections(5)
"""FLOPs of the maps around the mix: q, k, v, gate and out."""


class HeadNorm(nn.Module):
    """The norm and the gate. Parameter: `weight`, one a channel of a head or of the layer."""

    def __init__(
        self,
        shape: AttentionShape,
        *,
        weights: Literal["none", "head_dim", "channels"],
        gate_first: bool = False,
        epsilon: float = 1e-5,
    ) -> None:
        """Build.

        Args:
            shape: sizes; heads and head_dim are used.
            weights: of the norm: none, shared by the heads, or each head's own.
            gate_first: gate before the norm.
            epsilon: added to the mean of squares.
        """
        super().__init__()
        sizes = {"head_dim": shape.head_dim, "channels": shape.channels}
        made = torch.ones(sizes[weights]) if weights in sizes else None
        self.weight = None if made is None else nn.Parameter(made)
        self.gate_first = gate_first
        self.epsilon = epsilon

    def forward(self, heads: ByToken, gate: Stream) -> Stream:
        """Normalise and gate; half precision in float32."""
        wide = heads.to(torch.promote_types(heads.dtype, torch.float32))
        opened = F.silu(gate.to(wide.dtype)).view_as(wide)
        if self.gate_first:
            wide = wide * opened
        normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        if not self.gate_first:
            normal = normal * opened
        if self.weight is not None:
            normal = normal * self.weight.view(-1, heads.shape[3])
        return normal.flatten(2).to(heads.dtype)


class GatedHeads(nn.Module):
    """The layer. Parameters: `qkv`, `gate`, `out`, and those of `mix` and `norm`."""

    streams = "qkv"

    def __init__(
        self, shape: AttentionShape, mix: Mix, norm: HeadNorm, *, qkv_bias: bool = False
    ) -> None:
        """Build for the channels of `shape`.

        Args:
            shape: sizes; only heads, head_dim and extra_tokens are used here.
            mix: the mechanism.
            norm: normalises and gates its output.
            qkv_bias: the projections of queries, keys, values and gate have a bias.
        """
        super().__init__()
        self.heads = shape.heads
        self.head_dim = shape.head_dim
        self.extra_tokens = shape.extra_tokens
        self.qkv = nn.Linear(shape.channels, 3 * shape.channels, bias=qkv_bias)
        self.gate = nn.Linear(shape.channels, shape.channels, bias=qkv_bias)
        self.mix = mix
        self.norm = norm
        self.out = nn.Linear(shape.channels, shape.channels)
        self.register_load_state_dict_pre_hook(absent_bias_is_zero)

    def project(self, x: Stream) -> tuple[Heads, Heads, Heads]:
        """Return q, k, v."""
        batch, tokens, _ = x.shape
        require_channels(x, self.qkv.in_features)
        parts = self.qkv(x).view(batch, tokens, 3, self.heads, self.head_dim)
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))
        return q, k, v

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` does not hold the tokens of `grid`."""
        require_tokens(x, grid, self.extra_tokens)
        q, k, v = self.project(x)
        mixed = self.mix(q, k, v, x, grid)
        return self.out(self.norm(mixed.transpose(1, 2), self.gate(x)))


def adopt_gated_heads(
    official: StateDict,
    *,
    inputs: tuple[str, ...],
    gate: str,
    out: str,
    norm: str | None,
    mix: dict[str, str],
) -> dict[str, Tensor]:
    """Map published names onto those of `GatedHeads`.

    Args:
        official: the authors' state dict of one attention module.
        inputs: prefixes of the projections of q, k and v.
        gate: prefix of the projection of the gate.
        out: prefix of the output projection.
        norm: name of the norm's weight; None where it has none.
        mix: published parameter name -> our name below `mix.`.

    Raises:
        KeyError: a published parameter that this mapping does not know.
    """
    places = {f"{gate}.weight": "gate.weight", f"{gate}.bias": "gate.bias"}
    if norm is not None:
        places[norm] = "norm.weight"
    rest = {name: tensor for name, tensor in official.items() if name not in places}
    adopted = adopt_projections(rest, inputs, out, mix)
    for theirs, ours in places.items():
        if theirs in official:
            adopted[ours] = official[theirs]
    return adopted
