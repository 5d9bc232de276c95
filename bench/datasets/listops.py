"""ListOps: nested lists of operators on digits, by the rules of the Long Range Arena.

Nangia and Bowman, "ListOps: A Diagnostic Dataset for Latent Tree Learning", 2018,
https://arxiv.org/abs/1804.06028; Tay et al., "Long Range Arena", ICLR 2021,
https://arxiv.org/abs/2011.04006: below the largest depth a node is an operator with probability
1/4, an operator has 2 to `most_arguments` arguments, and expressions are kept whose number of
tokens lies strictly between two bounds. Generated here; nothing is downloaded.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench.dataset import Data, Split

PAD, CLOSE = 0, 15
DIGITS = tuple(range(1, 11))
"""Ids of 0 to 9."""
MINIMUM, MAXIMUM, MEDIAN, SUM = OPERATORS = (11, 12, 13, 14)
"""Ids; the sum is modulo 10."""
VOCABULARY = 16
CLASSES = 10
_OPERATOR_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What expressions look like."""

    deepest: int
    most_arguments: int
    above: int
    """Expressions have more tokens than this."""
    below: int
    """And fewer than this."""
    balanced: bool
    """As many examples of each answer; else as they come."""


def data(train: int, test: int, seeds: tuple[int, int], rules: Rules) -> Data:
    """Return training and test expressions, none of which is in both, as the arena draws them."""
    first = examples(train, seeds[0], rules)
    return Data(first, examples(test, seeds[1], rules, besides=first))


def examples(items: int, seed: int, rules: Rules, *, besides: Split | None = None) -> Split:
    """Return ids [items, rules.below - 1], padded with 0 at the end, and answers [items].

    Args:
        items: how many, each another expression.
        seed: of the draws.
        rules: what expressions look like.
        besides: expressions that are not drawn again.
    """
    ids = torch.full((items, rules.below - 1), PAD, dtype=torch.int8)
    labels = torch.empty(items, dtype=torch.int64)
    quota = [items // CLASSES + (answer < items % CLASSES) for answer in range(CLASSES)]
    seen: set[bytes] = set()
    if besides is not None:
        seen = {bytes(row.numpy()).rstrip(bytes([PAD])) for row in besides.inputs}
    place = 0
    for tokens, answer in _expressions(random.Random(seed), rules):
        if place == items:
            break
        key = bytes(tokens)
        if key in seen or (rules.balanced and quota[answer] == 0):
            continue
        seen.add(key)
        quota[answer] -= 1
        ids[place, : len(tokens)] = torch.tensor(tokens, dtype=torch.int8)
        labels[place] = answer
        place += 1
    return Split(ids, labels)


def _expressions(draws: random.Random, rules: Rules) -> Iterator[tuple[list[int], int]]:
    while True:
        tokens: list[int] = []
        answer = _grow(draws, rules, 1, tokens)
        if answer is not None and rules.above < len(tokens) < rules.below:
            yield tokens, answer


def _grow(draws: random.Random, rules: Rules, depth: int, tokens: list[int]) -> int | None:
    """Append one node; return its value, or None as soon as the expression is too long."""
    if len(tokens) >= rules.below:
        return None
    if depth >= rules.deepest or draws.random() >= _OPERATOR_SHARE:
        digit = draws.randrange(CLASSES)
        tokens.append(DIGITS[digit])
        return digit
    operator = draws.choice(OPERATORS)
    tokens.append(operator)
    values: list[int] = []
    for _ in range(draws.randint(2, rules.most_arguments)):
        value = _grow(draws, rules, depth + 1, tokens)
        if value is None:
            return None
        values.append(value)
    tokens.append(CLOSE)
    return applied(operator, values)


def applied(operator: int, values: list[int]) -> int:
    """Return the value of one operator.

    The median of an even number of values is the mean of the middle two, rounded down.
    """
    if operator == SUM:
        return sum(values) % CLASSES
    if operator == MEDIAN:
        ordered, half = sorted(values), len(values) // 2
        if len(values) % 2:
            return ordered[half]
        return (ordered[half - 1] + ordered[half]) // 2
    return min(values) if operator == MINIMUM else max(values)


def evaluated(tokens: list[int]) -> int:
    """Evaluate an expression from its tokens alone, without the tree it was made from."""
    stack: list[list[int]] = [[]]
    operators: list[int] = []
    for token in tokens:
        if token in DIGITS:
            stack[-1].append(token - DIGITS[0])
        elif token in OPERATORS:
            operators.append(token)
            stack.append([])
        elif token == CLOSE:
            values = stack.pop()
            stack[-1].append(applied(operators.pop(), values))
    return stack[0][0]
