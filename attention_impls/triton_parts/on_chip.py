"""Shared memory that the kernels over landmarks and random features take: more than the others."""

import torch

from attention_impls.spec import Execution

_KIB: dict[tuple[bool, bool], int] = {
    (False, False): 114,
    (False, True): 188,
    (True, False): 194,
    (True, True): 226,
}
"""By float32 or not, and head_dim above 64 or not; tests hold the compiled kernels to it."""
_NARROW = 64
_WIDE_AGENT_BACKWARD_KIB = 292
"""Of float32 gradients of agent attention, head_dim above 64: more than any GPU of today has."""


def shared_bytes(execution: Execution) -> int:
    """Bytes of shared memory that no kernel of these backends exceeds."""
    kind = (execution.dtype == "float32", execution.shape.head_dim > _NARROW)
    if kind == (True, True) and execution.variant == "agent" and execution.backward:
        return 1024 * _WIDE_AGENT_BACKWARD_KIB
    return 1024 * _KIB[kind]


def shared_memory_limits(execution: Execution) -> tuple[str, ...]:
    """Return why this GPU is too small, if it is."""
    if execution.device != "cuda" or not torch.cuda.is_available():
        return ()
    has = torch.cuda.get_device_properties(0).shared_memory_per_block_optin
    if has >= (needed := shared_bytes(execution)):
        return ()
    return (
        (
            f"these Triton kernels need {needed} bytes of shared memory a block for "
            f"{execution.dtype} and head_dim {execution.shape.head_dim}, this GPU has {has}: "
            "use the reference"
        ),
    )
