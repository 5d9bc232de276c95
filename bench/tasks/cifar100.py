"""CIFAR-100 at 64 tokens (patch 4) and 256 tokens (patch 2): recipe and network of CIFAR-10."""

from bench.datasets import cifar100
from bench.image_task import Colours, ImageTask
from bench.tasks.cifar10 import RECIPE, size

TASKS = tuple(
    ImageTask(
        file="cifar100",
        title="CIFAR-100",
        help="CIFAR-100, 50,000 colour images of 32 x 32 pixels to train and 10,000 to test.",
        read=cifar100.read,
        size=size(patch_px, 100),
        recipe=RECIPE,
        colours=Colours(mean=cifar100.MEAN, deviation=cifar100.DEVIATION),
        test_items=10_000,
    ).task()
    for patch_px in (4, 2)
)
