"""Backends that run the softmax step of a variant by torch's scaled_dot_product_attention.

Everything around the step, and every parameter, is the reference's own.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from attention_impls.parts.softmax_attention import SoftmaxAttention
from attention_impls.sdpa import TOLERANCE
from attention_impls.spec import Backend, Execution

Queries = Float[Tensor, "batch windows heads queries head_dim"]
Keys = Float[Tensor, "batch windows heads keys head_dim"]
Bias = Float[Tensor, "#windows #heads #queries keys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SdpaCall:
    """Sizes of one call, by which torch chooses a kernel family."""

    batch: int
    windows: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    bias: bool
    """Something is added to the scores."""
    learned_bias: bool
    """It has a gradient."""


class SdpaAttention(nn.Module):
    """The function of `SoftmaxAttention` in one call; no parameters."""

    def forward(
        self, q: Queries, k: Keys, v: Keys, bias: Bias | None = None, scale: float | None = None
    ) -> Queries:
        """Attend; arguments as for `SoftmaxAttention`."""
        batch, windows, heads, queries, head_dim = q.shape
        first, added = 0, bias
        if bias is not None and bias.shape[0] > 1:
            # items share the bias of a window: windows count as heads, lest it be repeated for each
            first = 1
            added = bias.expand(windows, heads, queries, -1).flatten(0, 1).unsqueeze(0)
        q, k, v = (t.flatten(first, first + 1) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, added, scale=scale)
        return out.reshape(batch, windows, heads, queries, head_dim)


def sdpa_step_backend(variant: str, calls: Callable[[Execution], tuple[SdpaCall, ...]]) -> Backend:
    """Return the backend `sdpa` of a variant whose softmax step is a `SoftmaxAttention`.

    Args:
        variant: the variant's name.
        calls: sizes of every call in one forward pass.
    """

    def adopt(layer: nn.Module) -> nn.Module:
        # a copy of the modules around the very same parameters
        adopted = copy.deepcopy(layer, {id(p): p for p in layer.parameters()})
        owners = [
            module
            for module in adopted.modules()
            if isinstance(getattr(module, "attend", None), SoftmaxAttention)
        ]
        if not owners:
            raise TypeError(
                f"backend sdpa: got {type(layer).__name__}, must be a layer of variant {variant}, "
                "whose softmax step can be exchanged"
            )
        for owner in owners:
            owner.attend = SdpaAttention()
        return adopted

    def unsupported(execution: Execution) -> tuple[str, ...]:
        if execution.device == "cuda" and not torch.cuda.is_available():
            return ("no CUDA device",)
        return ()

    def executed(execution: Execution) -> str:
        families = dict.fromkeys(_family(call, execution) for call in calls(execution))
        return ", ".join(families)

    return Backend(
        variant=variant,
        name="sdpa",
        title="SDPA",
        requires=(),
        unsupported=unsupported,
        adopt=adopt,
        tolerance=TOLERANCE,
        executed=executed,
    )


def _family(call: SdpaCall, execution: Execution) -> str:
    """Ask torch's own dispatcher which family a call of these sizes takes."""

    def like(rows: int, width: int, *, learned: bool) -> Tensor:
        # one row of memory stands for all
        return torch.empty_strided(
            (call.batch * call.windows, call.heads, rows, width),
            (0, 0, width, 1),
            dtype=getattr(torch, execution.dtype),
            device=execution.device,
            requires_grad=learned and execution.backward,
        )

    q = like(call.queries, call.head_dim, learned=True)
    k = like(call.keys, call.head_dim, learned=True)
    bias = like(call.queries, call.keys, learned=call.learned_bias) if call.bias else None
    chosen = torch.ops.aten._fused_sdp_choice(q, k, k, bias, 0.0, False)
    return SDPBackend(chosen).name.lower()
