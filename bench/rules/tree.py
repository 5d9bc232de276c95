"""What the tree says about names, asked once a check.

A name is looked up in folders, and one that is not there is searched for in all names, to say which
is the nearest: too much for each of a hundred thousand rows. A check judges all rows by one tree,
so answers are kept as long as it lasts; the next one asks again and sees files added meanwhile.
"""

from typing import TYPE_CHECKING

from attention_impls.registry import UnknownName, backends, load
from bench.catalogue import streams_of

if TYPE_CHECKING:
    from attention_impls.spec import AttentionSpec


class Tree:
    """The variants of this tree, as one check sees them."""

    def __init__(self) -> None:
        self._specs: dict[str, AttentionSpec | UnknownName] = {}
        self._backends: dict[str, tuple[str, ...]] = {}
        self._streams: dict[str, int] = {}

    def spec(self, variant: str) -> "AttentionSpec | UnknownName":
        """Return the variant, or what is wrong with its name."""
        if variant not in self._specs:
            try:
                self._specs[variant] = load(variant)
            except UnknownName as error:
                self._specs[variant] = error.with_traceback(None)
        return self._specs[variant]

    def revision(self, variant: str) -> int | None:
        """Return the variant's revision; None where the tree does not have it."""
        found = self.spec(variant)
        return None if isinstance(found, UnknownName) else found.revision

    def backends(self, variant: str) -> tuple[str, ...]:
        """Return the backends of a variant that the tree has."""
        if variant not in self._backends:
            self._backends[variant] = backends(variant)
        return self._backends[variant]

    def streams(self, spec: "AttentionSpec") -> int:
        """Return how many distinct tensors the variant's core reads."""
        if spec.name not in self._streams:
            self._streams[spec.name] = streams_of(spec)
        return self._streams[spec.name]
