"""What a variant says it costs, against two counters, the growth law and the allocator."""

import math
from dataclasses import replace
from typing import Any

import torch
from contract.checked_layer import MAIN, OTHERS, computed, layer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attention_impls import AttentionShape, Grid
from attention_impls.spec import AttentionSpec
from bench.alternatives import discrete_alternatives, doubled_alternatives
from bench.counting import fvcore_flops, torch_flops

NARROW = AttentionShape(batch=1, grid=Grid(1, 1), heads=1, head_dim=8)


def flops_equal_both_counters(spec: AttentionSpec) -> None:
    """Formula = torch = fvcore on three shapes and for every alternative, or `uncounted` says."""
    shapes = computed(spec, (MAIN, *OTHERS))[:3]
    assert len(shapes) == 3, "fewer than three shapes of the contract are computed"
    first = shapes[0]
    cells = [(shape, spec.options) for shape in shapes]
    cells += [(replace(first, causal=True), spec.options)]
    cells += [(replace(first, extra_tokens=1), spec.options)]
    cells += [(first, options) for options in discrete_alternatives(spec.options)]
    for shape, options in cells:
        if not spec.unsupported(shape, options):
            _assert_counted(spec, shape, options)


def _assert_counted(spec: AttentionSpec, shape: AttentionShape, options: Any) -> None:
    module = layer(spec, shape, options)
    formula = spec.flops(shape, options)
    assert type(formula) is int, f"FLOPs are {formula!r}, must be an int: use // for quotients"
    hidden, why = (0, "") if spec.uncounted is None else spec.uncounted(shape, options)
    cell = f"{shape.batch}x{shape.grid}+{shape.extra_tokens} {options}"
    counts = {"torch": torch_flops(module, shape)}
    if hasattr(module, "mix"):
        projections = spec.projection_flops(shape, spec.checked_options(options))
        counts["torch, core"] = torch_flops(module, shape, "core") + projections
    fvcore = fvcore_flops(module, shape)
    counts["fvcore"] = fvcore.flops
    for counter, counted in counts.items():
        missing = formula - counted
        assert missing in (0, hidden), (
            f"{cell}: formula {formula}, {counter} {counted}, difference {missing}, "
            f"declared uncounted {hidden}"
        )
        assert missing == 0 or len(why.split()) >= 4, "uncounted needs a sentence"
    assert not fvcore.unseen or hidden, f"{cell}: fvcore cannot see {sorted(fvcore.unseen)}"


def order_is_the_growth_of_flops(spec: AttentionSpec) -> None:
    small, large = (replace(MAIN, grid=Grid(side, side)) for side in (1 << 12, 1 << 13))
    alternatives = (*discrete_alternatives(spec.options), *doubled_alternatives(spec.options))
    for options in (spec.options, *alternatives):
        ratio = spec.core_flops(large, options) / spec.core_flops(small, options)
        slope = math.log(ratio) / math.log(large.tokens / small.tokens)
        order = spec.order(options)
        assert abs(slope - order) < 0.02, f"{options}: order {order}, FLOPs grow as N^{slope:.3f}"


def state_is_a_number_of_floats(spec: AttentionSpec) -> None:
    for shape in computed(spec, (MAIN, *OTHERS)):
        floats = spec.state_floats(shape, spec.options)
        assert type(floats) is int, f"state_floats gives {floats!r}, must be an int"
        assert floats > 0, f"state_floats gives {floats}, must be > 0"
        # tens of heads: what divides them unequally does so in tenths
        ten, twenty = (replace(shape, heads=n * shape.heads) for n in (10, 20))
        twice = spec.state_floats(twenty, spec.options)
        shared = hasattr(spec.options, "key_heads")  # a fixed number of heads keeps keys and values
        assert twice == (1 if shared else 2) * spec.state_floats(ten, spec.options), (
            "twice as many heads keep twice as much"
        )


def no_square_of_tokens_is_materialised(spec: AttentionSpec) -> None:
    """At 4,096 tokens no tensor comes near N x N, but where the mathematics says that it must."""
    if spec.order(spec.options) >= 2:
        return
    shape = replace(NARROW, grid=Grid(64, 64))
    if spec.unsupported(shape):
        return
    with Largest() as largest, torch.no_grad():
        module = layer(spec, shape, None, torch.float32)
        module(torch.zeros(1, shape.tokens, shape.channels), shape.grid)
    limit = shape.tokens**2 // 8
    assert largest.elements < limit, (
        f"{largest.operator} made {largest.elements} elements at {shape.tokens} tokens"
    )


class Largest(TorchDispatchMode):
    """Watches every operator for the largest storage that it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.operator = "nothing"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                elements = tensor.untyped_storage().nbytes() // tensor.element_size()
                if elements > self.elements:
                    self.elements, self.operator = elements, str(func)
        return out
