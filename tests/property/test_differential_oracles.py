"""differential against what its mathematics must give."""

import math
from dataclasses import replace

import pytest
import torch
from property.recurrent_oracles import inputs
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from bench.vector import built

SPEC = load("differential")
HEADS, WIDTH = 3, 8


def mix_of(tokens: int, *, depth: int = 0, causal: bool = False):
    shape = AttentionShape(2, Grid(1, tokens), HEADS, WIDTH, causal=causal)
    return built(SPEC, shape, replace(SPEC.options, depth=depth)).mix


def row_by_row(mix, q: Tensor, k: Tensor, v: Tensor, *, depth: int, causal: bool) -> Tensor:
    start = 0.8 - 0.6 * math.exp(-0.3 * depth)
    first = math.exp(torch.dot(mix.lambda_q1, mix.lambda_k1))
    weight = first - math.exp(torch.dot(mix.lambda_q2, mix.lambda_k2)) + start
    out = torch.zeros_like(v)
    for i in range(q.shape[2]):
        seen = i + 1 if causal else q.shape[2]
        maps: list[Tensor] = []
        for half in (slice(0, WIDTH // 2), slice(WIDTH // 2, WIDTH)):
            scores = (k[:, :, :seen, half] * q[:, :, i : i + 1, half]).sum(-1) / (WIDTH // 2) ** 0.5
            maps.append(scores.softmax(-1))
        row = ((maps[0] - weight * maps[1]).unsqueeze(-1) * v[:, :, :seen]).sum(2)
        size = (row.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        out[:, :, i] = row / size * mix.norm * (1 - start)
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("depth", [0, 5])
@pytest.mark.parametrize("tokens", [1, 2, 17])
def test_equals_the_formula_row_by_row(tokens: int, depth: int, causal: bool) -> None:
    q, k, v, x = inputs(2, HEADS, tokens, WIDTH)
    mix = mix_of(tokens, depth=depth, causal=causal)
    want = row_by_row(mix, q, k, v, depth=depth, causal=causal)
    assert_close(mix(q, k, v, x, Grid(1, tokens)), want, rtol=1e-11, atol=1e-12)
    if tokens > 2:
        other = row_by_row(mix, q, k, v, depth=depth + 1, causal=causal)
        with pytest.raises(AssertionError, match="not close"):
            assert_close(mix(q, k, v, x, Grid(1, tokens)), other, rtol=1e-3, atol=1e-3)


def test_maps_that_agree_cancel() -> None:
    """Both halves alike: the output is that of softmax attention over one half, normalised."""
    q, k, v, x = inputs(2, HEADS, 20, WIDTH)
    half = WIDTH // 2
    q, k = (torch.cat((t[..., :half], t[..., :half]), -1) for t in (q, k))
    mix = mix_of(20)
    soft = (q[..., :half] @ k[..., :half].mT / half**0.5).softmax(-1) @ v
    soft = soft * (1 - mix.weight(torch.float64))
    size = (soft.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert_close(mix(q, k, v, x, Grid(1, 20)), soft / size * mix.norm * 0.8)


def test_the_weight_of_the_second_map_grows_with_depth() -> None:
    found = [mix_of(2, depth=d).weight(torch.float64).item() for d in (0, 1, 3, 10, 100)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(0.2, abs=1e-2)
    assert found[-1] == pytest.approx(0.8, abs=1e-2)


def test_causal_output_knows_nothing_later() -> None:
    tensors, mix = inputs(2, HEADS, 16, WIDTH), mix_of(16, causal=True)
    before = mix(*tensors, Grid(1, 16))
    for tensor in tensors[1:3]:
        tensor[:, :, 9] += 1
    after = mix(*tensors, Grid(1, 16))
    assert torch.equal(before[:, :, :9], after[:, :, :9])
    assert not torch.equal(before[:, :, 9], after[:, :, 9])


def test_an_odd_width_and_a_negative_depth_are_refused() -> None:
    with pytest.raises(UnsupportedShape, match="head_dim is 5"):
        SPEC.build(AttentionShape(1, Grid(2, 2), 1, 5))
    with pytest.raises(ValueError, match="depth"):
        replace(SPEC.options, depth=-1)
