"""softmax against timm's (DeiT) and PVT's attention; linear_* against idiap/fast-transformers."""

import pytest
import torch
from golden.published_outputs import Published, published
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid, load

VARIANTS = ("softmax", "linear_elu", "linear_relu")
CASES = {(v, name): case for v in VARIANTS for name, case in published(v).items()}


def layer(variant: str, case: Published) -> nn.Module:
    made, spec = case.arguments, load(variant)
    grid, (batch, tokens, channels) = Grid(*made["grid"]), case.inputs[0]
    heads = int(case.id.split("_h")[-1].split("_")[0])
    shape = AttentionShape(
        batch,
        grid,
        heads,
        channels // heads,
        extra_tokens=tokens - grid.tokens,
        causal=made.get("causal", False),
    )
    found = spec.build(shape)
    # published without a bias is the same function as ours with a bias of zero
    found.load_state_dict(spec.adopt_official(case.weights()))
    return found


def output(case: Published, made: nn.Module, dtype: torch.dtype) -> Tensor:
    return made.to(dtype)(*case.tensors(dtype), Grid(*case.arguments["grid"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("variant", "name"), CASES)
def test_equals_the_published_code(variant: str, name: str, dtype: torch.dtype) -> None:
    case = CASES[variant, name]
    case.check(output(case, layer(variant, case), dtype))


@pytest.mark.parametrize(("variant", "name"), CASES)
def test_another_variant_is_told_from_the_published(variant: str, name: str) -> None:
    case = CASES[variant, name]
    other = VARIANTS[(VARIANTS.index(variant) + 1) % len(VARIANTS)]
    spec = load(variant)
    made = layer(variant, case)
    wrong = load(other).build(
        AttentionShape(
            case.inputs[0][0],
            Grid(*case.arguments["grid"]),
            made.heads,
            made.head_dim,
            extra_tokens=made.extra_tokens,
            causal=case.arguments.get("causal", False),
        )
    )
    wrong.load_state_dict(spec.adopt_official(case.weights()))
    with pytest.raises(AssertionError, match="not close"):
        case.check(output(case, wrong, torch.float64))


def test_the_cases_cover_both_directions_of_time() -> None:
    causal = {c.arguments["causal"] for (v, _), c in CASES.items() if v == "linear_elu"}
    assert causal == {False, True}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_parameter_without_a_place_is_refused(variant: str) -> None:
    case = next(c for (v, _), c in CASES.items() if v == variant)
    table = {"relative_position_bias_table": torch.zeros(169, 3)}
    with pytest.raises(KeyError, match="relative_position_bias_table"):
        load(variant).adopt_official(case.weights() | table)
