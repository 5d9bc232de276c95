"""The site as files: the same bytes twice, complete, whole, light, and true to its table."""

import gzip
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pandas
import plotly.graph_objects
import pytest
from leaderboard.build import BuildError, Site, build
from leaderboard.results import view
from sample_site import catalogue, sample_table, write_later_run, write_site_sample

from bench.table import LeaderboardTable, Refused, VariantEntry
from bench.tabulation import load_table

_PAGE_LIMIT_BYTES = 150_000


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LeaderboardTable:
    return sample_table(write_site_sample(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def site(table: LeaderboardTable, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return build(table, tmp_path_factory.mktemp("built") / "site")


RANKING = "leaderboard/sample-cpu/float32-forward-layer-one-h3d64"
BUSY_RANKING = "leaderboard/sample-gpu-cpu/float32-forward-layer-one-h3d64"


class Reader(HTMLParser):
    """Everything that a check needs to know about one document."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        return [a[attribute] or "" for _, a in self.tags if attribute in a]


@cache
def read(site: Site, path: str) -> Reader:
    return Reader((site.out / path).read_text("utf-8"))


def documents(site: Site) -> list[str]:
    return [f.path for f in site.files if f.path.endswith(".html")]


@cache
def ids_in(path: Path) -> frozenset[str]:
    return frozenset(Reader(path.read_text("utf-8")).values("id"))


def dead_ends(out: Path, path: str, text: str) -> list[str]:
    """Links and assets of one document that lead nowhere within the site."""
    reader = Reader(text)
    found: list[str] = []
    for address in (*reader.values("href"), *reader.values("src"), *reader.values("data-plotly")):
        parts = urlsplit(address)
        if parts.scheme in ("http", "https"):
            continue
        target = (out / path).parent / parts.path if parts.path else out / path
        if not target.resolve().is_file() or (
            parts.fragment and parts.fragment not in ids_in(target)
        ):
            found.append(address)
    return found


def test_the_same_table_gives_the_same_bytes(
    table: LeaderboardTable, site: Site, tmp_path: Path
) -> None:
    again = build(table, tmp_path / "again")
    assert again.files == site.files
    for file in site.files:
        assert (again.out / file.path).read_bytes() == (site.out / file.path).read_bytes()


def test_another_table_gives_other_bytes(
    table: LeaderboardTable, site: Site, tmp_path: Path
) -> None:
    rows = table.rows.copy()
    rows.loc[rows.metric == "latency", "value"] *= 2
    other = build(replace(table, rows=rows), tmp_path / "other")
    assert {f.path for f in other.files} == {f.path for f in site.files}
    assert other.files != site.files


def test_every_page_is_there(site: Site) -> None:
    expected = {
        "index.html", "leaderboard.html", "scaling.html", "memory.html", "flops.html",
        "accuracy.html", "methodology.html", "data.html", "variants/index.html",
        "variants/softmax.html", "machines/index.html", "machines/sample-cpu.html",
        "leaderboard/sample-cpu.html", "leaderboard/sample-gpu-cpu.html", "compare.html",
        "crossovers.html", "tradeoff.html", "failures.html", "roofline.html", "papers.html",
        "history.html", "flags.html", "submit.html", "tasks/digits.html", f"{RANKING}/512px.html",
        "crossovers/sample-cpu/float32-forward-layer-one-h3d64/images.html",
        "tradeoff/digits/sample-cpu/512px.html",
    }  # fmt: skip
    assert expected <= set(documents(site))
    assert {"feed.xml", "badges/softmax/sample-cpu.json", "data/papers.bib"} <= {
        f.path for f in site.files
    }


def test_no_link_is_dead(site: Site) -> None:
    for path in documents(site):
        text = (site.out / path).read_text("utf-8")
        assert dead_ends(site.out, path, text) == [], path
    assert dead_ends(site.out, "index.html", '<a href="gone.html">x</a><a href="#none">y</a>') == [
        "gone.html",
        "#none",
    ]


def outside(text: str) -> list[str]:
    """Things a document would load or run from elsewhere, or inline."""
    found: list[str] = []
    for tag, attributes in Reader(text).tags:
        loaded = attributes.get("src") or (attributes.get("href") if tag in ("link", "use") else "")
        if loaded and urlsplit(loaded).scheme:
            found.append(loaded)
        kind = attributes.get("type")
        if tag == "script" and "src" not in attributes and kind != "application/json":
            found.append("inline script")
        found += [name for name in attributes if name.startswith("on")]
    policies = [
        a.get("content") or ""
        for tag, a in Reader(text).tags
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    if not any("default-src 'none'; script-src 'self';" in policy for policy in policies):
        found.append("no content security policy")
    return found


def test_nothing_comes_from_elsewhere(site: Site) -> None:
    for path in documents(site):
        assert outside((site.out / path).read_text("utf-8")) == [], path
    bad = '<script src="https://x.example/a.js"></script><script>1</script><p onclick="a()">'
    assert outside(bad) == [
        "https://x.example/a.js", "inline script", "onclick", "no content security policy",
    ]  # fmt: skip


def test_static_files_ask_no_other_host(site: Site) -> None:
    own = [f.path for f in site.files if f.path.startswith("static/") and "/vendor/" not in f.path]
    assert len(own) >= 6
    for path in own:
        text = (site.out / path).read_text("utf-8")
        assert not re.findall(r"(?:https?:)?//[a-z]", text.replace("http://www.w3.org", "")), path


def test_ids_are_unique(site: Site) -> None:
    for path in documents(site):
        counts = Counter(read(site, path).values("id"))
        assert [i for i, n in counts.items() if n > 1] == [], path


def test_pages_are_light(site: Site) -> None:
    for path in documents(site):
        size = len(gzip.compress((site.out / path).read_bytes(), mtime=0))
        assert size <= _PAGE_LIMIT_BYTES, f"{path}: {size} bytes gzipped"
    for name, limit in (("static/site.css", 10_000), ("static/figures.js", 10_000)):
        assert len(gzip.compress((site.out / name).read_bytes(), mtime=0)) <= limit


def test_every_number_of_latency_is_on_the_leaderboard(table: LeaderboardTable, site: Site) -> None:
    """Complete without scripts: each case has its row, and the sort key is the value itself."""
    rankings = [p for p in documents(site) if p.startswith("leaderboard/sample-cpu/")]
    assert len(rankings) > 15
    readers = [read(site, path) for path in rankings]
    shown = {float(v) for r in readers for v in r.values("data-order")
             if re.fullmatch(r"[0-9.e-]+", v)}  # fmt: skip
    rows = table.rows
    mine = rows[(rows.hardware_id == "sample-cpu") & (rows.metric == "latency")]
    mine = mine[(mine.batch_policy == "one") & (mine.stimulus == "workload")]
    assert len(mine) > 100
    assert {v for v in mine.value if float(f"{v:.6g}") not in shown} == set()
    assert -1.0 not in shown
    linked = {urlsplit(address).fragment for r in readers for address in r.values("href")}
    ranked = (rows.hardware_id == "sample-cpu") & (rows.stimulus == "workload")
    for case_id in rows[ranked].case_id.unique():
        if "frontier" not in case_id:
            assert f"c-{case_id.rpartition('#')[2]}" in linked


def test_every_result_has_its_place_with_samples_and_command(
    table: LeaderboardTable, site: Site
) -> None:
    found: dict[str, str] = {}
    for path in documents(site):
        if path.startswith("results/"):
            text = (site.out / path).read_text("utf-8")
            for panel in re.findall(r'<section class="panel".*?</section>', text, flags=re.DOTALL):
                command = re.search(r"nox -s repro -- &#39;(.*?)&#39; --of (\S+?)<", panel)
                assert command is not None
                found[f"{command[2]} {command[1]}"] = panel
    wanted = {f"{run} {case}" for run, case in zip(table.rows.run_id, table.rows.case_id,
                                                   strict=True)}  # fmt: skip
    assert found.keys() == wanted
    timed = table.rows[table.rows.metric == "latency"].iloc[0]
    panel = found[f"{timed.run_id} {timed.case_id}"]
    assert panel.count('class="ticks') == 3
    assert panel.count("v8") == 18
    assert "agrees with the float64 reference" in panel
    assert "passed: the machine was quiet" in panel
    failed = table.rows[table.rows.outcome == "out_of_memory"].iloc[0]
    assert failed.reason in found[f"{failed.run_id} {failed.case_id}"]


def test_whole_networks_are_named_by_network_and_side(table: LeaderboardTable, site: Site) -> None:
    """They are no searches for the most tokens, and they have no memory of 0 B."""
    paths = [p for p in documents(site) if "images-float32-forward-model" in p]
    assert {p.split("/")[2] for p in paths} == {"inline", "softmax"}
    for path in paths:
        text = read(site, path).text
        assert "Forward, whole network, float32" in text
        assert text.index("Sample_network, 224 px, 1 image") < text.index(
            "Sample_network, 1024 px, 1 image"
        )
        assert "output agrees with the float64 reference" in text
        assert "most tokens" not in text.casefold()
        assert "0 B" not in text
        assert re.search(r"Page faults 14,674 0 to [\d,]+ ", text), "an interval below zero"
    run = table.runs[-1].run.run_id
    assert "reference whole networks forward" in read(site, f"runs/{run}.html").text
    page = (site.out / "variants/inline.html").read_text("utf-8")
    tables = re.findall(r'<table id="networks-.*?</table>', page, re.DOTALL)
    assert len(tables) == 1
    assert tables[0].count("1 image") == 1


def test_failures_are_words(table: LeaderboardTable, site: Site) -> None:
    words = ("out of memory", "timed out", "crashed", "incorrect", "unsupported", "not run")
    for start in ("machines/sample-cpu", "leaderboard/sample-cpu/", "failures/sample-cpu/"):
        text = " ".join(read(site, p).text for p in documents(site) if p.startswith(start))
        for word in words:
            assert word in text
    assert set(table.rows.outcome) > {"ok", "out_of_memory"}


def test_no_sentinel_and_no_nan(site: Site) -> None:
    for path in documents(site):
        text = read(site, path).text
        assert not re.search(r"\b(nan|NaN|NaT|inf|None|<NA>|Undefined)\b", text), path


def test_marks_of_rows(site: Site) -> None:
    text = read(site, f"{BUSY_RANKING}/512px.html").text
    assert "busy machine" in text
    assert "implausible" in text
    assert "stale" in text
    assert "busy machine" not in read(site, f"{RANKING}/512px.html").text


WITH_FIGURES = (
    "scaling.html", "tradeoff.html", "memory.html", "flops.html", "roofline.html",
    "scaling/sample-cpu/float32-forward-layer-one-h3d64/sequences.html",
)  # fmt: skip


def figure_data(text: str) -> list[str]:
    return re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)


def test_figures_are_valid_for_plotly(site: Site) -> None:
    drawn = 0
    for path in WITH_FIGURES:
        text = (site.out / path).read_text("utf-8")
        for block in figure_data(text):
            drawing = json.loads(re.sub(r'"@[a-z0-9-]+"', '"#123456"', block))
            figure = plotly.graph_objects.Figure(drawing["data"], drawing["layout"])
            assert len(figure.data) == len(drawing["data"])
            drawn += 1
    assert drawn >= 10
    with pytest.raises(ValueError, match="nonsense"):
        plotly.graph_objects.Figure([{"type": "scatter", "nonsense": 1}])


def test_each_figure_has_finding_data_and_file(site: Site) -> None:
    text = (site.out / "scaling.html").read_text("utf-8")
    figures = re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL)
    assert figures
    for figure in figures:
        assert re.search(r'<span class="finding">[^<]{20,}</span>', figure)
        assert "<summary>Show data</summary>" in figure
        link = re.search(r'class="csv" href="([^"]+)"', figure)
        assert link is not None
        assert (site.out / link[1]).read_text("utf-8").startswith("variant,series,")


def test_downloads_hold_every_row(table: LeaderboardTable, site: Site) -> None:
    again = pandas.read_csv(site.out / "data/results.csv")
    assert len(again) == len(table.rows)
    assert list(again.columns) == list(table.rows.columns)
    numbers = again.value.dropna().tolist()
    assert numbers == table.rows.value.dropna().tolist()
    columns = json.loads((site.out / "data/results.json").read_text("utf-8"))["columns"]
    assert [v for v in columns["value"] if v is not None] == numbers
    stored = pandas.read_parquet(site.out / "data/results.parquet")
    assert list(stored.columns) == list(table.rows.columns)
    assert stored.value.dropna().tolist() == numbers
    assert stored.case_id.tolist() == table.rows.case_id.tolist()
    assert stored.seed.isna().tolist() == table.rows.seed.isna().tolist()
    for entry in table.runs:
        copied = site.out / "data/results" / entry.folder / "run.json"
        assert copied.read_bytes() == (table.root / entry.folder / "run.json").read_bytes()


def test_views_hold_every_row_once(table: LeaderboardTable, site: Site) -> None:
    parts = [pandas.read_csv(site.out / f.path) for f in site.files
             if f.path.startswith("data/views/") and f.path.endswith(".csv")]  # fmt: skip
    seen = pandas.concat(parts)
    key = ["run_id", "case_id", "metric"]
    assert sorted(map(tuple, seen[key].fillna("").to_numpy())) == sorted(
        map(tuple, table.rows[key].fillna("").to_numpy())
    )
    for part in parts:
        assert part[["hardware_id", "dtype", "passes", "level"]].drop_duplicates().shape[0] <= 2


def wrong_sums(out: Path, text: str) -> list[str]:
    """Paths whose digest is not the one that the list says."""
    pairs = (line.split("  ", 1) for line in text.splitlines())
    return [p for digest, p in pairs
            if hashlib.sha256((out / p).read_bytes()).hexdigest() != digest]  # fmt: skip


def test_checksums_hold(site: Site) -> None:
    text = (site.out / "data/SHA256SUMS").read_text("utf-8")
    assert wrong_sums(site.out, text) == []
    listed = {line.split("  ", 1)[1] for line in text.splitlines()}
    data = {f.path for f in site.files if f.path.startswith(("data/results", "data/views"))}
    assert data <= listed
    assert wrong_sums(site.out, f"{'0' * 64}  data/results.csv\n") == ["data/results.csv"]


def test_the_feed_is_atom(table: LeaderboardTable, site: Site) -> None:
    atom = "{http://www.w3.org/2005/Atom}"
    feed = ElementTree.parse(site.out / "feed.xml").getroot()
    entries = feed.findall(f"{atom}entry")
    assert feed.tag == f"{atom}feed"
    assert len(entries) == len(table.runs)
    ids = [e.findtext(f"{atom}id") for e in [feed, *entries]]
    assert len(set(ids)) == len(ids)
    assert all(i and i.startswith("urn:uuid:") for i in ids)
    assert feed.findtext(f"{atom}updated") == max(e.run.created for e in table.runs)
    for entry in entries:
        link = entry.find(f"{atom}link")
        assert link is not None
        assert (site.out / link.attrib["href"]).is_file()


def test_badges_are_shields_endpoints(site: Site) -> None:
    paths = [f.path for f in site.files if f.path.startswith("badges/")]
    assert len(paths) > 10
    for path in paths:
        badge = json.loads((site.out / path).read_text("utf-8"))
        assert badge.keys() == {"schemaVersion", "label", "message", "color"}
        assert badge["schemaVersion"] == 1
    exact = json.loads((site.out / "badges/softmax/sample-cpu.json").read_text("utf-8"))
    assert "rank 1 of 2" in exact["message"]
    assert "at 512 px" in exact["label"]


def test_papers_are_bibtex(table: LeaderboardTable, site: Site) -> None:
    text = (site.out / "data/papers.bib").read_text("utf-8")
    keys = re.findall(r"@misc\{(\w+),", text)
    assert len(keys) == len(set(keys)) == len({v.paper.title for v in table.variants})
    assert text.count("{") == text.count("}")


# What lasts ---------------------------------------------------------------------------------------


def headings(site: Site) -> dict[str, tuple[str, ...]]:
    """What each document with a choice in its address says that it shows."""
    kinds = ("leaderboard/", "scaling/", "memory/", "crossovers/", "failures/", "roofline/",
             "tradeoff/", "flops/", "results/", "runs/", "tasks/", "variants/",
             "machines/")  # fmt: skip
    found: dict[str, tuple[str, ...]] = {}
    for path in documents(site):
        if path.startswith(kinds):
            text = (site.out / path).read_text("utf-8")
            title = re.search(r"<h1>(.*?)</h1>", text)
            place = re.search(r'<p class="context">(.*?)</p>', text)
            chosen = re.findall(r'<a href="[^"]*" aria-current="true">(.*?)</a>', text)
            found[path] = (title[1] if title else "", place[1] if place else "", *chosen)
    return found


def shrunk(table: LeaderboardTable) -> LeaderboardTable:
    """The same results before half of the variants, sizes and contexts were added."""
    rows = table.rows
    keep = rows.variant.isin(["softmax", "inline", "soft"]) & (rows.hardware_id == "sample-cpu")
    keep &= ~rows.resolution_px.isin([224, 1536]) & (rows.passes != "forward_backward")
    return only(
        table, keep,
        variants=tuple(v for v in table.variants if v.name in ("softmax", "inline", "soft")),
        machines=tuple(m for m in table.machines if m.hardware_id == "sample-cpu"),
        runs=tuple(r for r in table.runs if r.run.environment.hardware_id == "sample-cpu"),
    )  # fmt: skip


def moved(before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]]) -> list[str]:
    """Addresses that are gone or show something else; more choices may have appeared."""
    return [
        path
        for path, words in before.items()
        if path not in after
        or words[:2] != after[path][:2]
        or not set(words[2:]) <= set(after[path][2:])
    ]


def test_addresses_never_come_to_mean_something_else(
    table: LeaderboardTable, site: Site, tmp_path: Path
) -> None:
    before, after = headings(build(shrunk(table), tmp_path / "before")), headings(site)
    assert len(before) > 60
    assert moved(before, after) == []
    # negative control: two addresses that changed places, and one that is gone, are noticed
    small, large = [path for path in before if path.startswith("leaderboard/sample-")][:2]
    swapped = {**after, small: after[large], large: after[small]}
    assert moved(before, swapped) == [small, large]
    assert moved(before, {p: words for p, words in after.items() if p != small}) == [small]


def test_marks_and_names_in_links_stay(table: LeaderboardTable, tmp_path: Path) -> None:
    small, large = view(shrunk(table)), view(table)
    assert {name: large.marks[name] for name in small.marks} == small.marks
    before = build(shrunk(table), tmp_path / "before")
    names = set(re.findall(r'data-name="([^"]+)"', (before.out / "scaling.html").read_text()))
    assert {"softmax~sdpa", "inline~reference"} <= names


def test_a_newer_run_replaces_and_keeps(tmp_path: Path) -> None:
    """A later run of the same cases: the older results keep their page and say so."""
    root = write_site_sample(tmp_path / "results")
    write_later_run(root)
    table = load_table(root, catalogue())
    site = build(table, tmp_path / "site")
    assert len(table.history) > 0
    old = next(e for e in table.runs if e.run.created.startswith("2026-01-02"))
    new = next(e for e in table.runs if e.run.created.startswith("2026-02-02"))
    path = (f"results/{old.run.run_id}/linear_relu/"
            "reference~float32-forward-layer-one-h3d64.html")  # fmt: skip
    text = (site.out / path).read_text("utf-8")
    assert "A newer run measured this case again." in text
    assert f"results/{new.run.run_id}/" in text
    assert (site.out / "runs" / f"{old.run.run_id}.html").is_file()
    history = read(site, "history.html").text
    assert "Linear relu" in history
    assert "No lead has changed yet." not in history
    for document in documents(site):
        assert dead_ends(site.out, document, (site.out / document).read_text("utf-8")) == []


# Nothing, or little, to show ----------------------------------------------------------------------


def only(table: LeaderboardTable, keep: pandas.Series, **changes: object) -> LeaderboardTable:
    rows = table.rows[keep].reset_index(drop=True)
    return replace(table, rows=rows, **changes)


def nothing(table: LeaderboardTable) -> LeaderboardTable:
    return only(
        table, table.rows.value > 1e300, history=table.history[:0], machines=(), runs=(),
        reported=(), refused=(),
    )  # fmt: skip


def test_no_results_at_all(table: LeaderboardTable, tmp_path: Path) -> None:
    site = build(nothing(table), tmp_path / "site")
    assert "No results yet." in read(site, "index.html").text
    assert "nox -s bench" in read(site, "index.html").text
    assert "No machine has been measured yet." in read(site, "machines/index.html").text
    assert "No results yet." in read(site, "variants/softmax.html").text
    for path in documents(site):
        assert dead_ends(site.out, path, (site.out / path).read_text("utf-8")) == [], path


def test_not_even_variants(table: LeaderboardTable, tmp_path: Path) -> None:
    bare = replace(nothing(table), variants=(), tasks=(), columns=())
    assert "no variants" in read(build(bare, tmp_path / "site"), "variants/index.html").text


def test_one_machine(table: LeaderboardTable, tmp_path: Path) -> None:
    one = only(
        table, table.rows.hardware_id == "sample-cpu",
        machines=tuple(m for m in table.machines if m.hardware_id == "sample-cpu"),
        runs=tuple(r for r in table.runs if r.run.environment.hardware_id == "sample-cpu"),
    )  # fmt: skip
    site = build(one, tmp_path / "site")
    assert not re.search(r"<dt>Machine</dt>", (site.out / "leaderboard.html").read_text("utf-8"))
    assert "<dt>Passes</dt>" in (site.out / "leaderboard.html").read_text("utf-8")
    assert "1 run on 1 machine" in read(site, "index.html").text


def test_a_variant_without_results(table: LeaderboardTable, tmp_path: Path) -> None:
    newcomer: VariantEntry = replace(table.variants[0], name="newcomer", title="Newcomer")
    site = build(replace(table, variants=(*table.variants, newcomer)), tmp_path / "site")
    assert "No results yet." in read(site, "variants/newcomer.html").text
    assert "no results yet" in read(site, "variants/index.html").text


def test_a_variant_that_is_gone(table: LeaderboardTable, tmp_path: Path) -> None:
    left = tuple(v for v in table.variants if v.name != "performer")
    site = build(replace(table, variants=left), tmp_path / "site")
    assert "no longer in the tree" in read(site, "variants/performer.html").text


def test_everything_failed(table: LeaderboardTable, tmp_path: Path) -> None:
    site = build(only(table, table.rows.outcome != "ok"), tmp_path / "site")
    home = read(site, "index.html").text
    assert "none has a ranked result here" in home
    assert "nothing was measured" in read(site, "scaling.html").text
    for path in documents(site):
        assert outside((site.out / path).read_text("utf-8")) == [], path


def test_refused_files_are_listed(table: LeaderboardTable, tmp_path: Path) -> None:
    bad = replace(
        nothing(table), refused=(Refused(path="x/run.json", reason="schema: 9 is too new"),)
    )
    text = read(build(bad, tmp_path / "site"), "data.html").text
    assert "x/run.json" in text
    assert "schema: 9 is too new" in text


# Where it is written ------------------------------------------------------------------------------


def test_a_built_site_is_replaced(table: LeaderboardTable, tmp_path: Path) -> None:
    site = build(nothing(table), tmp_path / "site")
    (site.out / "left-over.html").write_text("old")
    build(nothing(table), tmp_path / "site")
    assert not (site.out / "left-over.html").exists()


def test_a_foreign_folder_is_left_alone(table: LeaderboardTable, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BuildError, match="not empty and not a built site"):
        build(nothing(table), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
