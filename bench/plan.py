"""How plans are found and what they are given: one file each in bench/plans."""

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from attention_impls.registry import backends, names, names_in, outside_names, unknown
from bench.derived import LEAST_NOISE_PAIRS
from bench.model import (
    REPRODUCTION,
    BatchPolicy,
    Case,
    DeviceKind,
    DType,
    Frontier,
    GridSize,
    Images,
    Level,
    Passes,
    Plan,
    Protocol,
    Scalar,
    TaskRun,
    Timed,
    Workload,
)

_FOLDER = Path(__file__).parent / "plans"
PATCH_PX = 16
"""Side of a patch: an image of side R is a grid of R/16 x R/16 tokens, as in ViT and DeiT."""


_PAIRS = 4
"""Noise pairs of a plan that prefers too few: one more than a noise floor needs."""
_COMPILED = ("compile", "flex")
"""Backends that compile every shape anew, ten seconds or more a case."""
_GPU_ALONE = ("triton",)
"""Backends whose kernels run on a GPU; on a CPU they could only be interpreted, for tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a plan may draw on: the variants there are and the device it is for."""

    variants: tuple[str, ...]
    device: DeviceKind
    dtypes: tuple[DType, ...] | None
    """dtypes asked for on the command line; None leaves the choice to the plan."""
    asked: tuple[str, ...] = ()
    """Variants that the user named or brought; a plan that measures a choice measures them too."""

    def choose(self, *few: str) -> "Scope":
        """The scope of those of `few` that there are, and of every variant asked for."""
        kept = (v for v in self.variants if v in few or v in self.asked)
        return replace(self, variants=tuple(kept))

    def dtypes_or(self, *default: DType) -> tuple[DType, ...]:
        """The dtypes asked for, else the plan's own."""
        return self.dtypes or default


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Channels of the layers that a plan sweeps."""

    heads: int
    head_dim: int


DEIT_TINY = Width(heads=3, head_dim=64)
"""192 channels, the width at which the three founding papers report their smallest models."""


def plan_names() -> tuple[str, ...]:
    """Return the names of all plans, sorted."""
    return names_in(_FOLDER)


def load_plan(name: str, scope: Scope) -> Plan:
    """Build plan `name` for `scope`.

    Raises:
        UnknownName: no such file.
        TypeError: the file builds a plan with another name.
    """
    if name not in plan_names():
        raise unknown("plan", name, plan_names())
    plan: Plan = importlib.import_module(f"bench.plans.{name}").plan(scope)
    if plan.name != name:
        raise TypeError(f"bench/plans/{name}.py builds a plan named {plan.name!r}")
    return plan


def everything(
    device: DeviceKind, dtypes: tuple[DType, ...] | None = None, pattern: str | None = None
) -> Scope:
    """Scope of all variants known now.

    Args:
        device: what the plan is for.
        dtypes: those asked for, None for the plan's own.
        pattern: `--only`; the variants that it names, up to its first slash, count as asked for.
    """
    known = names()
    wanted = [alternative.partition("/")[0] for alternative in (pattern or "").split()]
    named = (name for name in known if any(fnmatchcase(name, one) for one in wanted))
    asked = dict.fromkeys((*named, *outside_names()))
    return Scope(variants=known, device=device, dtypes=dtypes, asked=tuple(asked))


def only(plan: Plan, pattern: str) -> Plan:
    """Keep the cases whose id or variant matches one of the shell patterns in `pattern`.

    Patterns stand apart by spaces.

    The anchor stays, and noise pairs are chosen among what is kept (`noise_pairs`), so that a
    partial run knows its noise floor too.

    Raises:
        ValueError: nothing matches.
    """
    kept = tuple(c for c in plan.cases if _matches(c, pattern))
    if not kept:
        raise ValueError(_no_match(plan, pattern))
    pairs = noise_pairs(kept, plan.noise_pairs)
    minutes = plan.expected_minutes * len(kept) / len(plan.cases)
    return replace(plan, cases=kept, noise_pairs=pairs, expected_minutes=minutes)


def refuse_idle(plan: Plan, pattern: str) -> None:
    """Refuse a slip in one of several patterns, which `only` alone would pass over in silence.

    Raises:
        ValueError: names the patterns that match no case of `plan`.
    """
    idle = [one for one in pattern.split() if not any(_matches(c, one) for c in plan.cases)]
    if idle:
        raise ValueError(_no_match(plan, " ".join(idle)))


def _no_match(plan: Plan, pattern: str) -> str:
    variants = sorted({c.variant for c in plan.cases})
    near = [
        one
        for wanted in pattern.split()
        for one in get_close_matches(wanted.partition("/")[0], variants, n=1)
    ]
    hint = f" Did you mean {' '.join(near)!r}?" if near else ""
    return (
        f"--only {pattern!r} matches none of the {len(plan.cases)} cases of plan {plan.name}."
        f"{hint} It is compared with case ids and variant names: {', '.join(variants)}"
    )


def noise_pairs(cases: Iterable[Case], preferred: Iterable[Case]) -> tuple[Case, ...]:
    """Choose the cases of a plan that run twice a round.

    Those of `preferred` that the plan holds; where these are too few for a noise floor, the
    smallest timed cases of the plan join them, because they cost least and vary most.
    """
    held = {case.id: case for case in cases}
    chosen = {case.id: case for case in preferred if case.id in held}
    if len(chosen) < LEAST_NOISE_PAIRS:
        sizes = {id_: size for id_, case in held.items() if (size := _size(case)) is not None}
        others = sorted(sizes.keys() - chosen.keys(), key=lambda id_: (sizes[id_], id_))
        chosen |= {id_: held[id_] for id_ in others[: _PAIRS - len(chosen)]}
    return tuple(chosen.values())


def _size(case: Case) -> int | None:
    """Work of one call by its sizes alone; None where nothing is timed or the batch is sought."""
    match case.stimulus:
        case Workload(batch=int(batch)) as workload:
            passes = 1 if workload.passes == "forward" else 3
            return passes * batch * workload.tokens * workload.heads * workload.head_dim
        case Images(batch=int(batch)) as images:
            return (1 if images.passes == "forward" else 3) * batch * images.resolution_px**2
        case _:
            return None


def repeating(case: Case, protocol: Protocol, *, anchor: Case) -> Plan:
    """Return the plan of a reproduction: one published case by the protocol of its run.

    The digest follows from case, protocol and anchor alone, so that it can be checked.
    """
    return Plan(
        name=REPRODUCTION,
        purpose="Repeats one published row.",
        expected_minutes=1.0,
        protocol=protocol,
        cases=(case,),
        noise_pairs=(case,) if isinstance(case.stimulus, Timed) else (),
        anchor=anchor,
    )


def _matches(case: Case, patterns: str) -> bool:
    names_of_case = (case.variant, f"{case.variant}/{case.backend}")
    return any(
        fnmatchcase(case.id, f"*{pattern}*") or any(fnmatchcase(n, pattern) for n in names_of_case)
        for pattern in patterns.split()
    )


# Building blocks of plans -------------------------------------------------------------------------


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
