"""A variant's layer with the weights of a published case, and its output on the case's input."""

from typing import Any

import torch
from golden.published_outputs import Published
from torch import Tensor, nn

from attention_impls import AttentionShape, Grid
from attention_impls.spec import AttentionSpec


def published_layer(spec: AttentionSpec, case: Published, options: Any) -> nn.Module:
    """Build for the case's sizes and load its weights; every parameter must come from them."""
    batch, _, channels = case.inputs[0]
    heads = case.arguments["num_heads"]
    shape = AttentionShape(batch, Grid(*case.arguments["grid"]), heads, channels // heads)
    made = spec.build(shape, options)
    made.load_state_dict(spec.adopt_official(case.weights()))
    return made.eval()


def published_output(
    spec: AttentionSpec, case: Published, options: Any, dtype: torch.dtype
) -> Tensor:
    """Run the layer on the case's input."""
    made = published_layer(spec, case, options).to(dtype)
    with torch.no_grad():
        return made(*case.tensors(dtype), Grid(*case.arguments["grid"]))
