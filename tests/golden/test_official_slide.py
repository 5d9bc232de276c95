"""slide against LeapLabTHU/Slide-Transformer."""

import pytest
import torch
from golden.published_outputs import Published, published
from torch import Tensor

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.slide import SlideOptions

CASES = published("slide")
SPEC = load("slide")


def with_shift(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published fixed convolution: output a of a channel is neighbour a."""
    kernel = weights["dep_conv.weight"]
    outputs = kernel.shape[2] * kernel.shape[3]
    one = torch.eye(outputs).view(outputs, 1, *kernel.shape[2:])
    return weights | {"dep_conv.weight": one.repeat(kernel.shape[0] // outputs, 1, 1, 1)}


def output(case: Published, weights: dict[str, Tensor], dtype=torch.float64) -> Tensor:
    made = case.arguments
    batch, _, channels = case.inputs[0]
    heads, grid = made["num_heads"], Grid(*made["grid"])
    options = SlideOptions(window=made["ka"], qkv_bias=made["qkv_bias"])
    layer = SPEC.build(AttentionShape(batch, grid, heads, channels // heads), options).to(dtype)
    # the two published convolutions are added: in the dtype of the comparison
    exact = {name: value.to(dtype) for name, value in weights.items()}
    layer.load_state_dict(SPEC.adopt_official(exact))
    with torch.no_grad():
        return layer(*case.tensors(dtype), grid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    case.check(output(case, with_shift(case.weights()), dtype))


@pytest.mark.parametrize("name", CASES)
def test_the_fixed_shift_is_part_of_the_published(name: str) -> None:
    case = CASES[name]
    weights = case.weights()
    learned_alone = weights | {"dep_conv.weight": torch.zeros_like(weights["dep_conv.weight"])}
    got = output(case, learned_alone)
    with pytest.raises(AssertionError, match="not close"):
        case.check(got)
    case.check(output(case, with_shift(weights)))


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = next(iter(CASES.values())).weights() | {"dep_conv2.weight": torch.zeros(8, 8)}
    with pytest.raises(KeyError, match=r"dep_conv2\.weight"):
        SPEC.adopt_official(weights)
