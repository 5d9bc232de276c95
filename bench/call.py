"""One shape of a blueprint, ready to run: a layer, its weights, and inputs that change."""

import copy
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from attention_impls.shapes import AttentionShape
from bench.blueprint import Blueprint, CannotRun
from bench.stimulus import fill_parameters, normal, workload_inputs

SETS_ON_CPU = 4
_SETS_BYTES_ON_CPU = 256 << 20
_L2_MULTIPLE = 3
_MOST_SETS = 4096

Inputs = tuple[Tensor, ...]
Outputs = tuple[Tensor | None, ...]
"""The output, then a gradient a leaf; None for a leaf that plays no part."""


class Call:
    """One shape of one blueprint, ready to run on inputs that change with every call."""

    def __init__(
        self,
        blueprint: Blueprint,
        shape: AttentionShape,
        layer: nn.Module,
        inputs: list[Inputs],
        upstream: Tensor | None,
    ) -> None:
        """Take a layer and its inputs.

        Args:
            blueprint: everything but the sizes.
            shape: sizes.
            layer: the reference layer; the blueprint's backend is put around it here.
            inputs: the input sets to rotate through.
            upstream: gradient of the output; None for a forward pass alone.
        """
        self.blueprint = blueprint
        self.shape = shape
        self.grid = shape.grid
        self.layer = layer
        self.runner = blueprint.runner(layer)
        self.backward = blueprint.backward
        self.upstream = upstream
        for tensor in (t for one in inputs for t in one):
            tensor.requires_grad_(self.backward)
        self.inputs = inputs
        self.leaves = [self._leaves_of(one) for one in inputs]
        """What gradients are taken of, a dict an input set: inputs by role, parameters by name."""

    @property
    def sets(self) -> int:
        """Number of input sets."""
        return len(self.inputs)

    def _leaves_of(self, inputs: Inputs) -> dict[str, Tensor]:
        roles = ("q", "k", "v", "x") if self.blueprint.level == "core" else ("x",)
        found: dict[str, Tensor] = {}
        for role, tensor in zip(roles, inputs, strict=True):
            if not any(tensor is other for other in found.values()):
                found[role] = tensor
        module = self.layer.mix if self.blueprint.level == "core" else self.layer
        if isinstance(module, nn.Module):
            found |= {name: p for name, p in module.named_parameters() if p.requires_grad}
        return found

    def __call__(self, index: int) -> Outputs:
        """Run once on input set `index` (modulo their number); return output and gradients.

        The caller holds `mode()` open.
        """
        index %= len(self.inputs)
        out = self.runner(*self.inputs[index], self.grid)
        if self.upstream is None:
            return (out,)
        leaves = self.leaves[index].values()
        return (out, *torch.autograd.grad(out, tuple(leaves), self.upstream, allow_unused=True))

    @contextmanager
    def mode(self) -> Generator[None]:
        """Inference mode for a forward pass, gradients for forward and backward."""
        with torch.enable_grad() if self.backward else torch.inference_mode():
            yield

    @property
    def resident(self) -> set[int]:
        """Addresses of the memory that exists before a call: inputs, parameters, buffers."""
        tensors = [t for inputs in self.inputs for t in inputs]
        tensors += [*self.layer.parameters(), *self.layer.buffers()]
        if self.upstream is not None:
            tensors.append(self.upstream)
        return {t.untyped_storage().data_ptr() for t in tensors}

    def in_float64(self) -> "Call":
        """Return the reference, without backend, on the first input set, all in float64.

        It takes this call's weights and inputs as they are after rounding to its dtype, so that the
        difference is the error of the arithmetic alone.
        """
        first = self.inputs[0]
        wide = [t.detach().double() for t in first]
        if len(first) > 1 and first[1] is first[0]:
            wide[1] = wide[0]
        return Call(
            replace(self.blueprint, backend=None),
            self.shape,
            copy.deepcopy(self.layer).double(),
            [tuple(wide)],
            None if self.upstream is None else self.upstream.double(),
        )


def call_of(blueprint: Blueprint, shape: AttentionShape, sets: int | None = None) -> Call:
    """Build the layer and its inputs for `shape`.

    Args:
        blueprint: everything but the sizes.
        shape: sizes.
        sets: distinct inputs to rotate through; None: several on CPU, beyond L2 on CUDA.

    Raises:
        CannotRun: with every reason.
    """
    if reasons := blueprint.refusals(shape):
        raise CannotRun(reasons)
    layer = blueprint.layer(shape)
    fill_parameters(layer)
    same_keys = getattr(layer, "streams", "qkv") == "qv"
    inputs = [
        workload_inputs(
            shape,
            blueprint.level,
            call=index,
            keys_are_queries=same_keys,
            dtype=blueprint.torch_dtype,
            device=blueprint.device,
        )
        for index in range(sets or _sets(blueprint, shape))
    ]
    upstream = None
    if blueprint.backward:
        upstream = normal(
            "upstream",
            blueprint.output_shape(shape),
            dtype=blueprint.torch_dtype,
            device=blueprint.device,
        )
    return Call(blueprint, shape, layer, inputs, upstream)


def _sets(blueprint: Blueprint, shape: AttentionShape) -> int:
    """Number of input sets: several within a memory limit on CPU, beyond 3 x L2 on CUDA."""
    streams = 4 if blueprint.level == "core" else 1
    size = streams * shape.batch * shape.tokens * shape.channels * blueprint.torch_dtype.itemsize
    if blueprint.device == "cpu":
        return max(2, min(SETS_ON_CPU, _SETS_BYTES_ON_CPU // size))
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(3, min(_MOST_SETS, -(-_L2_MULTIPLE * cache // size)))
