"""cosformer against weights written with the cosine of a difference, pair by pair."""

import math
from collections.abc import Callable

import pytest
import torch
from property.linear_oracles import recurrence
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.cosformer import CosformerOptions
from bench.stimulus import normal

Factor = Callable[[int, int, Grid], float]


def sequence(i: int, j: int, grid: Grid) -> float:
    return math.cos(math.pi / 2 * (i - j) / grid.tokens)


def rows_and_columns(i: int, j: int, grid: Grid) -> tuple[float, float]:
    down, right = i // grid.width - j // grid.width, i % grid.width - j % grid.width
    return math.cos(math.pi / 2 * down / grid.height), math.cos(math.pi / 2 * right / grid.width)


FACTORS: dict[str, Factor] = {
    "sequence": sequence,
    "grid_sum": lambda i, j, grid: sum(rows_and_columns(i, j, grid)),
    "grid_product": lambda i, j, grid: math.prod(rows_and_columns(i, j, grid)),
}


def dense(q: Tensor, k: Tensor, v: Tensor, factor: Factor, grid: Grid, *, causal: bool) -> Tensor:
    fade = [[factor(i, j, grid) for j in range(grid.tokens)] for i in range(grid.tokens)]
    weights = (q.relu() @ k.relu().mT) * torch.tensor(fade, dtype=q.dtype)
    weights = weights.tril() if causal else weights
    assert weights.min() >= 0
    return weights / weights.sum(-1, keepdim=True).clamp_min(1e-6) @ v


def tensors(tokens: int) -> tuple[Tensor, ...]:
    return tuple(normal(name, (2, 3, tokens, 8), dtype=torch.float64) for name in "qkv")


@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(3, 5), Grid(7, 2)], ids=str)
@pytest.mark.parametrize("name", FACTORS)
def test_equals_the_dense_weights(name: str, grid: Grid) -> None:
    shape = AttentionShape(batch=2, grid=grid, heads=3, head_dim=8)
    mix = load("cosformer").build(shape, CosformerOptions(reweighting=name)).mix
    q, k, v = tensors(grid.tokens)
    got = mix(q, k, v, v.transpose(1, 2).flatten(2), grid)
    torch.testing.assert_close(got, dense(q, k, v, FACTORS[name], grid, causal=False))
    if grid.tokens > 1:
        for other in set(FACTORS) - {name}:
            want = dense(q, k, v, FACTORS[other], grid, causal=False)
            with pytest.raises(AssertionError, match="not close"):
                torch.testing.assert_close(got, want)


@pytest.mark.parametrize("tokens", [1, 64, 70])
def test_causal_form_equals_the_dense_weights(tokens: int) -> None:
    grid = Grid(1, tokens)
    shape = AttentionShape(batch=2, grid=grid, heads=3, head_dim=8, causal=True)
    mix = load("cosformer").build(shape).mix
    q, k, v = tensors(tokens)
    got = mix(q, k, v, v.transpose(1, 2).flatten(2), grid)
    torch.testing.assert_close(got, dense(q, k, v, sequence, grid, causal=True))


@pytest.mark.parametrize("built_for", [150, 200])
def test_causal_form_equals_the_recurrence(built_for: int) -> None:
    """Two states, one for the sines and one for the cosines of the keys' places."""
    tokens = 150
    shape = AttentionShape(batch=2, grid=Grid(1, built_for), heads=3, head_dim=8, causal=True)
    mix = load("cosformer").build(shape).mix
    q, k, v = tensors(tokens)

    def features(x: Tensor, length: int) -> Tensor:
        angle = (torch.arange(tokens, dtype=x.dtype) * math.pi / 2 / length).unsqueeze(1)
        return torch.cat((x.relu() * angle.sin(), x.relu() * angle.cos()), -1)

    got = mix(q, k, v, v.transpose(1, 2).flatten(2), Grid(1, tokens))
    known = [features(t, built_for) for t in (q, k)]
    torch.testing.assert_close(got, recurrence(torch.clone, *known, v, 1e-300))
    other = [features(t, built_for + 1) for t in (q, k)]
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(got, recurrence(torch.clone, *other, v, 1e-300))


def test_causal_form_refuses_more_tokens_than_it_was_built_for() -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, 5), heads=3, head_dim=8, causal=True)
    mix = load("cosformer").build(shape).mix
    q, k, v = tensors(6)
    with pytest.raises(UnsupportedShape, match="at most 5"):
        mix(q, k, v, v.transpose(1, 2).flatten(2), Grid(1, 6))


def test_grid_forms_refuse_what_has_no_place_on_a_grid() -> None:
    spec = load("cosformer")
    for name in ("grid_sum", "grid_product"):
        options = CosformerOptions(reweighting=name)
        for extra, causal, reason in ((1, False, "class tokens"), (0, True, "causal")):
            shape = AttentionShape(2, Grid(3, 4), 2, 8, extra_tokens=extra, causal=causal)
            assert any(reason in r for r in spec.unsupported(shape, options))
            assert not spec.unsupported(shape)
