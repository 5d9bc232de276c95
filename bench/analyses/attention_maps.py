"""What does one query look at? The same test image, layer and query for several variants.

A picture is the row of the attention matrix of one query, laid out on the grid, averaged over heads
(weights with their sign). The query is the token in the middle of the image.
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

IMAGE = 0
"""Of the test set."""


def run(study: Study) -> Findings:
    """One picture a layer and variant, after the image itself."""
    pictures: list[Picture] = []
    quantities: list[Quantity] = []
    for variant in study.variants:
        learned = study.trained(variant, study.seeds[0])
        image = learned.data.test.inputs[IMAGE : IMAGE + 1].to(study.device)
        if not pictures:
            grey = image[0].double().mean(0)
            pictures.append(
                Picture(title=f"Test image {IMAGE}", variant=None, rows=_rows(grey / grey.max()))
            )
        for place, layer in enumerate(seen(learned.network, image), start=1):
            height, width = layer.grid.height, layer.grid.width
            query = (height // 2) * width + width // 2
            row = matrix(layer.of(0)).mean(0)[query].view(height, width)
            words = f"layer {place}, row {height // 2}, column {width // 2}"
            pictures.append(
                Picture(
                    title=f"layer {place}",
                    variant=variant,
                    rows=_rows(row),
                    marked=(height // 2, width // 2),
                )
            )
            quantities.append(quantity(variant, "largest weight", float(row.max()), words))
            quantities.append(quantity(variant, "least weight", float(row.min()), words))
    return Findings(
        quantities=tuple(quantities),
        figures=tuple(pictures),
    )


def _rows(values: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(f"{v:.5g}") for v in row) for row in values.tolist())


def conclude(quantities: Sequence[Quantity]) -> Conclusion:
    """Name the largest weight of the last layer; no paper says what it must be."""
    largest = {
        v: list(of.values())[-1] for v, of in by_setting(quantities, "largest weight").items()
    }
    listed = ", ".join(f"{title(v)} {100 * value:.2g} %" for v, value in largest.items())
    return Conclusion(
        finding=f"Largest weight of the middle query in the last layer, mean of heads: {listed}.",
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
