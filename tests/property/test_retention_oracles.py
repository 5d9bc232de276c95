"""retention against what its mathematics must give."""

import math
from dataclasses import replace

import pytest
import torch
from property.recurrent_oracles import LENGTHS, decayed_scan, inputs, reversed_scan
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from bench.stimulus import fill_parameters

SPEC = load("retention")
HEADS, WIDTH = 3, 6


def mixed(tensors: list[Tensor], *, causal: bool = False, **options) -> Tensor:
    grid = Grid(1, tensors[0].shape[2])
    shape = AttentionShape(2, grid, HEADS, WIDTH, causal=causal)
    return SPEC.build(shape, replace(SPEC.options, **options)).double().mix(*tensors, grid)


def turned(heads: Tensor) -> Tensor:
    """Each pair of channels turned by its angle, one number at a time."""
    out = heads.clone()
    for position in range(heads.shape[2]):
        for pair in range(WIDTH // 2):
            angle = position * 10000.0 ** (-2 * pair / (WIDTH - 2))
            a, b = heads[:, :, position, 2 * pair], heads[:, :, position, 2 * pair + 1]
            out[:, :, position, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            out[:, :, position, 2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def decays(tokens: int, exponent: int = 5) -> Tensor:
    gamma = torch.tensor([1 - 2.0 ** (-exponent - h) for h in range(HEADS)], dtype=torch.float64)
    return gamma.view(1, -1, 1, 1).expand(2, -1, tokens, 1)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_chunks_equal_the_recurrence_from_each_end(tokens: int) -> None:
    q, k, v, x = inputs(2, HEADS, tokens, WIDTH)
    terms = (turned(q) / WIDTH**0.5, turned(k), v, decays(tokens))
    ahead, back = decayed_scan(*terms), reversed_scan(decayed_scan, *terms)
    own = (terms[0] * terms[1]).sum(-1, keepdim=True) * v
    assert_close(mixed([q, k, v, x], causal=True), ahead, rtol=1e-10, atol=1e-11)
    assert_close(mixed([q, k, v, x]), ahead + back - own, rtol=1e-10, atol=1e-11)


def test_weights_fall_with_the_distance() -> None:
    tokens = 70
    q, k, v, x = inputs(2, HEADS, tokens, WIDTH)
    place = torch.arange(tokens)
    distance = (place[:, None] - place).abs()
    scores = turned(q) @ turned(k).mT / WIDTH**0.5
    want = (scores * decays(1) ** distance) @ v
    assert_close(mixed([q, k, v, x]), want, rtol=1e-10, atol=1e-11)
    for other in ({"rotation": False}, {"decay_exponent": 6}):
        with pytest.raises(AssertionError, match="not close"):
            assert_close(mixed([q, k, v, x], **other), want, rtol=1e-3, atol=1e-3)


def test_only_the_distance_between_positions_counts() -> None:
    q, k, v, x = inputs(2, HEADS, 40, WIDTH)
    q, k, v = (torch.cat((t[:, :, :1].expand(-1, -1, 8, -1), t), 2) for t in (q, k, v))
    v = v.clone()
    v[:, :, :8] = 0
    later = mixed([q, k, v, x[:, :1].expand(-1, 48, -1)])[:, :, 8:]
    assert_close(later, mixed([q[:, :, 8:], k[:, :, 8:], v[:, :, 8:], x]), rtol=1e-9, atol=1e-10)


def test_the_norm_undoes_every_division_of_a_row() -> None:
    """Why the code's division of rows by sums of decays and products can be left out."""
    shape = AttentionShape(2, Grid(1, 20), HEADS, WIDTH)
    layer = SPEC.build(shape).double()
    fill_parameters(layer)
    heads = inputs(2, 20, HEADS, WIDTH)[0] + 1
    gate = inputs(2, HEADS, 20, WIDTH)[3]
    divided = heads * torch.linspace(1, 9, 20, dtype=torch.float64).view(1, -1, 1, 1)
    assert_close(layer.norm(divided, gate), layer.norm(heads, gate), rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(layer.norm(heads**2, gate), layer.norm(heads, gate), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_angles_keep_their_digits_far_along_the_sequence(dtype: torch.dtype) -> None:
    q, k, v, x = (t[:1, :1] if t.ndim == 4 else t[:1, :, :WIDTH] for t in inputs(1, 1, 9000, WIDTH))
    grid = Grid(90, 100)
    mix = SPEC.build(AttentionShape(1, grid, 1, WIDTH)).mix
    rounded = [t.to(dtype) for t in (q, k, v, x)]
    want = mix(*(t.double() for t in rounded), grid)
    got = mix(*rounded, grid)
    assert_close(got.double(), want, rtol=0, atol=0.01 * want.abs().max().item())


def test_an_odd_width_is_refused_unless_nothing_turns() -> None:
    shape = AttentionShape(1, Grid(2, 2), 1, 5)
    with pytest.raises(UnsupportedShape, match="head_dim is 5"):
        SPEC.build(shape)
    options = replace(SPEC.options, rotation=False)
    assert SPEC.build(shape, options)(torch.ones(1, 4, 5), shape.grid).shape == (1, 4, 5)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="decay_exponent"):
        replace(SPEC.options, decay_exponent=0)
