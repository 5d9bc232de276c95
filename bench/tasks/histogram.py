"""How often does this token occur in the sequence? Asked of every token.

Needs weights that select equal tokens and a sum that keeps their number: averaging over a few
neighbours cannot count, and neither can weights that look at content too coarsely.
"""

import math
from functools import partial

import torch
from torch import Generator

from attention_impls.sequence import SequenceSize
from bench.dataset import Split
from bench.recipe import Recipe
from bench.sequence_task import Examples, SequenceTask

CLASSES = 8
"""Counts 1 to 7, and 8 or more."""
PER_TOKEN = 4
"""Mean number of times that a token of the vocabulary occurs."""


def counted(items: int, draws: Generator, *, tokens: int) -> Split:
    """Return ids [items, tokens] and labels [items, tokens]: the count - 1, at most 7."""
    vocabulary = tokens // PER_TOKEN
    ids = torch.randint(vocabulary, (items, tokens), generator=draws)
    counts = torch.zeros(items, vocabulary, dtype=torch.int64)
    counts = counts.scatter_add(1, ids, torch.ones_like(ids))
    labels = (counts.gather(1, ids) - 1).clamp(max=CLASSES - 1)
    return Split(ids.to(torch.int16), labels)


def most_frequent(tokens: int) -> float:
    """Share of the most frequent label: the others in the sequence are Binomial(N - 1, 1 / V)."""
    share = PER_TOKEN / tokens
    shares = [
        math.comb(tokens - 1, n) * share**n * (1 - share) ** (tokens - 1 - n)
        for n in range(CLASSES - 1)
    ]
    return max(*shares, 1 - sum(shares))


def _task(tokens: int, train: int) -> SequenceTask:
    return SequenceTask(
        file="histogram",
        title="Histogram",
        help="Every token must say how often it occurs in the sequence (1 to 7, or more).",
        generate=partial(counted, tokens=tokens),
        examples=Examples(train=train, test=256, rules=f"mean count {PER_TOKEN}"),
        size=SequenceSize(
            tokens=tokens, vocabulary=tokens // PER_TOKEN, classes=CLASSES, depth=1, heads=2,
            head_dim=32, mlp_ratio=2.0, positions=False, readout="each",
        ),
        recipe=Recipe(
            epochs=4, batch=32, learning_rate=3e-3, weight_decay=0.01, warmup=0.1,
            label_smoothing=0.0, clip_norm=1.0,
        ),
        chance=most_frequent(tokens),
        counted_per_example=tokens,
    )  # fmt: skip


SETTINGS = (_task(64, 8_192), _task(256, 4_096), _task(1024, 1_024))
TASKS = tuple(one.task() for one in SETTINGS)
