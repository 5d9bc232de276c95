"""vitality against algorithm 1 as the paper writes it, and the code's form weight by weight."""

import pytest
import torch
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.inline import InlineOptions
from attention_impls.variants.vitality import VitalityOptions, rounded
from bench.stimulus import normal

SHAPE = AttentionShape(batch=2, grid=Grid(3, 6), heads=3, head_dim=4)


def tensors() -> tuple[Tensor, ...]:
    q, k, v = (normal(name, (2, 3, 18, 4), dtype=torch.float64) for name in "qkv")
    return q, k, v, v.transpose(1, 2).flatten(2)


def algorithm_1(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Numerator and denominator of the series, each with its sum over tokens."""
    root, tokens = q.shape[3] ** 0.5, q.shape[2]
    centred = k - k.mean(2, keepdim=True)
    numerator = root * v.sum(2, keepdim=True) + q @ (centred.mT @ v)
    denominator = root * tokens + q @ centred.sum(2, keepdim=True).mT
    return numerator / denominator


def as_coded(q: Tensor, k: Tensor, v: Tensor, threshold: float, bits: int) -> Tensor:
    """One pair of tokens after the other."""
    coarse = [torch.stack([snapped(item, bits) for item in t]) for t in (q, k)]
    scores = torch.stack([
        torch.stack([(coarse[0][:, :, i] * coarse[1][:, :, j]).sum(-1) / 2 for j in range(18)], -1)
        for i in range(18)
    ], -2)  # fmt: skip
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    kept = weights > threshold
    assert 0 < kept.double().mean() < 1
    out = torch.zeros_like(v)
    for i in range(18):
        for j in range(18):
            linear = (q[:, :, i] * (k[:, :, j] - k[:, :, j].mean(-1, keepdim=True))).sum(-1)
            weight = linear + torch.where(kept[:, :, i, j], weights[:, :, i, j], 0.0)
            out[:, :, i] += weight.unsqueeze(-1) / 2 * v[:, :, j]
    return out


def snapped(item: Tensor, bits: int) -> Tensor:
    """The nearest of 2^bits evenly spaced numbers."""
    ladder = torch.linspace(item.min().item(), item.max().item(), 2**bits, dtype=item.dtype)
    nearest = (item.unsqueeze(-1) - ladder).abs().argmin(-1)
    return ladder[nearest]


def test_paper_form_equals_algorithm_1() -> None:
    q, k, v, x = tensors()
    got = load("vitality").build(SHAPE).mix(q, k, v, x, SHAPE.grid)
    torch.testing.assert_close(got, algorithm_1(q, k, v))
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(got, algorithm_1(q, k - k.mean(3, keepdim=True), v))


def test_paper_form_is_inline_without_its_residual() -> None:
    q, k, v, x = tensors()
    inline = load("inline").build(SHAPE, InlineOptions(local_residual=False)).mix
    got = load("vitality").build(SHAPE).mix(q, k, v, x, SHAPE.grid)
    torch.testing.assert_close(got, inline(q, k, v, x, SHAPE.grid))


def test_paper_form_is_the_series_of_softmax() -> None:
    """Halving the scores quarters the error, relative to softmax attention's own effect."""
    q, k, v, x = tensors()
    mix = load("vitality").build(SHAPE).mix

    def error(scale: float) -> float:
        exact = (scale * q @ k.mT / 2).softmax(-1) @ v
        return (mix(scale * q, k, v, x, SHAPE.grid) - exact).norm().item()

    assert 3.5 < error(0.02) / error(0.01) < 4.5


@pytest.mark.parametrize(("threshold", "bits"), [(0.002, 4), (0.05, 2), (0.05, 8)])
def test_code_form_equals_the_weights_one_by_one(threshold: float, bits: int) -> None:
    options = VitalityOptions(form="code", threshold=threshold, bits=bits)
    q, k, v, x = tensors()
    q, k = 3 * q, 2 * k
    got = load("vitality").build(SHAPE, options).mix(q, k, v, x, SHAPE.grid)
    torch.testing.assert_close(got, as_coded(q, k, v, threshold, bits))
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(got, as_coded(q, k, v, threshold, bits + 1))


def test_rounding_passes_gradients_on() -> None:
    x = normal("x", (2, 3, 18, 4), dtype=torch.float64).requires_grad_()
    out = rounded(x, 4)
    assert [len(item.unique()) <= 16 for item in out] == [True, True]
    out.sin().sum().backward()
    torch.testing.assert_close(x.grad, out.detach().cos())


def test_equal_numbers_round_to_themselves() -> None:
    x = torch.full((2, 1, 3, 4), 7.0)
    torch.testing.assert_close(rounded(x, 4), x)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 1.5}, {"threshold": -0.1}, {"bits": 0}, {"bits": 17}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VitalityOptions(**wrong)
