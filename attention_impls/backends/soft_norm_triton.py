"""SOFT-Norm in fused kernels: affinities formed on chip, Newton's steps in one program a head.

Kernels, bytes and limits: `attention_impls.triton_parts.gaussian_low_rank`.
"""

from dataclasses import replace
from typing import Any

from torch import nn

from attention_impls.compiled import TOLERANCE
from attention_impls.parts.gaussian_low_rank import gaussian_landmarks
from attention_impls.spec import Execution
from attention_impls.triton_parts.backend import triton_backend
from attention_impls.triton_parts.inverse_rule import InverseRule, landmark_limits
from attention_impls.triton_parts.on_chip import shared_memory_limits

_MOST_HALVINGS = 10
_LARGEST_RESIDUAL = 1.01


def _rule(options: Any) -> InverseRule:
    return InverseRule(
        factor=2.0,
        normalised=True,
        halvings=_MOST_HALVINGS,
        residual=_LARGEST_RESIDUAL,
        ridge=options.ridge,
        ridge_in_scale=True,
        unrolled=options.inverse_gradient == "unrolled",
        steps=options.newton_steps,
    )


def _wrap(mix: nn.Module) -> nn.Module:
    from attention_impls.triton_parts.gaussian_low_rank import FusedGaussianLowRank

    reference: Any = mix
    return FusedGaussianLowRank(mix, _rule(reference.inverse.options))


def _limits(execution: Execution) -> tuple[str, ...]:
    count = gaussian_landmarks(execution.shape.grid, execution.options)
    reasons = (*landmark_limits(execution, count), *shared_memory_limits(execution))
    if execution.options.initial_scale == "per_matrix":
        return reasons
    return (
        *reasons,
        (
            "initial_scale='global' couples the matrices of a batch, one program has one: use "
            "the reference, or initial_scale='per_matrix'"
        ),
    )


BACKEND = replace(triton_backend("soft_norm", _wrap, limits=_limits), tolerance=TOLERANCE)
