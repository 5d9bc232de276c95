"""Agent attention in fused kernels: neither attention's scores are in memory.

Kernels, bytes and limits: `attention_impls.triton_parts.agent`.
"""

from torch import nn

from attention_impls.spec import Execution
from attention_impls.triton_parts.backend import triton_backend
from attention_impls.triton_parts.on_chip import shared_memory_limits

_MOST_AGENTS = 64


def _wrap(mix: nn.Module) -> nn.Module:
    from attention_impls.triton_parts.agent import FusedAgentMix

    return FusedAgentMix(mix)


def _limits(execution: Execution) -> tuple[str, ...]:
    reasons = list(shared_memory_limits(execution))
    options = execution.options
    if options.landmarks > _MOST_AGENTS:
        reasons.append(
            f"one program holds at most {_MOST_AGENTS} agents, got landmarks={options.landmarks}: "
            "use the backend sdpa"
        )
    if options.reduction > 1:
        reasons.append(
            "these kernels convolve values on the grid of the queries, got "
            f"reduction={options.reduction}: use reduction=1 or the backend sdpa"
        )
    return tuple(reasons)


BACKEND = triton_backend("agent", _wrap, limits=_limits)
