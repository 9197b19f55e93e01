"""A chosen part of a store: some arrays of some layers of some splits, and the dtype to write their tokens in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .array_spec import ArraySpec, array_spec
from .manifest import Manifest


@dataclass(frozen=True)
class Selection:
    """Part of a store, as an export writes it.

    Attributes:
        arrays: for each split and each of its layers by name, the arrays chosen: int8 tokens come with their scales.
        dtype: that patch and prefix tokens are written in.
    """

    arrays: Mapping[str, Mapping[str, Sequence[str]]]
    dtype: str

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in the order they were asked for."""
        return list(self.arrays)

    @property
    def layers(self) -> set[str]:
        """Names of the layers chosen of any split."""
        return {layer for of_split in self.arrays.values() for layer in of_split}

    def specs(self, manifest: Manifest) -> list[ArraySpec]:
        """Return the arrays as they are written, sorted by split, layer and kind; `manifest` is that of the store."""
        return [
            array_spec(manifest, split, layer, kind, dtype=self.dtype)
            for split, of_split in sorted(self.arrays.items())
            for layer, kinds in sorted(of_split.items())
            for kind in sorted(kinds)
        ]
