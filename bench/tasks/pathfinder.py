"""Pathfinder on 32 x 32 pixels: easy at 64 and 256 tokens, and hard at 1,024 tokens, for a GPU.

`pathfinder_1024` sees single pixels, as the Long Range Arena does, with 14 dashes a curve.
"""

from functools import partial

from torch import nn

from attention_impls.vit import VisionTransformer, VisionTransformerSize
from bench.dataset import Data
from bench.datasets import pathfinder
from bench.datasets.pathfinder import Rules
from bench.generated import remembered
from bench.image_task import Colours, Pixels
from bench.recipe import Recipe
from bench.sequence_task import TEST_SEED, TRAIN_SEED, Examples
from bench.task import Assignment, Task

COLOURS = Colours(mean=(0.1,), deviation=(0.25,))


def data(rules: Rules, examples: Examples) -> Data:
    """Generate the pictures, or read those that were kept."""

    def make() -> Data:
        return Data(
            pathfinder.examples(examples.train, TRAIN_SEED, rules),
            pathfinder.examples(examples.test, TEST_SEED, rules),
        )

    return remembered("pathfinder", f"{rules} {examples}", make)


def _task(patch_px: int, rules: Rules, examples: Examples, recipe: Recipe) -> Task:
    size = VisionTransformerSize(
        resolution_px=pathfinder.SIDE, patch_px=patch_px, image_channels=1, classes=2, depth=4,
        heads=4, head_dim=32, mlp_ratio=2.0,
    )  # fmt: skip

    def network(assignment: Assignment) -> nn.Module:
        pixels = Pixels(COLOURS)
        return nn.Sequential(pixels, VisionTransformer(assignment.spec, size, assignment.options))

    tokens = size.grid.tokens
    return Task(
        name=f"pathfinder_{tokens}",
        title=f"Pathfinder, {tokens} tokens",
        help=(
            f"Do two dots lie on the same of two dashed curves of {rules.dashes} dashes? "
            f"{examples.train:,} generated pictures of 32 x 32 pixels to train and "
            f"{examples.test:,} to test; four blocks, 128 channels, patches of {patch_px} x "
            f"{patch_px}; {recipe.epochs} epochs of AdamW, nothing tuned per variant."
        ),
        revision=1,
        chance=0.5,
        test_items=examples.test,
        tokens=tokens,
        network=network,
        data=partial(data, rules, examples),
        training=recipe,
        recipe={"network": size, "examples": examples, "rules": rules, "colours": COLOURS},
    )  # fmt: skip


_RECIPE = Recipe(
    epochs=60, batch=128, learning_rate=1e-3, weight_decay=0.05, warmup=0.1, label_smoothing=0.0,
    clip_norm=1.0, precision="mixed",
)  # fmt: skip
TASKS = (
    _task(4, Rules(dashes=6), Examples(train=40_000, test=4_000, rules="easy"), _RECIPE),
    _task(2, Rules(dashes=6), Examples(train=40_000, test=4_000, rules="easy"), _RECIPE),
    _task(1, Rules(dashes=14), Examples(train=160_000, test=20_000, rules="hard"), _RECIPE),
)
