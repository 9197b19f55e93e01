"""Export of part of a store in another form. The output has a temporary name until it is complete."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import InputError, unknown_name
from ..runtime.address import is_address, redacted
from .archive import write_archive
from .durable import rename_durably, sync_tree
from .formats import FORMATS
from .layout import SCALE, layer_name, parse_layers
from .quantize import DTYPES, stored_kinds
from .reader import Split, Store
from .selection import Selection
from .shards import write_shards
from .temporaries import file_of, is_left_over, new_writer, temporary_of, writer_of

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Form:
    """One form of export.

    Attributes:
        dtypes: that tokens can have; if empty, only the store's own.
        write: takes the store, an empty folder, the selection, and a function called with the bytes written.
    """

    dtypes: tuple[str, ...]
    write: Callable[[Store, Path, Selection, Progress], None]


FORMS = {
    "npy": Form(("float16", "float32"), partial(write_shards, "npy")),
    "safetensors": Form(("float16", "bfloat16", "float32"), partial(write_shards, "safetensors")),
    "zarr": Form((), write_archive),
}


def choose_form(out: str | Path, form: str | None) -> str:
    """Return the form asked for, or "zarr" for a name that ends in ".zarr".

    Raises:
        InputError: the form is unknown or not given, or does not fit the name.
    """
    if is_address(out):
        raise InputError(f"cannot export to the address {redacted(out)!r}; export to a folder, and copy that")
    if form is None and Path(out).suffix != ".zarr":
        raise InputError(f"the name {str(out)!r} does not tell the form; give --to npy, safetensors or zarr")
    form = form or "zarr"
    if form not in FORMS:
        raise unknown_name("form of export", form, FORMS)
    if form == "zarr" and Path(out).suffix.lower() in FORMATS:
        raise InputError(f"{str(out)!r} is the name of an HDF5 store, but --to zarr was given; end it in .zarr")
    return form


def select(
    store: Store,
    form: str,
    *,
    layers: str = "all",
    splits: Sequence[str] = (),
    tokens: Sequence[str] = (),
    dtype: str | None = None,
) -> Selection:
    """Choose the part of a store to export.

    Args:
        store: an open store.
        form: of `FORMS`.
        layers: "all", "last4" or "0,5,-1", of each split.
        splits: by name; all if empty.
        tokens: of "patch", "prefix" and "mean"; all stored ones if empty.
        dtype: of patch and prefix tokens. The default is the stored dtype, or the reader's if the form lacks it.

    Raises:
        InputError: the store lacks a part asked for, or the form has no such dtype.
        StoreError: a layer is not complete.
    """
    written = _choose_dtype(store.manifest.recipe.dtype, form, dtype)
    arrays = {}
    for split in (store[name] for name in splits or store.splits):
        wanted = parse_layers(layers, split.layers, store.manifest.depth)
        split.check_complete(wanted)
        arrays[split.name] = {
            layer_name(layer): stored_kinds(_kinds(split, layer, tokens), written) for layer in wanted
        }
    return Selection(arrays, written)


def _choose_dtype(stored: str, form: str, asked: str | None) -> str:
    known = FORMS[form].dtypes or (stored,)
    if asked is None:
        return stored if stored in known else str(DTYPES[stored].returned)
    if asked not in known:
        raise InputError(f"dtype {asked!r} asked for; {form} can hold these {stored} tokens as {', '.join(known)}")
    return asked


def _kinds(split: Split, layer: int, tokens: Sequence[str]) -> list[str]:
    stored = [kind for kind in split.info.layers[layer_name(layer)] if not kind.endswith(SCALE)]
    for kind in tokens:
        if kind not in stored:
            raise unknown_name(f"array in {split.name}/{layer_name(layer)}", kind, stored)
    return list(tokens) or stored


def exported_bytes(store: Store, chosen: Selection) -> int:
    """Return the bytes of tokens that an export writes, before compression."""
    return sum(spec.n_bytes for spec in chosen.specs(store.manifest))


def export_store(
    store: Store, out: Path, form: str, chosen: Selection, progress: Progress = lambda n_bytes: None
) -> None:
    """Write part of a store as a new folder, which appears only when the export is complete.

    Args:
        store: an open store.
        out: the folder to make.
        form: of `FORMS`.
        chosen: returned by `select` for this store and form.
        progress: called with the bytes of tokens as they are written; their sum is `exported_bytes`.

    Raises:
        InputError: `out` exists, or a token does not fit the dtype.
    """
    with _whole_folder(out) as folder:
        FORMS[form].write(store, folder, chosen, progress)


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder. At the end it is renamed to `out`; after an error it is removed."""
    if os.path.lexists(out):
        raise InputError(f"{str(out)!r} exists, and an export replaces nothing; give another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    for other in out.parent.iterdir():
        writer = writer_of(other.name) if file_of(other.name) == out.name else None
        if writer is not None:  # without one, it is no folder of an export
            if not is_left_over(_newest(other), writer):
                raise InputError(
                    f"another export is writing {str(out)!r}, in {str(other)!r}; wait for it, or give another name"
                )
            shutil.rmtree(other, ignore_errors=True)  # a killed one left it
    folder = temporary_of(out, new_writer())
    folder.mkdir()
    try:
        yield folder
        sync_tree(folder)
        rename_durably(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _newest(folder: Path) -> Path:
    """Return what was written last in a folder. The folder itself keeps its time while files below it grow."""
    newest, when = folder, 0.0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a living export renames its files
            if (changed := path.lstat().st_mtime) > when:
                newest, when = path, changed
    return newest
