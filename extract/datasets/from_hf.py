"""`hf:ORG/NAME[?config=…&image=…&label=…]`: data sets of the package `datasets`, from the Hugging Face hub or a disk.

On a disk it reads a folder of class folders or Parquet files, one Parquet file, or a folder from `save_to_disk`. Images
are decoded as that package does: unlike other sources, it turns them upright by their EXIF orientation.
"""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from xxhash import xxh3_128

from ...errors import InputError, MissingError, unknown_name
from ...runtime.console import bars_of
from .classes import check_labelled
from .contract import ImageList
from .files import check_no_pointer, decode_image, file_size, read_image
from .hf_labels import TRAIN, LabelColumn, element_of, index_columns
from .options import absolute, join_options, split_options

OPTIONS = ("config", "image", "label")
ROWS = 1000
"""Rows read at a time to list a split. Only the lengths of images are read."""


class HfImages:
    """One data set of the `datasets` package. Ids are positions in a split."""

    upright = True

    def __init__(self, argument: str) -> None:
        """Load the data set, and find the columns of images and labels.

        Raises:
            InputError: the package or a column is missing, or several columns fit and the spec names none.
            MissingError: the data set cannot be loaded.
        """
        name, options = split_options("hf", argument, OPTIONS)
        is_local = os.path.exists(name)
        config = {key: options[key] for key in ("config",) if key in options}
        self.name = "hf:" + join_options(Path(name).name if is_local else name, config)
        self.spec = "hf:" + join_options(absolute(name) if is_local else name, options)
        package = _package()
        loaded = _load(package, name, options.get("config"))
        self.splits: Sequence[str] = sorted(loaded)
        features = loaded[TRAIN if TRAIN in loaded else self.splits[0]].features
        image = self._column(features, package.Image, "image", options)
        label = self._column(features, package.ClassLabel, "label", options)
        self._columns = [image, label]
        whole = {split: loaded[split] for split in self.splits if loaded[split].features.keys() >= {image, label}}
        self._images = {split: _as_images(package, rows, image, self.spec) for split, rows in whole.items()}
        columns = {split: LabelColumn(rows.features[label], _values(rows, label)) for split, rows in whole.items()}
        self._labels, self.classes = index_columns(columns, f"column {label!r} of {self.spec!r}")

    def images(self, split: str) -> ImageList:
        """List a split.

        Raises:
            InputError: the split lacks a column, or some of its images have no label.
        """
        if split not in self._labels:
            raise InputError(
                f"split {split!r} of {self.spec!r} lacks one of the columns {' and '.join(self._columns)}; "
                "name other splits with --split to leave it out"
            )
        labels = self._labels[split]
        check_labelled(labels, split, repr(self.spec))
        content = xxh3_128("".join(f"{size}\n" for size in _sizes(self._images[split])).encode())
        content.update(labels.tobytes())
        content.update("\n".join(self.classes).encode())
        return ImageList([f"{split}/{index:06d}" for index in range(len(labels))], labels, content.hexdigest())

    def load(self, split: str, index: int) -> Image.Image:
        """Decode one image, turned upright."""
        try:
            (image,) = self._images[split][index].values()
        except UnidentifiedImageError:
            (stored,) = self._images[split].with_format("arrow")[index].column(0).to_pylist()
            data = stored["bytes"]  # the calls below raise clearer errors
            image = read_image(stored["path"]) if data is None else decode_image(BytesIO(data))
        if not isinstance(image, Image.Image):
            raise ValueError(f"the row holds {image!r} instead of an image")
        return image

    def _column(self, features: Mapping[str, Any], kind: type[Any], what: str, options: Mapping[str, str]) -> str:
        """Return the column that an option names, or else the only column of a type."""
        if what in options:
            if options[what] not in features:
                raise unknown_name(f"column of {self.name}", options[what], features)
            return options[what]
        found = [name for name, feature in features.items() if isinstance(element_of(feature), kind)]
        if len(found) != 1:
            raise InputError(
                f"{self.spec!r} has {len(found)} columns of the type {kind.__name__} ({', '.join(found) or 'none'}); "
                f"add {what}=COLUMN, with one of {', '.join(features)}"
            )
        return found[0]


def without_download(argument: str) -> str:
    """Return the argument if its data lie on this machine, or if the package is offline and reads its cache alone.

    Raises:
        InputError: the data may be downloaded.
    """
    name, _ = split_options("hf", argument, OPTIONS)
    if not os.path.exists(name) and not _package().config.HF_HUB_OFFLINE:
        raise InputError(
            f"hf:{argument} would be downloaded from the Hugging Face hub; if you know these data and loaded them "
            "before, set HF_HUB_OFFLINE=1, and they are read from the cache"
        )
    return argument


def _values(rows: Any, column: str) -> list[Any]:
    values: list[Any] = rows.select_columns([column]).with_format("arrow")[:].column(0).to_pylist()
    return values


def _package() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError("hf: data needs the package datasets: pip install 'tokenprobe[hf]'") from error
    return datasets


def _load(package: Any, name: str, config: str | None) -> Mapping[str, Any]:
    """Return the rows of each split."""
    try:
        with bars_of(package):
            if any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json")):
                loaded = package.load_from_disk(name)
            elif os.path.isfile(name):
                loaded = package.load_dataset("parquet", data_files=name)
            else:
                loaded = package.load_dataset(name, config)
    except Exception as error:  # many kinds: no network, unknown name, gated data, damaged files
        for file in _data_files(name):
            check_no_pointer(file)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MissingError(
            f"cannot load hf:{name} ({reason}); check the name and ?config=, or give a local folder or Parquet file"
        ) from error
    of_splits = loaded if isinstance(loaded, dict) else {TRAIN: loaded}
    if not of_splits:
        raise MissingError(f"hf:{name} has no splits; check the name and ?config=")
    return {split: rows.with_format(None) for split, rows in of_splits.items()}  # saved data keeps its format


def _data_files(name: str) -> list[str]:
    """Return the data files at a local path, which may be a single file."""
    if os.path.isfile(name):
        return [name]
    return [str(file) for suffix in ("parquet", "arrow") for file in sorted(Path(name).rglob(f"*.{suffix}"))]


def _as_images(package: Any, rows: Any, column: str, spec: str) -> Any:
    """Return a split with only its image column, cast to the type `Image`."""
    images = rows.select_columns([column])
    feature = images.features[column]
    if isinstance(feature, package.Image) and feature.decode:
        return images
    try:
        return images.cast_column(column, package.Image())
    except Exception as error:  # pyarrow and datasets have their own for each type
        raise InputError(
            f"column {column!r} of {spec!r} is {feature}; expected images, their bytes or their paths"
        ) from error


def _sizes(images: Any) -> list[int]:
    """Return the size in bytes of each encoded image, -1 for a missing one, without reading pixels."""
    import pyarrow.compute

    sizes: list[int] = []
    for table in images.with_format("arrow").iter(batch_size=ROWS):
        lengths = pyarrow.compute.binary_length(pyarrow.compute.struct_field(table.column(0), "bytes")).to_pylist()
        paths = pyarrow.compute.struct_field(table.column(0), "path").to_pylist()
        sizes += [file_size(path or "") if n is None else n for n, path in zip(lengths, paths, strict=True)]
    return sizes
