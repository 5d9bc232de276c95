"""fnet against what its mathematics must give."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from bench.stimulus import normal

SPEC = load("fnet")


def transform(n: int) -> Tensor:
    place = torch.arange(n, dtype=torch.float64)
    angle = -2 * math.pi * torch.outer(place, place) / n
    return torch.polar(torch.ones_like(angle), angle)


def products(x: Tensor) -> Tensor:
    """Re(F_N X F_C), with both matrices written out."""
    found = transform(x.shape[1]) @ x.to(torch.complex128) @ transform(x.shape[2])
    return found.real


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 16, 35])
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (1, 2), (2, 4), (3, 3), (1, 7)])
def test_equals_products_with_the_matrices(tokens: int, heads: int, width: int) -> None:
    x = normal("x", (2, tokens, heads * width), dtype=torch.float64)
    layer = SPEC.build(AttentionShape(2, Grid(1, tokens), heads, width))
    got = layer(x, Grid(1, tokens))
    assert_close(got, products(x), rtol=1e-11, atol=1e-11)
    if tokens > 2 and heads * width > 2:
        with pytest.raises(AssertionError, match="not close"):
            assert_close(got, products(x.flip(1)), rtol=1e-3, atol=1e-3)


def test_the_first_number_is_the_sum_of_all() -> None:
    x = normal("x", (1, 12, 10), dtype=torch.float64)
    out = SPEC.build(AttentionShape(1, Grid(3, 4), 2, 5))(x, Grid(3, 4))
    assert_close(out[0, 0, 0], x.sum())


def test_twice_gives_the_even_part_times_the_size() -> None:
    """Re F Re F x = N C (x + x read backwards along both axes) / 2."""
    x = normal("x", (1, 12, 10), dtype=torch.float64)
    layer, grid = SPEC.build(AttentionShape(1, Grid(3, 4), 2, 5)), Grid(3, 4)
    mirrored = x.flip(1, 2).roll((1, 1), (1, 2))
    assert_close(layer(layer(x, grid), grid), 120 * (x + mirrored) / 2)


def test_the_core_transforms_the_values_of_all_heads_together() -> None:
    shape = AttentionShape(2, Grid(3, 4), 2, 5)
    layer = SPEC.build(shape)
    q, k, v = (normal(n, (2, 2, 12, 5), dtype=torch.float64) for n in "qkv")
    merged = v.transpose(1, 2).flatten(2)
    out = layer.mix(q, k, v, merged, shape.grid).transpose(1, 2).flatten(2)
    assert_close(out, layer(merged, shape.grid))


def test_there_is_nothing_to_learn_and_nothing_to_load() -> None:
    layer = SPEC.build(AttentionShape(1, Grid(2, 2), 1, 4))
    assert list(layer.parameters()) == []
    assert SPEC.adopt_official({}) == {}
    with pytest.raises(KeyError, match="kernel"):
        SPEC.adopt_official({"kernel": torch.zeros(1)})


def test_half_precision_is_transformed_in_float32() -> None:
    x = normal("x", (1, 48, 20)).half()
    out = SPEC.build(AttentionShape(1, Grid(6, 8), 2, 10))(x, Grid(6, 8))
    assert out.dtype == torch.float16
    assert_close(out.double(), products(x.double()), rtol=1e-3, atol=0.05)
