"""Every number as a file, with checksums; the results files as they are; what was refused."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pandas

from bench.table import ROW_TYPES
from leaderboard.blocks import (
    Block,
    Cell,
    Code,
    CodeBlock,
    Document,
    Head,
    Link,
    Paragraph,
    Row,
    Section,
    Table,
    prose,
)
from leaderboard.csvfile import csv_text
from leaderboard.format import count_of, measure
from leaderboard.page import Page, RawFile
from leaderboard.rendering import json_text
from leaderboard.results import View

_COLUMN_HELP = {
    "value": "median of the round medians, base unit",
    "low": "lower end of the 95 % interval",
    "high": "upper end of the 95 % interval",
    "noise_floor": "|ln ratio| below which two latencies of the run are not told apart",
    "bound": "what binds the efficiency's floor",
    "reason": "why a case failed, or why one metric is unavailable",
    "options": "what differs from the variant's defaults",
    "stale": "older revision or protocol; never ranked",
    "busy": "the machine was not quiet",
    "implausible": "faster than the machine's own ceilings; never ranked",
}


def _files(view: View) -> Iterator[RawFile]:
    yield from _tables(view)
    yield from _runs(view)


def _tables(view: View) -> Iterator[RawFile]:
    for name, frame in (("results", view.table.rows), ("history", view.table.history)):
        records = _records(frame)
        text = csv_text(tuple(ROW_TYPES), ([r[c] for c in ROW_TYPES] for r in records))
        yield RawFile(path=f"data/{name}.csv", contents=text.encode())
        lines = ",\n".join(
            json.dumps(r, sort_keys=True, ensure_ascii=False, allow_nan=False) for r in records
        )
        yield RawFile(path=f"data/{name}.json", contents=f"[\n{lines}\n]\n".encode())
    fields: dict[str, Any] = {
        "columns": [
            {"name": n, "type": t, "help": _COLUMN_HELP.get(n)} for n, t in ROW_TYPES.items()
        ],
        "metrics": [
            {"name": c.name, "title": c.title, "unit": c.unit, "better": c.better, "help": c.help,
             "derived": c.derived, "varies": c.varies}
            for c in view.table.columns
        ],
    }  # fmt: skip
    yield RawFile(path="data/columns.json", contents=json_text(fields).encode())


def _runs(view: View) -> Iterator[RawFile]:
    """The files of results/ that the table was made of, unchanged."""
    for entry in view.table.runs:
        for name in ("run.json", *sorted(entry.run.files)):
            path = view.table.root / entry.folder / name
            yield RawFile(path=f"data/results/{entry.folder}/{name}", contents=path.read_bytes())
    schema = view.table.root / "schema.json"
    if schema.is_file():
        yield RawFile(path="data/results/schema.json", contents=schema.read_bytes())


def _records(frame: pandas.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(k): None if not isinstance(v, str) and pandas.isna(v) else v for k, v in row.items()}
        for row in frame.to_dict("records")
    ]


def _documents(view: View) -> Iterator[Document]:
    yield Document(
        path="data.html",
        title="Data",
        summary="Every number of this site as CSV and JSON, with checksums.",
        blocks=tuple(_blocks(view)),
    )


def _blocks(view: View) -> Iterator[Block]:
    yield Paragraph(
        (
            (
                "Everything on these pages comes from the files below. Data: CC-BY-4.0. Times "
                "are in "
                "seconds, memory in bytes, shares in 0..1; a missing value is empty, never 0."
            ),
        ),
        "lead",
    )
    yield Section("tables", "One row per case and metric", (
        _file_table("tables-table", tuple(_tables(view))),
        CodeBlock('import pandas\n\nrows = pandas.read_csv("data/results.csv")\n'
                  'rows[rows.metric == "latency"].sort_values("value")'),
    ))  # fmt: skip
    runs = tuple(_runs(view))
    yield Section("runs", "Runs, as recorded", (
        Paragraph((
            ("Each run has a header with its environment, ceilings and noise, and one file a "
             "variant "
            "with every sample. The header lists the sha256 of the others. "),
            Code("attnbench check"), " verifies them.",
        )),
        _file_table("runs-table", runs),
    ))  # fmt: skip
    yield Section("columns", "Columns", (_columns(),))
    yield Section("metrics", "Metrics", (_metrics(view),))
    yield Section("refused", "Refused", (_refused(view),))


def _file_table(id_: str, files: tuple[RawFile, ...]) -> Table:
    return Table(
        id=id_,
        caption="Files with their size and checksum",
        heads=(
            Head(title="File"),
            Head(title="Size", number=True),
            Head(title="sha256", secondary=True),
        ),
        rows=tuple(
            Row(
                (
                    Cell((Link(f.path.removeprefix("data/"), f.path, download=True),), f.path),
                    Cell((measure("byte", len(f.contents)),), len(f.contents)),
                    Cell((Code(hashlib.sha256(f.contents).hexdigest()),)),
                )
            )
            for f in files
        ),
        empty="No run has been recorded yet.",
        show_caption=False,
    )


def _columns() -> Table:
    return Table(
        id="columns-table",
        caption="Columns of results.csv and history.csv",
        heads=(Head(title="Column"), Head(title="Type"), Head(title="Meaning")),
        rows=tuple(
            Row(
                (
                    Cell((Code(name),), name),
                    Cell((kind,)),
                    Cell((_COLUMN_HELP.get(name, ""),)),
                )
            )
            for name, kind in ROW_TYPES.items()
        ),
        empty="",
        show_caption=False,
        sortable=False,
    )


def _metrics(view: View) -> Table:
    return Table(
        id="metrics-table",
        caption="Metrics",
        heads=(
            Head(title="Metric"),
            Head(title="Unit"),
            Head(title="Better"),
            Head(title="Meaning"),
        ),
        rows=tuple(
            Row(
                (
                    Cell((Code(c.name),), c.name),
                    Cell((c.unit,)),
                    Cell((c.better or "neither",)),
                    Cell((*prose(c.help), *((" Derived, not stored.",) if c.derived else ()))),
                )
            )
            for c in view.table.columns
        ),
        empty="No metric is known.",
        show_caption=False,
        sortable=False,
    )


def _refused(view: View) -> Table:
    return Table(
        id="refused-table",
        caption=f"{count_of(len(view.table.refused), 'file')} refused",
        heads=(Head(title="Path"), Head(title="Reason")),
        rows=tuple(Row((Cell((Code(r.path),)), Cell((r.reason,)))) for r in view.table.refused),
        empty="Every file below results/ was accepted.",
        show_caption=False,
        sortable=False,
    )


PAGE = Page(title="Data", path="data.html", order=9, documents=_documents, files=_files)
