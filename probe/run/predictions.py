"""The class that each cell gives each test image. A report pairs them by image, also between runs.

`predictions/` of a run holds one file per cell, and two files per store: its test images and its classes. They
are Parquet files with a digest, like the other tables of a run. An image takes about log2(classes) bits in the file
of a cell. Images with several labels have no predicted class, so such stores have no files here.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...store.durable import write_durably
from ..batches.data import Data
from .files import damaged

FOLDER, SUFFIX = "predictions", ".parquet"
IMAGES, CLASSES = f".images{SUFFIX}", f".classes{SUFFIX}"
"""What the two files of a store end in, behind its name in the run."""
NO_CLASS = -1
"""Predicted class of an image whose scores are not finite, or that has no vote."""


@dataclass(frozen=True)
class ImageSet:
    """The test images of a store.

    Attributes:
        ids: (n,) text, in the order of the store's rows.
        labels: (n,) int64.
        classes: names, by label.
    """

    ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    classes: list[str]


def write_images(run: Path, store: str, data: Data) -> None:
    """Write the test images and the classes of a store once, unless its images have several labels.

    Args:
        run: the folder.
        store: the store's name in the run.
        data: the splits of the fit.
    """
    if data.multi_label or (run / FOLDER / f"{store}{CLASSES}").exists():
        return
    import pandas as pd  # a first fit starts its steps without it

    from .tables import table_bytes

    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    images = pd.DataFrame({"id": [str(key) for key in data.test.ids], "label": data.test.labels.astype(np.int64)})
    classes = pd.DataFrame({"class": list(data.train.classes)})
    write_durably(folder / f"{store}{IMAGES}", table_bytes(images.astype({"id": "str"})))
    write_durably(folder / f"{store}{CLASSES}", table_bytes(classes.astype("str")))


def read_images(run: Path, store: str) -> ImageSet | None:
    """Return the test images of a store, or None if the run does not keep them.

    Raises:
        RunError: a file is damaged.
    """
    from .tables import read_table

    images = read_table(run / FOLDER / f"{store}{IMAGES}", {"id": "str", "label": "int64"})
    classes = read_table(run / FOLDER / f"{store}{CLASSES}", {"class": "str"})
    if images.empty or classes.empty:
        return None
    return ImageSet(images["id"].to_numpy(dtype=str), images["label"].to_numpy(), list(classes["class"]))


def write_predicted(run: Path, cell: str, predicted: NDArray[np.integer]) -> None:
    """Write the predicted class (n,) of each test image, in the order of the store's rows."""
    import pandas as pd

    from .tables import table_bytes

    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame({"predicted": predicted.astype(np.int64)})
    write_durably(folder / f"{cell}{SUFFIX}", table_bytes(table))


def read_predicted(run: Path, cell: str, images: ImageSet, top1: float) -> NDArray[np.int64] | None:
    """Return the predicted class (n,) of each test image, or None if the run does not keep them.

    Args:
        run: the folder.
        cell: name of the cell.
        images: the test images of its store.
        top1: its accuracy in the results, which the classes must give again.

    Raises:
        RunError: the file is damaged, or belongs to another cell or to other images.
    """
    from .tables import read_table

    path = run / FOLDER / f"{cell}{SUFFIX}"
    table = read_table(path, {"predicted": "int64"})
    if table.empty:
        return None
    predicted: NDArray[np.int64] = table["predicted"].to_numpy()
    if len(predicted) != len(images.labels) or abs(np.mean(predicted == images.labels) - top1) > 0.5 / len(predicted):
        raise damaged(path, "its classes do not give the accuracy in the results")
    return predicted
