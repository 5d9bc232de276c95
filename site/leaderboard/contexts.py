"""What must be equal before two results may stand in one ranking."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from leaderboard.format import whole
from leaderboard.results import Result, View

PASSES_WORDS = {"forward": "forward", "forward_backward": "forward and backward"}
LEVEL_WORDS = {
    "core": "core, q, k and v given",
    "layer": "layer with projections",
    "model": "whole model",
}
POLICY_WORDS = {
    "one": "1 sequence",
    "token_budget": "fixed token budget",
    "largest": "largest that fits",
}
_T = TypeVar("_T")

_JOINT = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, where narrow columns would break a line."""
_USUAL_PATCH_PX = 16
"""Side of a patch that addresses leave out."""
_POLICY_ORDER = ("one", "token_budget", "largest")
_LEVEL_ORDER = ("layer", "core", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Tokens and their layout."""

    height: int
    width: int
    resolution_px: int | None
    extra_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens attended over."""
        return self.height * self.width + self.extra_tokens

    @property
    def title(self) -> str:
        """`512 px, 1,024 tokens` for images, `1,024 tokens in a row` for sequences."""
        if self.resolution_px is not None:
            return f"{self.resolution_px}{_JOINT}px, {whole(self.tokens)}{_JOINT}tokens"
        if self.height == 1:
            return f"{whole(self.tokens)}{_JOINT}tokens in a{_JOINT}row"
        sides = f"{self.height} \N{MULTIPLICATION SIGN} {self.width}"
        return f"{whole(self.tokens)}{_JOINT}tokens, {sides}"

    @property
    def short(self) -> str:
        """`512 px` for images, `1,024 tokens` for sequences."""
        if self.resolution_px is not None:
            return f"{self.resolution_px} px"
        if self.height == 1:
            return f"{whole(self.tokens)} tokens"
        return f"{self.height} \N{MULTIPLICATION SIGN} {self.width}"

    @property
    def patches(self) -> str | None:
        """`patches of 16 px` for images whose side the grid divides."""
        if self.resolution_px is None or self.resolution_px % self.height:
            return None
        return f"patches of {self.resolution_px // self.height} px"

    @property
    def slug(self) -> str:
        """Stable name for addresses."""
        base = f"{self.height}x{self.width}"
        if self.resolution_px is not None:
            usual = self.height == self.width == self.resolution_px // _USUAL_PATCH_PX
            base = f"{self.resolution_px}px" if usual else f"{self.resolution_px}px-{base}"
        return f"{base}-plus{self.extra_tokens}" if self.extra_tokens else base

    @property
    def order(self) -> tuple[bool, int, int]:
        """Images before sequences, small before large."""
        return (self.resolution_px is None, self.tokens, self.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One machine, type, direction, level, batch policy, width and mask; size apart."""

    hardware_id: str
    dtype: str
    passes: str
    level: str
    batch_policy: str
    heads: int
    head_dim: int
    causal: bool

    @property
    def slug(self) -> str:
        """Stable name for addresses, without the machine."""
        words = [self.dtype, self.passes, self.level, self.batch_policy]
        words += [f"h{self.heads}d{self.head_dim}"]
        return slug("-".join([*words, "causal"] if self.causal else words))

    @property
    def width(self) -> str:
        """`3 heads of 64 channels`, with the mask."""
        heads = f"{self.heads} head{'' if self.heads == 1 else 's'} of {self.head_dim} channels"
        return f"{heads}, causal" if self.causal else heads

    @property
    def order(self) -> tuple[object, ...]:
        """Most asked for first."""
        return (
            self.causal,
            _LEVEL_ORDER.index(self.level),
            self.passes != "forward",
            _POLICY_ORDER.index(self.batch_policy),
            self.dtype != "float32",
            self.dtype,
            self.heads,
            self.head_dim,
        )


def slug(text: str) -> str:
    """Return `text` as a part of an address: letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def context_of(result: Result) -> Context | None:
    """Return the context of a timed result; None for frontiers and tasks."""
    if result.stimulus != "workload":
        return None
    return Context(
        hardware_id=result.hardware_id,
        dtype=_given(result.dtype),
        passes=_given(result.passes),
        level=result.level,
        batch_policy=_given(result.batch_policy),
        heads=_given(result.heads),
        head_dim=_given(result.head_dim),
        causal=bool(result.causal),
    )


def size_of(result: Result) -> Size:
    """Return the size of a timed result."""
    return Size(
        height=_given(result.grid_height),
        width=_given(result.grid_width),
        resolution_px=result.resolution_px,
        extra_tokens=result.extra_tokens or 0,
    )


def _given(value: _T | None) -> _T:
    """Return a column that every workload has."""
    if value is None:
        raise ValueError("a workload row lacks its type, passes, batch policy, grid or width")
    return value


def by_context(results: Iterable[Result]) -> Mapping[Context, Mapping[Size, tuple[Result, ...]]]:
    """Group timed results: contexts most asked for first, sizes small first."""
    groups: dict[Context, dict[Size, list[Result]]] = {}
    for result in results:
        context = context_of(result)
        if context is not None:
            groups.setdefault(context, {}).setdefault(size_of(result), []).append(result)
    return {
        context: {
            size: tuple(groups[context][size])
            for size in sorted(groups[context], key=lambda s: s.order)
        }
        for context in sorted(groups, key=lambda c: (c.hardware_id, c.order))
    }


def ordered_contexts(view: View) -> tuple[tuple[Context, Mapping[Size, tuple[Result, ...]]], ...]:
    """Return the timed results by context: best covered machine first, most asked for first."""
    machines = {hardware_id: number for number, hardware_id in enumerate(view.machines)}
    groups = by_context(view.results)
    order = sorted(groups, key=lambda c: (machines[c.hardware_id], c.order))
    return tuple((context, groups[context]) for context in order)
