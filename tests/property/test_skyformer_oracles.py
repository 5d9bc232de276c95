"""skyformer against what its mathematics must give."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.parts.landmarks import sampled_tokens
from bench.stimulus import normal

SPEC = load("skyformer")
TOKENS, WIDTH = 50, 8
QKV = [normal(n, (2, 3, TOKENS, WIDTH), dtype=torch.float64) for n in "qkv"]
X = torch.zeros(2, TOKENS, 3 * WIDTH, dtype=torch.float64)


def mixed(options: Any) -> Tensor:
    grid = Grid(5, 10)
    return SPEC.build(AttentionShape(2, grid, 3, WIDTH), options).double().mix(*QKV, X, grid)


def affinity(x: Tensor, y: Tensor) -> Tensor:
    """exp(-|x - y|^2 / (2 sqrt(d))), pair by pair."""
    squares = (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)
    return torch.exp(-squares / (2 * WIDTH**0.5))


def by_definition(options: Any, *, exact: bool) -> Tensor:
    q, k, v = QKV
    half = min(TOKENS, options.landmarks // 2)
    chosen = [list(sampled_tokens(TOKENS, half, 2 * options.seed + stream)) for stream in (0, 1)]
    s = torch.cat((q[:, :, chosen[0]], k[:, :, chosen[1]]), 2)
    m = affinity(s, s) + options.ridge * torch.eye(2 * half, dtype=q.dtype)
    if exact:
        return affinity(q, s) @ torch.linalg.inv(m) @ affinity(k, s).mT @ v
    d = torch.diag_embed(m.sum(-1).rsqrt())
    a = d @ m @ d
    eye = torch.eye(2 * half, dtype=q.dtype)
    sums = a.sum(-2)
    top = sums.amax(-1)[..., None, None] if options.initialisation == "per_matrix" else sums.max()
    z = a.mT / top
    for _ in range(options.iterations):
        az = a @ z
        z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return affinity(q, s) @ (d @ z @ d) @ affinity(k, s).mT @ v


@pytest.mark.parametrize("landmarks", [8, 20, 128])
@pytest.mark.parametrize("initialisation", ["per_matrix", "global"])
def test_equals_the_definition(landmarks: int, initialisation: Any) -> None:
    options = replace(SPEC.options, landmarks=landmarks, initialisation=initialisation)
    assert_close(mixed(options), by_definition(options, exact=False), rtol=1e-8, atol=1e-10)
    # with 128 landmarks every token is one, whatever the seed
    other = replace(options, ridge=0.2) if landmarks == 128 else replace(options, seed=1)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mixed(options), by_definition(other, exact=False))


def test_many_iterations_invert() -> None:
    options = replace(SPEC.options, iterations=20)
    assert_close(mixed(options), by_definition(options, exact=True), rtol=1e-6, atol=1e-8)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mixed(SPEC.options), by_definition(options, exact=True), rtol=1e-6, atol=1e-8)


def test_all_landmarks_and_no_ridge_give_gaussian_attention() -> None:
    options = replace(SPEC.options, iterations=60, ridge=1e-9)
    q, k, v = QKV
    want = affinity(q, k) @ v
    assert_close(mixed(options), want, rtol=1e-3, atol=1e-4)
    few = replace(options, landmarks=8)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(mixed(few), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"landmarks": 7}, {"landmarks": 0}, {"ridge": 0.0}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(SPEC.options, **wrong)
