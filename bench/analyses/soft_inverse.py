"""SOFT's iterative inverse: how fast does it converge, and how good is the low-rank matrix?

A is the matrix of Gaussian affinities between landmarks. Newton's iterate A_k for its inverse is
judged by |A A_k A - A|_2 / |A|_2, as the paper does, over up to 40 steps, beside what an exact
pseudo-inverse gives and beside the condition number of A, for several ridges and both rules for the
start (SOFT: alpha = 1.8 / largest row sum squared; SOFT-Norm: from 2 / largest row sum squared,
halved while the residual grows). Then the error |S - S'|_F / |S|_F of the low-rank matrix against
the whole Gaussian matrix S, over the number of landmarks and the way they are sampled, with the
exact inverse and with the iterate; and the 2-norm of S' with and without the symmetric
normalisation, for a growing grid.

No training: queries are smooth random fields on the grid (sums of sines, as neighbouring tokens of
an image are alike), the same on every machine. The convolution that samples landmarks is therefore
untrained and is left out; the paper's biased sampling is not described well enough to repeat.

Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", NeurIPS 2021,
https://arxiv.org/abs/2110.11945, figure 4 and table 4; Lu et al., "Softmax-free Linear
Transformers", IJCV 2024, https://arxiv.org/abs/2207.03341 (normalisation).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from attention_impls.parts.gaussian import gaussian_affinities
from attention_impls.parts.landmarks import GridLandmarks
from attention_impls.parts.newton import newton_inverse, ridged
from attention_impls.registry import load
from attention_impls.shapes import Grid
from bench.analysis import (
    Analysis,
    Conclusion,
    Findings,
    Study,
    by_setting,
    quantity,
    title,
)
from bench.report import Curves, Line, Quantity

SIDE, HEADS, HEAD_DIM = 18, 4, 32
STEPS = tuple(range(0, 41, 2))
PAPER_STEPS = 20
RIDGES = (0.0, 1e-4, 1e-2)
ENOUGH = 0.01
"""A residual below this counts as converged."""
LANDMARKS = (36, 49, 64, 81)
SIDES = (9, 18, 27)
Sampling = Literal["average_pool", "random"]


def smooth_field(grid: Grid) -> Tensor:
    """Return queries [heads, tokens, head_dim] that vary smoothly over the grid, in float64.

    Every channel is a sum of eight plane waves with up to two periods a side, scaled to one.
    """
    draws = torch.Generator().manual_seed(0)
    waves = torch.rand(8, 4, HEADS, HEAD_DIM, generator=draws, dtype=torch.float64)
    rows = torch.arange(grid.height, dtype=torch.float64).repeat_interleave(grid.width)
    columns = torch.arange(grid.width, dtype=torch.float64).repeat(grid.height)
    places = torch.stack([rows / grid.height, columns / grid.width])
    field = torch.zeros(HEADS, grid.tokens, HEAD_DIM, dtype=torch.float64)
    for wave in waves:
        turns = 4 * math.pi * (wave[:2] - 0.5)
        angle = torch.einsum("rhd,rn->hnd", turns, places) + 2 * math.pi * wave[2][:, None]
        field += wave[3][:, None] * angle.sin()
    return field / field.std()


def landmarks(queries: Tensor, grid: Grid, count: int, sampling: Sampling) -> Tensor:
    """Return `count` landmarks [heads, count, head_dim], scaled as SOFT scales them."""
    sample = GridLandmarks(
        grid, HEAD_DIM, sampling=sampling, rule="fixed", landmarks=count, stride=1, seed=0
    )
    return sample(queries, grid)


def residual(matrix: Tensor, inverse: Tensor) -> float:
    """Mean over heads of |A V A - A|_2 / |A|_2."""
    difference = torch.linalg.matrix_norm(matrix @ inverse @ matrix - matrix, 2)
    return float((difference / torch.linalg.matrix_norm(matrix, 2)).mean())


def started(variant: Literal["soft", "soft_norm"], matrix: Tensor, ridge: float) -> Tensor:
    """Return the first iterate by the rule of one variant."""
    row_sums = matrix.sum(-1).amax(-1)
    if variant == "soft":
        return (1.8 / row_sums.square())[:, None, None] * ridged(matrix, ridge)
    whole = ridged(matrix, ridge)
    alpha = 2 / whole.sum(-1).amax(-1).square()
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    for _ in range(10):
        grown = identity - alpha[:, None, None] * whole @ whole
        too_large = grown.abs().sum(-2).amax(-1) > 1.01
        if not too_large.any():
            break
        alpha = torch.where(too_large, alpha / 2, alpha)
    return alpha[:, None, None] * whole


def run(study: Study) -> Findings:
    """Convergence, low-rank error, and the norm."""
    quantities: list[Quantity] = []
    convergence = list(_convergence(study, quantities))
    errors = list(_low_rank(quantities))
    norms = list(_norms(study, quantities))
    return Findings(
        quantities=tuple(quantities),
        figures=(
            Curves(
                kind="lines", title="Residual of Newton's iteration", x="step",
                y="|A A_k A - A| / |A|, 2-norm", log_y=True, lines=tuple(convergence),
            ),
            Curves(
                kind="lines", title="Error of the low-rank matrix", x="landmarks",
                y="|S - S'| / |S|, Frobenius norm", log_y=True, lines=tuple(errors),
            ),
            Curves(
                kind="lines", title="Norm of the low-rank matrix", x="tokens", y="2-norm",
                log_x=True, log_y=True, lines=tuple(norms),
            ),
        ),
    )  # fmt: skip


def _affinities(grid: Grid, count: int, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Return S [heads, N, N], K [heads, N, m] and A [heads, m, m]."""
    queries = smooth_field(grid)
    marks = landmarks(queries, grid, count, sampling)
    scale = HEAD_DIM**-0.25
    return (
        gaussian_affinities(queries, queries * scale, scale),
        gaussian_affinities(queries, marks, scale),
        gaussian_affinities(marks, marks, 1.0),
    )


def _convergence(study: Study, quantities: list[Quantity]) -> Iterator[Line]:
    _, _, matrix = _affinities(Grid(SIDE, SIDE), 49, "average_pool")
    for ridge in RIDGES:
        values = torch.linalg.eigvalsh(ridged(matrix, ridge))
        setting = f"ridge {ridge:g}"
        condition = float((values[:, -1] / values[:, 0].clamp(min=1e-300)).median())
        quantities.append(quantity(None, "condition number of A", condition, setting))
        quantities.append(
            quantity(None, "smallest eigenvalue of A", float(values[:, 0].median()), setting)
        )
        exact = residual(ridged(matrix, ridge), torch.linalg.pinv(ridged(matrix, ridge)))
        quantities.append(quantity(None, "residual of the pseudo-inverse", exact, setting))
    for variant in ("soft", "soft_norm"):
        if variant not in study.variants:
            continue
        for ridge in RIDGES:
            whole = ridged(matrix, ridge)
            start = started(variant, matrix, ridge)
            found = [residual(whole, newton_inverse(whole, start, steps)) for steps in STEPS]
            label = f"{load(variant).title}, ridge {ridge:g}"
            yield Line(variant=variant, label=label, x=tuple(map(float, STEPS)), y=tuple(found))
            quantities.append(
                quantity(
                    variant, f"residual after {PAPER_STEPS} steps",
                    found[STEPS.index(PAPER_STEPS)], f"ridge {ridge:g}",
                )
            )  # fmt: skip


def _low_rank(quantities: list[Quantity]) -> Iterator[Line]:
    grid = Grid(SIDE, SIDE)
    samplings: tuple[Sampling, ...] = ("average_pool", "random")
    for sampling in samplings:
        for how in ("exact inverse", f"{PAPER_STEPS} steps, ridge 0.01"):
            found: list[float] = []
            for count in LANDMARKS:
                whole, to_marks, matrix = _affinities(grid, count, sampling)
                if how == "exact inverse":
                    inverse = torch.linalg.pinv(matrix)
                else:
                    start = started("soft", matrix, 0.01)
                    inverse = newton_inverse(ridged(matrix, 0.01), start, PAPER_STEPS)
                low = to_marks @ inverse @ to_marks.mT
                error = (whole - low).norm(dim=(1, 2)) / whole.norm(dim=(1, 2))
                found.append(float(error.mean()))
                quantities.append(
                    quantity("soft", "error of the low-rank matrix", found[-1],
                             f"{count} landmarks, {sampling}, {how}")
                )  # fmt: skip
            yield Line(
                variant="soft", label=f"{sampling}, {how}", x=tuple(map(float, LANDMARKS)),
                y=tuple(found),
            )  # fmt: skip


def _norms(study: Study, quantities: list[Quantity]) -> Iterator[Line]:
    for variant in ("soft", "soft_norm"):
        if variant not in study.variants:
            continue
        found: list[float] = []
        for side in SIDES:
            _, to_marks, matrix = _affinities(Grid(side, side), 49, "average_pool")
            ridge = 0.01 if variant == "soft" else 0.0
            whole = ridged(matrix, ridge)
            inverse = newton_inverse(whole, started(variant, matrix, ridge), PAPER_STEPS)
            if variant == "soft_norm":
                scale = matrix.sum(-1).rsqrt()
                inverse = scale[:, :, None] * inverse * scale[:, None, :]
            low = to_marks @ inverse @ to_marks.mT
            found.append(float(torch.linalg.matrix_norm(low, 2).mean()))
            quantities.append(
                quantity(variant, "2-norm of the low-rank matrix", found[-1], f"{side**2} tokens")
            )
        yield Line(
            variant=variant, label=load(variant).title, y=tuple(found),
            x=tuple(float(side**2) for side in SIDES),
        )  # fmt: skip


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Judge the residual after the paper's steps, and say what landmarks and the norm do."""
    residuals = by_setting(quantities, f"residual after {PAPER_STEPS} steps")
    errors = by_setting(quantities, "error of the low-rank matrix")["soft"]
    exact, iterated = (
        [v for setting, v in errors.items() if "average_pool" in setting and how in setting]
        for how in ("exact", "steps")
    )
    listed = ", ".join(f"{title(v)} {max(of.values()):.1g}" for v, of in residuals.items())
    worst = max(value for of in residuals.values() for value in of.values())
    return Conclusion(
        finding=(
            f"After {PAPER_STEPS} steps the residual is at most {listed} (over all ridges); the "
            f"error of the low-rank matrix falls from {100 * iterated[0]:.1f} % with "
            f"{LANDMARKS[0]} landmarks to {100 * iterated[-1]:.1f} % with {LANDMARKS[-1]}, an "
            f"exact inverse gives {100 * exact[0]:.1f} % and {100 * exact[-1]:.1f} %."
        ),
        agrees=worst < ENOUGH,
    )


ANALYSIS = Analysis(
    name="soft_inverse",
    title="SOFT's inverse",
    question="Does Newton's iteration converge, and how good is the low-rank matrix?",
    claim="About 20 Newton steps are enough for the inverse (SOFT, figure 4).",
    revision=1,
    variants=("soft", "soft_norm"),
    run=run,
    conclude=conclude,
)
