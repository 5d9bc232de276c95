"""Why mechanisms are as accurate as they are: every analysis, beside what its paper claims."""

from collections.abc import Iterator, Sequence

from bench.report import AnalysisReport
from bench.table import AnalysisEntry
from leaderboard.addresses import task as task_address
from leaderboard.blocks import (
    Block,
    CodeBlock,
    Disclosure,
    Document,
    Facts,
    Notice,
    Paragraph,
    Section,
    Subsection,
)
from leaderboard.contexts import slug
from leaderboard.explanations import figures, networks_in_words, stale, verdict
from leaderboard.format import MISSING, count_of, day, measure, percent, significant
from leaderboard.page import Page
from leaderboard.pieces import Clauses, Code, Inline, Link, Strong, VariantName, prose
from leaderboard.results import View
from leaderboard.tables import Cell, Head, Matrix, Row, Table

_LEAD = (
    "A small accuracy says what works; these analyses look at the functions themselves, and into "
    "small networks that were trained here, and ask why. Every finding is written from the numbers "
    "below it. Where a small network on small data disagrees with a paper about large ones, that "
    "says where the claim ends, not that it is wrong."
)
_FIRST = (
    "injectivity", "locality", "rank", "sharpening", "ablations", "soft_inverse", "soft_landmarks",
    "fidelity", "attention_maps",
)  # fmt: skip
"""Those that belong together, in the order in which they are told; any others follow by name."""


def _documents(view: View) -> Iterator[Document]:
    entries = {entry.name: entry for entry in view.table.questions}
    groups = _grouped(view)
    blocks: list[Block] = [Paragraph((_LEAD,), "lead")]
    if groups:
        reports = [report for _, group in groups for report in group]
        blocks.append(Paragraph((_count(reports),), "finding"))
        blocks.append(_verdicts(view, reports, entries))
        for name, group in groups:
            blocks.append(_section(view, name, group, entries.get(name)))
        for report in reports:
            yield _document(view, report, entries.get(report.analysis))
    else:
        blocks.append(Paragraph(("No analysis has been recorded yet.",)))
    missing = [e for e in entries.values() if e.name not in {name for name, _ in groups}]
    if missing:
        asked = tuple((f"{e.title}: {e.question} ", Code(f"attnbench analyse {e.name}"))
                      for e in missing)  # fmt: skip
        blocks.append(_unasked(asked))
    yield Document(
        path="why.html",
        title="Why",
        summary="Analyses that explain the accuracy of attention mechanisms, beside the papers.",
        blocks=tuple(blocks),
    )


def _unasked(asked: Sequence[Inline]) -> Section:
    return Section("not-recorded", "Not recorded yet", tuple(Paragraph(words) for words in asked))


def _grouped(view: View) -> list[tuple[str, list[AnalysisReport]]]:
    """Reports by analysis in the order of the page, those of the best covered machine first."""
    machines = list(view.machines)
    found: dict[str, list[AnalysisReport]] = {}
    for report in sorted(
        view.table.analyses,
        key=lambda r: (
            machines.index(r.hardware_id) if r.hardware_id in machines else len(machines),
            r.hardware_id,
        ),
    ):
        found.setdefault(report.analysis, []).append(report)
    names = [*(n for n in _FIRST if n in found), *sorted(n for n in found if n not in _FIRST)]
    return [(name, found[name]) for name in names]


def _count(reports: Sequence[AnalysisReport]) -> str:
    """Say how many claims were held against how many numbers, and how that went."""
    words = [verdict(r).word for r in reports]
    claims = len(words) - words.count("no claim")
    if not claims:
        return "None of the analyses is about a claim of a paper."
    return (
        f"Of {count_of(claims, 'claim')} of papers, our small-scale results agree with "
        f"{words.count('agrees')}, disagree with {words.count('disagrees')} and cannot tell about "
        f"{words.count('cannot tell')}."
    )


def _title(name: str, entry: AnalysisEntry | None) -> str:
    return name.replace("_", " ").capitalize() if entry is None else entry.title


def _address(report: AnalysisReport) -> str:
    return f"why/{slug(report.analysis)}/{slug(report.hardware_id)}.html"


def _machine(view: View, report: AnalysisReport) -> str:
    known = report.hardware_id in view.machines
    return view.machine_title(report.hardware_id) if known else report.hardware_id


def _verdicts(
    view: View, reports: Sequence[AnalysisReport], entries: dict[str, AnalysisEntry]
) -> Table:
    return Table(
        id="verdicts",
        caption="Every question, and whether the paper is right at our size",
        heads=(
            Head(title="Analysis", shape="name"),
            Head(title="Question", secondary=True, sortable=False),
            Head(title="Against the paper"),
            Head(title="Made", secondary=True),
        ),
        rows=tuple(
            Row(
                (
                    Cell(
                        (Link(_title(r.analysis, entries.get(r.analysis)),
                              f"why.html#{slug(r.analysis)}"),),
                        _title(r.analysis, entries.get(r.analysis)),
                    ),
                    Cell((entries[r.analysis].question if r.analysis in entries else MISSING,)),
                    Cell((verdict(r).badge,), verdict(r).word),
                    Cell((day(r.created),), r.created),
                ),
                "stale" if stale(view, r, entries.get(r.analysis)) else "plain",
            )
            for r in reports
        ),
        empty="No analysis has been recorded yet.",
        show_caption=False,
    )  # fmt: skip


def _section(
    view: View, name: str, group: Sequence[AnalysisReport], entry: AnalysisEntry | None
) -> Section:
    blocks: list[Block] = []
    if entry is not None:
        blocks.append(Paragraph((entry.question,), "lead"))
    for report in group:
        shown = tuple(_shown(view, report, entry))
        if len(group) == 1:
            blocks += shown
        else:
            id_ = f"{slug(name)}-{slug(report.hardware_id)}"
            blocks.append(Subsection(id_, _machine(view, report), shown))
    return Section(slug(name), _title(name, entry), tuple(blocks))


def _shown(view: View, report: AnalysisReport, entry: AnalysisEntry | None) -> Iterator[Block]:
    reasons = stale(view, report, entry)
    if reasons:
        yield Notice((Strong("Stale. "), " ".join(reasons)), "warning")
    yield _comparison(view, report, entry)
    yield from figures(view, report)
    yield Paragraph(
        (Link("All numbers, networks, and how to repeat it", _address(report)),), "small"
    )


def _comparison(view: View, report: AnalysisReport, entry: AnalysisEntry | None) -> Facts:
    """The paper's claim beside what came out, and what both looked at."""
    found = verdict(report)
    pairs: list[tuple[str, Inline]] = []
    if report.claim:
        pairs.append(("The paper", prose(report.claim)))
    pairs.append(("Here", _clauses(report.finding)))
    looked = networks_in_words(view, report)
    if entry is not None and entry.paper_scale:
        here = f"here: {looked[0].lower()}{looked[1:]}"
        pairs.append(("Looked at", (Clauses((f"The paper: {entry.paper_scale};", here)),)))
    else:
        pairs.append(("Looked at", (looked,)))
    pairs.append(("So", (found.badge, f" {found.sentence}")))
    return Facts(tuple(pairs), wide=True)


def _clauses(sentence: str) -> Inline:
    """A sentence of several clauses as lines: nobody reads ten numbers in one."""
    parts = sentence.split("; ")
    if len(parts) == 1:
        return (sentence,)
    return (Clauses((*(f"{part};" for part in parts[:-1]), parts[-1])),)


def _document(view: View, report: AnalysisReport, entry: AnalysisEntry | None) -> Document:
    title = _title(report.analysis, entry)
    blocks: list[Block] = []
    if entry is not None:
        blocks.append(Paragraph((entry.question,), "lead"))
    reasons = stale(view, report, entry)
    if reasons:
        blocks.append(Notice((Strong("Stale. "), " ".join(reasons)), "warning"))
    blocks.append(_comparison(view, report, entry))
    blocks.append(Paragraph((Link("The figures, and all other analyses", "why.html"),), "small"))
    blocks.append(Section("made", "How it was made", tuple(_made(view, report, entry))))
    if report.networks:
        blocks.append(Section("networks", "Networks", (_networks(view, report),)))
    blocks.append(Section("numbers", "Every number", (_numbers(view, report),)))
    return Document(
        path=_address(report),
        title=title,
        summary=f"{title}: every number of the analysis, and the networks that it looked into.",
        context=f"Why: {_machine(view, report)}",
        blocks=tuple(blocks),
    )


def _made(view: View, report: AnalysisReport, entry: AnalysisEntry | None) -> Iterator[Block]:
    facts: list[tuple[str, Inline]] = [
        ("Machine", (_machine(view, report),)),
        ("Made", (day(report.created),)),
        ("Commit", (Code(report.commit[:12]) if report.commit else MISSING,
                    " with changes" if report.dirty else "")),
        ("torch", (report.torch,)),
        ("It took", (measure("s", report.wall_s),)),
        ("Revision", (str(report.revision),)),
    ]  # fmt: skip
    if entry is not None:
        facts.append(("Definition", (Code(entry.source),)))
    yield Facts(tuple(facts))
    options = ""
    if report.networks:
        options = f" --task {report.networks[0].task}"
        options += f" --seeds {len({n.seed for n in report.networks})}"
    yield CodeBlock(f"attnbench analyse {report.analysis}{options}")
    if entry is not None and entry.description:
        yield Disclosure("In the words of its file", (CodeBlock(entry.description),))


def _networks(view: View, report: AnalysisReport) -> Table:
    return Table(
        id="networks-table",
        caption="Networks that were looked into",
        heads=(
            Head(title="Variant", shape="name"),
            Head(title="Task", secondary=True),
            Head(title="Seed", number=True),
            Head(title="Accuracy", unit="%", number=True),
            Head(title="Recipe", secondary=True, sortable=False),
            Head(title="Data", secondary=True, sortable=False),
        ),
        rows=tuple(
            Row(
                (
                    Cell(
                        (VariantName(n.variant, view.title(n.variant), n.options or None),),
                        n.variant,
                    ),
                    Cell((Link(view.tasks[n.task].title, task_address(n.task)),)
                         if n.task in view.tasks else (n.task,)),
                    Cell((str(n.seed),), n.seed),
                    Cell((f"{100 * n.accuracy:.1f}",), n.accuracy),
                    Cell((Code(n.recipe_sha256[:12]),)),
                    Cell((Code(n.data_sha256[:12]),)),
                )
            )
            for n in report.networks
        ),
        empty="No network was looked into.",
        show_caption=False,
    )  # fmt: skip


def _numbers(view: View, report: AnalysisReport) -> Matrix:
    return Matrix(
        "Every number of the analysis",
        ("Quantity", "Variant", "Setting", "Value"),
        tuple(
            (q.name, view.title(q.variant) if q.variant else MISSING, q.setting or MISSING,
             _value(q.name, q.value))
            for q in report.quantities
        ),
    )  # fmt: skip


def _value(name: str, value: float) -> str:
    if name.startswith(("accuracy", "share")):
        return percent(value)
    if value and not 1e-3 <= abs(value) < 1e6:
        return measure("relative", value)
    return significant(value, 4).replace("-", "\N{MINUS SIGN}")


PAGE = Page(
    title="Why",
    path="why.html",
    order=8,
    documents=_documents,
    about="Analyses that explain the accuracies, beside what the papers claim.",
)
