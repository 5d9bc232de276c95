"""One document a run: who, when, with what, how quiet it was, and its files."""

from collections.abc import Iterator

from bench.table import RunEntry
from leaderboard.addresses import machine, results_document
from leaderboard.addresses import run as run_address
from leaderboard.blocks import Block, Disclosure, Document, Facts, Notice, Paragraph, Section
from leaderboard.format import count_of, day, listed, measure, percent, whole
from leaderboard.page import Page
from leaderboard.pieces import Code, Inline, Link, VariantName
from leaderboard.results import OUTCOME_WORDS, Result, View
from leaderboard.tables import Cell, Head, Row, Table


def _documents(view: View) -> Iterator[Document]:
    mine: dict[str, list[Result]] = {}
    for result in (*view.results, *view.superseded):
        mine.setdefault(result.run_id, []).append(result)
    current = {r.run_id for r in view.results}
    for entry in view.runs.values():
        run = entry.run
        title = view.machine_title(run.environment.hardware_id)
        yield Document(
            path=run_address(run.run_id),
            title=f"Run of {day(run.created)}, plan {run.plan}",
            summary=f"Run {run.run_id} on {title}: conditions, cells and files.",
            context=title,
            blocks=tuple(_blocks(view, entry, mine.get(run.run_id, []), run.run_id in current)),
        )


def _blocks(view: View, entry: RunEntry, results: list[Result], current: bool) -> Iterator[Block]:
    run = entry.run
    if results and not current:
        yield Notice(("Newer runs measured every case of this run again.",))
    if run.conditions.busy:
        yield Notice(("Other work ran on this machine meanwhile; its rows are marked.",), "warning")
    yield Facts(tuple(_facts(entry)))
    yield Disclosure("Packages and settings", (
        Facts(tuple((n, (v,)) for n, v in sorted(run.environment.packages.items()))),
        Facts(tuple((n, (Code(str(v)),)) for n, v in sorted(run.environment.settings.items()))),
    ))  # fmt: skip
    yield Section("cells", "Cells", (Paragraph((cells(entry),)), _variants(view, results)))
    yield Section("files", "Files, as recorded", (
        Paragraph((
            "The header lists the sha256 of the others; ", Code("attnbench check"),
            " verifies them.",
        ), "small"),
        _files(entry),
    ))  # fmt: skip


def _facts(entry: RunEntry) -> Iterator[tuple[str, Inline]]:
    run, conditions = entry.run, entry.run.conditions
    hardware_id = run.environment.hardware_id
    yield "Run", (Code(run.run_id),)
    yield "By", (run.submitted_by,)
    yield "Machine", (Link(run.environment.device_name, machine(hardware_id)),)
    yield "Plan", (run.plan, *((", only ", Code(run.only)) if run.only else ()))
    if run.commit:
        yield "Commit", (Code(run.commit[:12]), " with uncommitted changes" if run.dirty else "")
    else:
        yield "Commit", ("none: not a git checkout",)
    stale = ", stale" if entry.stale else ""
    yield "Suite", (f"{run.suite_version}, protocol {run.protocol.version}{stale}",)
    yield "torch", (run.environment.torch,)
    yield "Wall time", (measure("s", conditions.wall_s),)
    yield "Duty", (f"{percent(entry.duty)} inside measured calls",)
    yield "Noise floor", (noise(entry),)
    yield "Drift", (_drift(entry),)
    load = conditions.foreign_load
    busy = ", busy" if conditions.busy else ", quiet"
    yield "Other load", (f"{max(load):.2f} CPUs at most" if load else "not sampled", busy)


def noise(entry: RunEntry) -> str:
    """Return the noise floor of a run in words."""
    if entry.noise_floor is None:
        return "not known: too few pairs"
    words = f"{percent(entry.noise_floor)} interleaved"
    sequential = entry.noise_floor_sequential
    if sequential is not None:
        words += f"; one side after the other it would be {percent(sequential)}"
    return words


def _drift(entry: RunEntry) -> str:
    if entry.drift is None:
        return "not known"
    sign = "\N{MINUS SIGN}" if entry.drift.change < 0 else "+"
    return (
        f"{sign}{percent(abs(entry.drift.change))} from start to end, spread "
        f"{percent(entry.drift.spread)} over {count_of(entry.drift.visits, 'visit')}"
    )


def cells(entry: RunEntry) -> str:
    """Return how many cells ended how."""
    words = [f"{whole(entry.outcomes.get('ok', 0))} measured"]
    words += [
        f"{whole(number)} {OUTCOME_WORDS[kind]}"
        for kind, number in entry.outcomes.items()
        if kind in OUTCOME_WORDS and number
    ]
    return f"{listed(words)}."


def _variants(view: View, results: list[Result]) -> Table:
    documents: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        at = documents.setdefault(result.variant, {})
        at.setdefault(results_document(result), []).append(result)
    rows: list[Row] = []
    for variant, paths in sorted(documents.items()):
        every = [r for found in paths.values() for r in found]
        links: list[str | Link] = []
        for number, (path, found) in enumerate(sorted(paths.items())):
            links += [*((", ",) if number else ()), Link(_setting(found[0]), path)]
        rows.append(
            Row(
                (
                    Cell((VariantName(variant, view.title(variant)),), variant),
                    Cell((whole(sum(r.ok for r in every)),), sum(r.ok for r in every)),
                    Cell((whole(sum(not r.ok for r in every)),), sum(not r.ok for r in every)),
                    Cell(tuple(links)),
                )
            )
        )
    return Table(
        id="variants-table",
        caption="Results of this run",
        heads=(
            Head(title="Variant"),
            Head(title="Measured", number=True, secondary=True),
            Head(title="Failed", number=True, secondary=True),
            Head(title="Results", sortable=False, shape="text"),
        ),
        rows=tuple(rows),
        empty="No result of this run can be shown.",
        show_caption=False,
    )


def _setting(result: Result) -> str:
    backend = result.detail or result.backend
    if result.task is not None:
        return f"{backend} {result.task}"
    if result.stimulus == "frontier":
        return f"{backend} most tokens, {(result.passes or '').replace('_', ' and ')}"
    passes = (result.passes or "").replace("_", " and ")
    if result.stimulus == "images":
        return f"{backend} whole networks {passes}"
    policy = {"one": "", "token_budget": " token budget", "largest": " largest batch"}
    return f"{backend} {result.level} {passes}{policy.get(result.batch_policy or '', '')}"


def _files(entry: RunEntry) -> Table:
    return Table(
        id="files-table",
        caption="Files of this run",
        heads=(Head(title="File"), Head(title="sha256", secondary=True)),
        rows=(
            Row((
                Cell((Link("run.json", f"data/results/{entry.folder}/run.json", download=True),)),
                Cell(("lists the others",), tone="muted"),
            )),
            *(
                Row((
                    Cell((Link(name, f"data/results/{entry.folder}/{name}", download=True),)),
                    Cell((Code(digest),)),
                ))
                for name, digest in sorted(entry.run.files.items())
            ),
        ),
        empty="No file.",
        show_caption=False,
        sortable=False,
    )  # fmt: skip


PAGE = Page(title="Runs", path="history.html", order=None, documents=_documents)
