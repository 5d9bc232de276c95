"""SOFT's iterative inverse: does it converge, and how fast?

A is the matrix of Gaussian affinities between landmarks. Newton's iterate A_k for its inverse is
judged by |A A_k A - A|_2 / |A|_2, as the paper does, over 40 steps, beside what an exact
pseudo-inverse gives and beside the condition number of A: on smooth random fields for several
ridges, and in trained networks, layer by layer, with the ridge of the mechanism. Both rules for the
start are tried (SOFT: alpha = 1.8 / largest row sum squared; SOFT-Norm: from 2 / largest row sum
squared, halved up to ten times while the residual grows). The residual weighs every direction by
its eigenvalue, so a direction that is hardly inverted can hide in it; the number of steps is
therefore given for a sweep of residuals, never for one of them.

Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", NeurIPS 2021,
https://arxiv.org/abs/2110.11945, figure 4, which draws the residual on a linear axis: it goes to
nothing within 20 steps in all stages. What counts as nothing is not stated.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean

import torch
from torch import Tensor

from attention_impls.parts.newton import newton_inverse, ridged
from attention_impls.registry import load
from attention_impls.shapes import Grid
from bench.analysis import (
    Analysis,
    Conclusion,
    Findings,
    Study,
    by_seed,
    quantity,
    title,
    together,
)
from bench.attention_matrix import seen
from bench.landmark_matrices import (
    SIDE,
    VARIANTS,
    Variant,
    of_field,
    of_layer,
    own_ridge,
    residual,
    started,
)
from bench.report import Curves, Line, Quantity

STEPS = 40
PAPER_STEPS = 20
DRAWN = tuple(range(0, STEPS + 1, 2))
"""Steps that the figures show."""
RIDGES = (0.0, 1e-4, 1e-2)
LANDMARKS = 49
RESIDUALS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
SEEN = (1e-1, 1e-2, 1e-3)
"""Residuals that can be told from nothing on a linear axis from 0 to 1."""
IMAGES = 16
AFTER, NEEDED = f"residual after {PAPER_STEPS} steps", "steps to the residual"
"""Names of quantities."""
TRAINED = "trained, "


def residuals(matrix: Tensor, start: Tensor) -> tuple[float, ...]:
    """Return the residual of the start, and after each of STEPS steps."""
    found = [residual(matrix, start)]
    inverse = start
    for _ in range(STEPS):
        inverse = newton_inverse(matrix, inverse, 1)
        found.append(residual(matrix, inverse))
    return tuple(found)


def run(study: Study) -> Findings:
    """Follow the iteration on the field and in every layer of trained networks."""
    quantities: list[Quantity] = []
    studied: tuple[Variant, ...] = tuple(v for v in VARIANTS if v in study.variants)
    matrix = of_field(Grid(SIDE, SIDE), LANDMARKS, "average_pool").landmarks
    lines: list[Line] = []
    for ridge in RIDGES:
        quantities += _of_matrix(None, ridged(matrix, ridge), f"ridge {ridge:g}")
    for variant in studied:
        for ridge in RIDGES:
            found = residuals(ridged(matrix, ridge), started(variant, matrix, ridge))
            quantities += _of_iteration(variant, found, f"ridge {ridge:g}")
            lines.append(_line(variant, f"ridge {ridge:g}", [found]))
    trained = [line for variant in studied for line in _trained(study, variant, quantities)]
    return Findings(
        quantities=tuple(quantities),
        figures=tuple(
            Curves(
                kind="lines", title=words, x="step", y="|A A_k A - A| / |A|, 2-norm", log_y=True,
                lines=tuple(found), level=SEEN[-1], level_label="hardly seen on a linear axis",
            )
            for words, found in (
                ("Residual of Newton's iteration on smooth fields", lines),
                ("Residual in trained networks", trained),
            )
            if found
        ),
    )  # fmt: skip


def _trained(study: Study, variant: Variant, quantities: list[Quantity]) -> Iterator[Line]:
    """Every layer of trained networks, with the ridge and the start of its own mechanism."""
    of_layers: dict[int, list[tuple[float, ...]]] = {}
    for seed in study.seeds:
        learned = study.trained(variant, seed)
        inputs = learned.data.test.inputs[:IMAGES].to(study.device)
        for place, layer in enumerate(seen(learned.network, inputs), start=1):
            found = of_layer([layer.of(item) for item in range(len(layer.x))])
            ridge = own_ridge(variant)
            whole, start = (
                ridged(found.landmarks, ridge),
                started(variant, found.landmarks, ridge),
            )
            of_layers.setdefault(place, []).append(residuals(whole, start))
            words = f"{TRAINED}layer {place}, seed {seed}"
            quantities += _of_matrix(variant, whole, words)
            quantities += _of_iteration(variant, of_layers[place][-1], words)
    for place, of_seeds in of_layers.items():
        yield _line(variant, f"layer {place}", of_seeds)


def _of_matrix(variant: str | None, whole: Tensor, setting: str) -> Iterator[Quantity]:
    values = torch.linalg.eigvalsh(whole)
    condition = values[:, -1] / values[:, 0].clamp(min=1e-300)
    exact = residual(whole, torch.linalg.pinv(whole))
    yield quantity(variant, "condition number of A", float(condition.median()), setting)
    yield quantity(variant, "smallest eigenvalue of A", float(values[:, 0].median()), setting)
    yield quantity(variant, "residual of the pseudo-inverse", exact, setting)


def _of_iteration(variant: str, found: Sequence[float], setting: str) -> Iterator[Quantity]:
    """Yield the residual after the paper's steps, and the steps to each residual reached at all."""
    yield quantity(variant, AFTER, found[PAPER_STEPS], setting)
    head, mark, seed = setting.partition(", seed ")
    for wanted in RESIDUALS:
        needed = next((n for n, value in enumerate(found) if value <= wanted), None)
        if needed is not None:
            yield quantity(variant, NEEDED, needed, f"{head}, residual {wanted:g}{mark}{seed}")


def _line(variant: str, words: str, of_seeds: Sequence[Sequence[float]]) -> Line:
    """Means over the seeds, and their range where there are several."""
    columns = [[found[step] for found in of_seeds] for step in DRAWN]
    several = len(of_seeds) > 1
    return Line(
        variant=variant, label=f"{load(variant).title}, {words}", x=tuple(map(float, DRAWN)),
        y=tuple(map(fmean, columns)), low=tuple(map(min, columns)) if several else None,
        high=tuple(map(max, columns)) if several else None,
    )  # fmt: skip


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Judge SOFT by the steps to every residual that the paper's axis can show.

    SOFT-Norm, which that figure is not about, is named beside it.
    """
    after, needed = by_seed(quantities, AFTER), by_seed(quantities, NEEDED)
    clauses: list[str] = []
    reached: dict[float, list[bool]] = {r: [] for r in SEEN}
    for variant, of in after.items():
        for place, trained in (("smooth fields", False), ("trained networks", True)):
            settings = [s for s in of if s.startswith(TRAINED) == trained]
            if not settings:
                continue
            most = max(v for s in settings for v in of[s].values())
            steps = {r: _most(needed.get(variant, {}), of, settings, r) for r in RESIDUALS}
            counted = ", ".join(
                f"{r:g} {f'not within {STEPS}' if n is None else f'after {n:.0f}'}"
                for r, n in steps.items()
            )
            clauses.append(f"{title(variant)}, {place}: at most {most:.1g}, below {counted}")
            if variant == "soft":
                for wanted, inside in reached.items():
                    count = steps[wanted]
                    inside.append(count is not None and count <= PAPER_STEPS)
    coarsest = reached[SEEN[0]]
    verdict = together([one for inside in reached.values() for one in inside])
    if verdict is False and all(coarsest):
        # missed at finer residuals alone: an axis from 0 to 1 hardly shows it
        verdict = None
    return Conclusion(
        finding=(
            f"Residual after {PAPER_STEPS} steps, and steps until it is below a value in every "
            f"layer, seed and ridge; {'; '.join(clauses)}."
        ),
        agrees=verdict,
    )


def _most(
    needed: dict[str, dict[int, float]],
    of: dict[str, dict[int, float]],
    settings: Sequence[str],
    wanted: float,
) -> float | None:
    """Steps until all of `settings` have that residual; None: one of them never does."""
    found: list[float] = []
    for setting in settings:
        seeds = needed.get(f"{setting}, residual {wanted:g}", {})
        if seeds.keys() != of[setting].keys():
            return None
        found += seeds.values()
    return max(found)


ANALYSIS = Analysis(
    name="soft_inverse",
    title="SOFT's inverse",
    question="Does Newton's iteration converge, and in how many steps?",
    claim="About 20 Newton steps are enough for the inverse (SOFT, figure 4).",
    paper_scale="all stages of SOFT on ImageNet-1K: 49 landmarks of 196 to 3,136 tokens",
    revision=3,
    variants=("soft", "soft_norm"),
    run=run,
    conclude=conclude,
)
