"""Layers that take a stream of tokens and no more, against their authors' own modules.

A file of `published/` belongs here if its cases name the layout in which the authors' module takes
its input: `stream` [batch, tokens, channels], `image` [batch, channels, height, width], `sequence`
[tokens, batch, channels], or `patches` [batch, channels, places of a patch, patches]. A case may
have the options that make our layer the same function.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from golden.published_outputs import FOLDER, Published, published
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls import AttentionShape, Grid, load

CASES = {
    f"{path.stem}/{name}": (path.stem, case)
    for path in sorted(FOLDER.glob("*.json"))
    if '"layout":' in path.read_text(encoding="utf-8")
    for name, case in published(path.stem).items()
}
ADDS_ITS_INPUT = ("EfficientAttention",)
"""Classes that add their input to their output; with us the block does."""
OWN = ("num_batches_tracked", "mix.directions")
"""Buffers that stay as they were built: a count, and draws that the published code was given."""


def test_cases_are_found() -> None:
    assert {"efficient", "lite_mla", "mamba2"} <= {variant for variant, _ in CASES.values()}


def grid(made: dict[str, Any]) -> Grid:
    return Grid(made["height"], made["width"])


def layer(variant: str, case: Published) -> nn.Module:
    made, spec = case.arguments, load(variant)
    sizes = case.inputs[0]
    batch, channels = {
        "stream": (sizes[0], sizes[2]),
        "image": (sizes[0], sizes[1]),
        "patches": (sizes[0], sizes[1]),
        "sequence": (sizes[1], sizes[2]),
    }[made["layout"]]
    shape = AttentionShape(
        batch=batch,
        grid=grid(made),
        heads=made["heads"],
        head_dim=channels // made["heads"],
        extra_tokens=made.get("extra_tokens", 0),
        causal=made.get("causal", False),
    )
    built = spec.build(shape, replace(spec.options, **made.get("options", {})))
    if "norm_epsilon" in made:
        # the published code divides rows before the norm: only an epsilon of 0 weighs the same
        built.norm.epsilon = made["norm_epsilon"]
    missing, unexpected = built.load_state_dict(spec.adopt_official(case.weights()), strict=False)
    assert not unexpected
    assert all(name.endswith(OWN) for name in missing)
    return built.eval()


def output(layer: nn.Module, case: Published, x: Tensor) -> Tensor:
    made = case.arguments
    if made["layout"] == "stream":
        return layer(x, grid(made))
    if made["layout"] == "sequence":
        return layer(x.transpose(0, 1), grid(made)).transpose(0, 1)
    if made["layout"] == "patches":
        size, side = (made["height"], made["width"]), (made["patch"], made["patch"])
        image = F.fold(x.flatten(1, 2), size, side, stride=side)
        out = layer(image.flatten(2).mT, grid(made)).mT.reshape(image.shape)
        return F.unfold(out, side, stride=side).reshape(x.shape)
    out = layer(x.flatten(2).mT, grid(made)).mT.reshape(x.shape)
    return out + x if case.class_ in ADDS_ITS_INPUT else out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    variant, case = CASES[name]
    case.check(output(layer(variant, case).to(dtype), case, *case.tensors(dtype)))


@pytest.mark.parametrize("name", CASES)
def test_another_weight_is_told_from_the_published(name: str) -> None:
    variant, case = CASES[name]
    other = layer(variant, case).double()
    (x,) = case.tensors(torch.float64)
    with torch.no_grad():
        # not all by one factor, which norms undo; without weights, the input is another
        changed = next(other.parameters(), x)
        changed.mul_(torch.linspace(1, 1.001, changed.numel()).view_as(changed))
    got = output(other, case, x)
    with pytest.raises(AssertionError, match="not close"):
        case.check(got)


@pytest.mark.parametrize("name", CASES)
def test_a_parameter_without_a_place_is_refused(name: str) -> None:
    variant, case = CASES[name]
    with pytest.raises(KeyError, match="to_gate"):
        load(variant).adopt_official(case.weights() | {"to_gate.weight": torch.zeros(2, 2)})
