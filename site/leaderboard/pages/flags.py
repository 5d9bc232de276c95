"""Everything that carries a mark, why, and what follows from it."""

from collections.abc import Iterator, Sequence

from leaderboard.addresses import result_address
from leaderboard.addresses import run as run_address
from leaderboard.blocks import Block, Document, Paragraph, Section
from leaderboard.format import count_of, minute, percent, whole
from leaderboard.page import Page
from leaderboard.pieces import Code, Link, VariantName
from leaderboard.provenance import message_of, trust_of
from leaderboard.refusals import refusals
from leaderboard.results import Result, View
from leaderboard.tables import Cell, Head, Row, Table

_MOST_ROWS = 200
"""Marked results that are listed by themselves; the data have all."""


def _documents(view: View) -> Iterator[Document]:
    yield Document(
        path="flags.html",
        title="Flags",
        summary="Every mark on runs and results, why it is there, and what follows from it.",
        blocks=tuple(_blocks(view)),
    )


def _blocks(view: View) -> Iterator[Block]:
    yield Paragraph(
        (
            (
                "A mark is computed from what a run recorded, never typed. Marked rows stay "
                "readable; stale and implausible ones are not ranked. To challenge a result, see "
            ),
            Link("how to submit", "submit.html#challenge"),
            ".",
        ),
        "lead",
    )
    yield Section("runs", "Marked runs", (_runs(view),))
    fast = [r for r in view.results if any(n.implausible for n in r.numbers.values())]
    yield Section("implausible", "Implausible results", (
        Paragraph((
            ("Faster than the ceilings that their own run measured. Either the ceiling or the time "
             "is wrong."),
        ), "small"),
        *_listed(view, fast, "implausible-table"),
    ))  # fmt: skip
    stale = [r for r in view.results if r.stale]
    yield Section("stale", "Stale results", (
        Paragraph((
            ("Measured with an older revision of the variant or an older protocol. Another run "
             "replaces them."),
        ), "small"),
        *_listed(view, stale, "stale-table"),
    ))  # fmt: skip
    yield Section("refused", "Refused files", (refusals(view),))
    if view.table.trust is not None:
        yield Section("rules", "What the rules found", (
            Paragraph((
                "Findings of ", Code("attnbench check"), (": an error keeps a row from being "
                "published, a review keeps it self-reported, a flag is said and changes nothing. "
                "Each rule has a page in docs/rules/ of the repository."),
            ), "small"),
            _rules(view),
        ))  # fmt: skip


def _rules(view: View) -> Table:
    """Every rule that found something: how often, and one example with the way to it."""
    counts: dict[tuple[str, str], list[tuple[Result, str]]] = {}
    for result in view.results:
        judged = trust_of(view, result)
        for finding in judged.findings if judged is not None else ():
            found = counts.setdefault((finding.rule, finding.severity), [])
            found.append((result, message_of(finding)))
    return Table(
        id="rules-table",
        caption="What the rules found",
        heads=(
            Head(title="Rule"),
            Head(title="Severity"),
            Head(title="Rows", number=True),
            Head(title="For example"),
        ),
        rows=tuple(
            Row(
                (
                    Cell((Code(rule),), rule),
                    Cell((severity,)),
                    Cell((whole(len(rows := {(r.run_id, r.case_id) for r, _ in found})),),
                         len(rows)),
                    Cell((Link("a row", result_address(found[0][0])), f": {found[0][1]}")),
                ),
                id=rule if severity == min(s for r, s in counts if r == rule) else None,
            )
            for (rule, severity), found in sorted(counts.items())
        ),
        empty="No rule found anything.",
        show_caption=False,
    )  # fmt: skip


def _runs(view: View) -> Table:
    rows: list[Row] = []
    for entry in view.runs.values():
        run = entry.run
        load = run.conditions.foreign_load
        marks: list[tuple[str, str]] = []
        if run.conditions.busy:
            most = f"up to {max(load):.2f} CPUs of other work" if load else "load not sampled"
            marks.append(("busy machine", most))
        if entry.stale:
            marks.append(("stale protocol", f"protocol {run.protocol.version}"))
        if run.dirty:
            marks.append(("uncommitted changes", "the code differed from the commit"))
        if run.commit is None:
            marks.append(("no commit", "not measured in a git checkout"))
        if entry.noise_floor is None:
            marks.append(("noise not known", "too few repeated pairs; ties by intervals alone"))
        for mark, why in marks:
            rows.append(
                Row(
                    (
                        Cell((Link(minute(run.created), run_address(run.run_id)),), run.created),
                        Cell((view.machine_title(run.environment.hardware_id),)),
                        Cell((mark,)),
                        Cell((why,)),
                    )
                )
            )
    return Table(
        id="runs-table",
        caption="Marked runs",
        heads=(
            Head(title="Run", unit="UTC", shape="when"),
            Head(title="Machine", secondary=True),
            Head(title="Mark"),
            Head(title="Why"),
        ),
        rows=tuple(rows),
        empty="No run carries a mark.",
        show_caption=False,
    )


def _listed(view: View, results: Sequence[Result], id_: str) -> Iterator[Block]:
    shown = results[:_MOST_ROWS]
    if len(results) > len(shown):
        counts = f"{whole(len(shown))} of {count_of(len(results), 'result')}"
        yield Paragraph((f"The first {counts}; ", Link("the data", "data.html"), " have all."))
    rows: list[Row] = []
    for result in shown:
        name = VariantName(result.variant, view.title(result.variant), result.detail)
        efficiency = result.numbers.get("efficiency")
        why = f"revision {result.revision}"
        if id_ == "implausible-table" and efficiency is not None:
            why = f"{percent(efficiency.value)} of what the machine can do"
        rows.append(
            Row(
                (
                    Cell((name,), f"{result.variant} {result.detail or ''}"),
                    Cell((Link(result.case_id, result_address(result)),)),
                    Cell((view.machine_title(result.hardware_id),)),
                    Cell((why,)),
                )
            )
        )
    yield Table(
        id=id_,
        caption="Marked results",
        heads=(
            Head(title="Variant"),
            Head(title="Case"),
            Head(title="Machine", secondary=True),
            Head(title="Why"),
        ),
        rows=tuple(rows),
        empty="None.",
        show_caption=False,
    )


PAGE = Page(
    title="Flags",
    path="flags.html",
    order=56,
    documents=_documents,
    about="Every mark on a run or a result, and why.",
)
