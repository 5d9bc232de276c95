"""Stacked associative recall: pairs of key and value, then the keys again: which value was it?

A token is a key and a value side by side; a query is a key without a value. One attention layer,
without positions, convolution and MLP, can solve it, so the accuracy is the capacity of the mixer:
how many pairs it keeps apart. Frozen random unit vectors stand for keys and values.

Chance, an answer without a look at the input, is 1 in VALUES. Whoever sees which values occur but
not to which key they belong is right once in as many times as there are pairs: that is not chance
but the first thing to be learned, and a mechanism may fail to learn even that.

After the stacked form of multi-query associative recall in Arora et al., "Zoology: Measuring and
Improving Recall in Efficient Language Models", ICLR 2024, https://arxiv.org/abs/2312.04927, with
our own sizes.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from attention_impls.sequence import SequenceSize
from attention_impls.shapes import Grid
from bench.dataset import IGNORED, Split
from bench.recipe import Recipe
from bench.sequence_task import Examples, SequenceTask, distinct
from bench.task import Assignment

KEYS, VALUES = 512, 256
"""Sizes of the vocabularies."""
_TABLE_SEED = 0
_FIRST_SCALE = 10.0
"""Factor of the cosines that are the first logits; learned."""


def pairs_then_queries(items: int, draws: Generator, *, pairs: int) -> Split:
    """Return ids [items, 2 pairs, 2] and labels [items, 2 pairs].

    The first half are the pairs; the second half the same keys in another order, with VALUES in
    the place of the value; their labels are the values.
    """
    keys = distinct(items, pairs, KEYS, draws)
    values = distinct(items, pairs, VALUES, draws)
    order = distinct(items, pairs, pairs, draws)
    context = torch.stack([keys, values], 2)
    asked = keys.gather(1, order)
    queries = torch.stack([asked, torch.full_like(asked, VALUES)], 2)
    labels = torch.cat([torch.full_like(asked, IGNORED), values.gather(1, order)], 1)
    return Split(torch.cat([context, queries], 1).to(torch.int16), labels)


class Recall(nn.Module):
    """One attention layer between frozen tables; logits are cosines with the values."""

    def __init__(self, attention: nn.Module, grid: Grid, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.attention = attention
        draws = torch.Generator().manual_seed(_TABLE_SEED)
        half = channels // 2
        keys = F.normalize(torch.randn(KEYS, half, generator=draws), dim=1)
        values = F.normalize(torch.randn(VALUES, half, generator=draws), dim=1)
        # entries of about one, as a norm would give them
        scale = half**0.5
        self.register_buffer("keys", keys * scale)
        self.register_buffer("values", torch.cat([values * scale, torch.zeros(1, half)]))
        self.register_buffer("answers", values)
        self.scale = nn.Parameter(torch.tensor(_FIRST_SCALE))

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, tokens, 2] -> logits [batch, tokens, VALUES]."""
        keys, values = ids.long().unbind(2)
        x = torch.cat([self.get_buffer("keys")[keys], self.get_buffer("values")[values]], 2)
        answers = self.get_buffer("answers")
        read = self.attention(x, self.grid)[..., -answers.shape[1] :]
        return self.scale * F.normalize(read, dim=2) @ answers.mT


def build(assignment: Assignment, size: SequenceSize) -> Recall:
    """The network with the assignment's variant."""
    attention = assignment.spec.build(size.shape(), assignment.options)
    return Recall(attention, size.grid, size.heads * size.head_dim)


def _task(pairs: int, train: int) -> SequenceTask:
    return SequenceTask(
        file="stacked_mqar",
        title=f"Stacked recall of {pairs} pairs",
        help=(
            f"{pairs} pairs of key and value, then every key again: name its value. One attention "
            "layer can solve it; the accuracy is how many pairs it keeps apart. Naming any of the "
            f"values that occur is right once in {pairs} times."
        ),
        generate=partial(pairs_then_queries, pairs=pairs),
        examples=Examples(train=train, test=512, rules=f"keys {KEYS}, values {VALUES}"),
        size=SequenceSize(
            tokens=2 * pairs, vocabulary=KEYS + VALUES, classes=VALUES, depth=1, heads=2,
            head_dim=32, mlp_ratio=0.0, positions=False, readout="each",
        ),
        recipe=Recipe(
            epochs=4, batch=32, learning_rate=3e-3, weight_decay=0.0, warmup=0.1,
            label_smoothing=0.0, clip_norm=1.0,
        ),
        chance=1 / VALUES,
        counted_per_example=pairs,
        build=build,
    )  # fmt: skip


SETTINGS = (_task(16, 16_384), _task(64, 8_192))
TASKS = tuple(one.task() for one in SETTINGS)
