"""Gaussian affinities between points and centres, with one matrix product."""

import torch
from jaxtyping import Float
from torch import Tensor


def gaussian_affinities(
    points: Float[Tensor, "matrices points head_dim"],
    centres: Float[Tensor, "matrices centres head_dim"],
    scale: float,
) -> Float[Tensor, "matrices points centres"]:
    """Return exp(-|scale * point - centre|^2 / 2) for every pair.

    The square is expanded, so that only the cross term needs a matrix product. Rounding can make
    the expanded distance slightly negative; such pairs get the affinity 1, never more.

    Args:
        points: one set of points a matrix.
        centres: one set of centres a matrix, already scaled.
        scale: factor on the points; folded into the centres, which are few.
    """
    exponent = torch.bmm(points, (centres * scale).transpose(1, 2))
    exponent = exponent.sub_(points.square().sum(-1, keepdim=True) * (scale * scale / 2))
    exponent = exponent.sub_((centres.square().sum(-1) / 2).unsqueeze(1))
    return exponent.clamp_(max=0).exp_()
