"""Every number as a file, with checksums; the results files as they are; what was refused."""

import hashlib
from collections.abc import Iterator
from typing import Any

from bench.table import ROW_TYPES
from leaderboard.addresses import run as run_address
from leaderboard.blocks import Block, CodeBlock, Document, Paragraph, Section
from leaderboard.downloads import table_files, view_files
from leaderboard.format import whole
from leaderboard.page import Page, RawFile
from leaderboard.pieces import Code, Link, prose
from leaderboard.refusals import refusals
from leaderboard.rendering import json_text
from leaderboard.results import View
from leaderboard.tables import Cell, Head, Row, Table

_COLUMN_HELP = {
    "run_id": "the run that measured the row; names its folder and its page",
    "hardware_id": "the machine; names its folder and its page",
    "device": "cpu or cuda",
    "variant": "the mechanism",
    "backend": "how it was executed: reference, or a faster execution of the same function",
    "options": "what differs from the variant's defaults",
    "level": "core (q, k and v given), layer (with projections) or model (a whole network)",
    "stimulus": "what the case was fed: workload, images, frontier or task",
    "passes": "forward, or forward_backward",
    "dtype": "data type of inputs and parameters",
    "batch": "sequences, or images, in one call",
    "batch_policy": "how the batch was chosen: one, token_budget, image_budget or largest",
    "grid_height": "rows of the grid of tokens; 1 for a sequence",
    "grid_width": "columns of the grid of tokens",
    "tokens": "tokens attended over, class tokens included",
    "resolution_px": "side of the image; missing for sequences",
    "heads": "heads of the layer",
    "head_dim": "channels of one head",
    "extra_tokens": "class tokens, which have no place on the grid",
    "causal": "each token attends to itself and those before",
    "backbone": "the whole network that was timed",
    "task": "the task that was trained",
    "seed": "of the training: initialisation and order of the data",
    "task_revision": "version of the task",
    "recipe_sha256": "digest of every number of the task's recipe",
    "data_sha256": "digest of all examples that were trained and tested on",
    "memory_budget_bytes": "of the search for the most tokens that fit",
    "outcome": "what became of the case: ok, or the kind of failure",
    "reason": "why a case failed, or why one metric is unavailable",
    "executed": "what PyTorch says that it ran, where it says so",
    "metric": "what value is a number of; described below",
    "unit": "base unit of value",
    "value": "median of the round medians, base unit",
    "low": "lower end of the 95 % interval",
    "high": "upper end of the 95 % interval",
    "p10": "a tenth of the samples is below",
    "p90": "a tenth of the samples is above",
    "samples": "how many, over all rounds",
    "rounds": "visits to the case",
    "bound": "what binds the efficiency's floor: compute, memory or overhead",
    "implausible": "faster than the machine's own ceilings; never ranked",
    "noise_floor": "|ln ratio| below which two latencies of the run are not told apart",
    "revision": "version of the variant's output and formula",
    "stale": "older revision or protocol; never ranked",
    "busy": "the machine was not quiet",
    "case_id": "what attnbench repro takes",
    "plan": "the plan that the run executed",
    "created": "start of the run, UTC",
    "tier": "how far the row can be trusted, see Methodology",
    "reproductions": "other accounts that measured the same and agree",
    "contradictions": "other accounts that measured the same and differ",
    "findings": "rules that found something about the row, its file or its run",
}
_TYPE_WORDS = {
    "object": "text",
    "Int64": "whole number",
    "int64": "whole number",
    "float64": "number",
    "boolean": "true or false",
    "bool": "true or false",
}


def _files(view: View) -> Iterator[RawFile]:
    every = (*_tables(view), *view_files(view), *_runs(view))
    yield from every
    lines = sorted(f"{hashlib.sha256(f.contents).hexdigest()}  {f.path}" for f in every)
    yield RawFile(path="data/SHA256SUMS", contents="".join(f"{x}\n" for x in lines).encode())


def _tables(view: View) -> Iterator[RawFile]:
    yield from table_files("data/results", view.table.rows)
    yield from table_files("data/history", view.table.history)
    fields: dict[str, Any] = {
        "columns": [
            {"name": n, "type": t, "help": _COLUMN_HELP[n]} for n, t in ROW_TYPES.items()
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


def _documents(view: View) -> Iterator[Document]:
    yield Document(
        path="data.html",
        title="Data",
        summary="Every number of this site as CSV, JSON and Parquet, with checksums.",
        blocks=tuple(_blocks(view)),
    )


def _blocks(view: View) -> Iterator[Block]:
    yield Paragraph(
        (
            (
                "Everything on these pages comes from the files below. Data: CC-BY-4.0. Times "
                "are in seconds, memory in bytes, shares in 0..1; a missing value is empty, never "
                "0. Digests of all files: "
            ),
            Link("SHA256SUMS", "data/SHA256SUMS", download=True),
            ".",
        ),
        "lead",
    )
    yield Section("tables", "One row per case and metric", (
        _whole(view),
        Paragraph((
            ("JSON holds one list a column. Under every table and figure stand the same rows of "
             "just that machine and context."),
        ), "small"),
        CodeBlock('import pandas\n\nrows = pandas.read_parquet("data/results.parquet")\n'
                  'rows[rows.metric == "latency"].sort_values("value")'),
    ))  # fmt: skip
    yield Section("runs", "Runs, as recorded", (
        Paragraph((
            ("Each run has a header with its environment, ceilings and noise, and one file a "
             "variant with every sample. The header lists the sha256 of the others. "),
            Code("attnbench check"), " verifies them.",
        )),
        _run_table(view),
    ))  # fmt: skip
    yield Section("columns", "Columns", (
        _columns(),
        Paragraph(("As a file: ", Link("columns.json", "data/columns.json", download=True), ".")),
    ))  # fmt: skip
    yield Section("metrics", "Metrics", (_metrics(view),))
    yield Section("refused", "Refused", (refusals(view),))


def _whole(view: View) -> Table:
    rows: list[Row] = []
    for name, words, frame in (
        ("results", "newest run of each case on each machine", view.table.rows),
        ("history", "rows that a newer run replaced", view.table.history),
    ):
        for form in ("csv", "json", "parquet"):
            file = f"{name}.{form}"
            link = Link(file, f"data/{file}", download=True)
            rows.append(
                Row((Cell((link,)), Cell((words,)), Cell((whole(len(frame)),), len(frame))))
            )
    return Table(
        id="tables-table",
        caption="The whole",
        heads=(Head(title="File"), Head(title="Holds"), Head(title="Rows", number=True)),
        rows=tuple(rows),
        empty="",
        show_caption=False,
        sortable=False,
    )


def _run_table(view: View) -> Table:
    return Table(
        id="runs-table",
        caption="Runs and their files",
        heads=(
            Head(title="Run"),
            Head(title="Machine", secondary=True),
            Head(title="Header"),
            Head(title="Files", number=True),
        ),
        rows=tuple(
            Row(
                (
                    Cell((Link(e.run.run_id, run_address(e.run.run_id)),), e.run.created),
                    Cell((e.run.environment.hardware_id,)),
                    Cell((Link("run.json", f"data/results/{e.folder}/run.json", download=True),)),
                    Cell((whole(1 + len(e.run.files)),), 1 + len(e.run.files)),
                )
            )
            for e in view.table.runs
        ),
        empty="No run has been recorded yet.",
        show_caption=False,
    )


def _columns() -> Table:
    return Table(
        id="columns-table",
        caption="Columns of results.csv and history.csv",
        heads=(
            Head(title="Column"),
            Head(title="Type", secondary=True),
            Head(title="Meaning"),
        ),
        rows=tuple(
            Row(
                (
                    Cell((Code(name),), name),
                    Cell((_TYPE_WORDS[kind],)),
                    Cell((_COLUMN_HELP[name],)),
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
            Head(title="Better", secondary=True),
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


PAGE = Page(
    title="Data",
    path="data.html",
    order=53,
    documents=_documents,
    files=_files,
    about="Every number as CSV, JSON and Parquet, with checksums.",
)
