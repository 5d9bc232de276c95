"""Table in, folder of pages out. Pure: the same table gives the same bytes."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.table import LeaderboardTable
from leaderboard.drawings import Charts, Figure
from leaderboard.format import count_of, day
from leaderboard.page import Page, RawFile, pages
from leaderboard.rendering import Surroundings, html, marks_css, within
from leaderboard.results import View, view

_STATIC = Path(__file__).parent / "static"
_MARKER = ".attnbench-site"
_UNDER_MORE = 50
"""From this order on a page stands under More."""


class BuildError(RuntimeError):
    """The site cannot be written as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One written file."""

    path: str
    """From the root of the site."""
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What was written."""

    out: Path
    files: tuple[Built, ...]
    """Sorted by path."""

    @property
    def home(self) -> Path:
        """The page to open."""
        return self.out / "index.html"


def build(table: LeaderboardTable, out: Path) -> Site:
    """Write the site of `table` into `out`, which is created, or replaced if it is a built site.

    Args:
        table: everything that the site shows.
        out: the folder to write.

    Raises:
        BuildError: `out` holds something else than a built site, or two pages claim one path.
    """
    require_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # written beside and moved at the end, so that a failure leaves the old site as it was
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as made:
        fresh = Path(made) / "site"
        written: dict[str, Built] = {}
        for path, data in _contents(table):
            if path in written:
                raise BuildError(f"{path}: written twice; two pages or two figures have one name")
            target = fresh / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            written[path] = Built(path=path, sha256=sha256, size_bytes=len(data))
        if out.exists():
            shutil.rmtree(out)
        fresh.rename(out)
    return Site(out=out, files=tuple(written[path] for path in sorted(written)))


def require_free(out: Path) -> None:
    """Refuse a folder that holds something else than a built site.

    Raises:
        BuildError: with what to do.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _is_site(out))):
        raise BuildError(f"{out}: not empty and not a built site; choose another folder")


def _is_site(out: Path) -> bool:
    return (out / _MARKER).is_file()


def _contents(table: LeaderboardTable) -> Iterator[tuple[str, bytes]]:
    """Yield every file; one at a time, so that a large site does not have to fit into memory."""
    shown = view(table)
    found = pages()
    yield _MARKER, b"built by attnbench site\n"
    yield from _static()
    yield from _rendered(shown, found)
    yield from _raw(shown, found)


def _static() -> Iterator[tuple[str, bytes]]:
    yield "static/marks.css", marks_css().encode()
    for path in sorted(_STATIC.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield f"static/{path.relative_to(_STATIC).as_posix()}", path.read_bytes()


def _rendered(shown: View, found: tuple[Page, ...]) -> Iterator[tuple[str, bytes]]:
    around = Surroundings(
        marks=shown.marks,
        navigation=tuple((p.title, p.path) for p in found if p.order and p.order < _UNDER_MORE),
        more=tuple((p.title, p.path) for p in found if p.order and p.order >= _UNDER_MORE),
        feed=bool(shown.runs),
        footer=_footer(shown),
        plotly=_script("plotly-cartesian"),
        datatables=_script("datatables"),
    )
    # a figure stands in two documents, its own and the current one; its file is one
    figures: dict[str, str] = {}
    for page in found:
        for document in page.documents(shown):
            yield document.path, html(document, around).encode()
            for block in within(document.blocks):
                if not isinstance(block, Figure | Charts):
                    continue
                digest = hashlib.sha256(block.csv_text.encode()).hexdigest()
                if block.csv_path not in figures:
                    yield block.csv_path, block.csv_text.encode()
                elif figures[block.csv_path] != digest:
                    raise BuildError(f"{block.csv_path}: two figures of one name differ")
                figures[block.csv_path] = digest


def _raw(shown: View, found: Iterable[Page]) -> Iterator[tuple[str, bytes]]:
    for page in found:
        files: Iterable[RawFile] = page.files(shown) if page.files else ()
        yield from ((file.path, file.contents) for file in files)


def _footer(shown: View) -> str:
    runs = shown.table.runs
    if not runs:
        return "No run has been recorded yet."
    machines = count_of(len(shown.machines), "machine")
    return (
        f"Built from {count_of(len(runs), 'run')} on {machines}; the newest is of "
        f"{day(max(entry.run.created for entry in runs))}."
    )


def _script(name: str) -> str:
    """File name of the vendored script `<name>-<version>.min.js`.

    Raises:
        BuildError: there is none, or more than one version.
    """
    found = sorted((_STATIC / "vendor").glob(f"{name}-*.min.js"))
    if len(found) != 1:
        raise BuildError(f"static/vendor: {len(found)} files {name}-*.min.js, must be exactly 1")
    return found[0].name
