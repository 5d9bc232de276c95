"""One visit of one case in this process: what a metric may ask for."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from attention_impls.registry import load, load_backbone, load_backend
from attention_impls.shapes import AttentionShape
from attention_impls.spec import AttentionSpec
from bench import network
from bench.allocator import Policy
from bench.asked_layer import workload_shape
from bench.blueprint import Blueprint
from bench.call import Call
from bench.model import Case, DeviceKind, Frontier, Images, Timed
from bench.task import Epoch

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Subject:
    """One visit of one case in this process: what a metric may ask for."""

    case: Case
    device: DeviceKind
    spec: AttentionSpec
    options: Any
    blueprint: Blueprint | None
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
    blueprint = None
    if isinstance(case.stimulus, Timed | Frontier):
        backbone = None
        if isinstance(case.stimulus, Images):
            published = load_backbone(case.stimulus.backbone)
            backbone = published.with_variant(case.variant, case.options)
        blueprint = Blueprint(
            spec=spec,
            options=options,
            backend=None if case.backend == "reference" else load_backend(spec.name, case.backend),
            level=case.level,
            dtype=case.stimulus.dtype,
            backward=case.stimulus.passes == "forward_backward",
            device=device,
            backbone=backbone,
        )
    return Subject(case=case, device=device, spec=spec, options=options, blueprint=blueprint)


def shape_of(workload: Timed, batch: int) -> AttentionShape:
    """The shape of one call of `workload` with `batch` sequences or images."""
    if isinstance(workload, Images):
        return network.image_shape(workload.resolution_px, batch)
    return workload_shape(workload, batch)
