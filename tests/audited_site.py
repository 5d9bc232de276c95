"""A built site beside what was measured, and how its addresses spell places."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import recount
from built_page import BuiltPage, PageTable, TableCell, says
from leaderboard.build import build
from recount import Cell, Known, Stat

from bench.catalogue import Catalogue
from bench.tabulation import load_table

DASH = "\N{EN DASH}"
KINDS = ("exact", "approximate", "own")
WORDS = {
    "incorrect": "incorrect", "unsupported": "unsupported", "out_of_memory": "out of memory",
    "timed_out": "timed out", "crashed": "crashed", "diverged": "diverged", "not_run": "not run",
}  # fmt: skip


@dataclass(frozen=True)
class Audit:
    """A built site beside what was measured."""

    out: Path
    runs: Sequence[Mapping[str, Any]]
    cells: Sequence[Cell]
    known: Mapping[str, Known]

    @property
    def current(self) -> list[Cell]:
        return [c for c in self.cells if c.current]

    @property
    def timed(self) -> list[Cell]:
        return [c for c in self.current if c.stimulus == "workload"]

    def page(self, path: str) -> BuiltPage:
        return _page(self.out / path)


@cache
def _page(file: Path) -> BuiltPage:
    return BuiltPage(file)


def known_of(found: Catalogue) -> dict[str, Known]:
    def kind(family: str, traits: Mapping[str, bool]) -> str:
        if family == "softmax":
            return "exact"
        return "approximate" if traits["approximates_softmax"] else "own"

    return {
        v.name: Known(kind(v.family, v.traits), v.title, v.revision, v.order, v.streams)
        for v in found.variants
    }


def audit_of(root: Path, out: Path, found: Catalogue) -> Audit:
    build(load_table(root, found), out)
    runs, cells = recount.read(root, known_of(found))
    return Audit(out, runs, cells, known_of(found))


# Places -------------------------------------------------------------------------------------------


def context(c: Cell) -> tuple[str, str]:
    """Machine, and the rest as addresses spell it."""
    of = c.of
    words = (of["dtype"], of["passes"], c.level, of["batch_policy"])
    mask = "-causal" if of["causal"] else ""
    rest = "-".join(words).replace("_", "-")
    return c.machine, f"{rest}-h{of['heads']}d{of['head_dim']}{mask}"


def size(c: Cell) -> str:
    height, width = c.of["grid"]["height"], c.of["grid"]["width"]
    px, extra = c.of.get("resolution_px"), c.of["extra_tokens"]
    usual = px is not None and height == width == px // 16
    words = f"{px}px" if usual else f"{f'{px}px-' if px else ''}{height}x{width}"
    return f"{words}-plus{extra}" if extra else words


def kind_of_size(c: Cell) -> str:
    if c.of.get("resolution_px") is not None:
        return "images"
    return "sequences" if c.of["grid"]["height"] == 1 else "grids"


def along(audit: Audit) -> Iterator[tuple[str, dict[tuple[str, str, str], dict[int, Cell]]]]:
    """Address of every context and kind of sizes, with its executions by tokens."""
    one = [c for c in audit.timed if c.of["batch_policy"] == "one"]
    for ((machine, words), kind), cells in recount.grouped(
        one, lambda c: (context(c), kind_of_size(c))
    ).items():
        if kind != "grids" and len({c.tokens for c in cells}) > 1:
            lines = recount.grouped(cells, lambda c: (c.variant, c.backend, c.options))
            yield (
                f"{machine}/{words}/{kind}.html",
                {key: {c.tokens: c for c in of} for key, of in lines.items()},
            )


def rows_by_name(table: PageTable, column: int = 0) -> dict[str, list[TableCell]]:
    return {row[column].order or "": row for row in table.rows}


def wrong(cell: TableCell, stat: Stat | None, unit: str | None = None) -> bool:
    return cell.text != DASH if stat is None else not says(cell.text, stat.value, unit)


def ends_wrong(text: str, stat: Stat, unit: str) -> bool:
    if stat.low is None or stat.high is None:
        return text != DASH
    low, _, high = text.partition(" to ")
    return not (says(low, stat.low, unit) and says(high, stat.high, unit))
