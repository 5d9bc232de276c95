"""ListOps: evaluate a nested expression. Small lengths with balanced answers, and LRA's own rules.

The small ones are for a CPU; `listops_1999` has the sizes of the Long Range Arena (96,000 and
2,000 expressions of 501 to 1,999 tokens) and is for a GPU. Its answers are not balanced: always
saying 0 is right for 359 of the test expressions, 18 %, which is the chance level.
"""

from functools import partial

from attention_impls.sequence import SequenceEncoder, SequenceSize
from bench.dataset import Data
from bench.datasets import listops
from bench.datasets.listops import Rules
from bench.generated import remembered
from bench.recipe import Recipe
from bench.sequence_task import TEST_SEED, TRAIN_SEED, Examples
from bench.task import Assignment, Task

LRA_CHANCE = 359 / 2_000
"""Share of the most frequent answer, 0, among the test expressions under LRA's rules."""


def data(rules: Rules, examples: Examples) -> Data:
    """Generate the expressions, or read those that were kept."""

    def make() -> Data:
        return listops.data(examples.train, examples.test, (TRAIN_SEED, TEST_SEED), rules)

    return remembered("listops", f"{rules} {examples}", make)


def _task(rules: Rules, examples: Examples, size: SequenceSize, recipe: Recipe) -> Task:
    def network(assignment: Assignment) -> SequenceEncoder:
        return SequenceEncoder(assignment.spec, size, assignment.options)

    return Task(
        name=f"listops_{size.tokens}",
        title=f"ListOps, up to {size.tokens} tokens",
        help=(
            f"Expressions of {rules.above + 1} to {rules.below - 1} tokens, up to {rules.deepest} "
            f"levels deep, with minimum, maximum, median and sum modulo 10; {examples.train:,} to "
            f"train and {examples.test:,} to test; {size.depth} blocks, "
            f"{size.heads * size.head_dim} channels, {recipe.epochs} epochs of AdamW, nothing "
            "tuned per variant."
        ),
        revision=1,
        chance=1 / listops.CLASSES if rules.balanced else LRA_CHANCE,
        test_items=examples.test,
        tokens=size.tokens,
        network=network,
        data=partial(data, rules, examples),
        training=recipe,
        recipe={"network": size, "examples": examples, "rules": rules},
        test_batch=100,
    )


def _size(tokens: int, depth: int, heads: int, head_dim: int) -> SequenceSize:
    return SequenceSize(
        tokens=tokens, vocabulary=listops.VOCABULARY, classes=listops.CLASSES, depth=depth,
        heads=heads, head_dim=head_dim, mlp_ratio=2.0, positions=True, readout="mean",
    )  # fmt: skip


_SMALL_RECIPE = Recipe(
    epochs=6, batch=32, learning_rate=2e-3, weight_decay=0.01, warmup=0.1, label_smoothing=0.0,
    clip_norm=1.0,
)  # fmt: skip
_LRA_RECIPE = Recipe(
    epochs=10, batch=32, learning_rate=5e-4, weight_decay=0.1, warmup=0.1, label_smoothing=0.0,
    clip_norm=1.0, precision="mixed",
)  # fmt: skip
TASKS = (
    _task(
        Rules(deepest=4, most_arguments=5, above=8, below=65, balanced=True),
        Examples(train=16_000, test=1_000, rules="small"),
        _size(64, 2, 2, 32),
        _SMALL_RECIPE,
    ),
    _task(
        Rules(deepest=6, most_arguments=6, above=64, below=257, balanced=True),
        Examples(train=8_000, test=1_000, rules="small"),
        _size(256, 2, 2, 32),
        _SMALL_RECIPE,
    ),
    _task(
        Rules(deepest=10, most_arguments=10, above=500, below=2_000, balanced=False),
        Examples(train=96_000, test=2_000, rules="lra"),
        _size(1_999, 4, 8, 64),
        _LRA_RECIPE,
    ),
)
