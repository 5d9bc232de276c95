"""focused_linear against LeapLabTHU/FLatten-Transformer, today's code and that of the paper."""

from dataclasses import replace

import pytest
import torch
from golden.published_outputs import Published, published
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid, load
from attention_impls.variants.focused_linear import FocusedLinearOptions

CASES = published("focused_linear")
SPEC = load("focused_linear")
OF_THE_PAPER = "LeapLabTHU/FLatten-Transformer@e743f01153f9a89050aa848524a8fe9ec313ef80"


def options(case: Published) -> FocusedLinearOptions:
    made = case.arguments
    return FocusedLinearOptions(
        focusing_factor=made["focusing_factor"],
        local_size=made["kernel_size"],
        reduction=made.get("sr_ratio", 1),
        denominator="sum" if case.source == OF_THE_PAPER else "mean",
        qkv_bias=made["qkv_bias"],
    )


def layer(case: Published, chosen: FocusedLinearOptions) -> nn.Module:
    batch, _, channels = case.inputs[0]
    heads = case.arguments["num_heads"]
    shape = AttentionShape(batch, Grid(*case.arguments["grid"]), heads, channels // heads)
    made = SPEC.build(shape, chosen)
    adopted = SPEC.adopt_official(case.weights())
    made.load_state_dict({k: v for k, v in adopted.items() if k in made.state_dict()})
    return made


def output(case: Published, made: nn.Module, dtype: torch.dtype) -> Tensor:
    return made.to(dtype)(*case.tensors(dtype), Grid(*case.arguments["grid"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    made = layer(case, options(case))
    assert set(SPEC.adopt_official(case.weights())) == set(made.state_dict())
    case.check(output(case, made, dtype))


@pytest.mark.parametrize("name", CASES)
def test_other_options_are_told_from_the_published(name: str) -> None:
    case = CASES[name]
    right = options(case)
    wrong = (
        replace(right, focusing_factor=right.focusing_factor + 0.01),
        replace(right, learned_scale=False, focusing_factor=2),
        replace(right, position_encoding=False),
        replace(right, local_residual=False),
    )
    for other in wrong:
        with pytest.raises(AssertionError, match="not close"):
            case.check(output(case, layer(case, other), torch.float64))


def test_both_denominators_occur_and_differ() -> None:
    assert {options(case).denominator for case in CASES.values()} == {"mean", "sum"}
    case = CASES["flatten_swin_d96_w7"]
    mean = output(case, layer(case, options(case)), torch.float64)
    total = output(case, layer(case, replace(options(case), denominator="sum")), torch.float64)
    assert (mean - total).abs().max() > 1e-9 * case.largest


def test_a_parameter_without_a_place_is_refused() -> None:
    weights = next(iter(CASES.values())).weights() | {"get_v.weight": torch.zeros(64, 1, 3, 3)}
    with pytest.raises(KeyError, match=r"get_v\.weight"):
        SPEC.adopt_official(weights)
