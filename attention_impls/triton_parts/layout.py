"""How tensors are cut into the programs of a kernel, and how a kernel is launched."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Heads = Float[Tensor, "batch heads tokens head_dim"]

_PROGRAMS_PER_MULTIPROCESSOR = 2
"""As many as keep the memory of a multiprocessor busy; more would write more partial states."""
_BALANCED_PROGRAMS_PER_MULTIPROCESSOR = 8
_LEAST_BALANCED_TOKENS = 4096
"""A program with this many tokens reads 16 times its partial state or more: 3 % of the bytes."""
_INTERPRETED_MULTIPROCESSORS = 4
_SIZES = {
    (2, 32): (64, 4, 3),
    (2, 64): (64, 4, 3),
    (2, 128): (64, 8, 2),
    (4, 32): (64, 4, 2),
    (4, 64): (32, 4, 2),
    (4, 128): (16, 8, 1),
}
"""Tokens of a block, warps and stages by bytes of a number and width of a block: as large as
registers and shared memory allow, which the tests of the compiled kernels hold to their limits."""
_COVERED = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Sizes of the programs that share the tokens of each sequence and head."""

    sequences: int
    """batch x heads."""
    tokens: int
    splits: int
    """Programs of each sequence and head."""
    tokens_per_split: int
    """A multiple of `block_tokens`."""
    block_tokens: int
    """Tokens that a program has on chip at a time."""
    block_width: int
    """head_dim, rounded up to a power of two."""
    warps: int
    stages: int
    """Blocks on their way from memory at a time, forward."""

    @property
    def backward_stages(self) -> int:
        """Blocks on their way at a time, backward, where a block is of more tensors."""
        return min(self.stages, 2)

    @property
    def state_stays(self) -> bool:
        """Whether a program holds a state, and its transpose, on chip from block to block."""
        return self.stages > 1

    @property
    def programs(self) -> int:
        """Programs in all."""
        return self.sequences * self.splits


def blocks_of(x: Heads) -> Blocks:
    """Return the sizes for tensors like `x`.

    Raises:
        TypeError: a dtype that the kernels do not cover.
    """
    if x.dtype not in _COVERED:
        covered = ", ".join(str(dtype).removeprefix("torch.") for dtype in _COVERED)
        raise TypeError(f"Triton kernels cover {covered}, got {x.dtype}: use the reference")
    batch, heads, tokens, head_dim = x.shape
    width = block_width(head_dim)
    block, warps, stages = _SIZES[x.dtype.itemsize, max(32, width)]
    sequences = batch * heads
    multiprocessors = _multiprocessors(x.device)
    filling = math.ceil(_PROGRAMS_PER_MULTIPROCESSOR * multiprocessors / sequences)
    balancing = math.ceil(_BALANCED_PROGRAMS_PER_MULTIPROCESSOR * multiprocessors / sequences)
    wanted = max(filling, min(balancing, tokens // _LEAST_BALANCED_TOKENS))
    blocks = math.ceil(tokens / block)
    per_split = math.ceil(blocks / min(wanted, blocks))
    return Blocks(
        sequences=sequences,
        tokens=tokens,
        splits=math.ceil(blocks / per_split),
        tokens_per_split=per_split * block,
        block_tokens=block,
        block_width=width,
        warps=warps,
        stages=stages,
    )


def block_width(head_dim: int) -> int:
    """Channels of a block: `head_dim`, rounded up to a power of two, at least 16."""
    return max(16, 1 << (head_dim - 1).bit_length())


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def rows(x: Heads) -> Heads:
    """Return `x` with the numbers of a token side by side in memory, copied only if they are not.

    Gradients can come expanded or transposed; the streams of a projection never do.
    """
    return x if x.stride(3) == 1 else x.contiguous()


def strides(x: Heads) -> tuple[int, int, int]:
    """Return the steps in memory from one batch item, head and token to the next."""
    return x.stride(0), x.stride(1), x.stride(2)


def launcher(kernel: Any, programs: int, like: Tensor) -> Callable[..., Any]:
    """Return what launches `programs` programs of `kernel` when called with its arguments.

    On fake tensors it launches nothing: everything that a kernel writes is allocated before it, so
    that memory is predicted exactly.

    Raises:
        ValueError: `like` is on another GPU than the current one.
    """
    if isinstance(like, FakeTensor):
        return _nothing
    if like.is_cuda and like.get_device() != torch.cuda.current_device():
        raise ValueError(
            f"tensors are on {like.device}, the current device is {torch.cuda.current_device()}: "
            "call within torch.cuda.device of the tensors"
        )
    return kernel[(programs,)]


def _nothing(*_arguments: Any, **_sizes: Any) -> None:
    """Compute nothing."""
