"""Whole networks at real resolutions: the smallest model of every family and mechanism.

Each runs as published and with softmax attention in the place of its mechanism, 224 to 2048 px,
forward and training step, at batch 1, at a fixed number of images and at the largest batch that
fits. Every variant runs in the plain network `vit_tiny`.

Cost: a quarter of a minute a case at 224 px on 2 CPU cores, half a minute where sides go to 1024
px, so that all of it takes a night and more; `--only inline_deit_t` is a part. Expected result:
networks with linear attention keep their throughput in pixels, those with softmax lose it with the
square of the tokens, and what does not fit says so.
"""

from collections.abc import Iterator

from attention_impls.registry import backbones, load_backbone
from bench.cases import anchor, executions, images_case
from bench.model import Case, DType, Plan, Protocol, unique_cases
from bench.plan import Scope, noise_pairs

SIDES = (224, 288, 384, 448, 512, 640, 768, 1024, 1536, 2048)
_SOFTMAX = "softmax"
_PLAIN = "vit_tiny"
"""The network in which every variant runs."""


def smallest() -> tuple[str, ...]:
    """The cheapest network of each family and mechanism at its own resolution, by name."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for id_ in backbones():
        spec = load_backbone(id_)
        if spec.resolution_px < SIDES[0]:
            continue
        key = (spec.family, spec.variant)
        cost = (spec.flops(), id_)
        found[key] = min(found.get(key, cost), cost)
    return tuple(sorted(id_ for _, id_ in found.values()))


def _cases(scope: Scope, dtype: DType) -> Iterator[Case]:
    on_cpu = scope.device == "cpu"
    images = 4 if on_cpu else 64
    pairs = list(executions(scope, compiled=False))
    for id_ in smallest():
        own = load_backbone(id_).variant
        for variant, backend in pairs:
            if variant not in (own, _SOFTMAX) and id_ != _PLAIN:
                continue
            for side in SIDES:
                yield images_case(
                    id_, variant, backend, resolution_px=side, dtype=dtype, passes="forward"
                )
            for side in SIDES[:5] if on_cpu else SIDES:
                yield images_case(
                    id_, variant, backend, resolution_px=side, dtype=dtype,
                    passes="forward_backward",
                )  # fmt: skip
            for side in (224, 384) if on_cpu else SIDES:
                yield images_case(
                    id_, variant, backend, resolution_px=side, dtype=dtype, passes="forward",
                    batch=images, policy="image_budget",
                )  # fmt: skip
            yield images_case(
                id_, variant, backend, resolution_px=224, dtype=dtype, passes="forward",
                batch=None, policy="largest",
            )  # fmt: skip


def plan(scope: Scope) -> Plan:
    """Build the plan of whole networks."""
    on_cpu = scope.device == "cpu"
    dtype = scope.dtypes_or("float32" if on_cpu else "bfloat16")[0]
    cases = unique_cases(_cases(scope, dtype))
    paired = [c for c in cases if c.variant == _SOFTMAX and "/b1/224px/" in c.id]
    return Plan(
        name="models",
        purpose="Whole networks, 224 to 2048 px, each as published and with softmax attention.",
        expected_minutes=0.25 * len(cases),
        protocol=Protocol(
            rounds=3, warmup_s=0.1, warmup_cap_s=1.0, sample_s=0.3, least_samples=3,
            most_samples=30, sample_cap_s=4.0, timeout_s=180.0, anchor_every=25,
            memory_limit_bytes=16 * 2**30 if on_cpu else None,
        ),
        cases=cases,
        noise_pairs=noise_pairs(cases, paired[:4]),
        anchor=anchor(scope),
    )  # fmt: skip
