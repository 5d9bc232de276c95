"""One marked token among N: name its class. The weights must be a spike; an average drowns it.

The last token asks; only its output is read, so the answer has to travel through attention. With
uniform weights the marked token has the share 1 / N.
"""

from functools import partial

import torch
from torch import Generator

from attention_impls.sequence import SequenceSize
from bench.dataset import Split
from bench.recipe import Recipe
from bench.sequence_task import Examples, SequenceTask

CLASSES = 16


def marked(items: int, draws: Generator, *, tokens: int) -> Split:
    """Return ids [items, tokens] (marked classes come after the plain ones) and labels [items]."""
    ids = torch.randint(CLASSES, (items, tokens), generator=draws)
    place = torch.randint(tokens - 1, (items, 1), generator=draws)
    labels = ids.gather(1, place)
    ids = ids.scatter(1, place, labels + CLASSES)
    ids[:, -1] = 2 * CLASSES
    return Split(ids.to(torch.int16), labels[:, 0])


def _task(tokens: int, train: int) -> SequenceTask:
    return SequenceTask(
        file="needle",
        title="Needle",
        help=f"One of {tokens - 1} tokens is marked; the last token must name its class.",
        generate=partial(marked, tokens=tokens),
        examples=Examples(train=train, test=1_000, rules=f"classes {CLASSES}"),
        size=SequenceSize(
            tokens=tokens, vocabulary=2 * CLASSES + 1, classes=CLASSES, depth=1, heads=2,
            head_dim=32, mlp_ratio=2.0, positions=False, readout="last",
        ),
        recipe=Recipe(
            epochs=2, batch=32, learning_rate=3e-3, weight_decay=0.01, warmup=0.1,
            label_smoothing=0.0, clip_norm=1.0,
        ),
        chance=1 / CLASSES,
    )  # fmt: skip


SETTINGS = (_task(64, 8_192), _task(256, 8_192), _task(1024, 4_096))
TASKS = tuple(one.task() for one in SETTINGS)
