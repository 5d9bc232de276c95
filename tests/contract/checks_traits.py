"""Traits, each in both directions: what is declared must hold, what is denied must be denied."""

from dataclasses import replace

import pytest
import torch
from contract.checked_layer import (
    GENEROUS,
    LOCAL_BRANCHES,
    closer,
    core,
    distance,
    home,
    layer,
    stream,
    wide,
    with_options,
)
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid
from attention_impls.shapes import UnsupportedShape
from attention_impls.spec import AttentionSpec

CLEAR = 1e-4
"""Relative difference that is not rounding."""
SAME = 1e-9
"""Relative difference that is rounding in float64."""
NORMALISED = 1e-3
"""Row sums this close to 1 are normalised; published epsilons move them that much."""

LINE = 33
"""Inputs along a line; the line is refined three times, to steps 32^3 times smaller."""
JUMP = 1e-2
"""What is left of the largest step where the output jumps; otherwise it would be 32^-3."""


def causal_trait(spec: AttentionSpec) -> None:
    shape = replace(home(spec), causal=True)
    if not spec.traits.causal:
        assert spec.unsupported(shape), "causal=True is accepted although the trait is False"
        with pytest.raises(UnsupportedShape, match="causal"):
            spec.build(shape)
        return
    shape = replace(shape, grid=Grid(1, 150))
    module, x = layer(spec, shape), stream(shape)
    out = module(x, shape.grid)
    changed = x.clone()
    changed[:, 100:] = -3 * changed[:, 100:]
    after = module(changed, shape.grid)
    future = distance(after[:, :100], out[:, :100])
    assert future < SAME, (
        f"causal=True is computed, but tokens 100 to 149 change the output of tokens 0 to 99 by "
        f"{future:.3g}: mask the future, or declare causal=False"
    )
    assert distance(after[:, 100:], out[:, 100:]) > CLEAR, "changed tokens change nothing"
    for tokens in (1, 2, 63, 64, 65, 149):
        cut = replace(shape, grid=Grid(1, tokens))
        shorter = module if spec.traits.any_grid else layer(spec, cut)
        got = shorter(x[:, :tokens], cut.grid)
        assert distance(out[:, :tokens], got) < SAME, f"differs from the first {tokens} tokens"
    both = layer(spec, replace(shape, causal=False))(x, shape.grid)
    assert distance(both, out) > CLEAR, "causal=False is causal too"


def any_grid_trait(spec: AttentionSpec) -> None:
    shape = home(spec)
    module = layer(spec, shape)
    others = [
        shape.with_grid(grid)
        for grid in (Grid(shape.grid.width, shape.grid.height), Grid(12, 12), Grid(9, 7))
        if grid != shape.grid and not spec.unsupported(shape.with_grid(grid))
    ]
    assert others, "no second grid to try"
    for other in others:
        x = stream(other)
        if not spec.traits.any_grid:
            with pytest.raises(UnsupportedShape):
                module(x, other.grid)
            continue
        fresh = layer(spec, other)
        out = module(x, other.grid)
        assert out.shape == x.shape, f"{other.grid}: {tuple(out.shape)}, must be {tuple(x.shape)}"
        assert torch.isfinite(out).all(), f"{other.grid}: not finite"
        weights, own = module.state_dict(), fresh.state_dict()
        if {n: w.shape for n, w in weights.items()} == {n: w.shape for n, w in own.items()}:
            assert distance(out, fresh(x, other.grid)) < SAME, f"{other.grid}: other function"


def extra_tokens_trait(spec: AttentionSpec) -> None:
    shape = replace(home(spec), extra_tokens=1)
    if not spec.traits.extra_tokens:
        with pytest.raises(UnsupportedShape, match="class token"):
            spec.build(shape)
        return
    reasons = spec.unsupported(shape)
    assert not reasons, f"extra_tokens=True, but one class token is refused: {reasons}"
    module, x = layer(spec, shape), stream(shape)
    out = module(x, shape.grid)
    assert out.shape == x.shape, f"{tuple(out.shape)}, must be {tuple(x.shape)}"
    louder = torch.cat((3 * x[:, :1] + 1, x[:, 1:]), 1)
    moved = module(louder, shape.grid)
    assert distance(moved[:, 1:], out[:, 1:]) > CLEAR, "the grid does not see the class token"
    other = torch.cat((x[:, :1], 3 * x[:, 1:] + 1), 1)
    seen = module(other, shape.grid)
    assert distance(seen[:, :1], out[:, :1]) > CLEAR, "the class token does not see the grid"


def permutation_equivariant_trait(spec: AttentionSpec) -> None:
    spec = closer(spec)
    shape = home(spec)
    module, x = layer(spec, shape), stream(shape)
    order = torch.arange(shape.tokens).view(shape.grid.height, -1).T.flatten().flip(0)
    error = distance(module(x[:, order], shape.grid), module(x, shape.grid)[:, order])
    if spec.traits.permutation_equivariant:
        assert error < SAME, f"permuting tokens changes the output by {error:.3g}"
    else:
        assert error > CLEAR, f"permuting tokens changes nothing ({error:.3g})"


def rows_sum_to_one_trait(spec: AttentionSpec) -> None:
    spec = closer(spec)
    matrix = attention_matrix(spec, wide(spec))
    if matrix is None:
        assert not spec.traits.rows_sum_to_one, "the mix is not linear in v: it has no rows"
        return
    error = (matrix.sum(-1) - 1).abs().max().item()
    if spec.traits.rows_sum_to_one:
        assert error < NORMALISED, f"a row sum differs from 1 by {error:.3g}"
    else:
        assert error > NORMALISED, f"all rows sum to 1 ({error:.3g})"


def nonnegative_weights_trait(spec: AttentionSpec) -> None:
    spec = closer(spec)
    least = 0.0
    for shape in (wide(spec), home(spec)):
        matrix = attention_matrix(spec, shape)
        if matrix is None:
            assert not spec.traits.nonnegative_weights, "the mix is not linear in v: no weights"
            return
        least = min(least, (matrix.min() / matrix.abs().max()).item())
    if spec.traits.nonnegative_weights:
        assert least > -SAME, f"smallest weight is {least:.3g} of the largest"
    else:
        assert least < -CLEAR, f"no weight is negative ({least:.3g})"


def approximates_softmax_trait(spec: AttentionSpec) -> None:
    """Error relative to how far softmax attention is from the plain mean of the values."""
    spec = closer(spec)
    shape = wide(spec)
    module = _without_local_branch(spec, shape)
    if not hasattr(module, "mix"):
        assert not spec.traits.approximates_softmax, "no core to compare with softmax attention"
        return
    if spec.traits.approximates_softmax:
        module = layer(spec, shape, with_options(spec.options, (*LOCAL_BRANCHES, *GENEROUS)))
        error = _softmax_error(module, shape, 0.5)
        assert error < 0.5, f"error is {error:.3g} of softmax attention's own effect"
    else:
        error = max(_softmax_error(module, shape, scale) for scale in (0.5, 2.0))
        assert error > 0.5, f"is softmax attention up to {error:.3g} of its effect"


def _softmax_error(module: nn.Module, shape: AttentionShape, scale: float) -> float:
    q, k, v, x = core(module, shape)
    q, k = scale * q, scale * k
    exact = (q @ k.mT * shape.head_dim**-0.5).softmax(-1) @ v
    error = (module.mix(q, k, v, x, shape.grid) - exact).norm()
    return (error / (exact - v.mean(2, keepdim=True)).norm()).item()


def deterministic_trait(spec: AttentionSpec) -> None:
    shape = home(spec)
    for dtype in (torch.float32, torch.float64):
        module = layer(spec, shape, None, dtype)
        x = stream(shape, dtype=dtype)
        same = torch.equal(module(x, shape.grid), module(x, shape.grid))
        assert same == spec.traits.deterministic_eval, f"two calls give the same bits: {same}"


def continuous_trait(spec: AttentionSpec) -> None:
    """The largest step of the output along a line of inputs shrinks when that step is refined."""
    spec = closer(spec)
    one, shape = replace(wide(spec), batch=1), replace(wide(spec), batch=LINE)
    module = layer(spec, shape)
    start, end = stream(one, call=0), stream(one, call=1)
    ends, largest = [0.0, 1.0], list[float]()
    for _ in range(4):
        share = torch.linspace(*ends, LINE, dtype=start.dtype)
        out = module(start + share[:, None, None] * (end - start), shape.grid)
        steps = out.diff(dim=0).flatten(1).norm(dim=1)
        place = int(steps.argmax())
        largest.append(steps[place].item())
        ends = share[place : place + 2].tolist()
    left = largest[-1] / largest[0]
    if spec.traits.continuous:
        assert left < JUMP, f"a step of the output keeps {left:.3g} of its size however small"
    else:
        assert left > JUMP, f"every step of the output shrinks, to {left:.3g} of its size"


def attention_matrix(spec: AttentionSpec, shape: AttentionShape) -> Tensor | None:
    """The matrix that maps v to the output, [heads, tokens, tokens], or one a channel,
    [heads, head_dim, tokens, tokens]; None if v does not enter linearly.

    Column j is the output for v = 1 at token j and 0 elsewhere; a batch item carries head_dim
    columns, one a channel.
    """
    module = _without_local_branch(spec, shape)
    if not hasattr(module, "mix"):
        return None
    q, k, v, x = (t[:1] for t in core(module, shape))
    width, tokens = shape.head_dim, shape.tokens
    items = -(-tokens // width)
    columns = torch.zeros(items * width, tokens, dtype=v.dtype)
    columns[:tokens] = torch.eye(tokens, dtype=v.dtype)
    values = columns.view(items, 1, width, tokens).mT.expand(-1, shape.heads, -1, -1)
    many = [t.expand(items, *t.shape[1:]).contiguous() for t in (q, k)]
    if getattr(module, "streams", "qkv") == "qv":
        many[1] = many[0]
    out = module.mix(*many, values.contiguous(), x.expand(items, -1, -1).contiguous(), shape.grid)
    matrix = out.permute(1, 2, 0, 3).flatten(2)[..., :tokens]
    again = module.mix(q, k, v, x, shape.grid)
    if distance(matrix @ v[0], again[0]) < 1e-6:
        return matrix
    # each channel has a matrix of its own, or none where channels are mixed as well
    ones = torch.eye(tokens, dtype=v.dtype)[:, None, :, None].expand(-1, *v.shape[1:2], -1, width)
    one_q, one_k, one_x = (t.expand(tokens, *t.shape[1:]).contiguous() for t in (q, k, x))
    out = module.mix(one_q, one_k, ones.contiguous(), one_x, shape.grid)
    by_channel = out.permute(1, 3, 2, 0)
    applied = (by_channel @ v[0].mT.unsqueeze(-1)).squeeze(-1).mT
    return by_channel if distance(applied, again[0]) < 1e-6 else None


def _without_local_branch(spec: AttentionSpec, shape: AttentionShape) -> nn.Module:
    options = with_options(spec.options, LOCAL_BRANCHES)
    assert not spec.unsupported(shape, options), f"{shape}: needed to see the attention matrix"
    return layer(spec, shape, options)
