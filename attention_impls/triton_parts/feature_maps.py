"""Feature maps of queries and keys inside kernels, and their derivatives."""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.tiles import load_rows, row_mask

EXP_RATE = tl.constexpr(0.2)
"""The exponential feature map is exp(0.2 x)."""
LEAKY_SLOPE = tl.constexpr(0.01)
"""Of leaky_relu below 0."""


@triton.jit
@no_type_check
def features(x, feature_map: tl.constexpr):
    """Return phi(x), float32: identity, relu, elu (elu + 1), leaky_relu or exp."""
    if feature_map == "relu":
        result = tl.maximum(x, 0.0)
    elif feature_map == "elu":
        result = tl.where(x > 0, x + 1.0, tl.exp(tl.minimum(x, 0.0)))
    elif feature_map == "leaky_relu":
        result = tl.where(x > 0, x, x * LEAKY_SLOPE)
    elif feature_map == "exp":
        result = tl.exp(x * EXP_RATE)
    else:
        tl.static_assert(feature_map == "identity", "no such feature map")
        result = x
    return result


@triton.jit
@no_type_check
def slopes(x, feature_map: tl.constexpr):
    """Return the derivative of phi at x, float32; at a corner the lower one, as torch does."""
    if feature_map == "relu":
        result = tl.where(x > 0, 1.0, 0.0)
    elif feature_map == "elu":
        result = tl.exp(tl.minimum(x, 0.0))
    elif feature_map == "leaky_relu":
        result = tl.where(x > 0, 1.0, LEAKY_SLOPE)
    elif feature_map == "exp":
        result = tl.exp(x * EXP_RATE) * EXP_RATE
    else:
        tl.static_assert(feature_map == "identity", "no such feature map")
        result = x * 0.0 + 1.0
    return result


@triton.jit
@no_type_check
def load_features(
    pointer,
    first,
    last,
    stride,
    width: tl.constexpr,
    block_tokens: tl.constexpr,
    block_width: tl.constexpr,
    feature_map: tl.constexpr,
):
    """Return x and phi(x), both float32; phi is zero from `last` and from channel `width` on."""
    x = load_rows(pointer, first, last, stride, width, block_tokens, block_width).to(tl.float32)
    inside = row_mask(first, last, width, block_tokens, block_width)
    return x, tl.where(inside, features(x, feature_map), 0.0)
