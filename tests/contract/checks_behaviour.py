"""What every layer must do, whatever its mechanism."""

from dataclasses import replace

import torch
from contract.checked_layer import (
    AWKWARD,
    EXACT_GRADIENTS,
    MAIN,
    OTHERS,
    computed,
    core,
    distance,
    home,
    layer,
    stream,
    with_options,
)
from torch.func import functional_call

from attention_impls import AttentionShape, Grid
from attention_impls.shapes import UnsupportedShape
from attention_impls.spec import AttentionSpec, Tolerance
from bench.vector import built

HALF: dict[torch.dtype, Tolerance] = {
    torch.float16: Tolerance(absolute=4e-3, relative=6e-3),
    torch.bfloat16: Tolerance(absolute=2e-2, relative=3e-2),
}
LONG = AttentionShape(batch=1, grid=Grid(128, 128), heads=1, head_dim=8)


def shape_and_dtype_are_kept(spec: AttentionSpec) -> None:
    for shape in computed(spec, (MAIN, *OTHERS)):
        for dtype in (torch.float32, torch.float64):
            x = stream(shape, dtype=dtype)
            out = layer(spec, shape, None, dtype)(x, shape.grid)
            assert out.shape == x.shape, (
                f"{shape.grid}: output {tuple(out.shape)}, must be that of x, {tuple(x.shape)}"
            )
            assert out.dtype == dtype, (
                f"{shape.grid}: output {out.dtype}, must be that of x, {dtype}"
            )


def awkward_shapes_are_right_or_refused(spec: AttentionSpec) -> None:
    for shape in AWKWARD:
        if spec.unsupported(shape):
            continue
        x = stream(shape)
        try:
            out = layer(spec, shape)(x, shape.grid)
        except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as failure:
            raise AssertionError(
                f"grid {shape.grid} with {shape.extra_tokens} extra tokens: {failure}; compute it, "
                "or refuse it by a sentence in own_limits"
            ) from failure
        assert out.shape == x.shape, f"{shape.grid}+{shape.extra_tokens}: {tuple(out.shape)}"
        assert torch.isfinite(out).all(), f"{shape.grid}+{shape.extra_tokens}: not finite"


def wrong_number_of_tokens_is_refused(spec: AttentionSpec) -> None:
    shape = home(spec)
    for tokens in (shape.tokens - 1, shape.tokens + 1, 2 * shape.tokens):
        x = torch.ones(shape.batch, tokens, shape.channels, dtype=torch.float64)
        try:
            layer(spec, shape)(x, shape.grid)
        except UnsupportedShape:
            continue
        raise AssertionError(
            f"x with {tokens} tokens on a grid of {shape.tokens} is taken, must raise "
            "UnsupportedShape: call require_tokens first"
        )


def inputs_are_not_mutated(spec: AttentionSpec) -> None:
    shape = home(spec)
    module = layer(spec, shape)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    x, tensors = stream(shape), core(module, shape)
    module(x, shape.grid)
    assert torch.equal(x, stream(shape)), "the layer changed x"
    if hasattr(module, "mix"):
        module.mix(*tensors, shape.grid)
        for name, got, want in zip("qkvx", tensors, core(module, shape), strict=True):
            assert torch.equal(got, want), f"the mix changed {name}"
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name]), f"a call in evaluation mode changed {name}"


def gradients_are_right(spec: AttentionSpec) -> None:
    """Every parameter takes part, and the analytic gradient is the numeric one."""
    shape = replace(home(spec), batch=1)
    module = layer(spec, shape, with_options(spec.options, EXACT_GRADIENTS))
    names = [name for name, _ in module.named_parameters()]
    leaves = [p.detach().clone().requires_grad_() for p in module.parameters()]

    def call(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x, shape.grid))

    x = stream(shape).requires_grad_()
    found = torch.autograd.grad(call(x, *leaves).sin().sum(), (x, *leaves), allow_unused=True)
    unused = [n for n, g in zip(("x", *names), found, strict=True) if g is None]
    assert not unused, f"no gradient reaches {', '.join(unused)}"
    # a parameter that shifts all scores of a row alike has gradient 0, hence the absolute tolerance
    torch.autograd.gradcheck(call, (x, *leaves), fast_mode=True, atol=1e-5, rtol=1e-3)


def hard_inputs_stay_finite(spec: AttentionSpec) -> None:
    shape = home(spec)
    module = layer(spec, shape, None, torch.float32)
    x = stream(shape, dtype=torch.float32)
    hard = {
        "30 times as large": 30 * x,
        "equal tokens": x[:, :1].expand_as(x).contiguous(),
        "zeros": torch.zeros_like(x),
        "one huge token": torch.cat((100 * x[:, :1], x[:, 1:]), 1),
    }
    for name, value in hard.items():
        leaf = value.clone().requires_grad_()
        out = module(leaf, shape.grid)
        assert torch.isfinite(out).all(), f"{name}: output is not finite"
        out.sin().sum().backward()
        assert leaf.grad is not None, f"{name}: no gradient reaches x"
        assert torch.isfinite(leaf.grad).all(), f"{name}: gradient is not finite"


def batch_items_are_independent(spec: AttentionSpec) -> None:
    shape = home(spec)
    module, x = layer(spec, shape), stream(shape)
    alone = module(x[:1], shape.grid)
    louder = torch.cat((x[:1], 5 * x[1:] + 1))
    assert distance(module(x, shape.grid)[:1], alone) < 1e-9, "depends on the batch size"
    assert distance(module(louder, shape.grid)[:1], alone) < 1e-9, "depends on another item"


def memory_layout_does_not_matter(spec: AttentionSpec) -> None:
    """The worker feeds contiguous q, k, v; inside the layer they are strided views."""
    shape = home(spec)
    module = layer(spec, shape)
    if not hasattr(module, "mix"):
        return
    q, k, v, x = core(module, shape)
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    assert not strided[0].is_contiguous()
    want = module.mix(q, k, v, x, shape.grid)
    error = distance(module.mix(*strided, x, shape.grid), want)
    assert error < 1e-9, f"strided q, k, v change the output by {error:.3g}: view, not reshape?"


def builds_are_reproducible(spec: AttentionSpec) -> None:
    shape = home(spec)
    one, two = (built(spec, shape).state_dict() for _ in range(2))
    assert list(one) == list(two), f"two builds have other parameters: {list(one)}, {list(two)}"
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), f"{name} differs between two builds"


def half_precision_is_close(spec: AttentionSpec) -> None:
    """Against float64 with the same rounded inputs and weights.

    Of a mechanism that is not continuous the mix alone, given the same q and k: rounded projections
    can change what it chooses.
    """
    shape = home(spec)
    for dtype, tolerance in HALF.items():
        module = built(spec, shape).to(dtype)
        inputs = (stream(shape, dtype=dtype),)
        part = module
        if not spec.traits.continuous:
            inputs, part = core(module, shape, dtype=dtype), module.mix
        got = part(*inputs, shape.grid)
        want = part.to(torch.float64)(*(t.double() for t in inputs), shape.grid)
        assert got.dtype == dtype, f"output {got.dtype}, must be that of the input, {dtype}"
        error = (got.double() - want).abs().max().item()
        allowed = tolerance.absolute + tolerance.relative * want.abs().max().item()
        assert error <= allowed, f"{dtype}: error {error:.3g}, allowed {allowed:.3g}"


def half_precision_is_finite_on_long_inputs(spec: AttentionSpec) -> None:
    """16,384 tokens, 4,096 where cost is quadratic: a float16 sum overflows at 65,504."""
    shape = LONG if spec.order(spec.options) < 1.5 else LONG.with_grid(Grid(64, 64))
    if spec.unsupported(shape):
        return
    for dtype in HALF:
        module = built(spec, shape).to(dtype)
        with torch.no_grad():
            out = module(stream(shape, dtype=dtype), shape.grid)
        assert torch.isfinite(out).all(), f"{dtype}: not finite at {shape.tokens} tokens"
        assert out.abs().max() > 0, f"{dtype}: all zero at {shape.tokens} tokens"
