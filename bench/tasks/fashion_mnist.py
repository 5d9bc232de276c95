"""Fashion-MNIST: articles of clothing at 49 tokens (short recipe, CPU) and at 196 (full recipe).

The short recipe takes about a minute a run on 2 CPU cores and is what committed results on CPU
use; the full one is for a GPU.
"""

from attention_impls.vit import VisionTransformerSize
from bench.datasets import fashion_mnist
from bench.image_task import Colours, ImageTask
from bench.recipe import Recipe

_COLOURS = Colours(mean=(fashion_mnist.MEAN,), deviation=(fashion_mnist.DEVIATION,))
_HELP = "Fashion-MNIST, 60,000 grey images of 28 x 28 pixels to train and 10,000 to test."

SHORT = ImageTask(
    file="fashion_mnist",
    title="Fashion-MNIST",
    help=_HELP,
    read=fashion_mnist.read,
    size=VisionTransformerSize(
        resolution_px=28, patch_px=4, image_channels=1, classes=10, depth=2, heads=2, head_dim=32,
        mlp_ratio=2.0,
    ),
    recipe=Recipe(
        epochs=2, batch=128, learning_rate=3e-3, weight_decay=0.05, warmup=0.1,
        label_smoothing=0.1, clip_norm=1.0,
    ),
    colours=_COLOURS,
    test_items=10_000,
)  # fmt: skip
FULL = ImageTask(
    file="fashion_mnist",
    title="Fashion-MNIST",
    help=_HELP,
    read=fashion_mnist.read,
    size=VisionTransformerSize(
        resolution_px=28, patch_px=2, image_channels=1, classes=10, depth=6, heads=4, head_dim=48,
        mlp_ratio=4.0,
    ),
    recipe=Recipe(
        epochs=30, batch=256, learning_rate=1e-3, weight_decay=0.05, warmup=0.1,
        label_smoothing=0.1, clip_norm=1.0, precision="mixed", augmentation="crop_flip",
    ),
    colours=_COLOURS,
    test_items=10_000,
)  # fmt: skip
TASKS = (SHORT.task(), FULL.task())
