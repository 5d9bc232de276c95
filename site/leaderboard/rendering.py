"""Documents to HTML text. Everything is escaped; nothing is marked safe."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from leaderboard.blocks import (
    Block,
    Chooser,
    Disclosure,
    Document,
    Filter,
    Island,
    Section,
    Subsection,
)
from leaderboard.drawings import Figure as FigureBlock
from leaderboard.marks import COLOURS, DASHES, Mark
from leaderboard.pieces import Ticks
from leaderboard.tables import Table

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'"
)
"""Inline styles are allowed because plotly sets them; nothing else may come from elsewhere."""

_SYMBOL_PATHS = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "square": "M-3.5-3.5h7v7h-7z",
    "diamond": "M0-4.8 4.8 0 0 4.8-4.8 0z",
    "triangle-up": "M0-4.5 4.5 3.3h-9z",
    "triangle-down": "M0 4.5 4.5-3.3h-9z",
    "pentagon": "M0-4.5 4.3-1.4 2.6 3.6h-5.2L-4.3-1.4z",
    "star": "M0-5.2 1.5-1.6 5.2-1.4 2.3 1 3.2 4.6 0 2.6-3.2 4.6-2.3 1-5.2-1.4-1.5-1.600z",
    "hexagon": "M-4 2.300V-2.300L0-4.6 4-2.300V2.300L0 4.600z",
    "cross": "M-1.6-4.600h3.200v3h3v3.200h-3v3h-3.200v-3h-3v-3.200h3z",
    "x": "M-4.5-2.5-2.5-4.5 0-2 2.5-4.5 4.5-2.5 2 0 4.5 2.5 2.5 4.5 0 2-2.5 4.5-4.5 2.5-2 0z",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NavigationEntry:
    """One link of the head."""

    title: str
    path: str
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all documents of a site share."""

    marks: Mapping[str, Mark]
    navigation: tuple[tuple[str, str], ...]
    """(title, path) of the pages in the head."""
    more: tuple[tuple[str, str], ...]
    """(title, path) of the pages under More."""
    feed: bool
    """There is an Atom feed."""
    footer: str
    plotly: str
    """File name of the figure library."""
    datatables: str
    """File name of the table library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Symbol:
    name: str
    path: str


def web_address(url: str) -> str | None:
    """Return `url` if it is an absolute http(s) address; None: it is printed as text."""
    parts = urlsplit(url.strip())
    return url.strip() if parts.scheme in ("http", "https") and parts.netloc else None


def sort_key(value: str | float) -> str:
    """Return what a cell sorts by: six digits decide, more would only weigh."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def tick_path(ticks: Ticks) -> str:
    """Return the path of all samples of a round, as short upright lines."""
    return "".join(f"M{4 + 232 * at:.1f} 5v8" for at in ticks.at)


def coordinate(value: float) -> str:
    """Return a place in a drawing: tenths can be seen, more would only weigh."""
    return f"{value:.1f}".removesuffix(".0")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    environment.filters["sort_key"] = sort_key
    environment.filters["tick_path"] = tick_path
    environment.filters["coordinate"] = coordinate
    environment.policies["json.dumps_kwargs"] = {
        "sort_keys": True, "separators": (",", ":"), "allow_nan": False, "ensure_ascii": False,
    }  # fmt: skip
    return environment


def html(document: Document, around: Surroundings) -> str:
    """Return the text of one document."""
    blocks = within(document.blocks)
    islands = [b for b in blocks if isinstance(b, Island)]
    figures = any(isinstance(b, FigureBlock) for b in blocks)
    draws = figures or any(island.draws for island in islands)
    tables = figures or any(
        (isinstance(b, Table) and b.sortable and bool(b.rows)) or isinstance(b, Filter)
        for b in blocks
    )
    choosers = any(isinstance(b, Chooser) for b in blocks)
    return (
        _environment()
        .get_template("document.html")
        .render(
            document=document,
            web_address=web_address,
            root="../" * document.path.count("/"),
            content_security_policy=CONTENT_SECURITY_POLICY,
            navigation=_entries(document.path, around.navigation),
            more=_entries(document.path, around.more),
            has_feed=around.feed,
            footer=around.footer,
            marks=around.marks,
            symbols=tuple(_Symbol(name=n, path=p) for n, p in sorted(_SYMBOL_PATHS.items())),
            vendor={"tables": around.datatables, "figures": around.plotly},
            has_state=tables or choosers or draws or bool(islands),
            has_tables=tables,
            has_choosers=choosers,
            has_figures=draws,
            scripts=tuple(dict.fromkeys(s for island in islands for s in island.scripts)),
        )
    )


def marks_css() -> str:
    """Return the style sheet of the marks: `--mark` per colour class, `--cN` for figures."""
    light = "".join(f"--c{n}:{pair[0]};" for n, pair in enumerate(COLOURS))
    dark = "".join(f"--c{n}:{pair[1]};" for n, pair in enumerate(COLOURS))
    classes = "".join(f".c{n}{{--mark:var(--c{n})}}\n" for n in range(len(COLOURS)))
    arrays = {"solid": "none", "dash": "5 3", "dot": "1.5 2.5", "dashdot": "5 2.5 1.5 2.5"}
    dashes = "".join(
        f".d{n} line,.d{n} .curve{{stroke-dasharray:{arrays[d]}}}\n" for n, d in enumerate(DASHES)
    )
    return (
        f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root:not([data-theme=light])"
        f"{{{dark}}}}}\n:root[data-theme=dark]{{{dark}}}\n{classes}{dashes}"
    )


def json_text(value: object) -> str:
    """Return JSON for files: sorted, readable line by line, no NaN."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _entries(path: str, links: tuple[tuple[str, str], ...]) -> tuple[NavigationEntry, ...]:
    return tuple(
        NavigationEntry(title=title, path=to, current=_is_at(path, to)) for title, to in links
    )


def _is_at(path: str, entry: str) -> bool:
    return path == entry or path.split("/")[0] == entry.removesuffix(".html").split("/")[0]


def within(blocks: tuple[Block, ...]) -> list[Block]:
    """Return all blocks, nested ones too, in order."""
    found: list[Block] = []
    for block in blocks:
        found.append(block)
        if isinstance(block, Section | Subsection | Disclosure | Island):
            found += within(block.blocks)
        elif isinstance(block, Chooser):
            for panel in block.panels:
                found += within(panel.blocks)
    return found
