"""Published checkpoints onto our parameters: strict renaming, and position tables of another size.

Nothing is dropped or made up in silence: a name that has no place, a name that is missing and a
shape that cannot be fitted are errors that name them.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attention_impls.spec import AttentionSpec, StateDict

_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedAttention:
    """Where the parameters of one attention layer are published, and where they go."""

    theirs: str
    """Prefix of the published names."""
    ours: str
    """Prefix of our names."""
    spec: AttentionSpec
    only: tuple[str, ...] = ()
    """Beginnings of the published names below the prefix; empty: all of them."""
    left: tuple[str, ...] = ()
    """Beginnings of published names below the prefix that are not the layer's."""
    moved: tuple[tuple[str, str], ...] = ()
    """Published prefixes below `theirs` that the variant knows by another one (empty: none)."""


def adopted(
    official: StateDict,
    renamed: Iterable[tuple[str, str]],
    attentions: Iterable[AdoptedAttention],
) -> dict[str, Tensor]:
    """Return our state dict from a published one.

    Args:
        official: the authors' state dict.
        renamed: (regular expression of a whole published name, our name as its replacement).
        attentions: layers that the variants themselves map.

    Raises:
        KeyError: published names that have no place here.
    """
    left = dict(official)
    ours: dict[str, Tensor] = {}
    for layer in attentions:
        inside = _inside(left, layer)
        if layer.spec.adopt_official is None:
            raise KeyError(f"{layer.theirs}: {layer.spec.name} has no published parameters")
        if not inside:
            raise KeyError(f"no parameters below {layer.theirs}: those of another model")
        try:
            mapped = layer.spec.adopt_official(inside)
        except KeyError as error:
            # a name alone is one that the variant looked up in vain
            found = str(error.args[0])
            reason = found if " " in found else f"missing: {found}"
            raise KeyError(f"{layer.theirs}: {reason}") from error
        ours |= {f"{layer.ours}{name}": value for name, value in mapped.items()}
    rules = [(re.compile(pattern), replacement) for pattern, replacement in renamed]
    unknown: list[str] = []
    for name, value in left.items():
        match = next((r for r in ((p.fullmatch(name), t) for p, t in rules) if r[0]), None)
        if match is None or match[0] is None:
            unknown.append(name)
        else:
            ours[match[0].expand(match[1])] = value
    if unknown:
        raise KeyError(f"no place for the published parameters {listed(unknown)}")
    return ours


def _inside(left: dict[str, Tensor], layer: AdoptedAttention) -> dict[str, Tensor]:
    """Take the parameters of one layer out of `left`, under the names that the variant knows."""
    inside: dict[str, Tensor] = {}
    for name in [n for n in left if n.startswith(layer.theirs)]:
        short = name.removeprefix(layer.theirs)
        if layer.only and not short.startswith(layer.only):
            continue
        if layer.left and short.startswith(layer.left):
            continue
        value = left.pop(name)
        for theirs, known in layer.moved:
            if short.startswith(theirs):
                short = known + short.removeprefix(theirs)
                break
        inside[short] = value
    return inside


def named(pattern: str, replacement: str) -> tuple[str, str]:
    """Return the rule for weight and bias of one module; both arguments are prefixes."""
    return rf"{pattern}\.(?P<kind>weight|bias)", rf"{replacement}.\g<kind>"


def block_rules(pattern: str, replacement: str) -> tuple[tuple[str, str], ...]:
    """Return the rules for norms and perceptron of a `Block`, as timm names them."""
    pairs = (("norm1", "attention_norm"), ("norm2", "mlp_norm"), ("mlp\\.fc1", "mlp.0"))
    return tuple(
        named(rf"{pattern}\.{theirs}", f"{replacement}.{ours}")
        for theirs, ours in (*pairs, ("mlp\\.fc2", "mlp.2"))
    )


def require_names(owner: str, found: Iterable[str], needed: set[str]) -> None:
    """Raise KeyError unless `found` are exactly the names in `needed`."""
    found = set(found)
    parts: list[str] = []
    if missing := sorted(needed - found):
        parts.append(f"missing: {listed(missing)}")
    if unknown := sorted(found - needed):
        parts.append(f"unknown: {listed(unknown)}")
    if parts:
        raise KeyError(f"{owner}: the parameters are those of another model; {'; '.join(parts)}")


def listed(names: Iterable[str]) -> str:
    """Name the first few and count the rest."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# Tables of another size ---------------------------------------------------------------------------


def fitted(state_dict: StateDict, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return `state_dict` with every position table interpolated to the shape that is needed.

    Raises:
        KeyError: names missing or unknown.
        ValueError: a shape that is wrong and is not a position table's.
    """
    require_names("state dict", state_dict, set(shapes))
    return {name: _fitted(name, state_dict[name], shape) for name, shape in shapes.items()}


def _fitted(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(value.shape) == shape:
        return value
    leaf = name.rpartition(".")[2]
    refusal = ValueError(
        f"{name} has shape {tuple(value.shape)}, must be {shape}; only position tables are fitted "
        "to another size"
    )
    if value.ndim != len(shape) or leaf not in _TABLES:
        raise refusal
    try:
        return _TABLES[leaf](value, shape)
    except _NotATable as error:
        raise refusal from error


class _NotATable(ValueError):  # noqa: N818 - named for what is wrong
    """Sizes that differ in more than the grid."""


def square_side(positions: int) -> int:
    """Return the side of a square of so many positions. Raises ValueError when it is none."""
    side = math.isqrt(positions)
    if side * side != positions:
        raise _NotATable(f"{positions} positions are no square")
    return side


def _grid_table(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[1, extra + side^2, channels]: the tokens in front keep their rows."""
    if value.shape[0] != 1 or shape[0] != 1 or value.shape[2] != shape[2]:
        raise _NotATable
    extra = value.shape[1] - math.isqrt(value.shape[1]) ** 2
    grid = value[:, extra:].unflatten(1, (square_side(value.shape[1] - extra), -1))
    side = square_side(shape[1] - extra)
    return torch.cat((value[:, :extra], _bicubic(grid, side).flatten(1, 2)), dim=1)


def _relative_table(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[(2 side - 1)^2, heads]."""
    if value.shape[1] != shape[1]:
        raise _NotATable
    grid = value.unflatten(0, (square_side(value.shape[0]), -1)).unsqueeze(0)
    return _bicubic(grid, square_side(shape[0]))[0].flatten(0, 1)


def _line_table(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One number a row, or a column: the axis that differs is interpolated linearly."""
    differing = [axis for axis, size in enumerate(shape) if value.shape[axis] != size]
    if len(differing) != 1:
        raise _NotATable
    (axis,) = differing
    lines = value.float().movedim(axis, -1)
    resized = F.interpolate(lines.flatten(0, -2)[None], size=shape[axis], mode="linear")[0]
    return resized.unflatten(0, lines.shape[:-1]).movedim(-1, axis).to(value.dtype)


def _bicubic(grid: Tensor, side: int) -> Tensor:
    """[batch, rows, columns, channels] to another square; float32 whatever the table's type."""
    wide = grid.permute(0, 3, 1, 2).float()
    resized = F.interpolate(wide, size=(side, side), mode="bicubic")
    return resized.permute(0, 2, 3, 1).to(grid.dtype)


_TABLES = {
    "columns": _line_table,
    "positions": _grid_table,
    "positional_encoding": _grid_table,
    "position_bias": _relative_table,
    "rows": _line_table,
}
"""Last part of a parameter's name -> how it is fitted: as in the authors' loaders."""
