"""Parts of the site: numbers as text, looks of variants, rankings, formulas, vendored files."""

import base64
import hashlib
import io
import json
import math
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leaderboard import vendor
from leaderboard.contexts import by_context
from leaderboard.format import (
    count_of,
    decimal,
    listed,
    measure,
    percent,
    scale_for,
    scientific,
    significant,
)
from leaderboard.marks import COLOURS, DARK_SURFACE, LIGHT_SURFACE, REGISTERED, marks
from leaderboard.mathematics import formula
from leaderboard.page import Page, pages
from leaderboard.pieces import Code, prose
from leaderboard.ranking import baseline, grouped
from leaderboard.results import View, view
from leaderboard.trainings import trained
from sample_site import sample_table, write_site_sample

from bench.table import LeaderboardTable


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LeaderboardTable:
    return sample_table(write_site_sample(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def shown(table: LeaderboardTable) -> View:
    return view(table)


TIMES = "\N{MULTIPLICATION SIGN}"


# Numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        ("s", 0.00123, "1.23 ms"), ("s", 1.5e-6, "1.50 µs"), ("s", 12.0, "12.0 s"),
        ("byte", 2**20, "1.00 MiB"), ("byte", 1023, "1,020 B"), ("byte", 1536 * 2**20, "1.50 GiB"),
        ("flop", 2.15e9, "2.15 GFLOPs"), ("mac", 1.07e9, "1.07 GMACs"),
        ("fraction", 0.8731, "87.3 %"), ("relative", 1.23e-6, f"1.2 {TIMES} 10⁻⁶"),
        ("relative", 0.0, "0"),
        ("ratio", 1.4, f"1.40{TIMES}"), ("count", 16384, "16,384"),
        ("token/s", 1.2e6, "1.20 M tokens/s"),
        ("s", 0.0, "0 ns"),
    ],
)  # fmt: skip
def test_units(quantity: str, value: float, text: str) -> None:
    assert measure(quantity, value).replace("\N{NO-BREAK SPACE}", " ") == text


def test_words() -> None:
    assert significant(0.0999999) == "0.100"
    assert significant(9.999) == "10.0"
    assert significant(999.6) == "1,000"
    # rounded once: 5394.6 is not first 5395 and then 5400; a half goes away from zero
    assert significant(5394.6163) == "5,390"
    assert significant(1554.8) == "1,550"
    assert significant(-2034.65) == "-2,030"
    assert significant(1585446912.0 / 1e6) == "1,590"
    assert significant(1125) == "1,130"
    assert significant(0.125, 2) == "0.13"
    assert decimal(-0.5) == "\N{MINUS SIGN}0.50"
    assert percent(0.0182) == "1.8\N{NO-BREAK SPACE}%"
    assert count_of(1, "run") == "1 run"
    assert count_of(2, "run") == "2 runs"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert scientific(0.00012) == f"1.2\N{NO-BREAK SPACE}{TIMES}\N{NO-BREAK SPACE}10⁻⁴"


@given(st.floats(min_value=1e-9, max_value=1e15))
def test_a_printed_number_is_within_half_of_its_last_digit(value: float) -> None:
    printed = float(significant(value).replace(",", ""))
    last = 10.0 ** (math.floor(math.log10(value)) - 2)
    assert abs(printed - value) <= 0.5 * last * (1 + 1e-9)


def test_one_column_has_one_unit() -> None:
    scale = scale_for("s", [0.0005, 0.001, 0.25])
    assert [scale.unit, scale.text(0.0005), scale.text(0.25)] == ["ms", "0.500", "250"]


# Looks --------------------------------------------------------------------------------------------


def contrast(one: str, other: str) -> float:
    """The WCAG contrast of two `#rrggbb` colours, 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    red, green, blue = linear
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_are_visible_on_both_surfaces() -> None:
    for light, dark in COLOURS:
        # 4.5: the colours are also those of the labels in figures
        assert contrast(light, LIGHT_SURFACE) >= 4.5
        assert contrast(dark, DARK_SURFACE) >= 4.5
    assert contrast("#f0e442", LIGHT_SURFACE) < 3
    assert round(contrast("#000000", "#ffffff")) == 21


def test_marks_differ() -> None:
    names = [*REGISTERED, *(f"variant_{n}" for n in range(60))]
    found = marks(names)
    assert len(set(found.values())) == len(found) == len(names)


@given(
    st.lists(st.text("abcdefgh_", min_size=1, max_size=6), max_size=40, unique=True),
    st.text("abcdxyz", min_size=1, max_size=3),
)
def test_marks_stay_when_results_are_added(measured: list[str], newcomer: str) -> None:
    before = marks(measured, measured)
    after = marks({*measured, newcomer}, [*measured, newcomer])
    assert {name: after[name] for name in before} == before
    assert len(set(after.values())) == len(after)


def test_registered_marks_are_pinned() -> None:
    """Append only: whoever reorders the register gives every figure of the past another look."""
    found = marks(())
    looks = [(found[n].light, found[n].dash, found[n].symbol) for n in REGISTERED[:12]]
    assert looks[0] == ("#1d2126", "solid", "circle")
    assert looks[3] == ("#0c7a55", "dashdot", "triangle-up")
    assert looks[10] == ("#0b62b8", "dot", "triangle-down")
    pairs = {(found[n].light, found[n].symbol) for n in REGISTERED}
    assert len(pairs) == len(REGISTERED)
    assert REGISTERED[:10] == (
        "softmax", "linear_relu", "linear_elu", "inline", "focused_linear", "soft", "soft_norm",
        "linformer", "performer", "nystromformer",
    )  # fmt: skip


def test_no_other_name_takes_a_registered_mark() -> None:
    others = [f"other_{n}" for n in range(200)]
    found = marks(others)
    assert not {found[n] for n in others} & {found[n] for n in REGISTERED}
    with pytest.raises(ValueError, match="none is left"):
        marks([f"other_{n}" for n in range(400)])


def test_the_page_and_the_marks_agree_on_the_surface() -> None:
    css = (Path(vendor.__file__).parent / "static" / "site.css").read_text("utf-8")
    assert f"--surface: {LIGHT_SURFACE};" in css
    assert css.count(f"--surface: {DARK_SURFACE};") == 2


def css_colours(css: str, theme: str) -> dict[str, str]:
    block = (
        css.split(":root {", 1)[1] if theme == "light" else css.split('[data-theme="dark"] {')[1]
    )
    block = block.split("}", 1)[0]
    pairs = (entry.split(":") for entry in block.split(";") if entry.count(":") == 1)
    return {name.strip(): value.strip() for name, value in pairs}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(theme: str) -> None:
    css = (Path(vendor.__file__).parent / "static" / "site.css").read_text("utf-8")
    colours = css_colours(css, theme)
    for ink in ("--text", "--muted", "--accent", "--warning", "--failure", "--exact",
                "--approximate", "--own"):  # fmt: skip
        for ground in ("--surface", "--panel"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert contrast(colours["--failure"], colours["--failure-surface"]) >= 4.5
    assert contrast(colours["--line"], colours["--surface"]) < 3  # a hairline, not a carrier


# Rankings -----------------------------------------------------------------------------------------


def test_a_ranking_never_mixes(shown: View) -> None:
    rankings = 0
    for context, sizes in by_context(shown.results).items():
        for size, results in sizes.items():
            for group in grouped(shown, results, metric="latency", better="lower"):
                rankings += 1
                members = [p.result for p in group.placed]
                assert {r.hardware_id for r in members} == {context.hardware_id}
                assert {(r.dtype, r.passes, r.level, r.batch_policy) for r in members} == {
                    (context.dtype, context.passes, context.level, context.batch_policy)
                }
                assert {r.tokens for r in members} == {size.tokens}
                assert {shown.exactness(r.variant) for r in members} == {group.exactness}
    assert rankings > 50


def test_ties_share_and_the_next_rank_counts_them(shown: View) -> None:
    tied = 0
    for sizes in by_context(shown.results).values():
        for results in sizes.values():
            for group in grouped(shown, results, metric="latency", better="lower"):
                found = [p.rank for p in group.ranked]
                assert found == sorted(found)
                assert found[:1] in ([], [1])
                for at, placed in enumerate(group.ranked):
                    assert placed.rank is not None
                    assert placed.rank <= at + 1
                    assert placed.tied == (found.count(placed.rank) > 1)
                    tied += placed.tied
    assert tied > 0


def test_what_failed_or_is_stale_has_no_rank(shown: View) -> None:
    kinds = set()
    for sizes in by_context(shown.results).values():
        for results in sizes.values():
            for group in grouped(shown, results, metric="latency", better="lower"):
                for placed in group.placed:
                    result = placed.result
                    wrong = any(n.implausible for n in result.numbers.values())
                    if not result.ok or result.stale or wrong:
                        assert placed.rank is None
                        kinds.add((result.ok, result.stale, wrong))
                    else:
                        assert placed.rank is not None
    assert {(False, False, False), (True, True, False), (True, False, True)} <= kinds


def test_the_baseline_is_sdpa_then_the_reference(shown: View) -> None:
    context, sizes = next(iter(by_context(shown.results).items()))
    results = next(iter(sizes.values()))
    found = baseline(results, "latency")
    assert found is not None
    assert (found.variant, found.backend) == ("softmax", "sdpa")
    second = baseline([r for r in results if r.backend != "sdpa"], "latency")
    assert second is not None
    assert (second.variant, second.backend) == ("softmax", "reference")
    assert baseline([r for r in results if r.variant != "softmax"], "latency") is None
    assert context.hardware_id == "sample-cpu"


def test_accuracy_is_a_mean_over_seeds_of_one_machine(shown: View) -> None:
    mine = [r for r in shown.results if r.hardware_id == "sample-cpu"]
    best = trained(mine, "digits")[0]
    assert best.variant == "softmax"
    values = [r.numbers["accuracy"].value for r in best.seeds]
    assert len(values) == 3
    assert math.isclose(best.mean, sum(values) / 3)
    assert best.low is not None
    assert best.low < best.mean
    assert trained(mine, "no_such_task") == ()
    stale = [replace(r, stale=True) for r in mine]
    assert trained(stale, "digits") == ()


# Pages and formulas -------------------------------------------------------------------------------


def test_every_page_file_is_a_page() -> None:
    found = pages()
    assert found[0].path == "index.html"
    linked = [page.path for page in found if page.order is not None]
    assert len(set(linked)) == len(linked) >= 18
    assert all(isinstance(page, Page) for page in found)


def test_formulas_become_mathml() -> None:
    found = formula(r"\frac{Q K^\top}{\sqrt{d}}").lines
    assert [line.tag for line in found] == ["math"]
    assert "mfrac" in repr(found)
    assert formula(r"\frac{").lines == ()
    assert len(formula(r"O = a,\quad b = \frac{1}{2},\; c = 1").lines) == 3
    assert len(formula(r"O = \left(a,\quad b\right)").lines) == 1


def test_backticks_are_code() -> None:
    assert prose("either `conv` or `pool`.") == ("either ", Code("conv"), " or ", Code("pool"), ".")
    assert prose("one ` alone") == ("one ` alone",)


def test_a_site_needs_no_torch() -> None:
    code = (
        "import sys, leaderboard.build, leaderboard.page; leaderboard.page.pages(); "
        "bad = {'torch', 'fvcore', 'attention_impls.variants'} & set(sys.modules); "
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    path = [str(vendor.REPOSITORY), str(vendor.REPOSITORY / "site")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# Vendored files -----------------------------------------------------------------------------------


def test_vendored_files_are_those_of_the_lock() -> None:
    packages = vendor.locked()
    assert {p.name for p in packages} == {
        "plotly.js-cartesian-dist-min", "datatables.net", "axe-core",
    }  # fmt: skip
    assert vendor.faults(packages) == ()
    assert vendor.main(["--check"]) == 0


def test_every_vendored_file_is_in_the_lock_and_in_the_notices() -> None:
    locked = {f.destination for p in vendor.locked() for f in p.files}
    folders = ("site/leaderboard/static/vendor", "tests/browser/vendor")
    there = {
        path.relative_to(vendor.REPOSITORY).as_posix()
        for folder in folders
        for path in (vendor.REPOSITORY / folder).iterdir()
        if path.name != ".gitattributes"
    }
    assert there == locked
    notices = (vendor.REPOSITORY / "THIRD_PARTY_NOTICES.md").read_text("utf-8")
    for package in vendor.locked():
        assert f"| {package.name} | {package.version} | {package.licence} |" in notices
        assert all(file.destination in notices for file in package.files)


def archive(contents: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as members:
        entry = tarfile.TarInfo("package/a.js")
        entry.size = len(contents)
        members.addfile(entry, io.BytesIO(contents))
    return packed.getvalue()


def toy(contents: bytes, packed: bytes) -> vendor.VendoredPackage:
    digest = base64.b64encode(hashlib.sha512(packed).digest()).decode()
    return vendor.VendoredPackage(
        name="toy", version="1.0.0", url="https://registry.example/toy.tgz",
        integrity=f"sha512-{digest}", licence="MIT",
        files=(
            vendor.VendoredFile(
                member="package/a.js", destination="static/a.js",
                sha256=hashlib.sha256(contents).hexdigest(), size_bytes=len(contents),
            ),
        ),
    )  # fmt: skip


def test_vendoring_writes_what_it_checked(tmp_path: Path) -> None:
    packed = archive(b"good")
    package = toy(b"good", packed)
    assert len(vendor.faults((package,), tmp_path)) == 1
    vendor.unpack(package, packed, tmp_path)
    assert vendor.faults((package,), tmp_path) == ()
    (tmp_path / "static/a.js").write_bytes(b"evil")
    assert "sha256 is" in vendor.faults((package,), tmp_path)[0]


def test_vendoring_refuses_another_archive(tmp_path: Path) -> None:
    with pytest.raises(vendor.VendorError, match="integrity"):
        vendor.unpack(toy(b"good", archive(b"good")), archive(b"evil"), tmp_path)
    packed = archive(b"evil")
    with pytest.raises(vendor.VendorError, match="another sha256"):
        vendor.unpack(toy(b"good", packed), packed, tmp_path)
    assert not (tmp_path / "static").exists()


def test_the_lock_is_canonical_json() -> None:
    text = vendor.LOCK.read_text("utf-8")
    assert text == json.dumps(json.loads(text), indent=2) + "\n"
