"""What the chooser answers and the comparison decides, against the raw files."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
import recount
from audited_site import Audit, audit_of, context
from built_page import plain, printed
from leaderboard.format import significant
from recount import Cell, Stat
from sample_site import catalogue, write_later_run, write_site_sample

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which(
    "google-chrome"
)  # fmt: skip
MACHINE, CONTEXT = "sample-cpu", "float32-forward-layer-one-h3d64"
ALLOWED = {"any": ("exact", "approximate", "own"), "softmax": ("exact", "approximate"),
           "exact": ("exact",)}  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


class Estimate(NamedTuple):
    """One execution at a size that need not have been measured."""

    latency: Stat
    memory: float
    noise: float
    """Floor of the runs that measured the sizes which it was drawn from."""


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    root = write_site_sample(tmp_path_factory.mktemp("results"))
    write_later_run(root)
    return audit_of(root, tmp_path_factory.mktemp("built") / "site", catalogue())


@pytest.fixture(scope="module")
def page(audit: Audit) -> "Iterator[playwright.Page]":
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM)
        yield opened.new_page()
        opened.close()


def estimate(cells: Sequence[Cell], tokens: int, noise: Mapping[int, float]) -> Estimate | None:
    """Straight lines on logarithmic axes through the two sizes around, or next to, `tokens`."""
    ordered = sorted(cells, key=lambda c: c.tokens)
    for c in ordered:
        if c.tokens == tokens:
            latency = c.stat("latency") if c.ranked else None
            return (
                None
                if latency is None
                else Estimate(latency, c.value("peak_memory"), noise[tokens])
            )
    below = [c for c in ordered if c.tokens < tokens]
    above = [c for c in ordered if c.tokens > tokens]
    if below and above:
        pair = (below[-1], above[0])
        if not all(c.ranked for c in pair):
            return None
    elif below and not below[-1].ranked:
        return None
    else:
        able = [c for c in ordered if c.ranked]
        if len(able) < 2:
            return None
        pair = (able[-2], able[-1]) if below else (able[0], able[1])
    share = math.log(tokens / pair[0].tokens) / math.log(pair[1].tokens / pair[0].tokens)
    one, other = (c.stat("latency") for c in pair)
    assert one is not None
    assert other is not None
    ends = [_mix(a or 0, b or 0, share) for a in one[1:3] for b in other[1:3]]
    value = _mix(one.value, other.value, share)
    memory = _mix(*(c.value("peak_memory") for c in pair), share)
    floor = max(noise[c.tokens] for c in pair)
    return Estimate(Stat(value, min(ends), max(ends), 0, 0, 0, 0), memory, floor)


def _mix(a: float, b: float, share: float) -> float:
    return math.exp((1 - share) * math.log(a) + share * math.log(b))


def answers(page: "playwright.Page") -> dict[str, list[str]]:
    """Cells of every row by the name that it shows; what is impossible has its reason."""
    rows = page.locator(".answer table tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.innerText)"
        ".concat([r.closest('table').tHead.innerText]))"
    )
    return {plain(cells[1]): [plain(text) for text in cells] for cells in rows}


def says_about(text: str, value: float, unit: str | None = None) -> bool:
    """As `says`, for what was computed of five digits, beyond measured sizes a few times worse."""
    number, half = printed(text.removeprefix("~ "), unit)
    return abs(number - value) <= half + 3e-4 * value


@pytest.mark.parametrize(
    ("at", "function", "gb"),
    [("512", "any", ""), ("640", "any", ""), ("900", "softmax", ""), ("4096", "any", ""),
     ("1024", "any", "0.05"), ("150", "exact", ""), ("1800", "any", "0.3")],
)  # fmt: skip
def test_answers_are_those_of_the_raw_files(
    audit: Audit, page: "playwright.Page", at: str, function: str, gb: str
) -> None:
    asked = {"v": "1", "machine": MACHINE, "context": CONTEXT, "along": "images", "at": at,
             "function": function, "gb": gb}  # fmt: skip
    page.goto(f"{(audit.out / 'index.html').as_uri()}?{urlencode(asked)}")
    patches = math.floor(int(at) / 16 + 0.5)
    side = 16 * patches
    page.locator(".answer h2", has_text=f"{side:,} px,").or_(
        page.locator(".answer h2", has_text=f"{side} px,")
    ).wait_for()
    mine = [c for c in audit.timed if context(c) == (MACHINE, CONTEXT)
            and c.of.get("resolution_px") is not None]  # fmt: skip
    tokens = patches**2
    noise = {n: recount.noise_of(of) or 0.0
             for n, of in recount.grouped(mine, lambda c: c.tokens).items()}  # fmt: skip
    groups = {
        kind: recount.grouped(
            [c for c in mine if audit.known[c.variant].kind == kind],
            lambda c: plain(f"{audit.known[c.variant].title} {c.name.partition(' ')[2]}"),
        )
        for kind in ALLOWED[function]
    }
    able = {
        name: found
        for lines in groups.values()
        for name, cells in lines.items()
        if (found := estimate(cells, tokens, noise)) is not None
        and (not gb or found.memory <= float(gb) * 2**30)
    }
    floor = max(one.noise for one in able.values())
    shown = answers(page)
    assert shown.keys() == {name for lines in groups.values() for name in lines}
    for lines in groups.values():
        places = recount.ranks({n: able[n].latency for n in lines if n in able}, floor)
        for name in lines:
            if name not in able:
                assert shown[name][0] == "\N{EN DASH}", shown[name]
                continue
            assert shown[name][0] == places[name], shown[name]
            _check(shown[name], able[name])


def _check(row: list[str], wanted: Estimate) -> None:
    units = row[-1].split()
    latency, memory = units[units.index("Latency") + 1], units[units.index("memory") + 1]
    low, _, high = row[3].partition(" to ")
    assert says_about(row[2], wanted.latency.value, latency), (row, wanted)
    assert says_about(low, wanted.latency.low or 0, latency), (row, wanted)
    assert says_about(high, wanted.latency.high or 0, latency), (row, wanted)
    assert says_about(row[5], wanted.memory, memory), (row, wanted)


def test_verdicts_follow_from_intervals_and_noise(audit: Audit, page: "playwright.Page") -> None:
    executions = ("softmax~sdpa", "linear_relu~reference", "linear_elu~reference", "soft~reference")
    asked = {"v": "1", "machine": MACHINE, "context": CONTEXT, "e": ",".join(executions)}
    page.goto(f"{(audit.out / 'compare.html').as_uri()}?{urlencode(asked)}")
    page.locator(".compared .verdict").first.wait_for()
    mine = [c for c in audit.timed if context(c) == (MACHINE, CONTEXT)]
    by_place = {(f"{c.variant}~{c.backend}", c.tokens, c.of.get("resolution_px")): c for c in mine}
    seen: set[str] = set()
    rows: list[list[str]] = page.locator(".compared section tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.innerText))"
    )
    for size, _, *others in rows:
        words = plain(size).replace(",", "").split()
        px = int(words[0]) if "px" in words else None
        tokens = int(words[2] if px else words[0])
        base = by_place[executions[0], tokens, px].stat("latency")
        for name, text in zip(executions[1:], others, strict=True):
            stat = by_place[name, tokens, px].stat("latency")
            if base is None or stat is None:
                assert not {"faster", "slower"} & set(text.split())
                continue
            verdict = "undecided"
            at_size = (tokens, px)
            floor = recount.noise_of(
                c for c in mine if (c.tokens, c.of.get("resolution_px")) == at_size
            )
            if recount.separable(stat, base, floor):
                verdict = "faster" if stat.value < base.value else "slower"
            seen.add(verdict)
            assert plain(text).split()[-1] == verdict, (size, name, text)
    assert {"faster", "slower"} <= seen


def test_numbers_read_alike_in_both_languages(audit: Audit, page: "playwright.Page") -> None:
    page.goto((audit.out / "index.html").as_uri())
    values: list[Any] = [5394.6163, 1554.8, 999.6, 0.0999999, 9.999, 1125, 0.125, 1e-9, 123456789,
                         2.5e12, 99.95, 0.00012345, 1023, 4096, -0.5]  # fmt: skip
    for digits in (2, 3):
        theirs = page.evaluate(
            "([values, digits]) => values.map((v) => attnbenchTools.significant(v, digits))",
            [values, digits],
        )
        assert theirs == [significant(value, digits) for value in values]
    wrong = page.evaluate("attnbenchTools.significant(5394.6163)")
    assert wrong != "5,400"


def test_the_check_sees_another_number(audit: Audit) -> None:
    some = next(c for c in audit.timed if c.ranked and context(c) == (MACHINE, CONTEXT))
    assert says_about("~ 1.23", 0.00123, "ms")
    assert not says_about("1.23", 0.00124, "ms")
    half = estimate([some], some.tokens * 2, {some.tokens: 0.0})
    assert half is None, "one size gives no line"
