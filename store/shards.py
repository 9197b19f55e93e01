"""Plain files for other programs: `.npy` or safetensors, one file per block of each array.

Both formats are a header with type and shape, then the rows. One writer makes both, a few rows at a time.

    SPLIT/layer_05/patch/view_0/00003.npy    rows of block 3; sorted by name, the files hold the rows in order
    SPLIT/labels.npy, SPLIT/ids.json         of all rows
    manifest.json                            type and shape of each array, and the manifest of the store
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .array_spec import ArraySpec
from .extents import as_bytes
from .layout import layer_index
from .quantize import TokenType, array_type, bfloat16_bits
from .reader import Split, Store
from .selection import Selection

PIECE_BYTES = 32 * 2**20
"""Bytes of rows in memory at a time."""

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Header = Callable[[str, TokenType, Shape], bytes]


def npy_header(name: str, type: TokenType, shape: Shape) -> bytes:
    """Return the bytes before the values in a .npy file, which does not hold `name`."""
    header = BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(type.stored), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def safetensors_header(name: str, type: TokenType, shape: Shape) -> bytes:
    """Return the bytes before the values in a safetensors file of one tensor.

    Eight bytes hold the length of the rest, which is JSON. Spaces fill it up, so that values begin at a multiple of
    eight: https://github.com/huggingface/safetensors#format.
    """
    n_bytes = int(np.prod(shape)) * type.stored.itemsize
    about = {name: {"dtype": SAFETENSORS_NAMES[type.name], "shape": shape, "data_offsets": [0, n_bytes]}}
    text = json.dumps(about, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


SAFETENSORS_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
HEADERS: dict[str, Header] = {"npy": npy_header, "safetensors": safetensors_header}


def write_shards(form: str, store: Store, folder: Path, chosen: Selection, progress: Callable[[int], None]) -> None:
    """Write arrays of a store to an empty folder.

    Args:
        form: of `HEADERS`.
        store: an open store.
        folder: the empty folder.
        chosen: the arrays to write.
        progress: called with the bytes of each piece written.

    Raises:
        InputError: a token does not fit the dtype; the message names layer and image.
    """
    specs = chosen.specs(store.manifest)
    for spec in specs:
        split = store[spec.name.split("/")[0]]
        for view, block in product(range(spec.n_views), range(spec.n_blocks)):
            path = folder / spec.name / f"view_{view}" / f"{block:05d}.{form}"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = spec.rows_of(block)
            with open(path, "wb") as file:
                file.write(HEADERS[form](path.parts[-3], spec.type, (len(rows), *spec.row)))
                for values in _pieces(split, spec, view, rows):
                    file.write(as_bytes(values))
                    progress(values.nbytes)
    for name in chosen.splits:
        np.save(folder / name / "labels.npy", store[name].labels)
        (folder / name / "ids.json").write_text(json.dumps(store[name].ids, indent=0))
    (folder / "manifest.json").write_text(json.dumps(_about(form, store, specs), indent=1))


def _pieces(split: Split, spec: ArraySpec, view: int, rows: range) -> Iterator[Array]:
    """Yield rows of an array in the type of `spec`, a few at a time."""
    step = max(1, PIECE_BYTES // spec.row_bytes)
    for start in range(0, len(rows), step):
        yield _values(split, spec, view, rows[start : start + step])


def _values(split: Split, spec: ArraySpec, view: int, rows: range) -> Array:
    _, layer, kind = spec.name.split("/")
    read = partial(split.tokens, layer_index(layer), rows, view=view, kind=kind)
    if spec.type == array_type(kind, split.store.manifest.recipe.dtype):
        return read(dtype=spec.type.stored)
    if spec.is_bfloat16:
        return bfloat16_bits(read(dtype=np.float32))
    with np.errstate(over="ignore"):
        values = read(dtype=spec.type.stored)
    lost = ~np.isfinite(values).reshape(len(rows), -1).all(1)
    if lost.any():
        raise InputError(
            f"a token of {layer}, image {split.ids[rows[lost.argmax()]]!r} of split {split.name!r}, does not fit "
            f"{spec.type.name}; export with --dtype float32"
        )
    return values


def _about(form: str, store: Store, specs: Sequence[ArraySpec]) -> dict[str, Any]:
    """Return the content of `manifest.json`."""
    arrays = {
        spec.name: {
            "dtype": spec.type.name,
            "shape": [spec.n_views, spec.n_images, *spec.row],
            "rows_per_file": spec.block_rows,
        }
        for spec in specs
    }
    return {"form": form, "arrays": arrays, "store": store.manifest.to_json()}
