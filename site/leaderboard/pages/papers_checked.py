"""Every network of a paper: what its authors print, what their code has, and what is here."""

from collections.abc import Iterable, Iterator, Sequence

from bench.table import ReportedNumber
from leaderboard.blocks import (
    Block,
    Bullets,
    Document,
    Facts,
    Filter,
    Paragraph,
    Section,
    Subsection,
)
from leaderboard.checked import CheckedNetwork, Compared, checked_networks
from leaderboard.claim_inline import inline_at_resolutions
from leaderboard.claim_soft import soft_memory
from leaderboard.downloads import links, networks_base
from leaderboard.format import MISSING, count_of, decimal, whole
from leaderboard.page import Page
from leaderboard.pieces import Badge, Code, External, Inline, Link, Muted, Piece, VariantName
from leaderboard.results import View
from leaderboard.tables import Cell, Head, Row, Table
from leaderboard.timed_networks import timed_networks

_PATH = "papers-checked.html"
_PARAMETERS = "M parameters"
_PRINT_HELP = "The printed number is not that of the published code, rounded."
_CODE_HELP = "The count of the published code is not the count here; the reason stands in words."
_M, _G = 1e6, 1e9


def _documents(view: View) -> Iterator[Document]:
    found = checked_networks(view)
    yield Document(
        path=_PATH,
        title="Papers, checked",
        summary="Networks of papers: printed numbers, those of the published code, and ours.",
        blocks=tuple(_blocks(view, found)),
    )


def _blocks(view: View, found: Sequence[CheckedNetwork]) -> Iterator[Block]:
    yield Paragraph((
        ("Each network of a paper three times: what its authors print, what the code that they "
        "published has when it is counted, and what the network of the same name has in this "
        "repository, counted again whenever this site is built. "),
        Link("Every network", f"{_PATH}#networks"), ", ",
        Link("InLine's speed against resolution", f"{_PATH}#inline-speed"), ", ",
        Link("SOFT's memory against tokens", f"{_PATH}#soft-memory"), ", ",
        Link("networks timed with their own attention and with softmax", f"{_PATH}#timed"), ", ",
        Link("the papers", "papers.html"), ".",
    ), "lead")  # fmt: skip
    if found:
        yield Facts(tuple(_facts(found)))
        yield Section("disagreements", "Where they disagree", tuple(_disagreements(found)))
    yield Section(
        "inline-speed",
        "InLine, figure 3: speed against resolution",
        tuple(inline_at_resolutions(view)),
    )
    yield Section("soft-memory", "SOFT, figure 1: memory against tokens", tuple(soft_memory(view)))
    yield Section(
        "timed", "Timed here: own attention, and softmax in its place", tuple(timed_networks(view))
    )
    timed = sorted({r.hardware_id for r in view.results if r.stimulus == "images"})
    words = [f"Timed networks on {view.machine_title(hardware_id)}" for hardware_id in timed]
    if timed:
        yield links(*zip(words, map(networks_base, timed), strict=True))
    yield Section("networks", "Every network", tuple(_every(view, found)))
    yield Section("sources", "Where the printed numbers stand", tuple(_sources(found)))


def _facts(found: Sequence[CheckedNetwork]) -> Iterator[tuple[str, Inline]]:
    papers = {(one.entry.paper.title, one.entry.paper.url) for one in found}
    yield "Networks", (f"{len(found)}, of {count_of(len(papers), 'paper')}",)
    for name, of, rule in (
        ("Parameters as in the published code", "parameters", "to the last one"),
        ("Multiply-adds as in the published code", "macs", "within half a per cent"),
    ):
        known = [c for c in (getattr(one, of) for one in found) if c.code_agrees is not None]
        equal = sum(bool(c.code_agrees) for c in known)
        yield name, (f"{equal} of {len(known)}, {rule}",)
    prints = [c for one in found for c in (one.parameters, one.macs) if c.print_agrees is not None]
    wrong = sum(not c.print_agrees for c in prints)
    yield "Printed numbers that their own code contradicts", (f"{wrong} of {len(prints)}",)


# Disagreements ------------------------------------------------------------------------------------


def _disagreements(found: Sequence[CheckedNetwork]) -> Iterator[Block]:
    yield Paragraph((
        ("A printed number disagrees when that of the authors' own code, rounded to as many "
        "digits, is another, with norms and pooling (all) and without (products); one that was "
        "read off a plot may be wrong by 0.1 GMACs. Where only "
        "the print differs, this repository has what the code has. The largest difference stands "
        "first."),
    ))  # fmt: skip
    rows = [
        (compared.distance, one, word, compared)
        for one in found
        for word, compared in ((_PARAMETERS, one.parameters), ("GMACs", one.macs))
        if not compared.agrees
    ]
    rows.sort(key=lambda row: (-row[0], row[1].entry.id, row[2]))
    yield Table(
        id="disagreements-table",
        caption="Networks whose numbers disagree",
        heads=(
            Head(title="Network"),
            Head(title="What"),
            Head(title="Printed", number=True),
            Head(title="Code", unit="all", number=True),
            Head(title="Code", unit="products", number=True),
            Head(title="Here", number=True),
            Head(title="What differs", sortable=False),
        ),
        rows=tuple(_disagreement(one, word, compared) for _, one, word, compared in rows),
        empty="None do.",
        show_caption=False,
        sticky=True,
    )
    sentences = tuple(_sentences(found))
    if sentences:
        yield Subsection("sentences", "Which is which, in words", (Bullets(sentences),))


def _disagreement(one: CheckedNetwork, word: str, compared: Compared) -> Row:
    unit = _M if word == _PARAMETERS else _G
    wrong_code = compared.code_agrees is False
    return Row(
        (
            Cell((_name(one),), _name(one)),
            Cell((word,)),
            _printed(compared.printed, unit, differs=compared.print_agrees is False),
            _counted(compared.total, unit),
            _counted(compared.code, unit, differs=wrong_code),
            _counted(compared.here, unit, differs=wrong_code),
            Cell(tuple(_badges((compared,)))),
        )
    )


def _badges(found: Iterable[Compared]) -> Iterator[Piece]:
    found = tuple(found)
    wrong_print = any(one.print_agrees is False for one in found)
    if wrong_print:
        yield Badge("print", "warning", _PRINT_HELP)
    if any(one.code_agrees is False for one in found):
        yield from (" ",) if wrong_print else ()
        yield Badge("code", "failure", _CODE_HELP)


def _sentences(found: Sequence[CheckedNetwork]) -> Iterator[Inline]:
    """What the networks say of themselves, each sentence once with the networks it is about."""
    names: dict[str, list[str]] = {}
    for one in found:
        for sentence in one.entry.differences:
            names.setdefault(sentence, []).append(_name(one))
    for sentence, about in names.items():
        yield (f"{sentence} ", Muted(f"({', '.join(about)})"))


# Every network ------------------------------------------------------------------------------------


def _every(view: View, found: Sequence[CheckedNetwork]) -> Iterator[Block]:
    yield Paragraph((
        ("Papers in the order of their years. Multiply-adds of the code are counted by fvcore: all "
        "that it counts (five for every number that a norm passes, pooling, interpolation), which "
        "is what papers print, and of these the matrix products and convolutions, which is what is "
        "counted here. Top-1 and images per second are the authors'; ImageNet is not part of this "
        "repository, "), Code("attnbench evaluate"), " measures top-1 where it is.",
    ))  # fmt: skip
    yield Filter("Filter networks")
    yield Table(
        id="networks-table",
        caption="Networks of papers: printed, in the published code, here",
        heads=(
            Head(title="Network"),
            Head(title="Differs"),
            Head(title="Side", unit="px", number=True),
            Head(title="Parameters", unit="M, printed", number=True),
            Head(title="Parameters", unit="code", number=True),
            Head(title="Parameters", unit="here", number=True),
            Head(title="MACs", unit="G, printed", number=True),
            Head(title="MACs", unit="G, code, all", number=True),
            Head(title="MACs", unit="G, code, products", number=True),
            Head(title="MACs", unit="G, here", number=True),
            Head(title="Top-1", unit="%, printed", number=True),
            Head(title="Images/s", unit="printed", number=True),
            Head(title="Mechanism"),
        ),
        rows=tuple(_row(view, one) for one in found),
        empty="No network of a paper is in this tree.",
        show_caption=False,
        sticky=True,
    )


def _name(one: CheckedNetwork) -> str:
    """The authors' name; with the side where it is not the usual one."""
    side = one.entry.resolution_px
    return one.entry.title if side == 224 else f"{one.entry.title}, {side} px"


def _row(view: View, one: CheckedNetwork) -> Row:
    entry, numbers = one.entry, one.numbers
    badges = tuple(_badges((one.parameters, one.macs)))
    return Row(
        (
            Cell((_name(one),), _name(one)),
            Cell(badges or (Muted("none"),), len(badges)),
            Cell((whole(entry.resolution_px),), entry.resolution_px),
            _printed(one.parameters.printed, _M, differs=one.parameters.print_agrees is False),
            _counted(one.parameters.code, 1),
            _counted(entry.parameters, 1),
            _printed(one.macs.printed, _G, differs=one.macs.print_agrees is False),
            _counted(one.macs.total, _G),
            _counted(one.macs.code, _G, differs=one.macs.code_agrees is False),
            _counted(entry.macs, _G, differs=one.macs.code_agrees is False),
            _printed(numbers.get("imagenet1k_top1"), 1e-2),
            _printed(numbers.get("image_throughput"), 1),
            Cell((VariantName(entry.variant, view.title(entry.variant)),), entry.variant),
        )
    )


def _printed(number: ReportedNumber | None, unit: float, *, differs: bool = False) -> Cell:
    """A number as its authors give it; about equal where it was read off a plot."""
    if number is None:
        return Cell((MISSING,), tone="muted")
    about = "\N{ALMOST EQUAL TO}\N{THIN SPACE}" if number.from_plot else ""
    shown = f"{number.value / unit:.4g}"
    return Cell((f"{about}{shown}",), number.value, "failure" if differs else "plain")


def _counted(value: float | None, unit: float, *, differs: bool = False) -> Cell:
    if value is None:
        return Cell((MISSING,), tone="muted")
    text = whole(round(value)) if unit == 1 else decimal(value / unit, 3)
    return Cell((text,), value, "failure" if differs else "plain")


def _sources(found: Sequence[CheckedNetwork]) -> Iterator[Block]:
    """Each paper, and where in it and in its repository the numbers stand."""
    papers: dict[tuple[str, str], list[ReportedNumber]] = {}
    for one in found:
        key = (one.entry.paper.title, one.entry.paper.url)
        papers.setdefault(key, []).extend(one.numbers.values())
    items: list[Inline] = []
    for (title, url), numbers in papers.items():
        pieces: list[Piece] = [External(title, url), ": "]
        for place, (table, where) in enumerate(dict.fromkeys((n.table, n.url) for n in numbers)):
            pieces += [*((", ",) if place else ()), External(table, where)]
        pieces.append(".")
        notes = dict.fromkeys(
            n.note for n in numbers if n.note and n.quantity not in ("parameters", "macs")
        )
        pieces += [Muted(f" {note}") for note in notes]
        items.append(tuple(pieces))
    yield Bullets(tuple(items)) if items else Paragraph(("No network of a paper is in this tree.",))


PAGE = Page(
    title="Papers, checked",
    path=_PATH,
    order=55,
    documents=_documents,
    about="Networks of papers: printed numbers, those of the published code, those counted here.",
)
