"""Associative recall in one stream: k1 v1 k2 v2 ..., later some keys again: which value followed?

The network must first tie a value to the key before it (a short causal convolution and positions
help), then look the key up. After Arora et al., "Zoology", ICLR 2024,
https://arxiv.org/abs/2312.04927: every key returns once, mostly soon (a power law over the places),
other places hold a filler. Read from both sides: the answer stands nowhere but beside its key.
"""

from functools import partial

import torch
from torch import Generator

from attention_impls.sequence import SequenceSize
from bench.dataset import IGNORED, Split
from bench.recipe import Recipe
from bench.sequence_task import Examples, SequenceTask, distinct

FILLER = 0
KEYS = VALUES = 64
POWER = 0.01
"""Place i of the free even places has probability ~ i^(POWER - 1)."""


def stream(items: int, draws: Generator, *, tokens: int, pairs: int) -> Split:
    """Return ids [items, tokens] and labels [items, tokens] that count at the queries."""
    keys = distinct(items, pairs, KEYS, draws) + 1
    values = distinct(items, pairs, VALUES, draws) + 1 + KEYS
    ids = torch.full((items, tokens), FILLER)
    labels = torch.full((items, tokens), IGNORED)
    ids[:, 0 : 2 * pairs : 2], ids[:, 1 : 2 * pairs : 2] = keys, values
    places = (tokens - 2 * pairs) // 2
    weights = torch.arange(1, places + 1).float() ** (POWER - 1)
    chosen = torch.multinomial(weights.expand(items, places), pairs, generator=draws)
    at = 2 * pairs + 2 * chosen
    return Split(ids.scatter(1, at, keys).to(torch.int16), labels.scatter(1, at, values - 1 - KEYS))


def _task(tokens: int, pairs: int, train: int) -> SequenceTask:
    return SequenceTask(
        file="mqar",
        title=f"Recall of {pairs} pairs in a stream",
        help=(
            f"{pairs} keys, each followed by its value, then every key once more among fillers: "
            f"name its value. Naming any of the values that occur is right once in {pairs} times."
        ),
        generate=partial(stream, tokens=tokens, pairs=pairs),
        examples=Examples(
            train=train, test=512, rules=f"pairs {pairs}, keys {KEYS}, values {VALUES}, {POWER}"
        ),
        size=SequenceSize(
            tokens=tokens, vocabulary=1 + KEYS + VALUES, classes=VALUES, depth=2, heads=2,
            head_dim=32, mlp_ratio=0.0, positions=True, convolution=3, readout="each",
        ),
        recipe=Recipe(
            epochs=8, batch=32, learning_rate=3e-3, weight_decay=0.1, warmup=0.1,
            label_smoothing=0.0, clip_norm=1.0,
        ),
        chance=1 / VALUES,
        counted_per_example=pairs,
    )  # fmt: skip


SETTINGS = (_task(64, 8, 8_192), _task(128, 16, 8_192), _task(256, 32, 4_096))
TASKS = tuple(one.task() for one in SETTINGS)
