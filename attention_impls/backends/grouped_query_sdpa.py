"""Grouped-query attention by torch's scaled_dot_product_attention; torch chooses the kernels."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from attention_impls.sdpa import TOLERANCE
from attention_impls.shapes import Grid
from attention_impls.spec import Backend, Execution

Heads = Float[Tensor, "batch heads tokens head_dim"]
KeyHeads = Float[Tensor, "batch key_heads tokens head_dim"]


class GroupedSdpaMix(nn.Module):
    """The mix in one call; no parameters."""

    def __init__(self, *, causal: bool) -> None:
        """Build; `causal` gives weight to keys j <= i alone."""
        super().__init__()
        self.causal = causal

    def forward(
        self,
        q: Heads,
        k: KeyHeads,
        v: KeyHeads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend; `x` and `grid` play no part."""
        shared = k.shape[1] < q.shape[1]
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=shared)


def _adopt(layer: nn.Module) -> nn.Module:
    causal = getattr(getattr(layer, "mix", None), "causal", None)
    if not hasattr(layer, "key_heads") or causal is None:
        raise TypeError(
            f"backend sdpa: got {type(layer).__name__}, must be a layer with key_heads whose mix "
            "says whether it is causal (variant grouped_query)"
        )
    # a copy of the modules around the very same parameters
    adopted = copy.deepcopy(layer, {id(p): p for p in layer.parameters()})
    adopted.mix = GroupedSdpaMix(causal=causal)
    return adopted


def _unsupported(execution: Execution) -> tuple[str, ...]:
    if execution.device == "cuda" and not torch.cuda.is_available():
        return ("no CUDA device",)
    return ()


def _executed(execution: Execution) -> str:
    """Ask torch's own dispatcher which family a layer's call takes."""
    shape, groups = execution.shape, execution.options.key_heads

    def sample(heads: int) -> Tensor:
        return torch.empty_strided(
            (shape.batch, heads, shape.tokens, shape.head_dim),
            (0, shape.head_dim, shape.channels + 2 * groups * shape.head_dim, 1),
            dtype=getattr(torch, execution.dtype),
            device=execution.device,
            requires_grad=execution.backward,
        )

    k = sample(groups)
    chosen = torch.ops.aten._fused_sdp_choice(
        sample(shape.heads), k, k, None, 0.0, shape.causal, enable_gqa=groups < shape.heads
    )
    return SDPBackend(chosen).name.lower()


BACKEND = Backend(
    variant="grouped_query",
    name="sdpa",
    title="SDPA",
    requires=(),
    unsupported=_unsupported,
    adopt=_adopt,
    tolerance=TOLERANCE,
    executed=_executed,
)
