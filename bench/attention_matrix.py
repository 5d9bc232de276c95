"""The matrix that an attention layer multiplies its values with, read off by giving it unit values.

For every mechanism that is linear in the values, column j of A is the answer to values that are
zero except at token j. Local branches (depthwise convolutions) are part of the answer; they differ
by channel, so the matrix is that of one channel. Everything is computed in float64.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from attention_impls.registry import load
from attention_impls.shapes import AttentionShape, Grid

_MOST_FLOATS = 1 << 22
"""Size of one call's values; more columns are taken in several calls."""
_LINEAR_TO = 1e-6
"""Largest relative difference between A v and the mix of v."""


class NotLinearError(RuntimeError):
    """The mix is not linear in the values, or the layer has no mix of its own."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the mix of one attention layer is given for one image, in float64."""

    mix: nn.Module
    q: Tensor
    """[1, heads, tokens, head_dim]"""
    k: Tensor
    v: Tensor
    x: Tensor
    """[1, tokens, channels]"""
    grid: Grid

    def answer(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        """Call the mix."""
        return cast("Callable[..., Tensor]", self.mix)(q, k, v, x, self.grid)


@dataclass(frozen=True, slots=True)
class Seen:
    """One attention layer of a network, and what it was given for a batch of inputs."""

    layer: nn.Module
    """In float64."""
    x: Tensor
    """[batch, tokens, channels], float64."""
    grid: Grid

    @property
    def shape(self) -> AttentionShape:
        """Sizes of one item."""
        heads, head_dim = cast("int", self.layer.heads), cast("int", self.layer.head_dim)
        return AttentionShape(batch=1, grid=self.grid, heads=heads, head_dim=head_dim)

    def of(self, item: int, mix: nn.Module | None = None) -> Given:
        """Return what the mix is given for one item.

        Args:
            item: which item of the batch.
            mix: another mix for the same q, k and v; None: the layer's own.

        Raises:
            NotLinearError: a layer that projects by itself.
        """
        project = getattr(self.layer, "project", None)
        own = getattr(self.layer, "mix", None)
        if project is None or own is None:
            raise NotLinearError(f"{type(self.layer).__name__} has no mix of q, k and v")
        x = self.x[item : item + 1]
        q, k, v = project(x)
        return Given(mix or own, q, k, v, x, self.grid)


@torch.no_grad()
def seen(network: nn.Module, inputs: Tensor) -> list[Seen]:
    """Run `network` in evaluation mode; return its attention layers with what each was given."""
    found: list[Seen] = []

    def remember(layer: nn.Module, given: tuple[Tensor, Grid]) -> None:
        found.append(Seen(layer, given[0].detach().double(), given[1]))

    handles = [layer.register_forward_pre_hook(remember) for layer in attentions(network)]
    try:
        network.eval()
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [replace(one, layer=copy.deepcopy(one.layer).double()) for one in found]


def attentions(network: nn.Module) -> list[nn.Module]:
    """Return the attention of every block, first block first."""
    blocks = (module for module in network.modules() if hasattr(module, "attention_norm"))
    return [cast("nn.Module", block.attention) for block in blocks]


@torch.no_grad()
def matrix(given: Given, *, channel: int = 0) -> Tensor:
    """Return A [heads, tokens, tokens]: out = A v (+ a constant) for one channel of every head.

    Raises:
        NotLinearError: the mix does not answer the values as A does.
    """
    heads, tokens, head_dim = given.v.shape[1:]
    at_once = max(1, _MOST_FLOATS // given.v.numel())
    nothing = given.answer(given.q, given.k, torch.zeros_like(given.v), given.x)[0, ..., channel]
    columns: list[Tensor] = []
    for places in torch.arange(tokens).split(at_once):
        many = len(places)
        values = given.v.new_zeros(many, heads, tokens, head_dim)
        values[torch.arange(many), :, places, channel] = 1
        out = given.answer(
            given.q.expand(many, -1, -1, -1),
            given.k.expand(many, -1, -1, -1),
            values,
            given.x.expand(many, -1, -1),
        )
        columns.append(out[..., channel] - nothing)
    found = torch.cat(columns).permute(1, 2, 0)
    own = torch.zeros_like(given.v)
    own[..., channel] = given.v[..., channel]
    whole = given.answer(given.q, given.k, own, given.x)[0, ..., channel] - nothing
    difference = (found @ given.v[0, ..., channel, None])[..., 0] - whole
    if not float(difference.abs().max()) <= _LINEAR_TO * (float(whole.abs().max()) + 1e-9):
        raise NotLinearError(f"{type(given.mix).__name__} is not linear in the values")
    return found


@torch.no_grad()
def shared_matrix(given: Given) -> Tensor:
    """Return A [heads, tokens, tokens] of a mix that treats all channels of a head alike.

    Takes as many columns from one answer as a head has channels: so many times as fast as `matrix`.

    Raises:
        NotLinearError: the answer to the values is not A v in every channel.
    """
    heads, tokens, head_dim = given.v.shape[1:]
    calls = math.ceil(tokens / head_dim)
    units = torch.eye(tokens, calls * head_dim, dtype=given.v.dtype, device=given.v.device)
    units = units.unflatten(1, (calls, head_dim)).transpose(0, 1)
    out = given.answer(
        given.q.expand(calls, -1, -1, -1),
        given.k.expand(calls, -1, -1, -1),
        units.unsqueeze(1).repeat(1, heads, 1, 1),
        given.x.expand(calls, -1, -1),
    )
    found = out.permute(1, 2, 0, 3).flatten(2)[..., :tokens]
    whole = given.answer(given.q, given.k, given.v, given.x)[0]
    difference = float((found @ given.v[0] - whole).abs().max())
    if not difference <= _LINEAR_TO * (float(whole.abs().max()) + 1e-9):
        raise NotLinearError(
            f"{type(given.mix).__name__} is not linear in the values, or channels of a head differ"
        )
    return found


def any_matrix(given: Given) -> Tensor:
    """Return `shared_matrix` where the channels of a head are treated alike, else `matrix`.

    Raises:
        NotLinearError: the mix does not answer the values as A does.
    """
    try:
        return shared_matrix(given)
    except NotLinearError:
        return matrix(given)


def without_local_options(options: Any) -> Any:
    """Return options with the local branch switched off; the same where there is none."""
    if getattr(options, "local_residual", False):
        return replace(options, local_residual=False)
    if getattr(options, "local_size", 0) and not hasattr(options, "local_residual"):
        return replace(options, local_size=0)
    return options


def without_local_branch(
    variant: str, options: Any, shape: AttentionShape, mix: nn.Module
) -> nn.Module:
    """Return the same mix without its local branch, in float64; `mix` itself if it has none."""
    plain = without_local_options(options)
    if plain == options:
        return mix
    bare = load(variant).build(shape, plain).double().eval()
    twin = cast("nn.Module", bare.mix)
    kept: Mapping[str, Tensor] = mix.state_dict()
    twin.load_state_dict({name: kept[name] for name in twin.state_dict()})
    return twin
