"""Inputs and weights identical on every machine: a closed form of name and index, no generator.

Element `i` of tensor `name` is the sum of four 16-bit hashes of (sha256(name), i), shifted and
scaled to mean 0 and variance 1 (Irwin-Hall of order 4: bounded by 3.47, excess kurtosis -0.3).
All of it is integer arithmetic but the one last multiplication in float32, which IEEE 754 rounds
in one way only. So the bits do not depend on device, threads, chunk length or torch's version.
"""

import hashlib
import math

import torch
from torch import Tensor, nn

from attention_impls.shapes import AttentionShape
from bench.model import Level

_CHUNK = 31 << 10
"""Elements hashed at once on a CPU: the buffers stay in the L2 cache, and torch runs operators on
fewer than 32768 elements in the calling thread, without a barrier after each one."""
_CHUNK_CUDA = 1 << 24
_MULTIPLIERS = (0x21F0AAAD, 0x735A2D97, 0x2C1B3C6D)
_MEAN = 4 * 65535 // 2
_SCALE = 1 / math.sqrt(4 * (65536**2 - 1) / 12)


def normal(
    name: str,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Return N(0,1)-like numbers that are a function of `name` and the flat index alone.

    Args:
        name: identity of the tensor; another name gives unrelated numbers.
        shape: sizes; the values depend on the flat index, not on how it is split into axes.
        dtype: floating type of the result; values are made in float32 and then cast.
        device: where the tensor is made; the bits are the same on all. On `meta` nothing is made.

    Raises:
        TypeError: `dtype` is not a floating type.
    """
    if not dtype.is_floating_point:
        raise TypeError(f"normal({name!r}): dtype is {dtype}, must be a floating type")
    out = torch.empty(shape, dtype=dtype, device=device)
    if out.device.type != "meta":
        _fill(out.view(-1), name, _CHUNK if out.device.type == "cpu" else _CHUNK_CUDA)
    return out


def fill_parameters(module: nn.Module) -> None:
    """Overwrite every parameter by its qualified name; buffers stay as they are.

    Weights (two or more axes) get standard deviation 1/sqrt(fan_in), where fan_in is the number
    of elements per output row; one-axis `*.weight` (norms) 1 + 0.1 z; biases and all others of
    one axis or with a leading axis of 1 (position tables, scales) 0.02 z.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            z = normal(name, tuple(parameter.shape), device=parameter.device)
            is_weight = name.rpartition(".")[2] == "weight"
            if parameter.ndim >= 2 and (is_weight or parameter.shape[0] != 1):
                z *= 1 / math.sqrt(parameter[0].numel())
            elif is_weight:
                z = 1 + 0.1 * z
            else:
                z *= 0.02
            parameter.copy_(z)


def workload_inputs(
    shape: AttentionShape,
    level: Level,
    *,
    call: int,
    keys_are_queries: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, ...]:
    """Return the tensors of one call: `(q, k, v, x)` at level `core`, else `(x,)`.

    q, k, v are [batch, heads, tokens, head_dim], x is [batch, tokens, channels]. All are distinct
    from each other and from those of every other `call`; nothing is tiled over batch or heads.

    Args:
        shape: sizes of the call.
        level: `core`, `layer` or `model`.
        call: running number of the call; another number gives fresh values.
        keys_are_queries: k is the same tensor as q (mechanisms with one stream for both).
        dtype: floating type of all tensors.
        device: where they are made.

    Raises:
        ValueError: `call` is negative.
    """
    if call < 0:
        raise ValueError(f"workload_inputs: call is {call}, must be >= 0")
    stream = (shape.batch, shape.tokens, shape.channels)
    x = normal(f"x/{call}", stream, dtype=dtype, device=device)
    if level != "core":
        return (x,)
    heads = (shape.batch, shape.heads, shape.tokens, shape.head_dim)
    q, k, v = (
        normal(f"{role}/{call}", heads, dtype=dtype, device=device)
        for role in ("q", "q" if keys_are_queries else "k", "v")
    )
    return (q, q if keys_are_queries else k, v, x)


def _fill(out: Tensor, name: str, chunk: int) -> None:
    """Fill a flat tensor in place, `chunk` elements at a time."""
    first, second = _seeds(name)
    length = min(chunk, out.numel())
    positions = torch.arange(length, dtype=torch.int32, device=out.device)
    hashes, scratch = torch.empty_like(positions), torch.empty_like(positions)
    for start in range(0, out.numel(), chunk):
        count = min(length, out.numel() - start)
        index, x, t = positions[:count], hashes[:count], scratch[:count]
        torch.add(index, _signed(start + first + (start >> 32) * _MULTIPLIERS[2]), out=x)
        _mix(x, t, 16, _MULTIPLIERS[0])
        x.add_(second)
        _mix(x, t, 15, _MULTIPLIERS[1])
        _mix(x, t, 15, 1)
        total = _halves(x, t)
        _mix(x, t, 16, _MULTIPLIERS[2])
        _mix(x, t, 15, 1)
        total.add_(_halves(x, t)).sub_(_MEAN)
        out[start : start + count] = total.to(torch.float32).mul_(_SCALE)


def _mix(x: Tensor, scratch: Tensor, shift: int, multiplier: int) -> None:
    """Set x = (x ^ (x >> shift)) * multiplier modulo 2**32, the shift filling with zeros."""
    torch.bitwise_right_shift(x, shift, out=scratch)
    x.bitwise_xor_(scratch.bitwise_and_((1 << (32 - shift)) - 1))
    if multiplier != 1:
        x.mul_(multiplier)


def _halves(x: Tensor, scratch: Tensor) -> Tensor:
    """Return the sum of the two 16-bit halves of each element; overwrites `scratch`."""
    torch.bitwise_right_shift(x, 16, out=scratch)
    return scratch.bitwise_and_(0xFFFF) + (x & 0xFFFF)


def _seeds(name: str) -> tuple[int, int]:
    digest = hashlib.sha256(name.encode()).digest()
    return _signed(int.from_bytes(digest[:4])), _signed(int.from_bytes(digest[4:8]))


def _signed(value: int) -> int:
    """Return the 32 low bits of `value` as a signed number, which is what int32 tensors hold."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)
