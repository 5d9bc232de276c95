"""Are the fused backends near the machine's limits, and faster than SDPA and torch.compile?

Softmax and every variant with kernels of its own, each by every backend that is not one of
PyTorch's own pinned choices: given q, k and v (level core), 64 heads of 64 channels in all, 4,096
to 65,536 tokens in bfloat16, forward and training; and the whole layer at 16,384 tokens. The
efficiency of a row is its floor, each input read and each output written once at the copy bandwidth
of the same run, over its latency.

Cost: about an hour on one GPU, reckoned from the protocol and not yet measured. Expected result:
softmax over 65,536 tokens by its reference runs out of memory. The goal on an H200, not yet a
finding: fused backends at 80 % of the floor forward and 65 % in training, faster than SDPA from
1,024 tokens up, never slower than `compile`.
"""

from collections.abc import Iterator

from attention_impls.registry import backends
from bench.cases import Width, anchor, executions, workload_case
from bench.model import Case, GridSize, Plan, Protocol, unique_cases
from bench.plan import Scope, noise_pairs

_SIDES = {"cpu": (8, 16), "cuda": (32, 64, 128, 256)}
"""Rows and columns of the grids; 32 x 32 is where SDPA is to be overtaken."""
_LAYER_SIDE = {"cpu": 8, "cuda": 128}
_BATCH = {"cpu": 1, "cuda": 4}
_WIDTH = {"cpu": Width(heads=2, head_dim=16), "cuda": Width(heads=16, head_dim=64)}
_SOFTMAX = "softmax"


def _cases(scope: Scope) -> Iterator[Case]:
    kind = scope.device
    fused = tuple(v for v in scope.variants if v == _SOFTMAX or "triton" in backends(v))
    for dtype in scope.dtypes_or("float32" if kind == "cpu" else "bfloat16"):
        for variant, backend in executions(scope.choose(*fused), compiled=kind == "cuda"):
            for passes in ("forward", "forward_backward"):
                for side in _SIDES[kind]:
                    yield workload_case(
                        variant, backend, _square(side), dtype=dtype, passes=passes, level="core",
                        batch=_BATCH[kind], policy="token_budget", width=_WIDTH[kind],
                    )  # fmt: skip
                yield workload_case(
                    variant, backend, _square(_LAYER_SIDE[kind]), dtype=dtype, passes=passes,
                    batch=_BATCH[kind], policy="token_budget", width=_WIDTH[kind],
                )  # fmt: skip


def _square(side: int) -> tuple[GridSize, None, None]:
    return GridSize(height=side, width=side), None, None


def plan(scope: Scope) -> Plan:
    """Build the plan: the standard protocol, on shapes that fill a GPU."""
    cases = unique_cases(_cases(scope))
    first = anchor(scope)
    return Plan(
        name="kernels",
        purpose="How near fused backends come to the machine's limits, beside SDPA and compile.",
        expected_minutes=(0.05 if scope.device == "cpu" else 0.15) * len(cases),
        protocol=Protocol(
            rounds=3, warmup_s=0.1, warmup_cap_s=0.4, sample_s=0.15, least_samples=5,
            most_samples=60, sample_cap_s=2.0, timeout_s=300.0, anchor_every=25,
            memory_limit_bytes=8 * 2**30 if scope.device == "cpu" else None,
        ),
        cases=cases,
        noise_pairs=noise_pairs(cases, cases[:4]),
        anchor=first,
    )  # fmt: skip
