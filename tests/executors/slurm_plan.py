"""The plan of the tests on Slurm, and which of its metrics cannot vary."""

import tiny

PLAN = tiny.plan(
    tiny.case("softmax", 16),
    tiny.case("softmax", 24, passes="forward_backward"),
    tiny.case("linear_relu", 16, passes="forward_backward"),
    tiny.case("efficient", 16),
    tiny.case("hydra", 32),
    tiny.case("window_shifted", 7, backend="nothing"),
    noise=(tiny.case("softmax", 16),),
)
EXACT = (
    "error", "flops", "flops_fvcore", "flops_torch", "gradient_error", "parameters", "peak_memory",
    "predicted_memory", "receipt", "state_floats",
)  # fmt: skip
"""Metrics that cannot vary between two runs on one machine."""
