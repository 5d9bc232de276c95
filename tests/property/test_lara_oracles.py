"""lara against what its mathematics must give."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.lara import cells_of
from bench.stimulus import fill_parameters, normal

SPEC = load("lara")
HEADS, WIDTH = 2, 4
SMALL = replace(SPEC.options, landmarks=4)


def built(grid: Grid, options: Any, extra: int = 0) -> Any:
    layer = SPEC.build(AttentionShape(2, grid, HEADS, WIDTH, extra_tokens=extra), options).double()
    fill_parameters(layer)
    return layer.eval()


def inputs(grid: Grid, extra: int = 0) -> list[Tensor]:
    tokens = grid.tokens + extra
    qkv = [normal(n, (2, HEADS, tokens, WIDTH), dtype=torch.float64) for n in "qkv"]
    return [*qkv, torch.zeros(2, tokens, HEADS * WIDTH, dtype=torch.float64)]


def log_feature(x: Tensor, w: Tensor) -> Tensor:
    return w @ x / WIDTH**0.5 - x @ x / (2 * WIDTH**0.5)


def one_head(q: Tensor, k: Tensor, v: Tensor, options: Any, landmarks: list[Tensor]) -> Tensor:
    """The formulas for one head of one sequence, number by number."""
    own, keys = landmarks
    centres = own + keys
    count, tokens = len(centres), len(q)
    f = torch.stack([torch.stack([log_feature(k[j], w) for j in range(tokens)]) for w in centres])
    beta = f.softmax(1) @ v
    density = torch.stack(
        [torch.stack([log_feature(centres[m], w) for m in range(count)]) for w in centres]
    )
    t = torch.stack([(own @ q[i]) / WIDTH**0.5 for i in range(tokens)]).softmax(0)
    outs: list[Tensor] = []
    for i in range(tokens):
        logits = torch.zeros(count, dtype=q.dtype)
        for c in range(count):
            total = density[c].logsumexp(0)
            if options.weighting == "optimal":
                balance = (density[c, c] - total).exp()
                weight = balance + options.alpha * (t[i, c] - t[i].mean())
                proposal = weight.clamp(min=1e-8).log() - density[c, c]
            elif options.weighting == "biased":
                proposal = centres[c] @ q[i] / WIDTH**0.5 - total
            else:
                proposal = -total
            logits[c] = proposal + log_feature(q[i], centres[c]) + f[c].logsumexp(0)
        outs.append(logits.softmax(0) @ beta)
    return torch.stack(outs)


def landmarks_of(mix: Any, q: Tensor, k: Tensor, v: Tensor, grid: Grid, options: Any) -> Any:
    """Means over 2 x 2 cells of a grid that they divide, mapped and mixed; one a head."""
    cells = cells_of(grid, options)
    rows, columns = grid.height // cells.height, grid.width // cells.width

    def means(t: Tensor) -> Tensor:
        image = t.unflatten(2, (cells.height, rows, cells.width, columns))
        return image.mean((3, 5)).flatten(2, 3)

    found: list[Tensor] = []
    for part, stream in ((mix.queries, q), (mix.keys, k)):
        mean = means(stream)
        if options.maps == "heads":
            mean = part.norm(part.linear(mean))
        if options.maps == "channels":
            mapped = part.norm(part.linear(mean.transpose(1, 2).flatten(2)))
            mean = mapped.unflatten(2, (HEADS, WIDTH)).transpose(1, 2)
        found.append(mean)
    if options.mixing != "none":
        logits = found[1] @ found[1].mT / WIDTH**0.5
        if options.mixing == "keys_values":
            logits = logits + (means(v).norm(dim=-1) + 1e-4).log().unsqueeze(-2)
        found[1] = logits.softmax(-1) @ found[1]
    return found


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"weighting": "balance"},
        {"weighting": "biased"},
        {"mixing": "none"},
        {"mixing": "keys_values"},
        {"maps": "channels"},
        {"maps": "none"},
        {"alpha": 20.0},
    ],
    ids=str,
)
@torch.no_grad()
def test_equals_the_formulas_number_by_number(changed: dict[str, Any]) -> None:
    grid, options = Grid(4, 6), replace(SMALL, **changed)
    layer = built(grid, options)
    q, k, v, x = inputs(grid)
    got = layer.mix(q, k, v, x, grid)
    landmarks = landmarks_of(layer.mix, q, k, v, grid, options)
    want = one_head(q[1, 1], k[1, 1], v[1, 1], options, [t[1, 1] for t in landmarks])
    assert_close(got[1, 1], want)
    other = replace(options, weighting="balance" if options.weighting != "balance" else "biased")
    wrong = one_head(q[1, 1], k[1, 1], v[1, 1], other, [t[1, 1] for t in landmarks])
    with pytest.raises(AssertionError, match="not close"):
        assert_close(got[1, 1], wrong)


@torch.no_grad()
def test_extra_tokens_are_queries_and_keys_without_landmark() -> None:
    grid = Grid(4, 6)
    layer = built(grid, SMALL, extra=1)
    q, k, v, x = inputs(grid, 1)
    landmarks = landmarks_of(layer.mix, *(t[:, :, 1:] for t in (q, k, v)), grid, SMALL)
    want = one_head(q[0, 0], k[0, 0], v[0, 0], SMALL, [t[0, 0] for t in landmarks])
    assert_close(layer.mix(q, k, v, x, grid)[0, 0], want)


@pytest.mark.parametrize(
    ("grid", "cells"),
    [
        (Grid(14, 14), Grid(7, 7)),
        (Grid(10, 8), Grid(7, 7)),
        (Grid(1, 96), Grid(1, 49)),
        (Grid(5, 7), Grid(5, 7)),
        (Grid(3, 40), Grid(3, 16)),
    ],
    ids=str,
)
def test_landmarks_fit_the_grid(grid: Grid, cells: Grid) -> None:
    assert cells_of(grid, SPEC.options) == cells


@torch.no_grad()
def test_training_samples_around_the_centres() -> None:
    grid = Grid(4, 6)
    layer, (*qkv, x) = built(grid, SMALL), inputs(grid)
    want = layer.mix(*qkv, x, grid)
    layer.train()
    torch.manual_seed(0)
    one, two = (layer.mix(*qkv, x, grid) for _ in range(2))
    assert not torch.equal(one, two)
    assert not torch.equal(one, want)


@pytest.mark.parametrize("wrong", [{"landmarks": 0}, {"alpha": -1.0}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(SPEC.options, **wrong)
