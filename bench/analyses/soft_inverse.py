"""SOFT's iterative inverse: how fast does it converge, and how good is the low-rank matrix?

A is the matrix of Gaussian affinities between landmarks. Newton's iterate A_k for its inverse is
judged by |A A_k A - A|_2 / |A|_2, as the paper does, over up to 40 steps, beside what an exact
pseudo-inverse gives and beside the condition number of A, for several ridges and both rules for the
start (SOFT: alpha = 1.8 / largest row sum squared; SOFT-Norm: from 2 / largest row sum squared,
halved while the residual grows). Then the error |S - S'|_F / |S|_F of the low-rank matrix against
the whole Gaussian matrix S, over the number of landmarks and the way they are sampled (by the
convolution of the authors' code, by averages, random tokens, and biased: the first tokens), with
the exact inverse and with the iterate, with and without the ridge; and the 2-norm of S' with and
without the symmetric normalisation, for a growing grid. Last the same residuals and condition
numbers in trained networks, layer by layer.

Where nothing is trained, queries are smooth random fields on the grid (sums of sines, as
neighbouring tokens of an image are alike), the same on every machine. A convolution is nothing
without learning, so it is fitted, with its LayerNorm, to the error of the low-rank matrix (ridge
0.01, exact inverse) on other fields, and judged on this one like the rest. It ends with a GELU,
which leaves no negative entries to speak of: such landmarks can be near queries only if these have
learned to come to them, which is what the trained networks show.

Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", NeurIPS 2021,
https://arxiv.org/abs/2110.11945, figure 4 and table 4; Lu et al., "Softmax-free Linear
Transformers", IJCV 2024, https://arxiv.org/abs/2207.03341 (normalisation).
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal, cast

import torch
from torch import Tensor, nn

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
from bench.attention_matrix import Given, Seen, seen
from bench.report import Curves, Line, Quantity

SIDE, HEADS, HEAD_DIM = 18, 4, 32
STEPS = tuple(range(0, 41, 2))
PAPER_STEPS = 20
RIDGES = (0.0, 1e-4, 1e-2)
ENOUGH = 0.01
"""A residual below this counts as converged."""
LANDMARKS = (36, 49, 64, 81)
SIDES = (9, 18, 27)
IMAGES = 16
Sampling = Literal["conv", "average_pool", "random", "biased"]
SAMPLINGS: tuple[Sampling, ...] = ("conv", "average_pool", "random", "biased")
FIT_STEPS, FIT_RATE = 150, 3e-3
"""Adam steps that the convolution is fitted for, each on another field, and their rate."""
_RIDGE = 0.01
LOW_RANK = "error of the low-rank matrix"
"""Name of a quantity."""


def smooth_field(grid: Grid, seed: int = 0) -> Tensor:
    """Return queries [heads, tokens, head_dim] that vary smoothly over the grid, in float64.

    Every channel is a sum of eight plane waves with up to two periods a side, scaled to one.
    """
    draws = torch.Generator().manual_seed(seed)
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
    if sampling == "biased":
        return queries[:, :count] * HEAD_DIM**-0.25
    if sampling == "conv":
        sample = fitted(grid, count, FIT_STEPS)
        with torch.no_grad():
            return sample(queries, grid)
    return _sample(grid, count, sampling)(queries, grid)


def _sample(
    grid: Grid, count: int, sampling: Literal["conv", "average_pool", "random"]
) -> GridLandmarks:
    return GridLandmarks(
        grid, HEAD_DIM, sampling=sampling, rule="fixed", landmarks=count, stride=1, seed=0
    )


@cache
def fitted(grid: Grid, count: int, steps: int) -> GridLandmarks:
    """Return landmarks by a convolution whose low-rank matrices are near S, on fields 1, 2, ..."""
    torch.manual_seed(0)
    sample = _sample(grid, count, "conv").double()
    optimizer = torch.optim.Adam(sample.parameters(), FIT_RATE)
    for step in range(steps):
        queries = smooth_field(grid, seed=1 + step)
        whole, to_marks, between = _of_landmarks(queries, sample(queries, grid))
        low = to_marks @ torch.linalg.solve(ridged(between, _RIDGE), to_marks.mT)
        loss = ((whole - low).norm(dim=(1, 2)) / whole.norm(dim=(1, 2))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sample


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
    """Convergence on fields and in trained networks, low-rank error, and the norm."""
    quantities: list[Quantity] = []
    convergence = list(_convergence(study, quantities))
    trained = list(_trained(study, quantities))
    errors = list(_low_rank(quantities))
    norms = list(_norms(study, quantities))
    return Findings(
        quantities=tuple(quantities),
        figures=(
            Curves(
                kind="lines", title="Residual of Newton's iteration", x="step",
                y="|A A_k A - A| / |A|, 2-norm", log_y=True, lines=tuple(convergence),
            ),
            *(
                Curves(
                    kind="lines", title="Residual in trained networks", x="step",
                    y="|A A_k A - A| / |A|, 2-norm", log_y=True, lines=(line, *others),
                )
                for line, *others in (trained,) if trained
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
    return _of_landmarks(queries, landmarks(queries, grid, count, sampling))


def _of_landmarks(queries: Tensor, marks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = queries.shape[-1] ** -0.25
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


def _trained(study: Study, quantities: list[Quantity]) -> Iterator[Line]:
    """Every layer of trained networks, with the ridge and the start of its own mechanism."""
    for variant in ("soft", "soft_norm"):
        if variant not in study.variants:
            continue
        for seed in study.seeds:
            learned = study.trained(variant, seed)
            inputs = learned.data.test.inputs[:IMAGES].to(study.device)
            for place, layer in enumerate(seen(learned.network, inputs), start=1):
                residuals, others = _looked(variant, layer)
                words = f"trained, layer {place}, seed {seed}"
                label = f"{load(variant).title}, layer {place}"
                yield Line(
                    variant=variant, x=tuple(map(float, STEPS)), y=residuals,
                    label=label if len(study.seeds) == 1 else f"{label}, seed {seed}",
                )  # fmt: skip
                after = residuals[STEPS.index(PAPER_STEPS)]
                others[f"residual after {PAPER_STEPS} steps"] = after
                quantities += [quantity(variant, what, x, words) for what, x in others.items()]


@torch.no_grad()
def _looked(
    variant: Literal["soft", "soft_norm"], layer: Seen
) -> tuple[tuple[float, ...], dict[str, float]]:
    """Return the residual after each of STEPS, and what belongs to no step; all images together."""
    images = [_given(layer.of(item)) for item in range(len(layer.x))]
    gaussian, to_marks, between = (torch.cat(t) for t in zip(*images, strict=True))
    ridge = _own_ridge(variant)
    whole, start = ridged(between, ridge), started(variant, between, ridge)
    values = torch.linalg.eigvalsh(whole)
    low = to_marks @ torch.linalg.pinv(between) @ to_marks.mT
    error = (gaussian - low).norm(dim=(1, 2)) / gaussian.norm(dim=(1, 2))
    return tuple(residual(whole, newton_inverse(whole, start, steps)) for steps in STEPS), {
        "condition number of A": float((values[:, -1] / values[:, 0].clamp(min=1e-300)).median()),
        "residual of the pseudo-inverse": residual(whole, torch.linalg.pinv(whole)),
        LOW_RANK: float(error.mean()),
    }


def _own_ridge(variant: str) -> float:
    return float(getattr(load(variant).options, "ridge", 0.0))


def _given(given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """Return S, K and A of the queries of one image, with the landmarks that the layer makes."""
    sample = cast("nn.Module", given.mix.landmarks)
    return _of_landmarks(given.q[0], sample(given.q[0], given.grid))


def _low_rank(quantities: list[Quantity]) -> Iterator[Line]:
    grid = Grid(SIDE, SIDE)
    steps = f"{PAPER_STEPS} steps"
    for sampling in SAMPLINGS:
        for how in ("exact inverse", f"{steps}, no ridge", f"{steps}, ridge {_RIDGE:g}"):
            found: list[float] = []
            for count in LANDMARKS:
                whole, to_marks, matrix = _affinities(grid, count, sampling)
                if how == "exact inverse":
                    inverse = torch.linalg.pinv(matrix)
                else:
                    ridge = 0.0 if how.endswith("no ridge") else _RIDGE
                    start = started("soft", matrix, ridge)
                    inverse = newton_inverse(ridged(matrix, ridge), start, PAPER_STEPS)
                low = to_marks @ inverse @ to_marks.mT
                error = (whole - low).norm(dim=(1, 2)) / whole.norm(dim=(1, 2))
                found.append(float(error.mean()))
                quantities.append(
                    quantity("soft", LOW_RANK, found[-1],
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
            ridge = _own_ridge(variant)
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
    """Judge the residual after the paper's steps; say what landmarks and their sampling do."""
    residuals = by_setting(quantities, f"residual after {PAPER_STEPS} steps")
    errors = by_setting(quantities, LOW_RANK)["soft"]
    worst: list[float] = []
    listed: list[str] = []
    for words, chosen in (("fields, all ridges", False), ("trained networks", True)):
        most = {
            v: max(mine)
            for v, of in residuals.items()
            if (mine := [x for setting, x in of.items() if setting.startswith("trained") == chosen])
        }
        worst += most.values()
        if most:
            values = ", ".join(f"{title(v)} {value:.1g}" for v, value in most.items())
            listed.append(f"{values} ({words})")
    most_marks = f"{LANDMARKS[-1]} landmarks, "

    def error(count: int, sampling: str, how: str) -> str:
        return f"{100 * errors[f'{count} landmarks, {sampling}, {how}']:.1f} %"

    ridge = f"{PAPER_STEPS} steps, ridge {_RIDGE:g}"
    samplings = [s.removeprefix(most_marks).removesuffix(", exact inverse") for s in errors
                 if s.startswith(most_marks) and s.endswith("exact inverse")]  # fmt: skip
    return Conclusion(
        finding=(
            f"After {PAPER_STEPS} steps the residual is at most {'; '.join(listed)}; the error of "
            f"the low-rank matrix of averaged landmarks falls from "
            f"{error(LANDMARKS[0], 'average_pool', ridge)} with {LANDMARKS[0]} to "
            f"{error(LANDMARKS[-1], 'average_pool', ridge)} with {LANDMARKS[-1]}; with "
            f"{LANDMARKS[-1]} and an exact inverse it is "
            + ", ".join(f"{error(LANDMARKS[-1], s, 'exact inverse')} ({s})" for s in samplings)
            + _inside(quantities)
            + "."
        ),
        agrees=max(worst) < ENOUGH,
    )


def _inside(quantities: Sequence[Quantity]) -> str:
    """What the error is in trained networks, whose convolutions learned with the queries."""
    found = [
        f"{title(v)} {100 * min(mine):.1f} to {100 * max(mine):.1f} %"
        for v, of in by_setting(quantities, LOW_RANK).items()
        if (mine := [x for setting, x in of.items() if setting.startswith("trained")])
    ]
    return f"; in trained networks {', '.join(found)}" if found else ""


ANALYSIS = Analysis(
    name="soft_inverse",
    title="SOFT's inverse",
    question="Does Newton's iteration converge, and how good is the low-rank matrix?",
    claim="About 20 Newton steps are enough for the inverse (SOFT, figure 4).",
    revision=2,
    variants=("soft", "soft_norm"),
    run=run,
    conclude=conclude,
)
