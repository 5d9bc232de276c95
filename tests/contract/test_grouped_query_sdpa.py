"""The SDPA backend of grouped_query: the reference's function and gradients, and what ran."""

from dataclasses import replace

import pytest
import torch
from contract.backend_parity import DTYPES, broken, differences, execution, layer, shapes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from attention_impls import AttentionShape, Grid, load
from attention_impls.registry import load_backend
from attention_impls.spec import DType
from bench.stimulus import fill_parameters, normal

SDPA = load_backend("grouped_query", "sdpa")
SHAPE = AttentionShape(2, Grid(7, 9), 3, 64)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_output_and_every_gradient_equal_the_reference(dtype: DType, causal: bool) -> None:
    assert [d for s in shapes(causal=causal) for d in differences(SDPA, s, dtype)] == []


@pytest.mark.parametrize("key_heads", [1, 2, 3, 6])
def test_every_number_of_groups(key_heads: int) -> None:
    spec, shape = load("grouped_query"), AttentionShape(2, Grid(5, 7), 6, 16)
    reference = spec.build(shape, replace(spec.options, key_heads=key_heads))
    fill_parameters(reference)
    x = normal("x", (2, 35, 96))
    assert_close(SDPA.adopt(reference)(x, shape.grid), reference(x, shape.grid))


class Wrong(nn.Module):
    """SDPA with groups that are not those of the heads, or a wrong scale."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, grid: Grid) -> Tensor:
        scale = q.shape[-1] ** -0.5 * (1.05 if self.fault == "scale" else 1)
        if self.fault == "gradient":
            k = k.detach()
        return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True)


@pytest.mark.parametrize("fault", ["scale", "gradient"])
def test_a_backend_that_is_slightly_wrong_is_refused(fault: str) -> None:
    assert differences(broken(SDPA, Wrong("none")), SHAPE, "float32") == []
    assert differences(broken(SDPA, Wrong(fault)), SHAPE, "float32")


def test_groups_in_another_order_are_refused() -> None:
    spec, shape = load("grouped_query"), AttentionShape(2, Grid(5, 7), 6, 16)
    reference = spec.build(shape, replace(spec.options, key_heads=2))
    x = normal("x", (2, 35, 96))
    q, k, v = reference.project(x)
    other = F.scaled_dot_product_attention(q, k.flip(1), v.flip(1), enable_gqa=True)
    with pytest.raises(AssertionError, match="not close"):
        assert_close(SDPA.adopt(reference).mix(q, k, v, x, shape.grid), other)


def test_other_layers_are_not_adopted() -> None:
    with pytest.raises(TypeError, match="variant grouped_query"):
        SDPA.adopt(load("softmax").build(SHAPE))


def test_a_missing_gpu_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = execution(SHAPE, device="cuda", variant="grouped_query")
    assert SDPA.unsupported(asked) == ("no CUDA device",)
    assert SDPA.unsupported(execution(SHAPE, variant="grouped_query")) == ()


class Operators(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_executed_names_what_really_ran(dtype: DType, backward: bool) -> None:
    asked = replace(execution(SHAPE, dtype, variant="grouped_query"), backward=backward)
    x = torch.zeros(2, 63, 192, dtype=getattr(torch, dtype))
    module = SDPA.adopt(layer(SHAPE, dtype, variant="grouped_query")).requires_grad_(backward)
    with Operators() as operators:
        module(x, SHAPE.grid)
    fused = "aten._scaled_dot_product_flash_attention_for_cpu.default" in operators.ran
    assert SDPA.executed is not None
    assert SDPA.executed(asked) == ("flash_attention" if fused else "math")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu_it_is_right(dtype: DType) -> None:
    for shape in (s for causal in (False, True) for s in shapes(causal=causal)):
        assert differences(SDPA, shape, dtype, "cuda") == []
