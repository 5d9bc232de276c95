"""What is measured, at whatever size: a variant by one backend, its dtype, level and passes."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from attention_impls.backbone import BackboneSpec
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Backend, DType, Execution
from bench import network
from bench.model import DeviceKind, Level

_BUILD_SEED = 0


class CannotRun(Exception):  # noqa: N818 - an outcome of a case, not an error of ours
    """A case that the variant or the backend refuses; carries every reason."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class _Core(nn.Module):
    """The mix of a layer as a module of its own, so that a backend can wrap it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.mix = layer.mix

    def forward(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, grid: Grid) -> Tensor:
        mix = cast("Callable[..., Tensor]", self.mix)
        return mix(q, k, v, x, grid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """Everything about a case but its sizes."""

    spec: AttentionSpec
    options: Any
    backend: Backend | None
    """None: the reference itself."""
    level: Level
    dtype: DType
    backward: bool
    device: DeviceKind
    backbone: BackboneSpec | None = None
    """The network around the variant, at level `model`."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch type of inputs and parameters."""
        return getattr(torch, self.dtype)

    def execution(self, shape: AttentionShape) -> Execution:
        """What a backend is asked about."""
        return Execution(
            variant=self.spec.name,
            shape=shape,
            options=self.options,
            dtype=self.dtype,
            backward=self.backward,
            device=self.device,
        )

    def refusals(self, shape: AttentionShape) -> tuple[str, ...]:
        """Every reason why this cannot run at `shape`; empty means that it can."""
        if self.backbone is None:
            reasons = list(self.spec.unsupported(shape, self.options))
        else:
            reasons = list(network.refusals(self.backbone, shape))
        if (self.level == "model") != (self.backbone is not None):
            reasons.append("level model is that of whole networks: stimulus `images` or `task`")
        if self.backend is not None:
            missing = [p for p in self.backend.requires if importlib.util.find_spec(p) is None]
            reasons += [f"backend {self.backend.name} needs the package {p}" for p in missing]
            if not missing:
                reasons += self._backend_refusals(self.backend, shape)
        return tuple(dict.fromkeys(reasons))

    def _backend_refusals(self, backend: Backend, shape: AttentionShape) -> list[str]:
        if self.backbone is None or backend.name == "compile":
            return list(backend.unsupported(self.execution(shape)))
        shapes = {one.shape for one in network.placed(self.backbone, shape)}
        return [reason for one in shapes for reason in backend.unsupported(self.execution(one))]

    def flops(self, shape: AttentionShape) -> int:
        """FLOPs of one forward pass at this level, by formula."""
        if self.backbone is not None:
            return self.backbone.flops(
                shape.grid.width, batch=shape.batch, num_classes=network.CLASSES
            )
        count = self.spec.core_flops if self.level == "core" else self.spec.flops
        return count(shape, self.options)

    def module(self, shape: AttentionShape) -> nn.Module:
        """Build the reference, as it comes: a layer, or a network at level `model`."""
        if self.backbone is not None:
            return network.build(self.backbone, shape)
        return self.spec.build(shape, self.options)

    def reference(self) -> "Blueprint":
        """Return the blueprint without its backend, on the CPU."""
        return replace(self, backend=None, device="cpu")

    def layer(self, shape: AttentionShape) -> nn.Module:
        """Build the reference layer in evaluation mode; its weights are not filled yet."""
        torch.manual_seed(_BUILD_SEED)
        layer = self.module(shape)
        layer = layer.to(device=self.device, dtype=self.torch_dtype).eval()
        return layer.requires_grad_(self.backward)

    def output_shape(self, shape: AttentionShape) -> tuple[int, ...]:
        """The only right shape of the output."""
        if self.level == "model":
            return (shape.batch, network.CLASSES)
        if self.level == "core":
            return (shape.batch, shape.heads, shape.tokens, shape.head_dim)
        return (shape.batch, shape.tokens, shape.channels)

    def runner(self, layer: nn.Module) -> nn.Module:
        """Return the module that a call runs: the layer or its core, wrapped by the backend.

        Raises:
            CannotRun: level `core` of a layer, or of a backend, that has no mix of its own.
        """
        if self.level == "core" and not hasattr(layer, "mix"):
            raise CannotRun((f"{self.spec.name} has no core: its layer has no `mix`",))
        if self.backend is None:
            return _Core(layer) if self.level == "core" else layer
        if self.backbone is not None and isinstance(layer, network.Network):
            try:
                return network.with_backend(layer, self.backbone, self.backend)
            except ValueError as refusal:
                raise CannotRun((str(refusal),)) from refusal
        if self.level != "core":
            return self.backend.adopt(layer)
        if self.backend.name == "compile":
            return self.backend.adopt(_Core(layer))
        adopted = self.backend.adopt(layer)
        if not hasattr(adopted, "mix"):
            raise CannotRun((f"backend {self.backend.name} executes whole layers only",))
        return _Core(adopted)

    def executed(self, shape: AttentionShape) -> str:
        """Name what really runs."""
        if self.backend is None:
            return "reference"
        if self.backend.executed is None:
            return self.backend.title
        if self.backbone is None or self.backend.name == "compile":
            return self.backend.executed(self.execution(shape))
        found = {one.shape for one in network.placed(self.backbone, shape)}
        return "; ".join(sorted({self.backend.executed(self.execution(one)) for one in found}))
