"""Everything standard has, and more: all dtypes, torch.compile, each SDPA backend, causal forms.

Cost: half a minute a case on 2 CPU cores (torch.compile alone takes ten to twenty seconds),
reckoned and not measured: days for all variants, so name some with `--only`. Expected result: what
standard shows, and what of it depends on dtype or compiler.
"""

from collections.abc import Iterator
from dataclasses import replace

from attention_impls.registry import backends, load
from bench.cases import image, runs_on, sequence, task_cases, workload_case
from bench.model import Case, Plan, unique_cases
from bench.plan import Scope, noise_pairs
from bench.plans import standard

_SIDES = (224, 512, 1024)


def _cases(scope: Scope) -> Iterator[Case]:
    for dtype in scope.dtypes_or("float32", "bfloat16", "float16"):
        yield from standard.plan(replace(scope, dtypes=(dtype,))).cases
        for variant in scope.variants:
            for backend in (b for b in backends(variant) if runs_on(b, scope.device)):
                for side in _SIDES:
                    for passes in ("forward", "forward_backward"):
                        yield workload_case(
                            variant, backend, image(side), dtype=dtype, passes=passes
                        )
            if load(variant).traits.causal:
                for tokens in (256, 1024, 4096):
                    yield workload_case(
                        variant, "reference", sequence(tokens), dtype=dtype, passes="forward",
                        causal=True,
                    )  # fmt: skip
    for variant in scope.variants:
        yield from task_cases(variant, "digits", seeds=5)


def plan(scope: Scope) -> Plan:
    """Build the full plan: the standard protocol with more rounds over more cases."""
    base = standard.plan(scope)
    cases = unique_cases(_cases(scope))
    return Plan(
        name="full",
        purpose="All dtypes, torch.compile, each SDPA backend and causal forms as well.",
        expected_minutes=(0.5 if scope.device == "cpu" else 0.1) * len(cases),
        protocol=replace(base.protocol, rounds=5, timeout_s=300.0),
        cases=cases,
        noise_pairs=noise_pairs(cases, base.noise_pairs),
        anchor=base.anchor,
    )
