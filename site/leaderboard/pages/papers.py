"""Every paper, its code and the variants that come from it; as BibTeX, too."""

import re
import unicodedata
from collections.abc import Iterator, Mapping

from bench.table import PaperEntry, VariantEntry
from leaderboard.blocks import Block, Document, Paragraph
from leaderboard.format import MISSING, count_of, listed
from leaderboard.page import Page, RawFile
from leaderboard.pieces import External, Link, Muted, Piece, VariantName
from leaderboard.reported import reported_numbers
from leaderboard.results import View
from leaderboard.tables import Cell, Head, Row, Table

_BIB = "data/papers.bib"
_FEW_AUTHORS = 3
_ARXIV = re.compile(r"https?://arxiv\.org/abs/(?P<id>\d{4}\.\d{4,5})(?:v\d+)?/?")


def _documents(view: View) -> Iterator[Document]:
    papers = _papers(view)
    without = sum(paper.code is None for paper in papers)
    blocks: list[Block] = [
        Paragraph(
            (
                (
                    f"{count_of(len(papers), 'paper')}, {_coded(without)} published code. "
                    "Differs: in how many points a variant departs from its paper or its code, on "
                    "purpose; its page says how. "
                ),
                Link("All as BibTeX", _BIB, download=True),
                ".",
            ),
            "lead",
        ),
        _table(papers),
    ]
    blocks += reported_numbers(view)
    yield Document(
        path="papers.html",
        title="Papers",
        summary="Every paper behind the variants, with its code and what differs.",
        blocks=tuple(blocks),
    )


def _coded(without: int) -> str:
    return f"{without} of them without" if without else "all with"


def _papers(view: View) -> Mapping[PaperEntry, list[VariantEntry]]:
    """Papers by year; one paper may stand behind several variants."""
    by_address: dict[tuple[str, str], list[VariantEntry]] = {}
    for variant in view.variants.values():
        by_address.setdefault((variant.paper.title, variant.paper.url), []).append(variant)
    found = {variants[0].paper: variants for variants in by_address.values()}
    return dict(sorted(found.items(), key=lambda pair: (pair[0].year, pair[0].title)))


def _table(papers: Mapping[PaperEntry, list[VariantEntry]]) -> Table:
    rows: list[Row] = []
    for paper, variants in papers.items():
        names: list[Piece] = []
        for variant in variants:
            names += [*((" ",) if names else ()), VariantName(variant.name, variant.title)]
        rows.append(
            Row(
                (
                    Cell((str(paper.year),), paper.year),
                    Cell((External(paper.title, paper.url), Muted(f" {_authors(paper)}")),
                         paper.title),
                    Cell((paper.venue,)),
                    Cell(tuple(names)),
                    Cell(tuple(_differences(variants)), sum(len(v.deviations) for v in variants)),
                    Cell((External("code", paper.code.split(" ")[0]),))
                    if paper.code
                    else Cell((MISSING,), tone="muted"),
                )
            )
        )  # fmt: skip
    return Table(
        id="papers-table",
        caption="Papers",
        heads=(
            Head(title="Year", number=True, shape="rank"),
            Head(title="Paper"),
            Head(title="Venue", secondary=True),
            Head(title="Variants"),
            Head(title="Differs", number=True, secondary=True),
            Head(title="Code", sortable=False, secondary=True),
        ),
        rows=tuple(rows),
        empty="There are no variants in this tree.",
        name_column=1,
        show_caption=False,
    )


def _differences(variants: list[VariantEntry]) -> Iterator[str | Link]:
    for number, variant in enumerate(variants):
        if number:
            yield ", "
        words = str(len(variant.deviations))
        yield Link(words, f"variants/{variant.name}.html#deviations")


def _authors(paper: PaperEntry) -> str:
    if len(paper.authors) > _FEW_AUTHORS:
        return f"{paper.authors[0]} and {len(paper.authors) - 1} others"
    return listed(paper.authors)


# BibTeX -------------------------------------------------------------------------------------------


def _files(view: View) -> Iterator[RawFile]:
    entries: list[str] = []
    taken: set[str] = set()
    for paper in _papers(view):
        key = _key(paper, taken)
        taken.add(key)
        entries.append(_entry(key, paper))
    yield RawFile(path=_BIB, contents="\n".join(entries).encode())


def _key(paper: PaperEntry, taken: set[str]) -> str:
    words = re.findall(r"[a-z0-9]+", _plain(paper.title).lower())
    name = _plain(paper.authors[0].split()[-1] if paper.authors else "unknown").lower()
    word = next((w for w in words if len(w) > 3), "paper")
    base = f"{re.sub(r'[^a-z]', '', name) or 'unknown'}{paper.year}{word}"
    key, number = base, 1
    while key in taken:
        number += 1
        key = f"{base}{number}"
    return key


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _entry(key: str, paper: PaperEntry) -> str:
    fields = {
        "title": f"{{{_braced(paper.title)}}}",
        "author": _braced(" and ".join(paper.authors)),
        "year": str(paper.year),
        "howpublished": _braced(paper.venue),
        "url": _braced(paper.url),
    }
    arxiv = _ARXIV.fullmatch(paper.url)
    if arxiv is not None:
        fields |= {"eprint": arxiv["id"], "archiveprefix": "arXiv"}
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@misc{{{key},\n{lines}}}\n"


def _braced(text: str) -> str:
    """Text that cannot end its field."""
    return re.sub(r"\s+", " ", re.sub(r"[{}\\]", "", text)).replace("&", r"\&").replace("%", r"\%")


PAGE = Page(
    title="Papers",
    path="papers.html",
    order=54,
    documents=_documents,
    files=_files,
    about="Where each mechanism comes from, with code and BibTeX.",
)
