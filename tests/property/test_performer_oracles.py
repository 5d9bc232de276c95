"""performer against what its mathematics must give."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.shapes import UnsupportedShape
from attention_impls.variants.performer import feature_count, random_projection
from bench.stimulus import normal

SPEC = load("performer")
TOKENS, WIDTH = 70, 8
GRID = Grid(1, TOKENS)
SHAPE = AttentionShape(2, GRID, 2, WIDTH)
X = normal("x", (2, TOKENS, 16), dtype=torch.float64)


def qkv() -> list[Tensor]:
    return [normal(name, (2, 2, TOKENS, WIDTH), dtype=torch.float64) for name in "qkv"]


def mixed(options: Any, *inputs: Tensor, causal: bool = False) -> Tensor:
    tokens = inputs[0].shape[2]
    shape = replace(SHAPE, grid=Grid(1, tokens), causal=causal)
    layer = SPEC.build(shape, options).double()
    return layer.mix(*inputs, X[:, :tokens], shape.grid)


def dense(options: Any) -> Tensor:
    """Every weight on its own: phi(q_i) . phi(k_j), rows divided by their sum."""
    q, k, v = qkv()
    matrix = random_projection(feature_count(WIDTH, options), WIDTH, options).double()
    first, second = (t @ matrix.T * WIDTH**-0.25 for t in (q, k))
    if options.feature_map == "relu":
        weights = (first.relu() + 1e-3) @ (second.relu() + 1e-3).mT
    else:
        squares = [t.square().sum(-1, keepdim=True) / (2 * WIDTH**0.5) for t in (q, k)]
        top = second.amax((-2, -1), keepdim=True)
        queries = torch.exp(first - squares[0] - first.amax(-1, keepdim=True)) + 1e-4
        weights = queries @ (torch.exp(second - squares[1] - top) + 1e-4).mT
    return weights / weights.sum(-1, keepdim=True) @ v


@pytest.mark.parametrize("kind", ["softmax", "relu"])
def test_linear_form_equals_the_dense_one(kind: str) -> None:
    options = replace(SPEC.options, feature_map=kind)
    torch.testing.assert_close(mixed(options, *qkv()), dense(options))
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mixed(replace(options, seed=1), *qkv()), dense(options))


def test_without_features_it_is_two_softmaxes() -> None:
    q, k, v = qkv()
    want = q.softmax(-1) @ (k.softmax(-2).mT @ v)
    torch.testing.assert_close(mixed(replace(SPEC.options, feature_map="none"), q, k, v), want)


def test_more_features_come_nearer_to_softmax_attention() -> None:
    q, k, v = qkv()
    q, k = q / 2, k / 2
    exact = torch.softmax(q @ k.mT * WIDTH**-0.5, -1) @ v

    unbiased = replace(SPEC.options, uniform_directions=True, epsilon=0.0)

    def error(features: int) -> float:
        errors = [
            (mixed(replace(unbiased, features=features, seed=s), q, k, v) - exact).square().mean()
            for s in range(4)
        ]
        return math.sqrt(sum(errors) / len(errors))

    few, more, many = error(16), error(256), error(4096)
    assert more < few / 2
    assert many < more / 2


def standard_errors_off(trial: int, **changed: Any) -> float:
    """How far the mean over draws of phi(x) . phi(y) / r is from exp(x . y), in standard errors."""
    x, y = (0.4 * normal(f"{name}{trial}", (WIDTH,), dtype=torch.float64) for name in "xy")
    options = replace(SPEC.options, **changed)
    draws = [random_projection(256, WIDTH, replace(options, seed=s)).double() for s in range(300)]
    phi = [[torch.exp(w @ t - t.square().sum() / 2) for t in (x, y)] for w in draws]
    products = torch.stack([(a * b).mean() for a, b in phi])
    error = products.mean() - torch.exp(x @ y)
    return abs(error / (products.std() / len(draws) ** 0.5)).item()


@pytest.mark.parametrize("changed", [{"orthogonal": False}, {"uniform_directions": True}])
def test_products_of_features_are_unbiased(changed: dict[str, bool]) -> None:
    assert max(standard_errors_off(trial, **changed) for trial in range(3)) < 4


def test_published_orthogonal_rows_are_biased_in_narrow_heads() -> None:
    assert max(standard_errors_off(trial) for trial in range(3)) > 4


@pytest.mark.parametrize("orthogonal", [True, False])
def test_rows_are_orthogonal_within_blocks_of_head_dim(orthogonal: bool) -> None:
    options = replace(SPEC.options, orthogonal=orthogonal)
    matrix = random_projection(20, WIDTH, options).double()
    rows = torch.nn.functional.normalize(matrix, dim=1)
    for block in rows.split(WIDTH):
        products = block @ block.T - torch.eye(len(block), dtype=torch.float64)
        assert (products.abs().max() < 1e-5) == orthogonal
    constant = replace(options, row_norms="constant", orthogonal=True)
    lengths = random_projection(20, WIDTH, constant).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((20,), WIDTH**0.5))
    assert matrix.norm(dim=1).std() > 0.1


def test_the_draw_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = SPEC.build(SHAPE).mix.projection
    state = torch.get_rng_state()
    random_projection(30, WIDTH, SPEC.options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first, SPEC.build(SHAPE).mix.projection)
    assert not torch.equal(first, SPEC.build(SHAPE, replace(SPEC.options, seed=1)).mix.projection)


@pytest.mark.parametrize(("head_dim", "features"), [(1, 1), (2, 1), (8, 16), (32, 110), (64, 266)])
def test_default_number_of_features(head_dim: int, features: int) -> None:
    assert feature_count(head_dim, SPEC.options) == features


@pytest.mark.parametrize("kind", ["softmax", "relu"])
def test_causal_row_is_the_bidirectional_mechanism_on_its_prefix(kind: str) -> None:
    options = replace(SPEC.options, feature_map=kind)
    q, k, v = qkv()
    k = k * torch.linspace(0.2, 3, TOKENS, dtype=torch.float64)[:, None]
    got = mixed(options, q, k, v, causal=True)
    rows = [
        mixed(options, *(t[:, :, : i + 1] for t in (q, k, v)))[:, :, -1:] for i in range(TOKENS)
    ]
    torch.testing.assert_close(got, torch.cat(rows, 2))
    both = mixed(options, q, k, v)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(got, both)


def test_causal_stabiliser_of_all_keys_would_see_the_future() -> None:
    """Why the published form is not used: with its stabiliser a later key moves earlier rows."""
    q, k, v = qkv()
    loud = k.clone()
    loud[:, :, -1] *= 6
    early = slice(0, TOKENS - 1)
    got, moved = (mixed(SPEC.options, q, t, v, causal=True) for t in (k, loud))
    torch.testing.assert_close(got[:, :, early], moved[:, :, early], rtol=0, atol=1e-12)

    def published(keys: Tensor) -> Tensor:
        options = SPEC.options
        matrix = random_projection(feature_count(WIDTH, options), WIDTH, options).double()
        first, second = (t @ matrix.T * WIDTH**-0.25 for t in (q, keys))
        squares = [t.square().sum(-1, keepdim=True) / (2 * WIDTH**0.5) for t in (q, keys)]
        queries = torch.exp(first - squares[0] - first.amax(-1, keepdim=True)) + 1e-4
        features = torch.exp(second - squares[1] - second.amax((-2, -1), keepdim=True)) + 1e-4
        weights = (queries @ features.mT).tril()
        return weights / weights.sum(-1, keepdim=True) @ v

    assert (published(k)[:, :, early] - published(loud)[:, :, early]).abs().max() > 1e-6


def test_causal_stays_finite_when_one_late_key_dwarfs_all_others() -> None:
    q, k, v = (t.float() for t in qkv())
    k[:, :, -1] *= 1e3
    layer = SPEC.build(replace(SHAPE, causal=True))
    assert torch.isfinite(layer.mix(q, k, v, X.float(), GRID)).all()


def test_map_without_features_has_no_causal_form() -> None:
    with pytest.raises(UnsupportedShape, match="feature_map='none'"):
        SPEC.build(replace(SHAPE, causal=True), replace(SPEC.options, feature_map="none"))
