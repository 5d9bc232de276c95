"""Rules about the plan of a run and about several runs, and what judging many rows costs."""

import cProfile
import pstats
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from planted import ceilings, conditions, header, rules_found, sample
from sample_run import write_planned

from attention_impls import registry
from attention_impls.registry import UnknownName, load
from bench.ledger import Ledger
from bench.plan import everything, load_plan, only
from bench.rules import TREE_RULES, check_run
from bench.rules.across import _median_of_others  # pyright: ignore[reportPrivateUsage]
from bench.rules.rule import ResultsUnderTest, RunUnderTest
from bench.rules.tree import Tree
from bench.submission import StoredRun, read_results

ONLY = "softmax linear_relu"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """A complete run of a part of plan quick, with a word for that."""
    root = tmp_path_factory.mktemp("planned")
    write_planned(root, only(load_plan("quick", everything("cpu")), ONLY))
    return header(only=ONLY)(read_results(root)[0][0])


def test_a_run_by_the_protocol_of_its_plan_is_good(planned: StoredRun) -> None:
    assert rules_found(planned) == {}
    assert planned.run.conditions.noise


def other_protocol(stored: StoredRun) -> StoredRun:
    return header(protocol=replace(stored.run.protocol, sample_cap_s=3.0))(stored)


def other_anchor(stored: StoredRun) -> StoredRun:
    drift = stored.run.conditions.drift
    assert drift is not None
    others = [pair for pair in stored.run.conditions.noise if pair.case != drift.case]
    return conditions(drift=others[0])(stored)


def no_anchor(stored: StoredRun) -> StoredRun:
    return conditions(drift=None)(stored)


def pair_left_out(stored: StoredRun) -> StoredRun:
    return conditions(noise=stored.run.conditions.noise[1:])(stored)


@pytest.mark.parametrize("change", [other_protocol, other_anchor, no_anchor, pair_left_out])
def test_what_the_digest_of_the_plan_says_is_compared(
    planned: StoredRun, change: Callable[[StoredRun], StoredRun]
) -> None:
    assert rules_found(change(planned)).get("R316") == "error"


# Several runs -------------------------------------------------------------------------------------


def found_across(rule: str, *runs: StoredRun, history: Ledger | None = None) -> list[str]:
    (wanted,) = (one for one in TREE_RULES if one.id == rule)
    results = ResultsUnderTest(
        root=Path(),
        runs=tuple(RunUnderTest(stored=one, now="2999-01-01T00:00:00Z") for one in runs),
        refusals=(),
        history=history,
        account=None,
    )
    return [fault.message for fault in wanted.find(results)]


def ledger_of(commit: str, made: int) -> Ledger:
    return Ledger(
        base="0" * 40, named="main", known=frozenset(), rewritten={}, elsewhere=(),
        commits={commit: made},
    )  # fmt: skip


def test_code_is_older_than_what_it_measured() -> None:
    began = 1_767_323_045  # 2026-01-02T03:04:05Z
    commit = sample().run.commit
    assert commit is not None
    found = [
        found_across("R216", sample(), history=ledger_of(commit, began + later))
        for later in (-86_400, 80_000, 90_000)
    ]
    assert [len(one) for one in found] == [0, 0, 1]
    assert "2026-01-03T04:04:05Z" in found[2][0]
    assert found_across("R216", sample()) == []
    assert found_across("R216", header(commit=None)(sample()), history=ledger_of("1", 1)) == []


def test_ceilings_of_one_machine_are_alike() -> None:
    best = max(sample().run.ceilings[1].samples)
    others = [ceilings(factor * best)(sample()) for factor in (1.1, 2.5)]
    assert found_across("R705", sample(), *others) == []
    (found,) = found_across("R705", sample(), *others, ceilings(9 * best)(sample()))
    assert found.startswith("ceiling copy_bandwidth is")
    threads = replace(sample().run.environment, threads=1)
    alone = header(environment=threads)(ceilings(9 * best)(sample()))
    assert found_across("R705", sample(), *others, alone) == [], "other threads, other limits"


@pytest.mark.parametrize("values", [[1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 1.0, 1.0, 4.0, 2.0]])
def test_the_median_of_the_others(values: list[float]) -> None:
    for index, value in enumerate(values):
        expected = median(values[:index] + values[index + 1 :])
        assert _median_of_others(sorted(values), value) == expected


# A moment that is none ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "created", ["2026-02-31T00:00:00Z", "2026-01-02T25:00:00Z", "٢٠٢٦-01-02T03:04:05Z"]
)
def test_a_moment_that_no_calendar_has_is_refused(tmp_path: Path, created: str) -> None:
    folder = write_planned(tmp_path, only(load_plan("quick", everything("cpu")), "softmax/sdpa"))
    path = folder / "run.json"
    text = path.read_text(encoding="utf-8")
    assert "2026-01-02T03:04:05Z" in text
    path.write_text(text.replace("2026-01-02T03:04:05Z", created), encoding="utf-8")
    runs, (refusal,) = read_results(tmp_path)
    assert runs == ()
    assert refusal.reason.startswith("created: Value error")


# What judging costs -------------------------------------------------------------------------------


def many(stored: StoredRun, rows: int, name: Callable[[int], str]) -> StoredRun:
    """A run of so many rows: the timed ones of the first file again and again, by other names."""
    first = stored.files[0]
    records = [r for r in first.records if r.outcome.kind == "ok" and r.case.level == "layer"]
    files = tuple(
        replace(
            first,
            variant=name(n),
            records=tuple(replace(r, case=replace(r.case, variant=name(n))) for r in records),
        )
        for n in range(rows // len(records))
    )
    return replace(stored, files=files)


def test_a_name_is_looked_up_once_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(name: str) -> object:
        asked.append(name)
        return load(name)

    monkeypatch.setattr("bench.rules.tree.load", counted)
    messages = [f.message for f in check_run(many(sample(), 60, "unknown_{}".format))]
    assert len(asked) == len(set(asked))
    with pytest.raises(UnknownName) as error:
        load("unknown_1")
    assert sum(f"): {error.value} Add the variant" in m for m in messages) > 1, "told for each row"


def test_a_variant_that_was_added_is_found_by_the_next_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_outside", {})
    tree = Tree()
    assert isinstance(tree.spec("added_later"), UnknownName)
    source = Path(registry.source_file("hydra")).read_text(encoding="utf-8")
    path = tmp_path / "added_later.py"
    path.write_text(source.replace('name="hydra"', 'name="added_later"'), encoding="utf-8")
    registry.add_variant_file(path)
    assert isinstance(tree.spec("added_later"), UnknownName), "one check has one tree"
    assert Tree().revision("added_later") == load("hydra").revision
    load.cache_clear()


def known(_number: int) -> str:
    return "softmax"


@pytest.mark.parametrize("name", ["unknown_{}".format, known])
def test_work_grows_with_the_rows_and_not_faster(name: Callable[[int], str]) -> None:
    """Calls of functions, which do not depend on the machine: four times the rows, four times."""

    def calls(rows: int) -> int:
        stored = many(sample(), rows, name)
        with cProfile.Profile() as profile:
            check_run(stored)
        return pstats.Stats(profile).total_calls  # pyright: ignore[reportAttributeAccessIssue]

    calls(40)  # what is computed once
    assert calls(1600) < 4.2 * calls(400)
