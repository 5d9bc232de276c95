"""What a page file declares, and how page files are found: one file each in pages/."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from leaderboard.blocks import Document
from leaderboard.results import View


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """A file that is no document: a download."""

    path: str
    """From the root of the site."""
    contents: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One kind of page: the last object of its file, named PAGE."""

    title: str
    """Text of its link in the head of every page."""
    path: str
    """The document that the link opens, from the root of the site."""
    order: int | None
    """Place in the head, left to right; 0 is the home page, which the site's name links to, from
    50 on a page stands under More; None: other pages lead to its documents."""
    documents: Callable[[View], Iterable[Document]]
    files: Callable[[View], Iterable[RawFile]] | None = None
    """Downloads beside the documents."""
    about: str | None = None
    """One line about it on the home page; None: the home page does not list it."""


def pages() -> tuple[Page, ...]:
    """Return the page of every file in pages/, in the order of the head.

    Raises:
        TypeError: a file without a PAGE.
    """
    folder = Path(__file__).parent / "pages"
    names = sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if m.name[0] != "_")
    found: list[Page] = []
    for name in names:
        page = getattr(importlib.import_module(f"leaderboard.pages.{name}"), "PAGE", None)
        if not isinstance(page, Page):
            raise TypeError(f"pages/{name}.py: PAGE is {page!r}, must be a leaderboard.page.Page")
        found.append(page)
    return tuple(sorted(found, key=lambda p: (p.order is None, p.order or 0, p.title)))
