"""Why, tasks and trade-offs: verdicts that follow the data, charts without scripts."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from leaderboard import charts
from leaderboard.blocks import Block, Chooser, Document, Paragraph
from leaderboard.drawings import Chart, Charts, Figure, Gallery
from leaderboard.explanations import AGREES, CANNOT_TELL, DISAGREES, NO_CLAIM, stale, verdict
from leaderboard.figure_data import Point
from leaderboard.fronts import Candidate, frontier, shared_front
from leaderboard.learning_curves import learning_curves
from leaderboard.marks import marks
from leaderboard.pages import accuracy, task, tradeoff, why
from leaderboard.rendering import Surroundings, html, within
from leaderboard.results import View, view
from leaderboard.tables import Table
from leaderboard.trainings import of_task, separation, trained
from sample_site import sample_table, write_site_sample

from bench.derived import Standing
from bench.report import AnalysisReport, Curves, Line, Network, Picture, Quantity
from bench.table import AnalysisEntry, LeaderboardTable


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LeaderboardTable:
    found = sample_table(write_site_sample(tmp_path_factory.mktemp("results")))
    return replace(found, analyses=(sample_report(found),), questions=(ENTRY,))


@pytest.fixture(scope="module")
def shown(table: LeaderboardTable) -> View:
    return view(table)


ENTRY = AnalysisEntry(
    name="locality", title="Local attention", question="How local?", claim="Local counts.",
    revision=1, description="About it.", source="bench/analyses/locality.py",
)  # fmt: skip


def sample_report(table: LeaderboardTable) -> AnalysisReport:
    lines = tuple(
        Line(variant=v, label=f"{v.capitalize()}, {kind}", x=(1.0, 2.0, 4.0), y=(0.9, 0.5, low))
        for v in ("softmax", "inline")
        for kind, low in (("local", 0.1), ("random", 0.4))
    )
    bounded = Line(variant="softmax", label="Softmax", x=(0.0, 1.0), y=(0.5, 0.6),
                   low=(0.4, 0.5), high=(0.6, 0.7))  # fmt: skip
    return AnalysisReport(
        analysis="locality", revision=1, created="2026-01-02T03:04:05Z", hardware_id="sample-cpu",
        commit=None, dirty=False, torch="2", wall_s=12.0, claim="Local counts.",
        finding="Masking costs 40 % & more.", agrees=True,
        networks=(
            Network(task="digits", recipe_sha256=table.tasks[0].recipe_sha256,
                    data_sha256="1" * 64, variant="inline", variant_revision=2, options="", seed=0,
                    accuracy=0.95),
        ),
        quantities=(Quantity(variant="inline", name="accuracy", setting="masked", value=0.5),),
        figures=(
            Curves(kind="lines", title="Masking", x="tokens", y="accuracy, fraction", lines=lines),
            Curves(kind="bars", title="Maps", x="feature map", y="accuracy, fraction",
                   lines=(bounded,), names=("relu", "exp")),
            Curves(kind="lines", title="Residual", x="step", y="residual", log_y=True,
                   lines=(replace(bounded, low=None, high=None, y=(1.0, 1e-14)),), level=1e-3,
                   level_label="enough"),
            Picture(title="layer 1", variant="inline", rows=((0.5, -0.25), (0.0, 1.0)),
                    marked=(1, 0)),
        ),
    )  # fmt: skip


def with_report(shown: View, **changes: object) -> View:
    (report,) = shown.table.analyses
    changed = replace(report, **changes)
    return replace(shown, table=replace(shown.table, analyses=(changed,)))


def text_of(document: Document, shown: View) -> str:
    around = Surroundings(
        marks=shown.marks, navigation=(), more=(), feed=False, footer="", plotly="p",
        datatables="d",
    )  # fmt: skip
    return html(document, around)


def why_page(shown: View) -> str:
    document = next(d for d in why.PAGE.documents(shown) if d.path == "why.html")
    return text_of(document, shown)


# Why ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agrees", "claim", "found", "count"),
    [
        (True, "Local counts.", AGREES, "agree with 1, disagree with 0 and cannot tell about 0"),
        (False, "Local counts.", DISAGREES, "agree with 0, disagree with 1 and cannot tell about"),
        (None, "Local counts.", CANNOT_TELL, "disagree with 0 and cannot tell about 1"),
        (None, "", NO_CLAIM, "None of the analyses is about a claim"),
    ],
)
def test_the_page_says_whether_the_paper_is_right(
    shown: View, agrees: bool | None, claim: str, found: object, count: str
) -> None:
    changed = with_report(shown, agrees=agrees, claim=claim)
    assert verdict(changed.table.analyses[0]) is found
    page = why_page(changed)
    others = {AGREES, DISAGREES, CANNOT_TELL, NO_CLAIM} - {found}
    assert verdict(changed.table.analyses[0]).sentence in page
    assert all(other.sentence not in page for other in others)
    assert count in page
    assert ("Local counts." in page) == bool(claim)


def test_the_finding_of_the_report_is_the_sentence_of_the_page(shown: View) -> None:
    assert "Masking costs 40\N{NO-BREAK SPACE}% &amp; more." in why_page(shown)
    assert "Masking costs 7\N{NO-BREAK SPACE}%." in why_page(
        with_report(shown, finding="Masking costs 7 %.")
    )


def test_clauses_of_a_finding_stand_one_under_the_other(shown: View) -> None:
    page = why_page(with_report(shown, finding="Local 3; random 4; other 5."))
    assert "<span>Local 3;</span> <span>random 4;</span> <span>other 5.</span>" in page
    assert "<span>Masking" not in why_page(shown)


def test_the_page_says_what_the_paper_looked_at(shown: View) -> None:
    assert "The paper: many tokens" not in why_page(shown)
    entry = replace(ENTRY, paper_scale="many tokens")
    page = why_page(replace(shown, table=replace(shown.table, questions=(entry,))))
    assert "The paper: many tokens;" in page
    assert "here: 1 network trained on" in page


def test_negative_weights_are_told_without_colour(shown: View) -> None:
    assert why_page(shown).count('class="minus"') == 1
    (report,) = shown.table.analyses
    picture = Picture(title="layer 1", variant="inline", rows=((0.5, 0.25),), marked=(0, 0))
    assert 'class="minus"' not in why_page(with_report(shown, figures=(picture,)))
    assert report.figures != (picture,)


def test_a_report_of_another_state_is_stale(shown: View) -> None:
    (report,) = shown.table.analyses
    assert stale(shown, report, ENTRY) == ()
    assert "Stale" not in why_page(shown)
    assert stale(shown, report, None)
    assert stale(shown, replace(report, revision=2), ENTRY)
    (network,) = report.networks
    for other in (replace(network, recipe_sha256="0" * 64), replace(network, variant_revision=1),
                  replace(network, task="gone")):  # fmt: skip
        assert len(stale(shown, replace(report, networks=(other,)), ENTRY)) == 1
    assert "Stale" in why_page(with_report(shown, revision=2))


def test_figures_stand_in_the_page_without_a_script(shown: View) -> None:
    page = why_page(shown)
    assert page.count('role="img"') == 2 + 1 + 1 + 1
    assert 'class="curve" d="M' in page
    assert "plotly" not in page
    document = next(d for d in why.PAGE.documents(shown) if d.path == "why.html")
    drawn = [b for b in within(document.blocks) if isinstance(b, Charts)]
    assert [len(d.charts) for d in drawn] == [2, 2]
    masking = drawn[0]
    assert [k.text for k in masking.key] == ["local", "random"]
    assert [c.title for c in masking.charts] == [shown.title("softmax"), shown.title("inline")]
    assert masking.csv_text.count("\n") == 1 + 12
    (gallery,) = (b for b in within(document.blocks) if isinstance(b, Gallery))
    (picture,) = gallery.rows[0].pictures
    assert [t.negative for t in picture.tiles] == [False, True, False]
    assert picture.marked == (0, 1)


def test_every_number_is_on_a_page_of_its_own(shown: View) -> None:
    (document,) = (d for d in why.PAGE.documents(shown) if d.path != "why.html")
    page = text_of(document, shown)
    assert "masked" in page
    assert "50\N{NO-BREAK SPACE}%" in page
    assert "attnbench analyse locality --task digits --seeds 1" in page


def test_without_reports_the_page_says_what_to_run(shown: View) -> None:
    page = why_page(replace(shown, table=replace(shown.table, analyses=())))
    assert "No analysis has been recorded yet." in page
    assert "attnbench analyse locality" in page


# Charts -------------------------------------------------------------------------------------------


def heights(one: Chart) -> list[float]:
    return [y for line in one.lines for _, y in line.dots]


def test_more_is_higher_and_places_are_inside() -> None:
    look = marks(["softmax"])["softmax"]
    for log in (False, True):
        drawn = charts.chart(
            title="", description="", x=charts.scale("x", [1.0, 100.0], log=log),
            y=charts.scale("y", [1e-9, 1.0], log=log),
            lines=[charts.Drawn(label="a", look=look,
                                points=((1.0, 1e-9), (10.0, 1e-4), (100.0, 1.0)))],
        )  # fmt: skip
        ys = heights(drawn)
        assert ys == sorted(ys, reverse=True)
        assert ys[0] > ys[-1]
        assert all(drawn.top <= y <= drawn.bottom for y in ys)
        assert 2 <= len(drawn.y_ticks) <= 7
        assert all(drawn.left <= x <= drawn.right for x, _ in drawn.x_ticks)


def test_intervals_at_one_place_stand_beside_each_other() -> None:
    look = marks(["softmax"])["softmax"]

    def places(*ends: tuple[tuple[float, float], ...]) -> list[float]:
        drawn = charts.chart(
            title="", description="", x=charts.scale("x", [0.0, 1.0]),
            y=charts.scale("y", [0.0, 1.0]),
            lines=[charts.Drawn(label="a", look=look, points=((0.5, 0.5),), ends=e) for e in ends],
        )  # fmt: skip
        return [line.dots[0][0] for line in drawn.lines]

    bounded = ((0.4, 0.6),)
    assert len(set(places(bounded, bounded, bounded))) == 3
    assert len(set(places((), ()))) == 1
    assert len(set(places(bounded, ()))) == 1


def test_a_few_lines_of_one_variant_leave_all_in_one_chart(shown: View) -> None:
    (report,) = shown.table.analyses
    masking = report.figures[0]
    assert isinstance(masking, Curves)
    few = replace(masking, lines=(*masking.lines[:1], *masking.lines[2:]))
    for figure, charts_drawn in ((masking, 2), (few, 1)):
        changed = with_report(shown, figures=(figure,))
        document = next(d for d in why.PAGE.documents(changed) if d.path == "why.html")
        (drawn,) = (b for b in within(document.blocks) if isinstance(b, Charts))
        assert len(drawn.charts) == charts_drawn


def test_a_zero_on_a_logarithmic_axis_is_at_its_end() -> None:
    look = marks(["softmax"])["softmax"]
    drawn = charts.chart(
        title="", description="", x=charts.scale("x", [0.0, 1.0]),
        y=charts.scale("y", [0.0, 0.1, 1.0], log=True),
        lines=[charts.Drawn(label="a", look=look, points=((0.0, 0.0), (1.0, 1.0)))],
    )  # fmt: skip
    assert heights(drawn)[0] == drawn.bottom


def test_lines_of_one_variant_can_be_told_apart() -> None:
    found = charts.looks(["softmax", "softmax", "inline"], marks(["softmax", "inline"]))
    assert len(set(found)) == 3
    assert found[0].light == found[1].light
    assert len(set(charts.looks(["softmax"] * 4, marks(["softmax"])))) == 4


# Tasks --------------------------------------------------------------------------------------------


def changed_accuracies(table: LeaderboardTable, of: Callable[[str, int], float]) -> View:
    """The sample with other accuracies, by variant and seed."""
    rows = table.rows.copy()
    mine = rows["metric"].eq("accuracy")
    rows.loc[mine, "value"] = [
        of(str(v), int(s)) for v, s in zip(rows[mine]["variant"], rows[mine]["seed"], strict=True)
    ]
    return view(replace(table, rows=rows))


def alike(_variant: str, seed: int) -> float:
    return 0.5 + 0.01 * seed


def one_ahead(variant: str, seed: int) -> float:
    return (0.9 if variant == "inline" else 0.5) + 0.01 * seed


def blocks(document: Document, kind: type) -> list[Block]:
    return [b for b in within(document.blocks) if isinstance(b, kind)]


def test_a_task_that_tells_nothing_apart_shows_ties_and_no_rank(table: LeaderboardTable) -> None:
    tied, parted = changed_accuracies(table, alike), changed_accuracies(table, one_ahead)
    for shown, words, ranks in (
        (tied, "cannot rank", {"tie"}),
        (parted, "Inline is best", {"1", "=2"}),
    ):
        (document,) = task.PAGE.documents(shown)
        findings = [b for b in blocks(document, Paragraph) if b.tone == "finding"]
        assert words in str(findings[0].text)
        found = next(b for b in blocks(document, Table) if b.id.startswith("seeds-"))
        assert {str(row.cells[0].content[0]) for row in found.rows} == ranks


def test_separation_counts_pairs(table: LeaderboardTable) -> None:
    def of(shown: View) -> tuple[int, int]:
        found = separation(trained(of_task(shown, "digits", "sample-cpu"), "digits"))
        return found.told_apart, found.variants

    told, variants = of(changed_accuracies(table, alike))
    assert told == 0
    assert variants > 3
    assert of(changed_accuracies(table, one_ahead)) == (variants - 1, variants)
    with pytest.raises(ValueError, match="no training"):
        separation(())


@pytest.mark.parametrize(
    ("of", "words", "verdict"),
    [(alike, "0 of 1 task tell", "separates none: a tie"),
     (one_ahead, "Digits separates most", "separates")],
)  # fmt: skip
def test_the_accuracy_page_says_which_tasks_separate(
    table: LeaderboardTable, of: Callable[[str, int], float], words: str, verdict: str
) -> None:
    shown = changed_accuracies(table, of)
    (document,) = (d for d in accuracy.PAGE.documents(shown) if d.path == "accuracy.html")
    page = text_of(document, shown)
    assert words in page
    assert verdict in page


def test_a_task_page_has_data_recipe_digest_and_curves(shown: View) -> None:
    (document,) = task.PAGE.documents(shown)
    page = text_of(document, shown)
    entry = shown.tasks["digits"]
    assert entry.recipe_sha256 in page
    rows = shown.table.rows
    (digest,) = rows[rows["task"] == "digits"]["data_sha256"].dropna().unique()
    assert digest in page
    for name in entry.recipe:
        assert name in page
    (drawn,) = blocks(document, Charts)
    done = trained(of_task(shown, "digits", "sample-cpu"), "digits")
    assert len(drawn.charts) == len(done)
    assert [len(c.lines) for c in drawn.charts] == [len(t.seeds) for t in done]
    assert page.count('class="curve"') == sum(len(t.seeds) for t in done)


def test_without_kept_curves_there_is_no_figure(shown: View) -> None:
    assert learning_curves(shown, shown.tasks["digits"], "sample-cpu", ()) is None


# Trade-offs ---------------------------------------------------------------------------------------


def candidate(accuracy: float, cost: float, half: float = 0.01) -> Candidate:
    return Candidate(
        accuracy=Standing(value=accuracy, low=accuracy - half, high=accuracy + half),
        cost=Standing(value=cost, low=0.99 * cost, high=1.01 * cost),
        noise_floor=0.02,
    )


def test_accuracies_of_another_machine_stand_beside_the_costs(table: LeaderboardTable) -> None:
    rows = table.rows.copy()
    rows.loc[rows["task"].notna(), "hardware_id"] = "sample-gpu-cpu"
    path = "tradeoff/digits/sample-cpu/224px.html"
    for shown, elsewhere in ((view(table), False), (view(replace(table, rows=rows)), True)):
        (document,) = (d for d in tradeoff.PAGE.documents(shown) if d.path == path)
        assert ("Trained on" in text_of(document, shown)) == elsewhere


def test_a_mechanism_without_parameters_has_its_place(table: LeaderboardTable) -> None:
    rows = table.rows.copy()
    rows.loc[rows["variant"].eq("inline") & rows["metric"].eq("parameters"), "value"] = 0.0
    path = "tradeoff/digits/sample-cpu/224px.html"
    for changed, kind in ((table.rows, "log"), (rows, "linear")):
        documents = tradeoff.PAGE.documents(view(replace(table, rows=changed)))
        (document,) = (d for d in documents if d.path == path)
        (chooser,) = blocks(document, Chooser)
        drawn = {p.id: p.blocks[0] for p in chooser.panels}["parameters"]
        assert isinstance(drawn, Figure)
        assert drawn.drawing["layout"]["xaxis"]["type"] == kind


def test_what_is_beaten_within_the_noise_shares_the_front() -> None:
    found = {
        "best": candidate(0.9, 1.0),
        "noise": candidate(0.895, 1.005),
        "less accurate": candidate(0.8, 1.0),
        "dearer": candidate(0.9, 2.0),
        "cheap": candidate(0.5, 0.1),
    }
    assert shared_front(found, more=False, varies=True) == {"best", "noise", "cheap"}
    # an exact cost that differs is told apart
    assert shared_front(found, more=False, varies=False) == {"best", "cheap"}


def test_the_strict_front_is_always_part_of_the_shared_one() -> None:
    values = list(itertools.product((0.2, 0.5, 0.51), (1.0, 2.0, 2.01)))
    for more in (False, True):
        found = {f"{n}": candidate(a, c) for n, (a, c) in enumerate(values)}
        points = [charts_point(c) for c in found.values()]
        strict = frontier(points, more=more)
        front = shared_front(found, more=more, varies=True)
        assert {n for n, c in found.items() if charts_point(c) in strict} <= front


def charts_point(one: Candidate) -> Point:
    return Point(x=one.cost.value, y=one.accuracy.value, low=None, high=None)
