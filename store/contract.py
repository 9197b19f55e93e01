"""The contract of a store: `StoredArrays` reads any store, `StoreFiles` is a store that is written too.

A store format is a subclass of `StoreFiles`: it names its files, and reads and writes the small ones. A block file has
the same layout in every format: a header, then the rows of one block of one array. `block_file.py` writes it, and
`StoreFiles` reads it through `extents.py`.
"""

import glob
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from ..errors import MissingError, StoreError
from ..runtime.text import printable
from . import journal
from .array_spec import ArraySpec, array_specs
from .checked import UnfitError
from .durable import remove_durably
from .extents import N_THREADS, Extent, Part, as_bytes, fetch, read_part
from .extractions import can_repair
from .layout import CHANNELS
from .manifest import Manifest
from .objects import Place
from .temporaries import file_of, is_left_over, temporary_files

LABELS, IDS = "labels", "ids"
ROOT_RECORD = "manifest"
"""Name of the root file in the journal, whatever the store is called."""
MANIFEST_KEYS = {"format", "fingerprints"}
"""Attributes with these keys are a manifest."""


class StoredArrays(ABC):
    """A store that can be read, in any format and at any place.

    Attributes:
        path: the store's name, as the user gave it.
        form: the format, in words for people.
    """

    path: str | Path
    form: ClassVar[str]
    n_threads: ClassVar[int] = N_THREADS
    """Threads that read side by side."""
    whole_blocks: ClassVar[bool] = False
    """Whether any rows of a block cost the reading of the whole block, as with compressed ones."""

    @abstractmethod
    def read_attributes(self) -> dict[str, Any]:
        """Return the manifest as JSON values, or {} if there is none.

        Raises:
            StoreError: the manifest is damaged.
        """

    @abstractmethod
    def read_whole(self, array: str) -> npt.NDArray[Any]:
        """Read a small array, such as "train/labels".

        Raises:
            StoreError: the array is missing.
        """

    @abstractmethod
    def read_rows(self, spec: ArraySpec, view: int, part: Part, out: npt.NDArray[Any]) -> None:
        """Read rows of one block into their places of `out`.

        Args:
            spec: of the array.
            view: index of the view.
            part: the block, the rows to read, and their places.
            out: C-contiguous (rows, *spec.row), in the stored type.

        Raises:
            StoreError: the block is missing or too short.
        """

    @abstractmethod
    def prefetch(self, spec: ArraySpec, view: int, block: int) -> None:
        """Load a block ahead, if the system can, because most of it will be read soon."""

    @abstractmethod
    def count_missing(self, specs: Sequence[ArraySpec]) -> list[int]:
        """Return for each array how many blocks are not written yet, over all views; 0 if that is unknown."""

    @abstractmethod
    def journaled_files(self) -> "StoreFiles | None":
        """Return the store's files, which its journal names, or None if there is no local journal."""

    @abstractmethod
    def read_mark(self) -> bytes:
        """Return bytes that identify this store, and change if it is made anew; empty without a journal."""

    @abstractmethod
    def is_compressed(self) -> bool:
        """Whether blocks are compressed, as far as this class can tell.

        Raises:
            StoreError: the metadata of an array are damaged.
        """

    def read_manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            StoreError: not a store, or a store of another format version.
        """
        attributes = self.read_attributes()
        if not attributes.keys() >= MANIFEST_KEYS:
            raise StoreError(
                f"{str(self.path)!r} is not a token store: it has no manifest; make one with probe extract"
            )
        try:
            return Manifest.from_json(attributes)
        except UnfitError as error:
            raise self.damaged(self.root_name, error) from error

    @property
    @abstractmethod
    def root_name(self) -> str:
        """The file that holds the manifest, for people."""

    @abstractmethod
    def remedy(self, file: str) -> str:
        """Return advice for a damaged file."""

    def damaged(self, file: str | Place, why: object) -> StoreError:
        """Make the error for a file that differs from the file that was written."""
        what = "damaged, or not a store" if str(file) == self.root_name else "damaged"
        said = printable(" ".join(str(why).split()))
        return StoreError(f"{str(file)!r} is {what} ({said}); {self.remedy(str(file))}, or give another path")


class StoreFiles(StoredArrays):
    """A store of files, which can be written too. Each store format is a subclass.

    Attributes:
        path: the store's name, as the user gave it.
        folder: holds block files, journal and lock; paths in the journal are relative to it.
        root: the file that holds the manifest.
    """

    n_lanes: ClassVar[int] = 4
    """Threads that write side by side."""

    def __init__(self, path: str | Path, folder: Place, root: Place) -> None:
        self.path, self.folder, self.root = path, folder, root

    def look_again(self) -> None:
        """Forget what is known of the files' sizes: other writers may have made some."""

    @property
    def root_name(self) -> str:
        """See `StoredArrays.root_name`."""
        return str(self.root)

    def remedy(self, file: str) -> str:
        """See `StoredArrays.remedy`: the journal keeps the manifest, and the settings that make other files again."""
        if can_repair(self.folder) or (file == self.root_name and journal.root_entries(self.folder)):
            return "mend it with probe verify --repair"
        return "no journal records how it was made, so make it again"

    @abstractmethod
    def block_name(self, spec: ArraySpec, view: int, block: int) -> str:
        """Return the path, relative to the folder, of one block of an array."""

    @abstractmethod
    def block_header(self, spec: ArraySpec) -> bytes:
        """Return the bytes before the rows in each block file of an array."""

    @abstractmethod
    def block_offset(self, spec: ArraySpec) -> int:
        """Return the number of bytes before the rows."""

    @abstractmethod
    def whole_names(self, array: str) -> list[str]:
        """Return the relative paths of the files of a small array."""

    @abstractmethod
    def write_whole(self, array: str, values: npt.NDArray[Any] | list[str], *, replace: bool = True) -> None:
        """Write a small array, such as "train/labels", durably.

        Args:
            array: its name.
            values: its content.
            replace: whether files of the same size give way. If not, and another writer was first, its values stay.
        """

    @abstractmethod
    def root_bytes(self, manifest: Manifest) -> bytes:
        """Return the content of the root file: the same manifest gives the same bytes."""

    @abstractmethod
    def metadata_names(self, manifest: Manifest) -> list[str]:
        """Return the relative paths of the files that hold only metadata, except the root."""

    @abstractmethod
    def write_metadata(self, manifest: Manifest) -> None:
        """Write those files."""

    def remove_temporary(self, manifest: Manifest, *, all_writers: bool = False) -> None:
        """Remove the temporary files that dead writers left, or those of all writers."""
        declared = self.declared(manifest)
        for name, file in list(temporary_files(self.folder)):
            if (file in declared or file == self.root.name) and (all_writers or is_left_over(self.folder / name)):
                self.remove([name])
        if self.root.parent != self.folder:
            assert isinstance(self.root, Path), self.root
            for path in self.root.parent.glob(f"{glob.escape(self.root.name)}.*"):
                if file_of(path.name) == self.root.name and (all_writers or is_left_over(path)):
                    remove_durably([path])

    def remove(self, names: Iterable[str]) -> None:
        """Remove files durably, by their relative paths; missing ones are skipped.

        Raises:
            StoreError: a file is behind a symbolic link, so it may not belong to the store; nothing is removed.
        """
        names = list(names)
        self.check_inside(names)
        remove_durably(self.folder / name for name in names)

    def check_inside(self, names: Iterable[str]) -> None:
        """Raise StoreError if a folder of one of the files, by their relative paths, is a symbolic link."""
        for folder in {parent for name in names for parent in Path(name).parents}:
            if (self.folder / folder).is_symlink() and folder != Path():
                raise StoreError(
                    f"{str(self.folder / folder)!r} is a symbolic link, and files behind a link are not removed; "
                    "put the folder itself in its place"
                )

    def exists(self) -> bool:
        """Whether there is a store here."""
        return self.read_attributes().keys() >= MANIFEST_KEYS

    def check_there(self) -> None:
        """Raise MissingError if there is nothing at the path."""
        if not self.root.exists() and not self.folder.exists():
            raise MissingError(f"no store at {str(self.path)!r}; make one with probe extract")

    def extent(self, spec: ArraySpec, view: int, block: int) -> Extent:
        """Return the place of the rows of one block."""
        path = self.folder / self.block_name(spec, view, block)
        assert isinstance(path, Path), path
        return Extent(path, self.block_offset(spec), len(spec.rows_of(block)) * spec.row_bytes)

    def read_rows(self, spec: ArraySpec, view: int, part: Part, out: npt.NDArray[Any]) -> None:
        """See `StoredArrays.read_rows`: straight from the file to each row's place."""
        read_part(self.extent(spec, view, part.block), part, spec.row_bytes, as_bytes(out))

    def prefetch(self, spec: ArraySpec, view: int, block: int) -> None:
        """See `StoredArrays.prefetch`: into the kernel's page cache."""
        fetch(self.extent(spec, view, block))

    def count_missing(self, specs: Sequence[ArraySpec]) -> list[int]:
        """See `StoredArrays.count_missing`: a block is written once the journal records it."""
        recorded = journal.read_records(self.folder)
        return [sum(name not in recorded for name in self.block_names(spec)) for spec in specs]

    def journaled_files(self) -> "StoreFiles | None":
        """See `StoredArrays.journaled_files`."""
        return self if (self.folder / journal.NAME).is_file() else None

    def read_mark(self) -> bytes:
        """See `StoredArrays.read_mark`."""
        return journal.read_mark(self.folder)

    def is_compressed(self) -> bool:
        """See `StoredArrays.is_compressed`: no; a format may override this."""
        return False

    def block_names(self, spec: ArraySpec) -> Iterator[str]:
        """Yield the relative path of every block file of an array."""
        for view, block in product(range(spec.n_views), range(spec.n_blocks)):
            yield self.block_name(spec, view, block)

    def whole_arrays(self, manifest: Manifest) -> list[str]:
        """Return the names of all small arrays: labels, ids, and the channel statistics of int8 tokens."""
        rows = [f"{split}/{name}" for split in sorted(manifest.splits) for name in (LABELS, IDS)]
        tokens = [spec.name for spec in array_specs(manifest) if spec.type.name == "int8"]
        return rows + [name + CHANNELS for name in tokens]

    def declared(self, manifest: Manifest) -> set[str]:
        """Return the relative path of every file of a complete store, except root, journal and lock."""
        names = set(self.metadata_names(manifest))
        names.update(name for array in self.whole_arrays(manifest) for name in self.whole_names(array))
        names.update(name for spec in array_specs(manifest) for name in self.block_names(spec))
        return names


def missing(path: Place) -> StoreError:
    """Make the error for a missing small array."""
    return StoreError(f"{str(path)!r} is not complete; run the same probe extract again")
