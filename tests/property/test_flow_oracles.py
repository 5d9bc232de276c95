"""flow against weights between pairs of tokens, with every flow summed pair by pair."""

import pytest
import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.flow import FlowOptions
from bench.stimulus import normal

EXACT = FlowOptions(epsilon=0.0, outer_epsilon=0.0)


def tensors(tokens: int) -> tuple[Tensor, ...]:
    return tuple(normal(name, (2, 3, tokens, 8), dtype=torch.float64) for name in "qkv")


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The N x N capacities; each end's flow with the other end held at 1."""
    capacity = q.sigmoid() @ k.sigmoid().mT
    into, out_of = capacity.sum(-1, keepdim=True), capacity.sum(-2, keepdim=True)
    sink = (capacity / out_of).sum(-1, keepdim=True)
    source = (capacity / into).sum(-2, keepdim=True).clamp(-1, 1)
    competition = source.softmax(-1) * q.shape[2]
    torch.testing.assert_close(competition.mean(-1), torch.ones_like(competition[..., 0]))
    return sink.sigmoid() * (capacity / into * competition) @ v


def recurrent(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The causal form one token after the other; nothing but running sums is kept."""
    q, k = q.sigmoid(), k.sigmoid()
    zero = torch.zeros_like(q[:, :, 0])
    keys, queries, drained, fed, total = zero, zero, zero, zero, zero[..., :1]
    state = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=q.dtype)
    out = torch.zeros_like(v)
    for i in range(q.shape[2]):
        qi, ki, vi, count = q[:, :, i], k[:, :, i], v[:, :, i], i + 1
        keys, queries = keys + ki, queries + qi
        into = (qi * keys).sum(-1, keepdim=True)
        out_of = (ki * queries).sum(-1, keepdim=True)
        drained, fed = drained + ki * count / out_of, fed + qi * count / into
        sink = (qi * drained).sum(-1, keepdim=True) / count
        source = ((ki * fed).sum(-1, keepdim=True) / count).clamp(-1, 1).exp()
        total = total + source
        state = state + ki.unsqueeze(-1) * (vi * source / total * count).unsqueeze(-2)
        out[:, :, i] = sink.sigmoid() / into * (qi.unsqueeze(-2) @ state).squeeze(-2)
    return out


@pytest.mark.parametrize("tokens", [1, 2, 30])
def test_equals_the_dense_flows(tokens: int) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=8)
    mix = load("flow").build(shape, EXACT).mix
    q, k, v = tensors(tokens)
    got = mix(q, k, v, v.transpose(1, 2).flatten(2), shape.grid)
    torch.testing.assert_close(got, dense(q, k, v))
    if tokens > 1:
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(mix(k, q, v, v.transpose(1, 2).flatten(2), shape.grid), got)


@pytest.mark.parametrize("tokens", [1, 64, 70])
def test_causal_form_equals_the_recurrence(tokens: int) -> None:
    shape = AttentionShape(batch=2, grid=Grid(1, tokens), heads=3, head_dim=8, causal=True)
    mix = load("flow").build(shape, EXACT).mix
    q, k, v = tensors(tokens)
    got = mix(q, k, v, v.transpose(1, 2).flatten(2), shape.grid)
    torch.testing.assert_close(got, recurrent(q, k, v))
    if tokens > 1:
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(got, dense(q, k, v))
