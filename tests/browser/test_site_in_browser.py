"""The site in a real browser, from disk: no error, no request, keyboard, both themes, phone."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from leaderboard.build import Site, build
from sample_site import sample_table, write_site_sample

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which(
    "google-chrome"
)  # fmt: skip
AXE = Path(__file__).parent / "vendor" / "axe-4.14.1.min.js"
PAGES = (
    "index.html", "leaderboard.html", "leaderboard/sample-gpu-cpu.html", "scaling.html",
    "memory.html", "flops.html", "accuracy.html", "methodology.html", "data.html",
    "variants/index.html", "variants/soft.html", "machines/index.html", "machines/sample-cpu.html",
)  # fmt: skip
WITH_FIGURES = ("scaling.html", "memory.html", "flops.html", "accuracy.html")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    table = sample_table(write_site_sample(tmp_path_factory.mktemp("results")))
    return build(table, tmp_path_factory.mktemp("built") / "site")


@pytest.fixture(scope="module")
def browser() -> "Iterator[playwright.Browser]":
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@contextmanager
def visit(
    browser: "playwright.Browser", address: str, *, width: int = 1280, dark: bool = False,
    scripts: bool = True,
) -> "Iterator[tuple[playwright.Page, list[str]]]":  # fmt: skip
    """Open a page and collect everything that should not happen while it is open."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light",
        java_script_enabled=scripts, reduced_motion="reduce",
    )  # fmt: skip
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("request", lambda request: _note_request(request.url, faults))
    if scripts:
        page.add_init_script(
            "addEventListener('securitypolicyviolation', e => "
            "console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI));"
        )
    page.goto(address)
    try:
        yield page, faults
    finally:
        context.close()


def _note_request(url: str, faults: list[str]) -> None:
    if not url.startswith(("file://", "data:", "blob:")):
        faults.append(f"request: {url}")


def overflow(page: "playwright.Page") -> int:
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
def test_pages_are_quiet_and_fit(
    site: Site, browser: "playwright.Browser", width: int, dark: bool
) -> None:
    for path in PAGES:
        with visit(browser, (site.out / path).as_uri(), width=width, dark=dark) as (page, faults):
            page.wait_for_load_state("load")
            assert overflow(page) <= 0, path
            page.evaluate("scrollTo(0, document.body.scrollHeight)")
            if path in WITH_FIGURES:
                page.locator(".drawing:visible .main-svg").first.wait_for(timeout=20_000)
            assert faults == [], path


def test_the_check_sees_faults(browser: "playwright.Browser", tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<meta http-equiv=Content-Security-Policy content=\"script-src 'none'\">"
        "<script>1</script><img src=https://other.example/x.png>"
        '<div style="width: 5000px">wide</div>'
    )
    with visit(browser, bad.as_uri()) as (page, faults):
        assert overflow(page) > 0
        page.wait_for_timeout(200)
        assert any(f.startswith("request: https://other.example") for f in faults)
        assert any("violates the following Content Security Policy" in f for f in faults)


def test_without_scripts_everything_is_there(site: Site, browser: "playwright.Browser") -> None:
    address = (site.out / "leaderboard.html").as_uri()
    with visit(browser, address, scripts=False) as (page, faults):
        panels = page.locator(".panel")
        assert panels.count() > 15
        assert all(panel.is_visible() for panel in panels.all())
        assert not page.locator(".facets").is_visible()
        assert faults == []
    with visit(browser, address) as (page, _):
        shown = [panel for panel in page.locator(".panel").all() if panel.is_visible()]
        assert len(shown) == 1


def test_figures_draw_with_every_line_and_follow_the_theme(
    site: Site, browser: "playwright.Browser"
) -> None:
    with visit(browser, (site.out / "scaling.html").as_uri()) as (page, faults):
        figure = page.locator("figure:visible").first
        figure.locator(".main-svg").first.wait_for(timeout=20_000)
        assert figure.locator(".scatterlayer .trace").count() >= 11
        ground = "getComputedStyle(document.querySelector('.drawing .main-svg')).backgroundColor"
        light = page.evaluate(ground)
        page.locator("button.theme").click()
        page.wait_for_function(f"{ground} !== '{light}'")
        key = figure.locator(".key button").first
        before = figure.locator(".scatterlayer .trace").count()
        key.focus()
        page.keyboard.press("Enter")
        assert key.get_attribute("aria-pressed") == "false"
        page.wait_for_function(
            "n => document.querySelectorAll('figure .scatterlayer')[0]"
            ".querySelectorAll('.trace').length < n",
            arg=before,
        )
        modebar = page.evaluate("Plotly.version")
        assert modebar == "4.1.1"
        assert "cloud" not in page.locator(".modebar").first.inner_html().lower()
        assert faults == []


def test_plotly_waits_until_a_figure_is_near(site: Site, browser: "playwright.Browser") -> None:
    with visit(browser, (site.out / "methodology.html").as_uri()) as (page, _):
        assert page.evaluate("typeof Plotly") == "undefined"
        assert page.locator("script[src*=plotly]").count() == 0


def test_tables_sort_by_keyboard(site: Site, browser: "playwright.Browser") -> None:
    with visit(browser, (site.out / "variants" / "softmax.html").as_uri()) as (page, faults):
        table = page.locator("#timed-sample-cpu")
        table.scroll_into_view_if_needed()
        head = table.locator("thead th", has_text="Latency")
        button = head.locator(".dt-column-order")
        button.wait_for(state="attached")
        button.focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert sorted_up(column(page))
        assert column(page)[-1] == ""
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        down = column(page)
        assert sorted_up([v for v in reversed(down) if v])
        assert down[-1] == ""
        assert not sorted_up(down)
        assert faults == []


def column(page: "playwright.Page") -> list[str]:
    """Sort keys of the latency column, top to bottom."""
    return page.evaluate(
        "[...document.querySelectorAll('#timed-sample-cpu tbody tr')]"
        ".map(row => row.cells[3].dataset.order || '')"
    )


def sorted_up(values: list[str]) -> bool:
    numbers = [float(v) for v in values if v]
    return numbers == sorted(numbers) and len(numbers) > 10


def test_a_choice_is_made_by_keyboard_and_has_an_address(
    site: Site, browser: "playwright.Browser"
) -> None:
    with visit(browser, (site.out / "leaderboard.html").as_uri()) as (page, faults):
        passes = page.locator(".facets select").first
        passes.select_option("forward_backward")
        assert page.locator(".panel:visible h2").inner_text().endswith("forward and backward")
        address = page.url
        assert "#float32-forward-backward" in address
        page.locator("input[type=search]").fill("inline")
        rows = page.locator(".panel:visible tbody tr:visible th").all_inner_texts()
        assert [r for r in rows if r] == ["Inline"]
        assert faults == []
    with visit(browser, address) as (page, _):
        assert page.locator(".panel:visible h2").inner_text().endswith("forward and backward")


def test_details_open_and_close_by_keyboard(site: Site, browser: "playwright.Browser") -> None:
    with visit(browser, (site.out / "leaderboard.html").as_uri()) as (page, faults):
        page.locator(".panel:visible button.open").first.focus()
        page.keyboard.press("Enter")
        opened = page.locator(".provenance:popover-open")
        opened.wait_for()
        assert "attnbench repro" in opened.inner_text()
        page.keyboard.press("Escape")
        assert page.locator(".provenance:popover-open").count() == 0
        assert faults == []


def test_the_first_tab_stop_skips_to_the_content(site: Site, browser: "playwright.Browser") -> None:
    with visit(browser, (site.out / "index.html").as_uri()) as (page, _):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


def axe_faults(page: "playwright.Page") -> list[str]:
    """Serious and critical findings of axe-core, run past the page's policy."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate(
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'best-practice']})"
    )
    return [
        f"{v['id']}: {v['nodes'][0]['target']} {v['nodes'][0]['failureSummary']}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
def test_no_serious_barrier(
    site: Site, browser: "playwright.Browser", width: int, dark: bool
) -> None:
    for path in ("index.html", "leaderboard/sample-gpu-cpu.html", "accuracy.html", "data.html",
                 "variants/soft.html", "machines/sample-cpu.html"):  # fmt: skip
        with visit(browser, (site.out / path).as_uri(), width=width, dark=dark) as (page, _):
            if path == "accuracy.html":
                page.locator(".drawing:visible .main-svg").first.wait_for(timeout=20_000)
            assert axe_faults(page) == [], path


def test_axe_sees_a_barrier(browser: "playwright.Browser", tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<html lang=en><title>x</title><main><h1>x</h1><button></button>'
                   '<p style="color:#ccc;background:#fff">pale</p></main>')  # fmt: skip
    with visit(browser, bad.as_uri()) as (page, _):
        ids = {fault.split(":")[0] for fault in axe_faults(page)}
        assert {"button-name", "color-contrast"} <= ids
