"""Projections around a function-level mix: the layer every benchmarked mechanism becomes.

Layout of the core is `[batch, heads, tokens, head_dim]`, that of scaled_dot_product_attention.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape
from attention_impls.spec import Mix, StateDict

Heads = Float[Tensor, "batch heads tokens head_dim"]
Stream = Float[Tensor, "batch tokens channels"]


def merge_heads(heads: Heads) -> Stream:
    """[batch, heads, tokens, head_dim] -> [batch, tokens, heads * head_dim]."""
    return heads.transpose(1, 2).flatten(2)


def require_tokens(x: Stream, grid: Grid, extra_tokens: int) -> None:
    """Refuse an `x` that does not hold the tokens of `grid` and the extra ones.

    Raises:
        UnsupportedShape: another number of tokens, no sequence, or not [batch, tokens, channels].
        TypeError: `grid` is no Grid.
    """
    if type(grid) is not Grid:
        raise TypeError(f"grid is {grid!r}, must be a Grid: Grid(height, width)")
    if x.dim() != 3:
        raise UnsupportedShape(
            f"x is {list(x.shape)}, must be [batch, tokens, channels]; an image "
            "[batch, channels, height, width] becomes that by x.flatten(2).transpose(1, 2)"
        )
    if x.shape[0] == 0:
        raise UnsupportedShape(f"x is {list(x.shape)}, must hold one sequence at least")
    needed = grid.tokens + extra_tokens
    if x.shape[1] != needed:
        beside = f" with {extra_tokens} extra tokens" if extra_tokens else ""
        raise UnsupportedShape(
            f"x has {x.shape[1]} tokens, grid {grid}{beside} needs {needed}; "
            "pass the grid of this call"
        )


def require_channels(x: Stream, channels: int) -> None:
    """Raise UnsupportedShape when the tokens of `x` are not as wide as the layer."""
    if x.shape[2] != channels:
        raise UnsupportedShape(
            f"x has {x.shape[2]} channels, this layer has {channels} (heads x head_dim)"
        )


class FunctionMix(nn.Module):
    """A mix that needs q, k and v alone and has no parameters."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, q: Heads, k: Heads, v: Heads, x: Stream, grid: Grid) -> Heads:  # noqa: ARG002
        """Call the function; `x` and `grid` play no part."""
        return self.function(q, k, v)


class MultiHead(nn.Module):
    """x -> q, k, v -> mix -> out, for any `Mix`.

    Parameters: `qkv` (one linear map for all input projections), `out`, and those of `mix`.
    """

    def __init__(
        self,
        shape: AttentionShape,
        mix: Mix,
        *,
        qkv_bias: bool = True,
        streams: Literal["qkv", "qv", "v"] = "qkv",
    ) -> None:
        """Build for the channels of `shape`.

        Args:
            shape: sizes; only heads, head_dim and extra_tokens are used here.
            mix: the mechanism.
            qkv_bias: the input projections have a bias.
            streams: `qv` for mechanisms whose keys are their queries (SOFT): k is q; `v` for those
                that have neither (Synthesizer): q and k are v.
        """
        super().__init__()
        self.heads = shape.heads
        self.head_dim = shape.head_dim
        self.extra_tokens = shape.extra_tokens
        self.streams = streams
        self.qkv = nn.Linear(shape.channels, len(streams) * shape.channels, bias=qkv_bias)
        self.mix = mix
        self.out = nn.Linear(shape.channels, shape.channels)
        self.register_load_state_dict_pre_hook(absent_bias_is_zero)

    def project(self, x: Stream) -> tuple[Heads, Heads, Heads]:
        """Return q, k, v; for streams `qv`, k is q; for `v`, all three are v.

        Raises:
            UnsupportedShape: `x` has other channels.
        """
        batch, tokens, _ = x.shape
        require_channels(x, self.qkv.in_features)
        parts = self.qkv(x).view(batch, tokens, len(self.streams), self.heads, self.head_dim)
        # split where the streams lie in memory: backward, their gradients are joined in one copy
        parts = tuple(part.transpose(1, 2) for part in parts.unbind(2))
        # the middle of three is k, of two q, of one v
        return parts[0], parts[(len(parts) - 1) // 2], parts[-1]

    def forward(self, x: Stream, grid: Grid) -> Stream:
        """Attend. Raises UnsupportedShape when `x` is not of the layer's channels and `grid`."""
        require_tokens(x, grid, self.extra_tokens)
        q, k, v = self.project(x)
        return self.out(merge_heads(self.mix(q, k, v, x, grid)))


def absent_bias_is_zero(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_unused: Any
) -> None:
    """A published layer without projection bias is the same function as one with a zero bias.

    A pre-hook of `load_state_dict`.
    """
    for name, child in module.named_children():
        bias = child.bias if isinstance(child, nn.Linear) else None
        if isinstance(bias, Tensor) and f"{prefix}{name}.weight" in state_dict:
            state_dict.setdefault(f"{prefix}{name}.bias", torch.zeros_like(bias))


def adopt_projections(
    official: StateDict, inputs: tuple[str, ...], out: str, mix: dict[str, str]
) -> dict[str, Tensor]:
    """Map published projection names onto `qkv` and `out`, and mix parameters one to one.

    Args:
        official: the authors' state dict of one attention module.
        inputs: prefixes of the input projections in the order q, k, v (one, two or three maps).
        out: prefix of the output projection.
        mix: published parameter name -> our name below `mix.`.

    Raises:
        KeyError: a published parameter that this mapping does not know (nothing is dropped).
    """
    adopted = {"qkv.weight": torch.cat([official[f"{name}.weight"] for name in inputs])}
    known = {f"{name}.{kind}" for name in (*inputs, out) for kind in ("weight", "bias")}
    if f"{inputs[0]}.bias" in official:
        adopted["qkv.bias"] = torch.cat([official[f"{name}.bias"] for name in inputs])
    for kind in ("weight", "bias"):
        if f"{out}.{kind}" in official:
            adopted[f"out.{kind}"] = official[f"{out}.{kind}"]
    for theirs, ours in mix.items():
        if theirs in official:
            adopted[f"mix.{ours}"] = official[theirs]
    if unknown := sorted(set(official) - known - set(mix)):
        raise KeyError(f"no place for the published parameters {', '.join(unknown)}")
    return adopted


def published_inputs(official: StateDict) -> tuple[str, ...]:
    """Names of the input projections in vision code: `qkv` (DeiT, Swin), or `q` and `kv` (PVT)."""
    return ("qkv",) if "qkv.weight" in official else ("q", "kv")
