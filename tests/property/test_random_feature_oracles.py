"""random_feature against what its mathematics must give."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from bench.stimulus import normal

SPEC = load("random_feature")
HEADS, WIDTH = 2, 8


def inputs(tokens: int) -> list[Tensor]:
    qkv = [normal(n, (2, HEADS, tokens, WIDTH), dtype=torch.float64) for n in "qkv"]
    return [*qkv, torch.zeros(2, tokens, HEADS * WIDTH, dtype=torch.float64)]


def layer(tokens: int, options: Any = None, *, causal: bool = False) -> Any:
    shape = AttentionShape(2, Grid(1, tokens), HEADS, WIDTH, causal=causal)
    built: Any = SPEC.build(shape, options).double()
    if built.mix.sigma is not None:
        with torch.no_grad():
            built.mix.sigma.weight.copy_(1 + 0.3 * normal("sigma", (HEADS * WIDTH,)))
    return built


def features(x: Tensor, mix: Any, tau: float, scale: float) -> Tensor:
    unit = x / (x.square().sum(-1, keepdim=True).sqrt() + 1e-3)
    sigma = 1 if mix.sigma is None else mix.sigma.weight.view(HEADS, 1, WIDTH)
    angles = unit @ (mix.directions * sigma / tau).mT
    return torch.cat((angles.sin(), angles.cos()), -1) * scale


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(("scale", "least"), [(0.1, 1.0), (None, 0.01)])
@pytest.mark.parametrize("tau", [1.0, 0.5])
@torch.no_grad()
def test_equals_all_weights_on_their_own(
    tau: float, scale: float | None, least: float, *, learned: bool
) -> None:
    options = replace(
        SPEC.options, temperature=tau, feature_scale=scale, least_denominator=least,
        learned_scale=learned,
    )  # fmt: skip
    for tokens in (2, 40):
        q, k, v, x = inputs(tokens)
        mix = layer(tokens, options).mix
        factor = 64**-0.5 if scale is None else scale
        weights = features(q, mix, tau, factor) @ features(k, mix, tau, factor).mT
        want = weights @ v / weights.sum(-1, keepdim=True).abs().clamp(min=least)
        assert_close(mix(q, k, v, x, Grid(1, tokens)), want)
        with pytest.raises(AssertionError, match="not close"):
            assert_close(mix(q, k.flip(-1), v, x, Grid(1, tokens)), want)


@torch.no_grad()
def test_few_tokens_fall_below_the_least_denominator() -> None:
    """Three weights of 0.64 at most do not always reach 1, those of forty tokens do."""
    for tokens, reach in ((3, False), (40, True)):
        q, k, _, x = inputs(tokens)
        mix = layer(tokens, replace(SPEC.options, learned_scale=False)).mix
        rows = mix(q, k, torch.ones_like(q), x, Grid(1, tokens))
        assert bool(((rows - 1).abs() < 1e-9).all()) == reach


@pytest.mark.parametrize("tokens", [1, 5, 64, 65, 150])
@torch.no_grad()
def test_causal_form_is_the_recurrence(tokens: int) -> None:
    q, k, v, x = inputs(tokens)
    mix = layer(tokens, causal=True).mix
    of_q, of_k = (features(t, mix, 1.0, 0.1) for t in (q, k))
    state = q.new_zeros(2, HEADS, 128, WIDTH)
    total = q.new_zeros(2, HEADS, 128)
    wants: list[Tensor] = []
    for i in range(tokens):
        state = state + of_k[:, :, i, :, None] * v[:, :, i, None]
        total = total + of_k[:, :, i]
        sums = (of_q[:, :, i] * total).sum(-1, keepdim=True).clamp(min=1.0)
        wants.append((of_q[:, :, i, None] @ state).squeeze(-2) / sums)
    got = mix(q, k, v, x, Grid(1, tokens))
    assert_close(got, torch.stack(wants, 2))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got, torch.stack(wants, 2).flip(-1))


@torch.no_grad()
def test_many_features_give_softmax_attention_over_unit_vectors() -> None:
    q, k, v, x = inputs(40)
    unit = [t / t.norm(dim=-1, keepdim=True) for t in (q, k)]
    want = (unit[0] @ unit[1].mT).softmax(-1) @ v

    def error(count: int) -> float:
        options = replace(SPEC.options, projections=count, learned_scale=False)
        return float((layer(40, options).mix(q, k, v, x, Grid(1, 40)) - want).norm() / want.norm())

    assert error(8192) < 0.05 < error(16)


@pytest.mark.parametrize(
    "wrong", [{"projections": 0}, {"temperature": 0.0}, {"feature_scale": 0.0}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(SPEC.options, **wrong)
