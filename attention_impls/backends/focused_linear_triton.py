"""Focused linear attention by Triton kernels, its local branch computed with the output.

The norms of a token are over all heads, so queries and keys are read once more than elsewhere.

Profile, by counting: forward moves 7 N C e bytes of a sequence (q and k for the norms; k and v; q,
v again, the output), backward 13 N C e (q, the gradient; k, v, the gradient, dv; q, the gradient,
dq; k, v, dk; dk again for the position encoding); N tokens, C channels of e bytes. Floor: 4 and 7 N
C e (each tensor once) / copy bandwidth, so at most 57 % and 54 % of it unless the second readings
come from the L2 cache. Binds: memory, because a token's norms are over all heads and a program has
one; next to it the caches, which serve side^2 taps. Measured: not yet.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attention_impls.shapes import Grid, UnsupportedShape
from attention_impls.spec import Execution
from attention_impls.triton_parts.backend import no_causal_form, triton_backend

Heads = Float[Tensor, "batch heads tokens head_dim"]

EPSILON = 1e-6
"""Added to the denominator, as in the reference."""
_LARGEST_POWER = 3
_LARGEST_SIDE = 7


class TritonMix(nn.Module):
    """Parameters: the reference's `scale`, `positional_encoding` and `dwc`, each where it is."""

    def __init__(
        self,
        power: int | float,
        *,
        mean_denominator: bool,
        bound_to: Grid | None,
        scale: nn.Parameter | None,
        positional_encoding: nn.Parameter | None,
        dwc: nn.Conv2d | None,
    ) -> None:
        """Build around the reference's parameters.

        Args:
            power: p.
            mean_denominator: epsilon is added to the mean over keys, not to the sum.
            bound_to: the grid of the position encoding; None: there is none.
            scale: sigma.
            positional_encoding: added to the keys.
            dwc: the filters of the local branch.
        """
        super().__init__()
        self.power = power
        self.mean_denominator = mean_denominator
        self.bound_to = bound_to
        self.scale = scale
        self.positional_encoding = positional_encoding
        self.dwc = dwc

    def forward(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        x: Float[Tensor, "batch tokens channels"],  # noqa: ARG002
        grid: Grid,
    ) -> Heads:
        """Attend.

        Raises:
            UnsupportedShape: another grid than that of the position encoding.
        """
        from attention_impls.triton_parts.focused import Focus, focused_attention

        if self.bound_to is not None and grid != self.bound_to:
            raise UnsupportedShape(
                f"focused_linear: grid is {grid}, must be {self.bound_to}, the one of its position "
                "encoding; build for this grid, or with position_encoding=False"
            )
        epsilon = EPSILON if self.mean_denominator else EPSILON / k.shape[2]
        return focused_attention(
            q,
            k,
            v,
            self.inverse_scale(q),
            self.positional_encoding,
            None if self.dwc is None else self.dwc.weight,
            None if self.dwc is None else self.dwc.bias,
            Focus(exponent=self.power, epsilon=epsilon, grid=grid),
        )

    def inverse_scale(self, q: Heads) -> Float[Tensor, " channels"]:
        """1 / softplus(sigma), float32; ones where nothing is learned."""
        if self.scale is None:
            return torch.ones(q.shape[1] * q.shape[3], dtype=torch.float32, device=q.device)
        return F.softplus(self.scale.to(torch.float32)).reciprocal().flatten()


def _wrap(mix: nn.Module) -> TritonMix:
    if mix.reduction != 1:
        raise TypeError(
            f"backend triton: the layer reduces its keys by {mix.reduction}, must be 1: use the "
            "reference"
        )
    return TritonMix(
        cast("int | float", mix.power),
        mean_denominator=bool(mix.mean_denominator),
        bound_to=cast("Grid | None", mix.bound_to),
        scale=cast("nn.Parameter | None", mix.scale),
        positional_encoding=cast("nn.Parameter | None", mix.positional_encoding),
        dwc=cast("nn.Conv2d | None", mix.dwc),
    )


def _limits(execution: Execution) -> tuple[str, ...]:
    options = execution.options
    reasons = list(no_causal_form(execution))
    if options.reduction != 1:
        reasons.append(f"kernels for reduction 1 alone, got {options.reduction}: use the reference")
    if options.focusing_factor > _LARGEST_POWER:
        reasons.append(
            f"kernels for focusing_factor <= {_LARGEST_POWER}, got {options.focusing_factor}: "
            "larger powers leave float32 without a rescaling that they lack; use the reference"
        )
    if options.local_residual and options.local_size > _LARGEST_SIDE:
        reasons.append(
            f"kernels for local_size <= {_LARGEST_SIDE}, got {options.local_size}: use the "
            "reference"
        )
    return tuple(reasons)


BACKEND = triton_backend("focused_linear", _wrap, limits=_limits)
