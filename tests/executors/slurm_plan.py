"""The plan of the tests on Slurm, and which of its metrics cannot vary."""

import tiny

from bench.cases import task_cases

PLAN = tiny.plan(
    tiny.case("softmax", 16),
    tiny.case("softmax", 24, passes="forward_backward"),
    tiny.case("linear_relu", 16, passes="forward_backward"),
    tiny.case("efficient", 16),
    tiny.case("hydra", 32),
    tiny.case("window_shifted", 7, backend="nothing"),
    noise=(tiny.case("softmax", 16),),
)
TRAININGS = tiny.plan(*task_cases("softmax", "digits", seeds=1), protocol=tiny.with_timeout(300.0))
"""What several devices can do together."""
EXACT = (
    "accuracy", "error", "flops", "flops_fvcore", "flops_torch", "gradient_error", "loss",
    "parameters", "peak_memory", "predicted_memory", "receipt", "state_floats",
)  # fmt: skip
"""Metrics that cannot vary between two runs on one machine."""
