"""Data sources by name. A new one is a file here and a line in `DATASETS`."""

from collections.abc import Callable

from ...errors import unknown_name
from .contract import ImageList, ImageSource
from .image_folder import ImageFolder
from .npz import NpzImages, open_demo

__all__ = ["DATASETS", "ImageList", "ImageSource", "open_dataset"]

DATASETS: dict[str, Callable[[str], ImageSource]] = {
    "folder": ImageFolder,
    "npz": NpzImages,
    "demo": open_demo,
}


def open_dataset(spec: str) -> ImageSource:
    """Open "SOURCE:ARGUMENT"; a path alone means "folder:PATH".

    Raises:
        InputError: no such source.
        MissingError: nothing there.
    """
    source, colon, argument = spec.partition(":")
    if source in DATASETS and (colon or source == "demo"):
        return DATASETS[source](argument)
    if colon and "/" not in source:
        raise unknown_name("data source", source, DATASETS)
    return ImageFolder(spec)
