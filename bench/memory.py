"""Memory of one call above inputs and parameters: predicted, counted, and seen by the system."""

import gc
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.profiler import profile
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attention_impls.shapes import AttentionShape
from bench import allocator
from bench.blueprint import Blueprint
from bench.call import Call

_CUDA_GRANULE_BYTES = 512
_COPIES_SCATTERED_INPUTS = (
    torch.ops.aten.convolution.default,
    torch.ops.aten.convolution_backward.default,
)
"""Operators that first copy an input whose elements do not lie in order, unseen by fake tensors."""
_NO_BACKWARD = -1
_UNSHARED = 2


class NotMeasurable(Exception):  # noqa: N818 - becomes `Unavailable`, not an error of ours
    """A quantity that cannot be had here; the message says why."""


def predicted_peak(blueprint: Blueprint, shape: AttentionShape) -> int:
    """Bytes that one call will hold at most, found on fake tensors: nothing is computed.

    Raises:
        NotMeasurable: the backend changes what is allocated in ways that fake tensors do not see.
    """
    if blueprint.backend is not None and blueprint.backend.name == "compile":
        raise NotMeasurable("torch.compile fuses operations; fake tensors do not see the result")
    with FakeTensorMode():
        layer = _placed(blueprint, blueprint.module(shape).eval())
        stream = (shape.batch, shape.tokens, shape.channels)
        heads = (shape.batch, shape.heads, shape.tokens, shape.head_dim)
        x = _empty(blueprint, stream)
        inputs = (x,)
        if blueprint.level == "core":
            q = _empty(blueprint, heads)
            same_keys = getattr(layer, "streams", "qkv") == "qv"
            inputs = (q, q if same_keys else _empty(blueprint, heads), _empty(blueprint, heads), x)
        upstream = _empty(blueprint, blueprint.output_shape(shape)) if blueprint.backward else None
        call = Call(blueprint, shape, layer, [inputs], upstream)
        existing = [*inputs, *layer.parameters(), *layer.buffers()]
        existing += [] if upstream is None else [upstream]
        granule = 1 if blueprint.device == "cpu" else _CUDA_GRANULE_BYTES
        tracker = _LiveBytes(existing, granule)
        # not inference mode, under which composite operators would come undivided
        with torch.set_grad_enabled(blueprint.backward), tracker:
            held = call(0)
        del held
        return tracker.peak


def counted_peak(call: Call) -> int:
    """Bytes that one warm call holds at most, from torch's own allocator.

    CPU: the running maximum of the allocator's events. CUDA: max_memory_allocated above the start.

    Raises:
        NotMeasurable: two calls peaked differently, so that neither is the answer.
    """
    once = _cpu_events_peak if call.blueprint.device == "cpu" else _cuda_peak
    with call.mode():
        call(0)
        first, second = once(call), once(call)
    if first != second:
        raise NotMeasurable(f"two calls peaked at {first} and {second} bytes")
    return first


def saved_bytes(call: Call) -> int:
    """Bytes kept from forward for backward, by storage, without inputs and parameters."""
    kept: dict[int, tuple[int, Tensor]] = {}
    existing = call.resident

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in existing:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        return tensor

    with call.mode(), torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        held = call.runner(*call.inputs[0], call.grid)
    del held
    return sum(size for size, _ in kept.values())


def resident_peak(call: Call) -> int:
    """Bytes by which the process grew during one warm call, as the system counts pages.

    Includes what libraries allocate past torch. Starts from a trimmed heap, because otherwise small
    calls reuse pages that the process already has.

    Raises:
        NotMeasurable: the system does not let a process reset its high-water mark.
    """
    with call.mode():
        call(0)
        gc.collect()
        try:
            allocator.trim()
            Path("/proc/self/clear_refs").write_text("5")
        except OSError as failure:
            raise NotMeasurable(f"the high-water mark cannot be reset: {failure}") from failure
        before = _status_bytes("VmRSS")
        held = call(0)
        peak = _status_bytes("VmHWM")
        del held
    return max(0, peak - before)


class _LiveBytes(TorchDispatchMode):
    """Sums the storages that are alive after each operator."""

    def __init__(self, existing: list[Tensor], granule: int) -> None:
        super().__init__()
        self.peak = 0
        self._granule = granule
        self._existing = {StorageWeakRef(t.untyped_storage()).cdata for t in existing}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        scratch = sum(map(_copied, args)) if func in _COPIES_SCATTERED_INPUTS else 0
        in_place = func is torch.ops.aten.add.Tensor and _engine_would_reuse(args)
        result = func(*args, **(kwargs or {}))
        for key in [key for key, (ref, _) in self._live.items() if ref.expired()]:
            del self._live[key]
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                ref = StorageWeakRef(leaf.untyped_storage())
                if ref.cdata not in self._existing:
                    size = leaf.untyped_storage().nbytes()
                    self._live[ref.cdata] = (ref, -(-size // self._granule) * self._granule)
                    scratch -= size if in_place else 0
        self.peak = max(self.peak, scratch + sum(size for _, size in self._live.values()))
        return result


def _engine_would_reuse(summands: tuple[Any, ...]) -> bool:
    """Whether this is autograd summing two gradients, which it does in the memory of one of them.

    It reuses the memory of a gradient that nobody else holds, but never that of a fake tensor. Two
    references to a storage are its tensor's and the one made here by asking.
    """
    if torch._C._current_graph_task_id() == _NO_BACKWARD:  # pyright: ignore[reportPrivateUsage]
        return False
    count = torch._C._storage_Use_Count  # pyright: ignore[reportPrivateUsage]
    storages = (tensor.untyped_storage() for tensor in summands if isinstance(tensor, Tensor))
    return any(
        count(storage._cdata) == _UNSHARED  # pyright: ignore[reportPrivateUsage]
        for storage in storages
    )


def _copied(argument: Any) -> int:
    if not isinstance(argument, Tensor) or argument.is_contiguous():
        return 0
    if argument.ndim == 4 and argument.is_contiguous(memory_format=torch.channels_last):
        return 0
    return argument.numel() * argument.element_size()


def _placed(blueprint: Blueprint, layer: nn.Module) -> nn.Module:
    """Give fake weights the blueprint's dtype and device; Module.to cannot swap fake tensors."""
    for module in layer.modules():
        for name, parameter in module.named_parameters(recurse=False):
            moved = _empty(blueprint, tuple(parameter.shape))
            setattr(module, name, nn.Parameter(moved, requires_grad=blueprint.backward))
        for name, buffer in module.named_buffers(recurse=False):
            dtype = blueprint.torch_dtype if buffer.is_floating_point() else buffer.dtype
            setattr(module, name, torch.empty_like(buffer, dtype=dtype, device=blueprint.device))
    return layer


def _empty(blueprint: Blueprint, sizes: tuple[int, ...]) -> Tensor:
    return torch.empty(sizes, dtype=blueprint.torch_dtype, device=blueprint.device)


def _cpu_events_peak(call: Call) -> int:
    recorded: Any = profile(profile_memory=True, use_kineto=True)
    with recorded:
        held = call(0)
    del held
    results: Any = recorded.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _cuda_peak(call: Call) -> int:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    held = call(0)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del held
    return peak - before


def _status_bytes(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise NotMeasurable(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024
