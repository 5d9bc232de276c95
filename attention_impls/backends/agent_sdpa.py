"""Agent attention as two calls of torch's scaled_dot_product_attention, the biases as its masks.

Torch chooses the kernel family of each call; the record says which. Where it takes a fused one, no
matrix of agents x tokens is kept.
"""

import copy
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from attention_impls.multihead import MultiHead
from attention_impls.sdpa import TOLERANCE
from attention_impls.spec import Backend, Execution


class SdpaAttention(nn.Module):
    """softmax(scale Q K^T + bias) V in one call; no parameters."""

    def forward(
        self,
        q: Float[Tensor, "batch heads tokens head_dim"],
        k: Float[Tensor, "batch heads keys head_dim"],
        v: Float[Tensor, "batch heads keys head_dim"],
        bias: Float[Tensor, "1 heads tokens keys"] | None,
        scale: int | float,
    ) -> Float[Tensor, "batch heads tokens head_dim"]:
        """Attend."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def _adopt(layer: nn.Module) -> nn.Module:
    mix = getattr(layer, "mix", None)
    if not isinstance(layer, MultiHead) or not hasattr(mix, "pooled"):
        raise TypeError(
            f"backend sdpa: got {type(layer).__name__}, must be a MultiHead layer whose mix pools "
            "queries into agents (variant agent)"
        )
    # a copy of the modules around the very same parameters
    adopted = copy.deepcopy(layer, {id(p): p for p in layer.parameters()})
    cast("nn.Module", adopted.mix).attend = SdpaAttention()
    return adopted


def _unsupported(execution: Execution) -> tuple[str, ...]:
    if execution.device == "cuda" and not torch.cuda.is_available():
        return ("no CUDA device",)
    return ()


def _executed(execution: Execution) -> str:
    """Name the families of the two calls, as torch's own dispatcher chooses them."""
    options, shape = execution.options, execution.shape
    patches = (shape.grid.height // options.reduction) * (shape.grid.width // options.reduction)
    keys = patches + shape.extra_tokens
    gather = _choice(execution, queries=options.landmarks, keys=keys)
    read = _choice(execution, queries=shape.tokens, keys=options.landmarks)
    return f"gather: {gather}, read: {read}"


def _choice(execution: Execution, *, queries: int, keys: int) -> str:
    shape = execution.shape

    def sample(batch: int, rows: int, columns: int) -> Tensor:
        # sizes alone decide: one item stands for all of the batch
        return torch.empty_strided(
            (batch, shape.heads, rows, columns),
            (0, rows * columns, columns, 1),
            dtype=getattr(torch, execution.dtype),
            device=execution.device,
            requires_grad=execution.backward,
        )

    q, k = (sample(shape.batch, rows, shape.head_dim) for rows in (queries, keys))
    bias = sample(1, queries, keys) if execution.options.position_bias else None
    return SDPBackend(torch.ops.aten._fused_sdp_choice(q, k, k, bias)).name.lower()


BACKEND = Backend(
    variant="agent",
    name="sdpa",
    title="SDPA, two calls",
    requires=(),
    unsupported=_unsupported,
    adopt=_adopt,
    tolerance=TOLERANCE,
    executed=_executed,
)
