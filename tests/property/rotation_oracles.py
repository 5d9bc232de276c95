"""Slow and plain forms of what layers on a grid have in common: rotations, convolutions, gates."""

import math
from typing import Any

import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from bench.stimulus import fill_parameters, normal

EPSILON = 1e-6


def turned(features: Tensor, grid: Grid, angles: list[list[tuple[float, float]]]) -> Tensor:
    """Rotate pairs of features, pair by pair and token by token.

    Args:
        features: [batch, heads, tokens, features].
        grid: layout of the tokens.
        angles: for each head and pair, what a step down and a step right turn it by.
    """
    out = features.clone()
    for head, pairs in enumerate(angles):
        for pair, (down, right) in enumerate(pairs):
            first, second = features[:, head, :, 2 * pair], features[:, head, :, 2 * pair + 1]
            for token in range(grid.tokens):
                angle = down * (token // grid.width) + right * (token % grid.width)
                cos, sin = math.cos(angle), math.sin(angle)
                a, b = first[:, token], second[:, token]
                out[:, head, token, 2 * pair] = a * cos - b * sin
                out[:, head, token, 2 * pair + 1] = a * sin + b * cos
    return out


def angles_in_each_head(heads: int, head_dim: int, repeats: int = 1) -> Any:
    """d/4 frequencies from 1 to 1/10000: first rows, then columns, the same in all heads."""
    count = head_dim // 4
    rates = [10000.0 ** -(i / max(1, count - 1)) for i in range(count)]
    pairs = [(rate, 0.0) for rate in rates] + [(0.0, rate) for rate in rates]
    return [pairs * repeats for _ in range(heads)]


def angles_across_heads(heads: int, head_dim: int) -> Any:
    """C/4 frequencies for rows and as many for columns, laid over the channels of all heads."""
    count = heads * head_dim // 4
    rates = [10000.0 ** -(i / count) for i in range(count)]
    pairs = [(rate, 0.0) for rate in rates] + [(0.0, rate) for rate in rates]
    each = head_dim // 2
    return [pairs[head * each : (head + 1) * each] for head in range(heads)]


def convolved(v: Tensor, weight: Tensor, bias: Tensor, grid: Grid) -> Tensor:
    """Depthwise convolution as a loop over pairs; weight [heads, head_dim, side, side]."""
    out, reach = bias.unsqueeze(1).expand_as(v).clone(), weight.shape[-1] // 2
    for i in range(grid.tokens):
        for j in range(grid.tokens):
            down = j // grid.width - i // grid.width
            right = j % grid.width - i % grid.width
            if max(abs(down), abs(right)) <= reach:
                out[:, :, i] += v[:, :, j] * weight[:, :, reach + down, reach + right]
    return out


def local_branch(mix: Any, v: Tensor, grid: Grid) -> Tensor:
    """The convolution of a mix whose filters are `local`, one a channel."""
    heads, width = v.shape[1], v.shape[3]
    weight, bias = mix.local.weight, mix.local.bias
    return convolved(v, weight.view(heads, width, *weight.shape[2:]), bias.view(heads, width), grid)


def positive(x: Tensor) -> Tensor:
    """elu(x) + 1."""
    return torch.where(x > 0, x + 1, x.exp())


def filled(spec: AttentionSpec, shape: AttentionShape, options: Any) -> Any:
    """A layer in float64 with the closed-form weights, without gradients."""
    layer = spec.build(shape, options).double()
    fill_parameters(layer)
    return layer.requires_grad_(requires_grad=False)


def qkvx(shape: AttentionShape) -> list[Tensor]:
    """Inputs of the mix in float64."""
    sizes = (shape.batch, shape.heads, shape.tokens, shape.head_dim)
    heads = [normal(name, sizes, dtype=torch.float64) for name in "qkv"]
    return [*heads, normal("x", (shape.batch, shape.tokens, shape.channels), dtype=torch.float64)]


def gated(layer: Any, x: Tensor, grid: Grid) -> Tensor:
    """out(mix * gate) of a layer whose gate has no activation, written out."""
    q, k, v = layer.project(x)
    mixed = layer.mix(q, k, v, x, grid).transpose(1, 2).flatten(2)
    gate = x @ layer.gate.weight.T + layer.gate.bias
    return (mixed * gate) @ layer.out.weight.T + layer.out.bias
