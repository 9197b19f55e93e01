"""A selected part of a store: arrays by split and layer, and the dtype to write their tokens in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .array_spec import ArraySpec, array_spec
from .manifest import Manifest


@dataclass(frozen=True)
class Selection:
    """The part of a store that an export writes.

    Attributes:
        arrays: the selected arrays, by split and layer name. int8 tokens come with their scales.
        dtype: of the written patch and prefix tokens.
    """

    arrays: Mapping[str, Mapping[str, Sequence[str]]]
    dtype: str

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in the order given."""
        return list(self.arrays)

    @property
    def layers(self) -> set[str]:
        """Names of the layers selected in any split."""
        return {layer for of_split in self.arrays.values() for layer in of_split}

    def specs(self, manifest: Manifest) -> list[ArraySpec]:
        """Return the arrays to write, sorted by split, layer and kind; `manifest` is the store's."""
        return [
            array_spec(manifest, split, layer, kind, dtype=self.dtype)
            for split, of_split in sorted(self.arrays.items())
            for layer, kinds in sorted(of_split.items())
            for kind in sorted(kinds)
        ]
