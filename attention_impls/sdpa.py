"""Softmax attention by torch's scaled_dot_product_attention, its kernel family chosen or pinned.

Torch has four families: flash, memory-efficient, cuDNN and math. A pinned family that cannot run is
a reason given before anything runs; inside a call torch raises rather than take another one.
"""

import copy
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_impls.multihead import MultiHead
from attention_impls.shapes import Grid
from attention_impls.spec import Backend, DType, Execution, Tolerance

Heads = Float[Tensor, "batch heads tokens head_dim"]

TOLERANCE: dict[DType, Tolerance] = {
    "float32": Tolerance(absolute=1e-5, relative=1e-4),
    "bfloat16": Tolerance(absolute=2e-2, relative=3e-2),
    "float16": Tolerance(absolute=4e-3, relative=6e-3),
}


class SdpaMix(nn.Module):
    """A mix in one call; no parameters."""

    def __init__(self, *, causal: bool, family: SDPBackend | None) -> None:
        """Build.

        Args:
            causal: token i attends only to tokens <= i.
            family: the only kernel family allowed; None leaves the choice to torch.
        """
        super().__init__()
        self.causal = causal
        self.family = family

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Heads:
        """Attend; `x` and `grid` play no part."""
        with _allowing(self.family):
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


def _allowing(family: SDPBackend | None) -> AbstractContextManager[Any]:
    return nullcontext() if family is None else sdpa_kernel([family])


def sdpa_backend(name: str, title: str, family: SDPBackend | None) -> Backend:
    """Return the backend of variant `softmax` that runs SDPA.

    Args:
        name: identifier of the backend.
        title: name for people.
        family: the only kernel family allowed; None leaves the choice to torch, and records it.
    """

    def adopt(layer: nn.Module) -> nn.Module:
        causal = getattr(getattr(layer, "mix", None), "causal", None)
        if not isinstance(layer, MultiHead) or causal is None:
            raise TypeError(
                f"backend {name}: got {type(layer).__name__}, must be a MultiHead layer whose mix "
                "says whether it is causal (variant softmax)"
            )
        # a copy of the modules around the very same parameters
        adopted = copy.deepcopy(layer, {id(p): p for p in layer.parameters()})
        adopted.mix = SdpaMix(causal=causal, family=family)
        return adopted

    def unsupported(execution: Execution) -> tuple[str, ...]:
        if execution.device == "cuda" and not torch.cuda.is_available():
            return ("no CUDA device",)
        if family is None or _choice(execution, family) == family:
            return ()
        return _refusals(execution, family)

    def executed(execution: Execution) -> str:
        return _choice(execution, family).name.lower()

    return Backend(
        variant="softmax",
        name=name,
        title=title,
        requires=(),
        unsupported=unsupported,
        adopt=adopt,
        tolerance=TOLERANCE,
        executed=executed,
    )


def _choice(execution: Execution, family: SDPBackend | None) -> SDPBackend:
    """Ask torch's own dispatcher which family a call of these sizes takes."""
    q = _sample(execution)
    with _allowing(family):
        try:
            chosen = torch.ops.aten._fused_sdp_choice(q, q, q, None, 0.0, execution.shape.causal)
        except RuntimeError:  # torch's way of saying that no family is allowed and able
            return SDPBackend.ERROR
    return SDPBackend(chosen)


def _sample(execution: Execution) -> Tensor:
    """Return a tensor that looks like a layer's queries and holds one sequence."""
    shape = execution.shape
    return torch.empty_strided(
        (shape.batch, shape.heads, shape.tokens, shape.head_dim),
        (0, shape.head_dim, shape.channels, 1),
        dtype=getattr(torch, execution.dtype),
        device=execution.device,
        requires_grad=execution.backward,
    )


_CUDA_CHECKS = {
    SDPBackend.FLASH_ATTENTION: "can_use_flash_attention",
    SDPBackend.EFFICIENT_ATTENTION: "can_use_efficient_attention",
    SDPBackend.CUDNN_ATTENTION: "can_use_cudnn_attention",
}


def _refusals(execution: Execution, family: SDPBackend) -> tuple[str, ...]:
    """Return why torch refuses `family`, in torch's words where it gives any."""
    shape = execution.shape
    said: list[str] = []
    if execution.device == "cuda" and family in _CUDA_CHECKS:
        q = _sample(execution)
        sizes = torch.backends.cuda.SDPAParams(q, q, q, None, 0.0, shape.causal, False)
        check = getattr(torch.backends.cuda, _CUDA_CHECKS[family])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check(sizes, True)
        said = [str(w.message).split(" (Triggered internally")[0].strip() for w in caught]
    asked = f"{execution.dtype}, {shape.tokens} tokens, head_dim {shape.head_dim}"
    return (f"{family.name.lower()} does not run on {execution.device} for {asked}", *said)
