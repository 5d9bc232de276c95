"""CIFAR-10 stored as JPEG, at 64 and 256 tokens: recipe and network of CIFAR-10, named apart."""

from bench.datasets import cifar10_jpeg
from bench.image_task import ImageTask
from bench.tasks.cifar10 import COLOURS, RECIPE, size

TASKS = tuple(
    ImageTask(
        file="cifar10_jpeg",
        title="cifar10-jpeg",
        help=(
            "The images of CIFAR-10 stored as JPEG of quality 75, 50,000 to train and 10,000 to "
            "test: not comparable with CIFAR-10."
        ),
        read=cifar10_jpeg.read,
        size=size(patch_px, 10),
        recipe=RECIPE,
        colours=COLOURS,
        test_items=10_000,
    ).task()
    for patch_px in (4, 2)
)
