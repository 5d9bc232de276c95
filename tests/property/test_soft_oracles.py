"""soft against what its mathematics must give: exact affinities, closed forms, plain loops."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from attention_impls import AttentionShape, Grid, load
from attention_impls.parts.gaussian import gaussian_affinities
from attention_impls.parts.headwise_conv import headwise_conv
from attention_impls.parts.landmarks import (
    GridLandmarks,
    landmark_count,
    landmark_grid,
    landmark_window,
    sampled_tokens,
)
from attention_impls.parts.newton import newton_inverse, newton_inverse_implicit, ridged
from attention_impls.shapes import UnsupportedShape
from bench.stimulus import normal

SPEC = load("soft")
GRID = Grid(5, 6)
SHAPE = AttentionShape(2, GRID, 3, 16)
PURE = replace(SPEC.options, landmark_sampling="average_pool", local_size=0)
"""No convolutions: on a grid with no more tokens than landmarks, each token is its own landmark."""


def doubles(name: str, *shape: int) -> Tensor:
    return normal(name, shape, dtype=torch.float64)


def heads(name: str, shape: AttentionShape = SHAPE) -> Tensor:
    return doubles(name, shape.batch, shape.heads, shape.tokens, shape.head_dim)


def mixed(options: Any, q: Tensor, v: Tensor, shape: AttentionShape = SHAPE) -> Tensor:
    layer = SPEC.build(shape, options).double()
    return layer.mix(q, q, v, doubles("x", shape.batch, shape.tokens, shape.channels), shape.grid)


def all_affinities(q: Tensor) -> Tensor:
    """exp(-|q_i - q_j|^2 / (2 sqrt(d))) by direct subtraction."""
    difference = q.unsqueeze(-2) - q.unsqueeze(-3)
    return torch.exp(-difference.square().sum(-1) / (2 * q.shape[-1] ** 0.5))


def test_with_a_landmark_a_token_it_is_exact_gaussian_attention() -> None:
    q, v = 2 * heads("q"), heads("v")
    exact = replace(PURE, ridge=0.0, newton_steps=60)
    want = all_affinities(q) @ v
    torch.testing.assert_close(mixed(exact, q, v), want, rtol=0, atol=1e-9)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mixed(PURE, q, v), want, rtol=0, atol=1e-9)


def test_the_implied_matrix_is_symmetric_and_positive_semidefinite() -> None:
    shape = AttentionShape(1, Grid(6, 8), 1, 48)
    q = heads("q", shape)
    few = replace(PURE, landmarks=9)
    matrix = mixed(few, q, torch.eye(48, dtype=torch.float64)[None, None], shape)[0, 0]
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-10)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-10
    assert torch.linalg.matrix_rank(matrix) == 9
    assert torch.linalg.eigvalsh(-matrix).min() < -1e-3


def psd(size: int, smallest: float) -> Tensor:
    basis = torch.linalg.qr(doubles("basis", 2, size, size)).Q
    values = torch.logspace(torch.tensor(smallest).log10().item(), 0, size, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.mT


@pytest.mark.parametrize("smallest", [0.5, 1e-2, 1e-6])
@pytest.mark.parametrize("steps", [0, 1, 3, 8, 20])
def test_newton_steps_have_their_closed_form(steps: int, smallest: float) -> None:
    matrix = psd(6, smallest)
    got = newton_inverse(matrix, 0.9 * matrix, steps)
    values, basis = torch.linalg.eigh(matrix)
    scaled = -torch.expm1(2**steps * torch.log1p(-0.9 * values.square()))
    want = basis @ torch.diag_embed(scaled / values) @ basis.mT
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


def test_directions_of_small_eigenvalues_are_not_inverted() -> None:
    matrix = psd(6, 1e-6)
    got = newton_inverse(matrix, 0.9 * matrix, 20)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(got, torch.linalg.inv(matrix))


def gradients(invert: Any, matrix: Tensor, steps: int) -> Tensor:
    leaf = matrix.clone().requires_grad_()
    out = invert(leaf, 0.9 * leaf, steps)
    return torch.autograd.grad(out, leaf, doubles("upstream", *matrix.shape))[0]


def test_implicit_gradient_is_the_unrolled_one_where_the_iteration_has_converged() -> None:
    matrix = psd(6, 0.3)
    implicit = gradients(newton_inverse_implicit, matrix, 30)
    torch.testing.assert_close(implicit, gradients(newton_inverse, matrix, 30), rtol=0, atol=1e-9)
    early = gradients(newton_inverse_implicit, matrix, 1)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(early, gradients(newton_inverse, matrix, 1), rtol=0, atol=1e-2)


@pytest.mark.parametrize("sampling", ["conv", "average_pool", "random"])
def test_gradients_of_the_defaults_are_right_where_the_iteration_has_converged(
    sampling: str,
) -> None:
    shape = AttentionShape(1, Grid(4, 4), 2, 3)
    options = replace(SPEC.options, landmark_sampling=sampling, landmarks=4, newton_steps=40)
    layer = SPEC.build(shape, options).double()
    x = (2 * doubles("x", 1, 16, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(t, shape.grid), (x,), atol=1e-6)
    layer.mix.inverse.options = replace(options, newton_steps=2)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda t: layer(t, shape.grid), (x,), atol=1e-6)


def test_affinities_equal_direct_subtraction() -> None:
    points, centres = doubles("p", 2, 9, 5), doubles("c", 2, 4, 5)
    difference = 0.7 * points.unsqueeze(2) - centres.unsqueeze(1)
    want = torch.exp(-difference.square().sum(-1) / 2)
    torch.testing.assert_close(gaussian_affinities(points, centres, 0.7), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(gaussian_affinities(points, centres, 0.8), want)


def test_affinities_never_exceed_one() -> None:
    """Coinciding points far out: the expanded distance is rounding, of either sign."""
    points = 100 * normal("far", (1, 200, 64))
    assert gaussian_affinities(points, points, 1.0).max() <= 1
    exponent = points @ points.mT - points.square().sum(-1, keepdim=True) / 2
    exponent -= points.square().sum(-1).unsqueeze(1) / 2
    assert exponent.max() > 0, "these points do not show what the clamp is for"


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    landmarks=st.integers(1, 100),
)
def test_fixed_landmarks_fit_the_grid(height: int, width: int, landmarks: int) -> None:
    grid = Grid(height, width)
    cells = landmark_grid(grid, "fixed", landmarks, 1)
    assert cells.height <= height
    assert cells.width <= width
    assert cells.tokens <= landmarks or cells == grid
    rows, columns = landmark_window(grid, "fixed", landmarks, 1)
    assert rows * cells.height <= height
    assert columns * cells.width <= width
    if height * width <= landmarks:
        assert cells == grid
    module = GridLandmarks(
        grid, 3, sampling="conv", rule="fixed", landmarks=landmarks, stride=1, seed=0
    )
    assert module(torch.ones(2, grid.tokens, 3), grid).shape == (2, cells.tokens, 3)
    assert landmark_count(grid, "random", "fixed", landmarks, 1) == min(landmarks, grid.tokens)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (Grid(14, 14), Grid(7, 7)),
        (Grid(56, 20), Grid(7, 7)),
        (Grid(1, 400), Grid(1, 49)),
        (Grid(400, 1), Grid(49, 1)),
        (Grid(3, 300), Grid(3, 16)),
        (Grid(5, 6), Grid(5, 6)),
    ],
)
def test_where_the_49_landmarks_lie(grid: Grid, expected: Grid) -> None:
    assert landmark_grid(grid, "fixed", 49, 2) == expected


def test_stride_drops_what_is_left_over_at_the_end() -> None:
    options = replace(PURE, landmark_rule="stride", stride=4, local_size=0)
    shape = AttentionShape(1, Grid(9, 11), 1, 16)
    q, v = heads("q", shape), heads("v", shape)
    image = q.view(9, 11, 16)
    cells = [image[r : r + 4, c : c + 4].mean((0, 1)) for r in (0, 4) for c in (0, 4)]
    landmarks = torch.stack(cells)[None] * 16**-0.25
    affinities = gaussian_affinities(q[0], landmarks, 16**-0.25)
    inverse = torch.linalg.inv(ridged(gaussian_affinities(landmarks, landmarks, 1.0), 0.01))
    want = affinities @ inverse @ affinities.mT @ v[0]
    torch.testing.assert_close(mixed(options, q, v, shape)[0], want, rtol=0, atol=1e-6)


def test_a_grid_smaller_than_a_landmark_is_refused() -> None:
    options = replace(SPEC.options, landmark_rule="stride", stride=4)
    with pytest.raises(UnsupportedShape, match="4x4"):
        SPEC.build(AttentionShape(1, Grid(3, 9), 1, 8), options)
    layer = SPEC.build(AttentionShape(1, Grid(8, 8), 1, 8), options)
    with pytest.raises(UnsupportedShape, match="4x4"):
        layer(torch.zeros(1, 27, 8), Grid(3, 9))


def test_random_landmarks_are_a_function_of_the_seed_alone() -> None:
    chosen = sampled_tokens(200, 49, 0)
    assert len(set(chosen)) == 49
    assert set(chosen) <= set(range(200))
    assert chosen == sampled_tokens(200, 49, 0) != sampled_tokens(200, 49, 1)
    before = torch.get_rng_state()
    options = replace(SPEC.options, landmark_sampling="random", landmarks=9)
    q, v = heads("q"), heads("v")
    first, again = (mixed(replace(options, local_size=0), q, v) for _ in range(2))
    assert torch.equal(first, again)
    layer = SPEC.build(SHAPE, replace(options, local_size=0))
    after_build = torch.get_rng_state()
    layer.train()(normal("x", (2, 30, 48)), GRID)
    assert torch.equal(torch.get_rng_state(), after_build)
    assert before.shape == after_build.shape


@pytest.mark.parametrize("size", [(3, 3), (1, 5), (5, 1), (7, 3)])
def test_headwise_convolution_equals_the_published_layout(size: tuple[int, int]) -> None:
    v, filters = heads("v"), doubles("filters", 3, 1, *size)
    image = v.permute(0, 3, 1, 2).reshape(2 * 16, 3, 5, 6)
    out = F.conv2d(image, filters, padding=(size[0] // 2, size[1] // 2), groups=3)
    want = out.reshape(2, 16, 3, 30).permute(0, 2, 3, 1)
    torch.testing.assert_close(headwise_conv(v, filters, GRID), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(headwise_conv(v, filters.flip(0), GRID), want)


@pytest.mark.parametrize(
    "wrong", [{"local_size": 4}, {"local_size": -1}, {"landmarks": 0}, {"stride": 0}]
)
def test_options_without_a_meaning_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SPEC.options, **wrong)
