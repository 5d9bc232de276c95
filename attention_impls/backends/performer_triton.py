"""Performer in fused kernels: random features are formed on chip and never stored.

Kernels, bytes and limits: `attention_impls.triton_parts.performer`.
"""

from torch import nn

from attention_impls.spec import Execution
from attention_impls.triton_parts.backend import no_causal_form, triton_backend
from attention_impls.triton_parts.on_chip import shared_memory_limits


def _wrap(mix: nn.Module) -> nn.Module:
    from attention_impls.triton_parts.performer import FusedPerformerMix

    return FusedPerformerMix(mix)


def _limits(execution: Execution) -> tuple[str, ...]:
    reasons = (*no_causal_form(execution), *shared_memory_limits(execution))
    chosen = execution.options.feature_map
    if chosen == "softmax":
        return reasons
    return (
        *reasons,
        f"these kernels have the feature_map 'softmax', got {chosen!r}: use the reference",
    )


BACKEND = triton_backend("performer", _wrap, limits=_limits)
