"""The page of checked papers: what is compared, what is highlighted, what is said to be missing."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from golden.published_backbones import published_backbones
from leaderboard.blocks import Block, Document, Notice, Section
from leaderboard.checked import checked_networks, rounds_to
from leaderboard.claim_inline import INLINE_COMMAND, INLINE_SIDES, inline_at_resolutions
from leaderboard.claim_soft import SOFT_COMMAND, soft_memory
from leaderboard.drawings import Figure
from leaderboard.pages.papers_checked import PAGE
from leaderboard.rendering import within
from leaderboard.results import Number, Result, View, view
from leaderboard.tables import Cell, Row, Table
from leaderboard.timed_networks import TIMED_COMMAND, timed_networks, timed_pairs
from sample_site import sample_table, write_site_sample

from attention_impls import backbones, load_backbone
from attention_impls.backbone import BackboneSpec
from bench.catalogue import backbone_entry
from bench.model import Images
from bench.plan import everything, load_plan, only
from bench.reported import read_reported
from bench.table import BackboneEntry, ReportedNumber

REPORTED = Path(__file__).parents[2] / "results" / "reported"
SOME = ("inline_deit_t", "inline_cswin_t", "deit_tiny_patch16_224", "soft_tiny")


@pytest.fixture(scope="module")
def numbers() -> tuple[ReportedNumber, ...]:
    return read_reported(REPORTED)[0]


@pytest.fixture(scope="module")
def entries() -> tuple[BackboneEntry, ...]:
    return tuple(backbone_entry(load_backbone(id_)) for id_ in SOME)


@pytest.fixture(scope="module")
def shown(
    tmp_path_factory: pytest.TempPathFactory,
    numbers: tuple[ReportedNumber, ...],
    entries: tuple[BackboneEntry, ...],
) -> View:
    table = sample_table(write_site_sample(tmp_path_factory.mktemp("results")))
    return view(replace(table, reported=numbers, backbones=entries))


def number(value: float, **changed: object) -> ReportedNumber:
    made = ReportedNumber(
        paper="paper", variant="inline", model="M", resolution_px=224, quantity="macs", value=value,
        unit="mac", from_plot=False, table="Table 1", url="https://example.org", note=None,
    )  # fmt: skip
    return replace(made, **changed)


# Numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "exact", "from_plot", "agrees"),
    [
        (4.3e9, 4.349e9, False, True),
        (4.3e9, 4.351e9, False, False),
        (5.0e9, 4.6e9, False, True),
        (16.3e9, 16.602e9, False, False),
        (4.3e9, 4.399e9, True, True),
        (4.3e9, 4.401e9, True, False),
    ],
)
def test_a_print_is_the_count_rounded(
    printed: float, exact: float, from_plot: bool, agrees: bool
) -> None:
    assert rounds_to(number(printed, from_plot=from_plot), exact, 1e9) is agrees


def test_every_network_with_printed_numbers_is_checked(numbers: tuple[ReportedNumber, ...]) -> None:
    """Titles are what joins them: one that is spelt otherwise would vanish from the page."""
    known = {(n.variant, n.model, n.resolution_px) for n in numbers}
    specs = [load_backbone(id_) for id_ in backbones()]
    assert {s.id for s in specs if key(s) not in known} == {
        s.id for s in specs if s.published.source is None
    }
    assert len({key(s) for s in specs}) == len(specs)


def key(spec: BackboneSpec) -> tuple[str, str, int]:
    return (spec.variant, spec.title, spec.resolution_px)


def test_counts_of_published_code_are_those_of_the_comparison(
    numbers: tuple[ReportedNumber, ...],
) -> None:
    """The committed numbers are those that the networks are compared with, every one of them."""
    found = {(n.variant, n.model, n.resolution_px, n.quantity): n.value for n in numbers}
    cases = {name: case for name, case in published_backbones().items() if "@" not in name}
    for name, case in cases.items():
        of = key(load_backbone(name))
        assert found[*of, "code_parameters"] == case.parameters, name
        assert found[*of, "code_contractions"] == case.contractions, name
        assert found[*of, "code_macs"] == sum(case.macs.values()), name


def test_what_is_here_is_counted_again(shown: View, entries: tuple[BackboneEntry, ...]) -> None:
    found = {one.entry.id: one for one in checked_networks(shown)}
    assert set(found) == set(SOME)
    for entry in entries:
        assert found[entry.id].parameters.here == entry.parameters
        assert found[entry.id].macs.here == entry.macs
    assert found["inline_deit_t"].agrees
    assert found["inline_cswin_t"].parameters.print_agrees is False
    assert found["inline_cswin_t"].parameters.code_agrees is True
    assert found["soft_tiny"].macs.code_agrees is False


def test_a_network_with_one_parameter_more_is_noticed(
    shown: View, entries: tuple[BackboneEntry, ...]
) -> None:
    """Negative control."""
    wrong = tuple(replace(entry, parameters=entry.parameters + 1) for entry in entries)
    found = checked_networks(replace(shown, table=replace(shown.table, backbones=wrong)))
    assert not any(one.parameters.code_agrees for one in found)


# Page ---------------------------------------------------------------------------------------------


def document(shown: View) -> Document:
    (found,) = PAGE.documents(shown)
    return found


def table_of(blocks: tuple[Block, ...], id_: str) -> Table:
    (found,) = (b for b in within(blocks) if isinstance(b, Table) and b.id == id_)
    return found


def row_of(table: Table, name: str) -> Row:
    (found,) = (row for row in table.rows if row.cells[0].content == (name,))
    return found


def texts(cells: tuple[Cell, ...]) -> list[str]:
    return ["".join(p if isinstance(p, str) else getattr(p, "text", "") for p in c.content)
            for c in cells]  # fmt: skip


def test_the_three_numbers_stand_side_by_side(shown: View) -> None:
    table = table_of(document(shown).blocks, "networks-table")
    row = row_of(table, "InLine-CSwin-T")
    assert texts(row.cells)[3:6] == ["25", "20,604,520", "20,604,520"]
    assert [cell.tone for cell in row.cells[3:6]] == ["failure", "plain", "plain"]
    row = row_of(table, "SOFT-Tiny")
    assert texts(row.cells)[6:10] == ["1.9", "2.020", "2.010", "2.116"]
    assert [cell.tone for cell in row.cells[6:10]] == ["failure", "plain", "failure", "failure"]
    years = [e.paper.year for e in (one.entry for one in checked_networks(shown))]
    assert years == sorted(years)


def test_only_what_disagrees_is_listed_as_such(shown: View) -> None:
    names = [texts(row.cells)[0] for row in
             table_of(document(shown).blocks, "disagreements-table").rows]  # fmt: skip
    assert names[0] == "InLine-CSwin-T"
    assert set(names) == {"InLine-CSwin-T", "SOFT-Tiny", "DeiT-Tiny"}


def test_a_tree_without_networks_says_so(shown: View) -> None:
    bare = document(replace(shown, table=replace(shown.table, backbones=(), reported=())))
    assert "No network of a paper" in str(bare.blocks)


# Claims -------------------------------------------------------------------------------------------


def invented(shown: View, speeds: Mapping[tuple[str, str, str], float]) -> View:
    """With whole networks: images/s fall with the pixels, those of softmax with their square."""
    base = next(r for r in shown.results if r.stimulus == "workload" and r.ok)
    return replace(shown, results=(*shown.results, *_invented(base, speeds)))


def _invented(base: Result, speeds: Mapping[tuple[str, str, str], float]) -> Iterator[Result]:
    for (backbone, variant, backend), power in speeds.items():
        for side in (*INLINE_SIDES, 2048):
            lost = power > 1.5 and side == 2048
            yield replace(
                base, backbone=backbone, variant=variant, backend=backend, stimulus="images",
                level="model", options="", passes="forward", batch=1, batch_policy="one",
                resolution_px=side, tokens=None, heads=None, head_dim=None, extra_tokens=None,
                causal=None, stale=False, outcome="out_of_memory" if lost else "ok",
                case_id=f"{variant}/{backend}/{backbone}/{side}#x",
                numbers={} if lost else {
                    "image_throughput": one_number(1e3 * (224 / side) ** (2 * power)),
                    "peak_memory": one_number(1e6 * (side / 224) ** (2 * power)),
                },
            )  # fmt: skip


def one_number(value: float) -> Number:
    return Number(
        value=value, low=None, high=None, p10=None, p90=None, samples=1, rounds=1, bound=None,
        implausible=False,
    )  # fmt: skip


NETWORKS = {
    ("inline_deit_t", "inline", "reference"): 1.0,
    ("deit_tiny_patch16_224", "softmax", "reference"): 2.0,
    ("soft_tiny", "soft", "reference"): 1.0,
    ("soft_tiny", "softmax", "reference"): 2.0,
}


def test_without_measurements_the_missing_points_and_their_command_are_named(shown: View) -> None:
    blocks = tuple(inline_at_resolutions(shown))
    assert not [b for b in within(blocks) if isinstance(b, Figure)]
    (notice,) = (b for b in blocks if isinstance(b, Notice))
    words = "".join(texts((Cell(notice.text),)))
    assert "InLine-DeiT-T at 224, 384, 640 and 1024 px" in words
    assert "--plan models --only" in words
    assert [b for b in soft_memory(shown) if isinstance(b, Notice)]


def test_the_ratio_of_speeds_stands_beside_the_claim(shown: View) -> None:
    blocks = tuple(inline_at_resolutions(invented(shown, NETWORKS)))
    assert not [b for b in blocks if isinstance(b, Notice)]
    (figure,) = (b for b in blocks if isinstance(b, Figure))
    # 1024 / 224 squared: a line of power 1 over one of power 2
    assert "20.9 times DeiT-T with stored scores at 1024 px (paper: 4.8)" in figure.finding
    (table,) = (b for b in blocks if isinstance(b, Table))
    assert texts(row_of(table, "1024 px").cells)[3] == "20.90"
    assert texts(row_of(table, "1024 px").cells)[6] == "4.8"
    assert texts(row_of(table, "2048 px").cells)[2] == "out of memory"


def test_points_that_no_machine_has_stay_named(shown: View) -> None:
    half = {k: v for k, v in NETWORKS.items() if k[0] != "deit_tiny_patch16_224"}
    (notice,) = (b for b in inline_at_resolutions(invented(shown, half)) if isinstance(b, Notice))
    words = "".join(texts((Cell(notice.text),)))
    assert "DeiT-T at 224" in words
    assert "InLine-DeiT-T" not in words


def test_memory_has_the_power_that_was_put_in(shown: View) -> None:
    blocks = tuple(soft_memory(invented(shown, NETWORKS)))
    (table,) = (b for b in blocks if isinstance(b, Table) and "network" in b.id)
    assert [texts(row.cells)[1] for row in table.rows] == ["1.00", "2.00"]
    assert [texts(row.cells)[3] for row in table.rows] == ["1", "2"]
    figures = [b for b in blocks if isinstance(b, Figure)]
    assert any("layer" in f.id for f in figures)
    assert any("network" in f.id for f in figures)
    assert len({f.id for f in figures}) == len(figures)


def test_the_verdict_on_memory_follows_the_data(shown: View) -> None:
    """Opposite data, opposite words: SOFT with the square of the tokens, softmax linear."""
    opposite = {k: 3.0 - power for k, power in NETWORKS.items()}
    words = [network_finding(shown, data) for data in (NETWORKS, opposite)]
    assert words[0].endswith(
        "That is what the paper shows for SOFT-Tiny and SOFT-Tiny with softmax attention."
    )
    assert words[1].endswith(
        "It is not what the paper shows for SOFT-Tiny (paper: 1) and SOFT-Tiny with softmax "
        "attention (paper: 2)."
    )


def network_finding(shown: View, data: Mapping[tuple[str, str, str], float]) -> str:
    blocks = tuple(soft_memory(invented(shown, data)))
    (found,) = (b.finding for b in blocks if isinstance(b, Figure) and "network" in b.id)
    return found


def test_a_slower_inline_is_said_to_be_slower(shown: View) -> None:
    """Opposite data: InLine's speed falls with the square of the pixels, softmax's with them."""
    opposite = {k: 3.0 - power for k, power in NETWORKS.items()}
    blocks = tuple(inline_at_resolutions(invented(shown, opposite)))
    (figure,) = (b for b in blocks if isinstance(b, Figure))
    assert "0.05 times DeiT-T with stored scores at 1024 px (paper: 4.8)" in figure.finding
    (table,) = (b for b in blocks if isinstance(b, Table))
    assert texts(row_of(table, "1024 px").cells)[3] == "0.05"


def test_stale_results_prove_nothing(shown: View) -> None:
    """Negative control: the same rows, measured with another revision."""
    fresh = invented(shown, NETWORKS)
    stale = tuple(replace(r, stale=r.stimulus == "images") for r in fresh.results)
    blocks = tuple(inline_at_resolutions(replace(fresh, results=stale)))
    assert not [b for b in blocks if isinstance(b, Figure)]


@pytest.mark.parametrize(
    ("command", "networks"),
    [
        (INLINE_COMMAND, {"inline_deit_t", "deit_tiny_patch16_224"}),
        (SOFT_COMMAND, {"soft_tiny"}),
    ],
)
def test_the_commands_select_what_the_figures_show(command: str, networks: set[str]) -> None:
    pattern = command.partition("--only '")[2].rstrip("'")
    cases = only(load_plan("models", everything("cpu", None, pattern)), pattern).cases
    stimuli = [c.stimulus for c in cases if isinstance(c.stimulus, Images)]
    assert len(stimuli) == len(cases)
    assert {s.backbone for s in stimuli} == networks
    assert {s.resolution_px for s in stimuli} == {224, 288, 384, 448, 512, 640, 768, 1024}
    assert {(s.passes, s.batch) for s in stimuli} == {("forward", 1)}


def test_sections_have_the_addresses_that_the_lead_links_to(shown: View) -> None:
    ids = {b.id for b in document(shown).blocks if isinstance(b, Section)}
    assert {"networks", "inline-speed", "soft-memory", "timed", "disagreements", "sources"} <= ids


# Networks timed with two mechanisms ---------------------------------------------------------------


def latency(value: float, spread: float = 0.01) -> dict[str, Number]:
    near = replace(one_number(value), low=value * (1 - spread), high=value * (1 + spread), rounds=3)
    return {"latency": near}


def timed(shown: View, *changes: dict[str, object]) -> View:
    """InLine-DeiT-T at 224 px by softmax in 10 ms, and whatever `changes` make of it."""
    base = next(_invented(next(iter(shown.results)), {("inline_deit_t", "softmax", "sdpa"): 2.0}))
    softmax = replace(base, numbers=latency(0.010), noise_floor=0.02)
    own = [replace(softmax, **{"variant": "inline", "backend": "reference", **c}) for c in changes]
    return replace(shown, results=(softmax, *own))


@pytest.mark.parametrize(
    ("seconds", "spread", "ratio", "verdict"),
    [
        (0.005, 0.01, "0.500", "faster"),
        (0.020, 0.01, "2.00", "slower"),
        (0.0101, 0.001, "1.01", "undecided"),
        (0.012, 0.5, "1.20", "undecided"),
    ],
)
def test_a_network_is_held_against_itself_with_softmax(
    shown: View, seconds: float, spread: float, ratio: str, verdict: str
) -> None:
    blocks = tuple(timed_networks(timed(shown, {"numbers": latency(seconds, spread)})))
    (table,) = (b for b in blocks if isinstance(b, Table))
    (row,) = table.rows
    assert texts(row.cells)[0] == "InLine-DeiT-T"
    assert texts(row.cells)[-2:] == [f"{ratio}\N{MULTIPLICATION SIGN}", verdict]


def test_the_fastest_execution_stands_for_its_side(shown: View) -> None:
    both = timed(
        shown,
        {"numbers": latency(0.008)},
        {"numbers": latency(0.006), "backend": "compile"},
    )
    ((_, (pair,)),) = timed_pairs(both).items()
    assert (pair.own.backend, pair.softmax.backend) == ("compile", "sdpa")
    assert pair.ratio == pytest.approx(0.6)


@pytest.mark.parametrize(
    "change",
    [
        {"stale": True}, {"outcome": "crashed", "numbers": {}}, {"batch_policy": "largest"},
        {"resolution_px": 512}, {"hardware_id": "another"}, {"dtype": "bfloat16"},
        {"variant": "agent"}, {"passes": "forward_backward"}, {"options": "x=1"},
    ],
)  # fmt: skip
def test_what_was_not_timed_alike_is_no_pair(shown: View, change: dict[str, object]) -> None:
    assert timed_pairs(timed(shown, {"numbers": latency(0.005), **change})) == {}


def test_without_pairs_the_command_is_named(shown: View) -> None:
    ((only_one,),) = [tuple(timed_networks(timed(shown)))]
    assert TIMED_COMMAND in str(only_one)
    pattern = TIMED_COMMAND.partition("--only '")[2].rstrip("'")
    cases = only(load_plan("models", everything("cpu", None, pattern)), pattern).cases
    assert {c.variant for c in cases} == {"inline", "softmax"}
