"""The ten-minute answer for this machine: the founding papers' variants at three image sizes.

`--only NAME` measures any other variant the same way, `--variant-file FILE` one of your own beside
them; plan standard measures all.

Cost: about eight minutes on 2 CPU cores, two on one GPU. Expected result: a ranking per size,
forward and forward+backward, throughput at the three batch policies, the largest token count in a
fixed memory budget, and accuracy on scikit-learn's digits with three seeds.
"""

from collections.abc import Iterator

from bench.cases import (
    anchor,
    executions,
    frontier_case,
    image,
    task_cases,
    token_budget_batch,
    workload_case,
)
from bench.model import Case, Plan, Protocol, unique_cases
from bench.plan import Scope, noise_pairs

_MIB = 2**20
_CHOSEN = (
    "focused_linear", "inline", "linear_elu", "linear_relu", "linformer", "nystromformer",
    "performer", "soft", "soft_norm", "softmax",
)  # fmt: skip
"""What the three founding papers propose and compare with."""


def _cases(scope: Scope) -> Iterator[Case]:
    on_cpu = scope.device == "cpu"
    budget = 6_272 if on_cpu else 65_536
    for dtype in scope.dtypes_or("float32" if on_cpu else "bfloat16"):
        for variant, backend in executions(scope, compiled=False):
            for side in (224, 512, 1024):
                yield workload_case(variant, backend, image(side), dtype=dtype, passes="forward")
            yield workload_case(
                variant, backend, image(512), dtype=dtype, passes="forward_backward"
            )
            yield workload_case(
                variant, backend, image(512), dtype=dtype, passes="forward", level="core"
            )
            yield workload_case(
                variant, backend, image(224), dtype=dtype, passes="forward", policy="token_budget",
                batch=token_budget_batch(image(224), budget),
            )  # fmt: skip
            yield workload_case(
                variant, backend, image(224), dtype=dtype, passes="forward", policy="largest",
                batch=None,
            )  # fmt: skip
            yield frontier_case(
                variant, backend, memory_bytes=(64 if on_cpu else 4096) * _MIB, dtype=dtype,
                passes="forward",
            )  # fmt: skip
    for variant in scope.variants:
        yield from task_cases(variant, "digits", seeds=3)


def plan(scope: Scope) -> Plan:
    """Build the quick plan."""
    scope = scope.choose(*_CHOSEN)
    dtype = scope.dtypes_or("float32" if scope.device == "cpu" else "bfloat16")[0]
    cases = unique_cases(_cases(scope))
    pairs = (
        workload_case(v, b, image(side), dtype=dtype, passes="forward")
        for v, b in (("softmax", "sdpa"), ("inline", "reference"), ("linear_relu", "reference"))
        for side in (224, 512)
        if v in scope.variants
    )
    return Plan(
        name="quick",
        purpose="The ten-minute answer for this machine: ten variants at three image sizes.",
        expected_minutes=8.0 if scope.device == "cpu" else 3.0,
        protocol=Protocol(
            rounds=3, warmup_s=0.1, warmup_cap_s=0.2, sample_s=0.1, least_samples=5,
            most_samples=60, sample_cap_s=1.5, timeout_s=120.0, anchor_every=25,
            memory_limit_bytes=4 * 2**30 if scope.device == "cpu" else None,
        ),
        cases=cases,
        noise_pairs=noise_pairs(cases, unique_cases((anchor(scope), *pairs))),
        anchor=anchor(scope),
    )  # fmt: skip
