"""The shared training loop against a plain hand-written one, on the same model and recipe.

`nox -s micro -- -k training` prints both. In the ordinary test suite each runs once.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from attention_impls import load
from attention_impls.vit import VisionTransformer
from bench.dataset import Split
from bench.tasks.digits import RECIPE, SIZE
from bench.training import train

IMAGES = 1_024


def examples() -> Split:
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 1, 8, 8, generator=draws)
    return Split(images, torch.randint(10, (IMAGES,), generator=draws))


def network() -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(load("softmax"), SIZE)


def plain(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One epoch as one would write it: same optimiser, batches and clipping, nothing recorded."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RECIPE.learning_rate, weight_decay=RECIPE.weight_decay, fused=True
    )
    model.train()
    order = torch.randperm(len(images))
    for index in range(len(images) // RECIPE.batch):
        chosen = order[index * RECIPE.batch : (index + 1) * RECIPE.batch]
        loss = F.cross_entropy(
            model(images[chosen]), labels[chosen], label_smoothing=RECIPE.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip_norm)
        optimizer.step()


def hand_written() -> Callable[[], None]:
    model, split = network(), examples()
    return lambda: plain(model, split.inputs, split.labels)


def shared() -> Callable[[], None]:
    from dataclasses import replace

    model, split, recipe = network(), examples(), replace(RECIPE, epochs=1)
    return lambda: train(model, split, recipe, 0)


@pytest.mark.benchmark(group="one epoch of 1,024 digits", min_rounds=5)
@pytest.mark.parametrize("make", [hand_written, shared])
def test_training(benchmark: BenchmarkFixture, make: Callable[[], Callable[[], None]]) -> None:
    benchmark.extra_info["images"] = IMAGES
    benchmark(make())
