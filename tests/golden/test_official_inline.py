"""inline against LeapLabTHU/InLine."""

from dataclasses import replace

import pytest
import torch
from golden.published_outputs import Published, published
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.inline import InlineOptions

CASES = published("inline")
SPEC = load("inline")


def options(case: Published) -> InlineOptions:
    made = case.arguments
    name = made.get("kernel_func", "identity").replace("leakyrelu", "leaky_relu")
    return InlineOptions(feature_map=name, qkv_bias=made["qkv_bias"])


def layer(case: Published, chosen: InlineOptions) -> nn.Module:
    grid, (batch, tokens, channels) = Grid(*case.arguments["grid"]), case.inputs[0]
    heads = case.arguments["num_heads"]
    shape = AttentionShape(batch, grid, heads, channels // heads, tokens - grid.tokens)
    return SPEC.build(shape, chosen)


def output(case: Published, made: nn.Module, dtype: torch.dtype) -> Tensor:
    return made.to(dtype)(*case.tensors(dtype), Grid(*case.arguments["grid"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    made = layer(case, options(case))
    made.load_state_dict(SPEC.adopt_official(case.weights()))
    case.check(output(case, made, dtype))


@pytest.mark.parametrize("name", CASES)
def test_other_feature_maps_and_no_residual_are_told_from_the_published(name: str) -> None:
    case = CASES[name]
    right = options(case)
    other_map = "relu" if right.feature_map == "identity" else "identity"
    for wrong in (replace(right, feature_map=other_map), replace(right, local_residual=False)):
        made = layer(case, wrong)
        adopted = SPEC.adopt_official(case.weights())
        made.load_state_dict({k: v for k, v in adopted.items() if k in made.state_dict()})
        with pytest.raises(AssertionError, match="not close"):
            case.check(output(case, made, torch.float64))


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = next(iter(CASES.values())).weights() | {"get_v.weight": torch.zeros(192, 1, 3, 3)}
    with pytest.raises(KeyError, match=r"get_v\.weight"):
        SPEC.adopt_official(weights)
