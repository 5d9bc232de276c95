"""What people do with a layer beside calling it: copy, save, switch modes, mix precisions."""

import copy
import pickle
from dataclasses import replace

import torch
from contract.checked_layer import distance, home, layer, stream

from attention_impls.spec import AttentionSpec
from bench.vector import built

ROUNDED = {torch.bfloat16: 0.2, torch.float16: 0.05}
"""What autocast may do to the output, of its largest number: as the gate allows a reference."""


def copies_are_the_same_function(spec: AttentionSpec) -> None:
    """A deep copy, a pickled copy, and another build that took over the state dict."""
    shape = home(spec)
    module, x = layer(spec, shape), stream(shape)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        other = spec.build(shape).to(torch.float64).eval()
    other.load_state_dict(module.state_dict())
    try:
        pickled = pickle.loads(pickle.dumps(module))
    except (pickle.PicklingError, AttributeError, TypeError) as failure:
        raise AssertionError(
            f"cannot be pickled, as torch.save of a network does: {failure}; keep functions of "
            "the file and modules in the layer, no lambdas"
        ) from failure
    want = module(x, shape.grid)
    copies = {"a deep copy": copy.deepcopy(module), "a pickled copy": pickled}
    copies["a build that took over the state dict"] = other
    for name, copied in copies.items():
        error = distance(copied(x, shape.grid), want)
        assert error == 0 or not spec.traits.deterministic_eval, f"{name} differs by {error:.3g}"


def modes_are_one_function(spec: AttentionSpec) -> None:
    """Without gradients, in inference mode, and after it; training differs by its noise alone."""
    shape = home(spec)
    module, x = built(spec, shape), stream(shape)
    with torch.inference_mode():
        inference = module(x.clone(), shape.grid).clone()
    module.requires_grad_()
    try:
        want = module(x.requires_grad_(), shape.grid)
        want.sum().backward()
    except RuntimeError as failure:
        raise AssertionError(f"cannot be trained after inference: {failure}") from failure
    with torch.no_grad():
        without = module(x, shape.grid)
    if spec.traits.deterministic_eval:
        for name, got in (("inference_mode", inference), ("no_grad", without)):
            assert torch.equal(got, want), f"{name} differs by {distance(got, want):.3g}"
    trained = module.train()(x, shape.grid)
    assert trained.shape == want.shape, f"training gives {tuple(trained.shape)}"
    assert torch.isfinite(trained).all(), "training is not finite"


def autocast_is_close(spec: AttentionSpec) -> None:
    """Products in half precision, the rest in float32, against float32."""
    shape = replace(home(spec), batch=1)
    module = layer(spec, shape, None, torch.float32)
    x = stream(shape, dtype=torch.float32)
    want = module(x, shape.grid)
    for dtype, allowed in ROUNDED.items():
        with torch.autocast("cpu", dtype=dtype):
            got = module(x, shape.grid)
        assert torch.isfinite(got).all(), f"autocast to {dtype}: not finite"
        error = distance(got, want)
        # of a mechanism that is not continuous rounding can change a choice, and the output with it
        assert error < allowed or not spec.traits.continuous, (
            f"autocast to {dtype}: error {error:.3g}, allowed {allowed:.3g}"
        )


def channels_last_is_the_same_function(spec: AttentionSpec) -> None:
    """As whole networks with convolutions are cast: parameters and buffers of four dimensions."""
    shape = home(spec)
    module, x = layer(spec, shape, None, torch.float32), stream(shape, dtype=torch.float32)
    want = module(x, shape.grid)
    cast = copy.deepcopy(module)
    for tensor in (*cast.parameters(), *cast.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    try:
        got = cast(x, shape.grid)
    except RuntimeError as failure:
        raise AssertionError(f"channels_last: {failure}") from failure
    error = distance(got, want)
    assert error < 1e-4 or not spec.traits.continuous, f"channels_last differs by {error:.3g}"
