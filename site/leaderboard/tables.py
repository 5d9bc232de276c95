"""What a table is made of: all of it stands in the page, and scripts only sort and filter it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from leaderboard.pieces import Inline


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Head of a table column."""

    title: str
    unit: str | None = None
    """Second line of the head."""
    help: str | None = None
    number: bool = False
    """Right-aligned and sorted as a number, missing values last in both directions."""
    ordered: bool = False
    """Sorted as a number though it reads as text."""
    sortable: bool = True
    secondary: bool = False
    """Left out on phones until the reader asks for all columns."""
    shape: Literal[
        "rank", "name", "number", "interval", "strip", "state", "text", "trust", "when", "free"
    ] = "free"
    """Width of the column in tables that align with each other."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell."""

    content: Inline
    order: str | float | None = None
    """What it sorts by; None: by its text, and for numbers: last."""
    tone: Literal["plain", "failure", "muted", "best", "state"] = "plain"


@dataclass(frozen=True, slots=True)
class Row:
    """One row; the first cell that is not a rank names it."""

    cells: tuple[Cell, ...]
    tone: Literal["plain", "baseline", "failed", "stale"] = "plain"
    id: str | None = None
    """Where links to it lead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, complete without scripts."""

    kind: ClassVar[str] = "table"
    id: str
    caption: str
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    empty: str
    """What stands in place of a table without rows."""
    name_column: int = 0
    """Which column names the row."""
    show_caption: bool = True
    sortable: bool = True
    aligned: bool = False
    """Fixed column widths, so that tables under each other align."""
    sticky: bool = False
    """The first column stays in view while the others scroll."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A dense table of short texts: rows of strings, the first names the row."""

    kind: ClassVar[str] = "matrix"
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
