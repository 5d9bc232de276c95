"""Softmax attention inside windows, or from all queries to fewer keys: a step of many variants.

It is a module without parameters, so that a backend can exchange it for a faster one.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Queries = Float[Tensor, "batch windows heads queries head_dim"]
Keys = Float[Tensor, "batch windows heads keys head_dim"]
Bias = Float[Tensor, "#windows #heads #queries keys"]


class SoftmaxAttention(nn.Module):
    """softmax(scale Q K^T + bias) V in every window and head; no parameters."""

    def forward(
        self, q: Queries, k: Keys, v: Keys, bias: Bias | None = None, scale: float | None = None
    ) -> Queries:
        """Attend.

        Args:
            q: queries; attention without windows has one window.
            k: keys.
            v: values.
            bias: added to the scores, the same for every item of the batch; -inf hides a key.
            scale: factor of the scores; None: head_dim^-1/2.
        """
        sizes = q.shape[:-1]
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        # the fewer of them are scaled, and not the scores, of which there are more
        if k.shape[3] < q.shape[3]:
            k = k * factor
        else:
            q = q * factor
        q, k, v = (t.flatten(0, 2) for t in (q, k, v))
        scores = torch.bmm(q, k.mT)
        if bias is not None:
            in_windows = scores.unflatten(0, sizes[:3])
            # in place on a view, backward would copy the whole gradient
            in_windows = in_windows + bias if scores.requires_grad else in_windows.add_(bias)
            scores = in_windows.flatten(0, 2)
        accumulator = torch.promote_types(q.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=accumulator).to(v.dtype)
        return torch.bmm(weights, v).unflatten(0, sizes[:3])


def softmax_attention_flops(rows: int, keys: int, channels: int) -> int:
    """4 rows keys channels: scores and weighted values; `rows` counts queries of all sequences."""
    return 4 * rows * keys * channels
