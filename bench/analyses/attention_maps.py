"""What does one query look at? The same test image, layer and query for several variants.

A picture is the row of the attention matrix of one query, laid out on the grid, of one head or
averaged over heads (weights with their sign). Image, head and query can be chosen; the first image,
all heads and the token in the middle are shown otherwise.
"""

from collections.abc import Sequence

import torch

from bench.analysis import (
    Analysis,
    Conclusion,
    Findings,
    Study,
    by_setting,
    quantity,
    title,
)
from bench.attention_matrix import matrix, seen
from bench.report import Picture, Quantity


def run(study: Study) -> Findings:
    """One picture a layer and variant, after the image itself.

    Raises:
        ValueError: no such image, head or query.
    """
    number, head = study.look.image, study.look.head
    pictures: list[Picture] = []
    quantities: list[Quantity] = []
    for variant in study.variants:
        learned = study.trained(variant, study.seeds[0])
        images = learned.data.test.inputs
        _below("image", number, len(images))
        image = images[number : number + 1].to(study.device)
        if not pictures:
            grey = image[0].double().mean(0)
            pictures.append(
                Picture(title=f"Test image {number}", variant=None, rows=_rows(grey / grey.max()))
            )
        for place, layer in enumerate(seen(learned.network, image), start=1):
            height, width = layer.grid.height, layer.grid.width
            row_at, column_at = study.look.query or (height // 2, width // 2)
            _below("row of the query", row_at, height)
            _below("column of the query", column_at, width)
            weights = matrix(layer.of(0))
            _below("head", head or 0, len(weights))
            of_head = weights.mean(0) if head is None else weights[head]
            row = of_head[row_at * width + column_at].view(height, width)
            words = f"layer {place}, row {row_at}, column {column_at}"
            words += "" if head is None else f", head {head}"
            pictures.append(
                Picture(
                    title=f"layer {place}",
                    variant=variant,
                    rows=_rows(row),
                    marked=(row_at, column_at),
                )
            )
            quantities.append(quantity(variant, "largest weight", float(row.max()), words))
            quantities.append(quantity(variant, "least weight", float(row.min()), words))
    return Findings(
        quantities=tuple(quantities),
        figures=tuple(pictures),
    )


def _below(what: str, value: int, count: int) -> None:
    if value >= count:
        raise ValueError(f"{what} is {value}, must be below {count}")


def _rows(values: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(f"{v:.5g}") for v in row) for row in values.tolist())


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Name the largest weight of the last layer; no paper says what it must be."""
    largest = {
        v: list(of.values())[-1] for v, of in by_setting(quantities, "largest weight").items()
    }
    listed = ", ".join(f"{title(v)} {100 * value:.2g} %" for v, value in largest.items())
    return Conclusion(
        finding=f"Largest weight in the last layer of the query that is shown: {listed}.",
        agrees=None,
    )


ANALYSIS = Analysis(
    name="attention_maps",
    title="Attention maps",
    question="What does one query look at?",
    claim="",
    revision=1,
    variants=("softmax", "inline", "linear_relu", "linear_elu", "focused_linear"),
    run=run,
    conclude=conclude,
)
