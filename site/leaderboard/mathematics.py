"""LaTeX to MathML at build time: formulas are readable without a network and without scripts."""

import re
from typing import Final
from xml.etree import ElementTree

from latex2mathml.converter import convert

from leaderboard.blocks import Element, Formula

_TAGS: Final = frozenset(
    [
        "math",
        "mrow",
        "mi",
        "mn",
        "mo",
        "ms",
        "mtext",
        "mspace",
        "mfrac",
        "msqrt",
        "mroot",
        "mstyle",
        "msub",
        "msup",
        "msubsup",
        "munder",
        "mover",
        "munderover",
        "mmultiscripts",
        "mtable",
        "mtr",
        "mtd",
        "mpadded",
        "mphantom",
        "menclose",
    ]
)
_ATTRIBUTES: Final = frozenset(
    [
        "display",
        "stretchy",
        "fence",
        "form",
        "separator",
        "accent",
        "accentunder",
        "displaystyle",
        "scriptlevel",
        "width",
        "mathvariant",
        "columnalign",
        "rowspacing",
        "columnspacing",
        "linethickness",
        "lspace",
        "rspace",
        "minsize",
        "maxsize",
        "movablelimits",
        "symmetric",
        "largeop",
        "notation",
    ]
)
_SEPARATOR: Final = re.compile(r",\s*\\(?:quad|;)\s*")
_NAMESPACE: Final = "{http://www.w3.org/1998/Math/MathML}"


def formula(latex: str) -> Formula:
    r"""Return `latex` as a block; a formula that cannot be converted is shown as LaTeX.

    Equations that `,\quad` or `,\;` separate stand on lines of their own: they fit on phones.
    """
    equations = _SEPARATOR.split(latex)
    if any(
        one.count("{") != one.count("}") or one.count(r"\left") != one.count(r"\right")
        for one in equations
    ):
        equations = [latex]
    try:
        return Formula(latex, tuple(_converted(one) for one in equations))
    except Exception:  # noqa: BLE001 - the converter documents no errors; the LaTeX is the fallback
        return Formula(latex, ())


def _converted(latex: str) -> Element:
    return _element(ElementTree.fromstring(convert(latex, display="block")))


def _element(node: ElementTree.Element) -> Element:
    """Copy known elements and attributes; nothing else can reach a page.

    Raises:
        ValueError: an element that is no presentation MathML.
    """
    tag = node.tag.removeprefix(_NAMESPACE)
    if tag not in _TAGS:
        raise ValueError(f"element {tag!r} is not presentation MathML")
    attributes = tuple((k, v) for k, v in sorted(node.attrib.items()) if k in _ATTRIBUTES)
    children: list[Element | str] = [node.text] if node.text else []
    for child in node:
        children.append(_element(child))
        if child.tail and child.tail.strip():
            children.append(child.tail)
    return Element(tag, attributes, tuple(children))
