"""Layers that know their grid, against their authors' own modules.

One file in `published/` a variant. Each case names the layout in which the authors' module takes
its input, `stream` [batch, tokens, channels] or `image` [batch, channels, height, width], and the
options that make our layer the same function.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from golden.published_outputs import Published, published
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid, load

VARIANTS = ("agent", "mala", "mila", "nala", "polaformer", "rala", "vittt")
CASES = {
    f"{variant}/{name}": (variant, case)
    for variant in VARIANTS
    for name, case in published(variant).items()
}
OTHER_OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "agent": ({"position_bias": False}, {"local_residual": False}, {"landmarks": 4}),
    "mala": ({"rotary": False}, {"local_residual": False}),
    "mila": ({"rotary": False}, {"local_residual": False}),
    "nala": ({"rotary": False}, {"local_residual": False}),
    "polaformer": ({"alpha": 3.99}, {"position_encoding": False}, {"local_residual": False}),
    "rala": ({"rotary": False}, {"weighted_keys": False}, {"local_residual": False}),
    "vittt": ({"step": 0.99}, {"step": -1.0}),
}
"""Options that no case has, so that each of them must give something else."""


def grid(case: Published) -> Grid:
    return Grid(case.arguments["height"], case.arguments["width"])


def layer(variant: str, case: Published, **changed: Any) -> nn.Module:
    made, spec, sizes = case.arguments, load(variant), case.inputs[0]
    channels = sizes[1] if made["layout"] == "image" else sizes[2]
    shape = AttentionShape(
        batch=sizes[0],
        grid=grid(case),
        heads=made["heads"],
        head_dim=channels // made["heads"],
        extra_tokens=made.get("extra_tokens", 0),
    )
    options = replace(spec.options, **(made.get("options", {}) | changed))
    built = spec.build(shape, options)
    weights = spec.adopt_official(case.weights())
    if changed:
        own = {name: tensor.shape for name, tensor in built.state_dict().items()}
        weights = {n: w for n, w in weights.items() if own.get(n) == w.shape}
        built.load_state_dict(weights, strict=False)
    else:
        built.load_state_dict(weights)
    return built.eval()


def output(layer: nn.Module, case: Published, dtype: torch.dtype) -> Tensor:
    (x,) = case.tensors(dtype)
    layer = layer.to(dtype)
    if case.arguments["layout"] == "stream":
        return layer(x, grid(case))
    return layer(x.flatten(2).mT, grid(case)).mT.reshape(x.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    variant, case = CASES[name]
    case.check(output(layer(variant, case), case, dtype))


@pytest.mark.parametrize("name", CASES)
def test_other_options_are_told_from_the_published(name: str) -> None:
    variant, case = CASES[name]
    for changed in OTHER_OPTIONS[variant]:
        with pytest.raises(AssertionError, match="not close"):
            case.check(output(layer(variant, case, **changed), case, torch.float64))


@pytest.mark.parametrize("name", CASES)
def test_another_weight_is_told_from_the_published(name: str) -> None:
    variant, case = CASES[name]
    other = layer(variant, case).double()
    with torch.no_grad():
        other.get_parameter("qk.weight" if variant == "mila" else "qkv.weight").mul_(1.001)
    with pytest.raises(AssertionError, match="not close"):
        case.check(output(other, case, torch.float64))


@pytest.mark.parametrize("name", CASES)
def test_a_parameter_without_a_place_is_refused(name: str) -> None:
    variant, case = CASES[name]
    with pytest.raises(KeyError, match="to_gate"):
        load(variant).adopt_official(case.weights() | {"to_gate.weight": torch.zeros(2, 2)})
