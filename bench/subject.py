"""What is measured: a recipe (everything but sizes), a call (one shape), a subject (one visit)."""

import copy
import importlib.util
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from attention_impls.backbone import BackboneSpec
from attention_impls.registry import load, load_backbone, load_backend
from attention_impls.shapes import AttentionShape, Grid
from attention_impls.spec import AttentionSpec, Backend, DType, Execution
from bench import network
from bench.allocator import Policy
from bench.model import Case, DeviceKind, Frontier, Images, Level, Timed
from bench.stimulus import fill_parameters, normal, workload_inputs
from bench.task import Epoch

SETS_ON_CPU = 4
_SETS_BYTES_ON_CPU = 256 << 20
_L2_MULTIPLE = 3
_MOST_SETS = 4096
_BUILD_SEED = 0

Inputs = tuple[Tensor, ...]
Outputs = tuple[Tensor | None, ...]
"""The output, then a gradient a leaf; None for a leaf that plays no part."""
T = TypeVar("T")


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
class Recipe:
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

    def reference(self) -> "Recipe":
        """Return the recipe without its backend, on the CPU."""
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

    def call(self, shape: AttentionShape, sets: int | None = None) -> "Call":
        """Build the layer and its inputs for `shape`.

        Args:
            shape: sizes.
            sets: distinct inputs to rotate through; None: several on CPU, beyond L2 on CUDA.

        Raises:
            CannotRun: with every reason.
        """
        if reasons := self.refusals(shape):
            raise CannotRun(reasons)
        layer = self.layer(shape)
        fill_parameters(layer)
        same_keys = getattr(layer, "streams", "qkv") == "qv"
        inputs = [
            workload_inputs(
                shape,
                self.level,
                call=index,
                keys_are_queries=same_keys,
                dtype=self.torch_dtype,
                device=self.device,
            )
            for index in range(sets or _sets(self, shape))
        ]
        upstream = None
        if self.backward:
            upstream = normal(
                "upstream", self.output_shape(shape), dtype=self.torch_dtype, device=self.device
            )
        return Call(self, shape, layer, inputs, upstream)


class Call:
    """One shape of one recipe, ready to run on inputs that change with every call."""

    def __init__(
        self,
        recipe: Recipe,
        shape: AttentionShape,
        layer: nn.Module,
        inputs: list[Inputs],
        upstream: Tensor | None,
    ) -> None:
        """Take a layer and its inputs.

        Args:
            recipe: everything but the sizes.
            shape: sizes.
            layer: the reference layer; the recipe's backend is put around it here.
            inputs: the input sets to rotate through.
            upstream: gradient of the output; None for a forward pass alone.
        """
        self.recipe = recipe
        self.shape = shape
        self.grid = shape.grid
        self.layer = layer
        self.runner = recipe.runner(layer)
        self.backward = recipe.backward
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
        roles = ("q", "k", "v", "x") if self.recipe.level == "core" else ("x",)
        found: dict[str, Tensor] = {}
        for role, tensor in zip(roles, inputs, strict=True):
            if not any(tensor is other for other in found.values()):
                found[role] = tensor
        module = self.layer.mix if self.recipe.level == "core" else self.layer
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
            replace(self.recipe, backend=None),
            self.shape,
            copy.deepcopy(self.layer).double(),
            [tuple(wide)],
            None if self.upstream is None else self.upstream.double(),
        )


def _sets(recipe: Recipe, shape: AttentionShape) -> int:
    """Number of input sets: several within a memory limit on CPU, beyond 3 x L2 on CUDA."""
    streams = 4 if recipe.level == "core" else 1
    size = streams * shape.batch * shape.tokens * shape.channels * recipe.torch_dtype.itemsize
    if recipe.device == "cpu":
        return max(2, min(SETS_ON_CPU, _SETS_BYTES_ON_CPU // size))
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(3, min(_MOST_SETS, -(-_L2_MULTIPLE * cache // size)))


@dataclass(slots=True, kw_only=True)
class Subject:
    """One visit of one case in this process: what a metric may ask for."""

    case: Case
    device: DeviceKind
    spec: AttentionSpec
    options: Any
    recipe: Recipe | None
    """None for accuracy tasks."""
    prepared: Call | None = None
    """The workload's call; None for frontiers and tasks."""
    memory_budget_bytes: int | None = None
    """Memory that a search for the largest size may use."""
    checked: str | None = None
    """What the outcome says about the shape of the comparison or confirmation."""
    checkpoints: Path | None = None
    """Folder for the states of unfinished trainings; None: none are kept."""
    report: Callable[[Epoch], None] | None = None
    """Told after every epoch of a training."""
    together: int = 1
    """Devices that train a network together."""
    memory_limit_bytes: int | None = None
    """Limit on what a call may allocate, if any."""
    allocator: Policy = "default"
    """Allocator policy in force now."""
    measured_s: float = 0.0
    """Time spent inside measured calls so far."""
    memo: dict[str, Any] = field(default_factory=dict[str, Any])
    """Results that several metrics share, each made once by `once`."""

    @property
    def call(self) -> Call:
        """The workload's call.

        Raises:
            TypeError: the case is not a workload.
        """
        if self.prepared is None:
            raise TypeError(f"{self.case.id}: a {self.case.stimulus.kind} has no single call")
        return self.prepared

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Return what `make` gave the first time it was asked for under `key`."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]


def subject_of(case: Case, device: DeviceKind) -> Subject:
    """Look up everything that `case` names; builds nothing yet.

    Raises:
        UnknownName: the variant or the backend is not known.
        TypeError: an option that the variant does not have.
    """
    spec = load(case.variant)
    options = replace(spec.options, **case.options)
    recipe = None
    if isinstance(case.stimulus, Timed | Frontier):
        backbone = None
        if isinstance(case.stimulus, Images):
            published = load_backbone(case.stimulus.backbone)
            backbone = published.with_variant(case.variant, case.options)
        recipe = Recipe(
            spec=spec,
            options=options,
            backend=None if case.backend == "reference" else load_backend(spec.name, case.backend),
            level=case.level,
            dtype=case.stimulus.dtype,
            backward=case.stimulus.passes == "forward_backward",
            device=device,
            backbone=backbone,
        )
    return Subject(case=case, device=device, spec=spec, options=options, recipe=recipe)


def shape_of(workload: Timed, batch: int) -> AttentionShape:
    """The shape of one call of `workload` with `batch` sequences or images."""
    if isinstance(workload, Images):
        return network.image_shape(workload.resolution_px, batch)
    return AttentionShape(
        batch=batch,
        grid=Grid(workload.grid.height, workload.grid.width),
        heads=workload.heads,
        head_dim=workload.head_dim,
        extra_tokens=workload.extra_tokens,
        causal=workload.causal,
    )
