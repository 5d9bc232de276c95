"""Which mechanisms are softmax attention made cheaper, and how they are set to be compared with it.

Every mechanism takes part whose paper offers it as that and which can say something untrained.
Random feature attention scales queries and keys to length 1, so it is near only where their lengths
hardly matter. Left out: those whose maps must be learned first (Hedgehog, Linformer, EVA), whose
keys are the queries (Reformer), and sparse patterns, which the papers train with.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from attention_impls.registry import load

HEAD_DIM = 32
"""Channels of a head on which mechanisms are compared."""
BUDGET_OPTIONS = ("landmarks", "features", "projected_tokens", "rank", "samples", "clusters")
"""Names under which variants call their budget."""
Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Approximation:
    """How a mechanism is set to be compared with softmax attention."""

    options: Options = field(default_factory=dict[str, Any])
    """Instead of the defaults."""
    budget: Callable[[int, int], Options] | None = None
    """Options with a given budget on so many tokens; None: it has none."""


def _named(option: str) -> Callable[[int, int], Options]:
    return lambda budget, _tokens: {option: budget}


def _attending(queries: int, tokens: int) -> Options:
    """ProbSparse lets factor * ceil(ln N) queries attend; as near below `queries` as it can."""
    return {"factor": max(1, queries // math.ceil(math.log(tokens)))}


APPROXIMATIONS: Mapping[str, Approximation] = {
    "softmax": Approximation(),
    "performer": Approximation(budget=_named("features")),
    "random_feature": Approximation(budget=_named("projections")),
    # the maps of the averages are learned: without them, averages alone
    "lara": Approximation(options={"maps": "none"}, budget=_named("landmarks")),
    "nystromformer": Approximation(budget=_named("landmarks")),
    "probsparse": Approximation(budget=_attending),
    # all channels of q and k, or it would see another product
    "taylor": Approximation(options={"feature_dim": HEAD_DIM}),
    "vitality": Approximation(),
}


def approximation(variant: str) -> Approximation | None:
    """Return how `variant` is compared; None if it is not meant to approximate softmax."""
    if variant in APPROXIMATIONS:
        return APPROXIMATIONS[variant]
    spec = load(variant)
    if not spec.traits.approximates_softmax:
        return None
    names = {one.name for one in fields(spec.options)}
    named = next((name for name in BUDGET_OPTIONS if name in names), None)
    return Approximation(budget=None if named is None else _named(named))
