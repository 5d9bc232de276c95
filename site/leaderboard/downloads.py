"""Rows as files: CSV for spreadsheets, JSON by columns, Parquet; the whole and each view."""

import io
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pandas

from bench.table import ROW_TYPES
from leaderboard.addresses import of_context
from leaderboard.blocks import Paragraph
from leaderboard.contexts import Context, slug
from leaderboard.csvfile import csv_text
from leaderboard.page import RawFile
from leaderboard.pieces import Link
from leaderboard.results import View, plain_column

LICENCE = "CC-BY-4.0"
_CONTEXT_COLUMNS = (
    "hardware_id", "dtype", "passes", "level", "batch_policy", "heads", "head_dim", "causal",
)  # fmt: skip
_FORMS = (("CSV", "csv"), ("JSON", "json"), ("Parquet", "parquet"))


def context_base(context: Context) -> str:
    """Return where the rows of one context lie, without the ending."""
    return f"data/views/{of_context('timed', context).removesuffix('.html')}"


def task_base(task: str) -> str:
    """Return where the rows of one task lie, without the ending."""
    return f"data/views/tasks/{slug(task)}"


def frontier_base(hardware_id: str) -> str:
    """Return where the searches for the largest size on one machine lie, without the ending."""
    return f"data/views/frontier/{slug(hardware_id)}"


def networks_base(hardware_id: str) -> str:
    """Return where the whole networks of one machine lie, without the ending."""
    return f"data/views/networks/{slug(hardware_id)}"


def links(*bases: tuple[str, str]) -> Paragraph:
    """Return a line that leads to the rows behind a view.

    Args:
        bases: what each file holds, and its place without the ending.
    """
    pieces: list[str | Link] = []
    for words, base in bases:
        pieces.append(f"{' ' if pieces else ''}{words} as ")
        for number, (title, ending) in enumerate(_FORMS):
            pieces += [*((", ",) if number else ()), Link(title, f"{base}.{ending}", download=True)]
        pieces.append(".")
    return Paragraph(tuple(pieces), "small")


def table_files(base: str, frame: pandas.DataFrame) -> Iterator[RawFile]:
    """Yield rows in every form."""
    columns = {name: plain_column(frame[name]) for name in ROW_TYPES}
    text = csv_text(tuple(ROW_TYPES), zip(*columns.values(), strict=True))
    yield RawFile(path=f"{base}.csv", contents=text.encode())
    document = {"licence": LICENCE, "rows": len(frame), "columns": columns}
    packed = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    yield RawFile(path=f"{base}.json", contents=f"{packed}\n".encode())
    yield RawFile(path=f"{base}.parquet", contents=_parquet(columns))


@cache
def _parquet_types() -> Mapping[str, Any]:
    import pyarrow  # noqa: PLC0415 - takes long to load, and only here

    kinds = {
        "object": pyarrow.string(), "Int64": pyarrow.int64(), "int64": pyarrow.int64(),
        "float64": pyarrow.float64(), "boolean": pyarrow.bool_(), "bool": pyarrow.bool_(),
    }  # fmt: skip
    return {name: kinds[kind] for name, kind in ROW_TYPES.items()}


def _parquet(columns: Mapping[str, list[Any]]) -> bytes:
    import pyarrow  # noqa: PLC0415 - idem
    import pyarrow.parquet  # noqa: PLC0415 - idem

    schema = pyarrow.schema(list(_parquet_types().items()), metadata={"licence": LICENCE})
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns), schema=schema), out)
    return out.getvalue()


def view_files(view: View) -> Iterator[RawFile]:
    """Yield the rows behind every page: by context, by task, networks and searches by machine."""
    rows = view.table.rows
    timed = rows[rows["stimulus"] == "workload"]
    for key, group in timed.groupby(list(_CONTEXT_COLUMNS), sort=True, dropna=False):
        cells = dict(zip(_CONTEXT_COLUMNS, key, strict=True))
        context = Context(
            hardware_id=str(cells["hardware_id"]),
            dtype=str(cells["dtype"]),
            passes=str(cells["passes"]),
            level=str(cells["level"]),
            batch_policy=str(cells["batch_policy"]),
            heads=int(str(cells["heads"])),
            head_dim=int(str(cells["head_dim"])),
            causal=bool(cells["causal"]),
        )
        yield from table_files(context_base(context), group)
    for task, group in rows[rows["task"].notna()].groupby("task", sort=True):
        yield from table_files(task_base(str(task)), group)
    networks = rows[rows["stimulus"] == "images"]
    for hardware_id, group in networks.groupby("hardware_id", sort=True):
        yield from table_files(networks_base(str(hardware_id)), group)
    searched = rows[rows["stimulus"] == "frontier"]
    for hardware_id, group in searched.groupby("hardware_id", sort=True):
        yield from table_files(frontier_base(str(hardware_id)), group)
