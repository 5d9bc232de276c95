"""What figures, charts and pictures are made of; figures.py and charts.py make them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from leaderboard.pieces import Inline
from leaderboard.tables import Table


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One line of a figure's key."""

    variant: str
    name: str
    """Stable name in addresses, unique within the figure."""
    text: str
    series: tuple[int, ...]
    """Numbers of the traces that it switches."""
    shown: bool
    main: bool
    """Filled marker; another execution than the reference has an open one."""
    folded: bool = False
    """Shown, but named behind a summary: there are more that matter."""

    @property
    def first(self) -> bool:
        """Stands in the key itself."""
        return self.shown and not self.folded


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with its finding, its key, its data as a table and as a file."""

    kind: ClassVar[str] = "figure"
    id: str
    title: str
    finding: str
    """One sentence, computed from the data."""
    drawing: Mapping[str, Any]
    """What the script draws; colours are names of style variables."""
    key: tuple[KeyEntry, ...]
    data: Table
    csv_path: str
    """Path of the data file from the root of the site."""
    csv_text: str
    """Contents of the data file."""


@dataclass(frozen=True, slots=True)
class ChartBar:
    """An upright interval."""

    x: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartLine:
    """One line of a chart as geometry."""

    colour_class: str
    dash_class: str
    symbol: str
    path: str
    """SVG path data; empty: points only."""
    dots: tuple[tuple[float, float], ...]
    bars: tuple[ChartBar, ...]
    faint: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Lines as geometry: complete without scripts."""

    title: str
    description: str
    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float
    x_ticks: tuple[tuple[float, str], ...]
    """(position, text)."""
    y_ticks: tuple[tuple[float, str], ...]
    x_title: str
    y_title: str
    lines: tuple[ChartLine, ...]
    level: tuple[float, str] | None
    """A horizontal line to compare with, and what it is."""


@dataclass(frozen=True, slots=True)
class ChartKey:
    """What one look means."""

    text: str
    colour_class: str
    dash_class: str
    symbol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """Charts beside each other, with one key and their data as a file."""

    kind: ClassVar[str] = "charts"
    id: str
    title: str
    note: str
    charts: tuple[Chart, ...]
    key: tuple[ChartKey, ...]
    small: bool
    csv_path: str
    """Path of the data file from the root of the site."""
    csv_text: str
    """Contents of the data file."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One entry of a matrix."""

    x: int
    y: int
    negative: bool
    strength: float
    """0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """A matrix as squares."""

    title: str
    width: int
    height: int
    tiles: tuple[Tile, ...]
    marked: tuple[int, int] | None
    """(column, row) that it is about."""
    range_text: str
    """Least and largest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileRow:
    """Pictures that belong together, and whose they are."""

    name: Inline
    pictures: tuple[Tiles, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Matrices as pictures, a row of them for each owner."""

    kind: ClassVar[str] = "gallery"
    id: str
    title: str
    note: str
    rows: tuple[TileRow, ...]
