"""Iterative pseudo-inverse of third order, from the Nystrom approximations of attention.

Each step is

    Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4,    from Z = A^T / (largest column sum of A)
"""

import torch
from jaxtyping import Float
from torch import Tensor

Square = Float[Tensor, "batch heads landmarks landmarks"]


def iterative_pseudo_inverse(matrix: Square, iterations: int, *, together: bool) -> Square:
    """Return Z after `iterations` steps of third order, four matrix products each.

    Args:
        matrix: no negative entry.
        iterations: number of steps.
        together: scale the start by the largest column sum of all matrices instead of each one's.
    """
    shape = matrix.shape
    sums = matrix.sum(-2)
    largest = sums.amax() if together else sums.amax(-1)[..., None, None]
    flat = matrix.flatten(0, 1)
    z = (matrix.transpose(-1, -2) / largest).flatten(0, 1)
    for _ in range(iterations):
        product = torch.bmm(flat, z)
        inner = torch.baddbmm(product, product, product, beta=7, alpha=-1)
        inner = torch.baddbmm(product, product, inner, beta=15, alpha=-1)
        z = torch.baddbmm(z, z, inner, beta=3.25, alpha=-0.25)
    return z.view(shape)


def pseudo_inverse_flops(matrices: int, landmarks: int, iterations: int) -> int:
    """FLOPs of the iteration: four products of landmarks x landmarks matrices a step."""
    return 8 * matrices * iterations * landmarks**3
