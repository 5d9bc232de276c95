"""Two witnesses of a FLOPs formula: torch's dispatcher counter and fvcore's trace counter.

One multiply-add is 2 FLOPs; only contractions count (matmul, convolution, linear, FFT). Neither
witness sees everything; each says what it is blind to, and the formula of a variant must equal
both or declare the difference as `uncounted`.
"""

import math
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from attention_impls.shapes import AttentionShape, Grid
from bench.model import Level

with warnings.catch_warnings():
    # fvcore scripts a loss function that we never call, on import
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", DeprecationWarning)
    from fvcore.nn.jit_analysis import JitModelAnalysis

Sizes = list[int]
_internals: Any = torch._C  # pyright: ignore[reportPrivateUsage] - where tracing is switched
Handle = Callable[[list[Any], list[Any]], int]


class OneCall(nn.Module):
    """A layer, or its mix alone, as a module that takes tensors only: the grid is bound."""

    def __init__(self, layer: nn.Module, grid: Grid, level: Level) -> None:
        super().__init__()
        self.layer = layer
        self.grid = grid
        self.level = level

    def forward(self, *tensors: Tensor) -> Tensor:
        """Call the mix with (q, k, v, x), or the whole layer with (x,)."""
        called = cast(nn.Module, self.layer.mix) if self.level == "core" else self.layer
        return called(*tensors, self.grid)


@dataclass(frozen=True, slots=True)
class FvcoreCount:
    """What fvcore saw of one forward pass."""

    flops: int
    """2 x multiply-adds of the operators it has a handle for."""
    unseen: frozenset[str]
    """Operators without a handle: their contractions, if any, are missing from `flops`."""


def torch_flops(layer: nn.Module, shape: AttentionShape, level: Level = "layer") -> int:
    """Return what `FlopCounterMode` counts in one forward pass on the meta device.

    Nothing is computed and no memory is used, so any size is exact in milliseconds. It counts the
    operators that reach the dispatcher: an autograd.Function is seen through, but an opaque
    custom operator, an FFT, mv, dot, addmv, addbmm, and products written as multiply-and-sum
    count as 0.

    Args:
        layer: the module, on any device; its parameters are not touched.
        shape: sizes of the call.
        level: `core` counts the mix alone, otherwise the projections too.
    """
    call = OneCall(layer, shape.grid, level)
    named = (*call.named_parameters(), *call.named_buffers())
    weightless = {name: torch.empty_like(t, device="meta") for name, t in named}
    inputs = _inputs(shape, level, _dtype(layer), torch.device("meta"))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(call, weightless, inputs)
    return counter.get_total_flops()


def fvcore_flops(layer: nn.Module, shape: AttentionShape, level: Level = "layer") -> FvcoreCount:
    """Return what fvcore counts in one traced forward pass, with the handles of this module.

    fvcore's own handles count multiply-adds, miss attention operators, misread broadcasting and
    read einsum costs from rounded text; none of them is used. Tracing runs the layer once on its
    own device, with the time and memory of one call. Custom operators and everything else without
    a handle come back in `unseen`; an `autograd.Function` is looked into.

    Args:
        layer: the module, with real parameters.
        shape: sizes of the call.
        level: `core` counts the mix alone, otherwise the projections too.
    """
    device = next((t.device for t in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))
    call = OneCall(layer, shape.grid, level)
    analysis = JitModelAnalysis(call, _inputs(shape, level, _dtype(layer), device))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    partial: set[str] = set()
    for name, handle in _handles(partial).items():
        analysis.set_op_handle(name, handle)
    for name in _WITHOUT_CONTRACTION.split():
        analysis.set_op_handle(f"aten::{name}", None)
    with torch.no_grad(), _traced_as_it_runs():
        flops = analysis.total()
    unseen = {name.removeprefix("aten::") for name in analysis.unsupported_ops()}
    return FvcoreCount(flops=int(flops), unseen=frozenset(unseen | partial))


def fft_flops(elements: int, lengths: Sizes, *, real: bool) -> int:
    """FLOPs of transforms along axes of `lengths` over a tensor of `elements` in all.

    5 n log2 n for a complex transform of length n, half of that for a real one (the convention
    of FFTW's benchmarks), rounded to an integer over the whole tensor.
    """
    return round((2.5 if real else 5.0) * elements * sum(math.log2(n) for n in lengths))


def _dtype(layer: nn.Module) -> torch.dtype:
    return next((p.dtype for p in layer.parameters()), torch.float32)


def _inputs(
    shape: AttentionShape, level: Level, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Tensors of one call; zeros, since counts do not depend on values."""
    x = torch.zeros(shape.batch, shape.tokens, shape.channels, dtype=dtype, device=device)
    if level != "core":
        return (x,)
    heads = (shape.batch, shape.heads, shape.tokens, shape.head_dim)
    q, k, v = (torch.zeros(heads, dtype=dtype, device=device) for _ in range(3))
    return (q, k, v, x)


# fvcore's handles: from the traced inputs and outputs of one operator to FLOPs -------------------


def _sizes(value: Any) -> Sizes:
    if not value.isCompleteTensor():
        raise ValueError(f"fvcore trace: {value.debugName()} has no complete tensor type")
    return value.type().sizes()


def _integers(value: Any) -> Sizes:
    """Read an integer or a list of integers from the trace; empty for None."""
    if value.node().kind() == "prim::ListConstruct":
        return [n for item in value.node().inputs() for n in _integers(item)]
    constant = value.toIValue()
    if constant is None:
        return []
    return [constant] if isinstance(constant, int) else list(constant)


def _product(first: int) -> Handle:
    """Matrix product of inputs `first` and `first + 1`, broadcast or not, vectors or matrices."""

    def flops(inputs: list[Any], outputs: list[Any]) -> int:
        return 2 * math.prod(_sizes(outputs[0])) * _sizes(inputs[first])[-1]

    return flops


def _added_batches(inputs: list[Any], _outputs: list[Any]) -> int:
    return 2 * math.prod(_sizes(inputs[1])) * _sizes(inputs[2])[-1]


def _attention(inputs: list[Any], _outputs: list[Any]) -> int:
    query, key, value = (_sizes(i) for i in inputs[:3])
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _convolution(inputs: list[Any], outputs: list[Any]) -> int:
    source, weight, out = _sizes(inputs[0]), _sizes(inputs[1]), _sizes(outputs[0])
    transposed = inputs[6].toIValue()
    return 2 * source[0] * math.prod(weight) * math.prod((source if transposed else out)[2:])


def _fourier(*, real: bool, inverse: bool, default_axes: Sizes | None) -> Handle:
    """Transform of a tensor; `default_axes` None: all axes, or the last where it is one axis."""

    def flops(inputs: list[Any], outputs: list[Any]) -> int:
        # the longer of the two sides of a real transform is the one that is real
        sizes = _sizes(outputs[0]) if inverse else _sizes(inputs[0])
        axes = _integers(inputs[2]) or default_axes or list(range(len(sizes)))
        return fft_flops(math.prod(sizes), [sizes[a] for a in axes], real=real)

    return flops


def _einsum(partial: set[str]) -> Handle:
    """Exact for two operands without ellipsis; anything else is reported as not seen."""

    def flops(inputs: list[Any], _outputs: list[Any]) -> int:
        equation = inputs[0].toIValue().replace(" ", "")
        operands = [_sizes(v) for v in inputs[1].node().inputs()]
        if len(operands) > 2 or "." in equation or "->" not in equation:
            partial.add(f"einsum({equation})")
            return 0
        if len(operands) == 1:
            return 0
        left, kept = equation.split("->")
        names = left.split(",")
        size = {
            n: s for term, sizes in zip(names, operands, strict=True)
            for n, s in zip(term, sizes, strict=True)
        }  # fmt: skip
        contracted = set(names[0]) & set(names[1])
        return 2 * math.prod(s for n, s in size.items() if n in kept or n in contracted)

    return flops


class _NoContext:
    """Stands for the context of an `autograd.Function` whose backward pass never comes."""

    needs_input_grad = ()

    def save_for_backward(self, *_tensors: Tensor) -> None: ...

    def mark_non_differentiable(self, *_tensors: Tensor) -> None: ...

    def set_materialize_grads(self, _value: bool) -> None: ...


@contextmanager
def _traced_as_it_runs() -> Generator[None]:
    """Let a trace see what an ordinary call does.

    The forward of an `autograd.Function` runs as plain operators instead of as one opaque node, and
    sizes are integers as always instead of tensors, which typed code refuses and `min` branches on.
    """

    def apply(cls: Any, *arguments: Any) -> Any:
        separate = cls.setup_context is not torch.autograd.Function.setup_context
        return cls.forward(*arguments) if separate else cls.forward(_NoContext(), *arguments)

    def shape(tensor: Tensor) -> torch.Size:
        state = _internals._get_tracing_state()
        if state is None:
            return _internals.TensorBase.shape.__get__(tensor)
        _internals._set_tracing_state(None)
        try:
            return _internals.TensorBase.shape.__get__(tensor)
        finally:
            _internals._set_tracing_state(state)

    def size(tensor: Tensor, dim: int | None = None) -> torch.Size | int:
        return shape(tensor) if dim is None else shape(tensor)[dim]

    with (
        patch.object(torch.autograd.Function, "apply", classmethod(apply)),
        patch.object(Tensor, "shape", property(shape)),
        patch.object(Tensor, "size", size),
    ):
        yield


def _handles(partial: set[str]) -> Mapping[str, Handle]:
    fourier = {
        f"fft_{'i' if inverse else ''}{'r' if real else ''}fft{kind}": _fourier(
            real=real, inverse=inverse, default_axes=axes
        )
        for inverse in (False, True)
        for real in (False, True)
        for kind, axes in (("", [-1]), ("2", [-2, -1]), ("n", None))
    }
    products = {
        "matmul": _product(0), "mm": _product(0), "bmm": _product(0), "mv": _product(0),
        "dot": _product(0), "linear": _product(0), "addmm": _product(1), "addmv": _product(1),
        "baddbmm": _product(1), "addbmm": _added_batches, "_convolution": _convolution,
        "scaled_dot_product_attention": _attention, "einsum": _einsum(partial), **fourier,
    }  # fmt: skip
    return {f"aten::{name}": handle for name, handle in products.items()}


_WITHOUT_CONTRACTION = """
abs add add_ addcdiv addcmul alias ceil clamp_max clamp_min clone cos cosh div div_ elu eq erf exp
exp2 exp_ expm1 float_power ge gelu gt hardtanh isfinite isinf isnan le leaky_relu leaky_relu_
lerp log log1p log2 log_sigmoid logical_and logical_not logical_or lt maximum minimum mish mul
mul_ ne neg pow pow_ prelu reciprocal relu6 round rsqrt rsub sgn sigmoid sigmoid_ sign silu silu_
sin softplus sqrt square sub sub_ tan tanh threshold where xlogy outer acos

adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d all amax amin any argmax argmin
avg_pool1d avg_pool2d batch_norm count_nonzero cummax cumprod cumsum group_norm instance_norm
layer_norm linalg_norm linalg_vector_norm log_softmax logcumsumexp logsumexp max_pool1d max_pool2d
mean median min native_layer_norm norm prod rms_norm softmax std sum upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d var var_mean

H T _shape_as_tensor _unsafe_view adjoint argsort as_strided bernoulli broadcast_tensors
broadcast_to col2im complex concat conj diag_embed diagonal embedding empty_like expand_as eye
feature_dropout fill_ flip hstack im2col imag index_add index_copy index_fill index_select
lift_fresh linspace mH mT masked_fill_ masked_select matrix_H meshgrid mode movedim new_ones numel
numpy_T one_hot ones_like pad pixel_shuffle pixel_unshuffle polar rand rand_like randn randn_like
randperm ravel real reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad1d
replication_pad2d resolve_conj scatter scatter_add searchsorted sort squeeze_ swapaxes swapdims
take_along_dim tensor tensor_split tile topk transpose_ tril triu unflatten unfold view_as
view_as_complex view_as_real vstack zero_
"""
"""Operators known to hold no contraction: arithmetic on elements; reductions, scans, norms, pools;
making, moving and viewing. What is neither here nor handled is reported as not seen."""
