"""Newton's iteration for the inverse of a symmetric positive definite matrix.

From V_0 = alpha P, each step V <- 2 V - V P V squares the residual I - P V, so that after t steps
V = P^-1 (I - (I - alpha P^2)^(2^t)). Directions with alpha lambda^2 2^t << 1 stay damped: the
number of steps is part of the mechanism, and an exact inverse is another function.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Matrices = Float[Tensor, "matrices landmarks landmarks"]
InverseGradient = Literal["implicit", "unrolled"]


def newton_inverse(matrix: Matrices, start: Matrices, steps: int) -> Matrices:
    """Return the iterate after `steps` steps from `start`; autograd keeps every step."""
    inverse = start
    for _ in range(steps):
        inverse = torch.baddbmm(inverse, torch.bmm(inverse, matrix), inverse, beta=2, alpha=-1)
    return inverse


class _ImplicitInverse(torch.autograd.Function):
    """The same iterate; its gradient is that of an exact inverse, formed with the iterate."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, start: Tensor, steps: int) -> Tensor:
        inverse = newton_inverse(matrix, start, steps)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        transposed = ctx.saved_tensors[0].transpose(1, 2)
        return -torch.bmm(torch.bmm(transposed, gradients[0]), transposed), None, None


def newton_inverse_implicit(matrix: Matrices, start: Matrices, steps: int) -> Matrices:
    """Return the iterate after `steps` steps; the backward pass is -V^T G V^T.

    Saves one matrix instead of two a step. The gradient is exact where the iteration has converged
    and damped in the directions where it has not; none flows into `start`.
    """
    return _ImplicitInverse.apply(matrix, start.detach(), steps)  # pyright: ignore[reportReturnType]


def ridged(matrix: Matrices, ridge: float) -> Matrices:
    """Return matrix + ridge * I."""
    if ridge == 0:
        return matrix
    return matrix + ridge * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def newton_flops(matrices: int, landmarks: int, steps: int) -> int:
    """FLOPs of the iteration: two products of landmarks x landmarks matrices a step."""
    return matrices * steps * 2 * 2 * landmarks**3
