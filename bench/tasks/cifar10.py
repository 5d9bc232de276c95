"""CIFAR-10 at 64 tokens (patch 4) and 256 tokens (patch 2), one recipe, for a GPU."""

from attention_impls.vit import VisionTransformerSize
from bench.datasets import cifar10
from bench.image_task import Colours, ImageTask
from bench.recipe import Recipe

COLOURS = Colours(mean=cifar10.MEAN, deviation=cifar10.DEVIATION)
RECIPE = Recipe(
    epochs=100, batch=128, learning_rate=1e-3, weight_decay=0.05, warmup=0.05, label_smoothing=0.1,
    clip_norm=1.0, precision="mixed", augmentation="crop_flip",
)  # fmt: skip


def size(patch_px: int, classes: int) -> VisionTransformerSize:
    """The network of all 32-pixel tasks: six blocks, 192 channels."""
    return VisionTransformerSize(
        resolution_px=32, patch_px=patch_px, image_channels=3, classes=classes, depth=6, heads=4,
        head_dim=48, mlp_ratio=4.0,
    )  # fmt: skip


TASKS = tuple(
    ImageTask(
        file="cifar10",
        title="CIFAR-10",
        help="CIFAR-10, 50,000 colour images of 32 x 32 pixels to train and 10,000 to test.",
        read=cifar10.read,
        size=size(patch_px, 10),
        recipe=RECIPE,
        colours=COLOURS,
        test_items=10_000,
    ).task()
    for patch_px in (4, 2)
)
