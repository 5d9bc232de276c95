"""The plan whose results are committed: image sizes from 224 to 2048 px, sequences from 256 tokens.

Cost: about 3.5 minutes a variant on 2 CPU cores, two on one GPU. Expected result: scaling curves
over two decades of tokens, forward and forward+backward, core and layer level, the three batch
policies, the memory frontier, and accuracy with three seeds.
"""

from collections.abc import Iterator

from bench.cases import (
    anchor,
    executions,
    frontier_case,
    image,
    sequence,
    task_cases,
    token_budget_batch,
    workload_case,
)
from bench.model import Case, Plan, Protocol, unique_cases
from bench.plan import Scope, noise_pairs

_MIB = 2**20
_SIDES = (224, 384, 512, 768, 1024, 1536, 2048)


def _cases(scope: Scope) -> Iterator[Case]:
    on_cpu = scope.device == "cpu"
    budget = 12_544 if on_cpu else 65_536
    lengths = (256, 4096, 65_536) if on_cpu else tuple(4**n for n in range(4, 11))
    for dtype in scope.dtypes_or("float32" if on_cpu else "bfloat16"):
        for variant, backend in executions(scope, compiled=False):
            for side in _SIDES:
                yield workload_case(variant, backend, image(side), dtype=dtype, passes="forward")
            for side in (224, 512, 1024):
                grid = image(side)
                yield workload_case(variant, backend, grid, dtype=dtype, passes="forward_backward")
                yield workload_case(
                    variant, backend, grid, dtype=dtype, passes="forward", level="core"
                )
                yield workload_case(
                    variant, backend, grid, dtype=dtype, passes="forward", policy="token_budget",
                    batch=token_budget_batch(grid, budget),
                )  # fmt: skip
            yield workload_case(
                variant, backend, image(224), dtype=dtype, passes="forward", policy="largest",
                batch=None,
            )  # fmt: skip
            for tokens in lengths:
                yield workload_case(
                    variant, backend, sequence(tokens), dtype=dtype, passes="forward"
                )
            for passes in ("forward", "forward_backward"):
                yield frontier_case(
                    variant, backend, memory_bytes=(256 if on_cpu else 8192) * _MIB, dtype=dtype,
                    passes=passes,
                )  # fmt: skip
    for variant in scope.variants:
        yield from task_cases(variant, "digits", seeds=3)


def plan(scope: Scope) -> Plan:
    """Build the standard plan."""
    on_cpu = scope.device == "cpu"
    dtype = scope.dtypes_or("float32" if on_cpu else "bfloat16")[0]
    cases = unique_cases(_cases(scope))
    pairs = (
        workload_case(v, b, image(side), dtype=dtype, passes="forward")
        for v, b in (
            ("softmax", "sdpa"),
            ("inline", "reference"),
            ("linear_relu", "reference"),
            ("soft", "reference"),
        )
        for side in (224, 512, 1024)
        if v in scope.variants
    )
    return Plan(
        name="standard",
        purpose="The plan whose results are committed: 224 to 2048 px and sequences from 256.",
        expected_minutes=3.5 * len(scope.variants) if on_cpu else 2.0 * len(scope.variants),
        protocol=Protocol(
            rounds=3, warmup_s=0.1, warmup_cap_s=0.4, sample_s=0.15, least_samples=5,
            most_samples=60, sample_cap_s=2.0, timeout_s=120.0, anchor_every=25,
            memory_limit_bytes=8 * 2**30 if on_cpu else None,
        ),
        cases=cases,
        noise_pairs=noise_pairs(cases, unique_cases((anchor(scope), *pairs))),
        anchor=anchor(scope),
    )  # fmt: skip
