"""Does everything work here? One small size of every variant; the numbers are not for ranking.

Cost: about four seconds a variant on 2 CPU cores. Expected result: every case `ok`.
"""

from bench.cases import anchor, executions, image, task_cases, workload_case
from bench.model import Plan, Protocol, unique_cases
from bench.plan import Scope, noise_pairs


def plan(scope: Scope) -> Plan:
    """One 224 px forward of every variant, and one accuracy run of softmax."""
    dtype = scope.dtypes_or("float32")[0]
    cases = [
        workload_case(v, b, image(224), dtype=dtype, passes="forward")
        for v, b in executions(scope, compiled=False)
    ]
    if "softmax" in scope.variants:
        cases.extend(task_cases("softmax", "digits", seeds=1))
    return Plan(
        name="smoke",
        purpose="Does everything work here? One small size of every variant.",
        expected_minutes=0.07 * len(scope.variants),
        protocol=Protocol(
            rounds=3, warmup_s=0.03, warmup_cap_s=0.3, sample_s=0.03, least_samples=5,
            most_samples=30, timeout_s=120.0, anchor_every=10,
            memory_limit_bytes=4 * 2**30 if scope.device == "cpu" else None,
        ),
        cases=unique_cases(cases),
        noise_pairs=noise_pairs(cases, (anchor(scope),)),
        anchor=anchor(scope),
    )  # fmt: skip
