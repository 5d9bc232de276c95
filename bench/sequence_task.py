"""Tasks on sequences of token ids: generated examples, one encoder, several lengths."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Generator, nn

from attention_impls.sequence import SequenceEncoder, SequenceSize
from bench.dataset import Data, Split
from bench.recipe import Recipe
from bench.task import Assignment, Task

TRAIN_SEED, TEST_SEED = 1, 2
"""Of the generators: the examples are the same for every variant and every seed of a training."""

Generate = Callable[[int, Generator], Split]
"""(examples, generator) -> examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """How many examples are generated, and every number that decides what they look like."""

    train: int
    test: int
    rules: str
    """Numbers of the generator, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceTask:
    """What one task at one length is made of."""

    file: str
    """Name of its file; the task's name is this and the number of tokens."""
    title: str
    help: str
    """What is asked, and what an answer needs; network and recipe are added."""
    generate: Generate
    examples: Examples
    size: SequenceSize
    recipe: Recipe
    chance: float
    counted_per_example: int = 1
    """Labels of one test example that count."""
    revision: int = 1
    build: Callable[[Assignment, SequenceSize], nn.Module] | None = None
    """Another network than the encoder; None: the encoder."""

    def task(self) -> Task:
        """Return the task."""
        size = self.size
        return Task(
            name=f"{self.file}_{size.tokens}",
            title=f"{self.title}, {size.tokens} tokens",
            help=(
                f"{self.help} {self.examples.train:,} examples to train and "
                f"{self.examples.test:,} to test; {size.depth} attention "
                f"layer{'s' if size.depth > 1 else ''}, {size.heads * size.head_dim} channels, "
                f"{self.recipe.epochs} epochs of AdamW, nothing tuned per variant."
            ),
            revision=self.revision,
            chance=self.chance,
            test_items=self.examples.test * self.counted_per_example,
            tokens=size.tokens,
            network=self.network,
            data=self.data,
            training=self.recipe,
            recipe={"network": size, "examples": self.examples},
        )

    def data(self) -> Data:
        """Generate the examples, or return those that this process has generated before."""
        return _generated(self.generate, self.examples.train, self.examples.test)

    def network(self, assignment: Assignment) -> nn.Module:
        """Build the network from the current random state."""
        if self.build is not None:
            return self.build(assignment, self.size)
        return SequenceEncoder(assignment.spec, self.size, assignment.options)


@cache
def _generated(generate: Any, train: int, test: int) -> Data:
    splits = (
        generate(items, torch.Generator().manual_seed(seed))
        for items, seed in ((train, TRAIN_SEED), (test, TEST_SEED))
    )
    return Data(*splits)


def distinct(items: int, count: int, of: int, draws: Generator) -> torch.Tensor:
    """Draw for each item `count` different numbers below `of`, in random order: [items, count]."""
    return torch.rand(items, of, generator=draws).argsort(1)[:, :count]
