"""Runs as they came, what they changed, and what they replaced; as an Atom feed, too."""

import uuid
from collections import Counter
from collections.abc import Iterator
from xml.etree import ElementTree

from bench.table import RunEntry
from leaderboard.addresses import machine, ranking, result_address
from leaderboard.addresses import run as run_address
from leaderboard.blocks import Block, Document, Paragraph, Section
from leaderboard.contexts import LEVEL_WORDS, PASSES_WORDS, POLICY_WORDS
from leaderboard.format import count_of, day, measure, minute, whole
from leaderboard.page import Page, RawFile
from leaderboard.pieces import Link, VariantName
from leaderboard.ranking import ranks_by
from leaderboard.records import Change, changes
from leaderboard.results import Result, View
from leaderboard.tables import Cell, Head, Row, Table

_FEED = "feed.xml"
_ATOM = "http://www.w3.org/2005/Atom"
_MOST_CHANGES = 400
"""Changes of a lead that the page lists, newest first."""
_MOST_ENTRIES = 100


def _documents(view: View) -> Iterator[Document]:
    found = tuple(changes(view))
    blocks: list[Block] = [
        Paragraph(
            (
                (
                    "Results are only ever added. A newer run of the same case on the same machine "
                    "takes its place in the rankings; the older one keeps its page. "
                ),
                *((Link("Atom feed", _FEED), ".") if view.runs else ()),
            ),
            "lead",
        ),
        Section("runs", "Runs, newest first", (_runs(view),)),
        Section("leads", "Changes of a lead", tuple(_leads(view, found))),
    ]
    yield Document(
        path="history.html",
        title="History",
        summary="Runs as they came, what they changed, and what they replaced.",
        blocks=tuple(blocks),
    )


def _newest_first(view: View) -> list[RunEntry]:
    return sorted(view.runs.values(), key=lambda e: (e.run.created, e.run.run_id), reverse=True)


def _runs(view: View) -> Table:
    current = Counter(r.run_id for r in view.results)
    replaced = Counter(r.run_id for r in view.superseded)
    rows: list[Row] = []
    for entry in _newest_first(view):
        run = entry.run
        hardware_id = run.environment.hardware_id
        mine, gone = current[run.run_id], replaced[run.run_id]
        rows.append(
            Row(
                (
                    Cell((Link(minute(run.created), run_address(run.run_id)),), run.created),
                    Cell((Link(view.machine_title(hardware_id), machine(hardware_id)),)),
                    Cell((run.plan,)),
                    Cell((run.submitted_by,)),
                    Cell((whole(mine),), mine),
                    Cell((whole(gone),), gone),
                )
            )
        )
    return Table(
        id="runs-table",
        caption="Runs, newest first",
        heads=(
            Head(title="Run", unit="UTC", shape="when"),
            Head(title="Machine"),
            Head(title="Plan", secondary=True),
            Head(title="By", secondary=True),
            Head(title="Current cells", number=True, help="Not measured again by a newer run."),
            Head(title="Replaced", number=True, secondary=True,
                 help="Measured again by a newer run on the same machine."),
        ),
        rows=tuple(rows),
        empty="No run has been recorded yet.",
        show_caption=False,
    )  # fmt: skip


def _leads(view: View, found: tuple[Change, ...]) -> Iterator[Block]:
    yield Paragraph(
        (
            (
                "A lead changes when the leader so far, as it then stands, no longer shares the "
                "first rank of its ranking."
            ),
        ),
        "small",
    )
    shown = found[::-1][:_MOST_CHANGES]
    if len(found) > len(shown):
        yield Paragraph((f"The newest {whole(len(shown))} of {whole(len(found))}.",), "small")
    rows: list[Row] = []
    for change in shown:
        context = change.context
        words = (
            f"{change.size.title}, {PASSES_WORDS[context.passes]}, {LEVEL_WORDS[context.level]}, "
            f"{POLICY_WORDS[context.batch_policy]}"
        )
        rows.append(
            Row(
                (
                    Cell(
                        (Link(minute(change.created), run_address(change.run_id)),), change.created
                    ),
                    Cell((Link(words, ranking(context, change.size)),)),
                    Cell((view.machine_title(context.hardware_id),)),
                    _leader(view, change, change.before),
                    _leader(view, change, change.after),
                )
            )
        )
    yield Table(
        id="leads-table",
        caption="Changes of a lead, newest first",
        heads=(
            Head(title="Run", unit="UTC"),
            Head(title="Ranking"),
            Head(title="Machine", secondary=True),
            Head(title="Before"),
            Head(title="After"),
        ),
        rows=tuple(rows),
        empty="No lead has changed yet.",
        show_caption=False,
    )


def _leader(view: View, change: Change, result: Result) -> Cell:
    metric, _ = ranks_by(change.context.batch_policy)
    value = measure("s" if metric == "latency" else "token/s", result.numbers[metric].value)
    name = VariantName(result.variant, view.title(result.variant), result.detail)
    return Cell((name, " ", Link(value, result_address(result))))


# Feed ---------------------------------------------------------------------------------------------


def _files(view: View) -> Iterator[RawFile]:
    runs = _newest_first(view)
    if not runs:
        return
    found = Counter(change.run_id for change in changes(view))
    ElementTree.register_namespace("", _ATOM)
    feed = ElementTree.Element(f"{{{_ATOM}}}feed")
    _add(feed, "title", "attnbench: results")
    _add(feed, "id", _identifier("feed"))
    _add(feed, "updated", runs[0].run.created)
    _add(feed, "link", href=_FEED, rel="self", type="application/atom+xml")
    _add(feed, "link", href="history.html", rel="alternate", type="text/html")
    author = ElementTree.SubElement(feed, f"{{{_ATOM}}}author")
    _add(author, "name", "The attnbench authors")
    for entry in runs[:_MOST_ENTRIES]:
        run = entry.run
        item = ElementTree.SubElement(feed, f"{{{_ATOM}}}entry")
        title = view.machine_title(run.environment.hardware_id)
        _add(item, "title", _text(f"Run of {day(run.created)} on {title}, plan {run.plan}"))
        _add(item, "id", _identifier(run.run_id))
        _add(item, "updated", run.created)
        _add(item, "link", href=run_address(run.run_id), rel="alternate", type="text/html")
        cells = count_of(sum(entry.outcomes.values()), "cell")
        leads = count_of(found[run.run_id], "change of a lead", "changes of a lead")
        measured = f"{whole(entry.outcomes.get('ok', 0))} measured"
        _add(item, "summary", f"{cells}, {measured}; {leads}.")
    ElementTree.indent(feed)
    yield RawFile(
        path=_FEED, contents=ElementTree.tostring(feed, encoding="utf-8", xml_declaration=True)
    )


def _identifier(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"attnbench:{name}").urn


def _text(words: str) -> str:
    """Text without the characters that XML cannot hold."""
    return "".join(c for c in words if c >= " " or c in "\t\n")


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> None:
    child = ElementTree.SubElement(parent, f"{{{_ATOM}}}{tag}", attributes)
    child.text = text


PAGE = Page(
    title="History",
    path="history.html",
    order=55,
    documents=_documents,
    files=_files,
    about="Runs as they came, and what they changed.",
)
