"""agent/sdpa: the reference's output and gradients, with and without what can be switched off."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.backend_parity import DTYPES, differences, execution, results
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from attention_impls import AttentionShape, Grid, load
from attention_impls.registry import load_backend
from attention_impls.spec import DType
from attention_impls.variants.agent import AgentOptions
from bench.stimulus import fill_parameters, normal

BACKEND = load_backend("agent", "sdpa")
SPEC = load("agent")
SHAPES = [
    AttentionShape(2, Grid(5, 7), 3, 20),
    AttentionShape(1, Grid(1, 13), 2, 8),
    AttentionShape(2, Grid(8, 8), 1, 64, extra_tokens=1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_every_gradient_equal_the_reference(shape: AttentionShape, dtype: DType) -> None:
    assert differences(BACKEND, shape, dtype) == []


@pytest.mark.parametrize(
    "options",
    [
        AgentOptions(landmarks=9, position_bias=False),
        AgentOptions(landmarks=4, local_residual=False),
        AgentOptions(landmarks=4, reduction=2),
    ],
    ids=str,
)
def test_other_options_equal_the_reference(options: AgentOptions) -> None:
    shape = AttentionShape(2, Grid(6, 8), 2, 8)
    reference = SPEC.build(shape, options)
    fill_parameters(reference)
    x = normal("x", (2, 48, 16))
    parameters = dict(reference.named_parameters())
    want, got = (results(m, parameters, x, shape.grid) for m in (reference, adopted(reference)))
    for name, value in want.items():
        # a bias that moves a whole row of scores has gradient 0
        assert_close(got[name], value, rtol=1e-4, atol=1e-5, msg=name)


def adopted(reference: nn.Module) -> nn.Module:
    return BACKEND.adopt(reference)


def test_a_backend_that_forgets_a_bias_is_refused() -> None:
    class Forgetful(nn.Module):
        def forward(self, q: Any, k: Any, v: Any, bias: Any, scale: float) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)

    def adopt(reference: nn.Module) -> nn.Module:
        wrong = BACKEND.adopt(reference)
        wrong.mix.attend = Forgetful()
        return wrong

    with pytest.raises(RuntimeError, match="not have been used"):
        differences(replace(BACKEND, adopt=adopt), SHAPES[0], "float32")


def test_a_backend_with_another_scale_is_refused() -> None:
    class Wrong(nn.Module):
        def forward(self, q: Any, k: Any, v: Any, bias: Any, scale: float) -> torch.Tensor:
            attend = nn.functional.scaled_dot_product_attention
            return attend(q, k, v, attn_mask=bias, scale=1.05 * scale)

    def adopt(reference: nn.Module) -> nn.Module:
        wrong = BACKEND.adopt(reference)
        wrong.mix.attend = Wrong()
        return wrong

    assert differences(replace(BACKEND, adopt=adopt), SHAPES[0], "float32")


def test_another_layer_is_not_adopted() -> None:
    with pytest.raises(TypeError, match="variant agent"):
        BACKEND.adopt(load("softmax").build(SHAPES[0]))


class Operators(TorchDispatchMode):
    """Names of the operators that ran, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_executed_names_what_really_ran(dtype: DType, backward: bool) -> None:
    shape = SHAPES[0]
    asked = replace(execution(shape, dtype, variant="agent"), backward=backward)
    layer = BACKEND.adopt(SPEC.build(shape).to(getattr(torch, dtype)))
    layer.requires_grad_(backward)
    x = torch.zeros(2, 35, 60, dtype=getattr(torch, dtype), requires_grad=backward)
    with Operators() as operators:
        layer(x, shape.grid)
    fused = operators.ran.count("aten._scaled_dot_product_flash_attention_for_cpu.default")
    assert BACKEND.executed(asked).count("flash_attention") == fused


def test_a_missing_gpu_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = execution(SHAPES[0], device="cuda", variant="agent")
    assert BACKEND.unsupported(asked) == ("no CUDA device",)
    assert BACKEND.unsupported(replace(asked, device="cpu")) == ()
