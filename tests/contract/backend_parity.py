"""A backend against the reference in float64: output, gradients, and the parameters it uses."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid, load
from attention_impls.spec import Backend, DType, Execution
from bench.stimulus import fill_parameters, normal

TOKENS = (1, 7, 63, 65)
HEAD_DIMS = (8, 60, 64)
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")


def execution(
    shape: AttentionShape, dtype: DType = "float32", device: str = "cpu", variant: str = "softmax"
) -> Execution:
    options = load(variant).options
    return Execution(
        variant=variant, shape=shape, options=options, dtype=dtype, backward=True, device=device
    )


def shapes(*, causal: bool) -> list[AttentionShape]:
    """Numbers of tokens and widths of heads that blocks and vector registers do not fit."""
    return [
        AttentionShape(2, Grid(1, tokens), 3, head_dim, causal=causal)
        for tokens in TOKENS
        for head_dim in HEAD_DIMS
    ]


def layer(
    shape: AttentionShape, dtype: DType, device: str = "cpu", variant: str = "softmax"
) -> nn.Module:
    found = load(variant).build(shape)
    fill_parameters(found)
    return found.to(device=device, dtype=getattr(torch, dtype)).eval()


def results(module: nn.Module, parameters: dict[str, Tensor], x: Tensor, grid: Grid) -> Any:
    """Output and gradients by name."""
    leaf = x.clone().requires_grad_()
    out = module(leaf, grid)
    upstream = normal("upstream", tuple(out.shape), dtype=out.dtype, device=out.device)
    found = torch.autograd.grad(out, (leaf, *parameters.values()), upstream)
    return {"output": out.detach(), **dict(zip(("x", *parameters), found, strict=True))}


def differences(
    backend: Backend, shape: AttentionShape, dtype: DType, device: str = "cpu"
) -> list[str]:
    """Return every result that is further from float64 than the backend's own tolerance."""
    reference = layer(shape, dtype, device, backend.variant)
    adopted = backend.adopt(reference)
    x = normal("x", (shape.batch, shape.tokens, shape.channels), device=device)
    x = x.to(getattr(torch, dtype))
    got = results(adopted, dict(reference.named_parameters()), x, shape.grid)
    exact = load(backend.variant).build(shape).to(device=device, dtype=torch.float64).eval()
    exact.load_state_dict(reference.state_dict())
    want = results(exact, dict(exact.named_parameters()), x.double(), shape.grid)
    tolerance = backend.tolerance[dtype]
    wrong: list[str] = []
    for name, value in got.items():
        assert value.dtype == getattr(torch, dtype)
        error = (value.double() - want[name]).abs().max().item()
        allowed = tolerance.absolute + tolerance.relative * want[name].abs().max().item()
        if not error <= allowed:
            wrong.append(f"{shape.tokens} tokens, head_dim {shape.head_dim}: {name} {error:.3g}")
    return wrong


def uses_the_very_same_parameters(backend: Backend, shape: AttentionShape) -> bool:
    """Whether adopting copies, adds or drops nothing, and leaves the reference as it was."""
    reference = layer(shape, "float32", variant=backend.variant)
    before = dict(reference.named_modules())
    adopted = backend.adopt(reference)
    ours = {id(p) for p in reference.parameters()}
    theirs = {id(p) for p in adopted.parameters()}
    return ours == theirs and before == dict(reference.named_modules())


def broken(backend: Backend, mix: nn.Module) -> Backend:
    """Return `backend` with another mix inside the adopted layer."""

    def adopt(reference: nn.Module) -> nn.Module:
        adopted = backend.adopt(reference)
        adopted.mix = mix
        return adopted

    return replace(backend, adopt=adopt)
