"""What plans are built of: sizes, and the cases of one variant at those sizes."""

from collections.abc import Iterator
from dataclasses import dataclass

from attention_impls.registry import backends
from bench.model import (
    BatchPolicy,
    Case,
    DeviceKind,
    DType,
    Frontier,
    GridSize,
    Images,
    Level,
    Passes,
    Scalar,
    TaskRun,
    Workload,
)
from bench.plan import Scope

PATCH_PX = 16
"""Side of a patch: an image of side R is a grid of R/16 x R/16 tokens, as in ViT and DeiT."""
_COMPILED = ("compile", "flex")
"""Backends that compile every shape anew, ten seconds or more a case."""
_GPU_ALONE = ("triton",)
"""Backends whose kernels run on a GPU; on a CPU they could only be interpreted, for tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Channels of the layers that a plan sweeps."""

    heads: int
    head_dim: int


DEIT_TINY = Width(heads=3, head_dim=64)
"""192 channels, the width at which the three founding papers report their smallest models."""


def image(side_px: int) -> tuple[GridSize, int, int]:
    """Grid, resolution and patch of a square image."""
    side = side_px // PATCH_PX
    return GridSize(height=side, width=side), side_px, PATCH_PX


def sequence(tokens: int) -> tuple[GridSize, None, None]:
    """Grid of a sequence: one row, no image."""
    return GridSize(height=1, width=tokens), None, None


def workload_case(
    variant: str,
    backend: str,
    grid: tuple[GridSize, int | None, int | None],
    *,
    dtype: DType,
    passes: Passes,
    level: Level = "layer",
    batch: int | None = 1,
    policy: BatchPolicy = "one",
    width: Width = DEIT_TINY,
    causal: bool = False,
    options: dict[str, Scalar] | None = None,
) -> Case:
    """One timed case."""
    size, resolution_px, patch_px = grid
    return Case(
        variant=variant,
        backend=backend,
        options=options or {},
        level=level,
        stimulus=Workload(
            batch=batch,
            batch_policy=policy,
            grid=size,
            heads=width.heads,
            head_dim=width.head_dim,
            causal=causal,
            dtype=dtype,
            passes=passes,
            resolution_px=resolution_px,
            patch_px=patch_px,
        ),
    )


def images_case(
    backbone: str,
    variant: str,
    backend: str,
    *,
    resolution_px: int,
    dtype: DType,
    passes: Passes,
    batch: int | None = 1,
    policy: BatchPolicy = "one",
    options: dict[str, Scalar] | None = None,
) -> Case:
    """One timed case of a whole network, with `variant` in the place of its own mechanism."""
    return Case(
        variant=variant,
        backend=backend,
        options=options or {},
        level="model",
        stimulus=Images(
            backbone=backbone,
            batch=batch,
            batch_policy=policy,
            resolution_px=resolution_px,
            dtype=dtype,
            passes=passes,
        ),
    )


def token_budget_batch(grid: tuple[GridSize, int | None, int | None], tokens: int) -> int:
    """Sequences that fill a budget of `tokens`, at least one."""
    return max(1, tokens // grid[0].tokens)


def frontier_case(
    variant: str,
    backend: str,
    *,
    memory_bytes: int,
    dtype: DType,
    passes: Passes,
    width: Width = DEIT_TINY,
) -> Case:
    """The search for the largest token count within `memory_bytes`."""
    return Case(
        variant=variant,
        backend=backend,
        level="layer",
        stimulus=Frontier(
            memory_bytes=memory_bytes,
            heads=width.heads,
            head_dim=width.head_dim,
            dtype=dtype,
            passes=passes,
        ),
    )


def task_cases(variant: str, task: str, seeds: int) -> Iterator[Case]:
    """One training a seed, on the reference."""
    for seed in range(seeds):
        yield Case(
            variant=variant,
            backend="reference",
            level="model",
            stimulus=TaskRun(task=task, seed=seed),
        )


def executions(scope: Scope, *, compiled: bool) -> Iterator[tuple[str, str]]:
    """(variant, backend) pairs: every reference and every backend with a file of its own.

    Backends that only pin one of PyTorch's own choices (`sdpa_flash`, ...) are left to plan full,
    and those that need a GPU to plans for one.
    """
    for variant in scope.variants:
        for backend in backends(variant):
            if backend.startswith("sdpa_") or (backend in _COMPILED and not compiled):
                continue
            if runs_on(backend, scope.device):
                yield variant, backend


def runs_on(backend: str, device: DeviceKind) -> bool:
    """Whether plans for `device` have cases of a backend of this name."""
    return device == "cuda" or backend not in _GPU_ALONE


def anchor(scope: Scope) -> Case:
    """Softmax by PyTorch's SDPA on a 224 px image: the same in every plan, to see drift."""
    return workload_case(
        "softmax",
        "sdpa",
        image(224),
        dtype="float32" if scope.device == "cpu" else "bfloat16",
        passes="forward",
        batch=1 if scope.device == "cpu" else 64,
        policy="one" if scope.device == "cpu" else "token_budget",
    )
