"""Backends that exchange the softmax step of a variant: the reference's function and gradients."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.backend_parity import DTYPES, results
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attention_impls import AttentionShape, Grid, load
from attention_impls.registry import load_backend
from attention_impls.sdpa_step import SdpaAttention
from attention_impls.spec import DType, Execution
from bench.stimulus import fill_parameters, normal

VARIANTS = ("window_shifted", "cross_shaped_window", "spatial_reduction")
GRIDS = (Grid(14, 14), Grid(9, 16), Grid(5, 7))
ALTERNATIVES = [
    ("window_shifted", {}),
    ("window_shifted", {"shifted": False}),
    ("window_shifted", {"position_bias": False}),
    ("cross_shaped_window", {}),
    ("cross_shaped_window", {"whole_grid": True}),
    ("spatial_reduction", {}),
    ("spatial_reduction", {"reduction": 1}),
]


def built(variant: str, shape: AttentionShape, options: Any, dtype: torch.dtype) -> nn.Module:
    layer = load(variant).build(shape, options)
    fill_parameters(layer)
    return layer.to(dtype).eval()


def errors(
    variant: str, shape: AttentionShape, options: Any, dtype: DType, step: nn.Module | None = None
) -> dict[str, tuple[float, float]]:
    """Each result's largest error against the reference in float64, and what is allowed."""
    backend, kind = load_backend(variant, "sdpa"), getattr(torch, dtype)
    reference = built(variant, shape, options, kind)
    adopted = backend.adopt(reference)
    if step is not None:
        for module in adopted.modules():
            if isinstance(getattr(module, "attend", None), SdpaAttention):
                module.attend = step
    x = normal("x", (shape.batch, shape.tokens, shape.channels)).to(kind)
    got = results(adopted, dict(reference.named_parameters()), x, shape.grid)
    exact = built(variant, shape, options, torch.float64)
    exact.load_state_dict(reference.state_dict())
    want = results(exact, dict(exact.named_parameters()), x.double(), shape.grid)
    tolerance = backend.tolerance[dtype]
    return {
        name: (
            (value.double() - want[name]).abs().max().item(),
            tolerance.absolute + tolerance.relative * want[name].abs().max().item(),
        )
        for name, value in got.items()
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("variant", "change"), ALTERNATIVES, ids=str)
def test_output_and_every_gradient_equal_the_reference(
    variant: str, change: dict[str, object], grid: Grid, dtype: DType
) -> None:
    shape = AttentionShape(2, grid, 3, 8)
    found = errors(variant, shape, replace(load(variant).options, **change), dtype)
    assert {n: e for n, e in found.items() if not e[0] <= e[1]} == {}


class SlightlyWrong(nn.Module):
    """The step with a scale 5 % too large."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale=None
    ) -> Tensor:
        return SdpaAttention()(1.05 * q, k, v, bias, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_that_is_slightly_wrong_is_refused(variant: str, dtype: DType) -> None:
    shape, options = AttentionShape(2, Grid(14, 14), 2, 16), load(variant).options
    found = errors(variant, shape, options, dtype, SlightlyWrong())
    assert any(error > allowed for error, allowed in found.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_layer_is_not_adopted(variant: str) -> None:
    layer = load("linformer").build(AttentionShape(1, Grid(4, 4), 2, 4))
    with pytest.raises(TypeError, match=f"variant {variant}"):
        load_backend(variant, "sdpa").adopt(layer)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_missing_gpu_is_a_reason(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shape, options = AttentionShape(1, Grid(14, 14), 2, 8), load(variant).options
    asked = execution(variant, shape, options, "float32", backward=False)
    backend = load_backend(variant, "sdpa")
    assert backend.unsupported(asked) == ()
    assert backend.unsupported(replace(asked, device="cuda")) == ("no CUDA device",)


def execution(
    variant: str, shape: AttentionShape, options: Any, dtype: DType, *, backward: bool
) -> Execution:
    return Execution(
        variant=variant, shape=shape, options=options, dtype=dtype, backward=backward, device="cpu"
    )


class Seen(TorchDispatchMode):
    """Sizes of queries and keys of every fused call; and whether there was one."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = False
        self.plain = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        self.fused |= "_scaled_dot_product_flash_attention_for_cpu.default" in name
        self.plain |= "aten._softmax" in name or "aten._safe_softmax" in name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("variant", "change"), ALTERNATIVES, ids=str)
def test_executed_names_what_really_ran(
    variant: str, change: dict[str, object], grid: Grid, backward: bool
) -> None:
    shape = AttentionShape(2, grid, 3, 8)
    options = replace(load(variant).options, **change)
    backend = load_backend(variant, "sdpa")
    said = backend.executed(execution(variant, shape, options, "float32", backward=backward))
    layer = backend.adopt(built(variant, shape, options, torch.float32))
    layer.requires_grad_(backward)
    x = normal("x", (shape.batch, shape.tokens, shape.channels)).requires_grad_(backward)
    with Seen() as seen, torch.set_grad_enabled(backward):
        layer(x, grid)
    assert ("flash_attention" in said, "math" in said) == (seen.fused, seen.plain), said


def test_windows_with_biases_of_their_own_are_not_repeated_for_each_item() -> None:
    q = normal("q", (3, 4, 2, 5, 8))
    bias = normal("bias", (4, 1, 5, 5))
    want = torch.stack([
        F.scaled_dot_product_attention(item, item, item, bias.expand(4, 2, 5, 5)) for item in q
    ])  # fmt: skip
    torch.testing.assert_close(SdpaAttention()(q, q, q, bias), want)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(SdpaAttention()(q, q, q, bias.flip(0)), want)
