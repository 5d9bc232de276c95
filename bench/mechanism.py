"""What an analysis looks into: variants as they are, and trained without their local branch.

Papers ask what attention does by itself of networks that have no local branch. Taking the branch
out of a network that was trained with it answers another question: it learned to rely on both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from attention_impls.registry import load
from bench.analysis import by_seed, title
from bench.attention_matrix import without_local_options
from bench.model import Scalar
from bench.report import Quantity

WITHOUT = "trained without its local branch"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A variant, and what of its options differs from the defaults in training."""

    variant: str
    changed: tuple[tuple[str, Scalar], ...] = ()
    """Options that switch its local branch off; empty: as it is."""

    @property
    def options(self) -> Any:
        """Its options."""
        return replace(load(self.variant).options, **dict(self.changed))

    @property
    def label(self) -> str:
        """Name for figures and sentences."""
        return title(self.variant) + (f", {WITHOUT}" if self.changed else "")

    @property
    def has_branch(self) -> bool:
        """Whether there is a local branch that could be taken out."""
        return without_local_options(self.options) != self.options

    def setting(self, words: str) -> str:
        """Setting of one of its quantities."""
        return f"{WITHOUT}, {words}" if self.changed else words


def without_branch(variant: str) -> Mechanism | None:
    """Return `variant` trained without its local branch; None if it has none."""
    options = load(variant).options
    plain = without_local_options(options)
    if plain == options:
        return None
    names = [f.name for f in fields(options)]
    changed = {n: getattr(plain, n) for n in names if getattr(plain, n) != getattr(options, n)}
    return Mechanism(variant, tuple(changed.items()))


def mechanisms(variants: Sequence[str]) -> Iterator[Mechanism]:
    """Yield every variant, and after it the same without its local branch, where it has one."""
    for variant in variants:
        yield Mechanism(variant)
        bare = without_branch(variant)
        if bare is not None:
            yield bare


def by_mechanism(
    quantities: Sequence[Quantity], name: str
) -> dict[Mechanism, dict[str, dict[int, float]]]:
    """Return every value of the quantity `name`: by mechanism, setting, and seed.

    Raises:
        ValueError: a value that belongs to no variant, or is of a branch that is not there.
    """
    found: dict[Mechanism, dict[str, dict[int, float]]] = {}
    for variant, of in by_seed(quantities, name).items():
        if variant is None:
            raise ValueError(f"{name!r} belongs to no variant")
        bare = without_branch(variant)
        for setting, seeds in of.items():
            plain = setting.removeprefix(f"{WITHOUT}, ")
            if plain == setting:
                mechanism = Mechanism(variant)
            elif bare is None:
                raise ValueError(f"{variant} has no local branch, but {name!r} is of {setting!r}")
            else:
                mechanism = bare
            found.setdefault(mechanism, {})[plain] = seeds
    return found
