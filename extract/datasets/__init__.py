"""Data sets: they list the images of each split with ids and labels, and decode one image at a time.

Each data source is a file here and a line in `DATASETS`; all provide the `ImageSource` of `contract.py`.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from textwrap import wrap
from typing import Any, NamedTuple

from ...errors import unknown_name
from . import from_hf, from_torchvision
from .contract import ImageList, ImageSource
from .from_hf import HfImages
from .from_torchvision import PUBLISHED, TorchvisionImages
from .image_folder import ImageFolder
from .manifest import open_csv, open_parquet
from .npz import NpzImages, open_demo
from .webdataset_tars import TarImages

__all__ = [
    "DATASETS",
    "ImageList",
    "ImageSource",
    "describe_datasets",
    "list_datasets",
    "open_dataset",
    "without_download",
]


class Source(NamedTuple):
    """A kind of data.

    Attributes:
        open: opens a source from the text after "NAME:" in a spec.
        form: form of that text.
        reads: description of the data, in lines.
        needs: package that tokenprobe does not install by itself; the extra with the source's name installs it.
    """

    open: Callable[[str], ImageSource]
    form: str
    reads: tuple[str, ...]
    needs: str | None = None


DATASETS: dict[str, Source] = {
    "folder": Source(
        ImageFolder,
        "PATH",
        ("class folders: PATH/SPLIT/CLASS/images, or PATH/CLASS/images as one split, train; a path alone works too",),
    ),
    "torchvision": Source(
        TorchvisionImages,
        "NAME[?root=FOLDER&download=true&splits=SPLIT,…]",
        ("published data sets as distributed, in FOLDER (default data):", *wrap(", ".join(PUBLISHED), 100)),
    ),
    "hf": Source(
        HfImages,
        "ORG/NAME[?config=NAME&image=COLUMN&label=COLUMN]",
        (
            "a data set of the Hugging Face hub, or a folder or Parquet file that the package datasets reads;",
            "a label column of lists means several classes per image",
        ),
        "datasets",
    ),
    "wds": Source(
        TarImages,
        "PATTERN[?val=PATTERN&test=PATTERN&label=SUFFIX&image=SUFFIX]",
        ("WebDataset tars, such as train-{00..15}.tar or train-*.tar: the split train, and the splits named",),
    ),
    "csv": Source(
        open_csv,
        "FILE[?root=FOLDER]",
        (
            "a table of image files with columns path, label and, for several splits, split; a column labels,",
            "such as cat|dog, means several classes per image; paths are relative to the table, or to FOLDER",
        ),
    ),
    "parquet": Source(
        open_parquet, "FILE[?root=FOLDER]", ("the same in Parquet; a column labels holds one list per image",)
    ),
    "npz": Source(
        NpzImages,
        "FILE",
        (
            "arrays x_SPLIT, uint8 (n, height, width[, 3]), and y_SPLIT, (n,) or (n, classes) of 0 and 1,",
            "and optionally classes, the names",
        ),
    ),
    "demo": Source(open_demo, "", ("the bundled part of Fashion-MNIST",)),
}

WITHOUT_DOWNLOAD: dict[str, Callable[[str], str]] = {
    "torchvision": from_torchvision.without_download,
    "hf": from_hf.without_download,
}
"""The sources that may download, with a function that returns an argument that does not, or raises InputError."""


def open_dataset(spec: str) -> ImageSource:
    """Open "SOURCE:ARGUMENT"; a path alone means "folder:PATH", and a leading "~" is the home folder.

    Raises:
        InputError: no such source.
        MissingError: the data is not there.
    """
    source, argument = _parts(spec)
    if source not in DATASETS:
        raise unknown_name("data source", source, DATASETS)
    return DATASETS[source].open(os.path.expanduser(argument))


def without_download(spec: str) -> str:
    """Return a spec of the same data that downloads nothing, for a spec that somebody else's store names.

    Raises:
        InputError: the data would come from the Hugging Face hub.
    """
    source, argument = _parts(spec)
    if source not in WITHOUT_DOWNLOAD:
        return spec
    return f"{source}:{WITHOUT_DOWNLOAD[source](os.path.expanduser(argument))}"


def describe_datasets() -> list[str]:
    """Return the lines of `probe datasets`: each source, the form of its spec, and a description of its data."""
    lines = []
    for name, source in DATASETS.items():
        lines.append(_form(name, source))
        lines += [f"    {line}" for line in source.reads]
        if not _is_installed(source):
            lines.append(f"    not installed: pip install 'tokenprobe[{name}]'")
    return lines


def list_datasets() -> list[dict[str, Any]]:
    """Return the same as values for JSON: one dict per source."""
    return [
        {
            "source": name,
            "form": _form(name, source),
            "reads": " ".join(source.reads),
            "installed": _is_installed(source),
        }
        for name, source in DATASETS.items()
    ]


def _form(name: str, source: Source) -> str:
    return f"{name}:{source.form}" if source.form else name


def _is_installed(source: Source) -> bool:
    return source.needs is None or find_spec(source.needs) is not None


def _parts(spec: str) -> tuple[str, str]:
    source, colon, argument = spec.partition(":")
    is_path = source != "demo" if not colon else source not in DATASETS and "/" in source
    return ("folder", spec) if is_path else (source, argument)
