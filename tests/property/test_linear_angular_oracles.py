"""linear_angular against the N x N similarities that its linear part stands for."""

import math

import pytest
import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.linear_angular import LinearAngularOptions
from bench.stimulus import fill_parameters, normal

SHAPE = AttentionShape(batch=2, grid=Grid(2, 6), heads=2, head_dim=4, extra_tokens=1)


def tensors() -> tuple[Tensor, ...]:
    return tuple(normal(name, (2, 2, 13, 4), dtype=torch.float64) for name in "qkv")


def dense(q: Tensor, k: Tensor, v: Tensor, threshold: float | None) -> Tensor:
    cosine = torch.cosine_similarity(q.unsqueeze(3), k.unsqueeze(2), dim=4)
    own = torch.eye(q.shape[2], dtype=q.dtype) / 2
    rows = (own + cosine / math.pi) @ v
    if threshold is not None:
        weights = (q @ k.mT / 2).softmax(-1)
        assert 0 < (weights > threshold).double().mean() < 1
        rows = rows + torch.where(weights > threshold, weights, 0.0) @ v
    return rows / rows.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("threshold", [None, 0.02, 0.1])
def test_equals_the_dense_similarities(threshold: float | None) -> None:
    options = LinearAngularOptions(
        local_residual=False, sparse=threshold is not None, threshold=threshold or 0.02
    )
    mix = load("linear_angular").build(SHAPE, options).mix
    q, k, v = tensors()
    got = mix(q, k, v, v.transpose(1, 2).flatten(2), SHAPE.grid)
    torch.testing.assert_close(got, dense(q, k, v, threshold))
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(got, dense(q, k, v, 0.02 if threshold is None else None))


def test_residual_runs_along_the_sequence() -> None:
    layer = load("linear_angular").build(SHAPE, LinearAngularOptions(local_size=3))
    fill_parameters(layer)
    mix = layer.double().requires_grad_(requires_grad=False).mix
    q, k, v = tensors()
    taps = mix.filters[:, 0, :, 0].view(1, 2, 3, 1, 1)
    before = torch.cat((torch.zeros_like(v[:, :, :1]), v[:, :, :-1]), 2)
    after = torch.cat((v[:, :, 1:], torch.zeros_like(v[:, :, :1])), 2)
    want = dense(q, k, v, None) + taps[:, :, 0] * before + taps[:, :, 1] * v + taps[:, :, 2] * after
    got = mix(q, k, v, v.transpose(1, 2).flatten(2), SHAPE.grid)
    torch.testing.assert_close(got, want)
