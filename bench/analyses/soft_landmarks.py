"""How good is SOFT's low-rank matrix, and does it matter how many landmarks there are, and which?

The error |S - S'|_F / |S|_F of the low-rank matrix S' against the whole Gaussian matrix S, over the
number of landmarks and the way they are sampled (by the convolution of the authors' code, by
averages, random tokens, and biased: the first tokens), with the exact inverse and with Newton's
iterate, with and without the ridge; the 2-norm of S' with and without the symmetric normalisation,
for a growing grid; all on smooth random fields. Then networks: their accuracy with other numbers of
landmarks and other samplings, each trained with the task's recipe from every seed, and the error of
the low-rank matrix inside them. Biased sampling is no option of the variant, so it is not trained.

Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", NeurIPS 2021,
https://arxiv.org/abs/2110.11945, table 4: 79.0, 79.3, 79.3 and 78.9 % with 36, 49, 64 and 81
landmarks; 79.3, 79.3, 79.3 and 79.0 % with convolution, averages, random and biased ones. Lu et
al., "Softmax-free Linear Transformers", IJCV 2024, https://arxiv.org/abs/2207.03341
(normalisation). The errors of S' are in neither.
"""

from collections.abc import Mapping, Sequence
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
    by_setting,
    mean_gap,
    quantity,
    title,
    together,
)
from bench.attention_matrix import seen
from bench.derived import mean_of_seeds
from bench.landmark_matrices import (
    RIDGE,
    SAMPLINGS,
    SIDE,
    VARIANTS,
    Sampling,
    Variant,
    of_field,
    of_layer,
    own_ridge,
    started,
)
from bench.model import Scalar
from bench.report import Curves, Line, Quantity
from bench.training import DivergedError

STEPS = 20
LANDMARKS = (36, 49, 64, 81)
"""Of the paper's table; on a field of 18 x 18 tokens."""
SIDES = (9, 18, 27)
TRAINED_LANDMARKS = (16, 36, 49)
"""Of networks on a grid of 8 x 8 tokens, where 64 would be all of them."""
DEFAULT = 49
TRAINED_SAMPLINGS: tuple[Sampling, ...] = ("conv", "average_pool", "random")
NAMES: Mapping[Sampling, str] = {
    "conv": "convolution", "average_pool": "averages", "random": "random tokens",
    "biased": "first tokens",
}  # fmt: skip
INVERSES = ("exact inverse", f"{STEPS} steps, no ridge", f"{STEPS} steps, ridge {RIDGE:g}")
IMAGES = 16
ALIKE = 0.02
"""Accuracies count as alike if the interval of their difference lies within this."""
ERROR, NORM, ACCURACY = "error of the low-rank matrix", "2-norm of the low-rank matrix", "accuracy"
DIVERGED = "step at which it diverged"
"""Names of quantities."""


def run(study: Study) -> Findings:
    """Errors and norms on fields, accuracies and errors of trained networks."""
    quantities: list[Quantity] = []
    studied: tuple[Variant, ...] = tuple(v for v in VARIANTS if v in study.variants)
    errors = [_errors(sampling, inverse, quantities)
              for inverse in INVERSES for sampling in SAMPLINGS]  # fmt: skip
    norms = [_norms(variant, quantities) for variant in studied]
    for variant in studied:
        _inside(study, variant, quantities)
    counts: list[Line] = []
    samplings: list[Line] = []
    if "soft" in studied:
        counts = _accuracies(study, [(c, "conv") for c in TRAINED_LANDMARKS], quantities)
        samplings = _accuracies(study, [(DEFAULT, s) for s in TRAINED_SAMPLINGS], quantities)
    per = len(SAMPLINGS)
    figures = [
        Curves(
            kind="lines", title=f"Error of the low-rank matrix, {inverse}", x="landmarks",
            y="|S - S'| / |S|, Frobenius norm", log_y=True,
            lines=tuple(errors[number * per : (number + 1) * per]),
        )
        for number, inverse in enumerate(INVERSES)
    ]  # fmt: skip
    if norms:
        figures.append(
            Curves(
                kind="lines", title="Norm of the low-rank matrix", x="tokens", y="2-norm",
                log_x=True, log_y=True, lines=tuple(norms),
            )
        )  # fmt: skip
    if counts:
        figures.append(
            Curves(
                kind="lines", title="Accuracy over the number of landmarks, convolution",
                x="landmarks", y="accuracy, fraction", lines=tuple(counts),
            )
        )  # fmt: skip
    if samplings:
        figures.append(
            Curves(
                kind="bars", title=f"Accuracy by sampling, {DEFAULT} landmarks", x="sampling",
                y="accuracy, fraction", lines=tuple(samplings),
                names=tuple(NAMES[s] for s in TRAINED_SAMPLINGS),
            )
        )  # fmt: skip
    return Findings(quantities=tuple(quantities), figures=tuple(figures))


def _errors(sampling: Sampling, how: str, quantities: list[Quantity]) -> Line:
    found: list[float] = []
    for count in LANDMARKS:
        matrices = of_field(Grid(SIDE, SIDE), count, sampling)
        found.append(matrices.error(_inverse(matrices.landmarks, how)))
        setting = f"{count} landmarks, {NAMES[sampling]}, {how}"
        quantities.append(quantity("soft", ERROR, found[-1], setting))
    return Line(
        variant=None, label=NAMES[sampling], x=tuple(map(float, LANDMARKS)), y=tuple(found)
    )  # fmt: skip


def _inverse(matrix: Tensor, how: str) -> Tensor:
    if how == INVERSES[0]:
        return torch.linalg.pinv(matrix)
    ridge = 0.0 if how == INVERSES[1] else RIDGE
    return newton_inverse(ridged(matrix, ridge), started("soft", matrix, ridge), STEPS)


def _norms(variant: Variant, quantities: list[Quantity]) -> Line:
    found: list[float] = []
    for side in SIDES:
        _, to_marks, matrix = of_field(Grid(side, side), DEFAULT, "average_pool")
        ridge = own_ridge(variant)
        start = started(variant, matrix, ridge)
        inverse = newton_inverse(ridged(matrix, ridge), start, STEPS)
        if variant == "soft_norm":
            scale = matrix.sum(-1).rsqrt()
            inverse = scale[:, :, None] * inverse * scale[:, None, :]
        low = to_marks @ inverse @ to_marks.mT
        found.append(float(torch.linalg.matrix_norm(low, 2).mean()))
        quantities.append(quantity(variant, NORM, found[-1], f"{side**2} tokens"))
    return Line(
        variant=variant, label=load(variant).title, y=tuple(found),
        x=tuple(float(side**2) for side in SIDES),
    )  # fmt: skip


def _inside(study: Study, variant: Variant, quantities: list[Quantity]) -> None:
    """Error of the low-rank matrix in every layer of trained networks, with the exact inverse."""
    for seed in study.seeds:
        learned = study.trained(variant, seed)
        inputs = learned.data.test.inputs[:IMAGES].to(study.device)
        for place, layer in enumerate(seen(learned.network, inputs), start=1):
            found = of_layer([layer.of(item) for item in range(len(layer.x))])
            error = found.error(torch.linalg.pinv(found.landmarks))
            quantities.append(
                quantity(variant, ERROR, error, f"trained, layer {place}, seed {seed}")
            )


def _accuracies(
    study: Study, cells: Sequence[tuple[int, Sampling]], quantities: list[Quantity]
) -> list[Line]:
    """Train every cell from every seed; one line of means and intervals, if any finished."""
    places: list[tuple[float, float, float, float]] = []
    for number, (count, sampling) in enumerate(cells):
        options: dict[str, Scalar] = {}
        if count != DEFAULT:
            options["landmarks"] = count
        if sampling != "conv":
            options["landmark_sampling"] = sampling
        found: list[float] = []
        for seed in study.seeds:
            setting = f"{count} landmarks, {NAMES[sampling]}, seed {seed}"
            try:
                found.append(study.trained("soft", seed, options).result.accuracy)
            except DivergedError as ending:
                study.note(f"soft, {setting}: {ending}")
                quantities.append(quantity("soft", DIVERGED, ending.step, setting))
                continue
            one = quantity("soft", ACCURACY, found[-1], setting)
            if one not in quantities:
                quantities.append(one)
        if found:
            mean, low, high = mean_of_seeds(found)
            at = float(number if len({c for c, _ in cells}) == 1 else count)
            places.append((at, mean, mean if low is None else low, mean if high is None else high))
    if not places:
        return []
    x, y, low, high = zip(*places, strict=True)
    return [Line(variant="soft", label=load("soft").title, x=x, y=y, low=low, high=high)]


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Are accuracies alike over landmarks and samplings, and how good is the low-rank matrix?"""
    of_seeds = by_seed(quantities, ACCURACY).get("soft", {})
    own = f"{DEFAULT} landmarks, {NAMES['conv']}"
    cells = {s: of for s, of in of_seeds.items() if s != own}
    sentence = ""
    verdicts: list[bool | None] = []
    if own in of_seeds:
        words: list[str] = []
        for setting, of in cells.items():
            verdicts.append(_alike(of_seeds[own], of))
            mark = {True: "alike", False: "told apart", None: "not sure"}[verdicts[-1]]
            words.append(f"{setting} {100 * fmean(of.values()):.1f} % ({mark})")
        sentence = (
            f"Networks with {own} reach {100 * fmean(of_seeds[own].values()):.1f} %, with "
            f"{', '.join(words)}; "
        )
    lost = sum(len(of) for of in by_seed(quantities, DIVERGED).get("soft", {}).values())
    if lost:
        sentence += f"{lost} trainings diverged; "
        verdicts.append(None)
    return Conclusion(
        finding=sentence + _errors_in_words(quantities) + _norms_in_words(quantities) + ".",
        agrees=together(verdicts),
    )


def _alike(one: dict[int, float], other: dict[int, float]) -> bool | None:
    """Whether the interval of the differences lies within ALIKE; False: it does not hold 0."""
    gap = mean_gap([one[seed] - other[seed] for seed in one.keys() & other.keys()])
    if gap is None:
        return None
    mean, half = gap
    if abs(mean) + half <= ALIKE:
        return True
    return False if abs(mean) > half else None


def _errors_in_words(quantities: Sequence[Quantity]) -> str:
    errors = by_setting(quantities, ERROR).get("soft", {})

    def error(count: int, sampling: Sampling, how: str) -> str:
        return f"{100 * errors[f'{count} landmarks, {NAMES[sampling]}, {how}']:.1f} %"

    first, last = LANDMARKS[0], LANDMARKS[-1]
    text = (
        f"on smooth fields the error of the low-rank matrix of averaged landmarks falls from "
        f"{error(first, 'average_pool', INVERSES[-1])} with {first} to "
        f"{error(last, 'average_pool', INVERSES[-1])} with {last}; with {last} and an exact "
        "inverse it is "
        + ", ".join(f"{error(last, s, INVERSES[0])} ({NAMES[s]})" for s in SAMPLINGS)
    )
    inside = [
        f"{title(v)} {100 * min(mine):.1f} to {100 * max(mine):.1f} %"
        for v, of in by_setting(quantities, ERROR).items()
        if (mine := [x for setting, x in of.items() if setting.startswith("trained")])
    ]
    return text + (f"; in trained networks {', '.join(inside)}" if inside else "")


def _norms_in_words(quantities: Sequence[Quantity]) -> str:
    norms = by_setting(quantities, NORM)
    words = [
        f"{title(v)} {next(iter(of.values())):.2g} to {list(of.values())[-1]:.2g}"
        for v, of in norms.items()
    ]
    ends = f"{SIDES[0] ** 2} to {SIDES[-1] ** 2} tokens"
    return f"; its norm grows over {ends}: {', '.join(words)}" if words else ""


ANALYSIS = Analysis(
    name="soft_landmarks",
    title="SOFT's landmarks",
    question="How good is the low-rank matrix, and do number and choice of landmarks matter?",
    claim=(
        "Accuracy hardly depends on the number of landmarks (36 to 81) and on how they are sampled "
        "(SOFT, table 4)."
    ),
    paper_scale="SOFT-Tiny on ImageNet-1K: 36 to 81 landmarks of 196 to 3,136 tokens",
    revision=1,
    variants=("soft", "soft_norm"),
    run=run,
    conclude=conclude,
)
