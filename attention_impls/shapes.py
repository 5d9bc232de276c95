"""Sizes of one attention call. Imports no torch, so that plans and pages can use it."""

from dataclasses import dataclass, replace


class UnsupportedShape(ValueError):  # noqa: N818 - named for what is wrong
    """A variant was asked for a shape it cannot compute; the message lists every reason."""


def _require_positive(owner: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"{owner}: {name} is {size!r}, must be an integer >= 1")


@dataclass(frozen=True, slots=True)
class Grid:
    """Tokens laid out as rows x columns; a sequence is a grid of height 1."""

    height: int
    """Rows of tokens."""
    width: int
    """Columns of tokens."""

    def __post_init__(self) -> None:
        _require_positive("Grid", height=self.height, width=self.width)

    @property
    def tokens(self) -> int:
        """Number of grid positions (extra tokens not included)."""
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Sizes of one self-attention call: `x` is [batch, extra_tokens + grid.tokens, channels].

    Extra tokens (class tokens) come first on the token axis, as in ViT.
    """

    batch: int
    """Sequences per call."""
    grid: Grid
    """Layout of the spatial tokens."""
    heads: int
    """Number of attention heads."""
    head_dim: int
    """Channels per head."""
    extra_tokens: int = 0
    """Tokens without a place on the grid, first on the token axis."""
    causal: bool = False
    """Token i may attend only to tokens <= i."""

    def __post_init__(self) -> None:
        _require_positive(
            "AttentionShape", batch=self.batch, heads=self.heads, head_dim=self.head_dim
        )
        if type(self.grid) is not Grid:
            raise TypeError(
                f"AttentionShape: grid is {self.grid!r}, must be a Grid(height, width); "
                "a sequence is Grid(1, tokens)"
            )
        if type(self.causal) is not bool:
            raise TypeError(f"AttentionShape: causal is {self.causal!r}, must be True or False")
        if type(self.extra_tokens) is not int or self.extra_tokens < 0:
            raise ValueError(
                f"AttentionShape: extra_tokens is {self.extra_tokens!r}, must be an integer >= 0"
            )

    @property
    def tokens(self) -> int:
        """Tokens attended over: the grid plus the extra tokens."""
        return self.grid.tokens + self.extra_tokens

    @property
    def channels(self) -> int:
        """Width of the token stream."""
        return self.heads * self.head_dim

    def with_grid(self, grid: Grid) -> "AttentionShape":
        """Return the same sizes on another grid."""
        return replace(self, grid=grid)

    def with_batch(self, batch: int) -> "AttentionShape":
        """Return the same sizes with another batch."""
        return replace(self, batch=batch)
