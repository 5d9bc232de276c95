"""Adding one thing is adding one file: the examples of CONTRIBUTING.md, dropped into a copy."""

import json
from pathlib import Path
from typing import Any

import pytest
from copied_tree import ROOT, copied, examples, run_in

FILES = {
    "variant": "attention_impls/variants/content_lambda.py",
    "backend": "attention_impls/backends/content_lambda_inplace.py",
    "backbone": "attention_impls/backbones/vit_fine.py",
    "metric": "bench/metrics/input_memory.py",
    "task": "bench/tasks/brighter_half.py",
    "analysis": "bench/analyses/self_weight.py",
    "plan": "bench/plans/lengths.py",
    "executor": "bench/executors/patient.py",
    "page": "site/leaderboard/pages/plans.py",
}

INVENTORY = """
import json
from attention_impls.registry import backbones, backends, names
from bench.analysis import analysis_names
from bench.catalogue import read_catalogue
from bench.executor import executors
from bench.metric import metrics
from bench.plan import everything, load_plan, plan_names
from bench.task import tasks
from leaderboard.page import pages

catalogue = read_catalogue()
print(json.dumps({
    'variant': list(names()),
    'backend': [f'{n}_{b}' for n in names() for b in backends(n)],
    'backbone': list(backbones()),
    'metric': [m.name for m in metrics()],
    'task': [t.name for t in tasks()],
    'analysis': list(analysis_names()),
    'plan': list(plan_names()),
    'executor': [e.name for e in executors()],
    'page': [p.documents.__module__.rsplit('.', 1)[-1] for p in pages()],
    'catalogue': {
        'variant': [v.name for v in catalogue.variants],
        'backend': [f'{v.name}_{b.name}' for v in catalogue.variants for b in v.backends],
        'metric': [c.name for c in catalogue.columns],
        'task': [t.name for t in catalogue.tasks],
        'analysis': [a.name for a in catalogue.questions],
    },
    'planned': {
        plan: sorted({f'{c.variant}_{c.backend}' for c in load_plan(plan, everything('cpu')).cases})
        for plan in plan_names()
    },
}))
"""


def inventory(tree: Path) -> dict[str, Any]:
    """Everything that the tree finds in itself, in a fresh process."""
    done = run_in(tree, "-c", INVENTORY)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def before_and_after(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    tree = copied(tmp_path_factory.mktemp("adding"))
    before = inventory(tree)
    shown = examples()
    for path in FILES.values():
        assert not (tree / path).exists()
        (tree / path).write_text(shown[path], encoding="utf-8")
    return before, inventory(tree), tree


@pytest.mark.parametrize("kind", FILES)
def test_one_new_file_is_found(kind: str, before_and_after: tuple[Any, Any, Path]) -> None:
    before, after, _ = before_and_after
    name = Path(FILES[kind]).stem
    assert name not in before[kind]
    assert set(after[kind]) - set(before[kind]) >= {name}


@pytest.mark.parametrize("kind", ["variant", "backend", "metric", "task", "analysis"])
def test_it_is_in_the_catalogue_that_pages_read(
    kind: str, before_and_after: tuple[Any, Any, Path]
) -> None:
    before, after, _ = before_and_after
    name = Path(FILES[kind]).stem
    assert name not in before["catalogue"][kind]
    assert name in after["catalogue"][kind]


@pytest.mark.parametrize("plan", ["smoke", "standard", "full", "lengths", "models"])
def test_every_plan_measures_the_new_variant_and_backend(
    plan: str, before_and_after: tuple[Any, Any, Path]
) -> None:
    before, after, _ = before_and_after
    new = {"content_lambda_reference", "content_lambda_inplace"}
    assert not new & set(before["planned"].get(plan, []))
    assert new <= set(after["planned"][plan])


def test_the_site_shows_the_new_page_and_variant(
    before_and_after: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    _, _, tree = before_and_after
    (tmp_path / "results").mkdir()
    done = run_in(tree, "-m", "leaderboard", "--results", f"{tmp_path / 'results'}",
                  "--out", f"{tmp_path / 'out'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "plans.html").is_file()
    assert (tmp_path / "out" / "variants" / "content_lambda.html").is_file()


def test_a_new_file_without_its_object_is_an_error_that_names_it(
    before_and_after: tuple[Any, Any, Path],
) -> None:
    """Negative control: an empty file is refused, not skipped."""
    _, _, tree = before_and_after
    empty = tree / "bench" / "metrics" / "forgotten.py"
    empty.write_text("", encoding="utf-8")
    try:
        done = run_in(tree, "-c", INVENTORY)
    finally:
        empty.unlink()
    assert done.returncode != 0
    assert "bench/metrics/forgotten.py: METRIC is missing" in done.stderr


def test_the_probe_runs_the_copy_and_not_this_tree(
    before_and_after: tuple[Any, Any, Path],
) -> None:
    """Negative control: what was dropped into the copy is unknown here."""
    _, _, tree = before_and_after
    done = run_in(tree, "-c", "import bench.metric; print(bench.metric.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(tree)
    assert not (set(FILES.values()) & {p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py")})
