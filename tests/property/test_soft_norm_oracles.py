"""soft_norm against what its mathematics must give."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.parts.gaussian import gaussian_affinities
from attention_impls.variants.soft_norm import initial_scale
from bench.stimulus import normal

SPEC = load("soft_norm")
GRID = Grid(5, 6)
SHAPE = AttentionShape(3, GRID, 2, 16)


def doubles(name: str, *shape: int) -> Tensor:
    return normal(name, shape, dtype=torch.float64)


def affinities(spread: float) -> Tensor:
    points = spread * doubles("points", 4, 12, 6)
    points[1] *= 0.5
    points[2] *= 2
    return gaussian_affinities(points, points, 1.0)


def halved_by_trial(matrix: Tensor) -> Tensor:
    """The published search: form the residual, halve alpha, form it again."""
    alpha = 2 / matrix.sum(-1).max() ** 2
    for _ in range(10):
        residual = torch.eye(matrix.shape[-1]) - alpha * matrix @ matrix
        if residual.abs().sum(-2).max() <= 1.01:
            break
        alpha = alpha / 2
    return alpha


@pytest.mark.parametrize("spread", [0.1, 0.4, 0.7, 1.0, 1.5, 3.0])
def test_the_number_of_halvings_is_that_of_the_search(spread: float) -> None:
    matrix = affinities(spread)
    own = initial_scale(matrix, together=False).flatten()
    one_by_one = torch.stack([halved_by_trial(m[None]) for m in matrix])
    torch.testing.assert_close(own, one_by_one)
    together = initial_scale(matrix, together=True).flatten()
    torch.testing.assert_close(together, halved_by_trial(matrix).expand(4))


def test_the_search_matters() -> None:
    matrix = affinities(0.7)
    whole = 2 / matrix.sum(-1).amax(-1) ** 2
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(initial_scale(matrix, together=False).flatten(), whole)


def test_with_a_landmark_a_token_it_is_the_normalised_inverse() -> None:
    options = replace(SPEC.options, landmark_sampling="average_pool", local_size=0, newton_steps=60)
    q, v = 2 * doubles("q", 3, 2, 30, 16), doubles("v", 3, 2, 30, 16)
    layer = SPEC.build(SHAPE, options).double()
    got = layer.mix(q, q, v, doubles("x", 3, 30, 32), GRID)
    scaled = (q / 2).flatten(0, 1)
    affinity = gaussian_affinities(scaled, scaled, 1.0)
    normaliser = torch.diag_embed(affinity.sum(-1).rsqrt())
    want = (
        affinity @ normaliser @ torch.linalg.inv(affinity) @ normaliser @ affinity @ v.flatten(0, 1)
    )
    torch.testing.assert_close(got.flatten(0, 1), want, rtol=0, atol=1e-8)
    plain = affinity @ v.flatten(0, 1)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(got.flatten(0, 1), plain, rtol=0, atol=1e-3)


@pytest.mark.parametrize("choice", ["per_matrix", "global"])
def test_only_the_global_scale_couples_the_batch(choice: str) -> None:
    options = replace(SPEC.options, initial_scale=choice, newton_steps=6)
    layer = SPEC.build(SHAPE, options).double()
    x = doubles("x", 3, 30, 32)
    x[0] = x[0, :1] + 1e-2 * x[0]
    error = (layer(x, GRID)[1:] - layer(x[1:], GRID)).abs().max()
    assert (error < 1e-12) == (choice == "per_matrix"), f"difference {error:.3g}"


def test_gradients_of_the_defaults_are_right() -> None:
    """Unrolled: right however far the iteration is from converged."""
    shape = AttentionShape(1, Grid(4, 4), 2, 3)
    layer = SPEC.build(shape, replace(SPEC.options, landmarks=4, newton_steps=3)).double()
    x = doubles("x", 1, 16, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(t, shape.grid), (x,), atol=1e-6)
    implicit = replace(SPEC.options, landmarks=4, newton_steps=3, inverse_gradient="implicit")
    other = SPEC.build(shape, implicit).double()
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda t: other(t, shape.grid), (x,), atol=1e-6)
