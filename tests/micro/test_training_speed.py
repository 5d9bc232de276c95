"""The shared training loop against a plain hand-written one, on the same model and recipe.

`nox -s micro -- -k training` prints both, and fails if the shared loop trains fewer than nine
tenths of the images that the plain one trains in the same time. In the ordinary test suite, where
machines are busy, each runs once and nothing is asked of its speed.
"""

import time
from collections.abc import Callable
from dataclasses import replace

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
    model, split, recipe = network(), examples(), replace(RECIPE, epochs=1)
    return lambda: train(model, split, recipe, 0)


@pytest.mark.benchmark(group="one epoch of 1,024 digits", min_rounds=5)
@pytest.mark.parametrize("make", [hand_written, shared])
def test_training(benchmark: BenchmarkFixture, make: Callable[[], Callable[[], None]]) -> None:
    benchmark.extra_info["images"] = IMAGES
    benchmark(make())


LEAST_SHARE = 0.9
"""Images a second of the shared loop / those of the plain one."""


def share_of_speed(reference: Callable[[], None], other: Callable[[], None], rounds: int) -> float:
    """Return how much `other` gets done while `reference` does one: best of rounds in turns."""
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for place, call in enumerate((reference, other)):
            start = time.perf_counter()
            call()
            best[place] = min(best[place], time.perf_counter() - start)
    return best[0] / best[1]


def test_training_keeps_nine_tenths_of_the_plain_speed(benchmark: BenchmarkFixture) -> None:
    theirs, ours = hand_written(), shared()
    share = share_of_speed(theirs, ours, rounds=1 if benchmark.disabled else 7)
    benchmark.extra_info["images"] = IMAGES
    benchmark.extra_info["share of the plain speed"] = round(share, 3)
    benchmark.pedantic(ours, rounds=1)
    if not benchmark.disabled:
        assert share >= LEAST_SHARE, f"{share:.2f} of the plain loop's images/s"


def test_a_loop_that_dawdles_is_noticed() -> None:
    def slow() -> None:
        time.sleep(0.02)

    def slower() -> None:
        time.sleep(0.03)

    assert share_of_speed(slow, slower, rounds=3) < LEAST_SHARE
    assert share_of_speed(slow, slow, rounds=3) > LEAST_SHARE
