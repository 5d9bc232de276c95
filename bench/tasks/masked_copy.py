"""A random sequence, then as many masks: each mask must name the token one length before it.

Content says nothing; the weights have to follow positions alone.
"""

from functools import partial

import torch
from torch import Generator

from attention_impls.sequence import SequenceSize
from bench.dataset import IGNORED, Split
from bench.recipe import Recipe
from bench.sequence_task import Examples, SequenceTask

CLASSES = 16


def then_masks(items: int, draws: Generator, *, tokens: int) -> Split:
    """Return ids [items, tokens] (the mask is id 16) and labels that count at the masks."""
    half = tokens // 2
    content = torch.randint(CLASSES, (items, half), generator=draws)
    ids = torch.cat([content, torch.full_like(content, CLASSES)], 1)
    labels = torch.cat([torch.full_like(content, IGNORED), content], 1)
    return Split(ids.to(torch.int16), labels)


def _task(tokens: int, train: int) -> SequenceTask:
    return SequenceTask(
        file="masked_copy",
        title="Masked copy",
        help=f"{tokens // 2} random tokens, then as many masks that must repeat them.",
        generate=partial(then_masks, tokens=tokens),
        examples=Examples(train=train, test=512, rules=f"classes {CLASSES}"),
        size=SequenceSize(
            tokens=tokens, vocabulary=CLASSES + 1, classes=CLASSES, depth=1, heads=2, head_dim=32,
            mlp_ratio=2.0, positions=True, readout="each",
        ),
        recipe=Recipe(
            epochs=4, batch=32, learning_rate=3e-3, weight_decay=0.01, warmup=0.1,
            label_smoothing=0.0, clip_norm=1.0,
        ),
        chance=1 / CLASSES,
        counted_per_example=tokens // 2,
    )  # fmt: skip


SETTINGS = (_task(32, 8_192), _task(128, 4_096), _task(512, 1_024))
TASKS = tuple(one.task() for one in SETTINGS)
