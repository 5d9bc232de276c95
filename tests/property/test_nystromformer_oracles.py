"""nystromformer against what its mathematics must give."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from attention_impls import AttentionShape, Grid, load
from attention_impls.parts.pseudo_inverse import iterative_pseudo_inverse
from attention_impls.variants.nystromformer import segment_means
from bench.stimulus import normal

SPEC = load("nystromformer")
GRID = Grid(5, 9)
SHAPE = AttentionShape(2, GRID, 3, 16)
X = normal("x", (2, 45, 48), dtype=torch.float64)


def qkv() -> list[Tensor]:
    return [normal(name, (2, 3, 45, 16), dtype=torch.float64) for name in "qkv"]


def mixed(**changed: Any) -> Tensor:
    options = replace(SPEC.options, **changed)
    return SPEC.build(SHAPE, options).double().mix(*qkv(), X, GRID)


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / 4, -1) @ v


@pytest.mark.parametrize("landmarks", [45, 64])
def test_no_more_tokens_than_landmarks_is_softmax_attention(landmarks: int) -> None:
    torch.testing.assert_close(mixed(landmarks=landmarks), exact(*qkv()))
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mixed(landmarks=44), exact(*qkv()))


def by_definition(q: Tensor, k: Tensor, v: Tensor, landmarks: int) -> Tensor:
    """F pinv(A) B v with an exact pseudo-inverse and segments cut by hand."""
    tokens = q.shape[2]
    longer = tokens % landmarks
    lengths = [tokens // landmarks] * (landmarks - longer) + [tokens // landmarks + 1] * longer
    means = [torch.stack([p.mean(2) for p in t.split(lengths, 2)], 2) for t in (q, k)]
    scale = q.shape[-1] ** -0.5
    left = torch.softmax(q @ means[1].mT * scale, -1)
    middle = torch.softmax(means[0] @ means[1].mT * scale, -1)
    right = torch.softmax(means[0] @ k.mT * scale, -1)
    return left @ torch.linalg.pinv(middle) @ right @ v


@pytest.mark.parametrize("landmarks", [4, 9, 10])
def test_with_a_converged_inverse_it_is_its_definition(landmarks: int) -> None:
    want = by_definition(*qkv(), landmarks)
    torch.testing.assert_close(mixed(landmarks=landmarks, iterations=30), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mixed(landmarks=landmarks, iterations=1), want)


def test_pseudo_inverse_iterates_as_published() -> None:
    matrix = normal("a", (2, 3, 7, 7), dtype=torch.float64).softmax(-1)
    eye = torch.eye(7, dtype=torch.float64)
    z = matrix.mT / matrix.sum(-2).amax(-1)[..., None, None]
    for _ in range(6):
        az = matrix @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    torch.testing.assert_close(iterative_pseudo_inverse(matrix, 6, together=False), z)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(iterative_pseudo_inverse(matrix, 6, together=True), z)


@settings(deadline=None, max_examples=60)
@given(tokens=st.integers(1, 90), landmarks=st.integers(1, 40))
def test_segments_are_consecutive_and_the_shorter_ones_come_first(
    tokens: int, landmarks: int
) -> None:
    if tokens < landmarks:
        tokens = landmarks
    index = torch.arange(tokens, dtype=torch.float64).view(1, 1, tokens, 1)
    means = segment_means(index, landmarks, torch.float64).flatten()
    lengths = [tokens // landmarks] * (landmarks - tokens % landmarks)
    lengths += [tokens // landmarks + 1] * (tokens % landmarks)
    want = torch.stack([part.mean() for part in index.flatten().split(lengths)])
    torch.testing.assert_close(means, want)


def test_padding_on_the_left_is_zero_tokens_in_front() -> None:
    q, k, v = (F.pad(t, (0, 0, 3, 0)) for t in qkv())
    shape = replace(SHAPE, grid=Grid(1, 48))
    longer = SPEC.build(shape, replace(SPEC.options, landmarks=8)).double()
    want = longer.mix(q, k, v, torch.zeros(2, 48, 48), shape.grid)[:, :, 3:]
    torch.testing.assert_close(mixed(landmarks=8, remainder="pad_left"), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(mixed(landmarks=8), want)


def test_convolution_runs_along_the_tokens() -> None:
    layer = SPEC.build(SHAPE, replace(SPEC.options, conv_size=5, landmarks=9)).double()
    q, k, v = qkv()
    want = mixed(landmarks=9) + F.conv2d(v, layer.mix.conv, padding=(2, 0), groups=3)
    torch.testing.assert_close(layer.mix(q, k, v, X, GRID), want)


@pytest.mark.parametrize("choice", ["per_matrix", "global"])
def test_only_the_global_start_couples_the_batch(choice: str) -> None:
    layer = SPEC.build(SHAPE, replace(SPEC.options, landmarks=9, initialisation=choice)).double()
    x = X.clone()
    x[0] *= 4
    error = (layer(x, GRID)[1:] - layer(x[1:], GRID)).abs().max()
    assert (error < 1e-12) == (choice == "per_matrix"), f"difference {error:.3g}"


@pytest.mark.parametrize("wrong", [{"conv_size": 4}, {"landmarks": 0}, {"iterations": -1}])
def test_options_without_a_meaning_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SPEC.options, **wrong)
